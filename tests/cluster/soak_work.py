"""A Work of the soak: makes checkpoints, gets those of the others, and tells whatever befalls it.

    soak_work.py NAME BIND SEED OTHER...

A checkpoint is a directory of files with a manifest, which names the owner, a generation and the SHA-256
of each file; it is put in place by renaming. What is got must be one of its owner's checkpoints to
the last bit, and no older than what was got before. At the word "finish" no more are made; each word
"get NAME" after that is one get. The end of its input is the end of the Work.
"""

import hashlib
import json
import os
import pathlib
import random
import select
import shutil
import sys

import lit_storage
from lit_storage import Limits, Path, StorageError

LIMITS = Limits(
    connect_seconds=2.0, unary_seconds=4.0, progress_seconds=8.0, resume_seconds=8.0, lease_seconds=6.0
)
LARGE, SMALL, FILES = 2 << 20, 4 << 10, 12


def tell(**message):
    print(json.dumps(message), flush=True)


def make(directory, owner, generation, numbers):
    """Write a checkpoint; its manifest comes last."""
    directory.mkdir(parents=True)
    digests = {}
    for index in range(FILES):
        data = numbers.randbytes(numbers.randrange(LARGE) if index == 0 else numbers.randrange(SMALL))
        (directory / f"{index}").write_bytes(data)
        digests[f"{index}"] = hashlib.sha256(data).hexdigest()
    manifest = {"owner": owner, "generation": generation, "digests": digests}
    (directory / "manifest").write_text(json.dumps(manifest))


def check(directory, owner):
    """Return the generation of a checkpoint that is whole.

    Raises:
        ValueError: it is none.
    """
    manifest = json.loads((directory / "manifest").read_text())
    names = sorted(path.name for path in directory.iterdir())
    if manifest["owner"] != owner or names != sorted(["manifest", *manifest["digests"]]):
        raise ValueError(f"{directory} is of {manifest['owner']} and holds {names}")
    for name, digest in manifest["digests"].items():
        if hashlib.sha256((directory / name).read_bytes()).hexdigest() != digest:
            raise ValueError(f"{name} of {directory} is damaged")
    return manifest["generation"]


class SoakWork:
    """One of the eight."""

    def __init__(self, name, others, numbers, root):
        self._name = name
        self._others = others
        self._numbers = numbers
        self._root = root
        self._generation = 0
        self._seen = {}
        for path in root.glob("ckpt*/manifest"):
            self._generation = max(self._generation, json.loads(path.read_text())["generation"])
        for old in root.glob("ckpt-*"):
            shutil.rmtree(old)  # a killed one's
        for other in others:  # a copy that an earlier process of this name got is whole, whatever killed it
            copy = root / f"@{other}" / "ckpt"
            if copy.exists():
                self._seen[other] = check(copy, other)

    def put(self):
        """Make the next checkpoint, and put it in the place of the last one."""
        new, old, place = (self._root / name for name in ("ckpt-new", "ckpt-old", "ckpt"))
        make(new, self._name, self._generation + 1, self._numbers)
        if place.exists():
            place.rename(old)
        new.rename(place)
        self._generation += 1
        shutil.rmtree(old, ignore_errors=True)
        tell(made=self._generation)

    def get(self, other):
        """Get the checkpoint of another one, and see that it is one."""
        try:
            Path(f"lit://@{other}/ckpt").get(overwrite=True, durable=False)
        except StorageError as error:
            tell(failed=type(error).__name__, of=other, text=str(error))
            if (self._root / f"@{other}" / "ckpt").exists():
                self._check(other)
            return
        tell(got=other, generation=self._check(other))

    def _check(self, other):
        generation = check(self._root / f"@{other}" / "ckpt", other)
        if generation < self._seen.get(other, 0):
            raise ValueError(f"generation {generation} of {other} came after {self._seen[other]}")
        self._seen[other] = generation
        return generation

    def run(self):
        """Make and get by turns until it is told to finish; then get what is asked for."""
        words = sys.stdin
        while not select.select([words], [], [], 0)[0]:
            if self._numbers.random() < 0.3 or not self._generation:
                self.put()
            else:
                self.get(self._numbers.choice(self._others))
        for line in words:
            word, _, other = line.strip().partition(" ")
            if word == "finish":
                if not (self._root / "ckpt").exists():
                    self.put()
                tell(finished=self._generation)
            else:
                self.get(other)


def main():
    name, bind, seed, others = sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:]
    try:
        session = lit_storage.join(name, bind=bind, limits=LIMITS)
    except StorageError as error:
        tell(refused=type(error).__name__, text=str(error))
        return
    tell(joined=os.getpid())
    try:
        with session:
            SoakWork(name, others, random.Random(seed), pathlib.Path(session.storage_root)).run()
    except Exception as error:
        tell(broken=f"{type(error).__name__}: {error}")
        raise


if __name__ == "__main__":
    main()
