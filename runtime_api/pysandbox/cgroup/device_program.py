"""The device rules of v2: a small eBPF program, made here and attached to the cgroup.

The kernel runs it on every open(2) and mknod(2) of a device node with a `struct bpf_cgroup_dev_ctx`: access and type
in one word, then major and minor. It answers 1 (allowed) or 0 (EPERM).

Sources: linux/bpf.h, bpf(2), the kernel's bpf/standardization/instruction-set.rst; BPF_F_REPLACE is Linux 5.6.
"""

from __future__ import annotations

import os

from pysandbox.cgroup.devices import ALL, ANY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pysandbox.cgroup.devices import Policy

# The following constants are spelled as in linux/bpf.h and linux/bpf_common.h.
BPF_PROG_LOAD = 5
BPF_PROG_ATTACH = 8
BPF_PROG_DETACH = 9
BPF_PROG_GET_FD_BY_ID = 13
BPF_PROG_QUERY = 16
BPF_PROG_TYPE_CGROUP_DEVICE = 15
BPF_CGROUP_DEVICE = 6
BPF_F_ALLOW_MULTI = 1 << 1
BPF_F_REPLACE = 1 << 2
BPF_DEVCG_ACC_MKNOD = 1
BPF_DEVCG_ACC_READ = 2
BPF_DEVCG_ACC_WRITE = 4
BPF_DEVCG_DEV_BLOCK = 1
BPF_DEVCG_DEV_CHAR = 2
BPF_LDX_MEM_W = 0x61
BPF_ALU32_AND_K = 0x54
BPF_ALU32_RSH_K = 0x74
BPF_ALU32_MOV_X = 0xBC
BPF_ALU64_MOV_K = 0xB7
BPF_JMP_JNE_K = 0x55
BPF_JMP_JEQ_K = 0x15
BPF_JMP_JNE_X = 0x5D
BPF_EXIT = 0x95

#: system call numbers of bpf(2)
_NR_BPF = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "ppc64le": 361}

#: The name the kernel shows for the program, by which it is found again (at most 15 bytes).
PROGRAM_NAME = b"pysandbox_dev"

_ACCESS = {"m": BPF_DEVCG_ACC_MKNOD, "r": BPF_DEVCG_ACC_READ, "w": BPF_DEVCG_ACC_WRITE}
_TYPE = {"b": BPF_DEVCG_DEV_BLOCK, "c": BPF_DEVCG_DEV_CHAR}

#: How many programs the kernel allows on one cgroup (BPF_CGROUP_MAX_PROGS).
_MAX_PROGRAMS = 64


def instruction(code: int, dst: int = 0, src: int = 0, offset: int = 0, immediate: int = 0) -> bytes:
    """Return one `struct bpf_insn` in this machine's byte order, which is little-endian."""
    import struct

    return struct.pack("=BBhI", code, dst | src << 4, offset, immediate)


def device_program(policy: Policy) -> bytes:
    """Return the program of a policy: 8 bytes an instruction, five at the start, at most eight per exception, two last.

    r2: type, r3: access, r4: major, r5: minor, as asked for; r1 is free after the start.
    """
    start = [
        instruction(BPF_LDX_MEM_W, 2, 1, 0),
        instruction(BPF_ALU32_MOV_X, 3, 2),
        instruction(BPF_ALU32_AND_K, 2, immediate=0xFFFF),
        instruction(BPF_ALU32_RSH_K, 3, immediate=16),
        instruction(BPF_LDX_MEM_W, 4, 1, 4),
        instruction(BPF_LDX_MEM_W, 5, 1, 8),
    ]
    blocks = [_exception(device, access, default=policy.allow) for device, access in policy.exceptions.items()]
    return b"".join([*start, *blocks, _answer(allow=policy.allow)])


def _exception(device: tuple[str, int, int], access: str, *, default: bool) -> bytes:
    """Return the test for one exception. It falls through to its answer, or jumps behind it."""
    kind, major, minor = device
    tests: list[tuple[int, int, int, int]] = [(BPF_JMP_JNE_K, 2, 0, _TYPE[kind])]
    for register, value in ((4, major), (5, minor)):
        if value != ANY:
            tests.append((BPF_JMP_JNE_K, register, 0, value))
    mask = sum(_ACCESS[letter] for letter in access)
    compute: list[bytes] = []
    if access != ALL:
        compute = [instruction(BPF_ALU32_MOV_X, 1, 3), instruction(BPF_ALU32_AND_K, 1, immediate=mask)]
        # An allowing exception must cover all that is asked for, a denying one matches when it covers any of it.
        tests.append((BPF_JMP_JEQ_K, 1, 0, 0) if default else (BPF_JMP_JNE_X, 1, 3, 0))
    return _assemble(tests, compute, _answer(allow=not default))


def _assemble(tests: list[tuple[int, int, int, int]], compute: list[bytes], answer: bytes) -> bytes:
    """Put `compute` before the last test when there is one, and let every test jump behind the answer."""
    lines: list[bytes | tuple[int, int, int, int]] = list(tests)
    if compute:
        lines[-1:-1] = compute
    total = len(lines) + len(answer) // 8
    out = []
    for index, line in enumerate(lines):
        if isinstance(line, bytes):
            out.append(line)
        else:
            code, dst, src, immediate = line
            out.append(instruction(code, dst, src, total - index - 1, immediate))
    return b"".join([*out, answer])


