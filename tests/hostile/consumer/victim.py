"""A consumer in a process of its own, which says what a lie cost it: run by the fixture `victim`."""

import json
import os
import resource
import sys
import time

from lit_storage_client.channels import Channels
from lit_storage_client.direct import Ways
from lit_storage_client.fetch import fetch
from lit_storage_client.remote import Remote
from lit_storage_client.security import Security
from lit_storage_proto.limits import Limits
from lit_storage_proto.registry import LiveRecord
from lit_storage_proto.uri import Location


class Asked:
    url, spans_machines = "memory:asked", False

    def __init__(self, record):
        self.record = record

    def resolve(self, name, *, fresh=False):
        return self.record


def peak():
    """Return the most memory that this process had, in bytes."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024


def main(port, root, what, options):
    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))  # a lie that succeeds ends this process alone
    limits = Limits(connect_seconds=5, unary_seconds=20, progress_seconds=20, resume_seconds=0.2)
    channels = Channels(Security(token="secret"), limits)
    remote = Remote(Asked(LiveRecord("trainer", "i1", f"127.0.0.1:{port}", "m")), channels, limits, Ways.ALL)
    where = Location("trainer", "out")
    remote.exists(where)
    before, started = peak(), time.monotonic()
    error = ""
    try:
        if what == "list":
            for _ in remote.list(where):
                pass
        elif what == "stat":
            remote.stat(where)
        else:
            fetch(remote, where, root=root, target=f"{root}/@trainer/out", durable=False, **options)
    except Exception as raised:  # noqa: BLE001  # which one it is, is what is asked
        error = type(raised).__name__
    print(json.dumps({"error": error, "bytes": peak() - before, "seconds": time.monotonic() - started}))
    channels.close()
    os._exit(0 if sys.stdout.flush() is None else 1)


main(sys.argv[1], sys.argv[2], sys.argv[3], json.loads(sys.argv[4]))
