"""Draws how far gets are: lines on a terminal, or a cell of a notebook.

Invariant: where nobody would see a bar, not a character is written, and whatever becomes of a bar,
its get goes on. What runs at once shares one display, a line each.

Drawn by rich, which the command line needs anyway. In a notebook its own display needs ipywidgets,
and warns where they are missing; here what rich draws is shown as HTML, which every notebook can.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

from lit_storage_core.system.names import shown

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

Tell = Callable[[int, int | None], object]
"""Called with the bytes that are done, and those in all or None while that is unknown."""

_EVERY_SECONDS = 0.1  # what comes faster is not seen
_LABEL_CHARACTERS = 30
_NOTEBOOK_COLUMNS = 100
_HTML = '<pre style="margin:0;white-space:pre;font-family:monospace">{code}</pre>'


@contextlib.contextmanager
def bar(label: str, *, leave: bool = True) -> Iterator[Tell | None]:
    """Show a bar while the block runs; yield what moves it, or None where nobody would see it.

    Args:
        label: what it is called; any text.
        leave: whether the last state stays on a terminal.
    """
    display = _display_for(leave=leave)
    if display is None:
        yield None
        return
    with _drawing():
        display.begin(_label(label))
    try:
        yield _now_and_then(display.move)
    finally:
        with _drawing():
            display.end()


class _Display(Protocol):
    """Where one bar is drawn."""

    def begin(self, label: str) -> None: ...
    def move(self, done: int, total: int | None) -> None: ...
    def end(self) -> None: ...


def _display_for(*, leave: bool) -> _Display | None:
    notebook = _is_notebook()
    if not notebook and not _is_terminal():
        return None
    try:
        import rich.progress  # noqa: F401  # whether it is there
    except ImportError:
        warnings.warn(
            "progress=True shows no bar, for rich is not installed; run: pip install rich", stacklevel=2
        )
        return None
    return _Cell() if notebook else _Line(leave=leave)


def _is_notebook() -> bool:
    """Say whether this process is the kernel of a notebook; IPython on a terminal is none."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and getattr(ipython.get_ipython(), "kernel", None) is not None


def _is_terminal() -> bool:
    try:
        return sys.stderr.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
    except (AttributeError, ValueError):  # there is none, or it is closed
        return False


class _Line:
    """A line on the terminal."""

    # That of this process, and how many lines it has.
    _shared: Progress | None = None
    _lines = 0
    _changing = threading.Lock()

    def __init__(self, *, leave: bool) -> None:
        self._leave = leave
        self._task: TaskID | None = None

    def begin(self, label: str) -> None:
        from rich.console import Console

        with _Line._changing:
            _Line._lines += 1
            if _Line._shared is None:
                _Line._shared = _progress(
                    Console(stderr=True, force_jupyter=False), transient=not self._leave
                )
                _Line._shared.start()
            self._task = _Line._shared.add_task(label, total=None)

    def move(self, done: int, total: int | None) -> None:
        if _Line._shared is not None and self._task is not None:
            _Line._shared.update(self._task, completed=done, total=total)

    def end(self) -> None:
        with _Line._changing:
            _Line._lines -= 1
            if not _Line._lines and _Line._shared is not None:
                shared, _Line._shared = _Line._shared, None
                shared.stop()


class _Cell:
    """A part of what a cell of a notebook shows."""

    def begin(self, label: str) -> None:
        from rich.console import Console

        self._progress = _progress(Console(file=io.StringIO(), force_jupyter=False), transient=False)
        self._task = self._progress.add_task(label, total=None)
        display = importlib.import_module("IPython.display").display
        self._shown: Any = display(self._drawn(), raw=True, display_id=True)

    def move(self, done: int, total: int | None) -> None:
        self._progress.update(self._task, completed=done, total=total)
        self._shown.update(self._drawn(), raw=True)

    def end(self) -> None:
        """Leave what is shown."""

    def _drawn(self) -> dict[str, str]:
        """Return the bar in both forms that a notebook keeps."""
        from rich.console import Console

        console = Console(
            file=io.StringIO(),
            record=True,
            width=_NOTEBOOK_COLUMNS,
            color_system="truecolor",
            force_jupyter=False,
        )
        console.print(self._progress.get_renderable())
        html = console.export_html(inline_styles=True, code_format=_HTML, clear=False)
        return {"text/html": html, "text/plain": console.export_text().rstrip()}


def _progress(console: Console, *, transient: bool) -> Progress:
    from rich import progress
    from rich.text import Text

    class Percent(progress.ProgressColumn):
        """Whole percent, never rounded up: 100 only where it is all."""

        def render(self, task: progress.Task) -> Text:
            if task.total is None:
                return Text("")
            return Text(f"{100 if task.finished else int(task.percentage):>3}%", style="progress.percentage")

    return progress.Progress(
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        Percent(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(elapsed_when_finished=True),
        console=console,
        transient=transient,
        # What others print meanwhile goes where it was meant to go.
        redirect_stdout=False,
        redirect_stderr=False,
    )


def _label(text: str) -> str:
    printable = shown(text)[1:-1]
    return printable if len(printable) <= _LABEL_CHARACTERS else printable[: _LABEL_CHARACTERS - 1] + "…"


def _now_and_then(move: Tell) -> Tell:
    due = 0.0

    def tell(done: int, total: int | None) -> None:
        nonlocal due
        now = time.monotonic()
        if now >= due or done == total:
            due = now + _EVERY_SECONDS
            with _drawing():
                move(done, total)

    return tell


def _drawing() -> contextlib.AbstractContextManager[None]:
    """Let an error of a display, as of a terminal that was closed, be the display's own matter."""
    return contextlib.suppress(Exception)
