"""What ``lit://@rank-1/…`` means to a process that torchrun started within a Work.

A launcher calls its processes ``rank-0``, ``rank-1`` and so on. Within the Work "fit" they join as
"fit.rank-0" and "fit.rank-1", so that two Works may each start a launcher. The program still names the
others as the launcher does, so a name is looked up behind that of the Work first, then as it is written.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from lit_storage.sessions.known_names import is_known
from lit_storage_client.origins.origins import Origins
from lit_storage_proto.entry import Entry
from lit_storage_proto.errors import StorageError
from lit_storage_proto.limits import MAX_NAME_CHARACTERS
from lit_storage_proto.tree_options import TreeOptions
from lit_storage_proto.uri import Location

if TYPE_CHECKING:
    from lit_storage_client.peers.tree_call import TreeCall
    from lit_storage_core.artifacts.store import ArtifactStore
    from lit_storage_core.artifacts.stream import ArtifactStream


class SiblingOrigins(Origins):
    """The Works that one session can ask, siblings by their short names too. It raises what `Origins` raises.

    Args:
        work: within which a launcher started this process; None: every name is as it is written.
        arguments: of `Origins`.
    """

    def __init__(self, work: str | None, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._work = work

    def exists(self, location: Location) -> bool:
        """See `Origins.exists`."""
        return super().exists(self._meant(location))

    def stat(self, location: Location) -> Entry:
        """See `Origins.stat`."""
        return super().stat(self._meant(location))

    def list(self, location: Location, *, recursive: bool = True) -> Iterator[Entry]:
        """See `Origins.list`."""
        return super().list(self._meant(location), recursive=recursive)

    def stream(
        self, location: Location, options: TreeOptions | None = None, *, deadline: float | None = None
    ) -> TreeCall | ArtifactStream:
        """See `Origins.stream`."""
        return super().stream(self._meant(location), options, deadline=deadline)

    def stream_part(self, location: Location, offset: int, length: int | None) -> TreeCall | ArtifactStream:
        """See `Origins.stream_part`."""
        return super().stream_part(self._meant(location), offset, length)

    def store(self, name: str) -> ArtifactStore | None:
        """See `Origins.store`."""
        return super().store(self._meant(Location(name, "")).origin or name)

    def asked(self, location: Location) -> tuple[Location, str]:
        """Return what is asked for in place of `location`, for an error about it, which names all of that.

        Returns:
            The location with the name under which its origin joined, and a clause that names the sibling
            that is not known; "" where one is, none was looked for, or the name is written in full.
        """
        sibling = self._sibling_name(location)
        try:
            meant = self._meant(location)
        except StorageError:  # the error is about something else
            return location, ""
        if not sibling or meant.origin == sibling or sibling.startswith(f"{self._work}.{self._work}."):
            return meant, ""
        return meant, f"{sibling!r}, which was looked for first, is not known"

    def _meant(self, location: Location) -> Location:
        """Return `location` with the name under which its origin joined.

        Raises:
            RegistryUnavailable: the registry does not answer.
        """
        sibling = self._sibling_name(location)
        if not sibling or not is_known(self._registry, sibling):
            return location
        return dataclasses.replace(location, origin=sibling)

    def _sibling_name(self, location: Location) -> str:
        """Return the name that a sibling has joined under, if `location` is one of a sibling; "" for none."""
        if self._work is None or location.origin is None:
            return ""
        name = f"{self._work}.{location.origin}"
        return name if len(name) <= MAX_NAME_CHARACTERS else ""
