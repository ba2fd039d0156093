"""How a daemon is configured: a frozen value, read from a TOML file, of flags, or of both.

Invariant: whatever is not understood is refused by its name, with the nearest one that is known; a
setting is never passed over. A flag beats the file. No token is part of it, only the file that holds one.

The file is one of TOML 1.0 (https://toml.io/en/v1.0.0); deploy/lit-storage.toml is an example.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import sys
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from lit_storage_core.system.names import shown
from lit_storage_proto.endpoint import join_address, split_address
from lit_storage_proto.errors import InvalidConfig, StorageError
from lit_storage_proto.limits import Limits
from lit_storage_proto.uri import check_name

_MOST_FILE_BYTES = 1 << 20
_LOG_FORMATS = ("plain", "json")
_TLS_KEYS = ("certificate", "key", "ca")
NOTHING_TO_SERVE = (
    "there is nothing to serve: name a directory with --share NAME=DIRECTORY, "
    "or let the daemon be the custodian of a root"
)
_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", dict: "a table"}


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that a daemon is told; the fields are the keys of the file."""

    name: str = ""
    """Under which it registers."""
    shares: Mapping[str, str] = field(default_factory=dict[str, str])
    """Directories by the names under which they are reached."""
    bind: str = "127.0.0.1:0"
    """``HOST:PORT`` to listen on."""
    advertise: str | None = None
    """``HOST`` or ``HOST:PORT`` that others dial, where it is not what is bound."""
    registry: str | None = None
    """URL; None is that of the root."""
    root: str | None = None
    """Directory that the Works of this machine share; None is the nearest .lit upwards."""
    token_file: str | None = None
    """Holds the token that callers show."""
    certificate: str | None = None
    key: str | None = None
    ca: str | None = None
    insecure: bool = False
    """Whether a token may travel in clear beyond this machine."""
    metrics: str | None = None
    """``HOST:PORT``, or a port on loopback, at which Prometheus finds metrics; None is none."""
    custodian: bool | None = None
    """Whether it looks after what stopped Works of this machine left; None is wherever it can."""
    drain_seconds: float = 30.0
    """How long running transfers may go on once it is told to stop."""
    log_format: str = "plain"
    """``plain`` or ``json``."""
    limits: Limits = field(default_factory=Limits)
    """Deadlines and sizes."""

    @property
    def metrics_address(self) -> tuple[str, int] | None:
        """Host and port of `metrics`."""
        if self.metrics is None:
            return None
        port_alone = self.metrics.isascii() and self.metrics.isdigit()
        return split_address(join_address("127.0.0.1", int(self.metrics)) if port_alone else self.metrics)

    def checked(self) -> Config:
        """Return it, if it can be used as far as can be told without a look at this machine.

        Raises:
            InvalidConfig: it cannot; the sentence names the setting.
        """
        if not self.name:
            raise InvalidConfig("a daemon needs a name under which others reach it: give it with --name")
        for setting, check in (
            ("name", lambda: check_name(self.name)),
            ("bind", lambda: split_address(self.bind)),
            ("metrics", lambda: self.metrics_address),
        ):
            try:
                check()
            except StorageError as error:
                raise InvalidConfig(f"{setting}: {error}") from None
        if self.custodian is False and not self.shares:
            raise InvalidConfig(NOTHING_TO_SERVE)
        if not 0 <= self.drain_seconds <= 24 * 3600:
            raise InvalidConfig("drain_seconds must be a number from 0 to 86400")
        if self.log_format not in _LOG_FORMATS:
            raise InvalidConfig(f"log_format is {shown(self.log_format)}; it can be 'plain' or 'json'")
        return self


def read_config(path: str) -> dict[str, Any]:
    """Return the settings of a file, by the names of the fields of `Config`.

    Raises:
        InvalidConfig: it cannot be read, is no TOML, or holds a key or a value that cannot be used.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(_MOST_FILE_BYTES + 1)
    except OSError as error:
        raise InvalidConfig(f"the configuration {path!r} cannot be read: {error.strerror}") from None
    if len(data) > _MOST_FILE_BYTES:
        raise InvalidConfig(f"the configuration {path!r} is larger than any can be")
    try:
        tables = tomllib.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # ValueError alone: 5,000 digits
        raise InvalidConfig(f"{path}: {error}") from None
    return _File(path).settings(tables)


def make_config(file: Mapping[str, Any], flags: Mapping[str, Any]) -> Config:
    """Return the configuration of a file and of flags, which win; a flag that is None was not given.

    Raises:
        InvalidConfig: it cannot be used.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    return Config(**{**file, **given}).checked()


@dataclass(frozen=True, slots=True)
class _File:
    """One file, whose name stands in what is said of it."""

    path: str

    def settings(self, tables: Mapping[str, Any]) -> dict[str, Any]:
        kinds = {
            **dict.fromkeys(("name", "bind", "advertise", "registry", "root", "token_file"), str),
            **dict.fromkeys(("log_format",), str),
            **dict.fromkeys(("insecure", "custodian"), bool),
            "drain_seconds": float,
            "metrics": str,
            **dict.fromkeys(("shares", "tls", "limits"), dict),
        }
        self._check_keys(tables, kinds, "")
        settings = {key: self._typed(value, kinds[key], key) for key, value in tables.items()}
        tls = settings.pop("tls", {})
        self._check_keys(tls, _TLS_KEYS, "tls.")
        settings |= {key: self._typed(value, str, f"tls.{key}") for key, value in tls.items()}
        for key in ("root", "token_file", *_TLS_KEYS):
            if key in settings:
                self._check_absolute(settings[key], f"tls.{key}" if key in _TLS_KEYS else key)
        for name, directory in settings.get("shares", {}).items():
            self._check_absolute(self._typed(directory, str, f"shares.{name}"), f"shares.{name}")
        if "limits" in settings:
            settings["limits"] = self._limits(settings["limits"])
        return settings

    def _limits(self, table: Mapping[str, Any]) -> Limits:
        fields = {each.name: each.default for each in dataclasses.fields(Limits)}
        self._check_keys(table, fields, "limits.")
        limits: dict[str, Any] = {}
        for key, value in table.items():
            limits[key] = self._typed(value, type(fields[key]), f"limits.{key}")
            if not 0 < limits[key] < math.inf:
                raise InvalidConfig(f"{self.path}: limits.{key} must be more than 0")
        try:
            return Limits(**limits)
        except InvalidConfig as error:
            raise InvalidConfig(f"{self.path}: {error}") from None

    def _check_keys(self, table: Mapping[str, Any], known: Collection[str], prefix: str) -> None:
        for key in table:
            if key in known:
                continue
            near = difflib.get_close_matches(key, list(known), 1)
            near = near or [each for each in known if key and each.startswith(key)]
            said = f"did you mean {prefix + near[0]!r}?" if near else f"known are {', '.join(sorted(known))}"
            raise InvalidConfig(f"{self.path}: there is no setting {prefix + key!r}; {said}")

    def _typed(self, value: Any, kind: type, key: str) -> Any:
        if kind is float and type(value) is int:
            if abs(value) > sys.float_info.max:
                raise InvalidConfig(f"{self.path}: {key} is larger than any number can be")
            return float(value)
        if type(value) is not kind:
            article = _KINDS.get(type(value), type(value).__name__)
            raise InvalidConfig(f"{self.path}: {key} must be {_KINDS[kind]}, and is {article}")
        return value

    def _check_absolute(self, path: str, key: str) -> None:
        if not os.path.isabs(path):
            raise InvalidConfig(f"{self.path}: {key} must be an absolute path, and is {shown(path)}")
