"""Every probe: its group, what is expected, which verdict follows, and what that is good for in one sentence.

The names are those of `pysandbox-probe --listed`, and of `outside` for what is seen from the host.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from pysandbox.audit import judge

if TYPE_CHECKING:
    from pysandbox.audit.judge import Judge

#: More system calls than this are more than a default profile leaves.
CALLS_LIMIT = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One thing to observe. `outside`: seen from the host, where a process of that role is there at all."""

    name: str
    group: str
    expected: str
    why: str
    judge: Judge
    outside: bool = False


def _identity() -> list[Probe]:
    few = judge.capabilities_within(judge.USUAL)
    none = judge.capabilities_within(())
    usual = "no more than containerd's usual 14"
    rows: list[tuple[str, str, str, Judge]] = [
        ("seccomp.mode", "2: a filter", "a filter is what keeps system calls from the kernel", judge.equals("2")),
        ("seccomp.filters", "at least 1", "mode 2 without a filter would filter nothing", judge.at_least_one),
        ("no_new_privs", "1", "set-id programs of the image could give privileges back", judge.equals("1")),
        ("capabilities.effective", usual, "any other capability reaches beyond the container's namespaces", few),
        ("capabilities.permitted", usual, "what is permitted can be made effective at any time", few),
        ("capabilities.bounding", usual, "a set-id program could get whatever is in the bounding set", few),
        ("capabilities.inheritable", "none", "inheritable capabilities survive exec (CVE-2022-24769)", none),
        ("capabilities.ambient", "none", "ambient capabilities are handed to every program", none),
        ("capabilities.as_spec", "exactly the spec's", "a runtime may grant nothing that the spec does not name",
         judge.capabilities_as_spec),
        ("user.uid", "the spec's", "another user's files would be open (CVE-2024-40635)", judge.id_as_spec("uid")),
        ("user.gid", "the spec's", "another group's files would be open", judge.id_as_spec("gid")),
        ("user.groups", "the spec's", "groups of the caller would be kept (CVE-2022-36109)", judge.groups_as_spec),
        ("descriptors.open", "none beyond stdio", "a leaked descriptor is a way to the host (CVE-2024-21626)",
         judge.nothing_found),
    ]  # fmt: skip
    return [Probe(name=name, group="identity", expected=expected, why=why, judge=how)
            for name, expected, why, how in rows]  # fmt: skip


def _limits() -> list[Probe]:
    rows: list[tuple[str, str, str, Judge]] = [
        ("limits.open_files", "a limit", "descriptors take memory of the host's kernel", judge.limited),
        ("limits.core", "0", "a core goes to the host's core_pattern", judge.no_core),
        ("limits.locked_memory", "a limit", "locked memory cannot be taken back under pressure", judge.limited),
        ("limits.tmpfs", "each has a size", "files there are memory of the host's", judge.nothing_found),
    ]  # fmt: skip
    inside = [Probe(name=name, group="limits", expected=expected, why=why, judge=how)
              for name, expected, why, how in rows]  # fmt: skip
    outside = [
        Probe(name=f"limits.{name}", group="limits", expected="a limit", why=why, judge=how, outside=True)
        for name, why, how in (
            ("memory", "without one the host runs out of memory first", judge.bounded),
            ("pids", "without one a fork bomb takes all process ids of the kernel", judge.pids_bounded),
            ("cpu", "without one all processors can be kept busy", judge.bounded),
        )
    ]
    return inside + outside


