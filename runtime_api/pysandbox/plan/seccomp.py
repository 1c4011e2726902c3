"""A seccomp profile of the spec, compiled to BPF by libseccomp, as runc compiles it.

Names that libseccomp does not know are left out, and so are rules that repeat the default action. `flags` absent means
SPEC_ALLOW, as runc has had it since 1.2; an empty list means none. The prologue of `bpf.py` stands before the filter
unless the default action lets unknown calls through (ALLOW, LOG, TRACE) or answers ENOSYS by itself.

The filter is a binary tree, as runc's. A tree takes libseccomp twice as long as a chain of comparisons, once
(`pysandbox.filtercache`), and the kernel a quarter less, in every container: it runs the filter for each system call
there is when it is installed, to learn which ones are always allowed (Linux 5.11).

libseccomp is reached through ctypes by its exact soname: looking for libraries would start programs.
"""

from __future__ import annotations

import base64
import ctypes
import errno
import os

from pysandbox.errors import InvalidArgument
from pysandbox.plan.bpf import AUDIT_ARCH_X86_64, ENOSYS, enosys_prologue
from pysandbox.plan.filter import Filter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pysandbox.oci.types import Seccomp, SeccompArgument, SeccompRule

LIBRARY = "libseccomp.so.2"

# seccomp.h of libseccomp 2.5
__NR_SCMP_ERROR = -1
SCMP_FLTATR_CTL_OPTIMIZE, _BINARY_TREE = 8, 2
SCMP_ARCH_X32 = 0x4000003E
SCMP_ACT_ERRNO = 0x00050000
SCMP_ACT_TRACE = 0x7FF00000
SCMP_ACT_NOTIFY = 0x7FC00000
ACTIONS = {
    "SCMP_ACT_KILL": 0x00000000,
    "SCMP_ACT_KILL_THREAD": 0x00000000,
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
    "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_ERRNO": SCMP_ACT_ERRNO,
    "SCMP_ACT_NOTIFY": SCMP_ACT_NOTIFY,
    "SCMP_ACT_TRACE": SCMP_ACT_TRACE,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_ALLOW": 0x7FFF0000,
}
OPERATORS = {
    "SCMP_CMP_NE": 1,
    "SCMP_CMP_LT": 2,
    "SCMP_CMP_LE": 3,
    "SCMP_CMP_EQ": 4,
    "SCMP_CMP_GE": 5,
    "SCMP_CMP_GT": 6,
    "SCMP_CMP_MASKED_EQ": 7,
}
# seccomp(2). TSYNC means nothing to a process of one thread, and would forbid a listener: runc drops it, too.
FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": 0,
    "SECCOMP_FILTER_FLAG_LOG": 1 << 1,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 1 << 2,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": 1 << 5,
}
SECCOMP_FILTER_FLAG_NEW_LISTENER = 1 << 3
#: Actions that let a call through: no prologue is needed.
_PERMISSIVE = ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE")
_MAX_ERRNO = 0xFFFF
_MAX_INSTRUCTIONS = 4096  # BPF_MAXINSNS


class scmp_arg_cmp(ctypes.Structure):
    """One condition on an argument."""

    _fields_ = [
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("datum_a", ctypes.c_uint64),
        ("datum_b", ctypes.c_uint64),
    ]


_library: ctypes.CDLL | None = None


def _load() -> ctypes.CDLL:
    """Load libseccomp once. Raises InvalidArgument naming the package where it is missing."""
    global _library
    if _library is None:
        try:
            library = ctypes.CDLL(LIBRARY, use_errno=True)
        except OSError:
            raise InvalidArgument(
                f"linux.seccomp: {LIBRARY} is not installed (on Debian: apt install libseccomp2)"
            ) from None
        _declare(library)
        _library = library
    return _library


def _declare(library: ctypes.CDLL) -> None:
    """Say what the functions take: without it ctypes would cut pointers and 64-bit values."""
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_init.argtypes = [ctypes.c_uint32]
    library.seccomp_release.restype = None
    library.seccomp_release.argtypes = [ctypes.c_void_p]
    library.seccomp_arch_native.restype = ctypes.c_uint32
    library.seccomp_arch_native.argtypes = []
    library.seccomp_arch_resolve_name.restype = ctypes.c_uint32
    library.seccomp_arch_resolve_name.argtypes = [ctypes.c_char_p]
    library.seccomp_arch_add.restype = ctypes.c_int
    library.seccomp_arch_add.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
    library.seccomp_syscall_resolve_name.restype = ctypes.c_int
    library.seccomp_syscall_resolve_name.argtypes = [ctypes.c_char_p]
    library.seccomp_syscall_resolve_name_arch.restype = ctypes.c_int
    library.seccomp_syscall_resolve_name_arch.argtypes = [ctypes.c_uint32, ctypes.c_char_p]
    library.seccomp_rule_add_array.restype = ctypes.c_int
    library.seccomp_rule_add_array.argtypes = [
        ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.POINTER(scmp_arg_cmp),
    ]  # fmt: skip
    library.seccomp_attr_set.restype = ctypes.c_int
    library.seccomp_attr_set.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32]
    library.seccomp_export_bpf.restype = ctypes.c_int
    library.seccomp_export_bpf.argtypes = [ctypes.c_void_p, ctypes.c_int]


