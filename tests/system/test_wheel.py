"""The wheel holds the five import packages and nothing else, and works where only it is installed."""

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PACKAGES = {
    "lit_storage",
    "lit_storage_server",
    "lit_storage_client",
    "lit_storage_core",
    "lit_storage_proto",
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, REPOSITORY]
    subprocess.run(build, check=True, capture_output=True, timeout=100)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python that has the wheel, and its dependencies by PYTHONPATH, where no .pth file counts."""
    folder = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True, timeout=60)
    python = folder / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", wheel]
    subprocess.run([*install, "--no-index"], check=True, timeout=100)
    return python


def run(python: Path, code: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": sysconfig.get_path("purelib")}
    return subprocess.run(
        [python, "-P", "-c", code],
        env=environment,
        cwd=python.parent,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.slow
def test_top_level(names: set[str]) -> None:
    """Exactly five import packages and the metadata lie at the top level."""
    top = {name.split("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == PACKAGES
    assert len(top) == len(PACKAGES) + 1


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_typed(names: set[str], package: str) -> None:
    """Each package says that it is typed."""
    assert f"{package}/py.typed" in names


@pytest.mark.parametrize("suffix", [".proto", "_pb2.py", "_pb2.pyi", "_pb2_grpc.py", "_pb2_grpc.pyi"])
def test_wire(names: set[str], suffix: str) -> None:
    """The definition of the wire and its stubs are included."""
    assert f"lit_storage_proto/v1/path_storage{suffix}" in names


def test_every_module(names: set[str]) -> None:
    """Every module of the five packages is in the wheel."""
    for folder in [".", "server", "client", "core", "proto"]:
        for package in PACKAGES:
            modules = (REPOSITORY / folder).glob(f"{package}/**/*.py")
            assert {module.relative_to(REPOSITORY / folder).as_posix() for module in modules} <= names


def test_license(names: set[str]) -> None:
    """The licence travels with the wheel."""
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


@pytest.mark.slow
def test_import(installed: Path) -> None:
    """What people import works from the wheel alone, and comes from there."""
    done = run(installed, "import lit_storage; print(lit_storage.Path.__module__, lit_storage.__file__)")
    assert done.returncode == 0, done.stderr
    assert str(installed.parents[1]) in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", ["server", "client", "core", "proto", "tests", "examples"])
def test_no_stray_import(installed: Path, name: str) -> None:
    """No folder of the repository can be imported where only the wheel is installed."""
    assert "ModuleNotFoundError" in run(installed, f"import {name}").stderr


def test_command(installed: Path) -> None:
    """The wheel installs the command lit-storage."""
    assert (installed.parent / "lit-storage").is_file()
