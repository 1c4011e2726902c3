"""The bundle that everybody runs: busybox, the default spec, a seccomp profile as long as docker's."""

from __future__ import annotations

import copy
import ctypes
import json
import os
import shutil
from typing import TYPE_CHECKING, Any

from pysandbox.oci.default import default_spec

if TYPE_CHECKING:
    from pathlib import Path

#: Numbers beyond what any kernel of today has: seccomp_syscall_resolve_num_arch(3) answers NULL there.
HIGHEST_SYSTEM_CALL = 470
DENIED = frozenset(
    "acct add_key bpf clock_settime delete_module finit_module fsconfig fsmount fsopen fspick init_module ioperm iopl "
    "io_uring_enter io_uring_register io_uring_setup kexec_file_load kexec_load keyctl lookup_dcookie mbind mount "
    "mount_setattr move_mount move_pages name_to_handle_at nfsservctl open_by_handle_at open_tree perf_event_open "
    "pivot_root quotactl reboot request_key setns settimeofday swapoff swapon sysfs umount2 unshare uselib "
    "userfaultfd ustat vhangup vm86".split()
)
TRUE, SLEEP = ["/bin/true"], ["/bin/sleep", "3600"]


def make_bundle(path: Path, args: list[str]) -> Path:
    """Make a bundle at `path`, a new directory, that runs `args`."""
    root = path / "rootfs"
    for name in ("bin", "dev", "etc", "proc", "sys", "tmp"):
        (root / name).mkdir(parents=True)
    shutil.copy(_busybox(), root / "bin/busybox")
    for name in ("true", "sleep", "cat"):
        (root / "bin" / name).symlink_to("busybox")
    os.mknod(root / "tmp/fuse", 0o020666, os.makedev(10, 229))  # what the device rules have to refuse: see parity
    (path / "config.json").write_text(json.dumps(spec(args)))
    return path


def set_cgroups_path(bundle: Path, path: str) -> None:
    """Say in which cgroup the bundle's next container is to be."""
    config = bundle / "config.json"
    document = json.loads(config.read_text())
    document["linux"]["cgroupsPath"] = path
    config.write_text(json.dumps(document))


def spec(args: list[str]) -> dict[str, Any]:
    """Return the default spec without a terminal, with seccomp, without device rules of its own.

    crun 1.8 raises RLIMIT_MEMLOCK for an explicit device list, which not every root may; the default rules are every
    runtime's duty all the same, and are checked.
    """
    document: dict[str, Any] = copy.deepcopy(dict(default_spec()))
    document["ociVersion"] = "1.0.2"  # what the oldest contender understands
    document["process"].update(args=args, terminal=False)
    document["linux"]["seccomp"] = seccomp()
    document["linux"].pop("resources", None)
    return document


def seccomp() -> dict[str, Any]:
    """Return an allow-list of every system call that libseccomp knows but the dangerous ones."""
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "syscalls": [
            {"names": [name for name in _known_system_calls() if name not in DENIED], "action": "SCMP_ACT_ALLOW"}
        ],
    }


def _known_system_calls() -> list[str]:
    """Return names by seccomp_syscall_resolve_num_arch(3), which hands out strings to be freed."""
    library, libc = ctypes.CDLL("libseccomp.so.2"), ctypes.CDLL(None)
    resolve = library.seccomp_syscall_resolve_num_arch
    resolve.restype, resolve.argtypes = ctypes.c_void_p, [ctypes.c_uint32, ctypes.c_int]
    library.seccomp_arch_native.restype = ctypes.c_uint32
    libc.free.argtypes = [ctypes.c_void_p]
    names = []
    for number in range(HIGHEST_SYSTEM_CALL):
        address = resolve(library.seccomp_arch_native(), number)
        if address:
            names.append((ctypes.string_at(address)).decode())
            libc.free(address)
    return names


def _busybox() -> str:
    found = shutil.which("busybox")
    if found is None:
        raise SystemExit("bench: busybox is not installed (Debian: apt-get install busybox-static)")
    return found
