"""One Work keeps its checkpoints readable after each run; when the app is over, they are read back.

Run it with ``python examples/keep_checkpoints.py``. As it is, the files stay where the Work wrote them. To
keep copies and versions in S3, name a bucket that exists, and say where S3 is and who you are as for every
S3 client; it needs ``pip install 'lit-storage[s3]'``:

    export AWS_ACCESS_KEY_ID=… AWS_SECRET_ACCESS_KEY=…      # and AWS_ENDPOINT_URL=… where it is not Amazon's
    LIT_STORAGE_ARTIFACTS=s3://my-bucket/experiments python examples/keep_checkpoints.py
    lit-storage artifacts ls
"""

import json

import lit_storage
from lit_storage import App, Flow, Path, Work


class Train(Work):
    def __init__(self) -> None:
        super().__init__(persist="run")  # publish when run returns, and not only when the Work stops
        self.checkpoints = "lit://checkpoints"

    def run(self, epoch: int) -> None:
        self.checkpoints.mkdir(exist_ok=True)
        (self.checkpoints / f"epoch-{epoch}.json").write_text(json.dumps({"epoch": epoch, "loss": 1 / epoch}))


class Pipeline(Flow):
    def __init__(self) -> None:
        super().__init__()
        self.train = Train()

    def run(self) -> None:
        for epoch in (1, 2, 3):
            self.train.run(epoch)


app = App(Pipeline())

if __name__ == "__main__":
    app.run()
    # No Work runs any more. What this one left is read from its artifacts, verified as from a live Work.
    with lit_storage.connect():
        checkpoints = Path("lit://@train/checkpoints")
        checkpoints.get(overwrite=True)
        for file in sorted(checkpoints.iterdir()):
            print(f"{file.name}: loss {json.loads(file.read_text())['loss']:.2f}")