_SETTINGS = {
    "core_pattern": "the host's kernel runs the program that it names, as root",
    "modprobe": "the host's kernel runs the program that it names, as root",
    "panic_on_oom": "the whole host could be made to panic",
    "overcommit_memory": "it changes how the whole host gives memory away",
    "mmap_min_addr": "it protects the host's kernel from null pointers",
    "sysrq": "it decides what the magic keys may do to the host",
    "panic": "it decides what the host does after a panic",
    "randomize_va_space": "it makes every program of the host easier to attack",
    "kptr_restrict": "it hides the addresses of the host's kernel",
    "pid_max": "it bounds the processes of the whole host",
    "file_max": "it bounds the open files of the whole host",
    "suid_dumpable": "it decides whether set-id programs dump their memory",
    "binfmt_register": "an interpreter registered there runs for every program of the host",
    "sysrq_trigger": "one letter written there restarts the host",
    "irq_affinity": "it moves the host's interrupts to other processors",
    "uevent_helper": "the host's kernel runs the program that it names, as root",
    "ksm_run": "merged pages tell one container of another's memory",
    "power_state": "it puts the host to sleep",
    "transparent_hugepage": "it changes the memory of the whole host",
    "module_parameter": "parameters of modules change the host's kernel",
}
_TELLING = {
    "kcore": "it is the memory of the host",
    "kallsyms": "it tells where and what the host's kernel is",
    "config_gz": "it tells how the host's kernel was built",
    "interrupts": "it tells of the host's hardware and what other containers do",
    "softirqs": "it tells what other containers do",
    "timer_list": "it tells of other processes and of kernel addresses",
    "keys": "it names keys of other users",
    "key_users": "it tells which users have keys",
    "iomem": "it is the map of the host's memory",
    "modules": "it tells what is loaded into the host's kernel",
    "slabinfo": "it tells what the host's kernel holds, which helps to attack its heap",
    "vmallocinfo": "it tells what the host's kernel has mapped",
    "pagetypeinfo": "it tells how the host's memory is cut",
    "diskstats": "it tells of the host's disks and what others do with them",
    "sched_debug": "it tells of other processes",
    "latency_stats": "it tells of other processes",
    "acpi": "it tells of the host's hardware",
    "scsi": "disks could be removed through it (CVE-2017-16539)",
    "firmware": "it holds tables of the host's firmware",
    "powercap": "power readings are a side channel (CVE-2020-8694)",
    "thermal_throttle": "it tells what other containers do",
    "block_devices": "it names the host's disks",
    "debugfs": "it is a large and hardly checked part of the host's kernel",
    "securityfs": "policies of the host's security modules are set there",
    "dev_mem": "it is the memory of the host",
    "proc_kmsg": "whoever reads the host's messages takes them away",
    "dev_kmsg": "the host's messages tell of addresses and of other containers",
    "tracing": "it shows what the whole host does",
}


def _files() -> list[Probe]:
    settings = [
        Probe(name=f"setting.{name}", group="settings", expected="cannot be opened for writing; or of its own kernel",
              why=why, judge=judge.unwritable)
        for name, why in _SETTINGS.items()
    ]  # fmt: skip
    telling = [
        Probe(name=f"file.{name}", group="information", expected="absent, forbidden or empty; or of its own kernel",
              why=why, judge=judge.unreadable)
        for name, why in _TELLING.items()
    ]  # fmt: skip
    cgroup = [
        Probe(name=f"cgroup.{name}", group="settings", expected="cannot be opened for writing; or of its own kernel",
              why=why, judge=judge.unwritable)
        for name, why in (
            ("release_agent", "the host runs the program that it names, as root (CVE-2022-0492)"),
            ("procs", "limits are gone for a process that leaves its cgroup"),
        )
    ]  # fmt: skip
    return settings + telling + cgroup


def _mounts() -> list[Probe]:
    whys = {
        "tmpfs": "whoever may mount may undo masks",
        "proc": "a new procfs has no masked and no read-only paths",
        "sysfs": "a new sysfs is writable",
        "cgroup": "a new hierarchy has a writable release_agent (CVE-2022-0492)",
        "cgroup2": "a new mount of it is writable, limits and all",
        "bpf": "programs and maps that are pinned there are the host's",
        "debugfs": "it is a large and hardly checked part of the host's kernel",
        "securityfs": "policies of the host's security modules are set there",
        "devtmpfs": "it holds all device nodes of the host",
        "bind": "whoever may bind may put other files in the place of masks",
        "remount_proc_sys": "the read-only settings of the host would be writable again",
    }
    attempts = [
        Probe(name=f"mount.{name}", group="mounts", expected="refused", why=why, judge=judge.refused)
        for name, why in whys.items()
    ]
    tables = {
        "sysfs_writable": "settings of the host's kernel and devices are files there",
        "proc_sys_writable": "settings of the host's kernel are files there",
        "cgroup_writable": "a writable cgroup lets limits be changed",
        "shared": "a mount made inside would appear outside",
        "kernel": "each of them is an interface of the host's kernel that no container needs",
        "host_paths": "they tell how the host's directories are called",
    }
    return attempts + [
        Probe(name=f"mounts.{name}", group="mounts", expected="none", why=why, judge=judge.nothing_found)
        for name, why in tables.items()
    ]


