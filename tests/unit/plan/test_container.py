from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pysandbox.backend import Options
from pysandbox.errors import InvalidArgument
from pysandbox.plan.host import Host

if TYPE_CHECKING:
    from collections.abc import Callable

    from pysandbox.plan.plan import Plan

    Planner = Callable[..., Plan]

HOOK = {"path": "/bin/hook"}
ALLOW_ALL = {"defaultAction": "SCMP_ACT_ALLOW"}


def names(plan: Plan) -> list[str]:
    return [operation.name for operation in plan.operations]


def find(plan: Plan, name: str, /, **arguments: Any) -> int:
    """Return where the one operation with this name and these arguments stands."""
    found = [
        index
        for index, operation in enumerate(plan.operations)
        if operation.name == name and arguments.items() <= dict(operation.arguments).items()
    ]
    assert len(found) == 1, (name, arguments, plan.describe())
    return found[0]


def in_order(plan: Plan, *wanted: tuple[str, dict[str, Any]]) -> None:
    positions = [find(plan, name, **arguments) for name, arguments in wanted]
    assert positions == sorted(positions), plan.describe()


def test_the_default_spec_makes_this_plan(plan: Planner) -> None:
    assert plan().describe() == GOLDEN.strip().splitlines()


GOLDEN = """
stop name=cgroup
parent_death_signal signal=9
dumpable value=false
open_tree slot=rootfs path=/bundle/rootfs recursive
set_attributes slot=rootfs propagation=MS_SLAVE recursive
open_null slot=null
set_attributes slot=null set=MOUNT_ATTR_RDONLY|MOUNT_ATTR_NOSUID|MOUNT_ATTR_NOEXEC propagation=MS_PRIVATE
unshare kinds=["pid","network","ipc","uts","mount"]
clone
parent_death_signal signal=9
new_session
keyring name=_ses.box1 permission=0x80000
loopback
root_propagation flags=MS_REC|MS_SLAVE
attach_root slot=rootfs path=/bundle/rootfs
mount_filesystem kind=proc source=proc destination=/proc nofollow
mount_filesystem kind=tmpfs source=tmpfs destination=/dev options=[["mode","755"],["size","65536k"]] \
attributes=MOUNT_ATTR_NOSUID|MOUNT_ATTR_STRICTATIME
mount_filesystem kind=devpts source=devpts destination=/dev/pts options=[["newinstance",null],["ptmxmode","0666"],\
["mode","0620"],["gid","5"]] attributes=MOUNT_ATTR_NOSUID|MOUNT_ATTR_NOEXEC
mount_filesystem kind=sysfs source=sysfs destination=/sys \
attributes=MOUNT_ATTR_RDONLY|MOUNT_ATTR_NOSUID|MOUNT_ATTR_NODEV|MOUNT_ATTR_NOEXEC nofollow
make_device path=/dev/null kind=c major=1 minor=3 mode=0666 uid=0 gid=0
make_device path=/dev/zero kind=c major=1 minor=5 mode=0666 uid=0 gid=0
make_device path=/dev/full kind=c major=1 minor=7 mode=0666 uid=0 gid=0
make_device path=/dev/random kind=c major=1 minor=8 mode=0666 uid=0 gid=0
make_device path=/dev/urandom kind=c major=1 minor=9 mode=0666 uid=0 gid=0
make_device path=/dev/tty kind=c major=5 minor=0 mode=0666 uid=0 gid=0
make_link path=/dev/fd target=/proc/self/fd
make_link path=/dev/stdin target=/proc/self/fd/0
make_link path=/dev/stdout target=/proc/self/fd/1
make_link path=/dev/stderr target=/proc/self/fd/2
make_link path=/dev/core target=/proc/kcore
make_link path=/dev/ptmx target=pts/ptmx replace
stop name=runtime_created
pivot_root
console width=0 height=0 bind uid=0
remount destination=/ set=MOUNT_ATTR_RDONLY
hostname name=box
readonly_path path=/proc/sys
mask_path path=/proc/kcore
umask value=0022
no_new_privileges
change_directory path=/
home uid=0
rlimit resource=7 soft=512 hard=1024
parent_death_signal signal=0
credentials uid=0 gid=0 bounding=0x20000420 effective=0x20000420 permitted=0x20000420 inheritable=0x0 ambient=0x0
find_program name=sh path=/usr/bin:/bin cwd=/
close_descriptors preserve=0
stop name=ready
wait_start
execute args=["sh"] env=["PATH=/usr/bin:/bin","TERM=xterm"]
"""


