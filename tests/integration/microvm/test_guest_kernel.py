"""The kernel that was built: what it must not have, and that QEMU can enter it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import guestimage
import pytest

from pysandbox_microvm import kernel, store
from pysandbox_microvm.image import find_image, is_bootable

if TYPE_CHECKING:
    from collections.abc import Mapping


@pytest.fixture(scope="module")
def configuration(microvm_settings: Mapping[str, Any]) -> list[str]:
    """The .config of the kernel that this checkout's image has."""
    key = store.kernel_key(kernel.find_source(), kernel.read_fragment(), kernel.compiler())
    path = guestimage.CACHE / "kernels" / key / "config"
    if not path.exists():
        pytest.skip("the tests use a kernel that was built elsewhere (PYSANDBOX_TEST_KERNEL)")
    return path.read_text().splitlines()


@pytest.mark.parametrize(
    "option",
    [
        "MODULES", "KALLSYMS", "IA32_EMULATION", "X86_X32_ABI", "KEXEC", "KEXEC_FILE", "DEVMEM", "DEVPORT", "PROC_KCORE",
        "DEBUG_FS", "KPROBES", "FTRACE", "IO_URING", "USERFAULTFD", "VT", "INPUT", "USB_SUPPORT", "SCSI", "MAGIC_SYSRQ",
        "HIBERNATION", "SUSPEND", "NETFILTER", "BINFMT_MISC", "MODIFY_LDT_SYSCALL", "X86_IOPL_IOPERM", "LEGACY_PTYS",
    ],
)  # fmt: skip
def test_what_a_guest_does_not_need_is_not_there(option: str, configuration: list[str]) -> None:
    assert not [line for line in configuration if line.startswith(f"CONFIG_{option}=")]


def test_every_line_of_the_fragment_was_taken(configuration: list[str]) -> None:
    assert kernel.not_taken(kernel.read_fragment().required, "\n".join(configuration)) == []


@pytest.mark.parametrize(
    "option", ["CPU_MITIGATIONS", "STRICT_KERNEL_RWX", "SECCOMP_FILTER", "CGROUP_BPF", "ARCH_HAS_STRICT_KERNEL_RWX"]
)
def test_what_the_fragment_brings_along_is_there(option: str, configuration: list[str]) -> None:
    assert f"CONFIG_{option}=y" in configuration


def test_qemu_can_enter_it(microvm_settings: Mapping[str, Any]) -> None:
    image = find_image(microvm_settings)
    assert is_bootable(image.kernel)
    assert image.release.endswith("-pysandbox")
    assert Path(image.initrd).read_bytes()[:6] == b"070701"
