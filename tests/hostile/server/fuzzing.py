"""Requests that no client would send, and what a server may say to them."""

import os
import struct

import grpc
from google.protobuf.descriptor import FieldDescriptor as Field
from hypothesis import strategies as st

from lit_storage_server.rpc.refusal import MAX_SENTENCE_BYTES

Code = grpc.StatusCode
ALLOWED = {
    Code.OK,
    Code.INVALID_ARGUMENT,
    Code.NOT_FOUND,
    Code.PERMISSION_DENIED,
    Code.FAILED_PRECONDITION,
    Code.RESOURCE_EXHAUSTED,
    Code.ABORTED,
}
_SIGNS_OF_INNER_LIFE = (
    "Traceback",
    "site-packages",
    'File "',
    ".py",
    "<class",
    "object at 0x",
    "Exception",
    "None",
)

_TEXTS = [
    *(
        "",
        "/",
        ".",
        "..",
        "file",
        "data",
        "data/directory",
        "directory",
        "directory/file",
        "link",
        "store",
        "i1",
    ),
    *(
        "../../etc/passwd",
        "/etc/passwd",
        "a/../b",
        "//",
        "a//b",
        "directory/",
        "/proc/self/environ",
        "@",
        "@store/x",
    ),
    *(
        "@manifests",
        ".staging",
        ".staging/x",
        "a" * 256,
        "a" * 4097,
        "a/" * 5000 + "a",
        "b" * 70_000,
        "\0",
        "x\0y",
    ),
    *("\n\r\x1b[2J", "\u202e\u2028", "🙂" * 300, "%n%s{0.__class__}", "name\ud7ff", "\x7f\x85", "None"),
]
_NUMBERS = [0, 1, 2, 7, 8, 255, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1]


def messages(descriptor, depth=0):
    """Return a strategy of encoded messages of a descriptor: some are right, most are wrong in few places."""
    fields = [_field(field, depth) for field in descriptor.fields]
    odd = [_unknown(), _wrong_type(descriptor)]
    right = st.lists(st.one_of(fields or [_unknown()]), max_size=6).map(b"".join)
    return st.one_of(right, right, st.tuples(right, st.one_of(odd), right).map(b"".join))


def mutated(encoded):
    """Return a strategy of what becomes of encoded messages on a bad way: cut, flipped, doubled, grown."""
    return st.tuples(encoded, st.integers(0, 2**16), st.binary(max_size=8), st.integers(0, 3)).map(_mutate)


def assert_refused_well(code, details, hidden=(), said=b""):
    """See that a peer reads what it may: a status of the protocol, and one short sentence for people.

    A sentence may repeat what the peer said itself.
    """
    details = details or ""
    assert code in ALLOWED, (code, details)
    assert code is Code.OK or details, code
    assert details.isprintable(), details
    assert len(details.encode()) <= MAX_SENTENCE_BYTES, details
    signs = [sign for sign in _SIGNS_OF_INNER_LIFE if sign.encode() not in said]
    found = [sign for sign in (*signs, *hidden) if sign in details]
    assert not found, (found, details)


def varint(number):
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    return bytes([*encoded, number])


def tag(number, wire_type):
    return varint(number << 3 | wire_type)


def delimited(number, content):
    """Return a field whose content is of any length."""
    return tag(number, 2) + varint(len(content)) + content


def _field(field, depth):
    number = field.number
    if field.message_type is not None:
        inner = messages(field.message_type, depth + 1) if depth < 3 else st.just(b"")
        return st.builds(lambda content, times: delimited(number, content) * times, inner, _times())
    if field.type in (Field.TYPE_STRING, Field.TYPE_BYTES):
        texts = st.one_of(
            st.sampled_from(_TEXTS).map(str.encode), st.binary(max_size=40), st.just(os.fsencode("\udcff"))
        )
        return st.builds(lambda content, times: delimited(number, content) * times, texts, _times())
    numbers = st.one_of(st.sampled_from(_NUMBERS), st.integers(0, 2**64 - 1))
    if _is_repeated(field):
        packed = st.lists(numbers, max_size=6).map(
            lambda each: delimited(number, b"".join(map(varint, each)))
        )
        return st.one_of(packed, numbers.map(lambda value: tag(number, 0) + varint(value)))
    return st.builds(lambda value, times: (tag(number, 0) + varint(value)) * times, numbers, _times())


def _times():
    """How often a field comes: mostly once, though a singular one may not come again."""
    return st.sampled_from([1, 1, 1, 2, 50])


def _unknown():
    number = st.sampled_from([12, 15, 16, 99, 19_000, 2**29 - 1])
    return st.one_of(
        st.builds(lambda n, content: delimited(n, content), number, st.binary(max_size=20)),
        st.builds(
            lambda n, depth: tag(n, 3) * depth + tag(n, 4) * depth, number, st.sampled_from([1, 50, 5000])
        ),
        st.builds(lambda n: tag(n, 5) + struct.pack("<I", 7), number),
        st.builds(lambda depth: _nested(depth), st.sampled_from([2, 90, 110, 2000])),
    )


def _nested(depth):
    content = b""
    for _ in range(depth):
        content = delimited(1, content)
    return content


def _wrong_type(descriptor):
    numbers = [field.number for field in descriptor.fields] or [1]
    return st.builds(
        lambda number, wire_type, rest: tag(number, wire_type) + rest,
        st.sampled_from(numbers),
        st.integers(0, 7),
        st.binary(max_size=12),
    )


def _mutate(given):
    encoded, position, inserted, how = given
    position %= len(encoded) + 1
    if how == 0:
        return encoded[:position]
    if how == 1:
        return encoded[:position] + inserted + encoded[position:]
    if how == 2:
        return encoded[:position] + inserted + encoded[position + len(inserted) :]
    return encoded[:position] + encoded


def _is_repeated(field):
    known = getattr(field, "is_repeated", None)  # a property since protobuf 6.32
    return field.label == Field.LABEL_REPEATED if known is None else known
