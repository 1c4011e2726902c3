"""The file server of one container: virtiofsd in a jail of its own, with the container's tree as all that it sees.

Two generations exist: the C program that came with QEMU up to 7.2 (Debian 12), and the one in Rust since. Which one a
file is, and what it can do, is read from the names of options in it.

What is between a guest and the host, should one take its virtiofsd over: the jail (`jail.py`) with these differences.
It is uid 0, as it makes files in the name of any user of the guest, with the capabilities for just that, and with two
more until it has changed its root to the tree and dropped what it has no use for. The tree is all that is writable in
its mount namespace, and inert (`tree.py`). Its own system call filter is on.

Its socket is never to be found by a name: it is bound in a directory of ours, connected to, and unlinked again.
"""

from __future__ import annotations

import _socket
import contextlib
import errno
import os

from pysandbox.errors import FailedPrecondition, InvalidArgument, NotFound, Unavailable
from pysandbox.executor import ExecutorError
from pysandbox.oci import mountoptions as mo
from pysandbox.plan import operation as op
from pysandbox.plan.plan import Plan
from pysandbox.record import dataclass
from pysandbox_microvm import barrier, identity
from pysandbox_microvm.identity import own_directory
from pysandbox_microvm.jail import (
    NULL,
    RLIMIT_CORE,
    RLIMIT_NOFILE,
    Jail,
    Program,
    find_program,
    jail_plan,
    launch_jailed,
    program_binds,
    within_hard_limits,
)
from pysandbox_microvm.settings import CACHES
from pysandbox_microvm.tree import SHARE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pysandbox.errors import SandboxError
    from pysandbox_microvm.jail import Jailed
    from pysandbox_microvm.tree import Tree

#: Where the two generations are installed; the newer one first.
PLACES = ("/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd", "/usr/lib/virtiofsd", "/usr/local/libexec/virtiofsd")
#: One of the setting's (`settings.py`).
DEFAULT_CACHE = "auto"
#: Each does what its name says for a user of the guest: chown, what modes forbid, chmod and times of others' files,
#: set-id bits that stay, groups and users in whose name files are made, device nodes, file capabilities.
OWNERSHIP = (
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_SETGID", "CAP_SETUID", "CAP_MKNOD", "CAP_SETFCAP",
)  # fmt: skip
#: Until it has changed its root, and given up these two.
_BEGINNING = ("CAP_SYS_CHROOT", "CAP_SETPCAP")
#: File descriptors: one for each file or directory that the guest remembers.
MOST_FILES = 1 << 20
#: Bytes of what it said last that are kept in the pipe to us; more is dropped.
_LAST_WORDS = 4096
_SLOT = "mount"
#: File systems whose files are the kernel's own state. No tmpfs, devpts or mqueue: what is in those is somebody's.
_KERNEL_FILE_SYSTEMS = frozenset(
    """
    proc sysfs cgroup cgroup2 securityfs debugfs tracefs configfs bpf pstore efivarfs binfmt_misc fusectl selinuxfs
    nsfs rpc_pipefs
    """.split()
)


@dataclass(frozen=True, slots=True)
class Server:
    """A virtiofsd: the program, and whether it is the one in Rust."""

    program: Program
    rust: bool


def find_server(path: str = "", root: str = "/") -> Server:
    """Find a virtiofsd, by the setting `virtiofsd` or where distributions put it. Raises NotFound, Unavailable."""
    for place in [path] if path else PLACES:
        with contextlib.suppress(NotFound):
            program = find_program(place, root)
            return Server(program, _is_rust(program))
    wanted = path or "virtiofsd"
    raise NotFound(f"{wanted}: not found; install virtiofsd (in Debian 12 part of qemu-system-common)")


def _is_rust(program: Program) -> bool:
    """Tell the generations apart by an option's name, which is text in the file."""
    import mmap

    with (
        open(program.on_host(program.path), "rb", buffering=0) as file,
        mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as content,
    ):
        if content.find(b"inode-file-handles") >= 0:
            return True
        if content.find(b"thread-pool-size") >= 0:
            return False
    raise Unavailable(f"{program.path}: is no virtiofsd that is known here (QEMU's of 7.2, or 1.x)")


