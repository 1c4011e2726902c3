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


def arguments(plan: Plan, name: str) -> dict[str, Any]:
    (found,) = (operation.arguments for operation in plan.operations if operation.name == name)
    return dict(found)


def described(plan: Plan, name: str) -> str:
    (line,) = (line for line in plan.describe() if line.split()[0] == name)
    return line


# -- exec ------------------------------------------------------------------------------------------------------------------


def test_an_exec_of_the_default_spec_makes_this_plan(plan_exec: Planner) -> None:
    assert plan_exec().describe() == [
        "stop name=cgroup",
        "parent_death_signal signal=9",
        "dumpable value=false",
        'join_process kinds=["pid","network","ipc","uts","mount"]',
        "clone",
        "parent_death_signal signal=9",
        "new_session",
        "keyring name=_ses.box1 permission=0x80000",
        "use_root",
        "console width=0 height=0 uid=0",
        "umask value=0022",
        "no_new_privileges",
        "change_directory path=/",
        "home uid=0",
        "rlimit resource=7 soft=512 hard=1024",
        "parent_death_signal signal=0",
        (
            "credentials uid=0 gid=0 bounding=0x20000420 effective=0x20000420 permitted=0x20000420 inheritable=0x0 "
            "ambient=0x0"
        ),
        "find_program name=sh path=/usr/bin:/bin cwd=/",
        "close_descriptors preserve=0",
        'execute args=["sh"] env=["PATH=/usr/bin:/bin","TERM=xterm"]',
    ]


def test_init_and_exec_take_the_same_path_from_the_labels_to_the_program(
    spec: dict[str, Any], plan: Planner, plan_exec: Planner
) -> None:
    """CVE-2022-29162: what exec did by itself, it did differently."""
    spec["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW"}
    spec["process"] |= {
        "scheduler": {"policy": "SCHED_BATCH", "nice": 3},
        "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 4},
        "apparmorProfile": "confined",
    }
    host = Host(apparmor=True)
    init, exec_ = plan(host=host).describe(), plan_exec(host=host).describe()
    shared = exec_[exec_.index("umask value=0022") : -1]
    start = init.index("umask value=0022")
    assert init[start : start + len(shared)] == shared
    assert len(shared) == 13


def test_exec_can_be_born_in_a_cgroup(plan_exec: Planner) -> None:
    made = plan_exec(entrances=["tasks0", "cgroup"])
    assert "clone into_cgroup" in made.describe()
    assert "stop name=cgroup" not in made.describe()


def test_exec_in_a_user_namespace_becomes_its_root(
    spec: dict[str, Any], plan_exec: Planner, add_user_namespace: Callable[[], None]
) -> None:
    add_user_namespace()
    lines = plan_exec().describe()
    assert lines[lines.index("become_root") - 1].startswith("join_process")
    assert lines[lines.index("become_root") + 1] == "clone"


def test_labels_of_an_exec_are_written_to_a_private_procfs(
    spec: dict[str, Any], plan_exec: Planner, add_user_namespace: Callable[[], None]
) -> None:
    spec["process"]["apparmorProfile"] = "confined"
    assert "open_proc" in plan_exec(host=Host(apparmor=True)).describe()
    add_user_namespace()
    lines = plan_exec(host=Host(apparmor=True)).describe()
    assert "open_proc" not in lines
    assert lines.index("open_tree slot=proc path=/proc") < lines.index("become_root")


def test_affinity_is_set_before_and_after_the_cgroup(spec: dict[str, Any], plan_exec: Planner, plan: Planner) -> None:
    spec["process"]["execCPUAffinity"] = {"initial": "0-1", "final": "0,3"}
    lines = plan_exec().describe()
    assert lines.index("cpu_affinity cpus=[0,1]") < lines.index("clone") < lines.index("cpu_affinity cpus=[0,3]")
    assert lines.index("cpu_affinity cpus=[0,3]") < lines.index("parent_death_signal signal=0")
    assert not any(line.startswith("cpu_affinity") for line in plan().describe())


def test_the_caller_s_affinity_is_not_inherited(spec: dict[str, Any], plan_exec: Planner, plan: Planner) -> None:
    host = Host(cpus=range(4))
    for planner in (plan, plan_exec):
        lines = planner(host=host).describe()
        assert lines[:2] == ["stop name=cgroup", "cpu_affinity cpus=[0,1,2,3]"]
    spec["process"]["execCPUAffinity"] = {"initial": "1-2"}
    made = plan_exec(host=host)
    assert [line for line in made.describe() if "affinity" in line] == ["cpu_affinity cpus=[1,2]"]
    assert made.debug == ["nsexec: affinity: 0x6"]