def _namespaces() -> list[Probe]:
    exploits = "most exploits of the host's kernel begin with a user namespace"
    whys = {
        "user": exploits,
        "mnt": "whoever has a mount namespace of his own may mount",
        "net": "a network namespace of one's own opens all of the network's code",
        "pid": "it hides processes from who watches",
        "ipc": "it is more of the kernel than a container needs",
        "uts": "it is more of the kernel than a container needs",
        "cgroup": "it is a step to a cgroup file system of one's own",
        "time": "it is more of the kernel than a container needs",
        "user_then_mount": "together they give CAP_SYS_ADMIN and mounts to anybody",
    }
    probes = [
        Probe(name=f"unshare.{name}", group="namespaces", expected="refused", why=why, judge=judge.refused)
        for name, why in whys.items()
    ]
    return [*probes, Probe(name="clone.user", group="namespaces", expected="refused", why=exploits,
                           judge=judge.refused)]  # fmt: skip


def _devices() -> list[Probe]:
    whys = {
        "disk_sda": "a disk of the host could be read and written",
        "disk_vda": "a disk of the host could be read and written",
        "disk_vda_old": "a disk of the host could be read and written",
        "disk_nvme": "a disk of the host could be read and written",
        "disk_loop": "it may be a file system of the host",
        "mem": "it is the memory of the host",
        "port": "it is the ports of the host's hardware",
        "kmsg": "the host's messages can be read and forged",
        "kvm": "KVM is a large part of the host's kernel (CVE-2026-53359)",
        "fuse": "whoever serves a file system can stop who reads it",
        "cuse": "it makes device nodes of its own (CVE-2026-96812)",
        "loop_control": "it makes block devices of files",
        "vhost_vsock": "its work is done by the host's kernel (CVE-2025-21756)",
        "vhost_net": "its work is done by the host's kernel (CVE-2019-14835)",
        "tun": "network interfaces can be made",
        "vfio": "hardware can be taken over",
        "uinput": "it types for whoever sits at the host",
        "btrfs_control": "disks of the host can be registered",
    }
    nodes = [
        Probe(name=f"device.{name}", group="devices", expected="the node cannot be made, or opening it is forbidden",
              why=why, judge=judge.no_node)
        for name, why in whys.items()
    ]  # fmt: skip
    listed = "each device in /dev is one of the host's, given away"
    return [*nodes, Probe(name="devices.listed", group="devices", expected="none", why=listed,
                          judge=judge.nothing_found)]  # fmt: skip


_CALLS = {
    "syslog": "the host's messages tell of addresses and of other containers",
    "io_uring_setup": "many exploits of the host's kernel went through io_uring, which no filter sees into",
    "userfaultfd": "it stops the kernel where an exploit needs it to wait",
    "perf_event_open": "it watches the whole machine, and was exploited often",
    "bpf": "its verifier runs programs in the host's kernel",
    "add_key": "keys are not kept apart by namespaces",
    "request_key": "keys are not kept apart by namespaces",
    "keyctl": "keys are not kept apart by namespaces",
    "keyctl_session": "keyrings take the quota of the host's user",
    "fsopen": "it is the new way to mount",
    "open_tree": "it is the new way to mount",
    "mount_setattr": "it can take read-only away",
    "move_mount": "it is the new way to mount",
    "fsmount": "it is the new way to mount",
    "mount": "whoever may mount may undo masks",
    "umount2": "it takes masks away",
    "pivot_root": "it changes the root of all processes",
    "setns": "it enters namespaces of others",
    "name_to_handle_at": "handles lead around directories that cannot be entered",
    "open_by_handle_at": "any file of the file system opens by its number",
    "chroot": "it was the way out of many a root directory",
    "personality": "it weakens the memory layout of programs",
    "modify_ldt": "it is old code that only 16-bit programs need",
    "init_module": "a module is code in the host's kernel",
    "finit_module": "a module is code in the host's kernel",
    "delete_module": "it takes code out of the host's kernel",
    "swapon": "it changes the memory of the whole host",
    "swapoff": "it changes the memory of the whole host",
    "acct": "the host's kernel would write to a file of the container's",
    "quotactl": "it is a part of the kernel that no container needs",
    "settimeofday": "the clock is the host's",
    "clock_settime": "the clock is the host's",
    "sethostname": "names belong to who runs the container",
    "fanotify_init": "it watches file systems, not only one's own files",
    "mbind": "it is a part of the kernel that few programs need, and was exploited",
    "move_pages": "it tells where memory of others lies",
    "iopl": "it opens the ports of the host's hardware",
    "ioperm": "it opens the ports of the host's hardware",
    "lookup_dcookie": "it tells paths of the host",
    "x32": "a filter that knows only 64-bit numbers is gone around",
    "int80": "32-bit calls are more of the kernel, and socketcall hides its arguments from filters",
}