# -- the order ----------------------------------------------------------------------------------------------------------


def test_init_is_born_in_its_cgroup(plan: Planner) -> None:
    assert plan().operations[0].arguments == {"name": "cgroup"}
    assert not any(o.arguments.get("name") == "cgroup" for o in plan(entrances=["cgroup"]).operations)
    assert plan(entrances=["tasks0", "cgroup"]).operations[0].arguments == {"slots": ["tasks0"]}


def test_oom_score_is_written_while_the_file_is_still_ours(spec: dict[str, Any], plan: Planner) -> None:
    spec["process"]["oomScoreAdj"] = 100
    in_order(plan(), ("oom_score_adj", {"value": 100}), ("dumpable", {"value": False}), ("open_tree", {}))


def test_sources_are_opened_before_namespaces_change(spec: dict[str, Any], plan: Planner) -> None:
    spec["mounts"].append({"destination": "/data", "source": "data", "options": ["rbind"]})
    spec["linux"]["namespaces"][1]["path"] = "/run/netns/a"
    in_order(
        plan(),
        ("open_tree", {"slot": "mount4", "path": "/bundle/data"}),
        ("open_null", {}),
        ("join", {"kind": "network"}),
        ("unshare", {}),
        ("clone", {}),
        ("mount_bind", {"slot": "mount4"}),
    )


def test_init_takes_its_parent_death_signal_again_after_clone(plan: Planner) -> None:
    operations = plan().operations
    clone = find(plan(), "clone")
    assert operations[clone + 1].name == "parent_death_signal"
    assert operations[clone + 1].arguments["signal"] == 9


def test_the_cgroup_namespace_is_made_in_init_when_it_is_in_its_cgroup(spec: dict[str, Any], plan: Planner) -> None:
    spec["linux"]["namespaces"].append({"type": "cgroup"})
    in_order(plan(), ("stop", {"name": "cgroup"}), ("clone", {}), ("unshare", {"kinds": ["cgroup"]}))
    assert find(plan(), "unshare", kinds=["pid", "network", "ipc", "uts", "mount"]) < find(plan(), "clone")


def test_hooks_of_the_runtime_run_when_mounts_stand_and_the_root_has_not_changed(
    spec: dict[str, Any], plan: Planner
) -> None:
    spec["hooks"] = {"createContainer": [HOOK]}
    in_order(
        plan(),
        ("make_link", {"path": "/dev/ptmx"}),
        ("stop", {"name": "runtime_created"}),
        ("run_hooks", {"kind": "createContainer"}),
        ("pivot_root", {}),
        ("console", {}),
    )


def test_what_needs_the_new_root_comes_in_runc_s_order(spec: dict[str, Any], plan: Planner) -> None:
    spec["domainname"] = "example"
    spec["linux"]["sysctl"] = {"net.ipv4.ip_forward": "1"}
    spec["process"]["apparmorProfile"] = "confined"
    in_order(
        plan(host=Host(apparmor=True)),
        ("pivot_root", {}),
        ("console", {}),
        ("remount", {"destination": "/"}),
        ("hostname", {}),
        ("domainname", {}),
        ("sysctl", {"key": "net.ipv4.ip_forward", "value": "1"}),
        ("readonly_path", {}),
        ("mask_path", {}),
        ("apparmor", {}),
        ("no_new_privileges", {}),
        ("change_directory", {}),
        ("credentials", {}),
        ("find_program", {}),
    )


