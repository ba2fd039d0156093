"""What a get asks for files: a live Work, or what a stopped one left.

Invariant: whatever sends the frames, they keep the rules of StreamFiles, and the same checks hold.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Protocol, Self

from lit_storage_proto.entry import Entry
from lit_storage_proto.frames import Frame
from lit_storage_proto.limits import Limits
from lit_storage_proto.tree_options import TreeOptions
from lit_storage_proto.uri import Location


class Frames(Protocol):
    """The frames of one tree, in order; a context manager that ends them."""

    def __enter__(self) -> Self:
        """Return itself."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ask for no more."""
        ...

    def __iter__(self) -> Iterator[Frame]:
        """Return the frames."""
        ...

    def take_descriptor(self) -> int:
        """See `fetch.stream.Descriptors`."""
        ...

    def acknowledge(self, *, done: bool) -> None:
        """See `fetch.stream.Descriptors`."""
        ...


class Source(Protocol):
    """Who has files. Its methods raise as those of `lit_storage_client.origins.origins.Origins`."""

    limits: Limits

    @property
    def return_seconds(self) -> float:
        """For how long a name that was served may be free before its Work has registered anew."""
        ...

    def list(self, location: Location, *, recursive: bool = True) -> Iterator[Entry]:
        """Return the entries of a tree."""
        ...

    def stream(
        self, location: Location, options: TreeOptions | None = None, *, deadline: float | None = None
    ) -> Frames:
        """Return the frames of a tree."""
        ...

    def stream_part(self, location: Location, offset: int, length: int | None) -> Frames:
        """Return the frames of a part of one file."""
        ...
