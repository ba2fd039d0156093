"""What a process that this product starts for itself inherits of the environment: no secrets."""

from __future__ import annotations

import os

_SECRETS = ("LIT_STORAGE_TOKEN", "LIT_STORAGE_ETCD_PASSWORD")


def without_secrets() -> dict[str, str]:
    """Return the environment of this process without the variables that hold a secret.

    What needs one is told it through a socket: an environment can be read for as long as its process lives.
    """
    return {name: value for name, value in os.environ.items() if name not in _SECRETS}
