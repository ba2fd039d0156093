"""What `Path.get` takes as `progress`: a bar, a function, or an fsspec callback.

Invariant: whoever hears of a get hears it in the thread of the get, with bytes that never become
fewer, and "all" only when the copy is in its place; `lit_storage_client.fetch.report` sees to that.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from lit_storage.paths.bar import Tell, bar


@runtime_checkable
class Callback(Protocol):
    """What is used of an ``fsspec.callbacks.Callback``; fsspec itself is not needed."""

    def set_size(self, size: int, /) -> object:
        """Take the bytes in all; a later call corrects an earlier one."""
        ...

    def absolute_update(self, value: int, /) -> object:
        """Take the bytes that are done."""
        ...


Progress = bool | Tell | Callback
"""True for a bar where a person sees it, False for none, or whom to tell."""


@contextlib.contextmanager
def telling(progress: Progress | None, label: str) -> Iterator[Tell | None]:
    """Yield the function to tell of one get while it runs, or None where nobody is to be told.

    Args:
        progress: as of `Path.get`.
        label: what a bar is called.

    Raises:
        TypeError: `progress` is none of these.
    """
    if progress is True:
        with bar(label) as tell:
            yield tell
    elif progress is None or progress is False:
        yield None
    elif isinstance(progress, Callback):
        yield _of_callback(progress)
    elif callable(progress):
        yield progress
    else:
        raise TypeError(
            f"progress={progress!r} can be told nothing; pass True for a bar, a function of two arguments, "
            "or an fsspec Callback"
        )


def _of_callback(callback: Callback) -> Tell:
    size: int | None = None

    def tell(done: int, total: int | None) -> None:
        nonlocal size
        if total is not None and total != size:
            size = total
            callback.set_size(total)
        callback.absolute_update(done)

    return tell
