"""Root file systems as directories and archives: what comes out is what went in, whoever wrote the archive."""

from __future__ import annotations

import bz2
import lzma
import os
import random
import shutil
import stat
import subprocess
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import layout
import pytest
from layout import archive, entry, extended, raw, record
from precondition import requires

from pysandbox.errors import SandboxError

if TYPE_CHECKING:
    from runtime import Runtime

#: cap_net_raw+ep, as setcap(8) writes it: VFS_CAP_REVISION_2 with the effective flag.
CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")
LONG = "/".join(["a-name-of-forty-bytes-that-is-long-enough"] * 7)


@pytest.fixture(autouse=True)
def _as_root() -> None:
    requires("root")


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    """A root file system with one of everything."""
    top = tmp_path / "rootfs"
    (top / LONG).mkdir(parents=True)
    (top / LONG / "file").write_bytes(b"deep")
    (top / "data").write_bytes(os.urandom(300_001))
    (top / "empty").touch()
    (top / "su").write_bytes(b"#!")
    os.chown(top / "su", 0, 7)
    (top / "su").chmod(0o6755)
    (top / "shared").mkdir()
    (top / "shared").chmod(0o3777)
    os.chown(top / "shared", 1000, 4_000_000_000)
    os.link(top / "su", top / "shared/same")
    (top / "link").symlink_to("data")
    (top / "far").symlink_to("/" + "t" * 200)
    (top / "dangling").symlink_to("../../nowhere")
    os.chown(top / "link", 5, 6, follow_symlinks=False)
    (top / ("p" * 90) / ("q" * 90)).mkdir(parents=True)  # in ustar, a name in two parts
    os.mkfifo(top / "fifo")
    (top / "fifo").chmod(0o622)
    (top / os.fsdecode(b"\xff\xfe name\n")).write_text("bytes")
    (top / "grüße").write_text("text")
    with (top / "sparse").open("wb") as file:
        for offset in range(1 << 16, 3 << 20, 1 << 16):  # more pieces than one header has room for
            os.pwrite(file.fileno(), b"x" * 4096, offset)
        file.truncate(5 << 20)
    os.setxattr(top / "data", "security.capability", CAPABILITY)
    os.setxattr(top / "shared", "user.note", b"with\0zero")
    for number, path in enumerate([*top.rglob("*"), top]):
        os.utime(path, ns=(0, 1_600_000_000_000_000_000 + number * 1_000_000_007), follow_symlinks=False)
    return top


def snapshot(top: Path, *, subseconds: bool = True, attributes: bool = True, owners: bool = True) -> dict[str, object]:
    """Return everything about a tree that a bundle has to keep, by path."""
    found: dict[str, object] = {}
    inodes: dict[int, str] = {}
    for path in sorted([top, *top.rglob("*")]):
        status = path.lstat()
        name = str(path.relative_to(top))
        content: object = None
        if stat.S_ISREG(status.st_mode):
            content = (path.read_bytes(), inodes.setdefault(status.st_ino, name))
        elif stat.S_ISLNK(status.st_mode):
            content = os.readlink(path)
        plain = attributes and not stat.S_ISLNK(status.st_mode)
        found[name] = (
            oct(status.st_mode), (status.st_uid, status.st_gid) if owners else None,
            status.st_mtime_ns if subseconds else status.st_mtime_ns // 10**9, content,
            {key: os.getxattr(path, key) for key in os.listxattr(path) if key != "security.selinux"} if plain else None,
        )  # fmt: skip
    return found


def test_a_directory_is_copied_whole(rootfs: Path, tmp_path: Path) -> None:
    layout.bundle(rootfs, tmp_path / "bundle")

    assert snapshot(tmp_path / "bundle/rootfs") == snapshot(rootfs)
    assert (tmp_path / "bundle/rootfs/sparse").stat().st_blocks < 1000


#: Which tar → its options, and whether its format has parts of seconds and attributes.
TARS = {
    "posix": (["--format=posix", "--xattrs", "--xattrs-include=*"], True),
    "gnu": (["--format=gnu"], False),
    **{
        f"posix, sparse {version}": (["--format=posix", "--sparse", f"--sparse-version={version}", "--xattrs", "--xattrs-include=*"], True)
        for version in ("0.0", "0.1", "1.0")
    },
    "gnu, sparse": (["--format=gnu", "--sparse"], False),
}  # fmt: skip


@pytest.mark.parametrize("form", TARS)
def test_what_gnu_tar_packs_is_unpacked_whole(rootfs: Path, tmp_path: Path, form: str) -> None:
    requires("command tar")
    options, exact = TARS[form]
    subprocess.run(["tar", *options, "-C", rootfs, "-cf", tmp_path / "image.tar", "."], check=True)

    layout.bundle(tmp_path / "image.tar", tmp_path / "bundle")

    assert snapshot(tmp_path / "bundle/rootfs", subseconds=exact, attributes=exact) == snapshot(
        rootfs, subseconds=exact, attributes=exact
    )
    if "sparse" in form:
        assert (tmp_path / "bundle/rootfs/sparse").stat().st_blocks < 1000


