"""A program on a host, told what to do by lines of JSON, one thing after the other.

Each line names a function below and its arguments, and is answered by one line; a get that is
`watched` also tells, once, that it has so many bytes. At the end of its input the program leaves.
"""

import json
import os
import sys
import threading
import time

import lit_storage
from lit_storage import Limits, Path

_telling = threading.Lock()


def tell(**message):
    with _telling:
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()


def join(limits=None, **how):
    session = lit_storage.join(limits=Limits(**(limits or {})), **how)
    pid = session._server._process.pid if session._server._process else None
    return {"endpoint": session.endpoint, "server": pid, "root": session.storage_root}


def connect(limits=None, **how):
    session = lit_storage.connect(limits=Limits(**(limits or {})), **how)
    return {"root": session.storage_root}


def leave():
    lit_storage.current().close()
    return {}


def exists(uri):
    return {"exists": Path(uri).exists_remote()}


def get(uri, watched=None, **options):
    left = [] if watched is None else [watched]

    def progress(done, _total):
        if left and done >= left[0]:
            left.clear()
            tell(at=done)

    transfer = Path(uri).get(progress=progress, **options)
    return {"how": transfer.how, "bytes": transfer.bytes, "files": transfer.files}


def publish(uri, **options):
    lit_storage.current().declare(Path(uri), **options)
    lit_storage.current().publish()
    return {}


def main():
    tell(ready=os.getpid())
    for line in sys.stdin:
        request = json.loads(line)
        started = time.monotonic()
        try:
            answer = globals()[request.pop("do")](**request)
        except Exception as error:
            kinds = [kind.__name__ for kind in type(error).__mro__]
            answer = {"error": kinds, "text": str(error)}
        tell(**answer, seconds=time.monotonic() - started)


if __name__ == "__main__":
    main()
