"""Hostile images: `pysandbox bundle` refuses each in one line, and has left nothing then, inside or outside.

That a test of a refusal can fail is shown by its twin: the same archive without the attack is unpacked. That an escape
would be seen is shown by the standard library's unpacker, which trusts archives: there the canary dies.
"""

from __future__ import annotations

import json
import lzma
import os
import re
import subprocess
import tarfile
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import layout
import pytest
from layout import Layout, archive, directory, entry, extended, layout_of, link, raw, record, symlink
from precondition import requires

from pysandbox.errors import SandboxError

if TYPE_CHECKING:
    from collections.abc import Callable

    from runtime import Runtime

SECRET = "nobody has touched this"


@pytest.fixture(autouse=True)
def _as_root() -> None:
    requires("root")


@pytest.fixture
def yard(tmp_path: Path) -> Path:
    """A directory for bundles, with a canary beside it: what an escape would reach."""
    (tmp_path / "canary").mkdir()
    (tmp_path / "canary/file").write_text(SECRET)
    (tmp_path / "yard").mkdir()
    return tmp_path / "yard"


def canary_lives(yard: Path) -> bool:
    canary = yard.parent / "canary"
    if os.listdir(canary) != ["file"] or not (canary / "file").is_file():
        return False
    status = (canary / "file").stat()
    return (canary / "file").read_text() == SECRET and (
        status.st_nlink, status.st_mode & 0o7777, status.st_uid,
    ) == (1, 0o644, 0)  # fmt: skip


def refusal(image: Path, yard: Path, **options: Any) -> str:
    """Have an image refused, and return the line that says why."""
    with pytest.raises(SandboxError) as refused:
        layout.bundle(image, yard / "bundle", **options)
    assert os.listdir(yard) == []
    assert canary_lives(yard)
    assert "\n" not in str(refused.value)
    return str(refused.value)


# -- entries -----------------------------------------------------------------------------------------------------------

