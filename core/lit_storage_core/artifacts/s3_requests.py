"""Requests to S3 that hold no more than was asked for, and end when nobody waits for them any more.

s3fs reads a body to its end and a listing to its last page, however long a server makes them, and goes on
when whoever asked has given up. Here a body is read up to one byte behind what was asked for, a listing up
to a number of keys, and what is given up is cancelled.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

from lit_storage_proto.errors import IntegrityError, OriginUnavailable
from lit_storage_proto.limits import MIB

T = TypeVar("T")

MOST_LISTED: Final = 1_000_000
"""Objects of one Work, of some MiB each, or manifests."""
_AT_ONCE_BYTES = 1 * MIB


def complete(files: Any, request: Coroutine[Any, Any, T], seconds: float) -> T:
    """Return what a request returns, from a thread beside s3fs' own.

    Raises:
        concurrent.futures.TimeoutError: it did not end within `seconds`, and is cancelled.
    """
    future: concurrent.futures.Future[T] = asyncio.run_coroutine_threadsafe(request, files.loop)
    try:
        return future.result(seconds)
    finally:
        future.cancel()


async def read_part(files: Any, path: str, start: int, size: int) -> bytes:
    """Return bytes of an object; fewer where it is shorter.

    Raises:
        IntegrityError: the server sends more than was asked for.
    """
    bucket, key, _ = files.split_path(path)
    wanted = f"bytes={start}-{start + size - 1}"
    answer = await files._call_s3("get_object", Bucket=bucket, Key=key, Range=wanted)
    data = bytearray()
    try:
        while len(data) <= size and (run := await answer["Body"].read(_AT_ONCE_BYTES)):
            data += run
    finally:
        answer["Body"].close()
    if len(data) > size:
        raise IntegrityError(f"the store sends more than the {size} bytes that were asked for")
    return bytes(data)


async def list_below(files: Any, path: str) -> dict[str, dict[str, Any]]:
    """Return what is known of all objects below a path, by their paths.

    Raises:
        OriginUnavailable: the server answers without a list, which is no empty one, or lists more than any
            Work leaves.
    """
    bucket, key, _ = files.split_path(path)
    found: dict[str, dict[str, Any]] = {}
    seen = 0
    follows: dict[str, str] = {}
    while True:
        page = await files._call_s3("list_objects_v2", Bucket=bucket, Prefix=f"{key}/", **follows)
        if "IsTruncated" not in page:
            raise OriginUnavailable("the store answers with what is no list of its objects")
        for info in page.get("Contents", ()):
            found[f"{bucket}/{info['Key']}"] = {
                "size": info["Size"],
                "LastModified": info.get("LastModified"),
            }
            seen += 1
        if seen > MOST_LISTED:
            raise OriginUnavailable(f"the store lists more than {MOST_LISTED} objects of one Work")
        if not page["IsTruncated"]:
            return found
        follows = {"ContinuationToken": page.get("NextContinuationToken", "")}
