"""System calls younger than the profile answer ENOSYS, so that libc falls back; what the profile leaves out is denied."""

from __future__ import annotations

import errno
import re
from pathlib import Path

import pytest
from harness.bundle import Bundle
from harness.program import Compiler
from harness.runtime import Runtime

HEADERS = [
    "/usr/include/x86_64-linux-gnu/asm/unistd_64.h",
    "/usr/include/aarch64-linux-gnu/asm/unistd_64.h",
    "/usr/include/asm-generic/unistd.h",
]
PIDFD_OPEN, CLONE3, FCHMODAT2, SWAPON = 434, 435, 452, {"x86_64": 167}


def known_system_calls(up_to: int) -> list[str]:
    """Names of the system calls of this machine, the highest number included."""
    header = next(path for path in HEADERS if Path(path).exists())
    found = re.findall(r"#define __NR_(\w+)\s+(\d+)", Path(header).read_text())
    return [name for name, number in found if int(number) <= up_to]


def profile(names: list[str]) -> dict[str, object]:
    """Everything in `names` is allowed, all else EPERM."""
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": errno.EPERM,
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [{"names": names, "action": "SCMP_ACT_ALLOW"}],
    }


def errnos(out: str) -> dict[int, int]:
    """What each system call answered."""
    return {int(line.split()[0]): int(line.split()[1]) for line in out.splitlines()}


def test_calls_younger_than_the_profile_do_not_exist_for_the_container(
    runtime: Runtime, bundle: Bundle, compiler: Compiler
) -> None:
    program = bundle.install(compiler.program("syscalls"))
    allowed = [name for name in known_system_calls(PIDFD_OPEN) if name != "swapon"]
    bundle.linux["seccomp"] = profile(allowed)
    numbers = [str(CLONE3), str(FCHMODAT2), "167"]

    answer = runtime.run(bundle.runs(program, *numbers))

    assert errnos(answer.out) == {CLONE3: errno.ENOSYS, FCHMODAT2: errno.ENOSYS, 167: errno.EPERM}, answer


def test_without_a_profile_the_same_calls_reach_the_kernel(
    runtime: Runtime, bundle: Bundle, compiler: Compiler
) -> None:
    """The control: it is the profile that hides them."""
    program = bundle.install(compiler.program("syscalls"))

    answer = runtime.run(bundle.runs(program, str(CLONE3)))

    assert errnos(answer.out)[CLONE3] not in (errno.ENOSYS, errno.EPERM), answer


def test_a_profile_may_answer_a_call_as_it_likes(runtime: Runtime, bundle: Bundle, compiler: Compiler) -> None:
    """docker's profile: clone3 is ENOSYS by a rule of its own, though younger calls are known."""
    program = bundle.install(compiler.program("syscalls"))
    seccomp = profile([name for name in known_system_calls(439) if name != "clone3"])
    rules = seccomp["syscalls"]
    assert isinstance(rules, list)
    rules.append({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.ENOSYS})
    bundle.linux["seccomp"] = seccomp

    answer = runtime.run(bundle.runs(program, str(CLONE3), str(FCHMODAT2)))

    assert errnos(answer.out) == {CLONE3: errno.ENOSYS, FCHMODAT2: errno.ENOSYS}, answer


def test_a_name_that_nobody_knows_is_no_reason_to_fail(runtime: Runtime, bundle: Bundle) -> None:
    bundle.linux["seccomp"] = profile([*known_system_calls(PIDFD_OPEN), "frobnicate_the_kernel"])

    assert runtime.run(bundle).code == 0


def test_the_filter_is_on_for_init_and_exec(runtime: Runtime, bundle: Bundle) -> None:
    bundle.linux["seccomp"] = profile(known_system_calls(FCHMODAT2))
    bundle.script("grep Seccomp: /proc/self/status > /tmp/seen; sleep 1000")

    with runtime.running(bundle) as container:
        inside = runtime.exec(container, "/bin/sh", "-c", "until test -s /tmp/seen; do :; done; cat /tmp/seen")
        execed = runtime.exec(container, "/bin/grep", "Seccomp:", "/proc/self/status")

    assert inside.out.split() == execed.out.split() == ["Seccomp:", "2"], (inside, execed)


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"defaultAction": "SCMP_ACT_MAYBE"}, "linux.seccomp.defaultAction"),
        ({"architectures": ["SCMP_ARCH_PDP11"]}, "linux.seccomp.architectures[0]"),
        ({"flags": ["SECCOMP_FILTER_FLAG_NO"]}, "linux.seccomp.flags[0]"),
        ({"defaultErrnoRet": -1}, "linux.seccomp.defaultErrnoRet"),
        ({"syscalls": [{"names": ["read"], "action": "SCMP_ACT_LET"}]}, "linux.seccomp.syscalls[0].action"),
        ({"syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 6, "value": 1, "op": "SCMP_CMP_EQ"}]}]}, "linux.seccomp.syscalls[0].args[0].index"),
        ({"syscalls": [{"names": [], "action": "SCMP_ACT_ALLOW"}]}, "linux.seccomp.syscalls[0].names"),
    ],
)  # fmt: skip
def test_a_profile_that_cannot_be_enforced_is_refused_with_its_path(
    runtime: Runtime, bundle: Bundle, change: dict[str, object], path: str
) -> None:
    bundle.linux["seccomp"] = {**profile(["read"]), **change}

    runtime.run(bundle).assert_one_clear_line(path)
