"""Turns the frames of one call into a staged tree.

Invariant: the order is plan, verify, write. No name is made that the plan did not allow, and no
byte is written whose digest was not checked. `receive` returns only when the tree is whole by its
summary; whatever it raises, the tree is of no use and its staging is thrown away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from lit_storage_client.fetch.plan import Plan, Skipped
from lit_storage_client.fetch.tree import TreeWriter
from lit_storage_client.fetch.verify import Verifier
from lit_storage_proto.entry import Entry, Kind
from lit_storage_proto.errors import ProtocolViolation
from lit_storage_proto.frames import Chunk, Frame, Summary

Progress = Callable[[int, int | None], object]
"""Called with the bytes that are done, and with those in all where that is known."""


@dataclass(frozen=True, slots=True)
class Received:
    """A whole staged tree."""

    root: Entry
    files: int
    bytes: int
    skipped: Skipped


def receive(
    frames: Iterable[Frame], staging_fd: int, name: str, *, label: str, progress: Progress | None = None
) -> Received:
    """Write the tree that `frames` bring as `name` in the directory `staging_fd`.

    A root directory keeps the owner's permissions, so that it can be renamed: its mode is for
    whoever renames it to set.

    Args:
        frames: those of one StreamFiles call; all that iterating raises is passed on.
        staging_fd: a directory of one's own.
        name: what the tree is called in it; nothing of that name is there yet.
        label: what the tree is called in errors.
        progress: called after each frame.

    Raises:
        ProtocolViolation: a name, an order or a number is none that a peer may send.
        IntegrityError: bytes were damaged, or are missing.
        OSError: the disk is full, and the like.
    """
    receiver = _Receiver(TreeWriter(staging_fd, name, label))
    try:
        for frame in frames:
            receiver.take(frame)
            if progress is not None:
                progress(receiver.bytes, None)
        return receiver.finish()
    finally:
        receiver.close()


class _Receiver:
    """One tree under way."""

    def __init__(self, tree: TreeWriter) -> None:
        self._tree = tree
        self._plan = Plan()
        self._verifier = Verifier()
        self._root: Entry | None = None
        self._summary: Summary | None = None

    def close(self) -> None:
        self._tree.close()

    @property
    def bytes(self) -> int:
        return self._verifier.bytes

    def take(self, frame: Frame) -> None:
        if self._summary is not None:
            raise ProtocolViolation("the peer went on after its summary, which must come last")
        for entry in frame.entries:
            self._announce(entry)
        for chunk in frame.chunks:
            self._accept(chunk)
        self._summary = frame.summary

    def finish(self) -> Received:
        self._verifier.finish(self._summary)
        for link in self._plan.links():
            self._tree.make_link(link)
        self._tree.finish_directories()
        assert self._root is not None  # a tree without entries is not whole
        return Received(self._root, self._verifier.files, self._verifier.bytes, self._plan.skipped)

    def _announce(self, entry: Entry) -> None:
        make = self._plan.add(entry)
        self._verifier.announce(entry)
        if self._root is None:
            self._root = entry
        if not make:
            return
        if entry.kind is Kind.DIRECTORY:
            self._tree.make_directory(entry)
        elif not entry.size:
            self._tree.write_whole(entry, b"")

    def _accept(self, chunk: Chunk) -> None:
        expected = self._verifier.accept(chunk)
        entry = expected.entry
        if len(chunk.data) == entry.size:
            self._tree.write_whole(entry, chunk.data)
        else:
            self._tree.write(entry, chunk.offset, chunk.data, last=expected.whole)
