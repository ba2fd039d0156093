"""Paths among the arguments and the state of a Work: found, marked with their consumer, fetched.

Before a Work runs, every Path of another Work that it was given is here. Absent at its origin,
the Work starts without it; where that cannot be known, the Work does not start.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from lit_storage.executors.work_state import is_flat
from lit_storage.paths.path import Path
from lit_storage_proto.errors import AccessDenied, PathNotFound

if TYPE_CHECKING:
    from lit_storage.apps.arrivals import Arrivals


def replace_paths(value: Any, change: Callable[[Path], Path], *, in_place: bool = False) -> Any:
    """Return `value` with each Path in it, also nested in list, tuple and dict, passed through `change`.

    Args:
        value: anything.
        change: returns the very same Path where nothing changes.
        in_place: whether lists and dicts are changed and not copied, so that others who hold them
            see the new Paths. Where no Path changes, every container stays itself in either case.
    """
    return _replaced(value, change, in_place, frozenset())


def _replaced(value: Any, change: Callable[[Path], Path], in_place: bool, inside: frozenset[int]) -> Any:
    if isinstance(value, Path):
        return change(value)
    if type(value) not in (list, tuple, dict) or id(value) in inside:
        return value
    inside |= {id(value)}
    is_dict = type(value) is dict
    parts = [part for pair in value.items() for part in pair] if is_dict else list(value)
    if is_flat(parts):
        return value
    replaced = [_replaced(part, change, in_place, inside) for part in parts]
    if all(new is old for new, old in zip(replaced, parts, strict=True)):
        return value
    if is_dict:
        pairs = dict(zip(replaced[::2], replaced[1::2], strict=True))
        return _refilled(value, pairs) if in_place else pairs
    if isinstance(value, list) and in_place:
        value[:] = replaced
        return value
    return type(value)(replaced)


def _refilled(value: dict[Any, Any], pairs: dict[Any, Any]) -> dict[Any, Any]:
    value.clear()
    value.update(pairs)
    return value


def find_paths(value: Any) -> Iterator[Path]:
    """Yield each Path in `value`, also nested in list, tuple and dict."""
    return _find(value, lambda item: isinstance(item, Path), scalars=False)


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
        # Absent is an answer, and what is not shared is absent for others: run() starts without it.
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


def plain_paths(value: Any) -> Iterator[str]:
    """Yield each existing plain path in `value`, which another Work would not find on its machine."""
    return map(str, _find(value, _is_existing_path, scalars=True))


def _find(
    value: Any, is_wanted: Callable[[Any], bool], *, scalars: bool, inside: frozenset[int] = frozenset()
) -> Iterator[Any]:
    """Yield what is wanted in `value`, also in list, tuple and dict, once where these hold themselves.

    Args:
        value: anything.
        is_wanted: says it of each item that is no container.
        scalars: whether a plain str may be wanted; else containers of nothing but scalars are passed over.
        inside: the containers on the way here.
    """
    if isinstance(value, (list, tuple, dict)):
        if id(value) in inside:
            return
        parts = list(value) if not isinstance(value, dict) else [*value.keys(), *value.values()]
        if scalars or not is_flat(parts):
            inside |= {id(value)}
            for part in parts:
                yield from _find(part, is_wanted, scalars=scalars, inside=inside)
    elif is_wanted(value):
        yield value


def _is_existing_path(value: Any) -> bool:
    if isinstance(value, str):
        return os.sep in value and "\0" not in value and os.path.exists(value)
    return isinstance(value, pathlib.PurePath) and not isinstance(value, Path) and os.path.exists(value)
