"""What a seccomp profile may say."""

from __future__ import annotations

from pysandbox.oci.schema import Array, Bad, Choice, Integer, Object, Strings, string, uint64

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pysandbox.oci.types import Seccomp, SeccompRule

ACTIONS = frozenset(
    "SCMP_ACT_" + name for name in "ALLOW ERRNO KILL KILL_PROCESS KILL_THREAD LOG NOTIFY TRACE TRAP".split()
)
OPERATORS = frozenset("SCMP_CMP_" + name for name in "NE LT LE EQ GE GT MASKED_EQ".split())
ARCHITECTURES = frozenset(
    "SCMP_ARCH_" + name
    for name in (
        "X86 X86_64 X32 ARM AARCH64 LOONGARCH64 M68K MIPS MIPS64 MIPS64N32 MIPSEL MIPSEL64 MIPSEL64N32 PARISC PARISC64"
        " PPC PPC64 PPC64LE RISCV64 S390 S390X SH SHEB"
    ).split()
)
FLAGS = frozenset("SECCOMP_FILTER_FLAG_" + name for name in ("TSYNC", "LOG", "SPEC_ALLOW", "WAIT_KILLABLE_RECV"))

#: The two actions that carry a number to the program or the tracer.
_WITH_ERRNO = ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE")
#: MAX_ERRNO of the kernel: seccomp(2) caps larger ones silently.
_MAX_ERRNO = 4095

_action = Choice("seccomp action", ACTIONS)


def _default_action(value: Any) -> None:
    string(value)
    if value:  # an empty one, without syscalls, means no seccomp
        _action(value)


def _names(value: Any) -> None:
    Strings(least=1)(value)
    if "" in value:
        raise Bad("must not be empty", value.index(""))


def _check_errno(action: str, errno: int | None, key: str) -> None:
    if errno is None:
        return
    if action not in _WITH_ERRNO:
        raise Bad(f"{action} does not return an errno", key)
    if action == "SCMP_ACT_ERRNO" and errno > _MAX_ERRNO:
        raise Bad(f"must be from 0 to {_MAX_ERRNO}, not {errno}", key)


def _syscall(rule: SeccompRule) -> None:
    action = rule["action"]
    _check_errno(action, rule.get("errnoRet"), "errnoRet")
    if action == "SCMP_ACT_NOTIFY" and "write" in rule["names"]:
        # Init writes the listener's number to the report socket after the filter is on.
        raise Bad("SCMP_ACT_NOTIFY cannot be used for the write syscall", "names", rule["names"].index("write"))


def _profile(seccomp: Seccomp) -> None:
    default, rules = seccomp.get("defaultAction", ""), seccomp.get("syscalls", [])
    if not default:
        if rules:
            raise Bad("is required", "defaultAction")
        return
    if default == "SCMP_ACT_NOTIFY":
        raise Bad("SCMP_ACT_NOTIFY cannot be used as default action", "defaultAction")
    _check_errno(default, seccomp.get("defaultErrnoRet"), "defaultErrnoRet")
    _check_listener(seccomp, notifies=any(rule["action"] == "SCMP_ACT_NOTIFY" for rule in rules))


def _check_listener(seccomp: Seccomp, *, notifies: bool) -> None:
    if seccomp.get("listenerPath"):
        return
    if notifies:
        raise Bad("seccomp listenerPath is not set, but an action is SCMP_ACT_NOTIFY", "listenerPath")
    if seccomp.get("listenerMetadata"):
        raise Bad("must not be set without listenerPath", "listenerMetadata")


#: The shape of `linux.seccomp`.
SECCOMP = Object(
    {
        "defaultAction": _default_action,
        "defaultErrnoRet": Integer(0, 65535),
        "architectures": Array(Choice("seccomp architecture", ARCHITECTURES)),
        "flags": Array(Choice("seccomp flag", FLAGS)),
        "listenerPath": string,
        "listenerMetadata": string,
        "syscalls": Array(
            Object(
                {
                    "names": _names,
                    "action": _action,
                    "errnoRet": Integer(0, 65535),
                    "args": Array(
                        Object(
                            {
                                "index": Integer(0, 5),
                                "value": uint64,
                                "valueTwo": uint64,
                                "op": Choice("seccomp operator", OPERATORS),
                            },
                            ("index", "value", "op"),
                        )
                    ),
                },
                ("names", "action"),
                rule=_syscall,
            )
        ),
    },
    rule=_profile,
)
