"""Users, groups and capabilities are exactly those of the spec; a number that the kernel would wrap is refused."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness.bundle import Bundle
from harness.host import Canary
from harness.runtime import Runtime

NOT_AN_ID = [4294967295, 4294967296, -1, 1.0, True, "0", 2**63, 2**64, [0]]
VFS_CAP_REVISION_2 = 0x02000000
VFS_CAP_FLAGS_EFFECTIVE = 0x000001
CAP_NET_RAW = 13


def status(out: str) -> dict[str, str]:
    """/proc/self/status as a dictionary."""
    return {key: value.strip() for key, _, value in (line.partition(":") for line in out.splitlines())}


@pytest.mark.parametrize("value", NOT_AN_ID, ids=repr)
@pytest.mark.parametrize("field", ["uid", "gid"])
def test_an_impossible_id_is_refused_with_its_path(runtime: Runtime, bundle: Bundle, field: str, value: object) -> None:
    """CVE-2024-40635: setresuid(4294967295) succeeds, and changes nothing."""
    bundle.process["user"][field] = value

    runtime.run(bundle.runs("/bin/id")).assert_one_clear_line(f"process.user.{field}")


@pytest.mark.parametrize("value", NOT_AN_ID, ids=repr)
def test_an_impossible_group_is_refused_with_its_path(runtime: Runtime, bundle: Bundle, value: object) -> None:
    bundle.process["user"]["additionalGids"] = [5, value]

    runtime.run(bundle.runs("/bin/id")).assert_one_clear_line("process.user.additionalGids[1]")


def test_the_highest_id_works(runtime: Runtime, bundle: Bundle) -> None:
    bundle.process["user"] = {"uid": 4294967294, "gid": 4294967294}

    found = status(runtime.run(bundle.runs("/bin/cat", "/proc/self/status")).out)

    assert found["Uid"].split() == ["4294967294"] * 4
    assert found["Gid"].split() == ["4294967294"] * 4


EXEC_USERS: list[tuple[str, tuple[int, int] | None]] = [
    ("1", (1, 7)), ("1:2", (1, 2)), ("0", (0, 7)), ("4294967294:0", (4294967294, 0)),
    (" 1", None), ("0x1", None), ("1:", None), (":1", None), ("1:2:3", None), ("1 ", None), ("1:x", None),
    ("4294967295", None), ("4294967296", None), ("1:4294967295", None), ("1:4294967296", None),
    ("-1", None), ("1:-1", None), ("root", None), ("\N{ARABIC-INDIC DIGIT ONE}", None), ("1_0", None), ("1\n", None),
]  # fmt: skip


@pytest.mark.parametrize(("user", "expected"), EXEC_USERS, ids=[repr(user) for user, _ in EXEC_USERS])
def test_exec_runs_as_exactly_that_user_or_not_at_all(
    runtime: Runtime, bundle: Bundle, user: str, expected: tuple[int, int] | None
) -> None:
    """CVE-2026-30892: `-u 1` read as 0:0. Without a group it is the container's own, as under runc."""
    bundle.process["user"] = {"uid": 5, "gid": 7}

    with runtime.running(bundle.runs("/bin/sleep", "1000")) as container:
        answer = runtime.exec(container, "/bin/cat", "/proc/self/status", options=["--user", user])

    if expected is None:
        assert answer.refused, answer
        assert "Traceback" not in answer.err
    else:
        found = status(answer.out)
        assert (found["Uid"].split(), found["Gid"].split()) == ([str(expected[0])] * 4, [str(expected[1])] * 4)


@pytest.mark.parametrize("user", ["01", "+1"])
def test_an_odd_spelling_of_a_user_never_means_root(runtime: Runtime, bundle: Bundle, user: str) -> None:
    with runtime.running(bundle.runs("/bin/sleep", "1000")) as container:
        answer = runtime.exec(container, "/bin/cat", "/proc/self/status", options=["--user", user])

    assert answer.refused or status(answer.out)["Uid"].split() == ["1"] * 4, answer


def exec_user_of_four_billion(runtime: Runtime, bundle: Bundle, canary: Canary) -> None:
    """The attack that runc 1.1.5 takes: a user number that does not fit into uid_t."""
    with runtime.running(bundle.runs("/bin/sleep", "1000")) as container:
        assert runtime.exec(container, "/bin/true", options=["--user", "4294967296"]).refused


def test_exec_as_a_user_that_does_not_exist_fails_on_runc_1_1_5(runc: Runtime, succeeds: Callable[..., None]) -> None:
    succeeds(exec_user_of_four_billion, runc)


@pytest.mark.parametrize("groups", [[], [5], [5, 6, 7], [0, 4294967294]])
def test_supplementary_groups_are_exactly_those_of_the_spec(
    runtime: Runtime, bundle: Bundle, groups: list[int]
) -> None:
    """CVE-2022-36109, CVE-2023-25173. The image's /etc/group must not add any."""
    (bundle.rootfs / "etc/group").write_text("wheel:x:10:user\nuser:x:1000:\n")
    bundle.process["user"] = {"uid": 1000, "gid": 1000, "additionalGids": groups}

    with runtime.running(bundle.script("cat /proc/self/status > /tmp/status; sleep 1000")) as container:
        inside = runtime.exec(container, "/bin/sh", "-c", "until test -s /tmp/status; do :; done; cat /tmp/status")
        execed = runtime.exec(container, "/bin/cat", "/proc/self/status")

    for answer in (inside, execed):
        assert sorted(status(answer.out)["Groups"].split(), key=int) == sorted(map(str, groups), key=int), answer


