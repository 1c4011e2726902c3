"""Root file systems that the shim mounts: plain ones, and with shifted ids."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from daemon.process import mounts_below
from precondition import requires

from pysandbox.errors import InvalidArgument, Unimplemented
from pysandbox.shim import rootfs
from pysandbox.shim.idmapped import lower_directories, split_maps, user_namespace
from pysandbox.shim.messages.types import Mount

if TYPE_CHECKING:
    from collections.abc import Iterator

MAPS = ["uidmap=0:100000:65536", "gidmap=0:200000:65536"]


@pytest.fixture
def bundle(tmp_path: Path) -> Iterator[Path]:
    """A bundle, and beside it a layer with one file of root's."""
    requires("root")
    for name in ("bundle/rootfs", "layer", "second", "upper", "work"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "layer/file").write_text("of the layer")
    (tmp_path / "second/other").write_text("of the second")
    yield tmp_path / "bundle"
    rootfs.unmount_all(str(tmp_path / "bundle"))


def overlay(bundle: Path, *more: str) -> Mount:
    above = bundle.parent
    names = [f"lowerdir={above}/layer:{above}/second", f"upperdir={above}/upper", f"workdir={above}/work"]
    return Mount(type="overlay", source="overlay", options=[*names, *more])


def children() -> set[str]:
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


def owner(path: Path) -> tuple[int, int]:
    return path.stat().st_uid, path.stat().st_gid


def test_an_overlay_of_shifted_layers(bundle: Path) -> None:
    requires("kernel 5.19")
    before = children()

    rootfs.mount_all([overlay(bundle, *MAPS)], str(bundle))

    assert (bundle / "rootfs/file").read_text() == "of the layer"
    assert [owner(bundle / "rootfs" / name) for name in ("file", "other")] == [(100000, 200000)] * 2
    assert owner(bundle.parent / "layer/file") == (0, 0)
    assert mounts_below(bundle) == [f"{bundle}/rootfs"]
    assert os.listdir(bundle) == ["rootfs"]
    assert children() == before


def test_a_shifted_directory_that_cannot_be_written(bundle: Path) -> None:
    requires("kernel 5.12")
    mount = Mount(type="bind", source=str(bundle.parent / "layer"), options=["rbind", "ro", *MAPS])

    rootfs.mount_all([mount], str(bundle))

    assert owner(bundle / "rootfs/file") == (100000, 200000)
    with pytest.raises(OSError, match="Read-only"):
        (bundle / "rootfs/new").touch()


def test_without_maps_nothing_is_shifted(bundle: Path) -> None:
    mount = Mount(type="bind", source=str(bundle.parent / "layer"), options=["rbind", "ro"])

    rootfs.mount_all([mount], str(bundle))

    assert owner(bundle / "rootfs/file") == (0, 0)
    with pytest.raises(OSError, match="Read-only"):
        (bundle / "rootfs/new").touch()


def test_what_fails_leaves_nothing(bundle: Path) -> None:
    before = children()
    broken = overlay(bundle, *MAPS)
    broken.options[0] += f":{bundle}/nosuchlayer"

    with pytest.raises(OSError, match="nosuchlayer"):
        rootfs.mount_all([broken], str(bundle))

    assert mounts_below(bundle) == []
    assert os.listdir(bundle) == ["rootfs"]
    assert children() == before


def test_what_a_killed_shim_has_left_cannot_be_written_and_is_taken_away(bundle: Path) -> None:
    requires("kernel 5.12")
    maps = (b"0 100000 65536\n",) * 2
    layer = bundle.parent / "layer"
    with user_namespace(maps) as namespace:
        shifted = lower_directories([f"lowerdir={layer}"], str(bundle), namespace)
        shifted.__enter__()  # and killed before it could leave
    with pytest.raises(OSError, match="Read-only"):
        (bundle / "lower/0/file").unlink()

    rootfs.unmount_all(str(bundle))

    assert mounts_below(bundle) == []
    assert os.listdir(bundle) == ["rootfs"]
    assert (layer / "file").exists()


def test_a_file_system_of_its_own_cannot_be_shifted(bundle: Path) -> None:
    with pytest.raises(Unimplemented, match="of type tmpfs: its ids cannot be shifted"):
        rootfs.mount_all([Mount(type="tmpfs", source="tmpfs", options=MAPS)], str(bundle))


def test_maps_of_many_ranges() -> None:
    options, maps = split_maps(["ro", "uidmap=0:1000:1,1:5000:9", "gidmap=0:7:1"])

    assert options == ["ro"]
    assert maps == (b"0 1000 1\n1 5000 9\n", b"0 7 1\n")


@pytest.mark.parametrize(
    "options",
    [["uidmap=0:1:1"], ["uidmap=", "gidmap=0:1:1"], ["uidmap=0:1", "gidmap=0:1:1"], ["uidmap=0:-1:1", "gidmap=0:1:1"]],
)
def test_maps_that_are_none_are_refused(options: list[str]) -> None:
    with pytest.raises(InvalidArgument, match="rootfs mount: "):
        split_maps(options)