D = directory("d")
F = entry("f", b"x")
#: What it is → the attack, what says so, its harmless twin.
ENTRIES: dict[str, tuple[bytes, str, bytes]] = {
    "absolute path": (entry("/etc/f"), "absolute path", entry("etc/f")),
    "absolute path in a PAX header": (extended(record("path", b"/f")) + raw(), "absolute path", extended(record("path", b"g")) + raw()),
    "absolute hard link": (F + link("g", "/f"), "absolute path", F + link("g", "f")),
    "path that climbs": (entry("d/../../f"), '".."', entry("d/e/f")),
    "path that climbs and returns": (entry("d/../f"), '".."', entry("d/f")),
    "directory that climbs": (directory(".."), '".."', directory(".")),
    "hard link that climbs": (F + link("g", "../f"), '".."', F + link("g", "./f")),
    "hard link to nothing": (link("g", "f"), "which is not there", F + link("g", "f")),
    "hard link to a directory": (D + link("g", "d"), "which is a directory", D + symlink("g", "d")),
    "hard link to itself": (link("f", "f"), "itself|not there", F + link("g", "f")),
    "hard link to the root": (link("g", "."), "root", F + link("g", "f")),
    "NUL in a PAX path": (extended(record("path", b"a\0b")) + raw(), "NUL", extended(record("path", b"ab")) + raw()),
    "NUL in a link": (extended(record("linkpath", b"a\0b")) + raw(type_=b"2"), "NUL", extended(record("linkpath", b"a")) + raw(type_=b"2")),
    "empty link": (raw(type_=b"2"), "target", raw(type_=b"2", at={157: b"x"})),
    "file in place of the root": (entry("./"[:1]), "root has to be a directory", directory("./")),
    "link in place of the root": (symlink(".", "/etc"), "root has to be a directory", directory("./")),
    "too long a name": (entry("n" * 256), "256 bytes", entry("n" * 255)),
    "too long a path": (entry("/".join(["n" * 200] * 21)), "4220 bytes", entry("/".join(["n" * 200] * 20))),
    "too long a link": (symlink("l", "t" * 4096), "4096 bytes", symlink("l", "t" * 4095)),
    "too deep": (entry("/".join("d" * 129)), "deeper than 128", entry("/".join("d" * 128))),
    "too deep by links": (
        directory("/".join("d" * 100)) + symlink("s", "/".join("d" * 100)) + entry("s/" + "/".join("e" * 50)),
        "deeper than 128",
        directory("/".join("d" * 100)) + symlink("s", "/".join("d" * 100)) + entry("s/" + "/".join("e" * 20)),
    ),
    "loop of links": (symlink("a", "b") + symlink("b", "a") + entry("a/f"), "no directory", symlink("a", "b") + D + symlink("b", "d") + entry("a/f")),
    "file as a directory": (F + entry("f/g"), "no directory", D + entry("d/g")),
    "dangling link as a directory": (symlink("a", "b") + entry("a/f"), "leads nowhere", symlink("a", "b") + directory("b") + entry("a/f")),
    "twice": (F + entry("f", b"y"), "twice", F + entry("F", b"y")),
    "twice by another way": (F + entry("./f", b"y"), "twice", F + entry("./F", b"y")),
    "twice through a link": (D + entry("d/f") + symlink("l", "d") + entry("l/f"), "twice", D + entry("d/f") + symlink("l", "d") + entry("l/g")),
    "directory, then a link in its place": (entry("d/f") + symlink("d", "/etc"), "a directory and a file", entry("d/f") + symlink("e", "/etc")),
    "link, then a directory in its place": (symlink("d", "/etc") + D, "twice", symlink("d", "/etc") + directory("e")),
    "uid -1": (extended(record("uid", b"4294967295")) + raw(), "uid 4294967295", extended(record("uid", b"4294967294")) + raw()),
    "uid of 33 bits": (raw(at={108: b"\x80\0\0\x01\0\0\0\0"}), "uid 4294967296", raw(at={108: b"\x80\0\0\0\xff\0\0\0"})),
    "negative gid": (raw(at={116: b"\xff" * 8}), "gid -1", raw(at={116: b"\x80\0\0\0\0\0\0\x07"})),
    "negative size": (raw(size=b"\xff" * 12), "-1 bytes", raw(size=b"\x80" + bytes(11))),
    "size of no file": (extended(record("size", b"9223372036854775807")) + raw(), "truncated|more than", extended(record("size", b"0")) + raw()),
    "size that is no number": (raw(size=b"9x"), "octal number", raw(size=b"0")),
    "time beyond all times": (extended(record("mtime", b"999999999999999")) + raw(), "time", extended(record("mtime", b"-1.5")) + raw()),
    "time that is no number": (extended(record("mtime", b"1e9")) + raw(), "should be a time", extended(record("mtime", b"19.000000001")) + raw()),
    "directory with content": (raw(b"d", type_=b"5", size=b"1000"), "directory with 512 bytes", raw(b"d", type_=b"5")),
    "directory by its PAX name, with content": (extended(record("path", b"d/")) + raw(b"d", size=b"1000") + bytes(512), "directory with 512 bytes", extended(record("path", b"d/")) + raw(b"d")),
    "hard link with content": (F + raw(b"g", type_=b"1", size=b"1000", at={157: b"f"}), "link with 512 bytes", F + raw(b"g", type_=b"1", at={157: b"f"})),
    "unknown type": (raw(type_=b"V"), "unknown type", raw(type_=b"7")),
    "checksum that is wrong": (raw()[:-1] + b"x", "checksum", raw()),
    "text": (b"this is no header, " * 100, "checksum|octal", raw()),
    "global header that renames": (extended(record("path", b"x"), type_=b"g") + raw(), "global PAX header", extended(record("comment", b"x"), type_=b"g") + raw()),
    "record of a wrong length": (extended(b"99 path=x\n") + raw(), "damaged", extended(record("path", b"x")) + raw()),
    "record without a newline": (extended(b"9 path=xx") + raw(), "damaged", extended(record("path", b"xx")) + raw()),
    "record of length 0": (extended(b"0 path=x\n") + raw(), "damaged", extended(record("path", b"x")) + raw()),
    "record of a negative length": (extended(b"-9 path=x\n") + raw(), "damaged", extended(record("path", b"x")) + raw()),
    "record twice": (extended(record("path", b"x") + record("path", b"y")) + raw(), "twice", extended(record("path", b"x")) + raw()),
    "two extended headers": (extended(record("path", b"x")) * 2 + raw(), "two extended", extended(record("path", b"x")) + raw()),
    "extended header and nothing": (extended(record("path", b"x")), "behind an extended header", extended(record("path", b"x")) + raw()),
    "extended header of a gigabyte": (raw(type_=b"x", size=b"10000000000"), "extended header of 1073741824", extended(b"") + raw()),
    "long name of a gigabyte": (raw(type_=b"L", size=b"10000000000"), "extended header of 1073741824", extended(b"g\0", type_=b"L") + raw()),
    "too many attributes": (extended(b"".join(record(f"SCHILY.xattr.user.{n}", b"") for n in range(65))) + raw(), "more than 64", extended(record("SCHILY.xattr.user.a", b"")) + raw()),
    "too long an attribute": (extended(record("SCHILY.xattr.user.a", bytes(65537))) + raw(), "attribute", extended(record("SCHILY.xattr.user.a", bytes(1000))) + raw()),
    "device number that is none": (entry("n", kind="c", devmajor=0o777777, devminor=1), "777777|262143", F),
    "sparse pieces that overlap": (
        extended(record("GNU.sparse.size", b"2000") + record("GNU.sparse.numblocks", b"2") + record("GNU.sparse.map", b"0,600,500,600")) + raw(size=b"2260") + bytes(1536),
        "damaged map",
        extended(record("GNU.sparse.size", b"2000") + record("GNU.sparse.map", b"0,600,600,600")) + raw(size=b"2260") + bytes(1536),
    ),
    "sparse piece behind the end": (
        extended(record("GNU.sparse.size", b"100") + record("GNU.sparse.map", b"0,512")) + raw(size=b"1000") + bytes(512),
        "damaged map",
        extended(record("GNU.sparse.size", b"512") + record("GNU.sparse.map", b"0,512")) + raw(size=b"1000") + bytes(512),
    ),
    "sparse file of an exabyte": (
        extended(record("GNU.sparse.size", b"1152921504606846976") + record("GNU.sparse.map", b"0,512")) + raw(size=b"1000") + bytes(512),
        "more than 67108864 bytes",
        extended(record("GNU.sparse.size", b"1048576") + record("GNU.sparse.map", b"0,512")) + raw(size=b"1000") + bytes(512),
    ),
    "sparse map without an end": (
        extended(record("GNU.sparse.major", b"1") + record("GNU.sparse.minor", b"0") + record("GNU.sparse.realsize", b"1")) + raw(size=b"1000") + b"1" * 512,
        "damaged map",
        extended(record("GNU.sparse.major", b"1") + record("GNU.sparse.minor", b"0") + record("GNU.sparse.realsize", b"1")) + raw(size=b"1000") + b"0\n".ljust(512, b"\0"),
    ),
    "sparse map of a million pieces": (
        extended(record("GNU.sparse.major", b"1") + record("GNU.sparse.minor", b"0") + record("GNU.sparse.realsize", b"1")) + raw(size=b"1000") + b"1000000\n".ljust(512, b"\0"),
        "more than 100000 pieces",
        extended(record("GNU.sparse.major", b"1") + record("GNU.sparse.minor", b"0") + record("GNU.sparse.realsize", b"1")) + raw(size=b"1000") + b"0\n".ljust(512, b"\0"),
    ),
    "sparse file without a map": (extended(record("GNU.sparse.size", b"5")) + raw(), "without a map", extended(record("GNU.sparse.size", b"0")) + raw()),
    "sparse file whose map is no data": (
        extended(record("GNU.sparse.major", b"1") + record("GNU.sparse.minor", b"0") + record("GNU.sparse.realsize", b"1")) + raw(),
        "damaged map",
        raw(),
    ),
    "sparse map with a piece and a half": (extended(record("GNU.sparse.size", b"5") + record("GNU.sparse.map", b"0,1,2")) + raw(), "damaged map", extended(record("GNU.sparse.size", b"5") + record("GNU.sparse.map", b"0,0")) + raw()),
    "sparse map of no numbers": (extended(record("GNU.sparse.size", b"5") + record("GNU.sparse.map", b"0,x")) + raw(), "should be a number", extended(record("GNU.sparse.size", b"5") + record("GNU.sparse.map", b"")) + raw()),
    "sparse map of less than is stored": (
        extended(record("GNU.sparse.size", b"2000") + record("GNU.sparse.map", b"0,100")) + raw(size=b"1000") + bytes(512),
        "512 bytes are stored",
        extended(record("GNU.sparse.size", b"2000") + record("GNU.sparse.map", b"0,512")) + raw(size=b"1000") + bytes(512),
    ),
    "sparse map in the header of too many pieces": (extended(record("GNU.sparse.size", b"5") + record("GNU.sparse.map", b"0," * 200_001 + b"0")) + raw(), "more than 100000 pieces", extended(record("GNU.sparse.size", b"5") + record("GNU.sparse.map", b"0,0")) + raw()),
    "GNU sparse map that never ends": (raw(type_=b"S", at={482: b"\x01"}) + (b"\x01" * 512) * 5000, "octal|truncated|damaged|more than", raw(type_=b"S")),
    "GNU sparse map of many blocks without a piece": (raw(type_=b"S", at={482: b"\x01"}) + (bytes(504) + b"\x01" * 8) * 20_000, "more than 10000 entries", raw(type_=b"S")),
    "whiteout of the parent": (entry("d/.wh..."), "beyond its directory", entry("d/.wh.x")),
    "whiteout of the directory": (entry("d/.wh.."), "beyond its directory", entry("d/.wh.x")),
    "whiteout of nothing": (entry("d/.wh."), "beyond its directory", entry("d/.wh.x")),
    "whiteout that is a directory": (directory("d/.wh.x"), "not a directory", entry("d/.wh.x")),
    "whiteout that is a link": (symlink("d/.wh.x", "/etc"), "not a symlink", entry("d/.wh.x")),
    "whiteout twice": (entry("d/f") + entry("d/.wh..wh..opq") * 2, "twice", entry("d/f") + entry("d/.wh..wh..opq")),
    "capability that is none": (extended(record("SCHILY.xattr.security.capability", b"evil")) + raw(), "does not take", extended(record("SCHILY.xattr.security.capability", bytes.fromhex("0100000200200000" + "0" * 24))) + raw()),
    "whiteout on the way": (entry("d/.wh.x/f"), "no directory", entry("d/.wh.x")),
}  # fmt: skip


