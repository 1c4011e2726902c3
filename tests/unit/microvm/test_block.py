"""Images that become disks: which they are, and how they are opened."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any

import pytest
from descriptors import open_descriptors

from pysandbox.errors import FailedPrecondition, InvalidArgument, NotFound
from pysandbox_microvm import block


def spec(**root: Any) -> Any:
    return {"ociVersion": "1.2.0", "root": {"path": "image", **root}}


def image(path: Path, kind: str = "ext4") -> Path:
    magic = {"ext4": (1080, b"\x53\xef"), "erofs": (1024, b"\xe2\xe1\xf5\xe0"), "squashfs": (0, b"hsqs"), "": (0, b"")}
    offset, text = magic[kind]
    content = bytearray(8192)
    content[offset : offset + len(text)] = text
    path.write_bytes(content)
    return path


def volume(path: Path, **changes: Any) -> block.Volume:
    return block.Volume(
        **{"where": "root.path", "name": "c-root", "source": str(path), "kind": "", "read_only": False, **changes}
    )


def test_a_root_that_is_a_directory_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "image").mkdir()
    assert block.root_volume(spec(), str(tmp_path), "c") is None


def test_a_root_that_is_a_file_is_one(tmp_path: Path) -> None:
    image(tmp_path / "image")
    assert block.root_volume(spec(readonly=True), str(tmp_path), "c") == volume(tmp_path / "image", read_only=True)


def test_a_mount_with_loop_is_one() -> None:
    mounts = [
        {"destination": "/a", "type": "tmpfs"},
        {"destination": "/d", "type": "erofs", "source": "/i", "options": ["loop"]},
    ]
    assert block.mount_volumes({**spec(), "mounts": mounts}, "/b", "c") == {
        1: block.Volume(where="mounts[1].source", name="c-m1", source="/i", kind="erofs", read_only=True)
    }


@pytest.mark.parametrize(("kind", "read_only"), [("ext4", False), ("erofs", True), ("squashfs", True)])
def test_the_file_system_is_told_by_its_magic_number(tmp_path: Path, kind: str, read_only: bool) -> None:
    opened = block.open_volume(volume(image(tmp_path / "i", kind)))
    assert (opened.kind, opened.read_only, opened.device) == (kind, read_only, False)
    assert not os.get_inheritable(opened.descriptor)
    os.close(opened.descriptor)


def test_an_image_for_reading_cannot_be_written_through_its_descriptor(tmp_path: Path) -> None:
    opened = block.open_volume(volume(image(tmp_path / "i"), read_only=True))
    assert fcntl.fcntl(opened.descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
    os.close(opened.descriptor)


def test_who_writes_has_an_image_alone(tmp_path: Path) -> None:
    path = image(tmp_path / "i")
    writer = block.open_volume(volume(path))
    for read_only in (True, False):
        with pytest.raises(FailedPrecondition, match="in use by another machine"):
            block.open_volume(volume(path, read_only=read_only))
    os.close(writer.descriptor)
    readers = [block.open_volume(volume(path, read_only=True)) for _ in range(2)]
    with pytest.raises(FailedPrecondition, match="not to be shared with one that writes"):
        block.open_volume(volume(path))
    for reader in readers:
        os.close(reader.descriptor)


def test_an_image_that_is_only_ever_read_is_shared_whoever_asks(tmp_path: Path) -> None:
    path = image(tmp_path / "i", "erofs")
    for opened in [block.open_volume(volume(path)) for _ in range(2)]:
        os.close(opened.descriptor)


def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "odd").write_bytes(bytes(1000))
    (tmp_path / "empty").touch()
    image(tmp_path / "nothing", "")
    for name, reason in {
        "fifo": "is neither an image in a file nor a block device",
        "odd": "1000 bytes are no disk",
        "empty": "0 bytes are no disk",
        "nothing": "holds no file system of a guest",
    }.items():
        with pytest.raises(InvalidArgument, match=reason):
            block.open_volume(volume(tmp_path / name))


def test_a_character_device_is_looked_at_and_not_opened() -> None:
    with pytest.raises(InvalidArgument, match="is neither"):
        block.open_volume(volume(Path("/dev/null")))


def test_an_image_that_is_not_there_is_named() -> None:
    with pytest.raises(NotFound, match=r"^root\.path: /nowhere: no such file"):
        block.open_volume(volume(Path("/nowhere")))


def test_a_refused_image_leaves_no_descriptor(tmp_path: Path) -> None:
    (tmp_path / "odd").write_bytes(bytes(1000))
    before = open_descriptors()
    with pytest.raises(InvalidArgument):
        block.open_volume(volume(tmp_path / "odd"))
    assert open_descriptors() == before


def test_a_name_that_no_serial_number_holds_is_refused() -> None:
    mounts = [{"destination": "/d", "type": "ext4", "source": "/i", "options": ["loop"]}]
    with pytest.raises(InvalidArgument, match="serial number"):
        block.mount_volumes({**spec(), "mounts": mounts}, "/b", "x" * 20)


# -- block devices -----------------------------------------------------------------------------------------------------


def with_device(*rules: dict[str, Any]) -> Any:
    device = {"path": "/dev/x", "type": "b", "major": 8, "minor": 1}
    return {**spec(), "linux": {"devices": [device], "resources": {"devices": list(rules)}}}


@pytest.mark.parametrize(
    ("rules", "read_only"),
    [
        ([], True),
        ([{"allow": True, "type": "b", "major": 8, "minor": 1, "access": "rwm"}], False),
        ([{"allow": True, "type": "b", "major": 8, "minor": 1, "access": "r"}], True),
        ([{"allow": True, "type": "b", "major": 8, "minor": 2, "access": "rw"}], True),
        ([{"allow": True, "type": "c", "major": 8, "minor": 1, "access": "rw"}], True),
        ([{"allow": True}], False),
        ([{"allow": True}, {"allow": False, "type": "b", "major": 8, "access": "w"}], True),
    ],
)
def test_a_device_that_no_rule_lets_be_written_is_opened_for_reading(rules: Any, read_only: bool) -> None:
    assert [node.read_only for node in block.nodes(with_device(*rules), "c")] == [read_only]


def test_a_device_that_the_host_does_not_have_is_named() -> None:
    node = block.Node(where="linux.devices[0]", name="c-d0", path="/dev/null", major=250, minor=77, read_only=True)
    with pytest.raises(NotFound, match=r"^linux\.devices\[0\]: /dev/null: the host has no block device 250:77 there"):
        block.open_node(node)


def test_a_guest_is_asked_with_its_own_numbers() -> None:
    nodes = [{"op": "make_device", "path": "/dev/x", "kind": kind, "major": 8, "minor": 1} for kind in "bc"]
    document = {"plan": json.dumps({"operations": nodes}), "device_program": "", "cgroup": "c"}
    rule = {"allow": True, "type": "b", "major": 8, "minor": 1, "access": "r"}
    changed = block.relocated(document, with_device(rule), {(8, 1): (254, 16)})
    made = json.loads(changed["plan"])["operations"]
    assert [(each["major"], each["minor"]) for each in made] == [(254, 16), (8, 1)]
    other = block.relocated(document, with_device({**rule, "major": 254, "minor": 16}), {(9, 9): (1, 1)})
    assert changed["device_program"] == other["device_program"] != ""
    assert block.relocated(document, with_device(rule), {}) is document


def test_a_container_that_joins_a_machine_brings_no_disks(tmp_path: Path) -> None:
    (tmp_path / "image").mkdir()
    block.check_joining(spec(), str(tmp_path), "c")
    with pytest.raises(InvalidArgument, match=r"^linux\.devices\[0\]: a disk can only be the first container's"):
        block.check_joining(with_device(), str(tmp_path), "c")
