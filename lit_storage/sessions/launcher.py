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
      ends in "-" and an ordinal                   indexed Job; what follows its first dot is left out
    KUBERNETES_SERVICE_HOST and                  index-<JOB_COMPLETION_INDEX>
      JOB_COMPLETION_INDEX alone

In what stands for <ROLE_NAME>, <SLURM_JOB_NAME> and <HOSTNAME>, every character but ASCII letters,
digits, "_" and "-" becomes "-", and those at its beginning go. Of several jobs that share a registry
at the same time only one gets a name: give each a prefix in the registry, or LIT_STORAGE_NAME.

Under a Work (LIT_STORAGE_WORK_NAME is set) a name of a launcher is put behind the Work's: torchrun within
``run`` of "train" starts "train.rank-0". There ``lit://@rank-1/…`` means "train.rank-1" first: see
`lit_storage.sessions.siblings`. LIT_STORAGE_NAME is taken as it is.

An ordinal is a number without leading zeros. Kubernetes ends the names of pods of a Deployment or DaemonSet
with five random characters, which may all be digits; such an end is refused.

Where the variables are described: https://docs.pytorch.org/docs/stable/elastic/run.html,
https://slurm.schedmd.com/srun.html, https://kubernetes.io/docs/concepts/workloads/controllers/job/ and
https://kubernetes.io/docs/concepts/workloads/controllers/statefulset/.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping

from lit_storage.paths.home import WORK_NAME
from lit_storage_proto.errors import InvalidURI
from lit_storage_proto.limits import MAX_NAME_CHARACTERS
from lit_storage_proto.uri import check_name

_DEFAULT_ROLE = "default"  # of torchrun --role
_FIRST_STEP = "0"
_MOST_DIGITS = 18  # of a number in a name: more than any launcher counts
_ORDINAL = re.compile(r".*-(0|[1-9][0-9]*)", re.ASCII | re.DOTALL)
# The digits among https://github.com/kubernetes/apimachinery/blob/master/pkg/util/rand/rand.go's characters.
_RANDOM_SUFFIX = re.compile(r".*-[2456789]{5}", re.ASCII | re.DOTALL)


def launched_name(variables: Mapping[str, str]) -> str:
    """Return the name that the environment gives to a process.

    Args:
        variables: those of the process; one that is empty counts as not set.

    Raises:
        InvalidURI: there is none in them, or what there is cannot be a name; the variable is named.
    """
    given = variables.get("LIT_STORAGE_NAME", "")
    if given:
        return _checked(given, "LIT_STORAGE_NAME")
    name, variable = _of_launcher(variables)
    if name:
        work = _work_of(variables, name)
        if work:
            return _checked(f"{work}.{name}", f"{WORK_NAME} with {variable}")
        return _checked(name, variable)
    host = variables.get("HOSTNAME", "") if variables.get("KUBERNETES_SERVICE_HOST") else ""
    raise InvalidURI(
        "join() was given no name, and the environment has none: it looked for LIT_STORAGE_NAME, for "
        "RANK with WORLD_SIZE (torchrun), for SLURM_PROCID (Slurm), and, with KUBERNETES_SERVICE_HOST, for a "
        f"HOSTNAME that ends in a number{_no_ordinal(host)} or JOB_COMPLETION_INDEX (Kubernetes); write "
        "join(NAME), or set LIT_STORAGE_NAME"
    )


def work_of_launched(variables: Mapping[str, str]) -> str | None:
    """Return the Work whose name precedes the names that a launcher gives in this environment.

    None: no launcher started this process, or no Work started the launcher.
    """
    with contextlib.suppress(InvalidURI):
        name, _ = _of_launcher(variables)
        return _work_of(variables, name) if name else None
    return None


