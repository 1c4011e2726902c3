"""What a guest can do with the files of the host that it is given: a jailed QEMU, a jailed virtiofsd, a real kernel."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from precondition import requires
from sharing.guest import Guest, guest_kernel
from sharing.release import RELEASES, server_of

from pysandbox.errors import FailedPrecondition
from pysandbox.executor import ExecutorError
from pysandbox.record import replace
from pysandbox_microvm import jail, tree, virtiofsd

if TYPE_CHECKING:
    from collections.abc import Iterator


class Shared:
    """A guest, and a bundle that it is served: everything of it is at /mnt/c in the guest."""

    def __init__(self, guest: Guest, bundle: Path, server: virtiofsd.FileServer) -> None:
        self.guest = guest
        self.bundle = bundle
        self.rootfs = bundle / "rootfs"
        self.server = server

    def run(self, code: str) -> Any:
        """Execute code in the guest, with `root` as the path of the rootfs and `m` as that of the mounts."""
        return self.guest.run(f"root, m = '/mnt/c/rootfs', '/mnt/c/mounts'\n{code}")


def bind(source: Path | str, *options: str) -> dict[str, Any]:
    return {"destination": "/d", "type": "bind", "source": str(source), "options": ["bind", *options]}


def plan(bundle: Path, *mounts: dict[str, Any], **root: Any) -> tree.Tree:
    spec: Any = {"ociVersion": "1.2.0", "root": {"path": "rootfs", **root}, "mounts": list(mounts)}
    return tree.host_tree(spec, str(bundle))


#: Removed when the guest has ended: it is served them until then.
BUNDLES: list[Path] = []


def new_bundle() -> Path:
    bundle = Path(tempfile.mkdtemp(prefix="sharing-"))
    BUNDLES.append(bundle)
    for name in ("rootfs", "writable", "frozen"):
        (bundle / name).mkdir()
    (bundle / "frozen/file").write_text("frozen")
    (bundle / "single").write_text("single")
    return bundle


@pytest.fixture(scope="module", params=RELEASES)
def guest(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    requires("root", "command qemu-system-x86_64", "file /usr/bin/python3.11")
    kernel = guest_kernel()
    machine = Guest(kernel, tmp_path_factory.mktemp("guest"), server_of(request.param))
    yield machine
    machine.close()
    while BUNDLES:
        shutil.rmtree(BUNDLES.pop())


@pytest.fixture(scope="module")
def shared(guest: Guest) -> Shared:
    bundle = new_bundle()
    mounts = [
        bind(bundle / "writable"), bind(bundle / "frozen", "ro"), bind(bundle / "single"), bind(bundle / "single", "ro"),
    ]  # fmt: skip
    return Shared(guest, bundle, guest.share(plan(bundle, *mounts), "c"))


# -- files, as they are ------------------------------------------------------------------------------------------------


def test_each_side_sees_what_the_other_writes(shared: Shared) -> None:
    (shared.rootfs / "from_host").write_text("host")
    assert shared.run("result = open(f'{root}/from_host').read()") == "host"
    shared.run("open(f'{root}/from_guest', 'w').write('guest')")
    assert (shared.rootfs / "from_guest").read_text() == "guest"


def test_a_file_belongs_to_the_user_of_the_guest_that_made_it(shared: Shared) -> None:
    (shared.rootfs / "open").mkdir()
    (shared.rootfs / "open").chmod(0o777)
    said = shared.run("result = as_user(1234, 5678, lambda: os.close(os.open(f'{root}/open/f', os.O_CREAT, 0o640)))")
    assert said == ""
    status = (shared.rootfs / "open/f").stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (1234, 5678, 0o640)


def test_ownership_and_modes_are_kept_both_ways(shared: Shared) -> None:
    path = shared.rootfs / "owned"
    path.write_text("")
    os.chown(path, 7, 8)
    path.chmod(0o6751)
    told = "s = os.stat(f'{root}/owned'); result = [s.st_uid, s.st_gid, s.st_mode & 0o7777]"
    assert shared.run(told) == [7, 8, 0o6751]
    shared.run("os.chown(f'{root}/owned', 4294000000, 9); os.chmod(f'{root}/owned', 0o4711)")
    status = path.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (4294000000, 9, 0o4711)


def test_links_are_kept(shared: Shared) -> None:
    shared.run(
        """
