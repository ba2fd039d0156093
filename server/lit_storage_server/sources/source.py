"""Where a server takes what it answers from: the Source port, and the one that reads what is shared.

Invariant: whatever a path of a request means is decided by one Source, which opens nothing but what it
confines: `SharedSource` by `Shares`, any other by its own rule.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Protocol

from lit_storage_proto.entry import Entry
from lit_storage_proto.errors import AccessDenied, PathNotFound
from lit_storage_proto.frames import Frame
from lit_storage_server.sources.range_stream import ByteRange, RangeStream
from lit_storage_server.sources.shares import Shares
from lit_storage_server.sources.tree_stream import TreeOptions, TreeStream
from lit_storage_server.sources.walk import entry_of, walk


class Tree(Protocol):
    """The frames of one tree, and the descriptors that go with them."""

    descriptor: int
    """That of the file for which a chunk of the frame just yielded has `descriptor_bytes`."""
    follows_links: bool
    """Whether links are sent as what they mean."""

    def frames(self) -> Generator[Frame, None, None]:
        """Yield all frames; the data of one stay as they are until the next is asked for."""
        ...

    def pass_descriptors(self) -> None:
        """Allow that large files are passed as descriptors from now on."""
        ...


class Source(Protocol):
    """Who has what is asked for. What is raised is told to whoever asked, by `refusal.refusing`."""

    def exists(self, path: str) -> bool:
        """Say whether a path is there for others; what is not shared is not there."""
        ...

    def stat(self, path: str) -> Entry:
        """Describe one path; a link at the path itself is followed."""
        ...

    def entries(self, path: str, *, recursive: bool) -> Generator[Entry, None, None]:
        """Yield a path and, of a directory, what it holds; a directory before that."""
        ...

    def ranges(self, path: str, ranges: Sequence[ByteRange]) -> Generator[Frame, None, None]:
        """Yield the frames of ranges of files below a path."""
        ...

    def tree(self, path: str, options: TreeOptions) -> Tree:
        """Return the frames of a tree; nothing is opened yet."""
        ...


class SharedSource:
    """Reads what a process shares.

    Args:
        shares: what may be read.
        chunk_bytes: largest run of bytes of one file in one frame.
    """

    def __init__(self, shares: Shares, chunk_bytes: int) -> None:
        self._shares = shares
        self._chunk_bytes = chunk_bytes

    def exists(self, path: str) -> bool:
        """See `Source.exists`."""
        try:
            self._shares.open(path).close()
        except (PathNotFound, AccessDenied):
            return False
        return True

    def stat(self, path: str) -> Entry:
        """See `Source.stat`."""
        with self._shares.open(path) as opened:
            return entry_of("", opened.status)

    def entries(self, path: str, *, recursive: bool) -> Generator[Entry, None, None]:
        """See `Source.entries`."""
        with self._shares.open(path) as opened:
            for found in walk(opened, recursive=recursive):
                assert found.entry is not None  # files are described too
                yield found.entry

    def ranges(self, path: str, ranges: Sequence[ByteRange]) -> Generator[Frame, None, None]:
        """See `Source.ranges`."""
        return RangeStream(self._shares, path, ranges, self._chunk_bytes).frames()

    def tree(self, path: str, options: TreeOptions) -> Tree:
        """See `Source.tree`."""
        return TreeStream(self._shares, path, options, self._chunk_bytes)
