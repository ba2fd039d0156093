"""What CI installs: wheels by version and hash, as many as pyproject.toml asks for, and no others."""

import importlib.metadata
import os
import re
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

REPOSITORY = Path(__file__).parents[2]
LISTS = sorted((REPOSITORY / ".ci" / "requirements").glob("*.txt"))
PIN = re.compile(r"([A-Za-z0-9._-]+)==([^ ]+) --hash=sha256:[0-9a-f]{64}")


def name_of(package: str) -> str:
    """Return the one spelling of a package's name, by the rule of the packaging specifications."""
    return re.sub(r"[-_.]+", "-", package).lower()


def pins(file: Path) -> dict[str, str]:
    lines = [line for line in file.read_text().splitlines() if not line.startswith("#")]
    matched = [PIN.fullmatch(line) for line in lines]
    assert None not in matched, [line for line in lines if not PIN.fullmatch(line)]
    return {name_of(match[1]): match[2] for match in matched if match}


def asked(extra: str) -> list[Requirement]:
    """Return what lit-storage and an extra of it ask for, with the extras that that one names."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    found = [Requirement(text) for text in project["dependencies"]]
    for requirement in map(Requirement, project["optional-dependencies"][extra]):
        if requirement.name == "lit-storage":
            found += [inner for name in requirement.extras for inner in asked(name)]
        else:
            found.append(requirement)
    return found


@pytest.mark.parametrize("file", LISTS, ids=lambda file: file.stem)
def test_every_line_has_a_version_and_a_hash(file: Path) -> None:
    """Nothing is installed that was not seen when the list was made."""
    assert len(pins(file)) > 50


@pytest.mark.parametrize("file", LISTS, ids=lambda file: file.stem)
def test_list_has_what_pyproject_asks_for(file: Path) -> None:
    """A dependency that was added or raised is in the list; else: make lock."""
    python, extra = file.stem.split("-")
    pinned = pins(file)
    wanted = [
        requirement
        for requirement in asked(extra)
        if requirement.marker is None or requirement.marker.evaluate({"python_version": python})
    ]
    lacking = [
        str(requirement)
        for requirement in wanted
        if not requirement.specifier.contains(pinned.get(name_of(requirement.name), "0"), prereleases=True)
    ]
    assert not lacking


@pytest.mark.skipif(not os.environ.get("LOCKED"), reason="only CI installs what is listed (LOCKED=1)")
def test_installed_is_what_is_listed() -> None:
    """No distribution is installed that the list lacks, nor another version of one."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    (file,) = [file for file in LISTS if file.stem == f"{version}-dev"]
    come_with_python = {"lit-storage", "pip", "setuptools"}
    installed = {
        name: found.version
        # Not of sys.path, to which Ray adds a directory of its own in a process that imports it.
        for found in importlib.metadata.distributions(path=[sysconfig.get_path("purelib")])
        if (name := name_of(found.metadata["Name"])) not in come_with_python
    }
    assert installed == {
        name: release for name, release in pins(file).items() if name not in come_with_python
    }
