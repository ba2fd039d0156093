"""What a process is called that something else started: torchrun, Slurm or Kubernetes.

Invariant: the name follows from the environment alone, by the table below, so that another process
can work it out and write ``lit://@rank-0/…``. Processes that a launcher counts get different ones; what
one of them starts inherits its variables, and would have its name, so `join` says NameTaken. The first row
whose variables are set wins, which is the innermost launcher: torchrun within a step of Slurm within a pod.

    LIT_STORAGE_NAME is set                      that, as it is
    RANK and WORLD_SIZE (torchrun, and others    rank-<RANK>
      that start processes for torch.distributed)
    the same with ROLE_NAME and ROLE_RANK, and   <ROLE_NAME>-<ROLE_RANK>
      a role that is not torchrun's "default"
    SLURM_PROCID and SLURM_STEP_ID (srun)        <SLURM_JOB_NAME>.task-<SLURM_PROCID>
      of an array                                <job name>.array-<SLURM_ARRAY_TASK_ID>.task-<…>
      in a step that is not the job's first      <job name>.step-<SLURM_STEP_ID>.task-<…>
    SLURM_PROCID alone (a batch script itself)   <job name>.batch, or <job name>.array-<…>.batch
    KUBERNETES_SERVICE_HOST and a HOSTNAME that  <HOSTNAME>: a pod of a StatefulSet, or of an
      ends in "-" and a number                     indexed Job
    KUBERNETES_SERVICE_HOST and                  index-<JOB_COMPLETION_INDEX>
      JOB_COMPLETION_INDEX alone

In what stands for <ROLE_NAME>, <SLURM_JOB_NAME> and <HOSTNAME>, every character but ASCII letters,
digits, "_" and "-" becomes "-", and those at its beginning go. Of several jobs that share a registry
at the same time only one gets a name: give each a prefix in the registry, or LIT_STORAGE_NAME.

Where the variables are described: https://docs.pytorch.org/docs/stable/elastic/run.html,
https://slurm.schedmd.com/srun.html, https://kubernetes.io/docs/concepts/workloads/controllers/job/ and
https://kubernetes.io/docs/concepts/workloads/controllers/statefulset/.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from lit_storage_proto.errors import InvalidURI
from lit_storage_proto.uri import check_name

_DEFAULT_ROLE = "default"  # of torchrun --role
_FIRST_STEP = "0"
_ORDINAL = re.compile(r".*-[0-9]+", re.ASCII | re.DOTALL)


def launched_name(variables: Mapping[str, str]) -> str:
    """Return the name that the environment gives to a process.

    Args:
        variables: those of the process; one that is empty counts as not set.

    Raises:
        InvalidURI: there is none in them, or what there is cannot be a name.
    """
    given = variables.get("LIT_STORAGE_NAME", "")
    name = given or _of_torchrun(variables) or _of_slurm(variables) or _of_kubernetes(variables)
    if name:
        return check_name(name)
    raise InvalidURI(
        "join() was given no name, and the environment has none: it looked for LIT_STORAGE_NAME, for "
        "RANK with WORLD_SIZE (torchrun), for SLURM_PROCID (Slurm), and, with KUBERNETES_SERVICE_HOST, for a "
        "HOSTNAME that ends in a number or JOB_COMPLETION_INDEX (Kubernetes); write join(NAME), or set "
        "LIT_STORAGE_NAME"
    )


def _of_torchrun(variables: Mapping[str, str]) -> str:
    if not (variables.get("RANK") and variables.get("WORLD_SIZE")):
        return ""
    role = variables.get("ROLE_NAME", "")
    if role in ("", _DEFAULT_ROLE) or not variables.get("ROLE_RANK"):
        return f"rank-{_number(variables, 'RANK')}"
    part = _part(role, "ROLE_NAME")
    if part == "rank":
        raise InvalidURI(
            f"ROLE_NAME is {role!r}, and the ranks in that role would have the names of ranks in all; call "
            "the role otherwise, or set LIT_STORAGE_NAME"
        )
    return f"{part}-{_number(variables, 'ROLE_RANK')}"


def _of_slurm(variables: Mapping[str, str]) -> str:
    if not variables.get("SLURM_PROCID"):
        return ""
    parts = [_part(variables.get("SLURM_JOB_NAME") or "job", "SLURM_JOB_NAME")]
    if variables.get("SLURM_ARRAY_TASK_ID"):
        parts.append(f"array-{_number(variables, 'SLURM_ARRAY_TASK_ID')}")
    if not variables.get("SLURM_STEP_ID"):
        return ".".join([*parts, "batch"])
    step = _number(variables, "SLURM_STEP_ID")
    if step != _FIRST_STEP:
        parts.append(f"step-{step}")
    return ".".join([*parts, f"task-{_number(variables, 'SLURM_PROCID')}"])


def _of_kubernetes(variables: Mapping[str, str]) -> str:
    if not variables.get("KUBERNETES_SERVICE_HOST"):
        return ""
    host, index = variables.get("HOSTNAME", ""), ""
    if variables.get("JOB_COMPLETION_INDEX"):
        index = _number(variables, "JOB_COMPLETION_INDEX")
        # In a pod that uses the network of its node HOSTNAME is the node's, which others on it have too.
        return _part(host, "HOSTNAME") if host.endswith(f"-{index}") else f"index-{index}"
    return _part(host, "HOSTNAME") if _ORDINAL.fullmatch(host) else ""


def _number(variables: Mapping[str, str], variable: str) -> str:
    value = variables[variable]
    if not (value.isascii() and value.isdigit()):
        raise InvalidURI(
            f"{variable} is {value!r}, which is no number; set LIT_STORAGE_NAME to name this process"
        )
    return str(int(value))


def _part(value: str, variable: str) -> str:
    """Return `value` as one part of a name."""
    part = re.sub(r"[^A-Za-z0-9_-]", "-", value).lstrip("-")
    if not part:
        raise InvalidURI(
            f"no name can be made of {variable}, which is {value!r}; set LIT_STORAGE_NAME instead"
        )
    return part