@pytest.mark.parametrize("text", ["a", "1-", "-1", "3-1", "0-99999", "٣"])
def test_a_list_of_numbers_that_is_none_is_refused(spec: dict[str, Any], plan_exec: Planner, text: str) -> None:
    spec["process"]["execCPUAffinity"] = {"initial": text}
    with pytest.raises(InvalidArgument, match=r"^process.execCPUAffinity.initial: .* is not a number or a range"):
        plan_exec()


def test_exec_needs_a_mount_namespace_to_find_the_root(plan_exec: Planner) -> None:
    with pytest.raises(InvalidArgument, match="cannot exec in a container without a mount namespace"):
        plan_exec(namespaces=["pid"])


def test_the_umask_of_an_exec_is_its_own_or_the_container_s(spec: dict[str, Any], plan_exec: Planner) -> None:
    spec["process"]["user"]["umask"] = 0o27
    other = {**spec["process"], "user": {"uid": 0, "gid": 0}}
    assert described(plan_exec(process=other), "umask") == "umask value=0027"
    own = {**other, "user": {"uid": 0, "gid": 0, "umask": 0}}
    assert described(plan_exec(process=own), "umask") == "umask value=0000"


# -- user and capabilities -------------------------------------------------------------------------------------------------


def test_groups_are_exactly_those_of_the_spec(spec: dict[str, Any], plan: Planner) -> None:
    assert arguments(plan(), "credentials")["groups"] == []
    spec["process"]["user"] = {"uid": 5, "gid": 6, "additionalGids": [7, 8]}
    assert described(plan(), "credentials").startswith("credentials uid=5 gid=6 groups=[7,8] ")


def test_without_capabilities_there_are_none(spec: dict[str, Any], plan: Planner) -> None:
    del spec["process"]["capabilities"]
    sets = arguments(plan(), "credentials")
    assert {sets[name] for name in ("bounding", "effective", "permitted", "inheritable", "ambient")} == {0}


def test_ambient_capabilities_must_be_permitted_and_inheritable(spec: dict[str, Any], plan: Planner) -> None:
    spec["process"]["capabilities"] = {
        "bounding": ["CAP_KILL", "CAP_CHOWN"],
        "permitted": ["CAP_KILL", "CAP_CHOWN"],
        "inheritable": ["CAP_KILL"],
        "ambient": ["CAP_KILL", "CAP_CHOWN"],
    }
    made = plan()
    assert arguments(made, "credentials")["ambient"] == 1 << 5
    assert arguments(made, "credentials")["inheritable"] == 1 << 5
    assert made.warnings == ["can't raise ambient capability CAP_CHOWN: not permitted and inheritable"]


def test_unknown_and_unavailable_capabilities_are_left_out_with_a_warning(spec: dict[str, Any], plan: Planner) -> None:
    spec["process"]["capabilities"] = {"bounding": ["CAP_KILL", "CAP_MOON", "CAP_BPF"]}
    made = plan(host=Host(last_capability=37))
    assert arguments(made, "credentials")["bounding"] == 1 << 5
    assert made.warnings == ["ignoring unknown or unavailable capabilities: CAP_BPF, CAP_MOON"]


@pytest.mark.parametrize(
    ("user", "message"),
    [
        ({"uid": 1000, "gid": 0}, "process.user.uid: cannot set uid to unmapped user in user namespace"),
        ({"uid": 0, "gid": 1000}, "process.user.gid: cannot set gid to unmapped user in user namespace"),
        (
            {"uid": 0, "gid": 0, "additionalGids": [5, 1000]},
            r"process.user.additionalGids\[1\]: cannot set gid 1000 to unmapped group",
        ),
    ],
)
def test_ids_must_be_mapped_in_a_user_namespace(
    spec: dict[str, Any],
    plan: Planner,
    plan_exec: Planner,
    add_user_namespace: Callable[[], None],
    user: dict[str, Any],
    message: str,
) -> None:
    add_user_namespace()
    spec["process"]["user"] = user
    for planner in (plan, plan_exec):
        with pytest.raises(InvalidArgument, match=f"^{message}"):
            planner()


# -- environment -------------------------------------------------------------------------------------------------------------


def test_of_a_variable_given_twice_the_last_counts(spec: dict[str, Any], plan: Planner) -> None:
    spec["process"]["env"] = ["A=1", "B=2", "A=3=4", "HOME=/h"]
    assert arguments(plan(), "execute")["env"] == ["B=2", "A=3=4", "HOME=/h"]


@pytest.mark.parametrize("env", [[], ["HOME="]])
def test_home_is_looked_up_where_the_spec_has_none(spec: dict[str, Any], plan: Planner, env: list[str]) -> None:
    spec["process"]["env"] = env
    spec["process"]["user"]["uid"] = 7
    assert arguments(plan(), "home") == {"uid": 7}
    assert arguments(plan(), "execute")["env"] == []


