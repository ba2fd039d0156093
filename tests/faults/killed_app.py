"""An app of two Works, of which one makes version after version of a tree and the other looks at all of it.

It is run as ``killed_app.py ROUNDS``, and fails where what arrives is not the version that was made.
"""

import os
import sys

from lit_storage import App, Flow, Limits, Work


class Make(Work):
    def __init__(self):
        super().__init__()
        self.out = "lit://out"

    def run(self, version):
        os.makedirs(self.out, exist_ok=True)
        for part in range(20):
            with open(self.out / str(part), "w") as file:
                file.write(f"{version} " * 5000)


class Look(Work):
    def run(self, out, version):
        assert len(os.listdir(out)) == 20
        for part in os.listdir(out):
            with open(out / part) as file:
                assert set(file.read().split()) == {str(version)}, (part, version)


class Both(Flow):
    def __init__(self):
        super().__init__()
        self.make, self.look = Make(), Look()

    def run(self):
        for version in range(int(sys.argv[1])):
            self.make.run(version)
            self.look.run(self.make.out, version)
            print(version, flush=True)


app = App(Both(), limits=Limits(stop_grace_seconds=5.0, publish_seconds=5.0))

if __name__ == "__main__":
    app.run()
