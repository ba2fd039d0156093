"""The Paths of other Works that a Work was given: fetched before its ``run``.

Before a Work runs, every Path of another Work that it was given is here. Absent at its origin,
the Work starts without it; where that cannot be known, the Work does not start.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from lit_storage.paths.path import Path
from lit_storage_proto.errors import AccessDenied, PathNotFound

if TYPE_CHECKING:
    from lit_storage.apps.arrivals import Arrivals


def fetch_all(paths: Iterable[Path], *, workers: int, arrivals: Arrivals | None = None) -> None:
    """Get the outermost of `paths` together, replacing what is there; pass over what is absent.

    Nothing is synced to disk: after a power cut the next `run` fetches anew.

    Args:
        paths: Paths of other Works.
        workers: how many transfers run at once.
        arrivals: is notified of each path that was copied or is absent.

    Raises:
        StorageError: the first that failed for another reason than being absent.
    """
    outermost = _outermost(paths)
    if len(outermost) == 1:
        _fetch_if_there(outermost[0], arrivals)
        return
    if outermost:
        pool = ThreadPoolExecutor(workers, thread_name_prefix="lit-fetch")
        try:
            for outcome in [pool.submit(_fetch_if_there, path, arrivals) for path in outermost]:
                outcome.result()
        finally:  # after an error the others are not waited for: the Work leaves, which ends them
            pool.shutdown(wait=False, cancel_futures=True)


def _fetch_if_there(path: Path, arrivals: Arrivals | None) -> None:
    try:
        transfer = path.get(overwrite=True, durable=False)
    except (PathNotFound, AccessDenied) as error:
        if isinstance(error, AccessDenied) and path.exists_remote():
            raise
        # run() starts without a path that its origin does not have, or does not share.
        if arrivals is not None:
            arrivals.absent(path)
    else:
        if arrivals is not None:
            arrivals.copied(path, transfer)


def _outermost(paths: Iterable[Path]) -> list[Path]:
    """Return each distinct path that lies in no other: a tree brings what is in it."""
    distinct = sorted({os.path.normpath(path): path for path in paths}.items())
    kept: list[tuple[str, Path]] = []
    for value, path in distinct:
        if not any(value.startswith(other + "/") for other, _ in kept):
            kept.append((value, path))
    return [path for _, path in kept]
