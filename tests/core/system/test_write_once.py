"""A small file that is never written twice."""

import os

import pytest

from lit_storage_core.system.write_once import write_once


def test_the_first_one_wins(tmp_path):
    """A second writer changes nothing and raises nothing, and no temporary stays."""
    path = str(tmp_path / "file")
    write_once(path, "first", mode=0o600)
    write_once(path, "second", mode=0o644)
    assert (tmp_path / "file").read_text() == "first"
    assert (os.listdir(tmp_path), os.stat(path).st_mode & 0o777) == (["file"], 0o600)


def test_a_text_that_cannot_be_written_leaves_nothing(tmp_path):
    """Where writing fails there is no file, and no temporary."""
    with pytest.raises(UnicodeEncodeError):
        write_once(str(tmp_path / "file"), "ü", mode=0o600)
    assert os.listdir(tmp_path) == []
