"""On which kind of file system a directory lies."""

import pytest

from lit_storage_core.system.mounts import (
    file_system_of,
    mount_id_in,
    points_below,
    spans_machines,
    type_of_mount,
)

MOUNTINFO = """\
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
41 27 0:38 / /home rw,nosuid shared:7 master:1 - nfs4 server:/export rw,vers=4.2
42 27 0:39 / /mnt/with\\040space rw - fuse.sshfs user@host:/ rw
"""


@pytest.mark.parametrize(
    ("mount_id", "kind"), [(27, "ext4"), (41, "nfs4"), (42, "fuse.sshfs"), (4, ""), (-1, "")]
)
def test_a_mount_is_found_by_its_id(mount_id, kind):
    """The type stands after the dash of the line with that id; an id that is not listed has none."""
    assert type_of_mount(MOUNTINFO, mount_id) == kind


@pytest.mark.parametrize(
    ("directory", "points"),
    [
        ("/mnt", ["/mnt/with space"]),
        ("/mnt/with space", []),
        ("/mnt/wi", []),
        ("/", ["/home", "/mnt/with space"]),
    ],
)
def test_mount_points_below_a_directory(directory, points):
    """They are those that lie in it, without the directory itself."""
    assert points_below(MOUNTINFO, directory) == points


def test_the_mount_id_is_read_from_a_descriptor():
    """fdinfo tells the mount id; without such a line it is -1."""
    assert mount_id_in("pos:\t0\nflags:\t012100000\nmnt_id:\t41\nino:\t2\n") == 41
    assert mount_id_in("pos:\t0\n") == -1


@pytest.mark.parametrize(
    "kind",
    [
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "smbfs",
        "ceph",
        "lustre",
        "gpfs",
        "beegfs",
        "glusterfs",
        "9p",
        "afs",
        "ocfs2",
        "virtiofs",
        "fuse.glusterfs",
        "fuse.sshfs",
        "fuse.s3fs",
        "fuse.rclone",
        "fuse.gcsfuse",
    ],
)
def test_file_systems_of_many_machines(kind):
    """A file system over a network, or one shared with guests, spans machines."""
    assert spans_machines(kind)


@pytest.mark.parametrize(
    "kind", ["ext4", "xfs", "btrfs", "tmpfs", "overlay", "zfs", "fuse.gocryptfs", "fuseblk", ""]
)
def test_file_systems_of_one_machine(kind):
    """A local file system does not span machines."""
    assert not spans_machines(kind)


def test_the_kernel_is_asked():
    """/proc is a mount of type proc."""
    assert file_system_of("/proc") == "proc"
