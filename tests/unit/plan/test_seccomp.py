"""Profiles compiled to BPF, run by a small machine of ours, and by the kernel."""

from __future__ import annotations

import base64
import ctypes
import errno
import os
import platform
import struct
from typing import TYPE_CHECKING, Any

import pytest

from pysandbox.errors import InvalidArgument
from pysandbox.plan import seccomp
from pysandbox.plan.bpf import AUDIT_ARCH_S390X, AUDIT_ARCH_X86_64, X32_SYSCALL_BIT, enosys_prologue
from pysandbox.plan.seccomp import compile_profile

if TYPE_CHECKING:
    from collections.abc import Callable

    from pysandbox.plan.plan import Plan

AUDIT_ARCH_I386 = 0x40000003
AUDIT_ARCH_AARCH64 = 0xC00000B7
ALLOW, KILL, LOG = 0x7FFF0000, 0, 0x7FFC0000
EPERM, ENOSYS = 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS
FELL_THROUGH = -1

# x86_64 system call numbers
READ, WRITE, PERSONALITY, SOCKET, CLONE3, FACCESSAT2, FCHMODAT2 = 0, 1, 135, 41, 435, 439, 452

native = pytest.mark.skipif(platform.machine() != "x86_64", reason="system call numbers of x86_64")


def run(program: bytes, number: int, arch: int = AUDIT_ARCH_X86_64, args: tuple[int, ...] = ()) -> int:
    """Run classic BPF over struct seccomp_data and return what it returns; FELL_THROUGH past the last instruction."""
    data = struct.pack("=iIQ6Q", number - (number >> 31 << 32), arch, 0, *args, *[0] * (6 - len(args)))
    instructions = list(struct.iter_unpack("=HBBI", program))
    accumulator, counter = 0, 0
    while counter < len(instructions):
        code, jump_true, jump_false, operand = instructions[counter]
        counter += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, operand)
        elif code == 0x54:
            accumulator &= operand
        elif code == 0x05:
            counter += operand
        elif code == 0x06:
            return operand
        else:
            tests: dict[int, Callable[[int, int], bool]] = {
                0x15: lambda a, k: a == k,
                0x25: lambda a, k: a > k,
                0x35: lambda a, k: a >= k,
                0x45: lambda a, k: bool(a & k),
            }
            counter += jump_true if tests[code](accumulator, operand) else jump_false
    assert counter == len(instructions), "a jump led out of the program"
    return FELL_THROUGH


