"""Which records are taken from a registry: whoever can write into it may have written anything. Pure.

Invariant: of a record that passed, every text is short, printable and of the grammar of its field. So it
can be shown, its name can be a part of a path, and its endpoint means a host and a port and nothing else:
neither a socket of this machine nor one of the other schemes that gRPC reads in a target. What is wrong
with where a Work left its files is found out where that is opened, for the rest of its record is needed
without it too.
"""

from __future__ import annotations

import re
from typing import TypeVar

from lit_storage_core.system.names import is_id
from lit_storage_proto.endpoint import split_address
from lit_storage_proto.errors import InvalidURI
from lit_storage_proto.registry import LiveRecord, WorkRecord, WorkState
from lit_storage_proto.uri import check_name

R = TypeVar("R", LiveRecord, WorkRecord)

MOST_RECORDS = 100_000
"""That a registry lists. More were written by nobody who runs Works."""

_MOST_URL_CHARACTERS = 1 << 14
_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}|[0-9A-Fa-f:.]{2,45}", re.ASCII)


def checked(record: R) -> R:
    """Return `record` if it is one.

    Raises:
        ValueError: a field is of another type or outside of its grammar.
    """
    texts = [record.name, record.instance_id, record.machine_id]
    if isinstance(record, LiveRecord):
        texts += [record.endpoint, record.tls_name]
        is_whole = isinstance(record.custodian, bool)
    else:
        texts.append(record.artifacts_url)
        is_whole = isinstance(record.state, WorkState)
    if not (is_whole and all(isinstance(text, str) for text in texts)):
        raise ValueError("a field is of another type")
    check_name(record.name)
    if not (is_id(record.instance_id) and is_id(record.machine_id)):
        raise ValueError("an id is none")
    if isinstance(record, LiveRecord):
        check_endpoint(record.endpoint)
        if record.tls_name not in ("", record.name):
            raise ValueError("the certificate would be that of another name")
    elif len(record.artifacts_url) > _MOST_URL_CHARACTERS:
        raise ValueError("a URL is too long")
    return record


def check_endpoint(endpoint: str) -> None:
    """See that consumers can dial an endpoint.

    Raises:
        InvalidURI: it is not a host, or an IPv6 address in brackets, and a port of 1 to 65535.
    """
    host, port = split_address(endpoint)
    if not (port and _HOST.fullmatch(host)):
        raise InvalidURI(
            f"{endpoint[:200]!r} is no address that can be dialed: write HOST:PORT, or [IPV6]:PORT"
        )