open(f'{root}/one', 'w').close(); os.link(f'{root}/one', f'{root}/two'); os.symlink('/absolute', f'{root}/three')
"""
    )
    assert (shared.rootfs / "one").samefile(shared.rootfs / "two")
    assert (shared.rootfs / "one").stat().st_nlink == 2
    assert os.readlink(shared.rootfs / "three") == "/absolute"


def test_device_nodes_are_kept(shared: Shared) -> None:
    shared.run(
        """
os.mknod(f'{root}/c', stat.S_IFCHR | 0o600, os.makedev(1, 3)); os.mknod(f'{root}/b', stat.S_IFBLK | 0o600, os.makedev(8, 1))
os.mkfifo(f'{root}/p')
"""
    )
    kinds = {name: (shared.rootfs / name).stat() for name in "cbp"}
    assert stat.S_ISCHR(kinds["c"].st_mode)
    assert kinds["c"].st_rdev == os.makedev(1, 3)
    assert stat.S_ISBLK(kinds["b"].st_mode)
    assert kinds["b"].st_rdev == os.makedev(8, 1)
    assert stat.S_ISFIFO(kinds["p"].st_mode)


def test_a_device_node_on_the_share_is_the_guests_device(shared: Shared) -> None:
    (shared.rootfs / "kmsg").unlink(missing_ok=True)
    os.mknod(shared.rootfs / "kmsg", stat.S_IFCHR | 0o600, os.makedev(1, 11))
    log = "import os\nf = os.open(f'{root}/kmsg', os.O_RDONLY | os.O_NONBLOCK); result = os.read(f, 4096).decode()"
    assert "Linux version" in shared.run(log)


def test_extended_attributes_are_kept(shared: Shared) -> None:
    path = shared.rootfs / "attributes"
    path.write_text("")
    os.setxattr(path, "user.host", b"1")
    capability = b"\x01\x00\x00\x02\x00\x04\x00\x00" + bytes(12)  # VFS_CAP_REVISION_2, effective, NET_BIND_SERVICE
    assert shared.run("result = os.getxattr(f'{root}/attributes', 'user.host').decode()") == "1"
    shared.run(
        f"p = f'{{root}}/attributes'; os.setxattr(p, 'user.guest', b'2'); os.setxattr(p, 'security.capability', {capability!r})"
    )
    assert os.getxattr(path, "user.guest") == b"2"
    assert os.getxattr(path, "security.capability") == capability
    shared.run("os.removexattr(f'{root}/attributes', 'user.guest')")
    assert "user.guest" not in os.listxattr(path)


#: An ACL (linux/posix_acl_xattr.h): owner rw, user 1234 r, group none, mask r, others none.
ACL = (
    b"\x02\x00\x00\x00" + b"\x01\x00\x06\x00\xff\xff\xff\xff" + b"\x02\x00\x04\x00\xd2\x04\x00\x00"
    b"\x04\x00\x00\x00\xff\xff\xff\xff" + b"\x10\x00\x04\x00\xff\xff\xff\xff" + b"\x20\x00\x00\x00\xff\xff\xff\xff"
)


def test_access_control_lists_are_kept(shared: Shared) -> None:
    """Kept, not enforced: the guest's kernel decides by the mode bits. virtiofsd 1.x does not show them."""
    path = shared.rootfs / "listed"
    path.write_text("x")
    os.setxattr(path, "system.posix_acl_access", ACL)
    name = "'system.posix_acl_access'"
    if shared.guest.program.rust:
        assert shared.run(f"result = attempt(os.getxattr, f'{{root}}/listed', {name})") == "ENOTSUP"
        shared.run("os.chmod(f'{root}/listed', 0o640)")
        assert "system.posix_acl_access" in os.listxattr(path)
        return
    assert shared.run(f"result = os.getxattr(f'{{root}}/listed', {name}).hex()") == ACL.hex()
    shared.run(f"open(f'{{root}}/listed2', 'w').close(); os.setxattr(f'{{root}}/listed2', {name}, {ACL!r})")
    assert os.getxattr(shared.rootfs / "listed2", "system.posix_acl_access") == ACL