@pytest.mark.parametrize("attack", ENTRIES)
def test_a_layer_that_no_image_has_is_refused(yard: Path, tmp_path: Path, attack: str) -> None:
    bad, reason, _ = ENTRIES[attack]

    assert re.search(reason, refusal(layout_of(tmp_path / "image", archive(bad)), yard)), attack


@pytest.mark.parametrize("attack", ENTRIES)
def test_its_harmless_twin_is_unpacked(yard: Path, tmp_path: Path, attack: str) -> None:
    layout.bundle(layout_of(tmp_path / "image", archive(ENTRIES[attack][2])), yard / "bundle")

    assert os.listdir(yard) == ["bundle"]


def test_an_error_has_no_control_characters_of_the_archive(yard: Path, tmp_path: Path) -> None:
    image = layout_of(tmp_path / "image", archive(entry("/\x1b]0;owned\x07\n\x9b31m\udcff")))

    assert refusal(image, yard).isascii()
    assert refusal(image, yard).isprintable()


# -- ways out ----------------------------------------------------------------------------------------------------------


def ways_out(canary: Path) -> dict[str, list[bytes]]:
    """Layers that would write, link, change or remove the canary if links were followed as the host has them."""
    up = "../" * 40 + str(canary).lstrip("/")
    return {
        "file through an absolute link": [archive(symlink("l", str(canary)) + entry("l/file", b"gone"))],
        "file through a climbing link": [archive(symlink("l", up) + entry("l/file", b"gone"))],
        "file through a link of a lower layer": [archive(symlink("l", str(canary))), archive(entry("l/file", b"gone"))],
        "file through two links": [archive(symlink("a", str(canary.parent)) + symlink("b", f"a/{canary.name}") + entry("b/file", b"gone"))],
        "file in place of a link to the file": [archive(symlink("l", f"{canary}/file")), archive(entry("l", b"gone"))],
        "directory in place of a link": [archive(symlink("l", str(canary))), archive(directory("l", mode=0o777, uid=1) + entry("l/new", b"x"))],
        "hard link through a link": [archive(symlink("l", str(canary))), archive(directory("l2") + link("l2/h", "l/file")) ],
        "hard link to a link, then a file": [archive(symlink("l", f"{canary}/file") + link("h", "l")), archive(entry("h", b"gone"))],
        "whiteout through a link": [archive(symlink("l", str(canary))), archive(entry("l/.wh.file"))],
        "opaque whiteout through a link": [archive(symlink("l", str(canary))), archive(entry("l/.wh..wh..opq"))],
        "whiteout of the link": [archive(symlink("l", str(canary))), archive(entry(".wh.l"))],
        "link in place of a directory, removed": [archive(entry("d/x")), archive(symlink("d", str(canary))), archive(entry(".wh.d"))],
        "fifo through a link": [archive(symlink("l", str(canary)) + entry("l/fifo", kind="fifo"))],
        "procfs link to the host's root": [archive(symlink("l", f"/proc/1/root{canary}") + entry("l/file", b"gone"))],
        "procfs link to our own root": [archive(symlink("l", f"/proc/self/root{canary}") + entry("l/file", b"gone"))],
        "procfs link to a descriptor": [archive(*(symlink(f"l{n}", f"/proc/self/fd/{n}/../../..{canary}") + entry(f"l{n}/file", b"gone") for n in range(3, 20)))],
    }  # fmt: skip


@pytest.mark.parametrize("way", ways_out(Path("/x")))
def test_nothing_is_reached_outside_of_the_root(yard: Path, tmp_path: Path, way: str) -> None:
    layers = ways_out(yard.parent / "canary")[way]
    try:
        layout.bundle(layout_of(tmp_path / "image", *layers), yard / "bundle", devices="keep")
    except SandboxError:
        assert os.listdir(yard) == []

    assert canary_lives(yard)


@pytest.mark.parametrize("member", ["WorkingDir", "Volumes"])
def test_directories_that_the_configuration_asks_for_are_made_in_the_root(
    yard: Path, tmp_path: Path, member: str
) -> None:
    value: Any = "/l/new" if member == "WorkingDir" else {"/l/new": {}}
    layer = archive(symlink("l", "../canary"), directory("canary"))

    layout.bundle(layout_of(tmp_path / "image", layer, config={member: value}), yard / "bundle")

    assert (yard / "bundle/rootfs/canary/new").is_dir()
    assert canary_lives(yard)


