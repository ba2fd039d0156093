"""connect() where this process has a session: it returns the same one, counted, or a view of a joined one."""

import threading

import pytest

import lit_storage
from lit_storage import NotAttached, Path, Security
from lit_storage.sessions.session import connect_flow
from lit_storage_proto.limits import Limits


def test_a_second_connect_returns_the_same_session(root):
    """It ends with the last close(), as a notebook cell that runs again expects."""
    first = lit_storage.connect()
    with lit_storage.connect() as second:
        assert second is first
    assert Path("lit://@nobody/x").exists_remote() is False
    first.close()
    assert lit_storage.current() is None


def test_more_closes_than_connects_do_nothing(root):
    """After its end, close() of a session leaves the next one alone."""
    former = lit_storage.connect()
    former.close()
    with lit_storage.connect() as session:
        former.close()
        assert lit_storage.current() is session


@pytest.mark.parametrize(
    "open_another", [lambda: lit_storage.connect(root="/elsewhere"), lambda: lit_storage.join("a")]
)
def test_the_error_says_how_often_to_close(root, open_another):
    """A session that was returned three times is closed three times before another one."""
    sessions = [lit_storage.connect() for _ in range(3)]
    with pytest.raises(RuntimeError, match=r"close\(\) it 3 times"):
        open_another()
    for session in sessions:
        assert lit_storage.current() is session
        session.close()
    assert lit_storage.current() is None


def test_the_same_settings_in_other_words(root, monkeypatch, tmp_path):
    """A relative root, the path of the registry's file and equal limits mean the same session."""
    with lit_storage.connect(limits=Limits(resolve_seconds=4)) as session:
        monkeypatch.chdir(tmp_path)
        others = [
            {"root": "root"},
            {"registry": f"sqlite://{root}/../root/registry.db"},
            {"limits": Limits(resolve_seconds=4)},
            {"security": session.security},
        ]
        for settings in others:
            with lit_storage.connect(**settings) as same:
                assert same is session


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"root": "/elsewhere"}, "another root"),
        ({"registry": "memory:x"}, "another registry"),
        ({"security": Security("other token")}, "another security"),
        ({"limits": Limits(resolve_seconds=4)}, "another limits"),
        ({"root": "/elsewhere", "limits": Limits(resolve_seconds=4)}, "another root and limits"),
    ],
)
@pytest.mark.parametrize("open_session", [lit_storage.connect, lambda: lit_storage.join("a")])
def test_other_settings_are_refused(root, settings, named, open_session):
    """The error names what differs and the way out, and the session goes on."""
    with open_session() as session:
        with pytest.raises(RuntimeError, match=rf"session already, .*{named}; leave that out .* close"):
            lit_storage.connect(**settings)
        assert lit_storage.current() is session


def test_connect_in_a_joined_process_is_a_view(root):
    """What it returns does what the session does, and to close it ends nothing."""
    with lit_storage.join("a") as session:
        with lit_storage.connect() as view:
            assert (view.name, view.endpoint, repr(view)) == ("a", session.endpoint, repr(session))
            view.declare(Path("lit://x")).write_text("1")
        view.close()
        assert lit_storage.current() is session
        assert session.persisted == {"x"}


def test_join_does_not_take_the_place_of_connect(root):
    """A connected process closes its session before it joins."""
    with lit_storage.connect():
        with pytest.raises(RuntimeError, match="close"):
            lit_storage.join("a")
        assert lit_storage.current().name is None


def test_a_flow_does_not_connect(root):
    """It moves no files, and says so."""
    session = connect_flow(str(root), None, None, None)
    with pytest.raises(NotAttached, match=r"a Flow cannot connect\(\)"):
        lit_storage.connect()
    session.close()


def test_threads_share_one_session(root):
    """Threads that connect and close at the same time neither fail nor end each other's session."""
    failed = []

    def use():
        try:
            for _ in range(10):
                with lit_storage.connect():
                    assert Path("lit://@nobody/x").exists_remote() is False
        except BaseException as error:  # noqa: BLE001  it is looked at below
            failed.append(error)

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (failed, lit_storage.current()) == ([], None)
