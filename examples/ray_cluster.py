"""One Work trains on a node of a Ray cluster and another one, wherever it lands, gets the checkpoint.

As it is, ``python examples/ray_cluster.py`` runs both on this machine. On a cluster, with
``pip install 'lit-storage[ray]'`` on every node, an etcd that all nodes reach and TLS files on each of them:

    ray start --head                                    # on one node, and on the others:
    ray start --address=10.0.0.1:6379 --resources='{"big_disk": 1}'

    export LIT_STORAGE_EXECUTOR=ray
    export LIT_STORAGE_REGISTRY=etcd://10.0.0.1:2379/experiments
    export LIT_STORAGE_ROOT=/var/lib/lit-storage        # on each node, for the files of its Works
    export LIT_STORAGE_TLS_CERT=… LIT_STORAGE_TLS_KEY=… LIT_STORAGE_TLS_CA=…
    python examples/ray_cluster.py
"""

import json

from lit_storage import App, Flow, Path, Work, current


class Train(Work):
    def __init__(self) -> None:
        super().__init__(num_cpus=1)  # num_gpus=1 for a GPU; run() finds it in CUDA_VISIBLE_DEVICES
        self.checkpoint = "lit://checkpoint"

    def run(self, epochs: int) -> None:
        self.checkpoint.mkdir(exist_ok=True)
        for epoch in range(1, epochs + 1):
            (self.checkpoint / f"epoch-{epoch}.json").write_text(json.dumps({"loss": 1 / epoch}))


class Evaluate(Work):
    def __init__(self) -> None:
        super().__init__(num_cpus=1, resources={"big_disk": 1})

    def run(self, checkpoint: Path) -> dict[str, float]:
        # The files are here already, on whatever node this is.
        assert str(checkpoint).startswith(current().storage_root)
        return {file.stem: json.loads(file.read_text())["loss"] for file in sorted(checkpoint.iterdir())}


class Pipeline(Flow):
    def __init__(self) -> None:
        super().__init__()
        self.train, self.evaluate = Train(), Evaluate()

    def run(self) -> None:
        self.train.run(epochs=3)
        for epoch, loss in self.evaluate.run(self.train.checkpoint).items():
            print(f"{epoch}: loss {loss:.2f}")


app = App(Pipeline())

if __name__ == "__main__":
    app.run()