def _answer(*, allow: bool) -> bytes:
    return instruction(BPF_ALU64_MOV_K, 0, immediate=int(allow)) + instruction(BPF_EXIT)


def attach_device_program(path: str, policy: Policy) -> None:
    """Make the policy count for a cgroup of v2, in place of the one this project attached before.

    Other programs (systemd's) stay: with BPF_F_ALLOW_MULTI an access must pass them all. Replacing is one step, so a
    running container never sees a moment without rules, nor one in which its own devices are denied.
    """
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        old = _attached(directory)
        program = _load(device_program(policy))
        try:
            flags = BPF_F_ALLOW_MULTI | (BPF_F_REPLACE if old else 0)
            _attach(directory, program, flags, old[0] if old else 0)
            for extra in old[1:]:
                _detach(directory, extra)
        finally:
            os.close(program)
            for descriptor in old:
                os.close(descriptor)
    finally:
        os.close(directory)


def _load(instructions: bytes) -> int:
    import ctypes

    code = ctypes.create_string_buffer(instructions, len(instructions))
    licence = ctypes.create_string_buffer(b"Apache-2.0")
    attribute = _Attribute()
    attribute.u32(0, BPF_PROG_TYPE_CGROUP_DEVICE)
    attribute.u32(4, len(instructions) // 8)
    attribute.u64(8, ctypes.addressof(code))
    attribute.u64(16, ctypes.addressof(licence))
    attribute.bytes(48, PROGRAM_NAME)
    attribute.u32(68, BPF_CGROUP_DEVICE)
    return attribute.call(BPF_PROG_LOAD, "load the device program")


def _attach(directory: int, program: int, flags: int, replaced: int) -> None:
    attribute = _Attribute()
    for offset, value in ((0, directory), (4, program), (8, BPF_CGROUP_DEVICE), (12, flags), (16, replaced)):
        attribute.u32(offset, value)
    attribute.call(BPF_PROG_ATTACH, "attach the device program")


def _detach(directory: int, program: int) -> None:
    attribute = _Attribute()
    for offset, value in ((0, directory), (4, program), (8, BPF_CGROUP_DEVICE)):
        attribute.u32(offset, value)
    attribute.call(BPF_PROG_DETACH, "detach the old device program")


def _attached(directory: int) -> list[int]:
    """Return descriptors of this project's programs on a cgroup, known by their name."""
    return [descriptor for number in program_ids(directory) if (descriptor := _ours(number)) is not None]


def program_ids(directory: int) -> list[int]:
    """Return the ids of all device programs attached to an open cgroup directory itself."""
    import ctypes

    ids = (ctypes.c_uint32 * _MAX_PROGRAMS)()
    attribute = _Attribute()
    attribute.u32(0, directory)
    attribute.u32(4, BPF_CGROUP_DEVICE)
    attribute.u64(16, ctypes.addressof(ids))
    attribute.u32(24, _MAX_PROGRAMS)
    attribute.call(BPF_PROG_QUERY, "query the device programs")
    return list(ids[: attribute.read_u32(24)])


def _ours(number: int) -> int | None:
    attribute = _Attribute()
    attribute.u32(0, number)
    try:
        descriptor = attribute.call(BPF_PROG_GET_FD_BY_ID, "open a device program")
    except FileNotFoundError:
        return None  # detached meanwhile
    if program_name(descriptor) == PROGRAM_NAME:
        return descriptor
    os.close(descriptor)
    return None


def program_name(descriptor: int) -> bytes:
    """Return the name of a loaded program (`struct bpf_prog_info.name`)."""
    import ctypes

    BPF_OBJ_GET_INFO_BY_FD = 15
    info = ctypes.create_string_buffer(80)
    attribute = _Attribute()
    attribute.u32(0, descriptor)
    attribute.u32(4, len(info))
    attribute.u64(8, ctypes.addressof(info))
    attribute.call(BPF_OBJ_GET_INFO_BY_FD, "read about a device program")
    return info.raw[64:80].rstrip(b"\0")


class _Attribute:
    """A `union bpf_attr`, filled in by offset: its members differ for each command."""

    def __init__(self) -> None:
        self._buffer = bytearray(128)

    def u32(self, offset: int, value: int) -> None:
        self.bytes(offset, value.to_bytes(4, "little"))

    def u64(self, offset: int, value: int) -> None:
        self.bytes(offset, value.to_bytes(8, "little"))

    def bytes(self, offset: int, value: bytes) -> None:
        self._buffer[offset : offset + len(value)] = value

    def read_u32(self, offset: int) -> int:
        return int.from_bytes(self._buffer[offset : offset + 4], "little")

    def call(self, command: int, what: str) -> int:
        """Do bpf(2). Raises OSError with `what` in its text."""
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)
        libc.syscall.restype = ctypes.c_long
        result: int = libc.syscall(
            ctypes.c_long(_NR_BPF[os.uname().machine]),
            ctypes.c_int(command),
            (ctypes.c_char * len(self._buffer)).from_buffer(self._buffer),
            ctypes.c_uint(len(self._buffer)),
        )
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, f"unable to {what}: {os.strerror(number).lower()}")
        return result
