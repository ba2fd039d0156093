"""A line that fails, and an address that is another one's by now."""

import time

import pytest

REGISTRY = "static:origin=10.78.0.1:7700"
SIZE = 24 << 20
LINE = {"delay_seconds": 0.005, "mbit": 50}  # so slow that a copy lasts for some seconds
SHORT = {"connect_seconds": 2.0, "unary_seconds": 3.0, "progress_seconds": 5.0, "resume_seconds": 6.0}
NOT_IDLE_SECONDS = 5.0  # what a busy machine may take beyond a bound

CUT = {
    "cut": lambda network, host: network.cut(host),
    "interface": lambda _, host: host.set_interface("down"),
}
MEND = {
    "cut": lambda network, host: network.mend(host),
    "interface": lambda _, host: host.set_interface("up"),
}


@pytest.fixture
def pair(network, write_tree):
    """Two machines, the first of which has a file to copy; its digest is `whole` of what is returned."""
    made = network(**LINE)
    made.whole = write_tree(made.machines[0].files_of("origin") / "ckpt", 1, SIZE)
    return made


def begin(consumer, limits, target, at=SIZE // 8):
    """Begin to copy, and wait until a part is there."""
    agent = consumer.consumer(registry=REGISTRY, limits=limits)
    agent.tell("get", uri="lit://@origin/ckpt", to=str(target), watched=at)
    assert agent.hear()["at"] < SIZE
    return agent


@pytest.mark.parametrize(("whose", "how"), [("origin", "cut"), ("consumer", "interface")])
def test_a_line_that_comes_back(pair, tmp_path, digest, how, whose):
    """A copy goes on where it was when the line was down for 10 s, whichever end it was at."""
    origin, consumer = pair.machines
    origin.origin(registry=REGISTRY)
    agent = begin(consumer, {}, tmp_path / "copy")
    host = pair.hosts[0 if whose == "origin" else 1]
    CUT[how](pair, host)
    time.sleep(10)  # what is tried is that so long a pause does no harm
    MEND[how](pair, host)
    copied = agent.hear()
    assert copied.get("bytes") == SIZE, copied
    assert digest(tmp_path / "copy") == pair.whole


@pytest.mark.parametrize(
    "limits", [pytest.param(SHORT, id="short"), pytest.param({}, id="defaults", marks=pytest.mark.slow)]
)
@pytest.mark.timeout(180)
def test_a_line_that_stays_down(pair, tmp_path, limits):
    """The copy is given up when nothing new came for `progress_seconds`, and its target is as it was."""
    origin, consumer = pair.machines
    origin.origin(registry=REGISTRY)
    agent = begin(consumer, limits, tmp_path / "copy")
    pair.cut(pair.hosts[0])
    cut_at = time.monotonic()
    failed = agent.hear()
    bound = limits.get("progress_seconds", 60.0)
    assert "TransferTimeout" in failed["error"], failed
    assert f"{bound:g} s" in failed["text"]
    assert bound - 1 < time.monotonic() - cut_at < bound + NOT_IDLE_SECONDS
    assert not (tmp_path / "copy").exists()


def test_a_line_that_is_down_before(pair, tmp_path):
    """An origin that cannot be dialed is unavailable within `connect_seconds`, not absent."""
    origin, consumer = pair.machines
    origin.origin(registry=REGISTRY)
    agent = consumer.consumer(registry=REGISTRY, limits=SHORT)
    pair.cut(pair.hosts[0])
    for do, how in (("get", {"to": str(tmp_path / "copy")}), ("exists", {})):
        agent.tell(do, uri="lit://@origin/ckpt", **how)
        failed = agent.hear()
        assert {"OriginUnavailable", "TransferTimeout"} & set(failed["error"]), failed
        # One dial; after it the name is resolved again, and its record is the same.
        assert failed["seconds"] < SHORT["unary_seconds"] + SHORT["connect_seconds"] + NOT_IDLE_SECONDS
    assert not (tmp_path / "copy").exists()


def test_what_a_cut_line_left_is_gone_on_with(pair, tmp_path, digest):
    """Who is killed while the line is down leaves what it has to the next get of the same target."""
    origin, consumer = pair.machines
    origin.origin(registry=REGISTRY)
    agent = begin(consumer, SHORT, tmp_path / "copy", at=SIZE // 2)
    pair.cut(pair.hosts[0])
    agent.kill()
    pair.mend(pair.hosts[0])
    again = consumer.consumer(registry=REGISTRY, limits=SHORT)
    again.tell("get", uri="lit://@origin/ckpt", to=str(tmp_path / "copy"), watched=1)
    assert again.hear()["at"] >= SIZE // 4  # what it starts from
    assert again.hear().get("bytes") == SIZE
    assert digest(tmp_path / "copy") == pair.whole


def test_another_work_at_the_address(pair, tmp_path):
    """Who took over an address is not taken for who had it: not a byte is accepted, and both are named."""
    origin, consumer = pair.machines
    first = origin.origin(registry=REGISTRY)
    agent = consumer.consumer(registry=REGISTRY, limits=SHORT)
    agent.ask("exists", uri="lit://@origin/ckpt")
    first.leave()
    files = origin.files_of("other") / "ckpt"
    files.mkdir(parents=True)
    (files / "00000").write_bytes(b"of another one")
    origin.origin("other", registry="static:other=10.78.0.1:7700")
    for do, how in (("get", {"to": str(tmp_path / "copy")}), ("exists", {})):
        agent.tell(do, uri="lit://@origin/ckpt", **how)
        failed = agent.hear()
        assert "OriginUnavailable" in failed["error"], failed
        assert "origin" in failed["text"]
        assert "other" in failed["text"]
    assert not (tmp_path / "copy").exists()
