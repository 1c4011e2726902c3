"""sysctls, labels, devices and cgroups reach the container's namespaces and nothing of the host."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness.bundle import Bundle
from harness.host import Canary
from harness.runtime import Runtime

REFUSED_KEYS = [
    "kernel..core_pattern", "../../sysrq-trigger", "net/../kernel/core_pattern", "net.../kernel.core_pattern",
    "net.ipv4/../../kernel/core_pattern", "kernel.core_pattern", "kernel/core_pattern", "kernel.hostname.", "vm.overcommit_memory",
    "fs.file-max", "kernel.shmmax/../core_pattern", "/proc/sys/kernel/core_pattern", "net", "", ".", "fs.mqueue.", "user.max_user_namespaces",
    "kernel.shm_rmid_forced+kernel.core_pattern", "net.ipv4.ip_forward\0", "kernel.msgmax=1+kernel.core_pattern",
]  # fmt: skip


@pytest.mark.parametrize("key", REFUSED_KEYS, ids=repr)
def test_a_sysctl_that_is_not_the_containers_own_is_refused(
    runtime: Runtime, bundle: Bundle, canary: Canary, key: str
) -> None:
    """CVE-2025-52881, CVE-2022-0811."""
    bundle.linux["sysctl"] = {key: "|/bin/attack"}
    bundle.linux["readonlyPaths"] = []

    runtime.run(bundle).assert_one_clear_line("sysctl")

    canary.assert_unchanged()


@pytest.mark.parametrize(
    "value", ["1+kernel.core_pattern=|/bin/attack", "1\nkernel.core_pattern=|/bin/attack", "1\0", "1\r\n2", "1" * 70000]
)
def test_a_sysctl_value_that_smuggles_another_changes_nothing(
    runtime: Runtime, bundle: Bundle, canary: Canary, value: str
) -> None:
    """cr8escape, CVE-2022-0811."""
    bundle.linux["sysctl"] = {"kernel.shm_rmid_forced": value}

    answer = runtime.run(bundle)

    assert answer.refused, answer
    assert "Traceback" not in answer.err
    canary.assert_unchanged()


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("net.ipv4.ip_forward", "network"),
        ("kernel.shm_rmid_forced", "ipc"),
        ("fs.mqueue.msg_max", "ipc"),
        ("kernel.domainname", "uts"),
    ],
)
def test_a_sysctl_of_a_namespace_that_is_the_hosts_is_refused(
    runtime: Runtime, bundle: Bundle, canary: Canary, key: str, kind: str
) -> None:
    del bundle.spec["hostname"]
    bundle.linux["namespaces"] = [entry for entry in bundle.linux["namespaces"] if entry["type"] != kind]
    bundle.linux["sysctl"] = {key: "0"}

    runtime.run(bundle).assert_one_clear_line("sysctl")


@pytest.mark.parametrize(
    ("field", "where"), [("apparmorProfile", "process"), ("selinuxLabel", "process"), ("mountLabel", "linux")]
)
def test_a_label_that_no_kernel_module_enforces_is_refused(
    runtime: Runtime, bundle: Bundle, field: str, where: str
) -> None:
    """CVE-2019-16884: a label that is silently not applied."""
    present = {"apparmorProfile": "/sys/module/apparmor"}.get(field, "/sys/fs/selinux/enforce")
    if Path(present).exists():
        pytest.skip(f"this kernel enforces it: {present} exists")
    bundle.spec[where][field] = "system_u:system_r:attacked_t:s0"

    runtime.run(bundle).assert_one_clear_line(f"{where}.{field}")


DEVICES = {
    "full": (0o020666, 1, 7), "mem": (0o020666, 1, 1), "kmsg": (0o020666, 1, 11), "cuse": (0o020666, 10, 203),
    "fuse": (0o020666, 10, 229), "kvm": (0o020666, 10, 232), "loop-control": (0o020666, 10, 237),
    "vhost-vsock": (0o020666, 10, 241), "sda": (0o060666, 8, 0), "vda": (0o060666, 254, 0),
}  # fmt: skip
HARMLESS = ["full"]


def open_each(names: list[str], directory: str) -> str:
    """Script that prints `NAME opened` for each node that can be opened, for reading or for writing."""
    return f"for n in {' '.join(names)}; do (: < {directory}/$n) 2>/dev/null && echo $n opened; (: >> {directory}/$n) 2>/dev/null && echo $n opened; done; exit 0"


def plant(bundle: Bundle, names: list[str]) -> None:
    """Put device nodes into the image."""
    for name in names:
        mode, major, minor = DEVICES[name]
        os.mknod(bundle.rootfs / "home" / name, mode, os.makedev(major, minor))
        (bundle.rootfs / "home" / name).chmod(0o666)


def test_device_nodes_of_an_image_are_inert(runtime: Runtime, bundle: Bundle) -> None:
    """CVE-2026-96812, CVE-2020-2023."""
    plant(bundle, list(DEVICES))

    answer = runtime.run(bundle.script(open_each(list(DEVICES), "/home")))

    assert answer.code == 0, answer
    assert {line.split()[0] for line in answer.out.splitlines()} <= set(HARMLESS), answer


def tun_of_an_image(runtime: Runtime, bundle: Bundle, canary: Canary) -> None:
    """/dev/net/tun, which nobody asked for."""
    os.mknod(bundle.rootfs / "home/tun", 0o020666, os.makedev(10, 200))
    answer = runtime.run(bundle.script("exec 3<>/home/tun && echo opened"))
    assert "opened" not in answer.out, answer


def test_a_tun_device_nobody_asked_for_is_inert(runtime: Runtime, bundle: Bundle, canary: Canary) -> None:
    tun_of_an_image(runtime, bundle, canary)


def test_a_tun_device_nobody_asked_for_fails_on_runc_1_1_5(runc: Runtime, succeeds: Callable[..., None]) -> None:
    succeeds(tun_of_an_image, runc)


@pytest.mark.parametrize(
    "rules",
    [
        None,
        [],
        [{"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rwm"}],
        [{"allow": False, "type": "b", "major": 7, "access": "w"}],
    ],
)
def test_a_device_list_that_does_not_begin_with_deny_all_still_denies(
    runtime: Runtime, bundle: Bundle, rules: list[dict[str, Any]] | None
) -> None:
    """GHSA-g54h-m393-cpwq."""
    if rules is not None:
        bundle.linux["resources"] = {"devices": rules}
    names = ["sda", "vda", "mem"]
    make = " && ".join(f"mknod /tmp/{n} {'b' if n != 'mem' else 'c'} {DEVICES[n][1]} {DEVICES[n][2]}" for n in names)

    answer = runtime.run(bundle.script(f"{make} || exit 9; {open_each(names, '/tmp')}"))

    assert answer.code in (0, 9), answer
    assert "opened" not in answer.out


def test_a_device_the_spec_allows_can_be_opened(runtime: Runtime, bundle: Bundle) -> None:
    """The control of the two tests above: it is the list that denies, not the lack of a device."""
    bundle.linux["resources"] = {
        "devices": [
            {"allow": False, "access": "rwm"},
            {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rwm"},
        ]
    }
    plant(bundle, ["fuse"])

    answer = runtime.run(bundle.script("exec 3</home/fuse && echo opened"))

    assert answer.out == "opened\n", answer


def test_the_cgroup_file_system_is_read_only_unless_asked(runtime: Runtime, bundle: Bundle) -> None:
    """CVE-2023-25809."""
    bundle.mounts.append(
        {
            "destination": "/sys/fs/cgroup",
            "type": "cgroup",
            "source": "cgroup",
            "options": ["nosuid", "noexec", "nodev", "relatime", "ro"],
        }
    )
    bundle.linux["namespaces"].append({"type": "cgroup"})
    bundle.script(
        "for f in /sys/fs/cgroup/cgroup.procs /sys/fs/cgroup/*/cgroup.procs /sys/fs/cgroup/*/release_agent; do test -e $f && (echo 1 > $f) 2>/dev/null && echo written $f; done; exit 0"
    )

    answer = runtime.run(bundle)

    assert answer.code == 0, answer
    assert answer.out == ""


def test_the_container_lies_in_the_cgroup_that_was_asked_for(runtime: Runtime, bundle: Bundle) -> None:
    """CVE-2025-47291: read back, from outside."""
    container = runtime.new_id()
    bundle.linux["cgroupsPath"] = f"/{container}/inner"
    _, created = runtime.create(bundle, container=container)
    assert created.code == 0, created

    lines = Path(f"/proc/{runtime.state(container)['pid']}/cgroup").read_text().splitlines()

    placed = [line for line in lines if line.endswith(f"/{container}/inner")]
    assert [line for line in placed if ":pids:" in line or line.startswith("0::")], lines
    runtime.call("delete", "--force", container)
    for top, names, _ in os.walk("/sys/fs/cgroup", topdown=False):
        if container in names:
            os.rmdir(os.path.join(top, container))


@pytest.mark.parametrize("path", ["../../escape", "/../../escape", "/a/../../../escape", "/a/\0b", "/a\n/b"])
def test_a_cgroups_path_stays_below_the_hierarchy(runtime: Runtime, bundle: Bundle, path: str) -> None:
    bundle.linux["cgroupsPath"] = path.replace("escape", runtime.new_id()).replace("/a", f"/{runtime.new_id()}")

    runtime.run(bundle)

    assert not list(Path("/sys/fs").glob(f"*{runtime.marker}*"))
    assert not list(Path("/sys/fs/cgroup").glob(f"{runtime.marker}*"))
