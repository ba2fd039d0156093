"""A link that somebody plants in a share is followed within the share, and never out of it."""

import itertools
import os
import shutil

import grpc
import pytest

from tests.hostile.origin.attacker import ASK, CANARY, REFUSALS, ask

_numbers = itertools.count()


@pytest.fixture
def plant(origin):
    """Make a directory in the share with links by their names; return its path in the share.

    It is removed after the test, since others get the whole share.
    """
    made = []

    def plant(**links):
        name = f"planted-{next(_numbers)}"
        made.append(origin.root / name)
        made[-1].mkdir()
        for link, target in links.items():
            os.symlink(target, made[-1] / link)
        return name

    yield plant
    for directory in made:
        shutil.rmtree(directory)


@pytest.fixture(scope="module")
def held_open(origin):
    """A descriptor that the serving process holds of a file outside, and one of the directory."""
    fds = os.open(origin.outside / "canary", os.O_RDONLY), os.open(origin.outside, os.O_RDONLY)
    yield {"fd": fds[0], "directory_fd": fds[1], "pid": os.getpid()}
    for fd in fds:
        os.close(fd)


FILES = {
    "absolute": {"link": "{outside}/canary"},
    "relative": {"link": "../../root-outside/canary"},
    "chain": {"link": "one", "one": "two", "two": "{outside}/canary"},
    "long chain": {"link": "n0", **{f"n{n}": f"n{n + 1}" for n in range(30)}, "n30": "{outside}/canary"},
    "absolute through the share": {"link": "{root}/../root-outside/canary"},
    "absolute with two slashes": {"link": "//{outside}/canary"},
    "up from a directory of the share": {"link": "../a/b/../../../root-outside/canary"},
    "up from where another link leads": {"link": "far/../../root-outside/canary", "far": "{root}/a"},
    "proc root": {"link": "/proc/self/root{outside}/canary"},
    "proc root of a pid": {"link": "/proc/{pid}/root{outside}/canary"},
    "proc descriptor": {"link": "/proc/self/fd/{fd}"},
    "proc descriptor of a pid": {"link": "/proc/{pid}/fd/{fd}"},
    "proc descriptor of a thread": {"link": "/proc/thread-self/fd/{fd}"},
    "dev fd": {"link": "/dev/fd/{fd}"},
    "stdin": {"link": "/dev/stdin"},
    "directory descriptor": {"link": "/proc/self/fd/{directory_fd}/canary"},
    "a copy": {"link": "../@trainer/x/f"},
    "staging": {"link": "../.staging/x/f"},
    "a copy, absolute": {"link": "{root}/@trainer/x/f"},
    "a copy in a chain": {"link": "copies/x/f", "copies": "../@trainer"},
}


@pytest.mark.parametrize("rpc", ASK)
def test_a_link_out_is_not_followed(origin, plant, held_open, rpc):
    """Asked for by its own path, it is refused, whatever its text is."""
    where = {"outside": origin.outside, "root": origin.root, **held_open}
    for kind, links in FILES.items():
        name = plant(**{link: text.format(**where) for link, text in links.items()})
        came, code = ask(origin.stub, rpc, f"{name}/link")
        assert code in REFUSALS, kind
        assert CANARY not in came, kind


TREES = [rpc for rpc in ASK if rpc.startswith(("stream", "list"))]


@pytest.mark.parametrize("rpc", TREES)
def test_a_tree_with_a_link_out_comes_without_what_it_means(origin, plant, held_open, rpc):
    """The rest of the tree comes, also where links are followed."""
    where = {"outside": origin.outside, "root": origin.root, **held_open}
    for kind, links in FILES.items():
        name = plant(**{link: text.format(**where) for link, text in links.items()})
        (origin.root / name / "file").write_bytes(b"innocent")
        came, code = ask(origin.stub, rpc, name)
        assert code is grpc.StatusCode.OK, kind
        assert CANARY not in came, kind


DIRECTORIES = {
    "absolute": "{outside}",
    "relative": "../../root-outside",
    "slash": "/",
    "up": "../..",
    "proc root": "/proc/self/root",
    "proc cwd": "/proc/self/cwd",
    "proc cwd of a pid": "/proc/{pid}/cwd",
    "proc descriptor": "/proc/self/fd/{directory_fd}",
    "dev fd": "/dev/fd/{directory_fd}",
    "copies": "../@trainer",
    "staging": "../.staging",
}


@pytest.mark.parametrize("rpc", ASK)
@pytest.mark.parametrize("below", ["canary", "x/f"])
def test_a_directory_that_is_a_link_out_is_not_entered(origin, plant, held_open, rpc, below):
    """Whatever lies below it; a path through it is refused."""
    where = {"outside": origin.outside, "root": origin.root, **held_open}
    for kind, text in DIRECTORIES.items():
        name = plant(link=text.format(**where))
        came, code = ask(origin.stub, rpc, f"{name}/link/{below}")
        assert code in REFUSALS, kind
        assert CANARY not in came, kind


@pytest.mark.parametrize("rpc", TREES)
def test_a_tree_with_a_directory_link_out_comes_without_it(origin, plant, held_open, rpc):
    """Nothing of what lies there is listed or sent, not even a name."""
    where = {"outside": origin.outside, "root": origin.root, **held_open}
    for kind, text in DIRECTORIES.items():
        came, code = ask(origin.stub, rpc, plant(link=text.format(**where)))
        assert code is grpc.StatusCode.OK, kind
        assert CANARY not in came, kind
        assert b"canary" not in came.replace(os.fsencode(str(origin.outside)), b""), kind


@pytest.mark.parametrize("rpc", ASK)
@pytest.mark.parametrize(
    "links", [{"link": "link"}, {"link": "other", "other": "link"}, {"link": "link/x"}, {"link": "./."}]
)
def test_a_loop_ends(origin, plant, rpc, links):
    """Links that lead to each other, or to where they lie, end in a status, not in a wait."""
    name = plant(**links)
    came, code = ask(origin.stub, rpc, f"{name}/link")
    assert code in (*REFUSALS, grpc.StatusCode.OK)
    assert ask(origin.stub, "stream-follow", name)[1] is grpc.StatusCode.OK


@pytest.mark.parametrize("rpc", TREES)
@pytest.mark.parametrize("text", ["..", "../", "{root}", "../a/.."])
def test_a_link_to_the_storage_root_hides_what_is_reserved(origin, plant, rpc, text):
    """Where the tree holds the whole root through a link, copies and stagings are left out of it."""
    name = plant(up=text.format(root=origin.root))
    came, code = ask(origin.stub, rpc, f"{name}/up" if rpc.startswith("stream-f") else name)
    assert code is grpc.StatusCode.OK
    assert CANARY not in came


@pytest.mark.parametrize("rpc", ASK)
@pytest.mark.parametrize("text", ["../a/b/file", "{root}/a/b/file", "../a/../a/b/file", "within/b/file"])
def test_a_link_within_the_share_is_followed(origin, plant, rpc, text):
    """Else all of the above would prove nothing."""
    name = plant(link=text.format(root=origin.root), within="../a")
    assert ask(origin.stub, rpc, f"{name}/link")[1] is grpc.StatusCode.OK


def test_a_hard_link_is_a_file_of_the_share(origin):
    """It has no other place: who can make one in a share, and may write the file, shares it."""
    os.link(origin.outside / "canary", origin.root / "hard")
    came, code = ask(origin.stub, "stream", "hard")
    os.unlink(origin.root / "hard")
    assert (code, CANARY in came) == (grpc.StatusCode.OK, True)