@pytest.mark.parametrize("form", ["ustar", "v7"])
def test_what_old_formats_can_hold_is_unpacked_whole(rootfs: Path, tmp_path: Path, form: str) -> None:
    requires("command tar")
    for path in ["a-name-of-forty-bytes-that-is-long-enough", "shared", *(["p" * 90] if form == "v7" else [])]:
        shutil.rmtree(rootfs / path)
    for path in ["far", "fifo"]:
        (rootfs / path).unlink()
    subprocess.run(["tar", f"--format={form}", "-C", rootfs, "-cf", tmp_path / "image.tar", "."], check=True)

    layout.bundle(tmp_path / "image.tar", tmp_path / "bundle")

    assert snapshot(tmp_path / "bundle/rootfs", subseconds=False, attributes=False) == snapshot(
        rootfs, subseconds=False, attributes=False
    )


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_what_python_packs_is_unpacked_whole(rootfs: Path, tmp_path: Path, form: int) -> None:
    with tarfile.open(tmp_path / "image.tar", "w", format=form) as tar:
        tar.add(rootfs, ".")

    layout.bundle(tmp_path / "image.tar", tmp_path / "bundle")

    assert snapshot(tmp_path / "bundle/rootfs", subseconds=False, attributes=False) == snapshot(
        rootfs, subseconds=False, attributes=False
    )


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 262143, 262144, 262145])
def test_files_around_the_size_of_a_block_are_whole(tmp_path: Path, size: int) -> None:
    data = random.Random(size).randbytes(size)
    (tmp_path / "image.tar").write_bytes(archive(entry("f", data), entry("g", b"next")))

    layout.bundle(tmp_path / "image.tar", tmp_path / "bundle")

    assert [(tmp_path / "bundle/rootfs" / name).read_bytes() for name in "fg"] == [data, b"next"]


def test_numbers_in_base_256_are_understood(tmp_path: Path) -> None:
    fields = {108: b"\x80\0\0\0\0\x0f\x42\x40", 136: b"\xff" * 10 + b"\xfe\xd4"}
    (tmp_path / "image.tar").write_bytes(
        archive(raw(size=b"\x80" + bytes(10) + b"\x03", at=fields) + b"abc".ljust(512, b"\0"))
    )

    layout.bundle(tmp_path / "image.tar", tmp_path / "bundle")

    status = (tmp_path / "bundle/rootfs/f").stat()
    assert (status.st_uid, status.st_mtime, status.st_size) == (1_000_000, -300, 3)


def test_a_checksum_of_signed_bytes_is_understood(tmp_path: Path) -> None:
    block = bytearray(raw("ü".encode("latin-1")))
    block[148:156] = b"%06o\0 " % (int(block[148:154], 8) - 256)
    (tmp_path / "image.tar").write_bytes(archive(bytes(block)))

    layout.bundle(tmp_path / "image.tar", tmp_path / "bundle")

    assert os.listdir(os.fsencode(tmp_path / "bundle/rootfs")) == [b"\xfc"]


def test_a_pax_header_counts_more_than_the_header(tmp_path: Path) -> None:
    records = [("path", b"renamed"), ("uid", b"3000000"), ("size", b"3"), ("mtime", b"1700000000.123456789")]
    header = extended(b"".join(record(*one) for one in records))
    (tmp_path / "image.tar").write_bytes(archive(header + raw(size=b"0") + b"abc".ljust(512, b"\0"), entry("next")))

    layout.bundle(tmp_path / "image.tar", tmp_path / "bundle")

    status = (tmp_path / "bundle/rootfs/renamed").stat()
    assert (status.st_uid, status.st_size, status.st_mtime_ns) == (3_000_000, 3, 1_700_000_000_123_456_789)
    assert (tmp_path / "bundle/rootfs/next").exists()


PACKERS = {"gzip": layout.zipped, "bzip2": bz2.compress, "xz": lzma.compress, "none": bytes}


@pytest.mark.parametrize("form", PACKERS)
def test_archives_may_be_compressed_and_in_several_pieces(tmp_path: Path, form: str) -> None:
    plain = archive(entry("f", os.urandom(400_000)), entry("g", b"y"))
    pieces = [plain[:70_000], plain[70_000:]]
    (tmp_path / "image").write_bytes(b"".join(map(PACKERS[form], pieces)))

    layout.bundle(tmp_path / "image", tmp_path / "bundle")

    assert (tmp_path / "bundle/rootfs/g").read_bytes() == b"y"


