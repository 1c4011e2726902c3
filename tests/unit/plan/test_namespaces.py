from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pysandbox.errors import InvalidArgument
from pysandbox.plan.host import Host
from pysandbox.plan.namespaces import enter, is_mapped, makes_network, read_namespaces

if TYPE_CHECKING:
    from collections.abc import Callable

    from pysandbox.plan.plan import Plan

    Planner = Callable[..., Plan]

MAPPED = {"uidMappings": [{"containerID": 0, "hostID": 1000, "size": 10}]}
MAPPED["gidMappings"] = MAPPED["uidMappings"]


def lines(linux: dict[str, Any]) -> list[str]:
    from pysandbox.plan.plan import Plan

    return Plan(operations=enter(read_namespaces(linux), linux)).describe()  # type: ignore[arg-type]


def test_joins_come_before_new_ones_and_the_user_namespace_last_of_them() -> None:
    namespaces = [{"type": "user", "path": "/u"}, {"type": "pid"}, {"type": "network", "path": "/n"}]
    assert lines({"namespaces": namespaces}) == [
        "join kind=network path=/n",
        "join kind=user path=/u",
        "become_root",
        'unshare kinds=["pid"]',
    ]


def test_a_new_user_namespace_owns_the_other_new_ones() -> None:
    namespaces = [{"type": "mount"}, {"type": "user"}, {"type": "time"}]
    assert lines({"namespaces": namespaces, **MAPPED}) == [
        'unshare kinds=["user"]',
        "stop name=id_maps",
        "become_root",
        'unshare kinds=["mount","time"]',
    ]


@pytest.mark.parametrize(
    ("namespaces", "made"),
    [
        ([{"type": "pid"}, {"type": "network"}], True),
        ([{"type": "network", "path": "/n"}], False),
        ([{"type": "pid"}], False),
        ([{"type": "network"}, {"type": "user"}], False),
        ([{"type": "network"}, {"type": "user", "path": "/u"}], False),
    ],
)
def test_a_network_namespace_of_the_callers_user_namespace_is_known_before_the_plan(
    namespaces: list[dict[str, str]], made: bool
) -> None:
    assert makes_network({"linux": {"namespaces": namespaces}}) is made  # type: ignore[typeddict-item]


def test_clocks_are_set_in_the_new_time_namespace() -> None:
    offsets = {"monotonic": {"secs": 7}, "boottime": {"secs": -1, "nanosecs": 5}}
    assert lines({"namespaces": [{"type": "time"}], "timeOffsets": offsets}) == [
        'unshare kinds=["time"]',
        'time_offsets offsets=[["monotonic",7,0],["boottime",-1,5]]',
    ]


def test_in_a_user_namespace_the_caller_sets_the_clocks(
    spec: dict[str, Any], plan: Planner, add_user_namespace: Callable[[], None]
) -> None:
    add_user_namespace()
    spec["linux"]["namespaces"].append({"type": "time"})
    spec["linux"]["timeOffsets"] = {"monotonic": {"secs": 7, "nanosecs": 1}}
    assert "stop name=time_offsets" in plan().describe()
    assert plan().time_offsets == "monotonic 7 1\n"


def test_offsets_need_a_new_time_namespace() -> None:
    with pytest.raises(InvalidArgument, match=r"^linux.timeOffsets: needs a new time namespace"):
        lines({"namespaces": [{"type": "time", "path": "/t"}], "timeOffsets": {"monotonic": {"secs": 1}}})


@pytest.mark.parametrize(
    ("namespaces", "message"),
    [
        ([{"type": "pid"}, {"type": "pid"}], r"^linux.namespaces\[1\].type: duplicated"),
        ([{"type": "moon"}], r"^linux.namespaces\[0\].type: namespace 'moon' does not exist"),
    ],
)
def test_unknown_and_repeated_kinds_are_refused(namespaces: list[dict[str, str]], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        read_namespaces({"namespaces": namespaces})  # type: ignore[typeddict-item]


@pytest.mark.parametrize("missing", ["uidMappings", "gidMappings"])
def test_root_of_a_new_user_namespace_must_exist_on_the_host(missing: str) -> None:
    linux = {"namespaces": [{"type": "user"}], **MAPPED, missing: [{"containerID": 1, "hostID": 1, "size": 5}]}
    with pytest.raises(InvalidArgument, match=f"^linux.{missing}: root of the container"):
        lines(linux)


def test_ids_are_mapped_from_the_first_to_the_last_of_a_range() -> None:
    assert [is_mapped([(5, 100, 3)], number) for number in (4, 5, 7, 8)] == [False, True, True, False]


def test_a_limit_that_must_rise_is_raised_before_the_user_namespace(
    plan: Planner, add_user_namespace: Callable[[], None]
) -> None:
    add_user_namespace()
    described = plan(host=Host(limits={7: (100, 200)})).describe()
    assert described.index("rlimit resource=7 soft=512 hard=1024") < described.index('unshare kinds=["user"]')
    assert described.count("rlimit resource=7 soft=512 hard=1024") == 2
    assert plan(host=Host(limits={7: (100, 4096)})).describe().count("rlimit resource=7 soft=512 hard=1024") == 1


def test_in_a_user_namespace_others_may_search_the_keyring(
    plan: Planner, add_user_namespace: Callable[[], None]
) -> None:
    add_user_namespace()
    assert "keyring name=_ses.box1 permission=0x8" in plan().describe()


def test_a_user_namespace_without_a_pid_namespace_writes_to_a_clone_of_the_host_s_procfs(
    spec: dict[str, Any], plan: Planner, add_user_namespace: Callable[[], None]
) -> None:
    add_user_namespace()
    spec["linux"]["sysctl"] = {"net.ipv4.ip_forward": "1"}
    assert "open_proc" in plan().describe()
    spec["linux"]["namespaces"] = [n for n in spec["linux"]["namespaces"] if n["type"] != "pid"]
    described = plan().describe()
    assert "open_proc" not in described
    assert described.index("open_tree slot=proc path=/proc") < described.index("clone")
