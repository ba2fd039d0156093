"""What names one machine only is refused by the executor "ray", before anything is started or made."""

import pytest

from lit_storage import AccessDenied, App, Flow, InvalidApp, Security, Work
from lit_storage.executors.ray.executor import _refuse_loopback_nodes

TLS = Security("some-token", "cert.pem", "key.pem", "ca.pem")
REGISTRY = "etcd://10.77.0.1:2379/app"


class Quiet(Work):
    def run(self):
        pass


class Pipeline(Flow):
    def __init__(self):
        super().__init__()
        self.quiet = Quiet()

    def run(self):
        raise AssertionError("the Flow ran")


@pytest.fixture
def refused(tmp_path, monkeypatch):
    """Return what an App says that is told something else than what would do."""
    monkeypatch.chdir(tmp_path)

    def refusal(kind=InvalidApp, **options):
        told = {"root": str(tmp_path / "root"), "registry": REGISTRY, "security": TLS, **options}
        with pytest.raises(kind) as caught:
            App(Pipeline(), executor="ray", **told).run()
        assert [each.name for each in tmp_path.iterdir()] in ([], ["root"])
        return str(caught.value)

    return refusal


@pytest.mark.parametrize("url", ["sqlite:///nfs/registry.db", "memory:", "static:train=10.0.0.1:1", None])
def test_a_registry_of_one_machine(refused, url):
    """It is refused, also where it is the default; a kind that serves many is named."""
    kind = (url or "sqlite:").partition(":")[0]
    told = refused(registry=url)
    assert told.startswith(f"a {kind}: registry serves the Works of one machine")
    assert "etcd://" in told


@pytest.mark.parametrize(
    "url", ["etcd://127.0.0.1:2379/app", "etcd://10.0.0.1:2379,localhost:2379/app", "etcd://[::1]:2379"]
)
def test_a_registry_on_loopback(refused, url):
    """Other nodes would find something else there, or nothing."""
    assert "is reached from this machine only" in refused(registry=url)


def test_what_a_registry_url_holds_is_not_shown(refused):
    """A password in it stays out of the refusal."""
    assert "secret" not in refused(registry="etcd://user:secret@127.0.0.1:2379/app")


@pytest.mark.parametrize(
    ("root", "told"), [("data/lit", "the root 'data/lit' is relative"), (None, "no root")]
)
def test_a_relative_root(refused, root, told):
    """It would be another one on each node; the default is relative too."""
    assert told in (sentence := refused(root=root))
    assert "LIT_STORAGE_ROOT" in sentence


@pytest.mark.parametrize("variable", ["LIT_STORAGE_BIND", "LIT_STORAGE_ADVERTISE"])
def test_a_loopback_address(refused, monkeypatch, variable):
    """Works that listen there could not be dialed from other nodes."""
    monkeypatch.setenv(variable, "127.0.0.1:0")
    assert refused().startswith(f"{variable}=127.0.0.1:0 is reached from one machine only")


def test_a_token_in_clear(refused):
    """Without TLS it is refused, unless somebody says that it may be read on the way."""
    assert "LIT_STORAGE_INSECURE=1" in refused(AccessDenied, security=Security("some-token"))


def test_a_node_on_loopback():
    """A node that Ray knows by a loopback address is named, unless it is gone."""
    gone = {"Alive": False, "NodeManagerAddress": "127.0.0.1"}
    _refuse_loopback_nodes([gone])
    with pytest.raises(InvalidApp, match="127.0.0.2, which no other machine reaches"):
        _refuse_loopback_nodes([gone, {"Alive": True, "NodeManagerAddress": "127.0.0.2"}])


def test_an_executor_from_the_environment(monkeypatch):
    """LIT_STORAGE_EXECUTOR is the default, and one that is not known is refused."""
    monkeypatch.setenv("LIT_STORAGE_EXECUTOR", "slurm")
    with pytest.raises(ValueError, match="executor='slurm' is not known"):
        App(Pipeline())
    App(Pipeline(), executor="process")
