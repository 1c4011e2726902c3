"""A jail: what one helper process of a machine may see and do, as a plan that our executor carries out.

QEMU and virtiofsd talk to a guest that may be hostile. Each is taken over in thought: what is left to it then is

* a user of its own (`Identity`), no capability, or those few that a file server needs, no way to get more;
* its own mount, pid, network, ipc, uts and cgroup namespaces;
* a root that is a small, read-only tmpfs with read-only mounts of the program, its libraries and data directories, and
  the device nodes it needs; nothing of the host is writable in it, but what a file server is there to serve;
* the descriptors it was handed, and no others;
* limits: no core dump, a number of threads and descriptors;
* a system call filter that refuses what no helper needs and kernels were broken through, beneath the program's own.

The death of the process that started it ends it: `PR_SET_PDEATHSIG` is set anew after the user changes, and the kernel
sends it when the *thread* that started it ends (prctl(2)). So all are started by one thread that lives as long as we.
"""

from __future__ import annotations

import contextlib
import os
import posixpath

from pysandbox import executor
from pysandbox.backend import Stdio
from pysandbox.cgroup.cgroup import open_entrances
from pysandbox.errors import DeadlineExceeded, NotFound
from pysandbox.executor import ExecutorError
from pysandbox.oci import mountoptions as mo
from pysandbox.oci.capabilities import CAPABILITIES
from pysandbox.plan import operation as op
from pysandbox.plan.plan import Plan
from pysandbox.record import dataclass, field
from pysandbox_microvm import barrier

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pysandbox.plan.operation import Operation

#: Seconds for a program to get from its executor's start to its own first instruction.
START_TIMEOUT = 20.0
#: Seconds for a process to be gone once it has been killed.
END_TIMEOUT = 10.0

NAMESPACES = ("mount", "network", "ipc", "uts", "pid")
_READ_ONLY = mo.MOUNT_ATTR_RDONLY | mo.MOUNT_ATTR_NOSUID | mo.MOUNT_ATTR_NODEV
_DEVICE = mo.MOUNT_ATTR_RDONLY | mo.MOUNT_ATTR_NOSUID | mo.MOUNT_ATTR_NOEXEC
_INERT = mo.MOUNT_ATTR_NOSUID | mo.MOUNT_ATTR_NODEV | mo.MOUNT_ATTR_NOEXEC

# Numbers of setrlimit(2), for x86_64 and most others: the module `resource` is a library to load.
RLIMIT_FSIZE, RLIMIT_CORE, RLIMIT_NPROC, RLIMIT_NOFILE = 1, 4, 6, 7

#: Directories of a data package below the program's prefix, as Debian and QEMU's own `make install` lay them out.
_DATA = ("share/qemu", "share/seabios", "share/qboot")
_ENVIRONMENT = ("PATH=/usr/bin:/bin", "LC_ALL=C")


@dataclass(frozen=True, slots=True)
class Bind:
    """A file or directory of the host, read-only at `destination` (absolute) in the jail."""

    source: str
    destination: str


@dataclass(frozen=True, slots=True)
class Device:
    """A character device of the host, with its numbers: another one under that name is refused."""

    path: str
    major: int
    minor: int


NULL = Device("/dev/null", 1, 3)
URANDOM = Device("/dev/urandom", 1, 9)
KVM = Device("/dev/kvm", 10, 232)


@dataclass(frozen=True, slots=True, kw_only=True)
class Jail:
    """What a helper may see and do.

    `binds` and `links` (destination → target) make its root. `opened` and `attached` are plan operations that bring in
    further mounts: `opened` runs outside with the host's paths, `attached` once the root is there. `limits` are
    (RLIMIT_*, value) for soft and hard limit. `whole_procfs` shows more of /proc than processes. `seccomp` is a filter
    in the executor's form, empty for none.
    `entrances` lead into a cgroup (`Cgroup.entrances`); without any the process stays in its parent's.
    """

    uid: int
    gid: int
    groups: Sequence[int] = ()
    capabilities: Sequence[str] = ()
    binds: Sequence[Bind] = ()
    links: Mapping[str, str] = field(default_factory=dict)
    devices: Sequence[Device] = (NULL,)
    opened: Sequence[Operation] = ()
    attached: Sequence[Operation] = ()
    limits: Sequence[tuple[int, int]] = ()
    whole_procfs: bool = False
    seccomp: str = ""
    entrances: Mapping[str, str] = field(default_factory=dict)


# -- what a program needs to run ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Program:
    """An executable, `path` as its own root directory `root` has it: "/" or that of another release beside the host."""

    path: str
    root: str = "/"

    def on_host(self, path: str) -> str:
        """Return where a path of the program's root is."""
        return posixpath.join(self.root, path.lstrip("/"))


