"""A registry on a machine of its own: origins that move, and a registry that goes."""

import json
import subprocess
import time

import pytest

SIZE = 24 << 20
LINE = {"delay_seconds": 0.005, "mbit": 50}
LIMITS = {"lease_seconds": 5.0, "resume_seconds": 30.0}
NOT_IDLE_SECONDS = 5.0


@pytest.fixture
def triple(network, write_tree):
    """Three machines: an origin with a file to copy, a consumer, and one with etcd, whose URL is `url`."""
    made = network(3, **LINE)
    made.whole = write_tree(made.machines[0].files_of("origin") / "ckpt", 1, SIZE)
    third = made.machines[2]
    with third.etcd() as etcd:
        made.etcd, made.url = etcd, etcd.new_url()
        for machine in made.machines:
            machine.environment["LIT_STORAGE_REGISTRY"] = made.url
        yield made


def received_bytes(host):
    shown = subprocess.run(
        ["ip", "-n", host.namespace, "-s", "-j", "link", "show", "lab0"], capture_output=True, check=True
    )
    return json.loads(shown.stdout)[0]["stats64"]["rx"]["bytes"]


def begin(consumer, target, at=SIZE // 8, **limits):
    agent = consumer.consumer(limits={**LIMITS, **limits})
    agent.tell("get", uri="lit://@origin/ckpt", to=str(target), watched=at)
    assert agent.hear()["at"] < SIZE
    return agent


def test_an_origin_that_comes_back_on_another_port(triple, tmp_path, digest):
    """A copy whose origin is killed goes on at its next instance, and what was there is not sent again."""
    origin, consumer, _ = triple.machines
    first = origin.origin(limits=LIMITS)
    agent = begin(consumer, tmp_path / "copy", at=SIZE * 3 // 4)
    first.kill()
    origin.origin(port=7701, limits=LIMITS)
    assert agent.hear().get("bytes") == SIZE
    assert digest(tmp_path / "copy") == triple.whole
    assert received_bytes(triple.hosts[1]) < SIZE * 1.25


def test_an_origin_that_comes_back_with_other_files(triple, tmp_path, digest, write_tree):
    """What was copied of the old files is not mixed with the new ones."""
    origin, consumer, _ = triple.machines
    first = origin.origin(limits=LIMITS)
    agent = begin(consumer, tmp_path / "copy", at=SIZE // 2)
    first.kill()
    files = origin.files_of("origin")
    (files / "ckpt").rename(files / "old")
    whole = write_tree(files / "ckpt", 1, SIZE, seed=2)
    origin.origin(port=7701, limits=LIMITS)
    assert agent.hear().get("bytes") == SIZE
    assert digest(tmp_path / "copy") == whole != triple.whole


def test_the_address_of_a_killed_origin(triple, tmp_path):
    """While its lease lasts, who is at its address now is refused; after it, the origin is absent."""
    origin, consumer, _ = triple.machines
    first = origin.origin(limits=LIMITS)
    agent = consumer.consumer(limits=LIMITS)
    agent.ask("exists", uri="lit://@origin/ckpt")
    first.kill()
    (origin.files_of("other") / "ckpt").mkdir(parents=True)
    origin.origin("other", limits=LIMITS)
    agent.tell("get", uri="lit://@origin/ckpt", to=str(tmp_path / "copy"))
    refused = agent.hear()
    assert "OriginUnavailable" in refused["error"], refused
    assert "other" in refused["text"]
    deadline = time.monotonic() + LIMITS["lease_seconds"] + NOT_IDLE_SECONDS
    while "OriginUnavailable" in refused.get("error", []):
        assert time.monotonic() < deadline
        agent.tell("exists", uri="lit://@origin/ckpt")
        refused = agent.hear()
    assert refused["exists"] is False
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize("how", ["killed", "cut"])
def test_the_registry_is_gone_before(triple, tmp_path, how):
    """Nothing is known of the origin, so both calls raise, within `resolve_seconds`; nothing is copied."""
    origin, consumer, _ = triple.machines
    origin.origin(limits=LIMITS)
    agent = consumer.consumer(limits={**LIMITS, "resolve_seconds": 2.0})
    if how == "killed":
        triple.etcd.stop()
    else:
        triple.cut(triple.hosts[2])
    for do, options in (("get", {"to": str(tmp_path / "copy")}), ("exists", {})):
        agent.tell(do, uri="lit://@origin/ckpt", **options)
        failed = agent.hear()
        assert "RegistryUnavailable" in failed["error"], failed
        assert failed["seconds"] < 2.0 + NOT_IDLE_SECONDS
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize("how", ["killed", "cut"])
def test_the_registry_goes_during_a_copy(triple, tmp_path, digest, how):
    """The copy goes on: whoever holds a lease serves until it ends, and nobody asks for the name again."""
    origin, consumer, _ = triple.machines
    origin.origin(limits={"lease_seconds": 30.0})
    agent = begin(consumer, tmp_path / "copy")
    if how == "killed":
        triple.etcd.stop()
    else:
        triple.cut(triple.hosts[2])
    copied = agent.hear()
    assert copied.get("bytes") == SIZE, copied
    assert digest(tmp_path / "copy") == triple.whole


def test_origin_and_registry_are_gone_at_once(triple, tmp_path, digest):
    """A copy waits for both, and goes on when the registry knows of the next instance."""
    origin, consumer, _ = triple.machines
    limits = {"lease_seconds": 60.0, "resume_seconds": 60.0}  # the name does not lapse meanwhile
    first = origin.origin(limits=limits)
    agent = begin(consumer, tmp_path / "copy", at=SIZE // 2, **limits)
    for member in triple.etcd.members:
        member.kill()
    first.kill()
    time.sleep(8)  # the registry is asked in vain, for longer than one question may take
    triple.etcd.start()
    origin.origin(port=7701, limits=limits)
    assert agent.hear().get("bytes") == SIZE
    assert digest(tmp_path / "copy") == triple.whole


def test_an_origin_that_was_cut_off_for_longer_than_its_lease(triple, tmp_path, digest):
    """It stops serving, is absent meanwhile, and is there as a new instance when the line is mended."""
    origin, consumer, _ = triple.machines
    origin.origin(limits=LIMITS)
    agent = consumer.consumer(limits={**LIMITS, "connect_seconds": 2.0})
    agent.ask("exists", uri="lit://@origin/ckpt")
    triple.cut(triple.hosts[0])

    def ask_until(answer, seconds):
        deadline = time.monotonic() + seconds
        while True:
            agent.tell("exists", uri="lit://@origin/ckpt")
            said = agent.hear()
            if said.get("exists") is answer:
                return
            assert time.monotonic() < deadline, said

    ask_until(False, LIMITS["lease_seconds"] + 4 * NOT_IDLE_SECONDS)
    triple.mend(triple.hosts[0])
    ask_until(True, 30)
    agent.ask("get", uri="lit://@origin/ckpt", to=str(tmp_path / "copy"))
    assert digest(tmp_path / "copy") == triple.whole