def test_permissions_hold_for_the_users_of_the_guest(shared: Shared) -> None:
    path = shared.rootfs / "secret"
    path.write_text("x")
    path.chmod(0o640)
    os.chown(path, 7, 70)
    opening = "lambda: os.close(os.open(f'{root}/secret', os.O_RDONLY))"
    users = "[(7, 1, ()), (8, 70, ()), (8, 1, (70,)), (8, 1, ())]"
    assert shared.run(f"result = [as_user(u, g, {opening}, s) for u, g, s in {users}]") == ["", "", "", "EACCES"]


def test_set_id_bits_fall_when_somebody_else_writes(shared: Shared) -> None:
    path = shared.rootfs / "setuid"
    path.write_text("")
    path.chmod(0o6777)
    assert shared.run("result = as_user(5, 5, lambda: open(f'{root}/setuid', 'w').write('x'))") == ""
    assert not path.stat().st_mode & stat.S_ISUID


def test_files_of_every_shape(shared: Shared) -> None:
    shared.run(
        """
f = os.open(f'{root}/shape', os.O_RDWR | os.O_CREAT)
os.pwrite(f, b'end', 5 << 30); os.posix_fallocate(f, 0, 4096)
with mmap.mmap(f, 4096) as area: area[:4] = b'mmap'; area.flush()
os.unlink(f'{root}/shape'); open(f'{root}/shape2', 'w').close(); os.rename(f'{root}/shape2', f'{root}/shape')
result = os.pread(f, 4, 0).decode(); os.close(f)
"""
    )
    assert (shared.rootfs / "shape").stat().st_size == 0
    assert not (shared.rootfs / "shape2").exists()


def test_a_write_through_a_mapping_reaches_the_host(shared: Shared) -> None:
    (shared.rootfs / "mapped").write_bytes(bytes(8192))
    shared.run(
        "f = os.open(f'{root}/mapped', os.O_RDWR)\nwith mmap.mmap(f, 8192) as a: a[5000:5004] = b'here'; a.flush()\nos.close(f)"
    )
    assert (shared.rootfs / "mapped").read_bytes()[5000:5004] == b"here"


# -- mounts ------------------------------------------------------------------------------------------------------------


def test_a_single_file_is_served_and_written(shared: Shared) -> None:
    shared.run("open(f'{m}/2', 'w').write('changed')")
    assert (shared.bundle / "single").read_text() == "changed"


def test_what_is_mounted_below_a_recursive_bind_is_another_file_system(guest: Guest, tmp_path: Path) -> None:
    """Two files of one inode number must not be one file to the guest."""
    requires("root")
    bundle = new_bundle()
    source = bundle / "writable"
    (source / "below").mkdir()
    os.system(f"mount -t tmpfs tmpfs {source}/below")
    try:
        (source / "below/inner").write_text("inner")
        guest.share(plan(bundle, bind(source, "rbind"), bind(source)), "r")
        told = "result = [os.stat(f'/mnt/r/mounts/{n}/below/.').st_dev == os.stat(f'/mnt/r/mounts/{n}').st_dev for n in (0, 1)]"
        assert guest.run(told) == [False, True]
        assert guest.value("[os.listdir(f'/mnt/r/mounts/{n}/below') for n in (0, 1)]") == [["inner"], []]
    finally:
        os.system(f"umount {source}/below")


def test_an_id_mapped_mount_shows_and_makes_other_owners(guest: Guest) -> None:
    bundle = new_bundle()
    (bundle / "writable/f").write_text("")
    os.chown(bundle / "writable/f", 1000, 1000)
    maps = [{"containerID": 1000, "hostID": 5000, "size": 10}]
    mount = {**bind(bundle / "writable", "idmap"), "uidMappings": maps, "gidMappings": maps}
    os.chown(bundle / "writable", 1000, 1000)  # nobody makes files in a directory whose owner is not mapped
    (bundle / "writable").chmod(0o777)
    guest.share(plan(bundle, mount), "i")
    assert guest.value("os.stat('/mnt/i/mounts/0/f').st_uid") == 5000
    assert guest.value("as_user(5001, 5001, lambda: open('/mnt/i/mounts/0/g', 'w').close())") == ""
    assert (bundle / "writable/g").stat().st_uid == 1001