def _work_of(variables: Mapping[str, str], name: str) -> str | None:
    """Return the Work under which the launcher ran that calls this process `name`.

    The variables of that launcher may have named the Work of the environment itself, which then started
    this process without another launcher.
    """
    work = variables.get(WORK_NAME, "")
    return work.removesuffix(f".{name}") if work not in ("", name) else None


def _of_launcher(variables: Mapping[str, str]) -> tuple[str, str]:
    """Return the name that a launcher gives, and the variable that it comes from; empty if there is none."""
    for of, variable in (
        (_of_torchrun, "ROLE_NAME" if _has_role(variables) else "RANK"),
        (_of_slurm, "SLURM_JOB_NAME"),
        (_of_kubernetes, "HOSTNAME"),
    ):
        if name := of(variables):
            return name, variable
    return "", ""


def _checked(name: str, variable: str) -> str:
    """Return `name`, or raise InvalidURI that names the variable which it comes from."""
    try:
        return check_name(name)
    except InvalidURI as error:
        length = f"{len(name)} characters" if len(name) > MAX_NAME_CHARACTERS else "a name"
        raise InvalidURI(
            f"{variable} would make {length} that this process cannot have: {error}; set LIT_STORAGE_NAME to "
            "another name"
        ) from None


def _of_torchrun(variables: Mapping[str, str]) -> str:
    if not (variables.get("RANK") and variables.get("WORLD_SIZE")):
        return ""
    if not _has_role(variables):
        return f"rank-{_number(variables, 'RANK')}"
    role = variables["ROLE_NAME"]
    part = _part(role, "ROLE_NAME")
    if part == "rank":
        raise InvalidURI(
            f"ROLE_NAME is {role!r}, and the ranks in that role would have the names of ranks in all; call "
            "the role otherwise, or set LIT_STORAGE_NAME"
        )
    return f"{part}-{_number(variables, 'ROLE_RANK')}"


def _has_role(variables: Mapping[str, str]) -> bool:
    role = variables.get("ROLE_NAME", "")
    return role not in ("", _DEFAULT_ROLE) and bool(variables.get("ROLE_RANK"))


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
    host = _short_host(variables)
    if variables.get("JOB_COMPLETION_INDEX"):
        index = _number(variables, "JOB_COMPLETION_INDEX")
        # In a pod that uses the network of its node HOSTNAME is the node's, which others on it have too.
        return _part(host, "HOSTNAME") if host.endswith(f"-{index}") else f"index-{index}"
    if not _ORDINAL.fullmatch(host):
        return ""
    if _RANDOM_SUFFIX.fullmatch(host):
        raise InvalidURI(
            f"HOSTNAME is {host!r}, whose number may be the random end of a pod of a Deployment or DaemonSet "
            "and no ordinal; set LIT_STORAGE_NAME to name this process"
        )
    return _part(host, "HOSTNAME")


def _short_host(variables: Mapping[str, str]) -> str:
    """Return HOSTNAME without the domain, which ``setHostnameAsFQDN`` of a pod adds."""
    return variables.get("HOSTNAME", "").partition(".")[0]


def _no_ordinal(host: str) -> str:
    return f" (it is {host[:MAX_NAME_CHARACTERS]!r}, which ends in no ordinal)" if host else ""


def _number(variables: Mapping[str, str], variable: str) -> str:
    value = variables[variable]
    if not (value.isascii() and value.isdigit() and len(value) <= _MOST_DIGITS):
        raise InvalidURI(
            f"{variable} is {value[:MAX_NAME_CHARACTERS]!r}, which is no number that a launcher gives; set "
            "LIT_STORAGE_NAME to name this process"
        )
    return str(int(value))


def _part(value: str, variable: str) -> str:
    """Return `value` as one part of a name."""
    part = re.sub(r"[^A-Za-z0-9_-]", "-", value).lstrip("-")
    if not part:
        raise InvalidURI(
            f"no name can be made of {variable}, which is {value[:MAX_NAME_CHARACTERS]!r}; set "
            "LIT_STORAGE_NAME instead"
        )
    return part
