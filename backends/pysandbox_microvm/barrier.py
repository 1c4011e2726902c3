"""System calls that no helper of a machine needs: refused to each of its threads, from its first instruction on.

QEMU and virtiofsd install filters of their own, but late: what their libraries have started before then is not bound by
them. QEMU's RCU thread, which the C virtiofsd has too, is such a thread, and it shares all memory with those that are.
So this filter is in force before the program is. It lets through what it does not name: it is the ground beneath the
programs' own, and must not know of each what it needs this year. Another architecture's calls end the process.
"""

from __future__ import annotations

from pysandbox.filtercache import compile_filter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pysandbox.oci.types import Seccomp, SeccompRule

_REFUSED = """
    acct add_key bpf chroot clock_adjtime clock_settime create_module delete_module execveat fanotify_init finit_module
    fsconfig fsmount fsopen fspick get_kernel_syms init_module io_uring_enter io_uring_register io_uring_setup ioperm
    iopl kcmp kexec_file_load kexec_load keyctl lookup_dcookie migrate_pages modify_ldt mount mount_setattr move_mount
    move_pages nfsservctl open_by_handle_at open_tree perf_event_open personality pidfd_getfd pivot_root
    process_madvise process_vm_readv process_vm_writev ptrace query_module quotactl quotactl_fd reboot request_key
    setdomainname sethostname setns settimeofday swapoff swapon sysfs syslog umount umount2 uselib userfaultfd
    ustat vhangup
""".split()
_EPERM, _ENOSYS = 1, 38
#: CLONE_NEWNS, …CGROUP, …UTS, …IPC, …USER, …PID, …NET.
_NAMESPACES = (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000)
#: Of unshare(2) alone: in clone(2) it is a bit of the exit signal.
_CLONE_NEWTIME = 0x80
_AF_UNIX = 1


def profile(allowed: Sequence[str] = ()) -> Seccomp:
    """Return the filter as a spec would have it; `allowed` are taken off the list."""
    rules: list[SeccompRule] = [
        {
            "names": [name for name in _REFUSED if name not in allowed],
            "action": "SCMP_ACT_ERRNO",
            "errnoRet": _EPERM,
        },
        # Its flags are in memory, where no filter can look: without it the C library takes clone(2).
        {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": _ENOSYS},
        *[_namespace("clone", flag) for flag in _NAMESPACES],
        # A file server's threads take a working directory each, with CLONE_FS.
        *[_namespace("unshare", flag) for flag in (*_NAMESPACES, _CLONE_NEWTIME)],
        {
            "names": ["socket", "socketpair"],
            "action": "SCMP_ACT_ERRNO",
            "errnoRet": _EPERM,
            "args": [{"index": 0, "value": _AF_UNIX, "op": "SCMP_CMP_NE"}],
        },
    ]
    return {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules}


def _namespace(call: str, flag: int) -> SeccompRule:
    return {
        "names": [call],
        "action": "SCMP_ACT_ERRNO",
        "errnoRet": _EPERM,
        "args": [{"index": 0, "value": flag, "valueTwo": flag, "op": "SCMP_CMP_MASKED_EQ"}],
    }


def program(allowed: Sequence[str] = ()) -> str:
    """Return the filter in the executor's form. Raises InvalidArgument where libseccomp is missing."""
    compiled = compile_filter(profile(allowed))
    assert compiled is not None  # there is a profile
    return compiled.program
