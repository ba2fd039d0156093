"""What a type checker sees of the public API; checked, never run."""

import os
from typing import Any, assert_type

import lit_storage
from lit_storage import App, Flow, Path, Session, Status, Transfer, Work


class Train(Work):
    def __init__(self, epochs: int) -> None:
        super().__init__(parallel=True)
        self.checkpoint_dir: Path = Path("lit://outputs/checkpoints")
        self.epochs = epochs

    def run(self, data: Path, *, rate: float = 0.1) -> None:
        assert_type(self.checkpoint_dir / "x", Path)
        os.listdir(data)


class Loop:
    def run(self, steps: int) -> int:
        return steps


class FromMixin(Loop, Work):
    pass


class Async(Work):
    async def run(self, steps: int) -> int:
        return steps


class Pipeline(Flow):
    def __init__(self) -> None:
        super().__init__()
        self.train = Train(3)
        self.mixed = FromMixin()

    def run(self) -> None:
        self.train.run(self.train.checkpoint_dir, rate=0.2)
        assert_type(self.mixed.run(3), int)
        assert_type(self.train.status, Status)
        assert_type(self.train.exception, BaseException | None)
        assert_type(self.train.wait(timeout=1.0), Any)
        self.train.stop()
        self.train.misspelt  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue] # noqa: B018


App(Pipeline(), on_flow_end="stop").run()

with lit_storage.join("trainer-0") as session:
    assert_type(session, Session)
    assert_type(session.declare("/data"), Path)
    assert_type(session.endpoint, str | None)

with lit_storage.connect():
    assert_type(Path("lit://@trainer-0/x").get(overwrite=True, to="here"), Transfer)