def test_no_capability_is_inheritable_unless_the_spec_says_so(runtime: Runtime, bundle: Bundle) -> None:
    """CVE-2022-29162 (init), GHSA-c9cp-9c75-9v8c."""
    found = status(runtime.run(bundle.runs("/bin/cat", "/proc/self/status")).out)

    assert (int(found["CapInh"], 16), int(found["CapAmb"], 16)) == (0, 0)


@pytest.mark.parametrize(
    "options", [[], ["--cap", "CAP_SYS_PTRACE"], ["--user", "1000"], ["--user", "1000", "--cap", "CAP_NET_RAW"]]
)
def test_exec_makes_no_capability_inheritable(runtime: Runtime, bundle: Bundle, options: list[str]) -> None:
    with runtime.running(bundle.runs("/bin/sleep", "1000")) as container:
        answer = runtime.exec(container, "/bin/cat", "/proc/self/status", options=options)

    found = status(answer.out)
    assert (int(found["CapInh"], 16), int(found["CapAmb"], 16)) == (0, 0), answer


def with_inheritable_file_capability(program: Path) -> None:
    """`setcap cap_net_raw+ei`: worth something only to a process that has it in its inheritable set."""
    value = struct.pack("<IIIII", VFS_CAP_REVISION_2 | VFS_CAP_FLAGS_EFFECTIVE, 0, 1 << CAP_NET_RAW, 0, 0)
    os.setxattr(program, "security.capability", value)


def test_a_program_with_inheritable_capabilities_gains_none(runtime: Runtime, bundle: Bundle) -> None:
    copy = bundle.rootfs / "bin/busybox.gain"
    copy.write_bytes((bundle.rootfs / "bin/busybox").read_bytes())
    copy.chmod(0o755)
    with_inheritable_file_capability(copy)
    bundle.process["user"] = {"uid": 1000, "gid": 1000}
    bundle.process["noNewPrivileges"] = False

    found = status(runtime.run(bundle.runs("/bin/busybox.gain", "cat", "/proc/self/status")).out)

    assert int(found["CapEff"], 16) == int(found["CapPrm"], 16) == 0


def test_no_new_privileges_holds_against_a_setuid_program(runtime: Runtime, bundle: Bundle) -> None:
    copy = bundle.rootfs / "bin/busybox.suid"
    copy.write_bytes((bundle.rootfs / "bin/busybox").read_bytes())
    copy.chmod(0o4755)
    bundle.process["user"] = {"uid": 1000, "gid": 1000}

    with runtime.running(bundle.runs("/bin/sleep", "1000")) as container:
        found = status(runtime.exec(container, "/bin/busybox.suid", "cat", "/proc/self/status").out)

    assert found["Uid"].split() == ["1000"] * 4
    assert found["NoNewPrivs"] == "1"


def test_etc_passwd_that_never_ends_delays_nothing(runtime: Runtime, bundle: Bundle) -> None:
    """CVE-2026-47262, CVE-2025-4437: whoever reads it needs a limit."""
    passwd = bundle.rootfs / "etc/passwd"
    passwd.unlink()
    passwd.symlink_to("/dev/zero")

    answer = runtime.run(bundle, limit=20)

    assert answer.code == 0 or answer.refused, answer
    assert answer.seconds < 10


def fifo(path: Path) -> None:
    os.mkfifo(path)


def sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 4 << 30)


def endless_line(path: Path) -> None:
    path.write_text("root:x:0:0:" + "a" * (2 << 20))


@pytest.mark.parametrize("make", [fifo, sparse, endless_line])
@pytest.mark.parametrize("name", ["passwd", "group"])
def test_users_of_an_image_are_read_with_a_limit_if_at_all(
    runtime: Runtime, bundle: Bundle, name: str, make: Callable[[Path], Any]
) -> None:
    file = bundle.rootfs / "etc" / name
    file.unlink()
    make(file)
    bundle.process["env"] = ["PATH=/bin"]

    answer = runtime.run(bundle, limit=20)

    assert answer.code == 0 or answer.refused, answer
    assert answer.seconds < 10


def etc_passwd_is_a_fifo(runtime: Runtime, bundle: Bundle, canary: Canary) -> None:
    """Whoever opens it waits for a writer that never comes."""
    (bundle.rootfs / "etc/passwd").unlink()
    os.mkfifo(bundle.rootfs / "etc/passwd")
    assert runtime.run(bundle, limit=5).code >= 0


def test_a_fifo_as_etc_passwd_fails_on_runc_1_1_5(runc: Runtime, succeeds: Callable[..., None]) -> None:
    succeeds(etc_passwd_is_a_fifo, runc)