def find_program(path: str, root: str = "/") -> Program:
    """Find an executable by absolute path, or by name where programs lie; NotFound where there is none."""
    names = [path] if path.startswith("/") else [f"{place}/{path}" for place in _PLACES]
    for name in names:
        program = Program(name, root)
        if os.access(program.on_host(name), os.X_OK):
            return program
    raise NotFound(f"{path}: there is no such program" + (f" below {root}" if root != "/" else ""))


_PLACES = ("/usr/bin", "/usr/local/bin", "/usr/libexec", "/usr/lib/qemu", "/usr/local/libexec")


def program_binds(program: Program) -> tuple[list[Bind], dict[str, str]]:
    """Return what a program needs to be executed: itself, its libraries and its data, and the links among them.

    Libraries are the system's directory of them, or the one for this machine's architecture where there is one.
    """
    binds = [Bind(program.on_host(program.path), program.path)]
    links = {}
    for name in ("lib", "lib64"):
        binds += _existing(program, [_for_architecture(program, f"/usr/{name}")])
        place = program.on_host(f"/{name}")
        if os.path.islink(place):
            links[f"/{name}"] = f"usr/{name}"
        else:
            binds += _existing(program, [_for_architecture(program, f"/{name}")])
    binds += _existing(program, ["/etc/ld.so.cache"])
    prefix = posixpath.dirname(posixpath.dirname(program.path))
    if prefix != "/usr":
        binds += _existing(program, [f"{prefix}/lib", f"{prefix}/lib64"])
    return binds, links


def data_binds(program: Program) -> list[Bind]:
    """Return the directories of firmware and option ROMs of a QEMU."""
    prefix = posixpath.dirname(posixpath.dirname(program.path))
    return _existing(program, [f"{prefix}/{name}" for name in _DATA])


def _existing(program: Program, paths: Sequence[str]) -> list[Bind]:
    return [Bind(program.on_host(path), path) for path in paths if os.path.exists(program.on_host(path))]


def _for_architecture(program: Program, directory: str) -> str:
    narrow = f"{directory}/{os.uname().machine}-linux-gnu"
    return narrow if os.path.isdir(program.on_host(narrow)) else directory


# -- the plan ----------------------------------------------------------------------------------------------------------


def jail_plan(jail: Jail, argv: Sequence[str], preserved: int) -> Plan:
    """Plan a jailed process; `preserved` descriptors follow 0, 1 and 2. Pure.

    The new root is a tmpfs over a directory of the host's, in the new mount namespace alone: every host has a /usr.
    """
    tasks = [slot for slot in jail.entrances if slot != "cgroup"]
    mask = _mask(jail.capabilities)
    operations = [
        *([op.enter_cgroups(tasks)] if tasks else []),
        op.parent_death_signal(9),
        op.dumpable(False),
        *_open_binds(jail),
        *_open_devices(jail),
        *jail.opened,
        op.unshare(list(NAMESPACES)),
        op.clone(into_cgroup="cgroup" in jail.entrances),
        op.parent_death_signal(9),
        op.unshare(["cgroup"]),
        op.new_session(),
        *_new_root(),
        *[op.mount_bind(f"bind{number}", bind.destination) for number, bind in enumerate(jail.binds)],
        *[op.mount_bind(f"device{number}", device.path) for number, device in enumerate(jail.devices)],
        *[op.make_link(path, target) for path, target in jail.links.items()],
        _procfs(jail),
        *jail.attached,
        op.pivot_root(),
        op.remount("/", set=mo.MOUNT_ATTR_RDONLY),
        op.hostname("jail"),
        op.umask(0o077),
        op.no_new_privileges(),
        op.change_directory("/"),
        *[op.rlimit(number, value, value) for number, value in jail.limits],
        op.credentials(
            uid=jail.uid, gid=jail.gid, groups=list(jail.groups), bounding=mask, effective=mask, permitted=mask,
            inheritable=0, ambient=0,
        ),
        op.find_program(argv[0], "/usr/bin", "/"),
        op.close_descriptors(preserved),
        *([op.seccomp(jail.seccomp, 0)] if jail.seccomp else []),
        op.execute(list(argv), list(_ENVIRONMENT)),
    ]  # fmt: skip
    return Plan(operations=operations)


def _procfs(jail: Jail) -> Operation:
    """Mount procfs, read-only: the links in /proc/self/fd lead where the descriptor itself may be written."""
    subset = [] if jail.whole_procfs else [("subset", "pid")]
    attributes = _INERT | mo.MOUNT_ATTR_RDONLY
    return op.mount_filesystem("proc", "proc", "/proc", options=subset, attributes=attributes, follow=False)


