"""As share_checkpoint.py, with PyTorch: one Work trains a network, another one loads and checks it.

Run it with ``python examples/share_checkpoint_torch.py``. It needs torch and scikit-learn.
"""

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

from lit_storage import App, Flow, Path, Work

EPOCHS = 20
LEAST_ACCURACY = 0.95


def digits() -> list[torch.Tensor]:
    """Handwritten digits, 8 by 8 pixels: training images, held-out images, and the labels of both."""
    images, labels = load_digits(return_X_y=True)
    parts = train_test_split(images / 16.0, labels, test_size=0.25, random_state=0, stratify=labels)
    kinds = [torch.float32, torch.float32, torch.int64, torch.int64]
    return [torch.tensor(part, dtype=kind) for part, kind in zip(parts, kinds, strict=True)]


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


class Train(Work):
    def __init__(self) -> None:
        super().__init__()
        # A str that starts with lit:// becomes a Path: a directory of this Work, open to the others.
        self.checkpoints = "lit://outputs/torch"

    def run(self) -> None:
        torch.manual_seed(0)
        images, _, labels, _ = digits()
        model = network()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        for epoch in range(EPOCHS):
            for batch in torch.randperm(len(images)).split(32):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
                loss.backward()
                optimizer.step()
            # A Path is a pathlib.Path: torch.save takes it like any other.
            torch.save(
                {"epoch": epoch, "model": model.state_dict()}, self.checkpoints / f"epoch-{epoch:02}.pt"
            )
        print(f"Train: {EPOCHS} checkpoints are in {self.checkpoints}", flush=True)


class Deploy(Work):
    def run(self, checkpoints: Path) -> None:
        # The files are here already: they were copied, and their bytes verified, before this started.
        last = max(checkpoints.iterdir())
        checkpoint = torch.load(last, weights_only=True)
        model = network()
        model.load_state_dict(checkpoint["model"])
        _, images, _, labels = digits()
        with torch.inference_mode():
            reached = (model(images).argmax(dim=1) == labels).float().mean().item()
        print(
            f"Deploy: {last}, of epoch {checkpoint['epoch']}, is right about {reached:.1%} of unseen digits"
        )
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
