"""Mounts of a bundle as a container sees them, through the command line."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from precondition import requires
from runtime import MakeBundle, Runtime, eventually

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


def test_src_nofollow_refuses_a_link_at_the_end_of_a_source_only(pysandbox: Runtime, make_bundle: MakeBundle) -> None:
    requires("root")

    def add_mount(spec: dict[str, Any]) -> None:
        spec["mounts"].append(bind("rootfs/link/inner", "/last", "bind", "src-nofollow"))

    bundle = make_bundle(["cat", "/last/file"], add_mount)
    inner = bundle / "rootfs/real/inner"
    inner.mkdir(parents=True)
    (inner / "file").write_text("of the directory\n")
    (bundle / "rootfs/link").symlink_to("real")

    assert pysandbox.ok("run", "--bundle", bundle, pysandbox.new_id()) == "of the directory\n"

    inner.rename(bundle / "rootfs/real/moved")
    inner.symlink_to("moved")

    assert "too many levels of symbolic links" in pysandbox("run", "--bundle", bundle, pysandbox.new_id()).stderr


# -- without a mount namespace: the mounts are the host's ----------------------------------------------------------------


def without_mount_namespace(spec: dict[str, Any]) -> None:
    """Leave the container in the host's mount namespace, which nothing may mask."""
    spec["linux"]["namespaces"] = [each for each in spec["linux"]["namespaces"] if each["type"] != "mount"]
    spec["linux"].update(maskedPaths=[], readonlyPaths=[])


def mounts_below(path: Path) -> list[str]:
    """Where this process sees mounts at or below a path."""
    points = (line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines())
    return [point for point in points if (point + "/").startswith(f"{path}/")]


def test_mounts_of_the_hosts_namespace_go_with_the_container(pysandbox: Runtime, make_bundle: MakeBundle) -> None:
    requires("root")
    bundle = make_bundle(["sleep", "1000"], without_mount_namespace)

    container_id = pysandbox.run_detached(bundle)
    while_running = mounts_below(bundle)
    pysandbox.ok("delete", "--force", container_id)

    assert str(bundle / "rootfs/proc") in while_running
    assert mounts_below(bundle) == []


def test_a_program_without_a_mount_namespace_sees_its_mounts(pysandbox: Runtime, make_bundle: MakeBundle) -> None:
    requires("root")
    bundle = make_bundle(["sh", "-c", "readlink /proc/self/exe && test -c /dev/null"], without_mount_namespace)

    assert pysandbox.ok("run", "--bundle", bundle, pysandbox.new_id()) == "/bin/busybox\n"
    assert mounts_below(bundle) == []


def test_a_refused_create_leaves_no_mount_of_the_hosts(pysandbox: Runtime, make_bundle: MakeBundle) -> None:
    requires("root")

    def spoil(spec: dict[str, Any]) -> None:
        without_mount_namespace(spec)
        spec["mounts"].append(bind("/nowhere/at/all", "/x"))

    done = pysandbox("run", "--bundle", make_bundle(["true"], spoil), pysandbox.new_id())

    assert done.returncode == 1
    assert mounts_below(pysandbox.root.parent) == []


def test_a_mount_that_was_at_the_rootfs_before_stays(pysandbox: Runtime, make_bundle: MakeBundle) -> None:
    requires("root")
    bundle = make_bundle(["true"], without_mount_namespace)
    rootfs = str(bundle / "rootfs")
    subprocess.run(["mount", "--bind", rootfs, rootfs], check=True)
    try:
        pysandbox.ok("run", "--bundle", bundle, pysandbox.new_id())

        assert mounts_below(bundle) == [rootfs]
    finally:
        subprocess.run(["umount", rootfs], check=True)


def test_a_mount_that_somebody_made_there_later_stays(pysandbox: Runtime, make_bundle: MakeBundle) -> None:
    requires("root")
    bundle = make_bundle(["sleep", "1000"], without_mount_namespace)
    rootfs = str(bundle / "rootfs")
    container_id = pysandbox.run_detached(bundle)
    subprocess.run(["umount", "--recursive", "--lazy", rootfs], check=True)
    subprocess.run(["mount", "--bind", rootfs, rootfs], check=True)
    try:
        pysandbox.ok("delete", "--force", container_id)

        assert mounts_below(bundle) == [rootfs]
    finally:
        subprocess.run(["umount", rootfs], check=True)