def compile_profile(profile: Seccomp) -> Filter | None:
    """Compile `linux.seccomp`; None where it does nothing at all (no default action and no rules, as runc has it).

    Raises InvalidArgument with the JSON path.
    """
    if not profile.get("defaultAction") and not profile.get("syscalls"):
        return None
    library = _load()
    default = _action(profile.get("defaultAction", ""), profile.get("defaultErrnoRet"), "linux.seccomp.defaultAction")
    rules = profile.get("syscalls") or []
    listener = _check_notify(profile, rules)
    architectures = _architectures(library, profile.get("architectures") or ())
    context = library.seccomp_init(default)
    if not context:
        raise InvalidArgument("linux.seccomp.defaultAction: this kernel or libseccomp does not support it")
    try:
        # Refused by a libseccomp before 2.5, whose filter is a chain then.
        library.seccomp_attr_set(context, SCMP_FLTATR_CTL_OPTIMIZE, _BINARY_TREE)
        ignored = _fill(library, context, architectures, default, rules)
        program = _export(library, context)
    finally:
        library.seccomp_release(context)
    program = _prologue(library, profile, architectures, rules) + program
    if len(program) > _MAX_INSTRUCTIONS * 8:
        raise InvalidArgument(f"linux.seccomp: the filter is longer than the kernel's {_MAX_INSTRUCTIONS} instructions")
    return Filter(
        program=base64.b64encode(program).decode(),
        flags=_flags(profile) | (SECCOMP_FILTER_FLAG_NEW_LISTENER if listener else 0),
        listener=listener,
        ignored=ignored,
    )


def _action(name: str, errno_ret: int | None, where: str) -> int:
    """Return the action with what it carries: EPERM for ERRNO and TRACE if nothing else is said."""
    if name not in ACTIONS:
        raise InvalidArgument(f"{where}: {name!r} is none of {', '.join(ACTIONS)}")
    action = ACTIONS[name]
    if name not in ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE"):
        return action
    value = errno.EPERM if errno_ret is None else errno_ret
    if not 0 <= value <= _MAX_ERRNO:
        raise InvalidArgument(f"{where}: {value} is no errno")
    return action | value


def _check_notify(profile: Seccomp, rules: Sequence[SeccompRule]) -> bool:
    """Say whether there is a listener, and refuse what would hang: init itself writes before the program runs."""
    if profile.get("defaultAction") == "SCMP_ACT_NOTIFY":
        raise InvalidArgument("linux.seccomp.defaultAction: SCMP_ACT_NOTIFY cannot be used as default action")
    notifying = [(index, rule) for index, rule in enumerate(rules) if rule["action"] == "SCMP_ACT_NOTIFY"]
    for index, rule in notifying:
        if "write" in rule["names"]:
            raise InvalidArgument(
                f"linux.seccomp.syscalls[{index}]: SCMP_ACT_NOTIFY cannot be used for the write syscall"
            )
    if notifying and not profile.get("listenerPath"):
        raise InvalidArgument("linux.seccomp.listenerPath: missing, and a rule has SCMP_ACT_NOTIFY")
    return bool(notifying)


def _flags(profile: Seccomp) -> int:
    names = profile.get("flags")
    if names is None:
        return FLAGS["SECCOMP_FILTER_FLAG_SPEC_ALLOW"]
    flags = 0
    for index, name in enumerate(names):
        if name not in FLAGS:
            raise InvalidArgument(f"linux.seccomp.flags[{index}]: {name!r} is none of {', '.join(FLAGS)}")
        flags |= FLAGS[name]
    return flags


