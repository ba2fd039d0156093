"""The examples of launchers, each started as its launcher does: by the same file, with the same variables.

The launchers themselves are too large for these tests; what stands for them here starts so many
processes with the variables that the real one sets, and does nothing else of what it does.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

LAUNCHERS = Path(__file__).parents[2] / "examples" / "launchers"

# Both run what is left of their words so many times at once, each time with the variables of one process.
STAND_IN = """#!{python}
import os, subprocess, sys
{parse}
running = [
    subprocess.Popen(words, env={{**os.environ, **variables(number)}}) for number in range(count)
]
sys.exit(max(process.wait() for process in running))
"""

# https://docs.pytorch.org/docs/stable/elastic/run.html#environment-variables
TORCHRUN = """
words, options = sys.argv[1:], {"--nproc-per-node": "1", "--role": "default"}
while words[0].startswith("--"):
    option = words.pop(0)
    options[option] = words.pop(0)
words, count = [sys.executable, *words], int(options["--nproc-per-node"])

def variables(number):
    return {
        "LOCAL_RANK": str(number), "RANK": str(number), "GROUP_RANK": "0",
        "ROLE_RANK": str(number), "ROLE_NAME": options["--role"],
        "LOCAL_WORLD_SIZE": str(count), "WORLD_SIZE": str(count),
        "GROUP_WORLD_SIZE": "1", "ROLE_WORLD_SIZE": str(count),
        "MASTER_ADDR": "localhost", "MASTER_PORT": "29500",
        "TORCHELASTIC_RESTART_COUNT": "0", "TORCHELASTIC_MAX_RESTARTS": "0",
        "TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_USE_AGENT_STORE": "True",
        "OMP_NUM_THREADS": "1",
    }
"""

# https://slurm.schedmd.com/srun.html#SECTION_OUTPUT-ENVIRONMENT-VARIABLES
SRUN = """
words, count = sys.argv[1:], int(os.environ["SLURM_NTASKS"])

def variables(number):
    return {
        "SLURM_PROCID": str(number), "SLURM_LOCALID": str(number), "SLURM_NODEID": "0",
        "SLURM_STEP_ID": "0", "SLURM_STEPID": "0", "SLURM_STEP_NUM_TASKS": str(count),
        "SLURM_NTASKS": str(count), "SLURM_TASK_PID": str(os.getpid()),
    }
"""


@pytest.fixture
def run(tmp_path):
    """Run a command with a stand-in for a launcher in the PATH; return all that its processes print."""
    python = tmp_path / "bin" / "python3"
    python.parent.mkdir()
    python.symlink_to(sys.executable)

    def start(command, stand_in=(), **variables):
        for name, parse in dict(stand_in).items():
            program = tmp_path / "bin" / name
            program.write_text(STAND_IN.format(python=sys.executable, parse=parse))
            program.chmod(0o755)
        bare = {
            name: value for name, value in os.environ.items() if "RANK" not in name and "SLURM" not in name
        }
        environment = {
            **bare,
            "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "LIT_STORAGE_ROOT": str(tmp_path / "root"),
            **variables,
        }
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    return start


def said_by(*processes):
    """Wait for processes, which are to succeed, and return the lines that they print, sorted."""
    lines = []
    for process in processes:
        out, err = process.communicate(timeout=100)
        assert process.returncode == 0, err
        assert err == ""
        lines += out.splitlines()
    return sorted(lines)


def exchanged(names):
    return sorted(f"{one} has what {other} computed" for one in names for other in names if one != other)


@pytest.mark.slow
@pytest.mark.parametrize(("options", "name"), [([], "rank"), (["--role", "trainer"], "trainer")])
def test_torchrun(run, options, name):
    """The processes are called after their ranks, or their role, and each gets the part of each other."""
    process = run(["sh", LAUNCHERS / "torchrun.sh", "3", *options], {"torchrun": TORCHRUN})
    assert said_by(process) == exchanged([f"{name}-{number}" for number in range(3)])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("of_job", "name"), [({}, "train"), ({"SLURM_ARRAY_TASK_ID": "7"}, "train.array-7")], ids=["job", "array"]
)
def test_slurm(run, of_job, name):
    """The tasks of a step are called after the job, and in an array after their element of it."""
    of_batch_script = {
        "SLURM_JOB_ID": "4711",
        "SLURM_JOB_NAME": "train",
        "SLURM_NTASKS": "3",
        "SLURM_PROCID": "0",
        "SLURM_SUBMIT_DIR": str(LAUNCHERS),
        **of_job,
    }
    process = run(["sh", LAUNCHERS / "slurm.sh"], {"srun": SRUN}, **of_batch_script)
    assert said_by(process) == exchanged([f"{name}.task-{number}" for number in range(3)])


@pytest.mark.slow
def test_kubernetes(run, tmp_path):
    """The pods of an indexed Job are called as their hosts, with the command that the manifest gives them."""
    job = yaml.safe_load((LAUNCHERS / "kubernetes.yaml").read_text())
    spec, name = job["spec"], job["metadata"]["name"]
    assert (job["kind"], spec["completionMode"], spec["completions"]) == (
        "Job",
        "Indexed",
        spec["parallelism"],
    )
    (container,) = spec["template"]["spec"]["containers"]
    _, script, *words = container["command"]
    assert int(words[0]) == spec["completions"]
    pods = [
        run(
            ["python3", LAUNCHERS / os.path.basename(script), *words],
            KUBERNETES_SERVICE_HOST="10.96.0.1",
            KUBERNETES_SERVICE_PORT="443",
            HOSTNAME=f"{name}-{index}",
            JOB_COMPLETION_INDEX=str(index),
        )
        for index in range(spec["completions"])
    ]
    assert said_by(*pods) == exchanged([f"{name}-{index}" for index in range(spec["completions"])])


def test_the_manifest_sets_what_is_known():
    """Each variable of ours in the manifest is one that is documented."""
    from lit_storage.sessions import environment

    (container,) = yaml.safe_load((LAUNCHERS / "kubernetes.yaml").read_text())["spec"]["template"]["spec"][
        "containers"
    ]
    ours = [item["name"] for item in container["env"] if item["name"].startswith("LIT_STORAGE_")]
    documented = environment.__doc__.replace(
        "_TLS_CERT _KEY _CA", "_TLS_CERT LIT_STORAGE_TLS_KEY LIT_STORAGE_TLS_CA"
    )
    assert len(ours) == 7
    assert [name for name in ours if name not in documented.split()] == []
