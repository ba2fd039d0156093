"""In which mount a file or directory lies, and on which kind of file system.

Invariant: each answer is a pure function of what the kernel lists under ``/proc/self``. Four uses:
names can be exchanged only within one mount, which the device does not tell, as of bind mounts.
And a database in WAL mode needs memory that all its users share, which no file system over a
network or between a host and its guests gives (https://www.sqlite.org/wal.html, section 1). And two
directories that are shared under two names must not be one. And a directory that is moved takes the mounts
below it along.
"""

from __future__ import annotations

import os
import re

# fmt: off
_OF_MANY_MACHINES = frozenset((
    "9p", "afs", "beegfs", "ceph", "cifs", "coda", "fhgfs", "gfs", "gfs2", "glusterfs", "gpfs", "lustre",
    "ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "panfs", "pvfs2", "smb2", "smb3", "smbfs", "vboxsf",
    "virtiofs", "vmhgfs", "wekafs",
))
_FUSE_OF_MANY_MACHINES = frozenset((
    "alluxio-fuse", "blobfuse", "blobfuse2", "ceph", "ceph-fuse", "curlftpfs", "davfs", "davfs2", "gcsfuse",
    "geesefs", "glusterfs", "goofys", "gvfsd-fuse", "hdfs", "juicefs", "lizardfs", "mfs", "moosefs",
    "mount-s3", "nfs", "rclone", "s3fs", "seaweedfs", "smbnetfs", "sshfs", "vmhgfs-fuse", "weed",
))
# fmt: on


def file_system_of(directory: str) -> str:
    """Return the type of the file system that holds `directory`, or "" if the kernel does not say.

    Raises:
        OSError: the directory cannot be entered, or ``/proc`` is not there.
    """
    fd = os.open(os.path.join(directory, "."), os.O_PATH | os.O_CLOEXEC)
    try:
        mount_id = mount_of(fd)
    finally:
        os.close(fd)
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        return type_of_mount(file.read(), mount_id)


def mount_of(fd: int) -> int:
    """Return the kernel's number of the mount that `fd` lies in; a mount point has its own.

    Returns:
        -1 for any descriptor where the kernel does not say, as those of some sandboxes.

    Raises:
        OSError: ``/proc`` is not there.
    """
    with open(f"/proc/self/fdinfo/{fd}", encoding="utf-8") as file:
        return mount_id_in(file.read())


def mount_id_in(fdinfo: str) -> int:
    """Return the mount id that ``/proc/<pid>/fdinfo/<fd>`` tells (proc_pid_fdinfo(5)), or -1."""
    for line in fdinfo.splitlines():
        key, _, value = line.partition(":")
        if key == "mnt_id":
            return int(value)
    return -1


def type_of_mount(mountinfo: str, mount_id: int) -> str:
    """Return the file system type of one line of ``/proc/<pid>/mountinfo`` (proc_pid_mountinfo(5)), or ""."""
    for line in mountinfo.splitlines():
        mount, _, source = line.partition(" - ")
        if mount.split(" ", 1)[0] == str(mount_id):
            return source.split(" ", 1)[0]
    return ""


def spans_machines(file_system: str) -> bool:
    """Say whether a file system of this type is there for more than one machine."""
    if file_system.startswith("fuse."):
        return file_system.removeprefix("fuse.") in _FUSE_OF_MANY_MACHINES
    return file_system in _OF_MANY_MACHINES


def places_of(mountinfo: str, path: str) -> list[tuple[str, str]]:
    """Return where on which file systems lies what can be reached at `path` and below it.

    Two paths that lead to the same place, as through a bind mount, have places of which one is, or lies
    in, the other.

    Args:
        mountinfo: text of ``/proc/<pid>/mountinfo``.
        path: absolute, without links.

    Returns:
        The device and the path within its file system: first those of `path` itself, then those of each
        mount below it.
    """
    own, below = ("", path), list[tuple[str, str]]()
    longest = -1
    for line in mountinfo.splitlines():
        fields = line.split(" ")
        if len(fields) < 5:
            continue
        device, root, point = fields[2], _unescaped(fields[3]), _unescaped(fields[4])
        rest = below_path(path, point)
        if rest is not None and len(point) >= longest:  # of mounts on one point the last one is on top
            own, longest = (device, os.path.normpath(os.path.join(root, rest))), len(point)
        elif below_path(point, path) is not None:
            below.append((device, root))
    return [own, *below]


def mount_points_below(directory: str) -> list[str]:
    """Return the mount points below `directory`, an absolute path without links; none without ``/proc``."""
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            return points_below(file.read(), directory)
    except FileNotFoundError:
        return []


def points_below(mountinfo: str, directory: str) -> list[str]:
    """Return the mount points that a text of ``/proc/<pid>/mountinfo`` lists below `directory`."""
    lines = (line.split(" ") for line in mountinfo.splitlines())
    points = (_unescaped(fields[4]) for fields in lines if len(fields) > 4)
    return [point for point in points if below_path(point, directory)]


def below_path(path: str, directory: str) -> str | None:
    """Return the rest of `path` below `directory`, "" if they are the same, None if it is elsewhere."""
    if path == directory:
        return ""
    prefix = directory.rstrip("/") + "/"
    return path[len(prefix) :] if path.startswith(prefix) else None


def _unescaped(field: str) -> str:
    """Return a field of mountinfo, in which spaces and the like are octal, as it is meant."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)
