"""What both ends of a direct way must agree on; described at ``Direct`` in ``v1/path_storage.proto``."""

from __future__ import annotations

import struct

from lit_storage_proto.limits import KIB

HELLO = b"LITDIRC1"
STRIPED_HELLO = b"LITSTRP1"
TICKET_BYTES = 32

HEADER = struct.Struct("<II")
"""Before each message: its size, and the size of the data that follow it."""
COPYING, COPIED = b"\x01", b"\x00"
"""What a consumer says of a descriptor that came with a message."""

MAX_STRIPES = 16
SEGMENT = struct.Struct("<QI")
"""Before each segment of a striped way: its number and its size."""
MAX_SEGMENT_BYTES = 128 * KIB