def test_procfs_is_private_and_opened_before_the_container_can_mount_anything_on_it(
    spec: dict[str, Any], plan: Planner
) -> None:
    assert "open_proc" not in names(plan())
    spec["linux"]["sysctl"] = {"net.ipv4.ip_forward": "1"}
    in_order(plan(), ("clone", {}), ("open_proc", {}), ("mount_filesystem", {"kind": "proc"}))


def test_seccomp_without_no_new_privileges_comes_while_init_is_privileged(spec: dict[str, Any], plan: Planner) -> None:
    spec["linux"]["seccomp"] = ALLOW_ALL
    spec["process"]["noNewPrivileges"] = False
    in_order(
        plan(),
        ("change_directory", {}),
        ("parent_death_signal", {"signal": 0}),
        ("seccomp", {}),
        ("credentials", {}),
        ("find_program", {}),
    )
    assert "no_new_privileges" not in names(plan())


def test_seccomp_with_no_new_privileges_comes_as_late_as_can_be(spec: dict[str, Any], plan: Planner) -> None:
    spec["linux"]["seccomp"] = ALLOW_ALL
    position = find(plan(), "seccomp")
    assert names(plan())[position - 1 : position + 3] == ["close_descriptors", "seccomp", "stop", "wait_start"]


def test_everything_that_can_fail_comes_before_ready(spec: dict[str, Any], plan: Planner) -> None:
    spec["hooks"] = {"startContainer": [HOOK]}
    after = names(plan())[find(plan(), "stop", name="ready") + 1 :]
    assert after == ["wait_start", "run_hooks", "execute"]


def test_a_waiting_container_holds_nothing_of_the_host(plan: Planner) -> None:
    in_order(plan(), ("find_program", {}), ("close_descriptors", {}), ("stop", {"name": "ready"}))


def test_a_path_is_masked_once(spec: dict[str, Any], plan: Planner) -> None:
    spec["linux"]["maskedPaths"] = ["/a", "/b", "/a"]
    spec["linux"]["readonlyPaths"] = ["/c", "/c"]
    assert [line for line in plan().describe() if "_path" in line] == [
        "readonly_path path=/c",
        "mask_path path=/a",
        "mask_path path=/b",
    ]


def test_a_destination_that_begins_with_the_rootfs_is_inside(spec: dict[str, Any], plan: Planner) -> None:
    spec["mounts"].append({"destination": "/bundle/rootfs/data", "source": "/data", "options": ["bind"]})
    spec["mounts"].append({"destination": "/bundle/rootfsx", "source": "/data", "options": ["bind"]})
    destinations = [o.arguments["destination"] for o in plan().operations if o.name == "mount_bind"]
    assert destinations == ["/data", "/bundle/rootfsx"]


def test_limits_are_set_after_everything_that_opens_files(plan: Planner) -> None:
    in_order(plan(), ("change_directory", {}), ("home", {}), ("rlimit", {}), ("credentials", {}))


def test_the_working_directory_is_made_before_the_root_becomes_read_only(spec: dict[str, Any], plan: Planner) -> None:
    spec["process"]["cwd"] = "/work"
    in_order(
        plan(),
        ("pivot_root", {}),
        ("make_directory", {"path": "/work"}),
        ("remount", {"destination": "/"}),
        ("change_directory", {"path": "/work"}),
    )


# -- options -----------------------------------------------------------------------------------------------------------


def test_hooks_get_the_state_with_the_status_of_their_moment(spec: dict[str, Any], plan: Planner) -> None:
    spec["hooks"] = {"createContainer": [HOOK], "startContainer": [HOOK]}
    operations = {o.arguments["kind"]: o.arguments for o in plan().operations if o.name == "run_hooks"}
    assert operations["createContainer"]["state"] == {"id": "box1", "ociVersion": "1.2.0", "status": "creating"}
    assert operations["startContainer"]["state"]["status"] == "created"
    assert operations["createContainer"]["hooks"] == [HOOK]


def test_a_start_container_hook_without_an_environment_gets_the_process_s(spec: dict[str, Any], plan: Planner) -> None:
    spec["process"]["env"] = ["A=1"]
    spec["hooks"] = {"startContainer": [HOOK, {**HOOK, "env": []}]}
    (operation,) = (o for o in plan().operations if o.name == "run_hooks")
    assert operation.arguments["hooks"] == [{**HOOK, "env": ["HOME=/", "A=1"]}, {**HOOK, "env": []}]


