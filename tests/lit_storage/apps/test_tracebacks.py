"""Which frames of a traceback are the user's own."""

import pytest

import lit_storage
from lit_storage.apps.tracebacks import user_line


def call_of_a_user(root):
    return lit_storage.connect(root=root, registry="nonsense:")


def test_our_frames_are_no_users(tmp_path):
    """An error from below says where the user's code called it, and nothing of ours."""
    with pytest.raises(lit_storage.InvalidURI) as caught:
        call_of_a_user(tmp_path)
    last = caught.traceback[-1].frame.f_globals["__name__"]
    assert last == "lit_storage_core.registries"  # else this test would not show what it says
    assert user_line(caught.value).startswith(f"{__file__}:")
    assert user_line(caught.value).endswith(", in call_of_a_user")
