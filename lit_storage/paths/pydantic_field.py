"""A Path as the type of a field of pydantic 2, and so of an option of typer from 0.29 on.

Neither is a dependency: pydantic itself asks for the schema, and is imported only then.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any

from lit_storage_proto.errors import NotAttached

if TYPE_CHECKING:
    from pydantic_core import CoreSchema

JSON_SCHEMA = {"type": "string", "format": "path"}
"""As pydantic describes a pathlib.Path."""


def core_schema(path_type: type[Any], json_text: Callable[[Any], str]) -> CoreSchema:
    """Return how pydantic validates and dumps a path: text or any path becomes a `path_type`.

    In strict mode only a `path_type` is valid, and only text in JSON, as with pathlib.Path.
    """
    from pydantic_core import PydanticCustomError
    from pydantic_core import core_schema as schemas

    def convert(value: Any) -> Any:
        if isinstance(value, path_type):
            return value
        if not isinstance(value, str | os.PathLike):
            raise PydanticCustomError("path_type", "Input is not a valid path")
        try:
            return path_type(value)
        except TypeError:  # of a PathLike that yields bytes
            raise PydanticCustomError("path_type", "Input is not a valid path of text") from None

    return schemas.lax_or_strict_schema(
        lax_schema=schemas.no_info_plain_validator_function(convert),
        strict_schema=schemas.json_or_python_schema(
            json_schema=schemas.no_info_after_validator_function(path_type, schemas.str_schema()),
            python_schema=schemas.is_instance_schema(path_type),
        ),
        serialization=schemas.plain_serializer_function_ser_schema(json_text, when_used="json"),
    )


class _OptionNotAttached(NotAttached, OSError):
    """A path of a command line has no place on this machine yet."""


def not_attached_for(caller: FrameType) -> type[NotAttached]:
    """Return the error for a path without a place whose text `caller` asked for.

    typer looks whether the path of an option exists before it passes the path on.
    An OSError tells typer that it does not exist; any other error ends the program.
    """
    is_typer = str(caller.f_globals.get("__name__", "")).startswith("typer.")
    return _OptionNotAttached if is_typer else NotAttached
