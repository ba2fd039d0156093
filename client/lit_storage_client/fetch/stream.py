"""Turns the frames of one call into a staged tree.

Invariant: the order is plan, verify, write. No name is made that the plan did not allow, and no
byte is written whose digest was not checked. `receive` returns only when the tree is whole by its
summary; whatever it raises, the tree is of no use but for the spans that the journal says are
there.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from lit_storage_client.fetch.plan import Plan, Skipped, Step
from lit_storage_client.fetch.tree import TreeWriter
from lit_storage_client.fetch.verify import Expected, Verifier
from lit_storage_core.system.copy_span import is_readable
from lit_storage_core.system.names import check_path
from lit_storage_core.system.spans import Span
from lit_storage_proto.entry import Entry, Kind
from lit_storage_proto.errors import AccessDenied, ProtocolViolation
from lit_storage_proto.frames import Chunk, Frame, Pack, Summary

Progress = Callable[[int, int | None], object]
"""Called with the bytes that are done, and with those in all where that is known."""

STREAM = "stream"
MAX_UNSETTLED_NAMES = 100


@dataclass(frozen=True, slots=True)
class Received:
    """A whole staged tree."""

    root: Entry
    files: int
    bytes: int
    skipped: Skipped
    hard_linked: int = 0
    """Files that have other names at their origin too."""
    unsettled: tuple[str, ...] = ()
    """The first of the paths that were still changing when they were sent."""
    unsettled_count: int = 0
    how: str = STREAM
    """How the largest part of it came: STREAM, or COPY or REFLINK."""


class Descriptors(Protocol):
    """Where the descriptors come from that stand for bytes; a stream over gRPC has none."""

    def take_descriptor(self) -> int:
        """Return the descriptor that came with the last frame; it belongs to the caller.

        Raises:
            ProtocolViolation: none came.
        """
        ...

    def acknowledge(self, *, done: bool) -> None:
        """Tell the origin that its descriptor is being read, or has been."""
        ...


class Journal(Protocol):
    """Remembers what was written of large files, and hands over what an earlier attempt wrote."""

    def take_held(self, entry: Entry) -> tuple[int, str, list[Span]] | None:
        """Return directory, name and spans of a file that holds verified bytes of this very version."""
        ...

    def begin(self, entry: Entry, held: list[Span]) -> int | None:
        """Note a file whose parts are to come; return its number, None if it is not worth it."""
        ...

    def wrote(self, number: int, chunk: Chunk) -> None:
        """Note that a part of it was verified and written."""
        ...


def receive(
    frames: Iterable[Frame],
    staging_fd: int,
    name: str,
    *,
    label: str,
    progress: Progress | None = None,
    descriptors: Descriptors | None = None,
    journal: Journal | None = None,
) -> Received:
    """Write the tree that `frames` bring as `name` in the directory `staging_fd`.

    A root directory keeps the owner's permissions, so that it can be renamed: its mode is for
    whoever renames it to set.

    Args:
        frames: those of one StreamFiles call; all that iterating raises is passed on.
        staging_fd: a directory of one's own.
        name: what the tree is called in it; nothing of that name is there yet.
        label: what the tree is called in errors.
        progress: called after each frame, and while what a descriptor stands for is copied.
        descriptors: where to copy from what does not come as bytes.
        journal: what is kept for another attempt.

    Raises:
        ProtocolViolation: a name, an order or a number is none that a peer may send.
        IntegrityError: bytes were damaged, or are missing.
        OSError: the disk is full, and the like.
    """
    receiver = _Receiver(TreeWriter(staging_fd, name, label), descriptors, journal, progress)
    try:
        for frame in frames:
            receiver.take(frame)
            receiver.tell()
        return receiver.finish()
    finally:
        receiver.close()


class _Receiver:
    """One tree under way."""

    def __init__(
        self,
        tree: TreeWriter,
        descriptors: Descriptors | None,
        journal: Journal | None,
        progress: Progress | None,
    ) -> None:
        self._tree = tree
        self._progress = progress
        self._descriptors = descriptors
        self._journal = journal
        self._plan = Plan()
        self._verifier = Verifier()
        self._root: Entry | None = None
        self._summary: Summary | None = None
        self._hard_linked = self._held_bytes = 0
        self._by_way: dict[str, int] = {STREAM: 0}

    def close(self) -> None:
        self._tree.close()

    @property
    def bytes(self) -> int:
        """Bytes that are there: what came, and what was held."""
        return self._verifier.bytes + self._held_bytes

    def tell(self, lacking: int = 0) -> None:
        """Tell how far it is; `lacking` bytes were counted, and are still to come."""
        if self._progress is not None:
            self._progress(self.bytes - lacking, None)

    def take(self, frame: Frame) -> None:
        if self._summary is not None:
            raise ProtocolViolation("the peer went on after its summary, which must come last")
        if frame.round:
            self._plan.begin_round(frame.round)
        for entry in frame.entries:
            self._announce(entry)
        for chunk in frame.chunks:
            self._accept(chunk)
        for pack in frame.packs:
            self._unpack(pack)
            self.tell()
        self._summary = frame.summary

    def finish(self) -> Received:
        summary = self._summary
        self._verifier.finish(summary)
        for link in self._plan.links():
            self._tree.make_link(link)
        self._tree.finish_directories()
        assert self._root is not None  # a tree without entries is not whole
        assert summary is not None
        _check_unsettled(summary)
        return Received(
            self._root,
            self._tree.files,
            self._tree.bytes,
            self._plan.skipped,
            self._hard_linked,
            summary.unsettled,
            summary.unsettled_count,
            max(self._by_way, key=lambda way: self._by_way[way]),
        )

    def _announce(self, entry: Entry) -> None:
        step = self._plan.add(entry)
        if not entry.path and entry.kind is Kind.SKIPPED:
            raise AccessDenied("what was asked for is no file, directory or link, so it cannot be copied")
        path, in_round = entry.path, self._plan.in_round
        if self._root is None or not path:
            self._root = entry
        self._hard_linked += entry.hard_linked
        if in_round:
            gone = self._plan.take_gone()
            if step is not Step.TOUCH:
                self._verifier.replace(gone)
                self._tree.remove(path, gone)
        held = None
        if step is Step.MAKE and entry.kind is Kind.FILE and self._journal is not None and not in_round:
            held = self._journal.take_held(entry)
        expected = self._verifier.announce(entry, held[2] if held else ())
        if step is Step.TOUCH:
            self._tree.touch_directory(entry)
        elif step is not Step.MAKE:
            return
        elif entry.kind is Kind.DIRECTORY:
            self._tree.make_directory(entry)
        elif expected is None:
            self._tree.write_whole(entry, b"")
        else:
            self._begin(entry, expected, held)

    def _begin(self, entry: Entry, expected: Expected, held: tuple[int, str, list[Span]] | None) -> None:
        spans: list[Span] = []
        if held is not None:
            directory_fd, name, spans = held
            self._tree.take_over(entry, directory_fd, name, whole=expected.whole)
            self._held_bytes += sum(end - start for start, end in spans)
        if self._journal is not None and not expected.whole:
            expected.journaled = self._journal.begin(entry, spans)

    def _accept(self, chunk: Chunk) -> None:
        expected = self._verifier.accept(chunk)
        entry, data = expected.entry, chunk.data
        new, expected.begun = not expected.begun, True
        if chunk.descriptor_bytes:
            self._copy(chunk, expected, new)
            return
        if len(data) == entry.size:
            self._tree.write_whole(entry, data)
        else:
            self._tree.write(entry, chunk.offset, data, new=new, last=expected.whole)
        self._by_way[STREAM] += chunk.size
        if expected.journaled is not None and self._journal is not None:
            self._journal.wrote(expected.journaled, chunk)

    def _copy(self, chunk: Chunk, expected: Expected, new: bool) -> None:
        if self._descriptors is None:
            raise ProtocolViolation("the peer sent a descriptor on a way that carries none")
        descriptors = self._descriptors
        entry, end = expected.entry, chunk.offset + chunk.descriptor_bytes
        fd = descriptors.take_descriptor()

        def tick(position: int) -> None:
            descriptors.acknowledge(done=False)
            self.tell(end - position)

        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode) or not is_readable(fd):
                raise ProtocolViolation(
                    "the peer sent the descriptor of what is no regular file, open for reading"
                )
            copied = self._tree.copy(
                entry,
                fd,
                (chunk.offset, end),
                new=new,
                last=expected.whole,
                tick=tick,
            )
        finally:
            os.close(fd)
        if copied.end < end:  # the file got shorter: its origin sees that too, and sends it anew
            self._verifier.lack(chunk, expected)
        self._by_way[copied.how] = self._by_way.get(copied.how, 0) + chunk.descriptor_bytes
        descriptors.acknowledge(done=True)

    def _unpack(self, pack: Pack) -> None:
        directory, names = self._plan.names_of(pack)
        self._verifier.accept_pack(pack)
        if self._plan.in_round:
            for name in map(os.fsdecode, names):
                path = f"{directory}/{name}" if directory else name
                self._plan.replace(path)
                gone = self._plan.take_gone()
                self._verifier.replace(gone)
                self._tree.remove(path, gone)
        self._hard_linked += pack.hard_linked
        self._tree.write_pack(directory, names, pack)
        self._by_way[STREAM] += len(pack.data)


def _check_unsettled(summary: Summary) -> None:
    """Check the names of what was still changing, which the caller may use as paths."""
    names = summary.unsettled
    if len(names) > min(summary.unsettled_count, MAX_UNSETTLED_NAMES):
        raise ProtocolViolation(f"the peer names {len(names)} files that were changing, which are too many")
    for name in names:
        check_path(name)
