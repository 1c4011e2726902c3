from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pysandbox.plan import operation as op
from pysandbox.plan.plan import Plan

if TYPE_CHECKING:
    from pysandbox.plan.operation import Operation


def describe(operation: Operation) -> str:
    return Plan(operations=[operation]).describe()[0]


def test_a_plan_is_versioned_json_with_one_object_for_each_operation() -> None:
    plan = Plan(operations=[op.stop("ready"), op.clone()], trace=True)
    assert json.loads(plan.to_json()) == {
        "version": 1,
        "trace": True,
        "operations": [{"op": "stop", "name": "ready"}, {"op": "clone", "into_cgroup": False}],
    }


def test_an_operation_may_have_an_argument_called_name() -> None:
    assert op.keyring("_ses.box").arguments["name"] == "_ses.box"


def test_masks_are_described_by_their_kernel_names() -> None:
    assert describe(op.set_attributes("a", set=0x3, clear=0x74, propagation=1 << 19)) == (
        "set_attributes slot=a set=MOUNT_ATTR_RDONLY|MOUNT_ATTR_NOSUID clear=MOUNT_ATTR_NODEV|MOUNT_ATTR__ATIME "
        "propagation=MS_SLAVE"
    )
    assert describe(op.root_propagation(1 << 18 | 16384)) == "root_propagation flags=MS_REC|MS_PRIVATE"
    assert describe(op.seccomp("QUFBQUFBQUE=", 4)).endswith("flags=SECCOMP_FILTER_FLAG_SPEC_ALLOW")


def test_bits_without_a_name_are_described_as_numbers() -> None:
    assert describe(op.set_attributes("a", set=1 << 40)) == "set_attributes slot=a set=0x10000000000"


def test_modes_are_described_in_octal() -> None:
    assert describe(op.make_directory("/a", 0o1777)) == "make_directory path=/a mode=1777"
    assert describe(op.umask(0o22)) == "umask value=0022"


def test_what_is_off_is_not_described_but_dumpable_is() -> None:
    assert describe(op.clone()) == "clone"
    assert describe(op.dumpable(False)) == "dumpable value=false"
    assert describe(op.own_stdio(0)) == "own_stdio uid=0"
