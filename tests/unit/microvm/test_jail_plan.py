"""The plan of a jail, and what a program needs in one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pysandbox.errors import InvalidArgument, NotFound, Unavailable
from pysandbox.oci import mountoptions as mo
from pysandbox_microvm import barrier, jail, virtiofsd


def names(built: jail.Jail, **more: Any) -> list[str]:
    return [each.name for each in jail.jail_plan(built, ["/p"], more.get("preserved", 0)).operations]


def operation(built: jail.Jail, name: str) -> dict[str, Any]:
    return next(dict(each.arguments) for each in jail.jail_plan(built, ["/p"], 2).operations if each.name == name)


PLAIN = jail.Jail(uid=7, gid=8)


def test_a_jail_has_no_capability_in_any_set_unless_told() -> None:
    given = operation(PLAIN, "credentials")
    assert {given[name] for name in ("bounding", "effective", "permitted", "inheritable", "ambient")} == {0}
    assert (given["uid"], given["gid"], given["groups"]) == (7, 8, [])


def test_capabilities_are_never_inheritable() -> None:
    given = operation(jail.Jail(uid=0, gid=0, capabilities=["CAP_CHOWN", "CAP_MKNOD"]), "credentials")
    mask = 1 << 0 | 1 << 27
    assert [given[name] for name in ("bounding", "permitted", "effective", "inheritable", "ambient")] == [
        mask, mask, mask, 0, 0,
    ]  # fmt: skip


def test_the_death_signal_is_armed_in_both_processes_and_before_the_user_changes() -> None:
    order = names(PLAIN)
    armed = [index for index, name in enumerate(order) if name == "parent_death_signal"]
    assert len(armed) == 2
    assert armed[0] < order.index("clone") < armed[1] < order.index("credentials")


def test_privileges_fall_in_their_order() -> None:
    order = names(jail.Jail(uid=1, gid=1, seccomp="AAAA"))
    wanted = ["unshare", "clone", "pivot_root", "remount", "no_new_privileges", "credentials", "find_program",
              "close_descriptors", "seccomp", "execute"]  # fmt: skip
    assert [name for name in order if name in wanted and name != "unshare"] == wanted[1:]
    assert order.index("unshare") < order.index("clone")


def test_all_namespaces_are_new() -> None:
    plan = jail.jail_plan(PLAIN, ["/p"], 0).operations
    kinds = {kind for each in plan if each.name == "unshare" for kind in each.arguments["kinds"]}
    assert kinds == {"mount", "network", "ipc", "uts", "pid", "cgroup"}


def test_every_mount_of_a_jail_is_read_only() -> None:
    built = jail.Jail(uid=1, gid=1, binds=[jail.Bind("/a", "/b")], devices=[jail.NULL, jail.KVM])
    masks = [
        each.arguments["set"] for each in jail.jail_plan(built, ["/p"], 0).operations if each.name == "set_attributes"
    ]
    assert len(masks) == 3
    assert all(mask & mo.MOUNT_ATTR_RDONLY and mask & mo.MOUNT_ATTR_NOSUID for mask in masks)


def test_a_cgroup_is_entered_first_of_all() -> None:
    v1 = jail.Jail(uid=1, gid=1, entrances={"tasks0": "/x"})
    assert names(v1)[0] == "enter_cgroups"
    v2 = jail.Jail(uid=1, gid=1, entrances={"cgroup": "/x"})
    assert operation(v2, "clone") == {"into_cgroup": True}
    assert "enter_cgroups" not in names(v2)


def test_descriptors_are_counted_from_three() -> None:
    assert operation(PLAIN, "close_descriptors") == {"preserve": 2}


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A root of its own, with merged /usr and a program."""
    for directory in ("usr/bin", "usr/lib", "usr/lib64", "usr/share/qemu"):
        (tmp_path / directory).mkdir(parents=True)
    (tmp_path / "lib").symlink_to("usr/lib")
    (tmp_path / "lib64").symlink_to("/usr/lib64")
    program = tmp_path / "usr/bin/prog"
    program.write_bytes(b"\x7fELF inode-file-handles")
    program.chmod(0o755)
    return tmp_path


def test_a_program_brings_its_libraries_and_the_links_to_them(installed: Path) -> None:
    program = jail.find_program("prog", str(installed))
    binds, links = jail.program_binds(program)
    assert [(bind.source, bind.destination) for bind in binds] == [
        (f"{installed}/usr/bin/prog", "/usr/bin/prog"),
        (f"{installed}/usr/lib", "/usr/lib"),
        (f"{installed}/usr/lib64", "/usr/lib64"),
    ]
    assert links == {"/lib": "usr/lib", "/lib64": "usr/lib64"}
    assert [bind.destination for bind in jail.data_binds(program)] == ["/usr/share/qemu"]


