"""The name of a process that something else started: a table, and what is no name."""

import os
import subprocess
import sys

import pytest

import lit_storage
from lit_storage import InvalidURI, NameTaken, StorageError
from lit_storage.sessions.launcher import launched_name, work_of_launched
from lit_storage_proto.uri import check_name

# What torchrun sets, with a job of two roles.
TORCHRUN = {
    "LOCAL_RANK": "1",
    "RANK": "5",
    "GROUP_RANK": "2",
    "ROLE_RANK": "3",
    "ROLE_NAME": "default",
    "LOCAL_WORLD_SIZE": "2",
    "WORLD_SIZE": "8",
    "GROUP_WORLD_SIZE": "4",
    "ROLE_WORLD_SIZE": "4",
    "MASTER_ADDR": "10.0.0.1",
    "MASTER_PORT": "29500",
    "TORCHELASTIC_RESTART_COUNT": "0",
    "TORCHELASTIC_RUN_ID": "none",
}
SRUN = {
    "SLURM_JOB_ID": "4711",
    "SLURM_JOB_NAME": "train",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_NTASKS": "8",
}
ARRAY = {**SRUN, "SLURM_ARRAY_JOB_ID": "4711", "SLURM_ARRAY_TASK_ID": "7"}
BATCH = {name: value for name, value in SRUN.items() if name != "SLURM_STEP_ID"}
POD = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "HOSTNAME": "trainer-2"}
JOB = {**POD, "HOSTNAME": "train-job-4", "JOB_COMPLETION_INDEX": "4"}


NAMES = [
    (TORCHRUN, "rank-5"),
    ({"RANK": "0", "WORLD_SIZE": "1"}, "rank-0"),
    ({**TORCHRUN, "ROLE_NAME": ""}, "rank-5"),
    ({**TORCHRUN, "ROLE_NAME": "trainer"}, "trainer-3"),
    ({**TORCHRUN, "ROLE_NAME": "trainer", "ROLE_RANK": ""}, "rank-5"),
    ({**TORCHRUN, "ROLE_NAME": "my eval.v2"}, "my-eval-v2-3"),
    ({**TORCHRUN, "RANK": "007"}, "rank-7"),
    (SRUN, "train.task-3"),
    ({**SRUN, "SLURM_JOB_NAME": "train.sh"}, "train-sh.task-3"),
    ({**SRUN, "SLURM_JOB_NAME": ""}, "job.task-3"),
    ({**SRUN, "SLURM_STEP_ID": "2"}, "train.step-2.task-3"),
    (ARRAY, "train.array-7.task-3"),
    ({**ARRAY, "SLURM_STEP_ID": "2"}, "train.array-7.step-2.task-3"),
    ({**BATCH, "SLURM_PROCID": "0"}, "train.batch"),
    ({**BATCH, "SLURM_PROCID": "0", "SLURM_ARRAY_TASK_ID": "7"}, "train.array-7.batch"),
    (POD, "trainer-2"),
    ({**POD, "HOSTNAME": "trainer-2.trainer.team.svc.cluster.local"}, "trainer-2"),
    ({**POD, "HOSTNAME": "trainer-12345"}, "trainer-12345"),
    (JOB, "train-job-4"),
    ({**JOB, "HOSTNAME": "node-17"}, "index-4"),
    ({**JOB, "HOSTNAME": ""}, "index-4"),
    # The innermost launcher wins, and what the user says wins over all.
    ({**POD, **SRUN}, "train.task-3"),
    ({**POD, **SRUN, **TORCHRUN}, "rank-5"),
    ({**POD, **SRUN, **TORCHRUN, "LIT_STORAGE_NAME": "workers.0"}, "workers.0"),
    ({**SRUN, **TORCHRUN, "LIT_STORAGE_NAME": ""}, "rank-5"),
    # Half of what torchrun sets is somebody else's.
    ({**SRUN, "RANK": "9"}, "train.task-3"),
    ({**SRUN, "WORLD_SIZE": "9"}, "train.task-3"),
    # Under a Work its name comes first, unless the user names the process.
    ({**TORCHRUN, "LIT_STORAGE_WORK_NAME": "fit"}, "fit.rank-5"),
    ({**SRUN, "LIT_STORAGE_WORK_NAME": "workers.0"}, "workers.0.train.task-3"),
    ({**TORCHRUN, "LIT_STORAGE_WORK_NAME": "fit", "LIT_STORAGE_NAME": "mine"}, "mine"),
    # What a launched process starts itself has the variables of the same launcher.
    ({**TORCHRUN, "LIT_STORAGE_WORK_NAME": "rank-5"}, "rank-5"),
    ({**TORCHRUN, "LIT_STORAGE_WORK_NAME": "fit.rank-5"}, "fit.rank-5"),
]


def test_the_name_of_an_environment():
    """Each launcher's variables give the name that is written down, in the order that is."""
    for variables, name in NAMES:
        assert launched_name(variables) == name == check_name(name), variables


