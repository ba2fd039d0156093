"""What is in deploy/: linted, and tried as far as that goes without systemd, Docker or a cluster."""

import contextlib
import dataclasses
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest
import trustme
import yaml

from lit_storage_proto.limits import Limits
from lit_storage_server.daemon.config import Config, make_config, read_config
from tests.etcd_server import free_ports

REPOSITORY = Path(__file__).parents[2]
DEPLOY = REPOSITORY / "deploy"
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))


def run(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, cwd=REPOSITORY, **options)
    return done.returncode, done.stdout + done.stderr


def tool(name):
    return os.path.join(sysconfig.get_path("scripts"), name)


def documents(path):
    return list(yaml.safe_load_all(path.read_text()))


def pod_specs():
    return [
        document["spec"]["template"]["spec"]
        for path in MANIFESTS
        for document in documents(path)
        if document["kind"] in ("DaemonSet", "StatefulSet")
    ]


class TestExample:
    def test_it_says_what_the_documentation_says(self):
        """The example parses to these values, which docs/daemon.md and its own comments tell of."""
        assert make_config(read_config(str(DEPLOY / "lit-storage.toml")), {}) == Config(
            name="store-1",
            shares={"data": "/data", "models": "/srv/models"},
            bind="127.0.0.1:7440",
            root="/var/lib/lit-storage",
            custodian=True,
            metrics="9464",
            drain_seconds=30.0,
            limits=Limits(server_streams=16),
        )

    def test_every_setting_is_in_it(self):
        """Given or commented out, so that whoever reads it has seen all there is."""
        text = (DEPLOY / "lit-storage.toml").read_text()
        keys = set(re.findall(r"^(?:# )?([a-z_]+) = ", text, re.MULTILINE))
        fields = {field.name for field in dataclasses.fields(Config)} - {"shares", "limits"}
        assert fields <= keys

    def test_what_is_commented_out_can_be_used(self, tmp_path):
        """With each setting uncommented it is as good."""
        text = re.sub(
            r"^# ((?:[a-z_]+ = |\[)[^\n]*)", r"\1", (DEPLOY / "lit-storage.toml").read_text(), flags=re.M
        )
        (tmp_path / "all.toml").write_text(text)
        made = make_config(read_config(str(tmp_path / "all.toml")), {})
        assert (made.certificate, made.registry[:7]) == ("/etc/lit-storage/tls/cert.pem", "etcd://")


class TestSystemd:
    @pytest.fixture
    def unit(self, tmp_path):
        """The unit, with a program that is here."""
        if shutil.which("systemd-analyze") is None:
            pytest.skip("systemd-analyze is not here")
        text = (DEPLOY / "lit-storage.service").read_text()
        path = tmp_path / "lit-storage.service"
        path.write_text(text.replace("/opt/lit-storage/bin/lit-storage", tool("lit-storage")))
        return str(path)

    def test_it_is_a_unit(self, unit):
        """systemd finds nothing to complain of."""
        assert run("systemd-analyze", "verify", unit) == (0, "")

    def test_it_is_hardened(self, unit):
        """systemd rates its exposure, from 0 to 10, as low."""
        code, text = run("systemd-analyze", "security", "--offline=true", "--threshold=20", unit)
        assert code == 0, text

    def test_it_is_stopped_after_it_drained(self):
        """What systemd waits for is longer than the example drains, and what it publishes after that."""
        unit = (DEPLOY / "lit-storage.service").read_text()
        (seconds,) = re.findall(r"^TimeoutStopSec=(\d+)s$", unit, re.MULTILINE)
        example = tomllib.loads((DEPLOY / "lit-storage.toml").read_text())
        assert int(seconds) >= example["drain_seconds"] + Limits().publish_seconds

    @pytest.mark.slow
    def test_the_daemon_runs_without_writable_code(self, tmp_path):
        """MemoryDenyWriteExecute, which the unit sets, breaks nothing that it uses."""
        deny = "import ctypes, os, sys; libc = ctypes.CDLL(None, use_errno=True)\n"
        deny += "if libc.prctl(65, 1, 0, 0, 0): sys.exit(77)\n"  # PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN
        deny += "os.execv(sys.argv[1], sys.argv[1:])"
        command = [tool("lit-storage"), "serve", "--name", "x", "--root", str(tmp_path), "--metrics", "0"]
        process = subprocess.Popen([sys.executable, "-c", deny, *command], stderr=subprocess.PIPE, text=True)
        with process:
            said = [""]
            for line in process.stderr:
                said.append(line)
                if "INFO serving" in line:
                    break
            process.terminate()
            process.stderr.read()
        if process.returncode == 77:
            pytest.skip("the kernel cannot deny it: it needs Linux 6.3")
        assert (process.returncode, "INFO serving" in said[-1]) == (0, True), said


