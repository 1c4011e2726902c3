"""Attacks on the file server by a guest whose kernel is the attacker: raw FUSE requests, and what they must not reach."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import struct
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from precondition import requires
from sharing import fuse
from sharing.fuse import Ended, Fuse
from sharing.release import RELEASES, server_of

from pysandbox_microvm import tree, virtiofsd

if TYPE_CHECKING:
    from collections.abc import Iterator


class Attack:
    """A bundle that is served, an attacker who is connected, and a directory of the host that nothing may touch."""

    def __init__(self, base: Path, program: virtiofsd.Server) -> None:
        self.program = program
        self.bundle, self.canary = base / "bundle", base / "canary"
        for path in (self.bundle / "rootfs", self.bundle / "frozen", self.canary):
            path.mkdir(parents=True)
        (self.canary / "file").write_text("untouched")
        (self.bundle / "frozen/file").write_text("frozen")
        (self.bundle / "rootfs/file").write_text("x")
        frozen = {"destination": "/d", "type": "bind", "source": str(self.bundle / "frozen"), "options": ["bind", "ro"]}
        spec: Any = {"ociVersion": "1.2.0", "root": {"path": "rootfs"}, "mounts": [frozen]}
        self._before = self._seen()
        self.server = virtiofsd.FileServer.start(tree.host_tree(spec, str(self.bundle)), program)
        self.fuse = Fuse(self.server.socket)
        self.rootfs = self.fuse.walk("rootfs")

    def _seen(self) -> list[tuple[str, int, str]]:
        paths = [self.canary, *sorted(self.canary.rglob("*"))]
        return [(str(path), path.lstat().st_mode, path.read_text() if path.is_file() else "") for path in paths]

    def untouched(self) -> bool:
        """Say whether the canary is as it was."""
        return self._seen() == self._before

    def node(self, name: str) -> int:
        return self.fuse.lookup(self.rootfs, name)

    def error(self, opcode: int, node: int, payload: bytes = b"", **who: int) -> str:
        """Send a request; return the name of its error, "" for none."""
        number = self.fuse.request(opcode, node, payload, **who)[0]
        return errno.errorcode[number] if number else ""

    def close(self) -> None:
        self.fuse.close()
        self.server.close()


@pytest.fixture(params=RELEASES)
def attack(request: pytest.FixtureRequest) -> Iterator[Attack]:
    requires("root")
    program = server_of(request.param)
    base = Path(tempfile.mkdtemp(prefix="hostile-"))
    attacker = Attack(base, program)
    yield attacker
    attacker.close()
    shutil.rmtree(base)


def mode(*numbers: int) -> bytes:
    return struct.pack(f"={len(numbers)}I", *numbers)


def text(*names: str) -> bytes:
    return b"".join(name.encode() + b"\0" for name in names)


#: Requests that make or take away a name: what stands before it.
MAKING = {
    fuse.MKDIR: mode(0o755, 0),
    fuse.MKNOD: mode(0o100644, 0, 0, 0),
    fuse.CREATE: mode(os.O_WRONLY | os.O_CREAT, 0o644, 0, 0),
    fuse.SYMLINK: b"",
    fuse.UNLINK: b"",
    fuse.RMDIR: b"",
}


def make(attack: Attack, opcode: int, node: int, name: str) -> str:
    names = text(name, "target") if opcode == fuse.SYMLINK else text(name)
    return attack.error(opcode, node, MAKING[opcode] + names)


def test_the_attacker_is_served_as_any_guest(attack: Attack) -> None:
    """The proof that the attacks here are requests that a server answers."""
    assert make(attack, fuse.MKDIR, attack.rootfs, "made") == ""
    assert (attack.bundle / "rootfs/made").is_dir()
    assert attack.fuse.inode(attack.rootfs) == (attack.bundle / "rootfs").stat().st_ino


@pytest.mark.parametrize("opcode", list(MAKING))
def test_a_name_is_no_path(attack: Attack, opcode: int) -> None:
    for name in (
        f"../../canary/{opcode}",
        f"{attack.canary}/{opcode}",
        "../" * 40 + f"{attack.canary}/file",
        "a/b",
        "..",
        "",
    ):
        for node in (fuse.ROOT, attack.rootfs):
            assert make(attack, opcode, node, name) != "", name
    assert attack.untouched()


def test_nothing_lies_above_the_root(attack: Attack) -> None:
    known = {attack.fuse.inode(fuse.ROOT), attack.fuse.inode(attack.rootfs)}  # 1.13 takes every ".." for "."
    assert attack.fuse.inode(attack.fuse.lookup(fuse.ROOT, "..")) == attack.fuse.inode(fuse.ROOT)
    node = attack.rootfs
    for _ in range(20):
        node = attack.fuse.lookup(node, "..")
        assert attack.fuse.inode(node) in known
    for name in ("/", "/..", "../..", "rootfs/../..", "rootfs/../../.."):
        found = attack.fuse.lookup(fuse.ROOT, name)
        assert found == 0 or attack.fuse.inode(found) in known
    for name in ("/etc", str(attack.canary), "../" * 40 + str(attack.canary)[1:], "/proc/self", "/usr"):
        assert attack.fuse.lookup(fuse.ROOT, name) == 0


def test_names_of_two_places_are_no_paths_either(attack: Attack) -> None:
    """Virtiofsd 1.13 does not look whether the new name is a path: its root is what keeps that from leading out."""
    for depth in range(8):
        for to in (
            "../" * depth + f"canary/{depth}",
            "../" * depth + f"{attack.canary}"[1:] + f"/{depth}",
            f"{attack.canary}/{depth}",
        ):
            assert attack.error(fuse.RENAME, attack.rootfs, struct.pack("=Q", attack.rootfs) + text("file", to)) != ""
            assert attack.error(fuse.LINK, attack.rootfs, struct.pack("=Q", attack.node("file")) + text(to)) != ""
    assert attack.untouched()


def test_a_new_name_goes_through_no_link(attack: Attack) -> None:
    """Where the server itself does not look at a new name: no link of the tree is followed by it on the host."""
    (attack.bundle / "rootfs/dir").mkdir()
    assert attack.error(fuse.SYMLINK, attack.rootfs, text("link", "dir")) == ""
    assert attack.error(fuse.RENAME, attack.rootfs, struct.pack("=Q", attack.rootfs) + text("file", "link/file")) != ""
    assert (attack.bundle / "rootfs/link/..").exists()  # the proof: the host follows it
    assert not (attack.bundle / "rootfs/dir/file").exists()


def test_no_request_goes_through_a_link(attack: Attack) -> None:
    for name, target in {"dir": str(attack.canary), "file_": str(attack.canary / "file"), "up": "../../canary"}.items():
        assert attack.error(fuse.SYMLINK, attack.rootfs, text(name, target)) == ""
        link = attack.node(name)
        for opcode in MAKING:
            assert make(attack, opcode, link, "file") != ""
        assert attack.fuse.lookup(link, "file") == 0
        assert attack.error(fuse.OPEN, link, mode(os.O_RDWR, 0)) != ""
        assert attack.error(fuse.OPENDIR, link, mode(0, 0)) != ""
        assert attack.error(fuse.SETXATTR, link, mode(1, 0) + text("user.x") + b"1") != ""
        assert attack.error(fuse.SETATTR, link, _size(0)) != ""
    assert attack.untouched()


def test_a_device_node_that_a_guest_made_is_never_opened(attack: Attack) -> None:
    for name, kind in {"c": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}.items():
        assert attack.error(fuse.MKNOD, attack.rootfs, mode(kind | 0o666, os.makedev(1, 5), 0, 0) + text(name)) == ""
        for flags in (os.O_RDONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC):
            assert attack.error(fuse.OPEN, attack.node(name), mode(flags, 0)) in ("EBADF", "EACCES", "ENXIO")
        assert make(attack, fuse.CREATE, attack.rootfs, name) in ("EBADF", "EACCES", "ENXIO")
    held = [os.readlink(f"/proc/{attack.server.pid}/fd/{n}") for n in os.listdir(f"/proc/{attack.server.pid}/fd")]
    assert "/dev/zero" not in held


def _size(size: int) -> bytes:
    """SETATTR with FATTR_SIZE."""
    return struct.pack("=IIQQQ", 1 << 3, 0, 0, size, 0) + bytes(56)


def test_read_only_holds_against_every_request(attack: Attack) -> None:
    frozen = attack.fuse.walk("mounts", "0")
    file = attack.fuse.lookup(frozen, "file")
    errors = [
        make(attack, opcode, frozen, "file" if opcode == fuse.UNLINK else "new")
        for opcode in MAKING
        if opcode != fuse.RMDIR
    ]
    errors += [
        attack.error(fuse.SETATTR, file, _size(0)),
        attack.error(fuse.SETATTR, file, struct.pack("=II", 1, 0) + bytes(60) + mode(0o777) + bytes(20)),
        attack.error(fuse.SETXATTR, file, mode(1, 0) + text("user.x") + b"1"),
        attack.error(fuse.OPEN, file, mode(os.O_RDWR, 0)),
        attack.error(fuse.LINK, frozen, struct.pack("=Q", file) + text("hard")),
    ]
    assert set(errors) == {"EROFS"}
    assert attack.error(fuse.LINK, attack.rootfs, struct.pack("=Q", file) + text("hard")) == "EXDEV"
    assert (attack.bundle / "frozen/file").read_text() == "frozen"


def test_the_mounts_themselves_cannot_be_moved_or_removed(attack: Attack) -> None:
    """Else a read-only one could be put where another is looked for."""
    to = struct.pack("=Q", fuse.ROOT)
    assert attack.error(fuse.RENAME, fuse.ROOT, to + text("rootfs", "other")) == "EROFS"
    assert attack.error(fuse.RMDIR, fuse.ROOT, text("rootfs")) == "EROFS"
    assert make(attack, fuse.MKDIR, fuse.ROOT, "more") == "EROFS"


def test_numbers_that_were_never_given_are_refused(attack: Attack) -> None:
    assert attack.error(fuse.GETATTR, 987654321, bytes(16)) == "EBADF"
    assert attack.error(fuse.READ, attack.rootfs, struct.pack("=QQIIQII", 1 << 40, 0, 4096, 0, 0, 0, 0)) == "EBADF"
    assert attack.error(4095, fuse.ROOT) == "ENOSYS"


@pytest.mark.parametrize(
    ("message", "length"),
    [
        (b"", 0), (b"\xff" * 16, None), (b"\xff" * 40, None), (struct.pack("=I", 1 << 31) + bytes(60), None),
        (bytes(40), 1 << 30), (struct.pack("=IIQQIIIHH", 44, fuse.LOOKUP, 9, 1, 0, 0, 0, 0, 0) + b"noend"[:4], None),
    ],
)  # fmt: skip
def test_garbage_ends_the_file_server_at_worst(attack: Attack, message: bytes, length: int | None) -> None:
    try:
        attack.fuse.raw(message, length)
    except (Ended, BrokenPipeError, ConnectionResetError):
        assert attack.server.wait(5) is not None or os.path.exists(f"/proc/{attack.server.pid}")
    assert attack.untouched()


# -- which capabilities it takes ---------------------------------------------------------------------------------------


def _chown(attack: Attack) -> str:
    """SETATTR with FATTR_UID to 77."""
    return attack.error(fuse.SETATTR, attack.node("file"), struct.pack("=II", 1 << 1, 0) + bytes(68) + mode(77, 0, 0))


def _write_what_modes_forbid(attack: Attack) -> str:
    path = attack.bundle / "rootfs/file"
    os.chown(path, 5, 5)
    path.chmod(0o400)
    return attack.error(fuse.OPEN, attack.node("file"), mode(os.O_RDWR, 0))


def _chmod(attack: Attack, value: int = 0o640) -> str:
    return attack.error(
        fuse.SETATTR, attack.node("file"), struct.pack("=II", 1, 0) + bytes(60) + mode(value) + bytes(20)
    )


def _chmod_of_anothers(attack: Attack) -> str:
    os.chown(attack.bundle / "rootfs/file", 5, 5)
    return _chmod(attack)


def _set_group_id_of_anothers(attack: Attack) -> str:
    path = attack.bundle / "rootfs/file"
    os.chown(path, 0, 5)
    error = _chmod(attack, 0o2755)
    return error or ("" if path.stat().st_mode & stat.S_ISGID else "lost")


def _create_as(attack: Attack, uid: int, gid: int) -> str:
    (attack.bundle / "rootfs").chmod(0o777)
    payload = MAKING[fuse.CREATE] + text("of_user")
    error = attack.error(fuse.CREATE, attack.rootfs, payload, uid=uid, gid=gid)
    path = attack.bundle / "rootfs/of_user"
    return error or ("" if (path.stat().st_uid, path.stat().st_gid) == (uid, gid) else "another's")


def _make_device(attack: Attack) -> str:
    return attack.error(fuse.MKNOD, attack.rootfs, mode(stat.S_IFCHR | 0o600, os.makedev(1, 3), 0, 0) + text("null"))


def _set_file_capability(attack: Attack) -> str:
    value = b"\x01\x00\x00\x02\x00\x04\x00\x00" + bytes(12)
    payload = mode(len(value), 0) + text("security.capability") + value
    return attack.error(fuse.SETXATTR, attack.node("file"), payload)


NEEDS = {
    "CAP_CHOWN": _chown,
    "CAP_DAC_OVERRIDE": _write_what_modes_forbid,
    "CAP_FOWNER": _chmod_of_anothers,
    "CAP_FSETID": _set_group_id_of_anothers,
    "CAP_SETGID": lambda attack: _create_as(attack, 0, 66),
    "CAP_SETUID": lambda attack: _create_as(attack, 66, 0),
    "CAP_MKNOD": _make_device,
    "CAP_SETFCAP": _set_file_capability,
}


def test_every_capability_of_the_file_server_is_one_that_is_measured() -> None:
    assert set(NEEDS) == set(virtiofsd.OWNERSHIP)


@pytest.mark.parametrize("name", list(NEEDS))
def test_what_a_capability_is_for_works_with_it_and_not_without(
    attack: Attack, monkeypatch: pytest.MonkeyPatch, name: str, tmp_path: Path
) -> None:
    assert NEEDS[name](attack) == ""
    arguments = virtiofsd.arguments

    def without(server: virtiofsd.Server, **options: str) -> list[str]:
        change = f"-{name.removeprefix('CAP_').lower()}"
        return [
            *arguments(server, **options),
            *([f"--modcaps={change}"] if server.rust else ["-o", f"modcaps={change}"]),
        ]

    monkeypatch.setattr(virtiofsd, "arguments", without)
    base = Path(tempfile.mkdtemp(prefix="hostile-"))
    lesser = Attack(base, attack.program)
    try:
        assert NEEDS[name](lesser) != ""
    except Ended:
        pass  # it ends when it cannot become the user
    finally:
        lesser.close()
        shutil.rmtree(base)
