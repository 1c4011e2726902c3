"""The table of what a guest and its host do with each field of config.json is true: every field of the schema is tried.

As for the namespaces backend, a field is changed in a spec that says something in every field, and what is done must
change with it: the guest's plan and limits, what is shared, the machine's size, what limits it on the host, what the
front end does. One that is refused is refused with its path, one that is ignored is told.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
from unit.namespaces.test_features import FIELDS, base, changed, hooks_run

from pysandbox.backend import ExecRequest, Options, Stdio
from pysandbox.cgroup.layout import parse_layout
from pysandbox.cgroup.placement import open_cgroup
from pysandbox.cgroup.resources import usage_problem
from pysandbox.errors import InvalidArgument
from pysandbox.lifecycle import _first_record, state_document
from pysandbox.oci.bundle import Bundle
from pysandbox.oci.features import treatment
from pysandbox.oci.validate import validate, warnings
from pysandbox_microvm.arguments import kernel_parameters
from pysandbox_microvm.creation import _network_path
from pysandbox_microvm.features import FEATURES
from pysandbox_microvm.place import Place
from pysandbox_microvm.planning import host_resources, plan_exec, plan_init, said_in_vain
from pysandbox_microvm.size import size_of
from pysandbox_microvm.tree import host_tree

Spec = dict[str, Any]

TREATMENTS = {path: treatment(FEATURES.fields, path) for path in FIELDS}
MOUNTINFO = "1 0 0:1 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
SETTINGS = {"kernel_parameters": ["quiet"], "max_vcpus": 8, "max_memory": 65536}
#: What the kernel of a guest has not, and what cannot leave a host: the spec says nothing of it, unless it is tried.
REFUSED_HERE = (
    "process.apparmorProfile",
    "process.selinuxLabel",
    "linux.mountLabel",
    "linux.seccomp.listenerPath",
    "linux.seccomp.listenerMetadata",
)


def of(kind: str) -> list[str]:
    return [path for path, treated in TREATMENTS.items() if treated == kind]


def possible(spec: Spec, path: str) -> Spec:
    """The spec without what is refused whatever the field; of another machine's namespaces it joins none."""
    spec = copy.deepcopy(spec)
    for refused in REFUSED_HERE:
        if refused != path:
            *way, name = refused.split(".")
            node: Any = spec
            for key in way:
                node = node.get(key, {})
            node.pop(name, None)
    seccomp = spec["linux"]["seccomp"]
    for rule in seccomp["syscalls"]:
        rule["action"] = rule["action"].replace("SCMP_ACT_NOTIFY", "SCMP_ACT_KILL")
    for namespace in spec["linux"]["namespaces"]:
        if namespace["type"] != "network" and path != "linux.namespaces.path":
            namespace.pop("path", None)
    return spec


def done_with(spec: Spec, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Everything that this spec leads to, as far as it can be seen without doing it."""
    spec = copy.deepcopy(spec)
    given: Any = spec
    resources = spec["linux"]["resources"]
    record = _first_record("c", Bundle("/b", given, "/b/rootfs"), "microvm", "/run/x")
    plan = plan_init("/b", given, "c", Options(), {}, Place())
    request = ExecRequest(exec_id="e", process=spec["process"], stdio=Stdio())
    tree = host_tree(given, "/b")
    return {
        "guest": plan.document(),
        "exec": plan_exec(request, "/b", "c", given, Place()).documents(),
        "host": host_resources(resources, 1 << 28),
        "update": usage_problem(resources["memory"], 2**40),
        "shared": (tree.opened, tree.attached, tree.read_only_root),
        "size": size_of(given, SETTINGS),
        "kernel": kernel_parameters(given, SETTINGS),
        "network": (_network_path(given), spec["linux"]["netDevices"]),
        "cgroup": open_cgroup(spec["linux"]["cgroupsPath"], "c", layout=parse_layout(MOUNTINFO, "0::/\n")).paths(),
        "state": state_document(record, "created", 1),
        "hooks": (hooks_run(spec, monkeypatch), spec["hooks"]["createContainer"]),
    }


def done_or_refused(spec: Spec, monkeypatch: pytest.MonkeyPatch) -> Any:
    try:
        validate(spec)
        return done_with(spec, monkeypatch)
    except InvalidArgument as refused:
        return refused


def test_every_pattern_of_the_table_names_a_field() -> None:
    for pattern in FEATURES.fields:
        assert any(f"{path}.".startswith(f"{pattern}.") for path in FIELDS), pattern


@pytest.mark.parametrize("path", of("enforced") + of("guest"))
def test_a_field_that_counts_changes_what_is_done(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before, after = possible(base(path), path), possible(changed(path), path)
    validate(before)
    validate(after)

    assert done_or_refused(after, monkeypatch) != done_with(before, monkeypatch)


@pytest.mark.parametrize("path", of("refused"))
def test_a_field_that_is_refused_is_named(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = possible(changed(path), path)

    assert str(done_or_refused(spec, monkeypatch)).startswith(path.rpartition(".")[0])


@pytest.mark.parametrize("path", of("ignored"))
def test_a_field_that_is_ignored_changes_nothing_and_is_told(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before, after = possible(base(path), path), possible(changed(path), path)
    validate(after)
    given: Any = after
    told = [line.partition(":")[0] for line in warnings(given)] + said_in_vain(given)

    assert done_with(after, monkeypatch) == done_with(before, monkeypatch)
    assert any(f"{path}.".startswith(f"{place}.") for place in told), told