def _mask(names: Sequence[str]) -> int:
    return sum(1 << CAPABILITIES[name] for name in names)


def _open_binds(jail: Jail) -> list[Operation]:
    operations = []
    for number, bind in enumerate(jail.binds):
        slot = f"bind{number}"
        operations.append(op.open_tree(slot, bind.source, recursive=False))
        operations.append(op.set_attributes(slot, set=_READ_ONLY, propagation=mo.MS_PRIVATE))
    return operations


def _open_devices(jail: Jail) -> list[Operation]:
    """Open device nodes; the mounts are read-only, which keeps their mode and owner as they are, not their content."""
    operations = []
    for number, device in enumerate(jail.devices):
        slot = f"device{number}"
        operations.append(op.open_device(slot, device.path, "c", device.major, device.minor))
        operations.append(op.set_attributes(slot, set=_DEVICE, propagation=mo.MS_PRIVATE))
    return operations


def _new_root() -> list[Operation]:
    size = [("mode", "0755"), ("size", "256k"), ("nr_inodes", "2k")]
    return [
        op.root_propagation(mo.MS_PRIVATE | mo.MS_REC),
        op.open_root("/"),
        op.mount_filesystem("tmpfs", "jail", "/usr", options=size, attributes=_INERT),
        op.open_tree("jail", "/usr", recursive=False, inside=True),
        op.attach_root("jail"),
    ]


# -- the process -------------------------------------------------------------------------------------------------------


class Jailed:
    """A process in its jail. `pidfd` is readable when it has ended."""

    def __init__(self, pid: int, pidfd: int) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self._status: int | None = None

    def wait(self, timeout: float) -> int | None:
        """Wait for its end for so many seconds; return its exit code, -N after signal N, None while it runs.

        255 where another has reaped it, so that nobody knows.
        """
        if self._status is None and self._ended(timeout):
            self._status = self._reap()
        return self._status

    def kill(self) -> None:
        """Send SIGKILL; nothing where it has ended."""
        import signal

        if self.pidfd >= 0 and self._status is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, 9)

    def close(self) -> None:
        """Kill it, wait for its end, and let go of it. Safe to call twice. Raises DeadlineExceeded."""
        if self.pidfd < 0:
            return
        self.kill()
        ended = self.wait(END_TIMEOUT) is not None
        os.close(self.pidfd)
        self.pidfd = -1
        if not ended:
            raise DeadlineExceeded(f"process {self.pid} has not ended {END_TIMEOUT:g} s after SIGKILL")

    def _ended(self, timeout: float) -> bool:
        import select

        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        return bool(poll.poll(max(0, round(timeout * 1000))))

    def _reap(self) -> int:
        try:
            return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        except ChildProcessError:
            return 255


def launch_jailed(jail: Jail, argv: Sequence[str], descriptors: Mapping[int, int]) -> Jailed:
    """Start `argv` (its first word a path in the jail) with `descriptors`: number in the child → ours, which stay ours.

    Numbers that are left out, 0, 1 and 2 among them, are /dev/null. Raises ExecutorError for what did not work in the
    jail, OSError, Unavailable and DeadlineExceeded; nothing is left then. May be called from any thread.
    """
    return _on_keeper(lambda: _launch(jail, argv, descriptors))


def _launch(jail: Jail, argv: Sequence[str], descriptors: Mapping[int, int]) -> Jailed:
    with contextlib.ExitStack() as held:
        numbers = _fill_up(descriptors, held)
        plan = jail_plan(jail, argv, len(numbers) - 3)
        launch = executor.start(
            Stdio(stdin=numbers[0], stdout=numbers[1], stderr=numbers[2], preserved=tuple(numbers[3:]))
        )
        try:
            launch.give(plan.to_json(), _open_entrances(jail, held))
            _follow(launch, argv)
            pidfd = os.pidfd_open(launch.pid)
        except BaseException:
            launch.abort()
            raise
        launch.close()
    return Jailed(launch.pid, pidfd)


def _fill_up(descriptors: Mapping[int, int], held: contextlib.ExitStack) -> list[int]:
    """Return one descriptor of ours for each number from 0 on."""
    last = max([2, *descriptors])
    if all(number in descriptors for number in range(last + 1)):
        return [descriptors[number] for number in range(last + 1)]
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    held.callback(os.close, null)
    return [descriptors.get(number, null) for number in range(last + 1)]