def _calls() -> list[Probe]:
    calls = [
        Probe(name=f"call.{name}", group="syscalls", expected="refused before the kernel looks at arguments", why=why,
              judge=judge.unreached)
        for name, why in _CALLS.items()
    ]  # fmt: skip
    return [
        *calls,
        Probe(
            name="syscalls.sweep",
            group="syscalls",
            expected=f"at most {CALLS_LIMIT} reach the kernel",
            why="each one is code of the host's kernel that may have a bug",
            judge=judge.few_calls(CALLS_LIMIT),
        ),
    ]


def _sockets() -> list[Probe]:
    whys = {
        "packet": "it sees and forges all of the interface's packets",
        "inet_raw": "it forges packets of any kind",
        "inet6_raw": "it forges packets of any kind",
        "netlink_audit": "the host's audit is not kept apart by namespaces",
        "netlink_xfrm": "its code was exploited often",
        "netlink_netfilter": "no part of the kernel was exploited more often",
        "netlink_uevent": "it tells of the host's hardware",
        "vsock": "it leads to the host and was exploited (CVE-2025-21756)",
        "xdp": "it is code of the kernel that no container needs",
        "alg": "its code was exploited (CVE-2026-31431)",
        "key": "its code was exploited",
        "rxrpc": "its code was exploited",
        "tipc": "its code was exploited",
        "can": "its code was exploited",
        "bluetooth": "its code was exploited",
        "smc": "its code was exploited",
        "kcm": "it is code of the kernel that no container needs",
        "rds": "its code was exploited",
        "sctp": "its code was exploited",
    }
    return [
        Probe(name=f"socket.{name}", group="sockets", expected="refused, or unknown to the kernel", why=why,
              judge=judge.refused)
        for name, why in whys.items()
    ]  # fmt: skip


def _network() -> list[Probe]:
    tables = {
        "abstract_sockets": "any process of the network namespace can connect to them (CVE-2020-15257)",
        "listeners": "services of others can be reached",
        "listeners6": "services of others can be reached",
    }
    probes = [
        Probe(name=f"network.{name}", group="network", expected="none", why=why, judge=judge.nothing_found)
        for name, why in tables.items()
    ]
    return [*probes, Probe(name="network.metadata", group="network", expected="no answer",
                           why="clouds hand out credentials there", judge=judge.refused)]  # fmt: skip


def _processes() -> list[Probe]:
    looks = {
        "environ": "environments hold secrets",
        "memory": "it can be read and written by who opens it",
        "root": "it leads to the files of another root",
        "vm_read": "memory of others can be read",
        "kcmp": "it tells what processes share, and kernel addresses",
        "descriptors": "open files of others can be taken",
    }
    return [
        Probe(name="processes.visible", group="processes", expected="none", judge=judge.nothing_found,
              why="what can be seen can be watched and signalled"),
        *(Probe(name=f"processes.{name}", group="processes", expected="refused, or nobody there", why=why,
                judge=judge.refused) for name, why in looks.items()),
        Probe(name="processes.ptrace_child", group="processes", judge=judge.own_children_only,
              expected="refused, or on its own children only", why="who traces others is them"),
    ]  # fmt: skip


