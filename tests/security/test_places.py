"""Where something is mounted, masked or made read-only is where the spec says, or it is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness.bundle import Bundle
from harness.runtime import Runtime


@pytest.mark.parametrize(
    ("kind", "options"), [("tmpfs", []), ("tmpfs", ["tmpcopyup"]), ("sysfs", []), ("mqueue", []), ("proc", [])]
)
def test_no_file_system_is_mounted_inside_proc_through_a_link(
    runtime: Runtime, bundle: Bundle, kind: str, options: list[str]
) -> None:
    """CVE-2025-52881: an image whose volume is a link to /proc hides files of the kernel, or has them copied as root."""
    (bundle.rootfs / "volume").symlink_to("/proc/sys/net/core")
    bundle.mounts.append({"destination": "/volume", "type": kind, "source": kind, "options": options})

    answer = runtime.run(bundle)

    assert answer.refused, answer
    assert "/volume" in answer.err


def test_a_mount_option_that_goes_through_mount2_does_not_reach_proc_through_a_link(
    runtime: Runtime, bundle: Bundle
) -> None:
    (bundle.rootfs / "volume").symlink_to("/proc")
    bundle.mounts.append({"destination": "/volume", "type": "none", "source": "none", "options": ["remount", "ro"]})

    answer = runtime.run(bundle)

    assert answer.refused, answer


def test_a_read_only_path_that_is_the_root_makes_the_root_read_only(runtime: Runtime, bundle: Bundle) -> None:
    """What is mounted over "/" is beneath nobody's feet: the protection would be there and protect nothing."""
    bundle.linux["readonlyPaths"] = ["/etc/.."]
    bundle.script("touch /etc/written; touch /dev/shm/still-writable")

    answer = runtime.run(bundle)

    assert not (bundle.rootfs / "etc/written").exists(), answer
    assert "Read-only file system" in answer.err
    assert "still-writable" not in answer.err


def test_a_masked_path_that_is_the_root_is_refused(runtime: Runtime, bundle: Bundle) -> None:
    bundle.linux["maskedPaths"] = ["/"]

    assert runtime.run(bundle).refused


def test_the_callers_own_mount_namespace_is_not_taken_for_a_containers(
    runtime: Runtime, bundle: Bundle, place: Path
) -> None:
    """To change its root would change the root of every process of the host; here of those of one that is thrown away."""
    entry = next(entry for entry in bundle.linux["namespaces"] if entry["type"] == "mount")
    entry["path"] = "/proc/self/ns/mnt"
    container = runtime.new_id()
    bundle.write()
    command = runtime.argv("run", "--bundle", str(bundle.path), container)

    answer = runtime.call(
        "--version",
        prefix=["unshare", "--mount", "sh", "-c", f"{' '.join(command)}; test -d {place} && echo intact; true", "sh"],
    )

    assert "intact" in answer.out, answer
    assert "/proc/self/ns/mnt" in answer.err


@pytest.mark.parametrize(
    ("kind", "field"),
    [("uts", "hostname"), ("uts", "domainname"), ("uts", "kernel.domainname"), ("ipc", "kernel.shm_rmid_forced")],
)
def test_a_setting_of_the_callers_own_namespace_is_not_taken_for_a_containers(
    runtime: Runtime, bundle: Bundle, kind: str, field: str
) -> None:
    """Named by its path it looks like a private one. The caller's own are thrown away ones here."""
    next(entry for entry in bundle.linux["namespaces"] if entry["type"] == kind)["path"] = f"/proc/self/ns/{kind}"
    del bundle.spec["hostname"]
    if "." in field:
        bundle.linux["sysctl"] = {field: "1"}
    else:
        bundle.spec[field] = "changed"

    answer = runtime.run(bundle, prefix=["unshare", "--uts", "--ipc"])

    answer.assert_one_clear_line(field)


def test_a_host_that_executes_no_memory_is_told_so(runtime: Runtime, bundle: Bundle) -> None:
    """The executor's own file would have to be executed instead, where a container could write to it (CVE-2019-5736)."""
    if not Path("/proc/sys/vm/memfd_noexec").exists():
        pytest.skip("this kernel is older than 6.3 and has no vm.memfd_noexec")
    forbid = 'echo 2 > /proc/sys/vm/memfd_noexec && exec "$@"'

    answer = runtime.run(bundle, prefix=["unshare", "--pid", "--fork", "--mount-proc", "sh", "-c", forbid, "sh"])

    answer.assert_one_clear_line("vm.memfd_noexec")