def test_no_pivot_moves_the_root_instead(plan: Planner) -> None:
    assert "pivot_root" not in names(plan(options=Options(no_pivot=True)))
    assert "move_root" in names(plan(options=Options(no_pivot=True)))


def test_no_new_keyring_makes_none(plan: Planner) -> None:
    assert "keyring" not in names(plan(options=Options(no_new_keyring=True)))


def test_a_trace_is_asked_for_where_somebody_listens(plan: Planner) -> None:
    assert plan(options=Options(trace=lambda step, time: None)).trace
    assert not plan().trace


def test_without_a_terminal_the_streams_change_owner(spec: dict[str, Any], plan: Planner) -> None:
    spec["process"]["terminal"] = False
    spec["process"]["user"]["uid"] = 7
    assert "console" not in names(plan())
    find(plan(), "own_stdio", uid=7)


def test_the_terminal_gets_its_size_and_owner(spec: dict[str, Any], plan: Planner) -> None:
    spec["process"]["consoleSize"] = {"width": 80, "height": 25}
    spec["process"]["user"]["uid"] = 7
    find(plan(), "console", width=80, height=25, uid=7, bind=True)


def test_preserved_descriptors_stay_open(plan: Planner) -> None:
    find(plan(preserved=3), "close_descriptors", preserve=3)


def test_network_devices_are_moved_when_the_namespace_is_there(spec: dict[str, Any], plan: Planner) -> None:
    spec["linux"]["netDevices"] = {"eth7": {}}
    in_order(plan(), ("clone", {}), ("loopback", {}), ("stop", {"name": "net_devices"}), ("attach_root", {}))


def test_the_loopback_of_a_joined_network_is_left_alone(spec: dict[str, Any], plan: Planner) -> None:
    spec["linux"]["namespaces"][1]["path"] = "/run/netns/a"
    assert "loopback" not in names(plan())


@pytest.mark.parametrize(
    ("wanted", "tree", "after"),
    [
        ("", "MS_REC|MS_SLAVE", []),
        ("rslave", "MS_REC|MS_SLAVE", ["remount destination=/ propagation=MS_SLAVE recursive"]),
        ("private", "MS_REC|MS_PRIVATE", ["remount destination=/ propagation=MS_PRIVATE"]),
        ("rshared", "MS_REC|MS_SLAVE", ["remount destination=/ propagation=MS_SHARED recursive"]),
        ("unbindable", "MS_REC|MS_SLAVE", ["remount destination=/ propagation=MS_UNBINDABLE"]),
    ],
)
def test_propagation_of_the_root(spec: dict[str, Any], plan: Planner, wanted: str, tree: str, after: list[str]) -> None:
    spec["linux"]["rootfsPropagation"] = wanted
    lines = plan().describe()
    assert f"root_propagation flags={tree}" in lines
    pivot = lines.index("pivot_root")
    assert [line for line in lines[pivot : pivot + 2] if line.startswith("remount")] == after


@pytest.mark.parametrize(
    ("wanted", "lines"),
    [
        ("", ["set_attributes slot=mount4 propagation=MS_SLAVE recursive"]),
        ("rprivate", ["set_attributes slot=mount4 propagation=MS_PRIVATE recursive"]),
        ("rshared", []),
    ],
)
def test_every_clone_gets_the_root_s_propagation_first(
    spec: dict[str, Any], plan: Planner, wanted: str, lines: list[str]
) -> None:
    spec["linux"]["rootfsPropagation"] = wanted
    spec["mounts"].append({"destination": "/data", "source": "/data", "options": ["rbind"]})
    assert [line for line in plan().describe() if line.startswith("set_attributes slot=mount4")] == lines