@pytest.mark.parametrize(
    "way", ["file through an absolute link", "file through a climbing link", "file through two links"]
)
def test_an_unpacker_that_trusts_would_have_lost_the_canary(yard: Path, way: str) -> None:
    (layer,) = ways_out(yard.parent / "canary")[way]
    (yard / "layer.tar").write_bytes(layer)

    with tarfile.open(yard / "layer.tar") as tar:
        tar.extraction_filter = staticmethod(lambda member, _: member)  # Python 3.14 trusts less by default
        tar.extractall(yard / "out")

    assert not canary_lives(yard)


def test_a_file_that_replaces_a_hard_link_leaves_the_other_name_alone(yard: Path, tmp_path: Path) -> None:
    first = archive(entry("a", b"first"), link("b", "a"))
    layout.bundle(layout_of(tmp_path / "image", first, archive(entry("b", b"second"))), yard / "bundle")

    rootfs = yard / "bundle/rootfs"
    assert [(rootfs / name).read_bytes() for name in "ab"] == [b"first", b"second"]


def test_users_are_looked_up_in_the_image_alone(yard: Path, tmp_path: Path) -> None:
    (yard.parent / "canary/file").write_text("toor:x:7:7::/:/bin/sh\n")
    links = archive(symlink("etc", str(yard.parent / "canary")), symlink("passwd", "file"))
    image = layout_of(tmp_path / "image", links, config={"User": "toor"})

    with pytest.raises(SandboxError, match='no user "toor"'):
        layout.bundle(image, yard / "bundle")


@pytest.mark.parametrize(
    "passwd",
    [
        pytest.param(entry("etc/passwd", kind="fifo"), id="fifo"),
        pytest.param(directory("etc/passwd"), id="directory"),
        pytest.param(extended(record("GNU.sparse.size", b"33554432") + record("GNU.sparse.map", b"0,0")) + raw(b"etc/passwd"), id="32 MiB of a hole"),
        pytest.param(entry("etc/passwd", kind="c", devmajor=1, devminor=5), id="/dev/zero"),
    ],
)  # fmt: skip
def test_an_account_file_that_is_none_is_refused_at_once(yard: Path, tmp_path: Path, passwd: bytes) -> None:
    image = layout_of(tmp_path / "image", archive(passwd), config={"User": "user"})
    before = time.monotonic()

    assert re.search("not a regular file|larger than 1048576", refusal(image, yard, devices="keep"))
    assert time.monotonic() - before < 2


# -- sizes -------------------------------------------------------------------------------------------------------------

MIB = 1 << 20


def bomb(pack: Callable[[bytes], bytes]) -> bytes:
    return pack(archive(entry("zeros", bytes(8 * MIB))))


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": layout.zipped,
    "xz": lambda data: lzma.compress(data, preset=0),
    "bzip2": lambda data: __import__("bz2").compress(data, 1),
    "plain": lambda data: data,
}


@pytest.mark.parametrize("form", PACKERS)
def test_a_bomb_is_stopped_at_the_limit_and_below_it_is_none(yard: Path, tmp_path: Path, form: str) -> None:
    (tmp_path / "bomb").write_bytes(bomb(PACKERS[form]))

    assert "unpacks to more than 1048576 bytes (--max-size" in refusal(tmp_path / "bomb", yard, size=MIB)
    layout.bundle(tmp_path / "bomb", yard / "bundle", size=9 * MIB)
    assert (yard / "bundle/rootfs/zeros").stat().st_size == 8 * MIB


def test_all_layers_together_have_one_limit(yard: Path, tmp_path: Path) -> None:
    layers = [archive(entry(f"f{number}", bytes(600 << 10))) for number in range(3)]
    image = layout_of(tmp_path / "image", *layers)

    assert refusal(image, yard, size=MIB).startswith("layer 2 of 3: unpacks to more")
    layout.bundle(image, yard / "bundle", size=2 * MIB)


def test_memory_stays_bounded_whatever_is_unpacked(yard: Path, tmp_path: Path, launcher: Path) -> None:
    (tmp_path / "bomb").write_bytes(layout.zipped(archive(*(entry(f"f{n}", bytes(32 * MIB)) for n in range(2)))))
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_DATA, (32 << 20, 32 << 20));"
        "from pysandbox.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    script = launcher.with_name("pysandbox-cold").read_text().partition("if ")[0]

    done = subprocess.run(
        [_interpreter(launcher), "-I", "-S", "-c", script + code, "bundle", tmp_path / "bomb", yard / "bundle"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert len(os.listdir(yard / "bundle/rootfs")) == 2


def _interpreter(launcher: Path) -> str:
    return launcher.with_name("pysandbox-cold").read_text().splitlines()[0].removeprefix("#!").partition(" ")[0]


def test_a_limit_counts_entries_of_all_layers(yard: Path, tmp_path: Path) -> None:
    layers = [archive(*(entry(f"l{layer}/f{number}") for number in range(30))) for layer in range(2)]
    image = layout_of(tmp_path / "image", *layers)

    assert "more than 59 entries (--max-entries" in refusal(image, yard, entries=59)
    layout.bundle(image, yard / "bundle", entries=60)


def test_a_limit_counts_headers_without_an_entry(yard: Path, tmp_path: Path) -> None:
    headers = extended(record("comment", b"x"), type_=b"g") * 100

    assert "more than 50 entries" in refusal(layout_of(tmp_path / "image", archive(headers)), yard, entries=50)


def test_more_layers_than_any_image_has_are_refused(yard: Path, tmp_path: Path) -> None:
    assert "more than 512 layers" in refusal(layout_of(tmp_path / "image", *[archive(entry("f"))] * 513), yard)


def test_a_hole_counts_in_a_directory_too(yard: Path, tmp_path: Path) -> None:
    (tmp_path / "rootfs").mkdir()
    with (tmp_path / "rootfs/hole").open("wb") as file:
        file.truncate(1 << 40)

    assert "unpacks to more than" in refusal(tmp_path / "rootfs", yard)


def test_a_directory_nested_too_deep_is_refused(yard: Path, tmp_path: Path) -> None:
    (tmp_path / "rootfs" / "/".join("d" * 129)).mkdir(parents=True)

    assert "deeper than 128" in refusal(tmp_path / "rootfs", yard)


# -- streams -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["gzip", "xz", "bzip2"])
@pytest.mark.parametrize("cut", [1, 9, 30, 200])
def test_a_truncated_archive_is_refused(yard: Path, tmp_path: Path, form: str, cut: int) -> None:
    whole = PACKERS[form](archive(*(entry(f"f{n}", os.urandom(300)) for n in range(3))))
    (tmp_path / "cut").write_bytes(whole[:-cut])

    assert re.search("truncated|damaged", refusal(tmp_path / "cut", yard))
    (tmp_path / "whole").write_bytes(whole)
    layout.bundle(tmp_path / "whole", yard / "bundle")


@pytest.mark.parametrize("length", [0, 1, 511, 513, 1023, 1024, 1536, 2047])
def test_an_archive_that_ends_too_early_is_refused(yard: Path, tmp_path: Path, length: int) -> None:
    whole = archive(entry("f", bytes(600)), entry("g"))
    (tmp_path / "cut").write_bytes(whole[:length])

    assert "truncated" in refusal(tmp_path / "cut", yard)


@pytest.mark.parametrize("form", ["gzip", "xz", "bzip2"])
def test_what_follows_compressed_data_is_refused(yard: Path, tmp_path: Path, form: str) -> None:
    packed = PACKERS[form](archive(entry("f")))
    (tmp_path / "more").write_bytes(packed + b"more")

    assert re.search("damaged|truncated", refusal(tmp_path / "more", yard))
    (tmp_path / "zeros").write_bytes(packed + bytes(40))
    layout.bundle(tmp_path / "zeros", yard / "bundle")


def test_a_damaged_stream_is_refused(yard: Path, tmp_path: Path) -> None:
    packed = bytearray(layout.zipped(archive(entry("f", os.urandom(5000)))))
    packed[3000] ^= 0xFF
    (tmp_path / "damaged").write_bytes(packed)

    assert "damaged gzip data" in refusal(tmp_path / "damaged", yard)


def test_a_window_of_a_gigabyte_is_refused(yard: Path, tmp_path: Path) -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 20}]
    good = lzma.compress(archive(entry("f")), filters=filters)
    # The dictionary's size is one byte of the block header, which has a checksum of its own.
    header = bytearray(good[12 : 12 + 12])
    assert header[2:4] == b"\x21\x01"
    header[4] = 36  # 1 GiB
    header[8:12] = zlib.crc32(header[:8]).to_bytes(4, "little")
    (tmp_path / "good").write_bytes(good)
    (tmp_path / "bad").write_bytes(good[:12] + header + good[24:])

    assert "damaged xz data: memory usage limit" in refusal(tmp_path / "bad", yard)
    layout.bundle(tmp_path / "good", yard / "bundle")