def arguments(server: Server, *, cache: str = DEFAULT_CACHE) -> list[str]:
    """Return virtiofsd's argv. Descriptor 3 is its listening socket. Raises InvalidArgument. Pure.

    Extended attributes are on, mounts in the tree are mounts to the guest, limits are left alone. POSIX ACLs are passed
    on as attributes: the option for the guest to enforce them takes them away altogether where a mount of the tree is
    one to the guest (Linux 6.1: its superblock lacks SB_POSIXACL), and two files must not look like one to it. No pool
    of threads: with one, the C program of 7.2 ends at the first request.
    """
    if cache not in CACHES:
        raise InvalidArgument(f"backends.microvm.cache: {cache!r} is none of {', '.join(CACHES)}")
    if server.rust:
        rust_cache = {"none": "never"}.get(cache, cache)
        return [
            server.program.path, "--fd=3", f"--shared-dir={SHARE}", "--sandbox=chroot", "--seccomp=kill",
            f"--cache={rust_cache}", "--xattr", "--announce-submounts", "--inode-file-handles=never",
            "--rlimit-nofile=0", "--log-level=error",
        ]  # fmt: skip
    return [
        server.program.path, "--fd=3", "-f", "-o", f"source={SHARE}", "-o", "sandbox=chroot", "-o", f"cache={cache}",
        "-o", "xattr", "-o", "announce_submounts", "-o", "log_level=err", "--rlimit-nofile=0",
    ]  # fmt: skip


def server_jail(server: Server, tree: Tree, entrances: Mapping[str, str] | None = None) -> Jail:
    """Return the jail of a file server that serves `tree`."""
    binds, links = program_binds(server.program)
    return Jail(
        uid=0,
        gid=0,
        capabilities=(*OWNERSHIP, *_BEGINNING),
        binds=binds,
        links=links,
        devices=[NULL],
        opened=tree.opened,
        attached=tree.attached,
        limits=within_hard_limits([(RLIMIT_CORE, 0), (RLIMIT_NOFILE, MOST_FILES)]),
        whole_procfs=True,  # both generations read fs.file-max
        seccomp=barrier.program(["chroot"]),
        entrances=entrances or {},
    )


class FileServer:
    """A file server that runs. `socket` is connected to it: its descriptor is QEMU's chardev."""

    def __init__(self, process: Jailed, socket: _socket.socket, messages: int) -> None:
        self.socket = socket
        self._process = process
        self._messages = messages

    @classmethod
    def start(
        cls,
        tree: Tree,
        server: Server,
        *,
        cache: str = DEFAULT_CACHE,
        entrances: Mapping[str, str] | None = None,
    ) -> FileServer:
        """Start a file server for a tree; `entrances` lead into its cgroup, none mean ours.

        Raises InvalidArgument, NotFound and FailedPrecondition for what the tree is to be made of, with the JSON path;
        ExecutorError, OSError and Unavailable for the rest. Nothing is left then.
        """
        argv = arguments(server, cache=cache)
        jail = server_jail(server, tree, entrances)
        listener, socket = _connection()
        with contextlib.closing(listener), contextlib.ExitStack() as undo:
            undo.callback(socket.close)
            messages, theirs = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            undo.callback(os.close, messages)
            try:
                process = launch_jailed(jail, argv, {2: theirs, 3: listener.fileno()})
            except ExecutorError as error:
                raise _explained(error, jail, argv, tree) from error
            finally:
                os.close(theirs)
            undo.callback(process.close)
            _hide_the_host(process, tree)
            undo.pop_all()
        return cls(process, socket, messages)

    @property
    def pid(self) -> int:
        """The pid of virtiofsd."""
        return self._process.pid

    @property
    def pidfd(self) -> int:
        """Readable when virtiofsd has ended."""
        return self._process.pidfd

    def wait(self, timeout: float) -> int | None:
        """Wait for its end, as `Jailed.wait`."""
        return self._process.wait(timeout)

    def last_words(self) -> str:
        """Return what it said last, at most 4 KiB."""
        if self._messages < 0:
            return ""
        try:
            return os.read(self._messages, _LAST_WORDS).decode(errors="replace").strip()
        except BlockingIOError:
            return ""

    def make_root_read_only(self) -> None:
        """Make the rootfs read-only on the host, once its mount points are made. Raises ExecutorError.

        EBUSY where something is open for writing in it by then.
        """
        _in_jail(self.pidfd, [op.remount(f"{SHARE}/rootfs", set=mo.MOUNT_ATTR_RDONLY, recursive=False)])

    def close(self) -> None:
        """End it, and wait for its end. Safe to call twice. Raises DeadlineExceeded."""
        self.socket.close()
        if self._messages >= 0:
            os.close(self._messages)
            self._messages = -1
        self._process.close()


