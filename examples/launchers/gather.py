"""Processes that a launcher started give each other their parts of a checkpoint, by path.

    gather.py COUNT RUN

Each of COUNT processes joins under the name that its launcher gives
(`lit_storage.sessions.launcher`), writes its part below a directory named RUN, and gets the parts of
all others. How torchrun, Slurm and Kubernetes start it is in the files beside this one. On several
machines it takes a registry that all reach, and TLS:

    LIT_STORAGE_REGISTRY=etcd://HOST:2379/PREFIX  LIT_STORAGE_BIND=ADDRESS:0  LIT_STORAGE_TOKEN=…
    LIT_STORAGE_TLS_CERT=FILE  LIT_STORAGE_TLS_KEY=FILE  LIT_STORAGE_TLS_CA=FILE
"""

import sys
import time
from collections.abc import Callable

import lit_storage
from lit_storage import Path

SECONDS = 60.0


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Wait for what other processes do; where there is torch.distributed, its barrier does that better."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not come about within {SECONDS:g} s")
        time.sleep(0.1)


def main(count: int, run: str) -> None:
    with lit_storage.join() as session:  # no name: the launcher's variables say it
        assert session.name is not None
        base, _, number = session.name.rpartition("-")  # rank-3, train.task-3, train-3
        others = [f"{base}-{index}" for index in range(count) if index != int(number)]

        mine = Path(f"lit://{run}")
        (mine / "checkpoint").mkdir(parents=True)
        (mine / "checkpoint" / f"part-{number}").write_text(f"what {session.name} computed")
        (mine / "written").touch()
        for other in others:
            theirs = Path(f"lit://@{other}/{run}")
            # Of a process that has not joined yet nothing exists.
            wait_until((theirs / "written").exists_remote, f"{other}'s part")
            copy = theirs / "checkpoint"
            copy.get(overwrite=True)
            said = ", ".join(part.read_text() for part in copy.iterdir())
            sys.stdout.write(f"{session.name} has {said}\n")  # at once: others write to the same place
        (mine / "gathered").touch()

        # Who leaves serves no more. So the first process lets all go when all have everything, and goes last.
        if number != "0":
            everybody = Path(f"lit://@{base}-0/{run}/everybody")
            wait_until(everybody.exists_remote, "the end")
            return
        gathered = [Path(f"lit://@{other}/{run}/gathered") for other in others]
        wait_until(lambda: all(path.exists_remote() for path in gathered), "everybody's copy")
        (mine / "everybody").touch()
        wait_until(lambda: not any(path.exists_remote() for path in gathered), "everybody's end")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
