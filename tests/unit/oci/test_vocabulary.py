"""Names and numbers: capabilities, mount options, signals, users, and the documents that are made of them."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from precondition import requires
from unit.oci.full_spec import full_spec

from pysandbox.backend import Features
from pysandbox.errors import InvalidArgument
from pysandbox.oci.capabilities import CAPABILITIES
from pysandbox.oci.explain import explain
from pysandbox.oci.features import features_document, treatment
from pysandbox.oci.linux_rules import sysctl_path
from pysandbox.oci.mountoptions import (
    MOUNT_ATTR__ATIME,
    MOUNT_ATTR_NOATIME,
    MOUNT_ATTR_RDONLY,
    MOUNT_OPTIONS,
    MS_BIND,
    MS_RDONLY,
    MS_REC,
    MS_SLAVE,
    is_bind,
    parse_mount_options,
)
from pysandbox.oci.signals import SIGNALS, parse_signal
from pysandbox.oci.user import parse_gid, parse_user
from pysandbox.oci.validate import SPEC

FEATURES = Features(
    fields={"process": "enforced", "linux": "enforced", "mounts": "guest", "linux.intelRdt": "refused"},
    annotations={"org.example": "x"},
)


def test_capabilities_have_the_kernels_numbers() -> None:
    header = Path("/usr/include/linux/capability.h")
    if not header.exists():
        pytest.skip("needs the kernel's headers")
    words = [line.split() for line in header.read_text().splitlines() if line.startswith("#define CAP_")]
    numbers = {line[1]: int(line[2]) for line in words if len(line) > 2 and line[2].isdigit()}

    assert numbers.items() >= CAPABILITIES.items()
    assert len(CAPABILITIES) == 41
    assert CAPABILITIES["CAP_CHECKPOINT_RESTORE"] == 40


def test_all_mount_options_of_runc_are_known() -> None:
    requires("command runc")
    known = json.loads(subprocess.run(["runc", "features"], check=True, capture_output=True).stdout)["mountOptions"]

    # runc 1.1.5 lists acl and noacl, which it never passed on rightly and which later versions dropped.
    assert set(known) - {"acl", "noacl"} <= set(MOUNT_OPTIONS)


def test_options_add_up_from_left_to_right() -> None:
    parsed = parse_mount_options(
        ["rbind", "ro", "nosuid", "rw", "rslave", "size=1m", "rro", "tmpcopyup", "sync", "huge"]
    )

    assert parsed.bind
    assert parsed.recursive
    assert parsed.set_flags & (MS_BIND | MS_REC | MS_RDONLY) == MS_BIND | MS_REC
    assert parsed.clear_flags == MS_RDONLY
    assert parsed.set_attributes & MOUNT_ATTR_RDONLY == 0
    assert parsed.clear_attributes & MOUNT_ATTR_RDONLY
    assert parsed.set_recursive == MOUNT_ATTR_RDONLY
    assert parsed.propagation == [MS_SLAVE | MS_REC]
    assert parsed.extensions == {"tmpcopyup"}
    assert parsed.superblock == ["ro", "rw", "sync"]
    assert parsed.data == ["size=1m", "huge"]


@pytest.mark.parametrize("name", [name for name in MOUNT_OPTIONS if "atime" in name and "dir" not in name])
def test_an_access_time_is_set_only_with_the_whole_field_cleared(name: str) -> None:
    # mount_setattr(2): EINVAL otherwise.
    option = MOUNT_OPTIONS[name]

    for chosen, cleared in (
        (option.set_attributes, option.clear_attributes),
        (option.set_recursive, option.clear_recursive),
    ):
        assert not chosen & MOUNT_ATTR__ATIME or cleared == MOUNT_ATTR__ATIME
        assert cleared in {0, MOUNT_ATTR__ATIME}
    assert MOUNT_OPTIONS["noatime"].set_attributes == MOUNT_ATTR_NOATIME


@pytest.mark.parametrize(
    ("mount", "answer"),
    [
        ({"type": "bind"}, True),
        ({"options": ["rbind"]}, True),
        ({"type": "tmpfs", "options": ["bind"]}, True),
        ({"type": "tmpfs", "options": ["ro"]}, False),
        ({}, False),
    ],
)
def test_a_bind_mount_is_known_by_option_or_type(mount: Any, answer: bool) -> None:
    assert is_bind({"destination": "/x", **mount}) is answer


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("net.core.somaxconn", "net/core/somaxconn"),
        ("net/core/somaxconn", "net/core/somaxconn"),
        ("net.ipv4.conf.eth0/1.rp_filter", "net/ipv4/conf/eth0.1/rp_filter"),
        ("net/ipv4/conf/eth0.1/rp_filter", "net/ipv4/conf/eth0.1/rp_filter"),
    ],
)
def test_a_sysctl_has_one_path_however_it_is_written(key: str, path: str) -> None:
    assert sysctl_path(key) == path


# -- signals and users -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("KILL", 9), ("SIGKILL", 9), ("sigkill", 9), ("9", 9), ("0", 0), ("TERM", 15), ("RTMIN", 34), ("SIGRTMIN+3", 37),
        ("RTMAX-1", 63), ("64", 64), ("SIGWINCH", 28), ("09", 9),
    ],
)  # fmt: skip
def test_a_signal_is_a_name_or_a_number(text: str, number: int) -> None:
    assert parse_signal(text) == number


@pytest.mark.parametrize(
    "text",
    ["FOO", "", "SIG", "65", "-1", "+9", " 9", "9 ", "0x9", "KILL ", "SIGSIGKILL", "RTMIN-1", "RTMIN+31", "RTMAX+1",
     "RTMIN+", "RTMIN1", "RTMAX-31", "\u0669", "9" * 5000, "K\0ILL", "1.0"],
)  # fmt: skip
def test_anything_else_is_no_signal(text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"^unknown signal "):
        parse_signal(text)


def test_signals_have_this_machines_numbers() -> None:
    ours = {f"SIG{name}": number for name, number in SIGNALS.items()}
    theirs = {name: int(number) for name, number in signal.Signals.__members__.items() if "RT" not in name}

    assert theirs.items() <= ours.items()


@pytest.mark.parametrize(
    ("text", "user"),
    [("0", (0, None)), ("1", (1, None)), ("01", (1, None)), ("1:0", (1, 0)), ("1000:100", (1000, 100)),
     ("4294967294:4294967294", (4294967294, 4294967294))],
)  # fmt: skip
def test_a_user_is_exactly_what_was_said(text: str, user: tuple[int, int | None]) -> None:
    assert parse_user(text) == user


@pytest.mark.parametrize(
    "text",
    ["", ":", "+1", " 1", "1 ", "0x1", "1:", ":1", "1:2:3", "4294967295", "4294967296", "0:4294967295", "-1", "root",
     "root:root", "1.0", "1_0", "\u0661", "1\n", "99999999999", "0" * 11, "1:-1"],
)  # fmt: skip
def test_anything_else_is_no_user(text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"^invalid user "):
        parse_user(text)
    if ":" not in text:
        with pytest.raises(InvalidArgument, match=r"^invalid group id "):
            parse_gid(text)


# -- features and explain --------------------------------------------------------------------------------------------


def test_the_longest_pattern_decides() -> None:
    fields = {"linux": "enforced", "linux.seccomp": "guest", "linux.seccomp.flags": "refused"}

    assert treatment(fields, "linux.seccomp.flags") == "refused"
    assert treatment(fields, "linux.seccomp.syscalls") == "guest"
    assert treatment(fields, "linux.seccompX") == "enforced"
    assert treatment(fields, "root.path") == "ignored"
    assert treatment(fields, "hooks.poststop") == "enforced"


def test_the_features_document_has_what_runcs_has() -> None:
    requires("command runc")
    runc = json.loads(subprocess.run(["runc", "features"], check=True, capture_output=True).stdout)

    ours = features_document(FEATURES)

    assert runc.keys() <= ours.keys()
    assert runc["linux"].keys() <= ours["linux"].keys()
    assert ours["hooks"] == runc["hooks"]
    assert ours["linux"]["capabilities"] == runc["linux"]["capabilities"]
    assert ours["linux"]["seccomp"]["actions"] == runc["linux"]["seccomp"]["actions"]
    assert ours["linux"]["seccomp"]["operators"] == runc["linux"]["seccomp"]["operators"]
    assert set(runc["linux"]["seccomp"]["archs"]) <= set(ours["linux"]["seccomp"]["archs"])
    assert ours["annotations"]["org.example"] == "x"
    json.dumps(ours)


def test_the_features_document_says_what_the_backend_does() -> None:
    linux = features_document(FEATURES)["linux"]

    assert linux["intelRdt"] == {"enabled": False}
    assert linux["netDevices"] == {"enabled": True}
    assert linux["mountExtensions"] == {"idmap": {"enabled": True}}
    assert set(linux["seccomp"]["supportedFlags"]) <= set(linux["seccomp"]["knownFlags"])


def test_explain_has_a_row_for_each_field_that_is_there() -> None:
    spec: Any = {**full_spec(), "windows": {}, "novelty": 1}
    spec["process"]["new"] = 1

    rows = {row.path: row.treatments["b"] for row in explain(spec, {"b": FEATURES})}

    assert rows["process.args"] == "enforced"
    assert rows["mounts.options"] == "guest"
    assert rows["linux.resources.memory.limit"] == "enforced"
    assert rows["root.readonly"] == "ignored"
    assert rows["windows"] == "ignored"
    assert rows["novelty"] == rows["process.new"] == "unknown"
    assert rows["annotations"] == rows["hooks.poststop.path"] == "enforced"
    assert next(iter(rows)) == "ociVersion"


def test_every_section_of_the_schema_is_explained() -> None:
    rows = [row.path for row in explain(full_spec(), {"b": FEATURES})]  # type: ignore[arg-type]

    assert {path.partition(".")[0] for path in rows} == set(SPEC.fields)
