"""Root of a user namespace, with every capability in it, has what its mounts give it and no more.

mount_namespaces(7), "Restrictions on mount namespaces": what comes from a more privileged mount namespace is locked.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.bundle import Bundle
from harness.runtime import Runtime

FIRST = 100000
HOST = "host\n"


@pytest.fixture
def volume(place: Path) -> Iterator[Path]:
    """A volume that the host has mounted read-only, nosuid and nodev, with a mount in it that hides a file."""
    path = place / "volume"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=777", "tmpfs", path], check=True)
    try:
        (path / "file").write_text(HOST)
        (path / "file").chmod(0o666)
        (path / "covered").mkdir()
        (path / "covered/hidden").write_text("hidden\n")
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=777", "tmpfs", path / "covered"], check=True)
        subprocess.run(["mount", "-o", "remount,bind,ro,nosuid,nodev", path], check=True)
        yield path
    finally:
        subprocess.run(["umount", "--recursive", path], check=True)


@pytest.fixture
def mapped(bundle: Bundle) -> Bundle:
    """A bundle whose root is user 100000 of the host, and may do in its namespaces what root can."""
    bundle.linux["namespaces"].append({"type": "user"})
    for kind in ("uidMappings", "gidMappings"):
        bundle.linux[kind] = [{"containerID": 0, "hostID": FIRST, "size": 65536}]
    for capabilities in bundle.process["capabilities"].values():
        capabilities.append("CAP_SYS_ADMIN")
    subprocess.run(["chown", "-hR", f"{FIRST}:{FIRST}", bundle.rootfs], check=True)
    return bundle


@pytest.mark.parametrize("options", [[], ["ro"], ["rshared"], ["runbindable"], ["nosuid"]], ids=repr)
def test_a_read_only_volume_cannot_be_made_writable(
    runtime: Runtime, mapped: Bundle, volume: Path, options: list[str]
) -> None:
    mapped.bind(volume, "/data", *options)
    mapped.script("mount -o remount,bind,rw /data; echo written > /data/file; exit 0")

    answer = runtime.run(mapped)

    assert answer.code == 0, answer
    assert (volume / "file").read_text() == HOST


@pytest.mark.parametrize("flag", ["suid", "dev"])
def test_what_a_volume_must_not_do_stays_so(runtime: Runtime, mapped: Bundle, volume: Path, flag: str) -> None:
    mapped.bind(volume, "/data")
    mapped.script(f"mount -o remount,bind,ro,{flag} /data; grep ' /data ' /proc/self/mountinfo")

    answer = runtime.run(mapped)

    assert f"no{flag}" in answer.out.split()[5], answer


def test_what_a_mount_of_the_host_hides_stays_hidden(runtime: Runtime, mapped: Bundle, volume: Path) -> None:
    mapped.bind(volume, "/data")
    mapped.script("umount /data/covered; umount -l /data/covered; cat /data/covered/hidden; exit 0")

    answer = runtime.run(mapped)

    assert answer.code == 0, answer
    assert "hidden\n" not in answer.out


def test_a_read_only_rootfs_of_the_host_cannot_be_made_writable(runtime: Runtime, mapped: Bundle, place: Path) -> None:
    subprocess.run(["mount", "--bind", mapped.rootfs, mapped.rootfs], check=True)
    try:
        for name in ("proc", "sys", "dev"):
            assert (mapped.rootfs / name).is_dir()
        subprocess.run(["mount", "-o", "remount,bind,ro", mapped.rootfs], check=True)
        mapped.script("mount -o remount,bind,rw /; touch /written; exit 0")
        answer = runtime.run(mapped)
    finally:
        subprocess.run(["umount", mapped.rootfs], check=True)

    assert answer.code == 0, answer
    assert not (mapped.rootfs / "written").exists()


def test_a_shared_volume_is_shared_inside_and_a_slave_of_the_hosts(
    runtime: Runtime, mapped: Bundle, volume: Path
) -> None:
    """What is locked must still be what the spec asks for, and must not carry a mount back to the host."""
    subprocess.run(["mount", "--make-rshared", volume], check=True)
    mapped.linux["rootfsPropagation"] = "rshared"
    mapped.bind(volume, "/data", "rshared")
    mapped.script("grep ' /data ' /proc/self/mountinfo; mount -t tmpfs tmpfs /data/covered && echo mounted")

    before = Path("/proc/self/mountinfo").read_text().count(str(volume))
    answer = runtime.run(mapped)

    assert "mounted" in answer.out, answer
    assert "shared:" in answer.out
    assert Path("/proc/self/mountinfo").read_text().count(str(volume)) == before


@pytest.mark.parametrize("kind", ["c", "b"])
def test_a_device_that_is_another_file_on_the_host_is_not_given(
    runtime: Runtime, mapped: Bundle, place: Path, kind: str
) -> None:
    """There mknod(2) is refused, and nodes are binds of the host's: a path alone does not say what is there."""
    secret = place / "secret"
    secret.write_text(HOST)
    mapped.linux["devices"] = [{"path": str(secret), "type": kind, "major": 1, "minor": 3, "fileMode": 0o666}]
    mapped.script(f"cat {secret}")

    answer = runtime.run(mapped)

    answer.assert_one_clear_line(str(secret), f"{kind} 1:3")