def test_names_within_a_job_differ():
    """Tasks, steps, elements of an array and the batch script itself never share a name."""
    environments = [
        {**base, "SLURM_PROCID": str(task), **({"SLURM_STEP_ID": str(step)} if step is not None else {})}
        for base in (BATCH, {**BATCH, "SLURM_ARRAY_TASK_ID": "0"}, {**BATCH, "SLURM_ARRAY_TASK_ID": "1"})
        for step in (None, 0, 1)
        for task in (range(3) if step is not None else (0,))
    ]
    assert len({launched_name(each) for each in environments}) == len(environments)


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"RANK": "3"},
        {"WORLD_SIZE": "3"},
        {"HOSTNAME": "trainer-2"},
        {"JOB_COMPLETION_INDEX": "2"},
        {"SLURM_JOB_ID": "4711", "SLURM_JOB_NAME": "train"},
        {"KUBERNETES_SERVICE_HOST": "10.96.0.1"},
        {**POD, "HOSTNAME": "web-7d4b9c6f5-x2k4q"},
        {**POD, "HOSTNAME": "trainer"},
        {**POD, "HOSTNAME": "my.trainer-2"},
        {**POD, "HOSTNAME": "trainer-007"},
    ],
    ids=str,
)
def test_no_name(variables):
    """Where nothing names the process, the error lists all that was looked for."""
    with pytest.raises(InvalidURI) as raised:
        launched_name(variables)
    for variable in ("LIT_STORAGE_NAME", "RANK", "SLURM_PROCID", "HOSTNAME", "JOB_COMPLETION_INDEX"):
        assert variable in str(raised.value)


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"LIT_STORAGE_NAME": "a b"}, "LIT_STORAGE_NAME .*'a b'"),
        ({**TORCHRUN, "RANK": "-1"}, "RANK"),
        ({**TORCHRUN, "RANK": "٣"}, "RANK"),
        ({**TORCHRUN, "ROLE_NAME": "..."}, "ROLE_NAME"),
        ({**TORCHRUN, "ROLE_NAME": "rank"}, "ROLE_NAME"),
        ({**TORCHRUN, "ROLE_NAME": ".rank"}, "ROLE_NAME"),
        ({**SRUN, "SLURM_PROCID": "x"}, "SLURM_PROCID"),
        ({**SRUN, "SLURM_ARRAY_TASK_ID": "1-3"}, "SLURM_ARRAY_TASK_ID"),
        ({**SRUN, "SLURM_JOB_NAME": "x" * 200}, "SLURM_JOB_NAME would make 207 characters .* 128"),
        ({**TORCHRUN, "ROLE_NAME": "x" * 200}, "ROLE_NAME would make 202 characters"),
        ({**JOB, "HOSTNAME": "x" * 200 + "-4"}, "HOSTNAME would make 202 characters"),
        ({"LIT_STORAGE_NAME": "x" * 200}, "LIT_STORAGE_NAME would make 200 characters"),
        ({**TORCHRUN, "LIT_STORAGE_WORK_NAME": "x" * 125}, "LIT_STORAGE_WORK_NAME with RANK"),
        ({**TORCHRUN, "RANK": "9" * 5000}, "RANK"),
        ({**POD, "HOSTNAME": "web-7d4b9c6f5-24678"}, "HOSTNAME .* no ordinal"),
        ({**JOB, "JOB_COMPLETION_INDEX": "all"}, "JOB_COMPLETION_INDEX"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_a_name(variables, named):
    """A number that is none, or a name that is none, is refused with what it is."""
    with pytest.raises(StorageError, match=named):
        launched_name(variables)


def test_the_error_shows_a_host_name_without_an_ordinal():
    """In a pod of a Deployment the error says which HOSTNAME gives no name."""
    with pytest.raises(InvalidURI, match="HOSTNAME .*'web-7d4b9c6f5-x2k4q', which ends in no ordinal"):
        launched_name({**POD, "HOSTNAME": "web-7d4b9c6f5-x2k4q"})


@pytest.mark.parametrize(
    ("variables", "work"),
    [
        ({**TORCHRUN, "LIT_STORAGE_WORK_NAME": "fit"}, "fit"),
        ({**TORCHRUN, "LIT_STORAGE_WORK_NAME": "fit.rank-5"}, "fit"),
        ({**TORCHRUN, "LIT_STORAGE_WORK_NAME": "rank-5"}, None),
        ({**TORCHRUN, "RANK": "x", "LIT_STORAGE_WORK_NAME": "fit"}, None),
        ({"LIT_STORAGE_WORK_NAME": "fit"}, None),
        (TORCHRUN, None),
    ],
    ids=str,
)
def test_the_work_above_a_launcher(variables, work):
    """The names of a launcher within a Work belong to that Work."""
    assert work_of_launched(variables) == work


@pytest.mark.slow
def test_join_without_a_name(tmp_path):
    """A process joins under the name that its environment gives, and one without any is told so."""
    program = "import lit_storage\nwith lit_storage.join() as session: print(session.name)"
    bare = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    bare |= {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "LIT_STORAGE_ROOT": str(tmp_path)}
    named, nameless = (
        subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60
        )
        for environment in ({**bare, **TORCHRUN}, bare)
    )
    assert (named.stdout, named.stderr) == ("rank-5\n", "")
    assert "InvalidURI" in nameless.stderr.splitlines()[-1]


@pytest.mark.slow
def test_a_name_of_the_environment_that_is_taken(root, monkeypatch):
    """What a named process starts inherits its name, and is told where that comes from and what to set."""
    for variable, value in TORCHRUN.items():
        monkeypatch.setenv(variable, value)
    code = "import lit_storage, time; lit_storage.join(); print('joined', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout.readline() == "joined\n"
        with pytest.raises(NameTaken, match="names this process 'rank-5'; set LIT_STORAGE_NAME"):
            lit_storage.join()
        first.kill()
