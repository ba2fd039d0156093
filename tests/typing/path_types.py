"""What a type checker knows of Path: read by mypy and pyright, never run."""

from __future__ import annotations

import os
import pathlib
from typing import TYPE_CHECKING, assert_type

from lit_storage.paths.path import Path

if TYPE_CHECKING:
    from lit_storage_client.fetch import Transfer
    from lit_storage_proto.entry import Entry

path = Path("lit://outputs", pathlib.Path("a"))
standard: pathlib.Path = path
like: os.PathLike[str] = path

assert_type(path / "a", Path)
assert_type("a" / path, Path)
assert_type(path.joinpath("a", path), Path)
assert_type(path.parent, Path)
assert_type(path.parents[0], Path)
assert_type(path.with_name("a"), Path)
assert_type(path.rename("b"), Path)
assert_type(next(iter(path.iterdir())), Path)
assert_type(next(iter(path.glob("*"))), Path)
assert_type(Path.cwd(), Path)

assert_type(path.origin_name, str | None)
assert_type(path.consumer_name, str | None)
assert_type(path.uri, str | None)
assert_type(path.exists(follow_symlinks=False), bool)
assert_type(path.exists_local(), bool)
assert_type(path.exists_remote(), bool)
assert_type(path.to_dict(), dict[str, str | None])
assert_type(Path.from_dict({}), Path)
if TYPE_CHECKING:
    assert_type(
        path.get(overwrite=True, to="x", timeout=1.5, on_change="accept", symlinks="follow"), Transfer
    )
    assert_type(path.get(symlinks=None), Transfer)
    assert_type(path.stat_remote(), Entry)

    class Callback:
        """As fsspec's, which has no types."""

        def set_size(self, size: int | None) -> None: ...
        def absolute_update(self, value: int) -> None: ...

    def tell(done: int, total: int | None) -> str:
        return f"{done} of {total or 'unknown'}"

    path.get(progress=True)
    path.get(progress=tell)
    path.get(progress=lambda done, total: None)
    path.get(progress=Callback())
    path.get(progress="yes")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    path.get(progress=lambda done: None)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
