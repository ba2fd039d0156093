"""ARCHITECTURE.md lists every module of the product once, and names no file that does not exist."""

import ast
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
TEXT = (REPOSITORY / "ARCHITECTURE.md").read_text()
SHORT = {
    "server/": "server/lit_storage_server/",
    "client/": "client/lit_storage_client/",
    "core/": "core/lit_storage_core/",
    "proto/": "proto/lit_storage_proto/",
}


def has_code(module: Path) -> bool:
    """Whether there is more in it than a docstring."""
    body = ast.parse(module.read_text()).body
    return bool(body[1:] if body and isinstance(body[0], ast.Expr) else body)


def modules() -> list[str]:
    found = [
        module.relative_to(REPOSITORY)
        for folder in ("lit_storage", "server", "client", "core", "proto")
        for module in (REPOSITORY / folder).glob("**/*.py")
        if "_pb2" not in module.name and (module.name != "__init__.py" or has_code(module))
    ]
    return sorted(map(str, found))


def test_every_module_once():
    """The section "Every module" has one row for each module, below its folder."""
    rows, folder = [], ""
    for line in TEXT.partition("\n## Every module\n")[2].partition("\n## ")[0].splitlines():
        if heading := re.fullmatch(r"### `(\S+/)`", line):
            folder = heading[1]
        elif row := re.fullmatch(r"\| `(\S+)` \| (.+) \|", line):
            rows.append(folder + row[1])
    assert sorted(rows) == modules()


def test_paths():
    """Each path with a folder in it is that of a file."""
    named = re.findall(r"`([a-z_]+/[^`\s]+\.(?:py|proto|md|toml))`", TEXT)
    assert len(named) > 60
    for name in named:
        folder = name.partition("/")[0] + "/"
        assert "<" in name or (REPOSITORY / name.replace(folder, SHORT.get(folder, folder), 1)).is_file(), (
            name
        )


def test_nothing_lies_loose():
    """Every module of a package that has parts lies in one of them; `proto` stays flat."""
    allowed = {"__init__.py", "__main__.py"}
    for folder in ("server/lit_storage_server", "client/lit_storage_client", "core/lit_storage_core"):
        assert {module.name for module in (REPOSITORY / folder).glob("*.py")} <= allowed, folder
    assert {module.name for module in (REPOSITORY / "lit_storage").glob("*.py")} <= allowed | {"path.py"}


LINUX = {
    *(
        "O_PATH",
        "pidfd_open",
        "pidfd_send_signal",
        "memfd_create",
        "copy_file_range",
        "TCP_INFO",
        "SO_PEERCRED",
    ),
    *("CDLL", "ioctl", "SCM_RIGHTS", "CLOCK_BOOTTIME"),
}


def uses_linux(module: Path) -> bool:
    """Whether it names a facility of Linux alone, reads below /proc, or dials an abstract socket."""
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.JoinedStr) and node.values:
            node = node.values[0]
            if isinstance(node, ast.Constant) and node.value == "\0":
                return True
        text = node.value if isinstance(node, ast.Constant) else None
        if isinstance(text, str) and text.startswith("/proc/"):
            return True
        if isinstance(node, ast.Attribute) and node.attr in LINUX:
            return True
    return False


@pytest.mark.slow
def test_macos():
    """The section on macOS names each module that uses what Linux alone has."""
    section = TEXT.partition("macOS needs a counterpart")[2].partition("\n## ")[0]
    named = re.findall(r"`([a-z_]+/\S+\.py)`", section)
    full = {
        name.replace(top, SHORT.get(top, top), 1) for name in named for top in [name.partition("/")[0] + "/"]
    }
    assert {name for name in modules() if uses_linux(REPOSITORY / name)} <= full