def compiled(*rules: dict[str, Any], **profile: Any) -> bytes:
    made = compile_profile({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": list(rules), **profile})  # type: ignore[typeddict-item]
    assert made is not None
    return base64.b64decode(made.program)


def allow(*names: str, **rule: Any) -> dict[str, Any]:
    return {"names": list(names), "action": "SCMP_ACT_ALLOW", **rule}


# -- the ENOSYS prologue ---------------------------------------------------------------------------------------------------


def test_numbers_above_the_highest_get_enosys_and_others_fall_through() -> None:
    prologue = enosys_prologue({AUDIT_ARCH_AARCH64: {False: 100}})
    assert [run(prologue, number, AUDIT_ARCH_AARCH64) for number in (0, 100, 101)] == [
        FELL_THROUGH,
        FELL_THROUGH,
        ENOSYS,
    ]


def test_other_architectures_fall_through() -> None:
    prologue = enosys_prologue({AUDIT_ARCH_AARCH64: {False: 100}})
    assert run(prologue, 5000, AUDIT_ARCH_I386) == FELL_THROUGH


def test_each_architecture_has_its_own_highest() -> None:
    prologue = enosys_prologue(
        {AUDIT_ARCH_X86_64: {False: 10, True: X32_SYSCALL_BIT | 20}, AUDIT_ARCH_I386: {False: 30}, 1: {False: 40}}
    )
    for arch, bit, highest in (
        (AUDIT_ARCH_X86_64, 0, 10),
        (AUDIT_ARCH_X86_64, X32_SYSCALL_BIT, 20),
        (AUDIT_ARCH_I386, 0, 30),
        (1, 0, 40),
    ):
        assert run(prologue, bit | highest, arch) == FELL_THROUGH, (arch, bit)
        assert run(prologue, bit | (highest + 1), arch) == ENOSYS, (arch, bit)


def test_x32_is_left_to_the_filter_where_only_x86_64_is_listed() -> None:
    prologue = enosys_prologue({AUDIT_ARCH_X86_64: {False: 10}})
    assert run(prologue, X32_SYSCALL_BIT | 500) == FELL_THROUGH
    assert run(prologue, 11) == ENOSYS
    assert run(enosys_prologue({AUDIT_ARCH_X86_64: {True: X32_SYSCALL_BIT | 10}}), 500) == FELL_THROUGH


def test_s390_s_unknown_calls_arrive_as_number_0() -> None:
    prologue = enosys_prologue({AUDIT_ARCH_S390X: {False: 300}})
    assert [run(prologue, number, AUDIT_ARCH_S390X) for number in (0, 1, 300, 301)] == [
        ENOSYS,
        FELL_THROUGH,
        FELL_THROUGH,
        ENOSYS,
    ]


def test_there_is_no_prologue_for_nothing() -> None:
    assert enosys_prologue({}) == b""


# -- profiles ----------------------------------------------------------------------------------------------------------------


@native
def test_what_is_listed_is_allowed_and_the_rest_denied() -> None:
    program = compiled(allow("read", "clone3"))
    assert [run(program, number) for number in (READ, WRITE, CLONE3)] == [ALLOW, EPERM, ALLOW]


@native
def test_calls_newer_than_the_profile_do_not_exist() -> None:
    """Without this, glibc takes the EPERM of clone3 for an answer and cannot make threads."""
    program = compiled(allow("read", "personality"))
    assert run(program, PERSONALITY - 1) == EPERM
    assert run(program, PERSONALITY + 1) == ENOSYS
    assert run(program, CLONE3) == ENOSYS


@native
def test_a_call_that_libseccomp_does_not_know_is_left_out_and_said_so() -> None:
    profile = {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [allow("read", "no_such_call")]}
    made = compile_profile(profile)  # type: ignore[arg-type]
    assert made is not None
    assert made.ignored == ["no_such_call"]
    assert run(base64.b64decode(made.program), READ) == ALLOW


@native
def test_fchmodat2_is_either_allowed_or_does_not_exist_but_never_denied() -> None:
    """libseccomp 2.5.4 does not know it, later ones do; musl and glibc fall back at ENOSYS only."""
    known = seccomp._load().seccomp_syscall_resolve_name(b"fchmodat2") == FCHMODAT2
    assert run(compiled(allow("read", "faccessat2", "fchmodat2")), FCHMODAT2) == (ALLOW if known else ENOSYS)


@native
@pytest.mark.parametrize("action", ["SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE"])
def test_a_permissive_default_answers_for_new_calls_itself(action: str) -> None:
    rule = {"names": ["read"], "action": "SCMP_ACT_ERRNO"}
    program = compiled(rule, defaultAction=action)
    expected = {"SCMP_ACT_ALLOW": ALLOW, "SCMP_ACT_LOG": LOG, "SCMP_ACT_TRACE": 0x7FF00000 | errno.EPERM}[action]
    assert [run(program, number) for number in (READ, 4000)] == [EPERM, expected]


@native
@pytest.mark.parametrize("action", ["SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_TRAP"])
def test_a_deadly_default_spares_new_calls(action: str) -> None:
    program = compiled(allow("read", "write"), defaultAction=action)
    assert [run(program, number) for number in (READ, WRITE, 4000)] == [ALLOW, ALLOW, ENOSYS]


@native
def test_errnos_of_the_profile_are_used() -> None:
    rule = {"names": ["read"], "action": "SCMP_ACT_ERRNO", "errnoRet": 99}
    program = compiled(rule, allow("clone3"), defaultErrnoRet=13)
    assert [run(program, number) for number in (READ, WRITE, CLONE3)] == [0x50000 | 99, 0x50000 | 13, ALLOW]
    assert run(compiled(allow("read"), defaultErrnoRet=errno.ENOSYS), WRITE) == ENOSYS


@native
@pytest.mark.parametrize(
    ("operator", "value", "two", "passing", "failing"),
    [
        ("SCMP_CMP_EQ", 5, 0, 5, 6),
        ("SCMP_CMP_NE", 5, 0, 6, 5),
        ("SCMP_CMP_LT", 5, 0, 4, 5),
        ("SCMP_CMP_LE", 5, 0, 5, 6),
        ("SCMP_CMP_GT", 5, 0, 6, 5),
        ("SCMP_CMP_GE", 5, 0, 5, 4),
        ("SCMP_CMP_MASKED_EQ", 0xF0, 0x50, 0x5A, 0x6A),
        ("SCMP_CMP_EQ", 2**63 + 1, 0, 2**63 + 1, 1),
    ],
)
def test_arguments_are_compared(operator: str, value: int, two: int, passing: int, failing: int) -> None:
    argument = {"index": 1, "op": operator, "value": value, "valueTwo": two}
    program = compiled(allow("socket", "clone3"), allow("personality", args=[argument]))
    assert run(program, PERSONALITY, args=(0, passing)) == ALLOW
    assert run(program, PERSONALITY, args=(0, failing)) == EPERM


@native
def test_conditions_on_different_arguments_must_all_hold_and_on_one_argument_any() -> None:
    def equal(index: int, value: int) -> dict[str, Any]:
        return {"index": index, "op": "SCMP_CMP_EQ", "value": value}

    both = compiled(allow("personality", args=[equal(0, 1), equal(1, 2)]), allow("clone3"))
    assert [run(both, PERSONALITY, args=pair) for pair in ((1, 2), (1, 3))] == [ALLOW, EPERM]
    either = compiled(allow("personality", args=[equal(0, 1), equal(0, 8)]), allow("clone3"))
    assert [run(either, PERSONALITY, args=(first,)) for first in (1, 8, 2)] == [ALLOW, ALLOW, EPERM]


@native
def test_listed_architectures_are_filtered_and_others_killed() -> None:
    listed = compiled(allow("read", "clone3"), architectures=["SCMP_ARCH_X86", "SCMP_ARCH_X32"])
    assert run(listed, READ) == ALLOW  # the native one is always there
    assert run(listed, 3, AUDIT_ARCH_I386) == ALLOW  # read is 3 on i386
    assert run(listed, 4, AUDIT_ARCH_I386) == EPERM
    assert run(listed, CLONE3 + 1, AUDIT_ARCH_I386) == ENOSYS
    assert run(listed, X32_SYSCALL_BIT | READ) == ALLOW
    assert run(listed, X32_SYSCALL_BIT | WRITE) == EPERM
    unlisted = compiled(allow("read", "clone3"))
    assert run(unlisted, 3, AUDIT_ARCH_I386) == KILL
    assert run(unlisted, X32_SYSCALL_BIT | READ) == KILL


def test_a_rule_that_repeats_the_default_is_left_out() -> None:
    assert compiled({"names": ["read"], "action": "SCMP_ACT_ERRNO"}, allow("clone3")) == compiled(
        allow("clone3"), {"names": ["read"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.EPERM}
    )


def test_a_rule_said_twice_is_no_error() -> None:
    assert compiled(allow("clone3"), allow("clone3")) == compiled(allow("clone3"))


def test_an_empty_profile_does_nothing() -> None:
    assert compile_profile({}) is None
    assert compile_profile({"syscalls": []}) is None


@pytest.mark.parametrize(
    ("flags", "value"),
    [
        (None, 4),
        ([], 0),
        (["SECCOMP_FILTER_FLAG_LOG"], 2),
        (["SECCOMP_FILTER_FLAG_TSYNC"], 0),
        (["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"], 6),
        (["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"], 32),
    ],
)
def test_flags(flags: list[str] | None, value: int) -> None:
    profile: dict[str, Any] = {"defaultAction": "SCMP_ACT_ALLOW"}
    if flags is not None:
        profile["flags"] = flags
    made = compile_profile(profile)  # type: ignore[arg-type]
    assert made is not None
    assert (made.flags, made.listener) == (value, False)


def test_a_rule_that_notifies_gives_a_listener() -> None:
    rule = {"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}
    made = compile_profile({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule], "listenerPath": "/run/agent"})  # type: ignore[list-item]
    assert made is not None
    assert (made.flags, made.listener) == (4 | 8, True)


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        ({"defaultAction": "SCMP_ACT_X"}, "defaultAction: 'SCMP_ACT_X' is none of"),
        ({"syscalls": [allow("read")]}, "defaultAction: '' is none of"),
        ({"defaultAction": "SCMP_ACT_NOTIFY"}, "defaultAction: SCMP_ACT_NOTIFY cannot be used as default action"),
        ({"syscalls": [{"names": ["read"], "action": "X"}]}, r"syscalls\[0\].action: 'X' is none of"),
        ({"syscalls": [{"names": ["write"], "action": "SCMP_ACT_NOTIFY"}]}, r"syscalls\[0\]: .* for the write syscall"),
        ({"syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}]}, "listenerPath: missing"),
        ({"architectures": ["SCMP_ARCH_MOON"]}, r"architectures\[0\]: 'SCMP_ARCH_MOON' is not known to libseccomp"),
        ({"architectures": ["x86_64"]}, r"architectures\[0\]: 'x86_64' is not known"),
        ({"flags": ["X"]}, r"flags\[0\]: 'X' is none of"),
        ({"defaultErrnoRet": 70000}, "defaultAction: 70000 is no errno"),
        (
            {"syscalls": [allow("read", args=[{"index": 6, "op": "SCMP_CMP_EQ", "value": 1}])]},
            r"syscalls\[0\].args\[0\].index: 6",
        ),
        (
            {"syscalls": [allow("read", args=[{"index": 0, "op": "X", "value": 1}])]},
            r"syscalls\[0\].args\[0\].op: 'X' is none of",
        ),
    ],
)
def test_bad_profiles_are_refused_by_their_path(profile: dict[str, Any], message: str) -> None:
    default = {} if "syscalls" in profile and "''" in message else {"defaultAction": "SCMP_ACT_ERRNO"}
    with pytest.raises(InvalidArgument, match=rf"^linux.seccomp.{message}"):
        compile_profile({**default, **profile})  # type: ignore[typeddict-item]


def test_a_host_without_libseccomp_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seccomp, "_library", None)
    monkeypatch.setattr(seccomp, "LIBRARY", "libseccomp-that-is-not.so.2")
    with pytest.raises(InvalidArgument, match=r"^linux.seccomp: .* is not installed .*apt install libseccomp2"):
        compile_profile({"defaultAction": "SCMP_ACT_ERRNO"})


# -- in a plan and in the kernel ---------------------------------------------------------------------------------------------


def test_the_plan_says_what_debugging_looks_for(spec: dict[str, Any], plan: Callable[..., Plan]) -> None:
    spec["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [allow("no_such_call")]}
    assert plan().debug == ["unknown seccomp syscall 'no_such_call' ignored", "seccomp filter flags: 4"]


def test_the_log_names_the_calls_that_were_left_out_once(spec: dict[str, Any], plan: Callable[..., Plan]) -> None:
    rules = [allow("no_such_call"), allow("read", "other_call", "no_such_call")]
    spec["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": rules}
    assert plan().warnings == [
        "linux.seccomp.syscalls: libseccomp does not know, so left out: no_such_call, other_call"
    ]


class sock_fprog(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


def errnos_under(program: bytes, *numbers: int) -> list[int]:
    """Fork, load the program, make each system call, and return the errnos (0: it went through)."""
    libc = ctypes.CDLL(None, use_errno=True)
    code = ctypes.create_string_buffer(program)
    fprog = sock_fprog(len(program) // 8, ctypes.addressof(code))
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        results = [255]
        if libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, ctypes.byref(fprog), 0, 0) == 0:
            results = [ctypes.get_errno() if libc.syscall(n, -1, 0, 0, 0, 0) < 0 else 0 for n in numbers]
        os.write(write, bytes(results))
        os._exit(0)
    os.close(write)
    os.waitpid(pid, 0)
    with open(read, "rb") as pipe:
        return list(pipe.read())


@native
def test_the_kernel_agrees() -> None:
    """A profile that names calls up to faccessat2 and denies chdir, with everything a Python child needs."""
    usual = ["read", "write", "close", "exit_group", "munmap", "mmap", "brk", "futex", "rt_sigaction", "madvise"]
    program = compiled(allow(*usual, "mprotect", "faccessat2"), architectures=["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"])
    chdir, close = 80, 3
    assert errnos_under(program, chdir, close, FACCESSAT2 + 1, FCHMODAT2) == [
        errno.EPERM,
        errno.EBADF,
        errno.ENOSYS,
        errno.ENOSYS,
    ]
