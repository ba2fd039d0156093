"""The messages of one StreamFiles call as values; `frame_codec` takes them to the wire and back.

What each may hold, and when, is written in ``v1/path_storage.proto``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from lit_storage_proto.entry import Entry

_ITEM_BYTES = 32  # what is told of a run of bytes, or of a small file beside its name, takes 8 to 28


@dataclass(frozen=True, slots=True)
class Chunk:
    """A run of bytes of one file: in `data`, or zeros, or to be copied from a descriptor.

    `data` may be a view into a buffer that is overwritten when the next frame is asked for.
    """

    entry: int
    """The number of the file's entry, counted from 0 within the call."""
    offset: int
    digest: bytes = b""
    """XXH3-128 of `data`, 16 bytes."""
    data: bytes | memoryview = b""
    hole: int = 0
    """So many zero bytes, which take no room; then there is no `data`."""
    descriptor_bytes: int = 0
    """So many bytes of the file whose descriptor came with the message; then there is no `data`."""

    @property
    def size(self) -> int:
        """Bytes of the file that it stands for."""
        return len(self.data) or self.hole or self.descriptor_bytes


@dataclass(frozen=True, slots=True)
class Pack:
    """Small files of one directory, each whole. `data` is as in `Chunk`."""

    directory: int
    """The number of the directory's entry."""
    names: bytes
    """Joined by "/"."""
    sizes: Sequence[int]
    modes: Sequence[int]
    mtimes_ns: Sequence[int]
    digest: bytes
    """XXH3-128 of `data`, 16 bytes."""
    data: bytes | memoryview
    hard_linked: int = 0
    """How many of the files have other names at the origin too."""


@dataclass(frozen=True, slots=True)
class Direct:
    """Where the rest of a stream may be taken up without gRPC."""

    unix_name: str = ""
    """In the abstract namespace, without the leading NUL; "" means none."""
    tcp_port: int = 0
    """0 means none."""
    ticket: bytes = field(default=b"", repr=False)
    stripes: int = 0
    """How many connections of TCP may be made; 0 means one."""


@dataclass(frozen=True, slots=True)
class Summary:
    """How much was sent in one call."""

    entries: int = 0
    chunks: int = 0
    bytes: int = 0
    skipped: int = 0
    packs: int = 0
    packed_files: int = 0
    unsettled: tuple[str, ...] = ()
    """The first of the paths that were still changing when they were sent."""
    unsettled_count: int = 0


@dataclass(frozen=True, slots=True)
class Frame:
    """One message of StreamFiles."""

    origin: tuple[str, str] | None = None
    """Name and instance id of who sends; in the first frame of a call."""
    entries: Sequence[Entry] = ()
    chunks: Sequence[Chunk] = ()
    summary: Summary | None = None
    """In the last frame of a call."""
    packs: Sequence[Pack] = ()
    direct: Direct | None = None
    """In the first frame of a call that asked for it."""
    moved: bool = False
    """Whether all further frames come on the direct way."""
    round: int = 0
    """From 1 on, what is in this frame replaces what was sent before under the same path."""
    follows_links: bool = False
    """In the first frame of a call that left it to the origin: whether links come as what they mean."""

    @property
    def weight(self) -> int:
        """How many bytes it brings, on the wire or somewhat more; 0 if nothing in it is new.

        A hole weighs as little as it takes to tell of it: else a peer could draw one out for years.
        """
        weight = self.content_bytes + (_ITEM_BYTES if self.summary else 0)
        for entry in self.entries:
            weight += _ITEM_BYTES + len(entry.path) + len(entry.link_target)
        for pack in self.packs:
            weight += _ITEM_BYTES * len(pack.sizes) + len(pack.names)
        return weight + _ITEM_BYTES * len(self.chunks)

    @property
    def content_bytes(self) -> int:
        """How many bytes of files it brings, without holes."""
        size = 0
        for chunk in self.chunks:
            size += len(chunk.data) + chunk.descriptor_bytes
        for pack in self.packs:
            size += len(pack.data)
        return size