def test_an_archive_may_be_compressed_with_zstd(tmp_path: Path) -> None:
    zstandard = pytest.importorskip("zstandard", reason="the package zstandard is not installed (extra `bundle`)")
    pack = zstandard.ZstdCompressor().compress
    plain = archive(entry("f", bytes(400_000)), entry("g", b"y"))
    (tmp_path / "image").write_bytes(pack(plain[:7000]) + pack(plain[7000:]))
    (tmp_path / "cut").write_bytes(pack(plain)[:-20])

    layout.bundle(tmp_path / "image", tmp_path / "bundle")

    assert (tmp_path / "bundle/rootfs/g").read_bytes() == b"y"
    with pytest.raises(SandboxError, match="truncated|damaged"):
        layout.bundle(tmp_path / "cut", tmp_path / "other")
    with pytest.raises(SandboxError, match="unpacks to more than"):
        layout.bundle(tmp_path / "image", tmp_path / "other", size=100_000)


def test_zstd_without_a_library_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "zstandard", None)
    (tmp_path / "image").write_bytes(b"\x28\xb5\x2f\xfd" + bytes(100))

    with pytest.raises(SandboxError, match="pip install zstandard"):
        layout.bundle(tmp_path / "image", tmp_path / "bundle")
    assert os.listdir(tmp_path) == ["image"]


def test_devices_of_a_directory_are_left_out_or_kept(tmp_path: Path) -> None:
    requires("capability 27")
    (tmp_path / "rootfs").mkdir()
    os.mknod(tmp_path / "rootfs/null", stat.S_IFCHR | 0o640, os.makedev(1, 3))

    layout.bundle(tmp_path / "rootfs", tmp_path / "without")
    layout.bundle(tmp_path / "rootfs", tmp_path / "with", devices="keep")

    status = (tmp_path / "with/rootfs/null").stat()
    assert os.listdir(tmp_path / "without/rootfs") == []
    assert (stat.filemode(status.st_mode), status.st_rdev) == ("crw-r-----", os.makedev(1, 3))


def test_a_pipe_will_do(tmp_path: Path, pysandbox: Runtime) -> None:
    (tmp_path / "image").write_bytes(layout.zipped(archive(entry("f", b"x"))))

    with (tmp_path / "image").open("rb") as file, subprocess.Popen(["cat"], stdin=file, stdout=subprocess.PIPE) as cat:
        said = pysandbox.ok("bundle", "-", tmp_path / "bundle", stdin=cat.stdout)

    assert "1 entries" in said
    assert (tmp_path / "bundle/rootfs/f").read_bytes() == b"x"


def test_a_shells_substituted_process_will_do(tmp_path: Path, pysandbox: Runtime) -> None:
    (tmp_path / "image").write_bytes(archive(entry("f", b"x")))
    words = " ".join(pysandbox.argv("bundle"))

    subprocess.run(["bash", "-c", f"{words} <(cat {tmp_path}/image) {tmp_path}/bundle"], check=True, timeout=60)

    assert (tmp_path / "bundle/rootfs/f").read_bytes() == b"x"


def test_sockets_and_other_file_systems_are_left_out_and_told(tmp_path: Path) -> None:
    import socket

    (tmp_path / "rootfs/mounted").mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(tmp_path / "rootfs/socket"))
    try:
        subprocess.run(["mount", "-t", "tmpfs", "none", tmp_path / "rootfs/mounted"], check=True)
        (tmp_path / "rootfs/mounted/file").touch()
        built = layout.bundle(tmp_path / "rootfs", tmp_path / "bundle")
    finally:
        subprocess.run(["umount", tmp_path / "rootfs/mounted"], check=True)

    assert {kind: omission.names for kind, omission in built.omitted.items()} == {
        "sockets": ['"socket"'],
        "contents of other file systems mounted": ['"mounted"'],
    }
    assert os.listdir(tmp_path / "bundle/rootfs") == ["mounted"]


def test_nothing_but_a_refusal_comes_of_a_damaged_archive(rootfs: Path, tmp_path: Path) -> None:
    """Bytes at random, where they hurt: in the headers. What is unpacked all the same stays within the root."""
    (rootfs / "data").write_bytes(b"short")
    subprocess.run(["tar", "--format=posix", "--sparse", "-C", rootfs, "-cf", tmp_path / "image.tar", "."], check=True)
    whole = (tmp_path / "image.tar").read_bytes()
    headers = [block for block in range(0, len(whole), 512) if whole[block + 257 : block + 262] == b"ustar"]
    chance = random.Random(6)
    refused = 0
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            block = chance.choice(headers) + chance.choice((0, 0, 512))
            data[block + chance.randrange(512)] = chance.choice(b"\0\x80\xff/.x109 ")
            data[block + 148 : block + 156] = b" " * 8
            data[block + 148 : block + 156] = b"%06o\0 " % sum(data[block : block + 512])
        (tmp_path / "image.tar").write_bytes(data)
        try:
            layout.bundle(tmp_path / "image.tar", tmp_path / "bundle")
            shutil.rmtree(tmp_path / "bundle")
        except (SandboxError, OSError):
            refused += 1
        assert sorted(os.listdir(tmp_path)) == ["image.tar", "rootfs"]

    assert 10 < refused < 60
