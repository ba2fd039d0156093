"""One Work trains a classifier and another one, in its own process, checks what came out.

Run it with ``make demo``, ``python examples/share_checkpoint.py`` or
``lit-storage run examples/share_checkpoint.py``. It needs scikit-learn and safetensors.
"""

import json
import os

import numpy as np
from safetensors.numpy import load_file, save_file
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

from lit_storage import App, Flow, Path, Work

EPOCHS = 20
LEAST_ACCURACY = 0.95


def digits() -> list[np.ndarray]:
    """Handwritten digits, 8 by 8 pixels: training images, held-out images, and the labels of both."""
    images, labels = load_digits(return_X_y=True)
    return train_test_split(images, labels, test_size=0.25, random_state=0, stratify=labels)


def accuracy(weights: dict[str, np.ndarray], images: np.ndarray, labels: np.ndarray) -> float:
    """Share of `images` to which the network gives the right label."""
    inputs = (images - weights["mean"]) / weights["scale"]
    hidden = np.maximum(inputs @ weights["hidden"] + weights["hidden_bias"], 0)
    scores = hidden @ weights["output"] + weights["output_bias"]
    return float((scores.argmax(axis=1) == labels).mean())


class Train(Work):
    def __init__(self) -> None:
        super().__init__()
        # A str that starts with lit:// becomes a Path: a directory of this Work, open to the others.
        self.checkpoints = "lit://outputs/checkpoints"

    def run(self) -> None:
        images, _, labels, _ = digits()
        scaler = {"mean": images.mean(axis=0), "scale": images.std(axis=0) + 1.0}
        model = MLPClassifier(hidden_layer_sizes=(64,), batch_size=32, random_state=0)
        for epoch in range(EPOCHS):
            model.partial_fit((images - scaler["mean"]) / scaler["scale"], labels, classes=np.unique(labels))
            layers = dict(zip(["hidden", "output"], model.coefs_, strict=True))
            biases = dict(zip(["hidden_bias", "output_bias"], model.intercepts_, strict=True))
            weights = {**scaler, **layers, **biases}
            checkpoint = self.checkpoints / f"epoch-{epoch:02}"
            os.makedirs(checkpoint, exist_ok=True)  # a Path is a pathlib.Path: whatever takes one, takes it
            save_file(weights, checkpoint / "weights.safetensors")
            (checkpoint / "config.json").write_text(json.dumps({"epoch": epoch, **model.get_params()}))
            metrics = {"accuracy_in_training": accuracy(weights, images, labels)}
            (checkpoint / "metrics.json").write_text(json.dumps(metrics))
        print(f"Train: {EPOCHS} checkpoints are in {self.checkpoints}", flush=True)


class Deploy(Work):
    def run(self, checkpoints: Path) -> None:
        # The files are here already: they were copied, and their bytes verified, before this started.
        last = max(checkpoints.iterdir())
        config = json.loads((last / "config.json").read_text())
        _, images, _, labels = digits()
        reached = accuracy(load_file(last / "weights.safetensors"), images, labels)
        print(f"Deploy: {last}, of epoch {config['epoch']}, is right about {reached:.1%} of unseen digits")
        if reached < LEAST_ACCURACY:
            raise RuntimeError(f"{reached:.1%} is less than {LEAST_ACCURACY:.0%}")


class Pipeline(Flow):
    def __init__(self) -> None:
        super().__init__()
        self.train = Train()
        self.deploy = Deploy()

    def run(self) -> None:
        self.train.run()  # returns when training has ended
        self.deploy.run(self.train.checkpoints)


app = App(Pipeline())

if __name__ == "__main__":
    app.run()