def _open_entrances(jail: Jail, held: contextlib.ExitStack) -> dict[str, int]:
    opened = open_entrances(jail.entrances)
    for descriptor in opened.values():
        held.callback(os.close, descriptor)
    return opened


def _follow(launch: executor.Launch, argv: Sequence[str]) -> None:
    """Wait until the program is executed. A jail's plan has no stops."""
    while launch.next(START_TIMEOUT) is not None:
        pass
    if not launch.pid:
        raise ExecutorError("clone", 0, "", argv[0], 0, "the executor ended before it started the program")


# -- the thread that starts them ---------------------------------------------------------------------------------------


def _on_keeper(start: Callable[[], Jailed]) -> Jailed:
    """Call `start` in a thread that lives as long as this process: this one if it is the first, else one of our own."""
    import _thread

    if _thread.get_native_id() == os.getpid():
        return start()
    return _keeper().call(start)


class _Keeper:
    """A thread that starts jailed processes for the others, one after the other."""

    def __init__(self) -> None:
        import _queue
        import _thread

        self.process = os.getpid()
        self._requests: _queue.SimpleQueue[tuple[Callable[[], Jailed], _queue.SimpleQueue[object]]]
        self._requests = _queue.SimpleQueue()
        _thread.start_new_thread(self._serve, ())

    def call(self, start: Callable[[], Jailed]) -> Jailed:
        import _queue

        answers: _queue.SimpleQueue[object] = _queue.SimpleQueue()
        self._requests.put((start, answers))
        # The executor's own time-outs end this wait.
        answer = answers.get()
        if isinstance(answer, BaseException):
            raise answer
        assert isinstance(answer, Jailed)
        return answer

    def _serve(self) -> None:
        while True:
            start, answers = self._requests.get()
            try:
                answers.put(start())
            except BaseException as error:  # noqa: BLE001 - it is the caller's
                answers.put(error)


def _keeper() -> _Keeper:
    global _the_keeper
    if _the_keeper is None or _the_keeper.process != os.getpid():
        _the_keeper = _Keeper()
    return _the_keeper


_the_keeper: _Keeper | None = None


# -- QEMU's ------------------------------------------------------------------------------------------------------------


def qemu_jail(
    program: Program,
    uid: int,
    *,
    kvm: bool = False,
    threads: int = 256,
    files: int = 1024,
    largest_file: int | None = None,
    entrances: Mapping[str, str] | None = None,
) -> Jail:
    """Return the jail of a QEMU that runs as `uid` and the group of the same number.

    `kvm` lets /dev/kvm in, with the group that owns it. `threads` is of the uid, which has no other process. `files`
    bounds its descriptors. `largest_file` bounds, in bytes, what it can make of a file by writing: 0 for a machine
    without a writable image; None for no bound.
    """
    binds, links = program_binds(program)
    limits = [(RLIMIT_CORE, 0), (RLIMIT_NPROC, threads), (RLIMIT_NOFILE, files)]
    if largest_file is not None:
        limits.append((RLIMIT_FSIZE, largest_file))
    return Jail(
        uid=uid,
        gid=uid,
        groups=_kvm_groups() if kvm else (),
        binds=[*binds, *data_binds(program)],
        links=links,
        devices=[NULL, URANDOM, KVM] if kvm else [NULL, URANDOM],
        limits=within_hard_limits(limits),
        seccomp=barrier.program(),
        entrances=entrances or {},
    )


def _kvm_groups() -> list[int]:
    """Return the group of /dev/kvm, if the device is a group's at all."""
    status = os.stat(KVM.path)
    return [status.st_gid] if status.st_mode & 0o060 == 0o060 and status.st_gid else []


def within_hard_limits(limits: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Lower what is above our own hard limits, unless we may raise them: a container may lack CAP_SYS_RESOURCE.

    Descriptors stay below fs.nr_open, which nobody may exceed (proc_sys_fs(5)).
    """
    import resource

    may_raise = _may_raise_limits()
    bounded = []
    for number, value in limits:
        hard = resource.getrlimit(number)[1]
        if number == RLIMIT_NOFILE and may_raise:
            hard = _most_descriptors()
        elif may_raise:
            hard = resource.RLIM_INFINITY
        bounded.append((number, value if hard == resource.RLIM_INFINITY else min(value, hard)))
    return bounded


def _may_raise_limits() -> bool:
    with open("/proc/self/status") as file:
        for line in file:
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) >> CAPABILITIES["CAP_SYS_RESOURCE"] & 1)
    return False


def _most_descriptors() -> int:
    with open("/proc/sys/fs/nr_open") as file:
        return int(file.read())