def test_a_create_that_was_killed_leaves_no_mount_once_it_is_deleted(
    pysandbox: Runtime, make_bundle: MakeBundle
) -> None:
    requires("root")

    def hold(spec: dict[str, Any]) -> None:
        without_mount_namespace(spec)
        spec["hooks"] = {"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "3"]}]}

    bundle = make_bundle(["true"], hold)
    container_id = pysandbox.new_id()
    with subprocess.Popen(pysandbox.argv("create", "--bundle", bundle, container_id)) as creating:
        eventually(lambda: str(bundle / "rootfs/proc") in mounts_below(bundle), "procfs is mounted")
        creating.kill()

    pysandbox("delete", "--force", container_id)

    assert mounts_below(bundle) == []


def test_the_hosts_root_is_mounted_on_by_nobody(pysandbox: Runtime, make_bundle: MakeBundle) -> None:
    requires("root")

    def take_the_host(spec: dict[str, Any]) -> None:
        without_mount_namespace(spec)
        spec["root"]["path"] = "/"

    before = mounts_below(Path("/proc"))

    done = pysandbox("run", "--bundle", make_bundle(["true"], take_the_host), pysandbox.new_id())

    assert done.returncode == 1
    assert "without a mount namespace they would be mounts of the host" in done.stderr
    assert mounts_below(Path("/proc")) == before


def test_a_source_that_is_not_there_is_named_by_its_json_path(pysandbox: Runtime, make_bundle: MakeBundle) -> None:
    requires("root")
    bundle = make_bundle(["true"], lambda spec: spec["mounts"].append(bind("/nowhere/at/all", "/x")))
    number = len(json.loads((bundle / "config.json").read_text())["mounts"]) - 1

    done = pysandbox("run", "--bundle", bundle, pysandbox.new_id())

    assert done.returncode == 1
    assert f"mounts[{number}].source: /nowhere/at/all: no such file or directory" in done.stderr


CGROUP2_ALONE = """
set -e
mount --make-rshared /
umount -l /sys/fs/cgroup
mount -t cgroup2 -o noatime the-hosts-own /sys/fs/cgroup
mkdir /sys/fs/cgroup/$0
mount -t tmpfs none /sys/fs/cgroup/$0
"$@"
"""


def test_cgroup2_without_a_namespace_is_the_hosts_own_and_looks_like_a_new_one(
    pysandbox: Runtime, make_bundle: MakeBundle
) -> None:
    requires("root", "command unshare")
    if " - cgroup2 " not in Path("/proc/self/mountinfo").read_text():
        pytest.skip("no cgroup2 file system is mounted")
    requires_first_cgroup_namespace()
    bundle = make_bundle(["cat", "/proc/self/mountinfo"])
    container = pysandbox.new_id()
    covered = f"{container}-covered"
    in_place = ["unshare", "-m", "sh", "-c", CGROUP2_ALONE, covered]

    done = subprocess.run(
        [*in_place, *pysandbox.argv("run", "--bundle", bundle, container)],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    (top,) = Path("/sys/fs/cgroup").rglob(covered)
    top.rmdir()

    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if " /sys/fs/cgroup" in line]
    root, place, options, *tags = line.partition(" - ")[0].split(" ")[3:]
    # As one that was made anew has it: not noatime, not a peer or a slave of the host's, nothing mounted below it.
    assert (root, place, options, tags) == ("/", "/sys/fs/cgroup", "ro,nosuid,nodev,noexec,relatime", [])
    kind, source, _ = line.partition(" - ")[2].split(" ", 2)
    assert (kind, source) == ("cgroup2", "the-hosts-own")


def requires_first_cgroup_namespace() -> None:
    """Skip where this machine is itself a container: there cgroup2 is mounted anew, and at no cost."""
    if Path("/proc/self/ns/cgroup").stat().st_ino != 0xEFFFFFFB:
        pytest.skip("not in the kernel's first cgroup namespace")
