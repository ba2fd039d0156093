"""A consumer in a process of its own, which says what a lie cost it: run by the fixture `victim`."""

import contextlib
import gc
import json
import resource
import sys

from lit_storage_client.fetch import fetch
from lit_storage_client.peers.channels import Channels
from lit_storage_client.peers.direct import Ways
from lit_storage_client.peers.remote import Remote
from lit_storage_core.security.settings import Security
from lit_storage_proto.limits import Limits
from lit_storage_proto.registry import LiveRecord
from lit_storage_proto.uri import Location


class Asked:
    url, spans_machines = "memory:asked", False

    def __init__(self, record):
        self.record = record

    def resolve(self, name, *, fresh=False):
        return self.record


def memory(line):
    """Return what this process has (VmRSS) or had at the most (VmHWM), in bytes."""
    with open("/proc/self/status") as status:
        return next(int(text.split()[1]) for text in status if text.startswith(line)) * 1024


def forget_peak():
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def obey(port, root, what):
    """Do as a test says; return the name of the error."""
    limits = Limits(connect_seconds=30, unary_seconds=60, progress_seconds=60, resume_seconds=0.2)
    channels = Channels(Security(token="secret"), limits)
    remote = Remote(Asked(LiveRecord("trainer", "i1", f"127.0.0.1:{port}", "m")), channels, limits, Ways.ALL)
    where = Location("trainer", "out")
    try:
        if what == "list":
            for _ in remote.list(where):
                pass
        elif what == "stat":
            remote.stat(where)
        else:
            fetch(remote, where, root=root, target=f"{root}/@trainer/out", durable=False)
    except Exception as raised:  # noqa: BLE001  # which one it is, is what is asked
        return type(raised).__name__
    finally:
        channels.close()
    return ""


def main():
    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))  # a lie that succeeds ends this process alone
    for line in sys.stdin:
        gc.collect()
        forget_peak()
        before = memory("VmRSS")
        error = obey(**json.loads(line))
        print(json.dumps({"error": error, "bytes": memory("VmHWM") - before}), flush=True)


main()