def _architectures(library: ctypes.CDLL, names: Sequence[str]) -> list[int]:
    """Return libseccomp's tokens, the native one first: a filter always has it."""
    tokens = [library.seccomp_arch_native()]
    for index, name in enumerate(names):
        short = name.removeprefix("SCMP_ARCH_").lower()
        token = library.seccomp_arch_resolve_name(short.encode())
        if not token or not name.startswith("SCMP_ARCH_"):
            raise InvalidArgument(f"linux.seccomp.architectures[{index}]: {name!r} is not known to libseccomp")
        if token not in tokens:
            tokens.append(token)
    return tokens


def _fill(
    library: ctypes.CDLL, context: int, architectures: Sequence[int], default: int, rules: Sequence[SeccompRule]
) -> list[str]:
    """Add architectures and rules to a filter. Returns the names that libseccomp does not know."""
    for token in architectures[1:]:
        _check(library.seccomp_arch_add(context, token), "linux.seccomp.architectures")
    ignored = []
    for index, rule in enumerate(rules):
        where = f"linux.seccomp.syscalls[{index}]"
        action = _action(rule["action"], rule.get("errnoRet"), f"{where}.action")
        if action == default:
            continue
        conditions = _conditions(rule.get("args") or (), where)
        for name in rule["names"]:
            number = library.seccomp_syscall_resolve_name(name.encode())
            if number == __NR_SCMP_ERROR:
                ignored.append(name)
                continue
            for condition in conditions:
                result = library.seccomp_rule_add_array(context, action, number, len(condition or ()), condition)
                _check(result, f"{where}: {name}")
    return ignored


def _check(result: int, where: str) -> None:
    """Turn libseccomp's negative errno into an error. EEXIST: the same has been said before."""
    if result < 0 and result != -errno.EEXIST:
        raise InvalidArgument(f"{where}: libseccomp: {os.strerror(-result)}")


def _conditions(arguments: Sequence[SeccompArgument], where: str) -> Sequence[ctypes.Array[scmp_arg_cmp] | None]:
    """Return the condition arrays of a rule: all of them at once (and), or one by one (or) if two are on one argument.

    None stands for no condition. That libseccomp has no "and" on one argument is why runc does the latter.
    """
    if not arguments:
        return (None,)
    compared = [_condition(argument, f"{where}.args[{index}]") for index, argument in enumerate(arguments)]
    if len({argument["index"] for argument in arguments}) < len(arguments):
        return [(scmp_arg_cmp * 1)(one) for one in compared]
    return ((scmp_arg_cmp * len(compared))(*compared),)


def _condition(argument: SeccompArgument, where: str) -> scmp_arg_cmp:
    name = argument["op"]
    if name not in OPERATORS:
        raise InvalidArgument(f"{where}.op: {name!r} is none of {', '.join(OPERATORS)}")
    if not 0 <= argument["index"] <= 5:
        raise InvalidArgument(f"{where}.index: {argument['index']} is not between 0 and 5")
    return scmp_arg_cmp(argument["index"], OPERATORS[name], argument["value"], argument.get("valueTwo") or 0)


def _export(library: ctypes.CDLL, context: int) -> bytes:
    """Return the filter's BPF. libseccomp 2.5 writes it only to a descriptor."""
    descriptor = os.memfd_create("seccomp", os.MFD_CLOEXEC)
    try:
        _check(library.seccomp_export_bpf(context, descriptor), "linux.seccomp")
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0)
    finally:
        os.close(descriptor)


# -- the ENOSYS prologue -----------------------------------------------------------------------------------------------


def _prologue(
    library: ctypes.CDLL, profile: Seccomp, architectures: Sequence[int], rules: Sequence[SeccompRule]
) -> bytes:
    default = profile.get("defaultAction")
    if default in _PERMISSIVE or (default == "SCMP_ACT_ERRNO" and profile.get("defaultErrnoRet") == ENOSYS):
        return b""
    return enosys_prologue(_highest_numbers(library, architectures, {name for rule in rules for name in rule["names"]}))


def _highest_numbers(
    library: ctypes.CDLL, architectures: Sequence[int], names: set[str]
) -> Mapping[int, Mapping[bool, int]]:
    """Return the highest system call number among `names`, by AUDIT_ARCH_* and by whether it is x32's."""
    encoded = [name.encode() for name in names]
    resolve = library.seccomp_syscall_resolve_name_arch
    highest: dict[int, dict[bool, int]] = {}
    for token in architectures:
        # Negative: a call of another architecture only, or an unknown one.
        number = max((resolve(token, name) for name in encoded), default=-1)
        if number <= 0:
            continue
        x32 = token == SCMP_ARCH_X32
        highest.setdefault(AUDIT_ARCH_X86_64 if x32 else token, {})[x32] = number
    return highest
