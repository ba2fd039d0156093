"""The digest is XXH3-128 in canonical form."""

import pytest

from lit_storage_proto.digest import DIGEST_BYTES, chunk_digest

# From the XXH3-128 reference implementation with seed 0.
KNOWN = [(b"", "99aa06d3014798d86001c324468d497f"), (b"a", "a96faf705af16834e6c632b61e964e1f")]


@pytest.mark.parametrize(("data", "digest"), KNOWN)
def test_known_values(data, digest):
    """Known inputs have the digests of the reference implementation, big-endian."""
    assert (chunk_digest(data).hex(), len(chunk_digest(data))) == (digest, DIGEST_BYTES)


def test_views():
    """A view has the digest of the bytes that it shows."""
    assert chunk_digest(memoryview(b"xaby")[1:3]) == chunk_digest(b"ab")
