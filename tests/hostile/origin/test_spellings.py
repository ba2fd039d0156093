"""No spelling of a path names anything outside of what is shared, whichever rpc is asked with it."""

import grpc
import pytest

from lit_storage_proto.limits import MAX_PATH_BYTES
from tests.hostile.origin.attacker import ASK, CANARY, REFUSALS, ask

# {outside} is the absolute path of what is not shared, {root} that of the storage root beside it.
SPELLINGS = {
    "dotdot": "../root-outside/canary",
    "dotdot alone": "..",
    "dotdot within": "a/../a/file",
    "dotdot behind a file": "a/file/../../../root-outside/canary",
    "dotdot behind a directory": "a/b/../../../root-outside/canary",
    "dotdot at the end": "a/..",
    "many dotdots": "../" * 60 + "etc/passwd",
    "absolute": "{outside}/canary",
    "absolute directory": "{outside}",
    "two slashes": "/{outside}/canary",
    "three slashes": "//{outside}/canary",
    "absolute through the root": "{root}/../root-outside/canary",
    "a name that begins like the root": "{root}-outside/canary",
    "the parent of the root": "{root}/..",
    "slash": "/",
    "slashes": "//",
    "etc": "/etc/passwd",
    "proc root": "/proc/self/root/{outside}/canary",
    "proc cwd": "/proc/self/cwd",
    "dev fd": "/dev/fd/0",
    "dot": ".",
    "dot first": "./a/file",
    "dot within": "a/./file",
    "dot last": "a/file/.",
    "empty within": "a//file",
    "empty last": "a/",
    "empty last of a file": "a/file/",
    "NUL": "a/file\0",
    "NUL and more": "a/file\0/../../root-outside/canary",
    "NUL alone": "\0",
    "bytes that are not UTF-8": b"\xff/../../root-outside/canary",
    "two bytes for a slash": b"..\xc0\xaf..\xc0\xafroot-outside",
    "three bytes for a dot": b"\xe0\x80\xae\xe0\x80\xae/root-outside/canary",
    "NUL in bytes that are not UTF-8": b"\xff\x00",
    "dotdot in bytes": b"../root-outside/canary",
    "absolute in bytes": b"/etc/passwd",
    "a surrogate pair for a slash": b"..\xed\xa0\xaf..",
    "percent": "%2e%2e/root-outside/canary",
    "backslashes": "..\\root-outside\\canary",
    "dots of another script": "\u2024\u2024/root-outside/canary",
    "fullwidth slash": "..\uff0froot-outside",
    "home": "~/canary",
    "a variable": "$HOME/canary",
    "a URI": "file://{outside}/canary",
    "lit URI": "lit://@train//etc/passwd",
    "newline": "a\n../root-outside/canary",
    "spaces around dots": " .. /root-outside/canary",
    "a long name": "n" * 300,
    "a long path": "a/" * 2000 + "file",
    "too long a path": "a" * (MAX_PATH_BYTES + 1),
    "far too long a path": "../" * 300_000,
    "staging": ".staging/x/f",
    "staging alone": ".staging",
    "a copy": "@trainer/x/f",
    "all copies": "@trainer",
    "an absolute path of a copy": "{root}/@trainer/x/f",
    "an absolute path of staging": "{root}/.staging",
    "a reserved name behind dot": "./.staging/x/f",
    "a reserved name behind dotdot": "a/../.staging/x/f",
}


def spelled(origin, text):
    if isinstance(text, bytes):
        return text
    return text.replace("{outside}", str(origin.outside)).replace("{root}", str(origin.root))


@pytest.mark.parametrize("rpc", ASK)
def test_no_spelling_leads_out(origin, rpc):
    """It is refused, or nothing is there, by a status of its own; not a byte comes of what is outside."""
    for spelling, text in SPELLINGS.items():
        came, code = ask(origin.stub, rpc, spelled(origin, text))
        assert code in REFUSALS, spelling
        assert CANARY not in came, spelling


SHARED = {"text": "a/b/file", "bytes": b"a/b/file", "absolute": "{root}/a/b/file"}


@pytest.mark.parametrize(
    ("rpc", "kind"),
    # A range names no absolute path.
    [(rpc, kind) for rpc in ASK for kind in SHARED if (rpc, kind) != ("range-below", "absolute")],
)
def test_what_is_shared_is_there(origin, rpc, kind):
    """The same calls answer for a file that is shared: what is refused above is refused for its spelling."""
    assert ask(origin.stub, rpc, spelled(origin, SHARED[kind]))[1] is grpc.StatusCode.OK
