"""Paths among the arguments and the state of a Work: found, marked with their consumer, fetched.

Before a Work runs, every Path of another Work that it was given is here. Absent at its origin,
the Work starts without it; where that cannot be known, the Work does not start.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from lit_storage.path import Path
from lit_storage_proto.errors import PathNotFound


def replace_paths(value: Any, change: Callable[[Path], Path]) -> Any:
    """Return `value` with each Path in it, also nested in list, tuple and dict, passed through `change`.

    Containers are copied only where a Path in them has changed, so that others keep their identity.
    """
    if isinstance(value, Path):
        return change(value)
    if type(value) in (list, tuple):
        items = [replace_paths(item, change) for item in value]
        return type(value)(items) if any(a is not b for a, b in zip(items, value, strict=True)) else value
    if type(value) is dict:
        mapped = {key: replace_paths(item, change) for key, item in value.items()}
        return mapped if any(mapped[key] is not value[key] for key in value) else value
    return value


def find_paths(value: Any) -> Iterator[Path]:
    """Yield each Path in `value`, also nested in list, tuple and dict."""
    if isinstance(value, Path):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from find_paths(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from find_paths(item)


def fetch_all(paths: Iterable[Path], *, workers: int) -> None:
    """Get the outermost of `paths` together, replacing what is there; pass over what is absent.

    Nothing is synced to disk: after a power cut the next `run` fetches anew.

    Args:
        paths: Paths of other Works.
        workers: how many transfers run at once.

    Raises:
        StorageError: the first that failed for another reason than being absent.
    """
    outermost = _outermost(paths)
    if len(outermost) == 1:
        _fetch_if_there(outermost[0])
        return
    if outermost:
        pool = ThreadPoolExecutor(workers, thread_name_prefix="lit-fetch")
        try:
            for outcome in [pool.submit(_fetch_if_there, path) for path in outermost]:
                outcome.result()
        finally:  # after an error the others are not waited for: the Work leaves, which ends them
            pool.shutdown(wait=False, cancel_futures=True)


def _fetch_if_there(path: Path) -> None:
    try:
        path.get(overwrite=True, durable=False)
    except PathNotFound:
        pass  # absent is an answer: the Work starts without it


def _outermost(paths: Iterable[Path]) -> list[Path]:
    """Return each distinct path that lies in no other: a tree brings what is in it."""
    distinct = sorted({os.path.normpath(path): path for path in paths}.items())
    kept: list[tuple[str, Path]] = []
    for value, path in distinct:
        if not any(value.startswith(other + "/") for other, _ in kept):
            kept.append((value, path))
    return [path for _, path in kept]


def plain_paths(value: Any) -> Iterator[str]:
    """Yield each existing plain path in `value`, which another Work would not find on its machine."""
    if isinstance(value, Path):
        return
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from plain_paths(item)
    elif isinstance(value, dict):
        yield from plain_paths(list(value.values()))
    elif _is_existing_path(value):
        yield str(value)


def _is_existing_path(value: Any) -> bool:
    if isinstance(value, str):
        return os.sep in value and "\0" not in value and os.path.exists(value)
    return isinstance(value, pathlib.PurePath) and os.path.exists(value)