def test_only_the_libraries_of_the_architecture_are_let_in(installed: Path) -> None:
    import os

    narrow = f"usr/lib/{os.uname().machine}-linux-gnu"
    (installed / narrow).mkdir()
    binds, _ = jail.program_binds(jail.find_program("prog", str(installed)))
    assert binds[1].destination == f"/{narrow}"


def test_a_program_that_is_not_there_is_named(installed: Path) -> None:
    with pytest.raises(NotFound, match=r"^/usr/bin/none: there is no such program below"):
        jail.find_program("/usr/bin/none", str(installed))


# -- virtiofsd ---------------------------------------------------------------------------------------------------------


def test_the_generations_of_virtiofsd_are_told_apart_by_what_they_can(installed: Path) -> None:
    path = installed / "usr/bin/prog"
    assert virtiofsd.find_server("/usr/bin/prog", str(installed)).rust
    path.write_bytes(b"\x7fELF --thread-pool-size=NUM")
    assert not virtiofsd.find_server("/usr/bin/prog", str(installed)).rust
    path.write_bytes(b"\x7fELF something else")
    with pytest.raises(Unavailable, match="is no virtiofsd that is known here"):
        virtiofsd.find_server("/usr/bin/prog", str(installed))


def test_without_a_virtiofsd_there_is_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="install virtiofsd"):
        virtiofsd.find_server(root=str(tmp_path))


@pytest.mark.parametrize("rust", [True, False])
def test_virtiofsd_gets_its_socket_by_number_and_changes_its_root(rust: bool) -> None:
    argv = virtiofsd.arguments(virtiofsd.Server(jail.Program("/v"), rust=rust))
    assert "--fd=3" in argv
    assert not any("socket-path" in word or "sandbox=none" in word for word in argv)
    assert "--sandbox=chroot" in argv or "sandbox=chroot" in argv


@pytest.mark.parametrize(("cache", "word"), [("auto", "--cache=auto"), ("none", "--cache=never")])
def test_cache_modes_have_one_name_for_both_generations(cache: str, word: str) -> None:
    assert word in virtiofsd.arguments(virtiofsd.Server(jail.Program("/v"), rust=True), cache=cache)


def test_an_unknown_cache_mode_is_refused() -> None:
    with pytest.raises(InvalidArgument, match=r"backends\.microvm\.cache: 'fast' is none of auto, none, always"):
        virtiofsd.arguments(virtiofsd.Server(jail.Program("/v"), rust=False), cache="fast")


# -- the filter --------------------------------------------------------------------------------------------------------


def test_the_filter_refuses_and_lets_through_what_it_is_told() -> None:
    refused = {name for rule in barrier.profile()["syscalls"] for name in rule["names"]}
    assert {"mount", "bpf", "ptrace", "keyctl", "io_uring_setup", "chroot", "setns", "kexec_load"} <= refused
    assert "chroot" not in {name for rule in barrier.profile(["chroot"])["syscalls"] for name in rule["names"]}


def test_file_systems_that_are_the_kernel_are_found_wherever_they_are_mounted() -> None:
    table = r"""
108 177 254:0 /b/rootfs /rootfs rw,nosuid - ext4 /dev/vda rw
109 108 0:5 / /rootfs/a\040b rw,nosuid shared:5 master:1 - proc proc rw
110 108 0:5 / /mounts/1/\134040 rw,nosuid - cgroup2 none rw
111 108 0:9 / /mounts/2 rw - tmpfs proc rw
112 100 0:5 / /proc ro - proc proc rw
113 100 0:6 / /share/mounts/3 rw - sysfs sysfs rw
""".strip()
    assert virtiofsd.kernel_mounts(table) == {"/rootfs/a b": "proc", "/mounts/1/\\040": "cgroup2", "/mounts/3": "sysfs"}


@pytest.mark.parametrize(("may_raise", "value"), [(False, 100), (True, 5000)])
def test_limits_are_raised_only_by_who_may(monkeypatch: pytest.MonkeyPatch, may_raise: bool, value: int) -> None:
    import resource

    monkeypatch.setattr(resource, "getrlimit", lambda _: (10, 100))
    monkeypatch.setattr(jail, "_may_raise_limits", lambda: may_raise)
    monkeypatch.setattr(jail, "_most_descriptors", lambda: 5000)
    assert jail.within_hard_limits([(jail.RLIMIT_NOFILE, 1 << 20), (jail.RLIMIT_CORE, 0)]) == [
        (jail.RLIMIT_NOFILE, value),
        (jail.RLIMIT_CORE, 0),
    ]
