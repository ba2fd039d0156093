"""What stays readable of a Work that has stopped: stores of artifacts, chosen by the scheme of a URL.

    in-place:///ROOT/artifacts       manifests alone; the bytes are where each Work wrote them
    file:///DIRECTORY                a directory, also one that machines share
    s3://BUCKET/PREFIX               with the extra ``s3``
    any other PROTOCOL://…           of fsspec, with what it needs installed

How a store is laid out is written in ``proto/…/v1/artifact.proto``. `store` has versions on top of
`objects`, of which there is an adapter for a disk and one for fsspec; `writer` writes a version,
`tree`, `pieces` and `stream` read one as a live Work would send it.
"""

from __future__ import annotations

import os
import re
from urllib.parse import quote, unquote_to_bytes

from lit_storage_client.artifacts.fsspec_objects import FsspecObjects, check_file_system
from lit_storage_client.artifacts.local_objects import LocalObjects
from lit_storage_client.artifacts.objects import Objects
from lit_storage_client.artifacts.store import ArtifactStore, Kept
from lit_storage_client.artifacts.writer import FormerRemovedError, Writer
from lit_storage_client.names import shown
from lit_storage_proto.errors import InvalidURI
from lit_storage_proto.limits import Limits

__all__ = [
    "ArtifactStore",
    "FormerRemovedError",
    "Kept",
    "Objects",
    "Writer",
    "check_store",
    "check_url",
    "in_place_url",
    "open_store",
]

IN_PLACE = "in-place://"
FILE = "file://"

_URL = re.compile(r"[a-z][a-z0-9+.-]*://[^\x00-\x1f\x7f\ud800-\udfff]+")


def in_place_url(root: str) -> str:
    """Return the URL of the manifests of all Works below a root whose bytes stay in place."""
    return f"{IN_PLACE}{quote(os.fsencode(root))}/artifacts"


def check_url(url: str) -> str:
    """Return the URL of a store in the form in which it is told to others.

    Raises:
        InvalidURI: it is none, holds a password, or names a relative path.
    """
    scheme, _, rest = url.partition("://")
    is_local = scheme in ("file", "in-place")
    if not _URL.fullmatch(url) or ("::" in url and not is_local):
        # The rest is not shown: it may hold a password.
        raise InvalidURI(
            f"a store of artifacts needs a URL such as file:///DIRECTORY or s3://BUCKET/PREFIX, and "
            f"{shown(scheme[:32])} begins none"
        )
    if not is_local and ("?" in rest or "@" in rest.partition("/")[0]):
        raise InvalidURI(
            f"the URL of a store is told to other processes, so it holds no user, password or options; give "
            f"{scheme}:// its credentials where it looks for them, for S3 in AWS_ACCESS_KEY_ID and the like"
        )
    if is_local and not rest.startswith("/"):
        raise InvalidURI(f"{shown(url)} is relative; write {scheme}:// and then an absolute path")
    return url.rstrip("/")


def check_store(url: str) -> None:
    """See that a store of this kind can be opened here; the store itself is not asked.

    Raises:
        InvalidURI: as of `open_store`.
    """
    if not url.startswith((IN_PLACE, FILE)):
        check_file_system(url.partition("://")[0])


def open_store(url: str, name: str, *, limits: Limits, create: bool = False) -> ArtifactStore:
    """Open what the Work `name` left, or is to leave, at `url`. Nothing is asked for yet.

    Args:
        url: of the store of all Works.
        name: of the Work.
        limits: deadlines, and how much is under way at once.
        create: whether a directory of a store on this machine is made where it is missing.

    Raises:
        InvalidURI: as of `check_url`, or what is needed for its scheme is not installed.
    """
    url = check_url(url)
    in_place = url.startswith(IN_PLACE)
    objects: Objects
    if in_place:
        directory = os.fsdecode(unquote_to_bytes(url.removeprefix(IN_PLACE)))
        objects = LocalObjects(f"{directory}/{name}", create=True)
    elif url.startswith(FILE):
        objects = LocalObjects(f"{url.removeprefix(FILE)}/{name}", create=create)
    else:
        objects = FsspecObjects(f"{url}/{name}", seconds=limits.store_seconds, requests=limits.store_requests)
    return ArtifactStore(objects, url=url, name=name, limits=limits, in_place=in_place)
