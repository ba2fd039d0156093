"""The stores of artifacts, chosen by the scheme of a URL.

    in-place://MACHINE/ROOT/artifacts   manifests alone; the bytes are where each Work wrote them
    file:///DIRECTORY                   a directory, also one that machines share
    s3://BUCKET/PREFIX                  with the extra ``s3``
    any other PROTOCOL://…              of fsspec, with what it needs installed

Nobody writes the first one: it is what `in_place_url` returns, and percent-encoded. A record may hold it with
the path that the root had before it was moved; `own_root.py` decides which root it means. All others are
taken to the letter.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, unquote_to_bytes

from lit_storage_core.artifacts.former_root import former_root_of
from lit_storage_core.system.names import shown
from lit_storage_proto.errors import AccessDenied, InvalidURI
from lit_storage_proto.limits import Limits
from lit_storage_proto.uri import check_name

if TYPE_CHECKING:
    from lit_storage_core.artifacts.objects import Objects
    from lit_storage_core.artifacts.store import ArtifactStore

_IN_PLACE = "in-place://"
_FILE = "file://"

STORE_VARIABLE = "LIT_STORAGE_ARTIFACTS"

_PROVIDERS = ("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl")
_own_kinds: set[str] = set()  # of stores in which this process publishes

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")
_URL = re.compile(r"[a-z][a-z0-9+.-]*://[^\x00-\x1f\x7f\ud800-\udfff]+")


def in_place_url(root: str, machine_id: str) -> str:
    """Return the URL of the manifests of all Works below a root of a machine whose bytes stay in place."""
    return f"{_IN_PLACE}{quote(machine_id, safe='')}{quote(os.fsencode(root))}/artifacts"


def machine_of(url: str) -> str:
    """Return the id of the machine on which an in-place URL means something; "" of any other URL."""
    return unquote(url.removeprefix(_IN_PLACE).partition("/")[0]) if is_in_place(url) else ""


def is_in_place(url: str) -> bool:
    """Say whether the bytes are where each Work wrote them, so that only its machine can read them."""
    return url.startswith(_IN_PLACE)


def is_on_disk(url: str) -> bool:
    """Say whether the store is a directory, for which nothing needs to be installed."""
    return url.startswith((_IN_PLACE, _FILE))


def check_url(url: str) -> str:
    """Return the URL of a store in the form in which it is told to others.

    Raises:
        InvalidURI: it is none, holds a password, or names no absolute path.
    """
    scheme, _, rest = url.partition("://")
    on_disk = is_on_disk(url)
    if not _URL.fullmatch(url) or ("::" in url and not on_disk):
        # The rest is not shown, nor what is no scheme: it may hold a password.
        what = shown(scheme[:32]) if _SCHEME.fullmatch(scheme) else "what is given"
        raise InvalidURI(
            f"a store of artifacts needs a URL such as file:///DIRECTORY or s3://BUCKET/PREFIX, and {what} "
            "begins none"
        )
    if not on_disk and ("?" in rest or "@" in rest.partition("/")[0]):
        raise InvalidURI(
            f"the URL of a store is told to other processes, so it holds no user, password or options; give "
            f"{scheme}:// its credentials where it looks for them, for S3 in AWS_ACCESS_KEY_ID and the like"
        )
    path = rest if not is_in_place(url) else rest[rest.find("/") :]
    if on_disk and not (path.startswith("/") and path.strip("/")):
        raise InvalidURI(
            f"{shown(url)} names no directory; write {scheme}:// and then an absolute path below /"
        )
    return url.rstrip("/")


def check_store(url: str) -> None:
    """See that a store of this kind can be opened here; the store itself is not asked.

    Raises:
        InvalidURI: as of `open_store`.
    """
    if not is_on_disk(check_url(url)):
        _own_kinds.add(url.partition("://")[0])
        from lit_storage_core.artifacts.fsspec_objects import check_protocol

        check_protocol(url.partition("://")[0])


def check_told(url: str, name: str) -> str:
    """Return the URL of a store of which a registry tells, if it may be opened for that alone.

    Whoever can write into a registry can write any URL into it. Directories and the stores of the large
    providers are read with what this process is given for them, at places that it would ask anyway. Other
    kinds reach whatever host a URL names, or do more than read; they are opened where a user named one of
    that kind.

    Args:
        url: of the store.
        name: of the Work that is said to have left something there.

    Raises:
        InvalidURI: as of `check_url`.
        AccessDenied: it is of a kind that nobody here has named.
    """
    kind = check_url(url).partition("://")[0]
    own = os.environ.get(STORE_VARIABLE, "").partition("://")[0]
    if is_on_disk(url) or kind in _PROVIDERS or kind in (own, *_own_kinds):
        return url
    raise AccessDenied(
        f"what {name!r} left is in a store of the kind {kind[:32]!r}, which is not opened because a registry "
        f"says so: if it is one of yours, set {STORE_VARIABLE} to its URL here too"
    )


def open_store(
    url: str,
    name: str,
    *,
    limits: Limits,
    create: bool = False,
    deadline: float | None = None,
    own: bool = False,
    label: str = "",
) -> ArtifactStore:
    """Open what the Work `name` left, or is to leave, at `url`. Nothing is asked for yet.

    Args:
        url: of the store of all Works.
        name: of the Work.
        limits: how long one request may take, and how many are under way at once.
        create: whether a directory of a store on this machine is made where it is missing.
        deadline: when all requests must have ended, on the clock of time.monotonic().
        own: whether of what is in place only manifests count that this process's user wrote, for they say
            which files are read with its rights.
        label: what errors call a store on this machine, for who may not know where it lies; "" for its URL.

    Raises:
        InvalidURI: as of `check_url`, or what is needed for its scheme is not installed, or `name` is none.
    """
    from lit_storage_core.artifacts.store import ArtifactStore

    url = check_url(url)
    check_name(name)
    if create:
        _own_kinds.add(url.partition("://")[0])
    objects = _open_objects(url, name, limits, create, deadline, own, label)
    in_place = former_root = ""
    if is_in_place(url):
        root = os.path.dirname(directory_of(url))
        in_place = os.path.realpath(os.path.join(root, "works", name))
        former_root = os.path.realpath(former_root_of(root, name))
    return ArtifactStore(
        objects, url=label or url, name=name, limits=limits, in_place=in_place, former_root=former_root
    )


def _open_objects(
    url: str, name: str, limits: Limits, create: bool, deadline: float | None, own: bool, label: str
) -> Objects:
    if is_on_disk(url):
        from lit_storage_core.artifacts.local_objects import LocalObjects

        directory = f"{directory_of(url)}/{name}"
        return LocalObjects(directory, create=create, own=own and is_in_place(url), label=label)
    from lit_storage_core.artifacts.fsspec_objects import FsspecObjects

    return FsspecObjects(
        f"{url}/{name}",
        seconds=limits.store_seconds,
        requests=limits.store_requests,
        deadline=deadline,
    )


def directory_of(url: str) -> str:
    """Return the directory of a store that is on disk."""
    if not is_in_place(url):
        return url.removeprefix(_FILE)
    path = url.removeprefix(_IN_PLACE)
    return os.fsdecode(unquote_to_bytes(path[path.index("/") :]))
