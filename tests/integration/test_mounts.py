"""Mounts of a bundle as a container sees them, through the command line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from precondition import requires
from runtime import MakeBundle, Runtime

pytestmark = pytest.mark.usefixtures("leaks")

FIRST, SIZE = 100_000, 65_536


def bind(source: str | Path, destination: str | Path, *options: str, **more: Any) -> dict[str, Any]:
    """A bind mount of the spec."""
    options = options or ("bind",)
    return {"type": "bind", "source": str(source), "destination": str(destination), "options": [*options], **more}


def in_user_namespace(spec: dict[str, Any]) -> None:
    """Give the container a user namespace whose root is an unprivileged user of the host."""
    mapping = [{"containerID": 0, "hostID": FIRST, "size": SIZE}]
    spec["linux"]["namespaces"].append({"type": "user"})
    spec["linux"].update(uidMappings=mapping, gidMappings=mapping)


def give_to_namespace(rootfs: Path) -> None:
    """Let the user namespace's root own a rootfs, and search the way to it."""
    for path in (rootfs, *rootfs.rglob("*")):
        os.chown(path, FIRST, FIRST, follow_symlinks=False)
    for above in rootfs.parents:
        if not above.stat().st_mode & 0o001:
            above.chmod(above.stat().st_mode | 0o011)


@pytest.mark.parametrize("mapped", [False, True], ids=["", "idmap"])
@pytest.mark.parametrize("user_namespace", [False, True], ids=["", "userns"])
def test_a_source_in_the_rootfs_shows_the_mounts_made_before_it(
    pysandbox: Runtime, make_bundle: MakeBundle, tmp_path: Path, user_namespace: bool, mapped: bool
) -> None:
    requires("root")
    volume = tmp_path / "closed/volume"
    volume.mkdir(parents=True)
    (volume / "file").write_text("of the volume\n")
    mapping = [{"containerID": 0, "hostID": FIRST, "size": SIZE}]
    maps = {"uidMappings": mapping, "gidMappings": mapping} if mapped else {}

    def add_mounts(spec: dict[str, Any]) -> None:
        spec["mounts"].append(bind(volume, "/first/inner"))
        spec["mounts"].append(bind("rootfs/first", "/last", "rbind", **maps))
        if user_namespace:
            in_user_namespace(spec)

    bundle = make_bundle(["cat", "/last/inner/file"], add_mounts)
    (bundle / "rootfs/first/inner").mkdir(parents=True)
    if user_namespace:
        give_to_namespace(bundle / "rootfs")
        (tmp_path / "closed").chmod(0o700)

    assert pysandbox.ok("run", "--bundle", bundle, pysandbox.new_id()) == "of the volume\n"
