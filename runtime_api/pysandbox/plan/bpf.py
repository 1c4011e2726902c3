"""Classic BPF as seccomp(2) takes it: a few instructions by name, and the prologue that answers ENOSYS.

A profile denies what it does not list, usually with EPERM. A C library that tries a new system call and gets EPERM
takes it for an answer; at ENOSYS it falls back (glibc with clone3). So, as runc does, a call whose number is above the
highest one that the profile names gets ENOSYS: the profile's author cannot have known it.
"""

from __future__ import annotations

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

# include/uapi/linux/bpf_common.h
BPF_LD_W_ABS = 0x20
BPF_JMP_JA = 0x05
BPF_JMP_JEQ_K = 0x15
BPF_JMP_JGT_K = 0x25
BPF_JMP_JSET_K = 0x45
BPF_RET_K = 0x06

SECCOMP_RET_ERRNO = 0x00050000
ENOSYS = 38

#: Offsets in struct seccomp_data.
_NR, _ARCH = 0, 4
AUDIT_ARCH_X86_64 = 0xC000003E
AUDIT_ARCH_S390 = 0x00000016
AUDIT_ARCH_S390X = 0x80000016
#: Set in the number of every x32 system call.
X32_SYSCALL_BIT = 0x40000000

_Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, operand


def assemble(instructions: list[_Instruction]) -> bytes:
    """Return struct sock_filter[] in this machine's byte order."""
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions)


def enosys_prologue(highest: Mapping[int, Mapping[bool, int]]) -> bytes:
    """Return what stands before the filter.

    `highest` maps AUDIT_ARCH_* to the highest system call number that the profile names, by whether it is x32's. A
    number above it gets ENOSYS; everything else falls through to the filter, which begins after the prologue's end.
    """
    sections = [_section(arch, numbers) for arch, numbers in highest.items() if numbers]
    if not sections:
        return b""
    program: list[_Instruction] = [(BPF_LD_W_ABS, 0, 0, _ARCH)]
    rest = sum(len(section) for section in sections)
    for section in sections:
        rest -= len(section)
        # The last instruction of a section leaves for the filter: over all sections that follow.
        program += [*section[:-1], (BPF_JMP_JA, 0, 0, rest)]
    return assemble(program)


def _section(arch: int, numbers: Mapping[bool, int]) -> list[_Instruction]:
    if arch == AUDIT_ARCH_X86_64:
        body = _x86_64(numbers)
    else:
        body = _single(arch, numbers[False])
    # Another architecture: over this section, to the next one or the filter. A section is far below 255 instructions.
    return [(BPF_JMP_JEQ_K, 0, len(body), arch), *body]


def _single(arch: int, highest: int) -> list[_Instruction]:
    multiplexed: list[_Instruction] = []
    if arch in (AUDIT_ARCH_S390, AUDIT_ARCH_S390X):
        # A number that the s390 kernel does not know arrives as 0, setup(2), which has been dead for decades.
        multiplexed = [(BPF_JMP_JEQ_K, 1, 0, 0)]
    return [
        (BPF_LD_W_ABS, 0, 0, _NR),
        *multiplexed,
        (BPF_JMP_JGT_K, 0, 1, highest),
        (BPF_RET_K, 0, 0, SECCOMP_RET_ERRNO | ENOSYS),
        (BPF_JMP_JA, 0, 0, 0),
    ]


def _x86_64(numbers: Mapping[bool, int]) -> list[_Instruction]:
    """Tell x86_64 from x32 by its bit. The one that the profile does not list goes to the filter, which refuses it."""
    never = 0xFFFFFFFF  # no number is above this
    return [
        (BPF_LD_W_ABS, 0, 0, _NR),
        (BPF_JMP_JSET_K, 1, 0, X32_SYSCALL_BIT),
        (BPF_JMP_JGT_K, 1, 2, numbers.get(False, never)),
        (BPF_JMP_JGT_K, 0, 1, numbers.get(True, never)),
        (BPF_RET_K, 0, 0, SECCOMP_RET_ERRNO | ENOSYS),
        (BPF_JMP_JA, 0, 0, 0),
    ]