class TestDocker:
    def test_its_file_is_linted(self):
        """hadolint finds nothing to complain of."""
        assert run(tool("hadolint"), "deploy/Dockerfile") == (0, "")

    def test_it_copies_what_there_is(self):
        """Whatever goes into the image is in the repository, and is not kept out of the build."""
        text = (DEPLOY / "Dockerfile").read_text()
        copied = [
            name for line in re.findall(r"^COPY (?!--from)(.*)", text, re.M) for name in line.split()[:-1]
        ]
        kept = {line[1:] for line in (REPOSITORY / ".dockerignore").read_text().split() if line[0] == "!"}
        assert kept == set(copied)
        assert all((REPOSITORY / name).exists() for name in copied)

    def test_its_health_check(self):
        """It is a command of ours, that knows these arguments, at the port that is served."""
        text = (DEPLOY / "Dockerfile").read_text()
        assert 'CMD ["lit-storage", "health", "127.0.0.1:7440"]' in text
        assert "LIT_STORAGE_BIND=0.0.0.0:7440" in text


class TestKubernetes:
    @pytest.mark.slow
    @pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
    def test_manifests_are_linted(self, path):
        """As YAML, and by the schemas of Kubernetes, which allow no field that they do not know."""
        assert run(tool("yamllint"), "--strict", str(path)) == (0, "")
        code, text = run(tool("kubernetes-validate"), "--strict", "--quiet", str(path))
        assert (code, text.strip()) == (0, "")

    @pytest.mark.parametrize("number", range(len(pod_specs())))
    def test_pods_are_hardened(self, number):
        """Each runs as a user of its own, with nothing that it does not need."""
        pod = pod_specs()[number]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["automountServiceAccountToken"] is False
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["capabilities"] == {"drop": ["ALL"]}
            mounted = {mount["name"]: mount.get("readOnly", False) for mount in container["volumeMounts"]}
            for volume in pod["volumes"]:
                assert mounted[volume["name"]] is ("emptyDir" not in volume)

    def test_the_daemons_settings(self, tmp_path):
        """They can be used with the arguments of the DaemonSet, and it is stopped after it drained."""
        config, daemon = documents(DEPLOY / "kubernetes" / "daemonset.yaml")
        (tmp_path / "x.toml").write_text(config["data"]["lit-storage.toml"])
        made = make_config(
            read_config(str(tmp_path / "x.toml")), {"name": "node-a.example", "bind": "10.0.0.1:7440"}
        )
        assert (made.shares, made.insecure, made.metrics_address) == (
            {"data": "/data"},
            True,
            ("0.0.0.0", 9464),
        )
        pod = daemon["spec"]["template"]["spec"]
        assert pod["terminationGracePeriodSeconds"] > made.drain_seconds
        mounts = {mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
        assert {"/data", made.root, os.path.dirname(made.token_file)} <= mounts

    @pytest.mark.slow
    def test_the_two_works_hand_over(self, tmp_path):
        """Their code, as it is in the manifest, with TLS, on this machine in place of two pods."""
        config = next(
            each
            for each in documents(DEPLOY / "kubernetes" / "two-works.yaml")
            if each["kind"] == "ConfigMap"
        )
        authority = trustme.CA()
        identity = authority.issue_cert("localhost")
        authority.cert_pem.write_to_path(tmp_path / "ca.crt")
        identity.cert_chain_pems[0].write_to_path(tmp_path / "tls.crt")
        identity.private_key_pem.write_to_path(tmp_path / "tls.key")
        ports = free_ports(2)
        shared = {
            "LIT_STORAGE_REGISTRY": f"static:trainer=localhost:{ports[0]},deploy=localhost:{ports[1]}",
            "LIT_STORAGE_TLS_CERT": str(tmp_path / "tls.crt"),
            "LIT_STORAGE_TLS_KEY": str(tmp_path / "tls.key"),
            "LIT_STORAGE_TLS_CA": str(tmp_path / "ca.crt"),
            "LIT_STORAGE_TOKEN": "some-token",
        }
        with contextlib.ExitStack() as stack:
            started = []
            for number, port in enumerate(ports):
                (tmp_path / f"work-{number}.py").write_text(config["data"][f"work-{number}.py"])
                own = {"LIT_STORAGE_BIND": f"0.0.0.0:{port}", "LIT_STORAGE_ROOT": str(tmp_path / str(number))}
                own["LIT_STORAGE_ADVERTISE"] = "127.0.0.1"
                process = subprocess.Popen(
                    [sys.executable, str(tmp_path / f"work-{number}.py")],
                    stdout=subprocess.PIPE,
                    text=True,
                    env={**os.environ, **shared, **own},
                )
                stack.enter_context(process)
                stack.callback(process.kill)
                started.append(process)
            lines = iter(started[1].stdout.readline, "")
            assert "deployed weights\n" in lines
            code, text = run(
                tool("lit-storage"), "health", f"127.0.0.1:{ports[0]}", "--tls-name", "localhost",
                env={**os.environ, **shared},
            )  # fmt: skip
            assert (code, text) == (0, "SERVING\n")
