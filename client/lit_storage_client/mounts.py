"""In which mount a file or directory lies, and on which kind of file system.

Invariant: each answer is a pure function of what the kernel lists under ``/proc/self``. Two uses:
names can be exchanged only within one mount, which the device does not tell, as of bind mounts.
And a database in WAL mode needs memory that all its users share, which no file system over a
network or between a host and its guests gives (https://www.sqlite.org/wal.html, section 1).
"""

from __future__ import annotations

import os

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