def test_a_pipe_that_says_nothing_is_given_up(yard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pysandbox.bundle.stream import Pipe

    os.mkfifo(tmp_path / "pipe")
    writer = os.open(tmp_path / "pipe", os.O_RDWR)
    monkeypatch.setattr(Pipe, "TIMEOUT", 0.1)
    try:
        assert "nothing to read" in refusal(tmp_path / "pipe", yard)
    finally:
        os.close(writer)


# -- documents and digests ---------------------------------------------------------------------------------------------

LAYER = archive(entry("f", b"x"))


def changed(change: Callable[[Layout], object]) -> Callable[[Path], Path]:
    """Return what writes the layout of a small image, changed."""

    def write(path: Path) -> Path:
        image = Layout()
        image.image([LAYER])
        change(image)
        return image.write(path)

    return write


def swap_blob(image: Layout, old: bytes, new: bytes) -> None:
    """Change a blob's content and leave its name."""
    (name,) = [name for name, data in image.files.items() if old in data and name.startswith("blobs")]
    image.files[name] = image.files[name].replace(old, new)


def redirect(image: Layout, digest: str) -> None:
    image.manifests[0]["digest"] = digest


def nest(image: Layout, depth: int) -> None:
    for _ in range(depth):
        index = {"schemaVersion": 2, "manifests": image.manifests}
        image.manifests = [image.document(index, Layout.INDEX)]


def multiply(image: Layout, times: int, depth: int) -> None:
    for _ in range(depth):
        inner = image.document({"schemaVersion": 2, "manifests": image.manifests}, Layout.INDEX)
        image.manifests = [inner] * times


def with_manifest(**members: Any) -> Callable[[Layout], object]:
    def change(image: Layout) -> None:
        image.manifests = []
        image.image([LAYER], manifest=members)

    return change


def with_document(**members: Any) -> Callable[[Layout], object]:
    def change(image: Layout) -> None:
        image.manifests = []
        image.image([LAYER], **members)

    return change


SUM = "sha256:" + "0" * 64
LAYOUTS: dict[str, tuple[Callable[[Layout], object], str]] = {
    "layer changed": (lambda i: swap_blob(i, LAYER, LAYER.replace(b"x", b"y", 1)), "wrong digest"),
    "configuration changed": (lambda i: swap_blob(i, b'"true"', b'"evil"'), "wrong digest"),
    "manifest changed": (lambda i: swap_blob(i, b'"schemaVersion": 2', b'"schemaVersion": 3'), "wrong digest"),
    "blob longer than promised": (lambda i: swap_blob(i, LAYER, LAYER + bytes(512)), "were promised"),
    "blob missing": (lambda i: i.files.pop(f"blobs/{layout.digest(LAYER).replace(':', '/')}"), "is not there"),
    "digest of the unpacked layer": (with_document(rootfs={"diff_ids": [SUM]}), "wrong digest.*diff_ids"),
    "fewer digests than layers": (with_document(rootfs={"diff_ids": []}), "1 layers, but digests .* of 0"),
    "digest that climbs": (lambda i: redirect(i, "sha256:../../../canary/file"), "64 hexadecimal"),
    "digest of another algorithm": (lambda i: redirect(i, "md5:" + "0" * 32), "sha256 or sha512"),
    "algorithm that climbs": (lambda i: redirect(i, "../../x:" + "0" * 64), "sha256 or sha512"),
    "digest in capitals": (lambda i: redirect(i, i.manifests[0]["digest"].upper().replace("SHA", "sha")), "64 hexadecimal"),
    "digest that is a number": (lambda i: redirect(i, 7), "sha256 or sha512"),  # type: ignore[arg-type]
    "size that is negative": (lambda i: i.manifests[0].update(size=-1), "size"),
    "size that is true": (lambda i: i.manifests[0].update(size=True), "size"),
    "indexes within indexes": (lambda i: nest(i, 5), "indexes within indexes"),
    "billion manifests": (lambda i: multiply(i, 300, 3), "more than"),
    "indexes of many bytes": (lambda i: i.manifests.extend([i.document({"manifests": [], "pad": " " * 4_000_000}, Layout.INDEX)] * 5), "more than 16777216 bytes"),
    "manifest that is an index": (with_manifest(manifests=[]), "has manifests as well"),
    "index that is a manifest": (lambda i: i.files.update({"index.json": json.dumps({"manifests": i.manifests, "layers": []}).encode()}), "has layers as well"),
    "manifest of another type": (with_manifest(mediaType=Layout.INDEX), "not that of its descriptor"),
    "configuration of another type": (with_manifest(config={"mediaType": "application/vnd.cncf.helm.config.v1+json", "digest": SUM, "size": 0}), "no container image"),
    "layer of another type": (with_manifest(layers=[{"mediaType": "text/plain", "digest": SUM, "size": 0}]), "no file system"),
    "layer that is encrypted": (with_manifest(layers=[{"mediaType": f"{Layout.LAYER}+gzip+encrypted", "digest": SUM, "size": 0}]), "no file system"),
    "key twice": (lambda i: i.files.update({"index.json": b'{"manifests": [], "manifests": []}'}), "duplicate key"),
    "nested too deep": (lambda i: i.files.update({"index.json": b"[" * 100_000}), "nested deeper|must be"),
    "larger than any document": (lambda i: i.files.update({"index.json": b" " * (5 << 20)}), "larger than"),
    "not JSON": (lambda i: i.files.update({"index.json": b"\x80"}), "not UTF-8"),
    "index that is an array": (lambda i: i.files.update({"index.json": b"[]"}), "must be a JSON object"),
    "layout of the future": (lambda i: i.files.update({"oci-layout": b'{"imageLayoutVersion": "2.0"}'}), "version"),
    "annotations that are a string": (lambda i: i.manifests[0].update(annotations="x"), "annotations: must be an object"),
    "platform that this is not": (lambda i: i.manifests[0].update(platform={"os": "linux", "architecture": "pdp11"}), "no image for .* here.*pdp11"),
    "platform that is a string": (lambda i: i.manifests[0].update(platform="linux"), "no image for"),
    "manifests that are a string": (lambda i: i.files.update({"index.json": b'{"manifests": "x"}'}), "manifests: must be an array"),
    "layers that are an object": (with_manifest(layers={}), "layers: must be an array"),
    "no image": (lambda i: i.manifests.clear(), "no image"),
    "another architecture": (with_document(architecture="pdp11"), "pdp11"),
    "another system": (with_document(os="windows"), "windows"),
    "neither entrypoint nor command": (with_document(config={"Cmd": []}), "neither Entrypoint nor Cmd"),
    "command that is a string": (with_document(config={"Cmd": "sh"}), "config.Cmd: must be an array"),
    "command with a number": (with_document(config={"Cmd": [1]}), r"config.Cmd\[0\]: must be a string"),
    "command with NUL": (with_document(config={"Cmd": ["a\0b"]}), "NUL"),
    "variable without a name": (with_document(config={"Cmd": ["a"], "Env": ["=x"]}), "NAME=VALUE"),
    "variable without a value": (with_document(config={"Cmd": ["a"], "Env": ["LD_PRELOAD"]}), "NAME=VALUE"),
    "working directory that climbs": (with_document(config={"Cmd": ["a"], "WorkingDir": "/a/../../b"}), '".."'),
    "working directory that is relative": (with_document(config={"Cmd": ["a"], "WorkingDir": "a"}), "absolute path"),
    "volume that climbs": (with_document(config={"Cmd": ["a"], "Volumes": {"/a/../../../etc": {}}}), '".."'),
    "volume in place of the root": (with_document(config={"Cmd": ["a"], "Volumes": {"/.": {}}}), "no place for a volume"),
    "volume in place of procfs": (with_document(config={"Cmd": ["a"], "Volumes": {"/proc/self": {}}}), "no place for a volume"),
    "a thousand volumes": (with_document(config={"Cmd": ["a"], "Volumes": {f"/{n}": {} for n in range(1000)}}), "more than 128"),
    "stop signal that is none": (with_document(config={"Cmd": ["a"], "StopSignal": "SIGFOO"}), "unknown signal"),
    "label that is no text": (with_document(config={"Cmd": ["a"], "Labels": {"a": 1}}), "must be a string"),
    "user that nobody is": (with_document(config={"Cmd": ["a"], "User": "nobody"}), "no user"),
    "group that nobody has": (with_document(config={"Cmd": ["a"], "User": "0:staff"}), "no group"),
    "user -1": (with_document(config={"Cmd": ["a"], "User": "4294967295"}), "ids are numbers"),
    "user of 33 bits": (with_document(config={"Cmd": ["a"], "User": "4294967296"}), "ids are numbers"),
    "user with a sign": (with_document(config={"Cmd": ["a"], "User": "+1"}), "ids are numbers"),
    "user with an empty group": (with_document(config={"Cmd": ["a"], "User": "1:"}), "no group behind"),
    "host name of 65 bytes": (with_document(config={"Cmd": ["a"], "Hostname": "h" * 65}), "64 bytes"),
}  # fmt: skip


@pytest.mark.parametrize("attack", LAYOUTS)
def test_a_layout_that_is_not_what_it_says_is_refused(yard: Path, tmp_path: Path, attack: str) -> None:
    change, reason = LAYOUTS[attack]

    assert re.search(reason, refusal(changed(change)(tmp_path / "image"), yard)), attack


def test_the_layout_itself_is_good(yard: Path, tmp_path: Path) -> None:
    layout.bundle(changed(lambda _: None)(tmp_path / "image"), yard / "bundle")

    assert (yard / "bundle/rootfs/f").read_bytes() == b"x"


def test_a_layer_that_is_there_many_times_is_read_once_before_it_is_unpacked(
    yard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pysandbox.bundle.source import Blob

    digests: list[str] = []
    verify = Blob.verify
    monkeypatch.setattr(
        Blob, "verify", lambda blob, digest, *more: (digests.append(digest), verify(blob, digest, *more))
    )

    layout.bundle(layout_of(tmp_path / "image", *[LAYER] * 50), yard / "bundle")

    assert len(digests) == len(set(digests)) == 3


@pytest.mark.parametrize("name", ["index.json", "blobs"])
def test_a_layouts_link_to_the_outside_is_not_followed(yard: Path, tmp_path: Path, name: str) -> None:
    image = changed(lambda _: None)(tmp_path / "image")
    (image / name).rename(tmp_path / "moved")
    (image / name).symlink_to(tmp_path / "moved")

    assert "symbolic link that leaves the image" in refusal(image, yard)
    (image / name).unlink()
    (tmp_path / "moved").rename(image / "moved")
    (image / name).symlink_to("moved")
    layout.bundle(image, yard / "bundle")


def test_a_fifo_in_a_layout_stops_nobody(yard: Path, tmp_path: Path) -> None:
    image = changed(lambda _: None)(tmp_path / "image")
    (image / "index.json").unlink()
    os.mkfifo(image / "index.json")

    assert "not a regular file" in refusal(image, yard)


def test_a_docker_archives_layer_must_have_its_digest(yard: Path, tmp_path: Path) -> None:
    saved = layout.docker_archive([LAYER])
    (tmp_path / "good.tar").write_bytes(saved)
    (tmp_path / "bad.tar").write_bytes(saved.replace(b"x".ljust(512, b"\0"), b"y".ljust(512, b"\0")))

    assert "wrong digest" in refusal(tmp_path / "bad.tar", yard)
    layout.bundle(tmp_path / "good.tar", yard / "bundle")


def test_a_docker_archives_configuration_must_have_its_digest(yard: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.tar").write_bytes(layout.docker_archive([LAYER]).replace(b'"true"', b'"evil"'))

    assert "wrong digest" in refusal(tmp_path / "bad.tar", yard)


MANIFESTS = {
    "layers that are numbers": ({"Config": "c", "Layers": [1]}, "must be strings"),
    "tags that are numbers": ({"Config": "c", "Layers": [], "RepoTags": [1]}, "must be strings"),
    "layers that are a string": ({"Config": "c", "Layers": "l"}, "Layers: must be an array"),
    "configuration that is a number": ({"Config": 1, "Layers": []}, "Config: must be a string"),
    "configuration that is missing": ({"Config": "x", "Layers": []}, "is not there"),
    "configuration that is an array": ({"Config": "array", "Layers": []}, "must be a JSON object"),
    "config member that is an array": ({"Config": "inner", "Layers": []}, "config: must be an object"),
    "links in a circle": ({"Config": "loop", "Layers": []}, "lead nowhere"),
}  # fmt: skip


@pytest.mark.parametrize("attack", MANIFESTS)
def test_a_docker_archive_that_is_not_what_it_says_is_refused(yard: Path, tmp_path: Path, attack: str) -> None:
    manifest, reason = MANIFESTS[attack]
    inner = json.dumps({**layout.configuration([]), "config": ["x"]}).encode()
    entries = [
        entry("c", json.dumps(layout.configuration([])).encode()), entry("array", b"[]"), entry("inner", inner),
        symlink("loop", "pool"), symlink("pool", "loop"), entry("manifest.json", json.dumps([manifest]).encode()),
    ]  # fmt: skip
    (tmp_path / "image.tar").write_bytes(archive(*entries))

    assert re.search(reason, refusal(tmp_path / "image.tar", yard))


@pytest.mark.parametrize("target", ["/etc/passwd", "../../etc/passwd", "../canary/file"])
def test_links_in_a_docker_archive_lead_nowhere_else(yard: Path, tmp_path: Path, target: str) -> None:
    described = json.dumps(layout.configuration([LAYER])).encode()
    manifest = json.dumps([{"Config": "c.json", "RepoTags": None, "Layers": ["l/layer.tar"]}]).encode()
    good = [entry("c.json", described), entry("manifest.json", manifest), entry("other/layer.tar", LAYER)]
    (tmp_path / "bad.tar").write_bytes(archive(*good, symlink("l/layer.tar", target)))
    (tmp_path / "good.tar").write_bytes(archive(*good, symlink("l/layer.tar", "../other/layer.tar")))

    assert re.search("link that leaves it|is not there", refusal(tmp_path / "bad.tar", yard))
    layout.bundle(tmp_path / "good.tar", yard / "bundle")


def test_a_blob_that_is_in_an_archive_twice_is_refused(yard: Path, tmp_path: Path) -> None:
    image = Layout()
    image.image([LAYER])
    files = [entry(name, data) for name, data in image.all_files().items()]
    (tmp_path / "good.tar").write_bytes(archive(*files))
    (tmp_path / "bad.tar").write_bytes(archive(*files, files[0]))

    assert "twice" in refusal(tmp_path / "bad.tar", yard)
    layout.bundle(tmp_path / "good.tar", yard / "bundle")


ESCAPE = "\x1b]0;owned\x07\n\x9b31m"


@pytest.mark.parametrize("form", ["layout", "docker archive", "docker archive without its layer"])
def test_an_images_name_reaches_a_terminal_in_letters_only(
    yard: Path, tmp_path: Path, pysandbox: Runtime, form: str
) -> None:
    image = tmp_path / "image"
    if form == "layout":
        layout_of(image, LAYER, tag=ESCAPE)
    else:
        image.write_bytes(layout.docker_archive([LAYER], tag=ESCAPE))
    if "without" in form:
        config = entry("c", json.dumps(layout.configuration([LAYER])).encode())
        manifest = json.dumps([{"Config": "c", "Layers": [ESCAPE]}]).encode()
        image.write_bytes(archive(config, entry("manifest.json", manifest)))

    done = pysandbox("bundle", image, yard / "bundle")

    assert "owned" in done.stdout + done.stderr
    assert [line for line in (done.stdout + done.stderr).splitlines() if not line.isprintable()] == []


OBEYED = ["io.pysandbox.backend", "run.oci.handler", "org.systemd.property.ExecStart", "io.katacontainers.config.hypervisor.path"]  # fmt: skip


def test_labels_that_a_runtime_obeys_are_left_out(yard: Path, tmp_path: Path) -> None:
    labels = {**dict.fromkeys(OBEYED, "evil"), "harmless": "yes"}

    built = layout.bundle(layout_of(tmp_path / "image", LAYER, config={"Labels": labels}), yard / "bundle")

    annotations = layout.spec_of(yard / "bundle")["annotations"]
    assert annotations["harmless"] == "yes"
    assert not set(annotations) & set(OBEYED)
    assert built.omitted["labels that a runtime would obey"].count == len(OBEYED)


# -- what is left out --------------------------------------------------------------------------------------------------

NODES = (
    entry("null", kind="c", devmajor=1, devminor=3, mode=0o666)
    + link("other", "null")
    + entry("sda", kind="b", devmajor=8)
)


def test_device_nodes_are_left_out_and_told(yard: Path, tmp_path: Path) -> None:
    built = layout.bundle(layout_of(tmp_path / "image", archive(NODES)), yard / "bundle")

    assert os.listdir(yard / "bundle/rootfs") == []
    (omission,) = built.omitted.values()
    assert (omission.count, omission.names) == (2, ['"null"', '"sda"'])


def test_device_nodes_can_be_refused_or_kept(yard: Path, tmp_path: Path) -> None:
    requires("capability 27")
    image = layout_of(tmp_path / "image", archive(NODES))

    assert "device node c 1:3" in refusal(image, yard, devices="refuse")
    layout.bundle(image, yard / "bundle", devices="keep")
    assert (yard / "bundle/rootfs/other").is_char_device()


def test_attributes_that_mean_something_to_the_host_are_left_out(yard: Path, tmp_path: Path) -> None:
    names = ["trusted.overlay.opaque", "trusted.overlay.redirect", "user.overlay.opaque", "security.selinux", "system.posix_acl_default"]  # fmt: skip
    records = b"".join(record(f"SCHILY.xattr.{name}", b"y") for name in names)

    built = layout.bundle(
        layout_of(tmp_path / "image", archive(extended(records) + raw(b"d", type_=b"5"))), yard / "bundle"
    )

    kept = set(os.listxattr(yard / "bundle/rootfs/d")) & set(names)
    assert kept == set()
    assert len(built.omitted) == len(names)


# -- the destination ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("there", ["file", "link", "dangling link", "full directory"])
def test_a_destination_that_is_taken_stays_as_it_is(yard: Path, tmp_path: Path, there: str) -> None:
    target = yard / "bundle"
    match there:
        case "file":
            target.write_text("mine")
        case "link":
            target.symlink_to(tmp_path)
        case "dangling link":
            target.symlink_to("nothing")
        case _:
            (target / "mine").mkdir(parents=True)
    before = [(path.name, path.lstat().st_ino) for path in yard.rglob("*")]

    with pytest.raises(SandboxError, match="exists, and is no empty directory"):
        layout.bundle(layout_of(tmp_path / "image", LAYER), target)
    assert [(path.name, path.lstat().st_ino) for path in yard.rglob("*")] == before


def test_a_destination_that_appears_meanwhile_stays_as_it_is(
    yard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pysandbox.bundle import build

    load = build.load_bundle
    monkeypatch.setattr(build, "load_bundle", lambda path: ((yard / "bundle/mine").mkdir(parents=True), load(path)))

    with pytest.raises(SandboxError, match="exists, and is no empty directory"):
        layout.bundle(layout_of(tmp_path / "image", LAYER), yard / "bundle")
    assert [path.name for path in yard.rglob("*")] == ["bundle", "mine"]


def test_a_destination_that_is_a_mount_point_is_told_before_anything_is_unpacked(yard: Path, tmp_path: Path) -> None:
    (yard / "bundle").mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "none", yard / "bundle"], check=True)
        with pytest.raises(SandboxError, match="is a mount point"):
            layout.bundle(layout_of(tmp_path / "image", LAYER), yard / "bundle")
    finally:
        subprocess.run(["umount", yard / "bundle"], check=True)


def test_an_empty_directory_becomes_the_bundle(yard: Path, tmp_path: Path) -> None:
    (yard / "bundle").mkdir(mode=0o777)

    layout.bundle(layout_of(tmp_path / "image", LAYER), yard / "bundle")

    assert (yard / "bundle").stat().st_mode & 0o777 == 0o700


def test_nobody_but_root_reaches_an_images_programs(yard: Path, tmp_path: Path) -> None:
    program = entry("su", b"", mode=0o4755)

    layout.bundle(layout_of(tmp_path / "image", archive(directory(".", mode=0o777), program)), yard / "bundle")

    assert (yard / "bundle").stat().st_mode & 0o7777 == 0o700
    assert (yard / "bundle/rootfs/su").stat().st_mode & 0o7777 == 0o4755


def test_a_rootfs_that_holds_the_destination_is_refused(yard: Path, tmp_path: Path) -> None:
    (tmp_path / "rootfs/inner").mkdir(parents=True)

    with pytest.raises(SandboxError, match="holds the bundle"):
        layout.bundle(tmp_path / "rootfs", tmp_path / "rootfs/inner/bundle")
    assert os.listdir(tmp_path / "rootfs/inner") == []


# -- the command -------------------------------------------------------------------------------------------------------


def test_the_command_says_one_line(yard: Path, tmp_path: Path, pysandbox: Runtime) -> None:
    done = pysandbox("bundle", layout_of(tmp_path / "image", archive(entry("../f"))), yard / "bundle")

    assert done.returncode == 1
    assert (done.stdout, len(done.stderr.splitlines())) == ("", 1)
    assert "Traceback" not in done.stderr
    assert os.listdir(yard) == []


@pytest.mark.parametrize("number", [2, 15, 1])
def test_an_interrupted_command_leaves_nothing(yard: Path, tmp_path: Path, pysandbox: Runtime, number: int) -> None:
    os.mkfifo(tmp_path / "pipe")
    with (
        subprocess.Popen(
            pysandbox.argv("bundle", tmp_path / "pipe", yard / "bundle"), stderr=subprocess.PIPE
        ) as process,
        (tmp_path / "pipe").open("wb") as pipe,
    ):
        pipe.write(archive(entry("f", bytes(MIB)))[:-MIB])
        pipe.flush()
        deadline = time.monotonic() + 10
        while not os.listdir(yard) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert os.listdir(yard), "it has begun"
        process.send_signal(number)
        assert process.wait(10) != 0

    assert os.listdir(yard) == []


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path, pysandbox: Runtime) -> None:
    (tmp_path / "small").mkdir()
    image = layout_of(tmp_path / "image", archive(entry("f", bytes(4 * MIB))))
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", tmp_path / "small"], check=True)
        done = pysandbox("bundle", image, tmp_path / "small/bundle")
        left = os.listdir(tmp_path / "small")
    finally:
        subprocess.run(["umount", tmp_path / "small"], check=True)

    assert done.returncode == 1
    assert "no space left" in done.stderr.lower()
    assert left == []