def test_a_container_without_a_mount_namespace_gets_a_plain_chroot(spec: dict[str, Any], plan: Planner) -> None:
    spec["linux"]["namespaces"] = [{"type": "pid"}, {"type": "uts"}]
    spec["mounts"] = []
    del spec["linux"]["maskedPaths"], spec["linux"]["readonlyPaths"]
    made = names(plan())
    assert "open_root" in made
    assert "change_root" in made
    assert not {"attach_root", "root_propagation", "remount", "pivot_root", "open_tree"} & set(made)


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_a_spec_without_a_process_is_refused(spec: dict[str, Any], plan: Planner) -> None:
    del spec["process"]
    with pytest.raises(InvalidArgument, match=r"^process: missing"):
        plan()


@pytest.mark.parametrize(
    ("remove", "message"),
    [
        ([], "linux.maskedPaths: unable to restrict sys entries"),
        (["maskedPaths"], "linux.readonlyPaths: unable to restrict sys entries"),
    ],
)
def test_nothing_of_the_host_is_masked(spec: dict[str, Any], plan: Planner, remove: list[str], message: str) -> None:
    spec["linux"]["namespaces"] = [{"type": "pid"}, {"type": "uts"}]
    for name in remove:
        del spec["linux"][name]
    with pytest.raises(InvalidArgument, match=message):
        plan()


def test_the_host_keeps_its_name(spec: dict[str, Any], plan: Planner) -> None:
    spec["linux"]["namespaces"] = [{"type": "mount"}]
    with pytest.raises(InvalidArgument, match=r"^hostname: unable to set hostname without a private UTS namespace"):
        plan()
    del spec["hostname"]
    spec["domainname"] = "x"
    with pytest.raises(InvalidArgument, match=r"^domainname: unable to set domainname"):
        plan()


def test_network_devices_need_a_network_namespace(spec: dict[str, Any], plan: Planner) -> None:
    spec["linux"]["namespaces"] = [{"type": "mount"}, {"type": "uts"}]
    spec["linux"]["netDevices"] = {"eth7": {}}
    with pytest.raises(InvalidArgument, match=r"^linux.netDevices"):
        plan()


def test_unknown_propagation_is_refused(spec: dict[str, Any], plan: Planner) -> None:
    spec["linux"]["rootfsPropagation"] = "sideways"
    with pytest.raises(InvalidArgument, match=r"^linux.rootfsPropagation: 'sideways' is not supported"):
        plan()


def test_a_private_root_needs_pivot_root(spec: dict[str, Any], plan: Planner) -> None:
    spec["linux"]["rootfsPropagation"] = "rprivate"
    with pytest.raises(InvalidArgument, match="not safe without pivot_root"):
        plan(options=Options(no_pivot=True))


@pytest.mark.parametrize(("part", "field"), [("process", "apparmorProfile"), ("process", "selinuxLabel")])
def test_a_label_that_the_kernel_cannot_enforce_is_refused(
    spec: dict[str, Any], plan: Planner, part: str, field: str
) -> None:
    spec[part][field] = "confined"
    with pytest.raises(InvalidArgument, match=f"^{part}.{field}: confined: "):
        plan()


def test_a_mount_label_that_the_kernel_cannot_enforce_is_refused(spec: dict[str, Any], plan: Planner) -> None:
    spec["linux"]["mountLabel"] = "system_u:object_r:container_file_t:s0"
    with pytest.raises(InvalidArgument, match=r"^linux.mountLabel"):
        plan()


def test_mounts_of_the_host_are_locked_on_their_way_into_a_user_namespace(
    plan: Planner, add_user_namespace: Callable[[], None]
) -> None:
    """All of them are opened before they are staged, and taken as soon as the user namespace has its mount namespace."""
    add_user_namespace()
    names = [operation.name for operation in plan().operations]
    staged, taken = names.index("stage_mounts"), names.index("take_mounts")
    assert max(index for index, name in enumerate(names) if name in ("open_tree", "open_null")) < staged
    assert staged < names.index("unshare") < taken < names.index("clone")


def test_without_a_user_namespace_nothing_is_staged(plan: Planner) -> None:
    assert "stage_mounts" not in [operation.name for operation in plan().operations]