# -- what a hostile root of the guest cannot do ------------------------------------------------------------------------


def test_read_only_is_the_hosts_word(shared: Shared) -> None:
    """Whatever root of the guest remounts: the file server itself cannot write there."""
    shared.run(
        """
MS_REMOUNT, MS_BIND = 32, 4096
for place in ('/mnt/c', f'{m}/1'):
    attempt(mount, 'none', place, 'none', MS_REMOUNT); attempt(mount, 'none', place, 'none', MS_REMOUNT | MS_BIND)
"""
    )
    frozen = """
f = f'{m}/1/file'
result = [attempt(open, f, 'w'), attempt(os.unlink, f), attempt(os.chmod, f, 0), attempt(os.chown, f, 1, 1),
          attempt(os.mkdir, f'{m}/1/d'), attempt(os.setxattr, f, 'user.x', b'1'), attempt(os.rename, f, f'{m}/0/x'),
          attempt(os.link, f, f'{m}/1/l'), attempt(os.utime, f), attempt(open, f'{m}/3', 'w'), attempt(os.chmod, f'{m}/3', 0)]
"""
    assert shared.run(frozen) == [*["EROFS"] * 6, "EXDEV", *["EROFS"] * 4]
    assert (shared.bundle / "frozen/file").read_text() == "frozen"
    assert shared.run("result = [attempt(open, f'{m}/0/x', 'w'), attempt(open, f'{m}/2', 'w')]") == [
        "",
        "",
    ]  # the proof


def test_a_root_becomes_read_only_on_the_host_when_its_mount_points_are_made(guest: Guest) -> None:
    bundle = new_bundle()
    server = guest.share(plan(bundle, readonly=True), "o")
    assert guest.value("attempt(os.mkdir, '/mnt/o/rootfs/mountpoint')") == ""
    guest.run("f = os.open('/mnt/o/rootfs/open', os.O_CREAT | os.O_WRONLY)")
    with pytest.raises(ExecutorError, match="busy"):
        server.make_root_read_only()
    guest.run("os.close(f)")
    server.make_root_read_only()
    assert guest.value("attempt(os.mkdir, '/mnt/o/rootfs/other')") == "EROFS"
    assert [path.name for path in sorted((bundle / "rootfs").iterdir())] == ["mountpoint", "open"]


def test_links_of_a_guest_lead_nowhere_on_the_host(shared: Shared) -> None:
    canary = Path(tempfile.mkdtemp(prefix="canary-")) / "file"
    canary.write_text("untouched")
    try:
        tried = f"""
os.symlink('{canary}', f'{{root}}/absolute'); os.symlink('../' * 30 + '{canary}'[1:], f'{{root}}/relative')
os.symlink('{canary.parent}', f'{{root}}/directory')
os.symlink('/proc/1/root/{canary}', f'{{root}}/magic')
names = ['absolute', 'relative', 'directory/file', 'magic']
result = [attempt(open, f'{{root}}/{{name}}', flags) for name in names for flags in ('r', 'r+')]
"""
        assert set(shared.run(tried)) == {"ENOENT"}
        assert canary.read_text() == "untouched"
        assert [path.name for path in canary.parent.iterdir()] == ["file"]
    finally:
        shutil.rmtree(canary.parent)


def test_the_hosts_root_is_shared_without_the_hosts_kernel(guest: Guest) -> None:
    """A recursive bind mount of "/": its files, and neither /proc nor /sys nor any cgroup."""
    bundle = new_bundle()
    server = guest.share(plan(bundle, bind("/", "rbind", "ro")), "h")
    assert guest.value("os.path.exists('/mnt/h/mounts/0/etc/passwd')")
    seen = guest.value("[os.listdir('/mnt/h/mounts/0/' + name) for name in ('proc', 'sys')]")
    assert seen == [[], []]
    assert os.listdir("/proc") != []  # the proof
    left = set(virtiofsd.kernel_mounts(Path(f"/proc/{server.pid}/mountinfo").read_text()))
    assert all(
        os.path.isdir(f"/proc/{server.pid}/root{place}") is False or not os.listdir(f"/proc/{server.pid}/root{place}")
        for place in left
    )


