"""Programs that a test starts, and the processes that those start."""

import contextlib
import glob
import os
import pickle


def kill_all(programs):
    """End programs, each with its `process`, whether or not they still run."""
    for program in programs:
        if program.process.poll() is None:
            program.process.kill()
        program.process.communicate()


def children_of(pid):
    """Return the ids of the processes that the threads of one started and that did not end."""
    found = []
    for path in glob.glob(f"/proc/{pid}/task/*/children"):
        with contextlib.suppress(OSError), open(path) as file:
            found += [int(child) for child in file.read().split()]
    return found


def forked(function):
    """Return what a function returns in a forked child; raise what it raises."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            answer = (function(), None)
        except BaseException as error:  # noqa: BLE001  it is raised in the parent
            answer = (None, error)
        os.write(writing, pickle.dumps(answer))
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        value, error = pickle.load(file)  # noqa: S301
    os.waitpid(child, 0)
    if error is not None:
        raise error
    return value
