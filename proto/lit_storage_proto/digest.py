"""The digest of a chunk: XXH3-128 in canonical form.

It guards against corruption, not against a malicious peer: trust comes from TLS and tokens.
The canonical form is the big-endian one of the xxHash specification
(https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md).
"""

from __future__ import annotations

import xxhash

DIGEST_BYTES = 16


def chunk_digest(data: bytes | memoryview) -> bytes:
    """Return the 16 bytes of the XXH3-128 of `data`."""
    return xxhash.xxh3_128_digest(data)
