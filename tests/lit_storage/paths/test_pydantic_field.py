"""A Path as the type of a field, as pathlib.Path is one."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import subprocess
import sys
from collections.abc import Callable
from typing import Annotated, Any

import pytest

from lit_storage import Path, connect, join
from lit_storage_proto.errors import InvalidURI

pydantic = pytest.importorskip("pydantic", minversion="2")


def adapter(kind: Any = Path) -> Any:
    return pydantic.TypeAdapter(kind)


@pytest.mark.parametrize("value", ["lit://@a/x", Path("lit://@a/x")])
def test_a_field_takes_text_and_a_path(value: object) -> None:
    """A model has the same Path, whether it is given lit:// text or a Path."""
    model = pydantic.create_model("Model", path=(Path, ...))(path=value)
    assert model.path == Path("lit://@a/x")
    assert model.path.origin_name == "a"


def test_a_path_comes_back_from_json(tmp_path: pathlib.Path) -> None:
    """A Path of another Work, one of this Work and a plain one are the same after a round trip."""
    with join("own", root=tmp_path):
        for path, text in (
            (Path("lit://@a/x"), "lit://@a/x"),
            (Path("lit://x"), "lit://@own/x"),
            (Path("lit://@a//data/x"), "lit://@a//data/x"),
            (Path("/data/x"), "/data/x"),
        ):
            assert adapter().dump_json(path) == f'"{text}"'.encode()
            read = adapter().validate_json(f'"{text}"')
            assert (read, read.origin_name) == (path, path.origin_name)


def test_an_unattached_path_comes_back_from_json() -> None:
    """Text without a name is kept as it is where no process has a name."""
    assert adapter().validate_json(adapter().dump_json(Path("lit://x"))) == Path("lit://x")


def test_a_path_that_no_name_describes_is_refused(tmp_path: pathlib.Path) -> None:
    """A path outside of what its origin shares has no JSON form, and the error says so."""
    with connect(root=tmp_path):
        outside = Path("lit://@a/x").parent.parent.parent.parent / "x"
        assert outside.origin_name == "a"
        with pytest.raises((InvalidURI, ValueError), match="lies outside of what 'a' shares"):
            adapter().dump_json(outside)


def test_a_dump_for_python_keeps_the_path() -> None:
    """model_dump() without mode="json" returns the Path itself, as with pathlib.Path."""
    path = Path("lit://@a/x")
    assert adapter().dump_python(path) is path
    assert adapter().dump_python(path, mode="json") == "lit://@a/x"


@pytest.mark.parametrize("kind", [Path, pathlib.Path])
def test_the_schema_is_that_of_pathlib(kind: type) -> None:
    """The JSON schema of a field says no more and no less than for pathlib.Path."""
    for mode in ("validation", "serialization"):
        assert adapter(kind).json_schema(mode=mode) == {"type": "string", "format": "path"}


def test_paths_in_containers_are_validated() -> None:
    """Optional, list and dict fields hold Paths, also as keys."""
    kind = dict[Path, list[Path | None]]
    read = adapter(kind).validate_json('{"lit://@a/x": ["lit://@b/y", null]}')
    assert read == {Path("lit://@a/x"): [Path("lit://@b/y"), None]}
    assert adapter(kind).dump_json(read) == b'{"lit://@a/x":["lit://@b/y",null]}'


def test_other_paths_are_converted() -> None:
    """A pathlib.Path, and a Path with its origin, are converted to the type of the field."""

    class Mine(Path):
        pass

    assert type(adapter().validate_python(pathlib.Path("/data/x"))) is Path
    assert type(adapter(Mine).validate_python(Path("lit://@a/x"))) is Mine
    assert adapter(Mine).validate_python(Path("lit://@a/x")).origin_name == "a"


@pytest.mark.parametrize("value", [3, None, b"lit://@a/x", "lit://@/x", ["lit://@a/x"]])
def test_what_is_no_path_is_a_validation_error(value: object) -> None:
    """pydantic reports a value that cannot be a Path in its own error."""
    with pytest.raises(pydantic.ValidationError):
        adapter().validate_python(value)


def test_strict_mode_converts_text_from_json_only() -> None:
    """In strict mode Python code must give a Path, while JSON has nothing but text."""
    with pytest.raises(pydantic.ValidationError):
        adapter().validate_python("lit://@a/x", strict=True)
    assert adapter().validate_json('"lit://@a/x"', strict=True).origin_name == "a"


def test_a_dataclass_of_pydantic_has_a_path() -> None:
    """The fields of a pydantic dataclass are validated as those of a model."""

    @pydantic.dataclasses.dataclass
    class Config:
        path: Path = dataclasses.field(default=Path("lit://x"))

    Config.__annotations__["path"] = Path
    assert Config(path="lit://@a/x").path.origin_name == "a"


@pytest.mark.parametrize("is_attached", [False, True])
def test_an_option_of_typer_is_a_path(is_attached: bool, tmp_path: pathlib.Path) -> None:
    """A typer command whose argument is annotated with Path gets one from lit:// text."""
    typer = pytest.importorskip("typer", minversion="0.29")
    from typer.testing import CliRunner

    paths: list[Path] = []
    app = typer.Typer()
    app.command()(annotated(paths.append))
    with connect(root=tmp_path) if is_attached else contextlib.nullcontext():
        result = CliRunner().invoke(app, ["lit://@a/x"], catch_exceptions=False)
        assert (result.exit_code, paths) == (0, [Path("lit://@a/x")])
    assert paths[0].origin_name == "a"


def test_an_option_that_must_exist_is_reported_by_typer() -> None:
    """With exists=True, typer says in its own words that a path is not on this machine."""
    typer = pytest.importorskip("typer", minversion="0.29")
    from typer.testing import CliRunner

    app = typer.Typer()
    app.command()(annotated(print, Annotated[Path, typer.Argument(exists=True)]))
    result = CliRunner().invoke(app, ["lit://@a/x"], catch_exceptions=False)
    assert result.exit_code == 2
    assert "does not exist" in result.output


def annotated(function: Callable[[Any], Any], annotation: Any = Path) -> Callable[[Any], None]:
    """Return a command of one argument with an annotation that is no text."""

    def command(path: Any) -> None:
        function(path)

    command.__annotations__["path"] = annotation
    return command


def test_importing_lit_storage_imports_no_pydantic() -> None:
    """Only pydantic itself asks for the schema, so that nobody else pays for it."""
    program = "import lit_storage, sys; assert not {'pydantic', 'cloudpickle'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", program], check=True)
