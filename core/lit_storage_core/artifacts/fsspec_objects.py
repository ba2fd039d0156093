"""Objects in whatever fsspec has a file system for: S3 and its like.

fsspec is loaded when the first store of this kind is opened; s3fs comes with the extra ``s3``.

Every request runs in a thread beside whoever waits for it, who gives it up when its time is over: not
every file system bounds its waits. Credentials come from where each file system looks for them (for S3: the
variables ``AWS_*``, a profile, or the machine's role), and never from a URL, which others are told.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import importlib
import importlib.util
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, Final, TypeVar

from lit_storage_core.artifacts import s3_requests
from lit_storage_core.artifacts.lanes import Lanes, LateError, remaining
from lit_storage_core.artifacts.objects import Found
from lit_storage_core.system.names import printable, shown
from lit_storage_proto.errors import (
    AccessDenied,
    IntegrityError,
    InvalidURI,
    OriginUnavailable,
    StorageError,
    TransferTimeout,
)

T = TypeVar("T")

_S3 = ("s3", "s3a")
_CONNECT_SECONDS = 5.0
_REMOVE_SECONDS = 2.0
_NO_BUCKET = "The specified bucket does not exist"  # of an object that is not there s3fs says its path
_MOST_CHARACTERS = 300
_REMOVED_AT_ONCE = 1000  # as many as one DeleteObjects of S3 takes
# Words in the names of errors that mean "not you": botocore's do not share a base class.
_CREDENTIALS: Final = (
    "NoCredentials",
    "PartialCredentials",
    "TokenRetrieval",
    "UnauthorizedSSO",
    "Credential",
)


class FsspecObjects:
    """Objects below a URL of fsspec.

    Args:
        url: ``PROTOCOL://…``, without a trailing slash.
        seconds: what one request may take.
        requests: how many may be under way at once.
        deadline: when all must have ended, on the clock of time.monotonic(); but what is removed after it
            has a moment more.

    Raises:
        InvalidURI: fsspec, or its file system for this protocol, is not installed.
    """

    def __init__(self, url: str, *, seconds: float, requests: int, deadline: float | None = None) -> None:
        self._url = url
        self._seconds = seconds
        self._deadline = deadline
        self._lanes = Lanes(2 * requests, "lit-storage-store")
        protocol, _, self._root = url.partition("://")
        self._is_s3 = protocol in _S3
        self._files = _file_system(protocol, seconds)

    @property
    def url(self) -> str:
        """See `Objects.url`."""
        return self._url

    def put(self, key: str, data: bytes) -> None:
        """See `Objects.put`."""
        self._ask(lambda: self._put(f"{self._root}/{key}", data), key)

    def read(self, key: str, start: int = 0, size: int | None = None) -> bytes:
        """See `Objects.read`."""
        if size == 0:
            return b""
        path, end = f"{self._root}/{key}", None if size is None else start + size
        options = {} if end is None and not start else {"start": start, "end": end}
        if self._is_s3 and size is not None:
            data = self._ask(
                lambda: self._complete(s3_requests.read_part(self._files, path, start, size)), key
            )
        else:
            data = self._ask(lambda: self._files.cat_file(path, **options), key)
        if size is not None and len(data) != size:
            raise IntegrityError(f"{shown(key)} in {self.url} is shorter than it was")
        return data

    def list(self, prefix: str) -> list[Found]:
        """See `Objects.list`."""
        try:
            found = self._ask(lambda: self._find(f"{self._root}/{prefix}"), prefix)
        except FileNotFoundError as error:
            raise OriginUnavailable(f"the store {shown(self.url)} is not there: {_words(error)}") from None
        base = self._files._strip_protocol(self._root).rstrip("/") + "/"
        return sorted(
            Found(path.removeprefix(base), int(info["size"]), _modified(info)) for path, info in found.items()
        )

    def remove(self, keys: Iterable[str]) -> None:
        """See `Objects.remove`."""
        paths = [f"{self._root}/{key}" for key in keys]
        for first in range(0, len(paths), _REMOVED_AT_ONCE):
            batch = paths[first : first + _REMOVED_AT_ONCE]
            try:
                self._remove(self._files.rm, batch)
            except FileNotFoundError:
                # Another process removed one; which of the others are left is not known.
                for path in batch:
                    with contextlib.suppress(FileNotFoundError):
                        self._remove(self._files.rm_file, path)

    def _find(self, path: str) -> dict[str, dict[str, Any]]:
        if self._is_s3:
            return self._complete(s3_requests.list_below(self._files, path))
        found: dict[str, dict[str, Any]] = self._files.find(path, detail=True)
        return found

    def _complete(self, request: Coroutine[Any, Any, T]) -> T:
        return s3_requests.complete(self._files, request, remaining(self._deadline, self._seconds))

    def _remove(self, remove: Callable[[Any], object], what: Any) -> None:
        self._ask(lambda: remove(what), self._root, least_seconds=_REMOVE_SECONDS)

    def close(self) -> None:
        """See `Objects.close`."""
        self._lanes.close()

    def _put(self, path: str, data: bytes) -> None:
        try:
            self._files.pipe_file(path, data, mode="create")
        except (TypeError, ValueError, NotImplementedError):  # a file system without exclusive writes
            self._put_unless_there(path, data)
        except OSError as error:
            if error.errno != errno.ENOSYS:  # a server of S3 without conditional ones
                raise
            self._put_unless_there(path, data)

    def _put_unless_there(self, path: str, data: bytes) -> None:
        """Write an object; no two publications have the same names, so nothing depends on what is found."""
        if self._files.exists(path):
            raise FileExistsError(errno.EEXIST, "it is there already", path)
        self._files.pipe_file(path, data)

    def _ask(self, call: Callable[[], T], what: str, *, least_seconds: float = 0.0) -> T:
        seconds = max(least_seconds, remaining(self._deadline, self._seconds))
        try:
            return self._lanes.call(call, seconds)
        except (LateError, FutureTimeoutError):
            if seconds < self._seconds:
                raise TransferTimeout(
                    f"there was no time left for the store {shown(self.url)}; see Limits.publish_seconds"
                ) from None
            raise TransferTimeout(
                f"the store {shown(self.url)} gave no answer for {seconds:g} s; is it in reach?"
            ) from None
        except StorageError:
            raise
        except FileExistsError:
            raise FileExistsError(errno.EEXIST, "it is there already", what) from None
        except Exception as error:  # noqa: BLE001  each file system has errors of its own
            raise self._typed(error, what) from None

    def _typed(self, error: Exception, what: str) -> OSError:
        words, kind = _words(error), type(error).__name__
        if isinstance(error, PermissionError) or any(word in kind for word in _CREDENTIALS):
            return AccessDenied(
                f"the store {shown(self.url)} refuses this process: {words}; check its credentials"
            )
        if isinstance(error, FileNotFoundError):
            if words == _NO_BUCKET:
                return OriginUnavailable(f"the store {shown(self.url)} is not there: {words}")
            return FileNotFoundError(errno.ENOENT, error.strerror or "it is not there", what)
        if isinstance(error, OSError) and error.errno == errno.EINVAL and "ange" in words:
            return IntegrityError(f"{shown(what)} in {self.url} is shorter than it was")
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return OSError(error.errno, error.strerror, self.url)
        return OriginUnavailable(f"the store {shown(self.url)} cannot be used: {kind}: {words}")


def check_protocol(protocol: str) -> None:
    """See that fsspec has a file system for a protocol; it is not loaded, which takes a while.

    Raises:
        InvalidURI: there is none, or what it needs is not installed.
    """
    try:
        registry = importlib.import_module("fsspec.registry")
    except ImportError as error:
        raise _not_installed(protocol, error) from None
    if protocol in registry.registry:
        return  # it is loaded
    known = registry.known_implementations.get(protocol)
    if known is None:
        raise InvalidURI(f"{protocol!r} is no kind of store known to fsspec; use file:// or s3://")
    package = known["class"].partition(".")[0]
    if importlib.util.find_spec(package) is None:
        raise _not_installed(protocol, ImportError(f"no module named {package!r}"))


def _not_installed(protocol: str, error: ImportError) -> InvalidURI:
    extra = "lit-storage[s3]" if protocol in _S3 else "fsspec and what it needs for it"
    return InvalidURI(
        f"artifacts at {protocol}:// need a file system that is not installed ({_words(error)}); "
        f"pip install '{extra}'"
    )


def _file_system(protocol: str, seconds: float) -> Any:
    check_protocol(protocol)
    try:
        kind = importlib.import_module("fsspec").get_filesystem_class(protocol)
    except ImportError as error:
        raise _not_installed(protocol, error) from None
    options: dict[str, Any] = {"skip_instance_cache": protocol != "memory", "use_listings_cache": False}
    if protocol in _S3:
        options["config_kwargs"] = {
            "connect_timeout": min(_CONNECT_SECONDS, seconds),
            "read_timeout": seconds,
            "retries": {"mode": "standard", "max_attempts": 3},
            # Our own digests see to it. Some servers send that of a whole object with a part of it.
            "response_checksum_validation": "when_required",
        }
    try:
        return kind(**options)
    except Exception as error:  # noqa: BLE001  each file system has errors of its own
        raise InvalidURI(f"no store can be opened at {protocol}://: {_words(error)}") from None


def _modified(info: dict[str, Any]) -> float:
    for name in ("LastModified", "last_modified", "mtime", "updated", "created"):
        value = info.get(name)
        if isinstance(value, datetime.datetime):
            return value.timestamp()
        if isinstance(value, int | float):
            return float(value)
    return 0.0


def _words(error: Exception) -> str:
    """Return the first line of an error, without secrets: what fsspec says holds paths and no keys."""
    text = str(error)[: 8 * _MOST_CHARACTERS].strip().splitlines()
    return printable((text[0] if text else type(error).__name__)[:_MOST_CHARACTERS])