def test_the_hosts_kernel_is_not_shared_under_another_name(guest: Guest) -> None:
    bundle = new_bundle()
    (bundle / "link").symlink_to("/proc/sys")
    with pytest.raises(FailedPrecondition, match=r"mounts\[0\]: .*link: is the host's proc, not files"):
        virtiofsd.FileServer.start(plan(bundle, bind(bundle / "link")), guest.program)


def test_the_file_server_cannot_open_a_device_node_that_a_guest_made(shared: Shared) -> None:
    """Through its own mounts, whoever it is: here root of the host with all capabilities, in its place."""
    shared.run("os.mknod(f'{root}/evil', stat.S_IFCHR | 0o666, os.makedev(1, 5))")
    os.close(os.open(shared.rootfs / "evil", os.O_RDONLY))  # the proof: where the host mounts it, it is a device
    with pytest.raises(PermissionError):
        os.open(f"/proc/{shared.server.pid}/root/rootfs/evil", os.O_RDONLY)


def test_the_file_server_cannot_follow_a_link_that_a_guest_made(shared: Shared) -> None:
    shared.run("open(f'{root}/aim', 'w').close(); os.symlink('aim', f'{root}/arrow')")
    assert (shared.rootfs / "arrow").exists()  # the proof
    with pytest.raises(OSError, match="Too many levels"):
        os.stat(f"/proc/{shared.server.pid}/root/rootfs/arrow")


# -- time --------------------------------------------------------------------------------------------------------------


def test_a_change_on_the_host_is_seen_within_a_second(shared: Shared) -> None:
    path = shared.rootfs / "changing"
    path.write_text("before")
    assert shared.run("result = [open(f'{root}/changing').read(), os.stat(f'{root}/changing').st_size]") == [
        "before",
        6,
    ]
    path.write_text("after it all")
    time.sleep(1.1)
    assert shared.run("result = open(f'{root}/changing').read()") == "after it all"


def test_inotify_sees_the_guests_changes_and_not_the_hosts(shared: Shared) -> None:
    """No events come over FUSE: programs in a guest that wait for a file of the host to change must poll."""
    shared.run("w = libc.inotify_init1(os.O_NONBLOCK); libc.inotify_add_watch(w, root.encode(), 0x100 | 0x2)")
    events = "try:\n    result = len(os.read(w, 4096))\nexcept BlockingIOError:\n    result = 0\n"
    (shared.rootfs / "made_by_host").write_text("x")
    time.sleep(0.2)
    assert shared.run(events) == 0
    shared.run("open(f'{root}/made_by_guest', 'w').close()")
    assert shared.run(events) > 0


def test_a_full_disk_of_the_host_is_one_of_the_guest(guest: Guest) -> None:
    bundle = new_bundle()
    os.system(f"mount -t tmpfs -o size=1m tmpfs {bundle}/writable")
    try:
        guest.share(plan(bundle, bind(bundle / "writable")), "f")
        filling = "def fill():\n    with open('/mnt/f/mounts/0/x', 'wb', buffering=0) as f:\n        while True: f.write(bytes(65536))\nresult = attempt(fill)"
        assert guest.run(filling) == "ENOSPC"
    finally:
        os.system(f"umount -l {bundle}/writable")


def test_a_guest_that_remembers_too_many_files_is_told_so_and_goes_on(
    guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = new_bundle()
    for number in range(900):
        (bundle / f"rootfs/{number}").touch()
    jailed = virtiofsd.server_jail

    def few(*arguments: Any) -> jail.Jail:
        return replace(jailed(*arguments), limits=[(jail.RLIMIT_NOFILE, 700)])  # the least that 1.13 takes is 610

    monkeypatch.setattr(virtiofsd, "server_jail", few)
    guest.share(plan(bundle), "n")
    looking = "result = sorted({attempt(os.stat, f'/mnt/n/rootfs/{n}') for n in range(900)})"
    assert guest.run(looking) == ["", "ENFILE" if guest.program.rust else "EMFILE"]
    guest.run("open('/proc/sys/vm/drop_caches', 'w').write('2')")
    assert guest.value("attempt(os.stat, '/mnt/n/rootfs/899')") == ""
