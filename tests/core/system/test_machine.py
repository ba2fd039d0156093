"""The id of this machine."""

import os
import subprocess
import sys
import tempfile

import pytest

from lit_storage_core.system.machine import machine_id
from lit_storage_proto.errors import AccessDenied, StorageError


def test_it_stays():
    """One root gives the same id each time, and leaves nothing but its file."""
    with tempfile.TemporaryDirectory() as root:
        assert machine_id(f"{root}/new") == machine_id(f"{root}/new")
        assert os.listdir(f"{root}/new") == ["machine-id"]


def test_two_roots_have_two(tmp_path):
    """The id is random."""
    assert machine_id(str(tmp_path / "a")) != machine_id(str(tmp_path / "b"))


def test_the_environment_comes_first(tmp_path, monkeypatch):
    """LIT_STORAGE_MACHINE_ID is the id where it is set, and nothing is written then."""
    monkeypatch.setenv("LIT_STORAGE_MACHINE_ID", "node-7")
    assert machine_id(str(tmp_path)) == "node-7"
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
def test_many_processes_agree(tmp_path):
    """Eight processes that start at once on a new root all read one id."""
    script = """
import sys; from lit_storage_core.system.machine import machine_id
input(); print(machine_id(sys.argv[1]))
"""
    command = [sys.executable, "-c", script, str(tmp_path / "root")]
    processes = [subprocess.Popen(command, stdin=-1, stdout=-1, text=True) for _ in range(8)]
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    assert len({process.communicate(timeout=30)[0] for process in processes}) == 1


def test_a_root_that_is_a_file_is_refused(tmp_path):
    """A root that cannot be made is AccessDenied, and the sentence says what to do."""
    (tmp_path / "file").touch()
    for root in ("file", "file/below"):
        with pytest.raises(
            AccessDenied, match="name a root that this process may write, or set LIT_STORAGE_MACHINE_ID"
        ):
            machine_id(str(tmp_path / root))


@pytest.mark.slow
def test_a_root_without_permission_is_refused():
    """A root that this user may not write is AccessDenied; an id that is already there can be read."""
    script = (
        "import os, sys; from lit_storage_core.system.machine import machine_id\n"
        "if os.geteuid() == 0: os.seteuid(65534)\n"
        "print(machine_id(sys.argv[1]))"
    )
    with tempfile.TemporaryDirectory() as root:
        os.chmod(root, 0o555)
        command = [sys.executable, "-c", script, root]
        refused = subprocess.run(command, capture_output=True, text=True, timeout=30)
        os.chmod(root, 0o755)
        kept = machine_id(root)
        os.chmod(root, 0o555)
        read = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert "AccessDenied: no machine id can be kept" in refused.stderr
    assert read.stdout.strip() == kept


def test_an_empty_file_is_named(tmp_path):
    """A file without an id in it is an error that names the file."""
    (tmp_path / "machine-id").touch()
    with pytest.raises(StorageError, match="machine-id holds no machine id; remove it"):
        machine_id(str(tmp_path))