def _connection() -> tuple[_socket.socket, _socket.socket]:
    """Return a listening socket with one connection waiting, and the other end of that. No other can be made.

    An abstract name would be open to all who share the network namespace; a path is gone before anybody listens.
    """
    kind = _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC
    listener, socket = _socket.socket(_socket.AF_UNIX, kind), _socket.socket(_socket.AF_UNIX, kind)
    try:
        with own_directory(identity.DIRECTORY) as held:
            path = f"/proc/self/fd/{held}/{os.urandom(16).hex()}"
            listener.bind(path)
            try:
                listener.listen(1)
                socket.connect(path)
            finally:
                os.unlink(path)
    except BaseException:
        listener.close()
        socket.close()
        raise
    return listener, socket


def _in_jail(pidfd: int, operations: Sequence[op.Operation]) -> None:
    """Have an executor carry operations out in a jail's mount namespace, and end."""
    from pysandbox import executor
    from pysandbox.backend import Stdio

    plan = Plan(
        operations=[op.dumpable(False), op.join_process(["mount"]), op.use_root(), *operations, op.stop("done")]
    )
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    try:
        launch = executor.start(Stdio(stdin=null, stdout=null, stderr=null))
    finally:
        os.close(null)
    try:
        launch.give(plan.to_json(), {"process": pidfd})
        message = launch.next()
        if not isinstance(message, executor.Stop):
            raise Unavailable("the executor ended before it had changed a file server's mounts")
    finally:
        launch.abort()


# -- what is the host itself -------------------------------------------------------------------------------------------


def _hide_the_host(process: Jailed, tree: Tree) -> None:
    """Take file systems that are the host's kernel out of the tree, before a guest is connected.

    To write to /proc/sys, /sys or a cgroup is to change the host, whatever the file's owner. A recursive bind mount of
    the host's root would hand them to root of the guest: they are empty there. One that is asked for by a name that
    does not look like it (a link to /proc) is refused.
    """
    with open(f"/proc/{process.pid}/mountinfo", "rb") as file:
        places = kernel_mounts(file.read().decode(errors="surrogateescape"))
    for part in tree.parts:
        if f"/{part.name}" in places:
            raise FailedPrecondition(f"{part.where}: {part.source}: is the host's {places[f'/{part.name}']}, not files")
    if places:
        # A mount that lies in another one is gone with that.
        outermost = [place for place in places if not any(_is_below(place, other) for other in places)]
        hiding = [op.mask_path(f"{SHARE}{place}") for place in outermost]
        _in_jail(process.pidfd, [op.open_null("null"), *hiding])


def kernel_mounts(mountinfo: str) -> dict[str, str]:
    """Return where in the tree file systems without files of their own are mounted, and their kind.

    The table is as proc_pid_mountinfo(5) has it: of a file server that has changed its root to the tree, or will yet.
    """
    found = {}
    for line in mountinfo.splitlines():
        fields, _, rest = line.partition(" - ")
        kind, place = rest.split(" ")[0], fields.split(" ")[4].removeprefix(SHARE)
        if kind in _KERNEL_FILE_SYSTEMS and place.startswith(("/rootfs", "/mounts/")):
            found[_unescaped(place)] = kind
    return found


def _unescaped(place: str) -> str:
    """Undo the octal escapes of space, tab, newline and backslash, which comes last."""
    for code, letter in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        place = place.replace(code, letter)
    return place


def _is_below(place: str, other: str) -> bool:
    return place.startswith(other.rstrip("/") + "/")


def _explained(error: ExecutorError, jail: Jail, argv: Sequence[str], tree: Tree) -> SandboxError:
    """Return the error with the JSON path of the mount that it is about, if it is about one."""
    operations = jail_plan(jail, argv, 1).operations
    arguments_ = operations[error.index].arguments if error.index < len(operations) else {}
    place = str(arguments_.get("destination") or arguments_.get("slot") or "")
    for part in tree.parts:
        if place in (part.name, part.name.replace("mounts/", _SLOT), f"{SHARE}/{part.name}"):
            if error.errno == errno.ENOENT and error.op == "open_tree":
                return NotFound(f"{part.where}.source: {error.path}: no such file or directory")
            return FailedPrecondition(f"{part.where}: {part.source}: {error}")
    return error