def _host() -> list[Probe]:
    whys = {
        "release": "it tells which exploits fit the host's kernel",
        "version": "it tells which exploits fit the host's kernel",
        "boot_id": "it tells who runs on the same host",
        "name": "it tells which host this is",
        "command_line": "it tells how the host protects itself",
        "memory": "it tells how large the host is",
        "processor": "it tells which attacks by side channels fit",
    }
    probes = [
        Probe(name=f"host.{name}", group="host", expected="not the host's", why=why,
              judge=partial(judge.differs, probe=f"host.{name}"))
        for name, why in whys.items()
    ]  # fmt: skip
    return [
        *probes,
        Probe(name="host.uptime", group="host", expected="not the host's", judge=judge.uptime_differs,
              why="it tells when the host was last patched"),
        Probe(name="host.load", group="host", expected="not the host's", judge=judge.load_differs,
              why="it tells when others are busy"),
    ]  # fmt: skip


def _escape() -> list[Probe]:
    whys = {
        "self_exe": "it could overwrite the runtime (CVE-2019-5736)",
        "dotdot": "above the root there must be nothing",
        "proc_root": "the root of the first process must be the container's",
        "chroot": "the classic way out of a root directory",
        "nsenter": "the first process must be in the same mount namespace",
        "canary": "a file of the host's must not be found by its path",
    }
    return [
        Probe(name=f"escape.{name}", group="escape", expected="refused, or leads nowhere else", why=why,
              judge=judge.refused)
        for name, why in whys.items()
    ]  # fmt: skip


_DESCRIPTORS = {"init": "no file or directory"}
#: Who is looked at from outside: role → what it is, and which capabilities it may hold.
ROLES = {
    "init": ("the container's first process", judge.USUAL),
    "sandbox": ("the process that owns the machine", ()),
    "qemu": ("QEMU", ()),
    "virtiofsd": ("the file server", judge.FILE_SERVER),
}
NAMESPACES = ("mnt", "pid", "net", "ipc", "uts", "cgroup")


def _outside() -> list[Probe]:
    probes = []
    for role, (noun, capabilities) in ROLES.items():
        rows: list[tuple[str, str, str, Judge]] = [
            ("seccomp", "a filter on all threads", f"a thread of {noun} without a filter has all system calls",
             judge.all_threads),
            ("no_new_privs", "set on all threads", f"{noun} could gain privileges by a set-id program",
             judge.all_threads),
            ("capabilities", "only what it needs", f"whoever takes over {noun} has them on the host",
             judge.capabilities_within(capabilities)),
            ("uid", "not 0 on the host", f"whoever takes over {noun} is root on the host", judge.not_root),
            ("root", "not the host's", f"{noun} would see all files of the host", judge.not_shared),
            ("descriptors", _DESCRIPTORS.get(role, "no directory or writable file of the host's"),
             f"whoever takes over {noun} has its files", judge.nothing_found),
            ("devices", "none", f"whoever takes over {noun} has its devices", judge.nothing_found),
            ("cgroup", "one of its own", f"what {noun} uses would be counted nowhere", judge.in_cgroup),
        ]  # fmt: skip
        rows += [
            (f"namespace.{kind}", "its own", f"{noun} would see what the host has there", judge.not_shared)
            for kind in NAMESPACES
        ]
        probes += [
            Probe(name=f"outside.{role}.{name}", group=f"outside.{role}", expected=expected, why=why, judge=how,
                  outside=True)
            for name, expected, why, how in rows
            if (role, name) != ("virtiofsd", "descriptors")  # it serves a tree by descriptors
        ]  # fmt: skip
    emulated = "QEMU promises no isolation of what it emulates (QEMU's docs/system/security.rst)"
    accelerator = Probe(name="outside.qemu.accelerator", group="outside.qemu", expected="kvm", why=emulated,
                        judge=judge.accelerated, outside=True)  # fmt: skip
    return [*probes, accelerator]


def _all() -> dict[str, Probe]:
    parts = (_identity, _limits, _files, _mounts, _namespaces, _devices, _calls, _sockets, _network, _processes,
             _host, _escape, _outside)  # fmt: skip
    return {probe.name: probe for part in parts for probe in part()}


#: Probe names in the order of a report.
PROBES: dict[str, Probe] = _all()
GROUPS: tuple[str, ...] = tuple(dict.fromkeys(probe.group for probe in PROBES.values()))
#: Probes that need no line of the program: they are made of what others reported.
COMPUTED = {"capabilities.as_spec": "the five sets of /proc/self/status against process.capabilities"}