def test_home_of_the_spec_stays(spec: dict[str, Any], plan: Planner) -> None:
    spec["process"]["env"] = ["HOME=/h"]
    assert not any(operation.name == "home" for operation in plan().operations)


def test_without_a_path_the_usual_directories_are_searched(spec: dict[str, Any], plan: Planner) -> None:
    spec["process"]["env"] = []
    assert arguments(plan(), "find_program")["path"].startswith("/usr/local/sbin:")


@pytest.mark.parametrize("entry", ["NAME", "=value", ""])
def test_a_variable_without_name_or_value_is_refused(spec: dict[str, Any], plan: Planner, entry: str) -> None:
    spec["process"]["env"] = ["A=1", entry]
    with pytest.raises(InvalidArgument, match=r"^process.env\[1\]: .* is not of the form NAME=value"):
        plan()


# -- scheduling --------------------------------------------------------------------------------------------------------------


def test_the_scheduler_is_numbered_as_the_kernel_does(spec: dict[str, Any], plan: Planner) -> None:
    spec["process"]["scheduler"] = {
        "policy": "SCHED_DEADLINE",
        "flags": ["SCHED_FLAG_RESET_ON_FORK", "SCHED_FLAG_DL_OVERRUN"],
        "runtime": 1,
        "deadline": 2,
        "period": 3,
    }
    assert arguments(plan(), "scheduler") == {
        "policy": 6,
        "flags": 5,
        "nice": 0,
        "priority": 0,
        "runtime": 1,
        "deadline": 2,
        "period": 3,
    }


def test_io_priority_is_packed_as_the_kernel_does(spec: dict[str, Any], plan: Planner) -> None:
    spec["process"]["ioPriority"] = {"class": "IOPRIO_CLASS_BE", "priority": 4}
    assert arguments(plan(), "io_priority") == {"value": 2 << 13 | 4}


def test_personality(spec: dict[str, Any], plan: Planner, plan_exec: Planner) -> None:
    spec["linux"]["personality"] = {"domain": "LINUX32", "flags": []}
    assert arguments(plan(), "personality") == {"value": 8}
    assert arguments(plan_exec(), "personality") == {"value": 8}


def test_memory_policy(spec: dict[str, Any], plan: Planner) -> None:
    spec["linux"]["memoryPolicy"] = {"mode": "MPOL_BIND", "nodes": "0-1,3", "flags": ["MPOL_F_STATIC_NODES"]}
    assert arguments(plan(), "memory_policy") == {"mode": 2 | 1 << 15, "nodes": [0, 1, 3]}


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("process.scheduler", {"policy": "SCHED_MOON"}, "process.scheduler.policy: 'SCHED_MOON' is none of"),
        ("process.scheduler", {"policy": "SCHED_RR", "flags": ["X"]}, r"process.scheduler.flags\[0\]: 'X' is none of"),
        ("process.ioPriority", {"class": "X"}, "process.ioPriority.class: 'X' is none of"),
        ("process.ioPriority", {"class": "IOPRIO_CLASS_RT", "priority": 8}, "process.ioPriority.priority: 8 is not"),
        ("process.rlimits", [{"type": "RLIMIT_X", "soft": 1, "hard": 1}], r"process.rlimits\[0\].type: invalid rlimit"),
        ("linux.personality", {"domain": "BSD"}, "linux.personality.domain: 'BSD' is none of"),
        ("linux.memoryPolicy", {"mode": "X"}, "linux.memoryPolicy.mode: invalid memory policy mode: 'X' is none of"),
        ("linux.memoryPolicy", {}, "linux.memoryPolicy.mode: invalid memory policy mode: '' is none of"),
        (
            "linux.memoryPolicy",
            {"mode": "MPOL_BIND", "flags": ["X"]},
            r"linux.memoryPolicy.flags\[0\]: invalid memory policy flag",
        ),
        ("linux.memoryPolicy", {"mode": "MPOL_BIND", "nodes": "x"}, "linux.memoryPolicy.nodes: 'x' is not a number"),
    ],
)
def test_unknown_values_are_refused(spec: dict[str, Any], plan: Planner, part: str, value: Any, message: str) -> None:
    section, field = part.split(".")
    spec[section][field] = value
    with pytest.raises(InvalidArgument, match=f"^{message}"):
        plan()


def test_no_new_keyring_holds_for_exec_too(plan_exec: Planner) -> None:
    assert not any(o.name == "keyring" for o in plan_exec(options=Options(no_new_keyring=True)).operations)
