"""What `create`, `run` and `exec` share: the flags, the descriptors handed in, and what is handed out."""

from __future__ import annotations

import os

from pysandbox.backend import Options, Stdio
from pysandbox.caller import current
from pysandbox.cli.flags import Flag
from pysandbox.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from pysandbox.backend import Container, Process
    from pysandbox.cli.flags import Parsed
    from pysandbox.cli.invocation import Invocation
    from pysandbox.lifecycle import Runtime
    from pysandbox.oci.bundle import Bundle

CONSOLE_FLAGS = (
    Flag("console-socket", "AF_UNIX socket that gets the master end of the terminal", "string"),
    Flag("pidfd-socket", "AF_UNIX socket that gets a pidfd of the process", "string"),
    Flag("pid-file", "file to write the process id to", "string"),
)
PRESERVE_FLAG = Flag("preserve-fds", "pass N more descriptors on (stdio + $LISTEN_FDS + N in total)", "int")
CREATE_FLAGS = (
    Flag("bundle", "bundle directory, instead of the current one", "string", "b"),
    Flag("config", "file of the spec, in the bundle (as crun)", "string", "f", default="config.json"),
    *CONSOLE_FLAGS,
    Flag("no-pivot", "change the root without pivot_root(2), for a rootfs on a ramdisk"),
    Flag("no-new-keyring", "keep the caller's session keyring"),
    PRESERVE_FLAG,
    Flag("trace", "print the time of each step to standard error"),
)


def options(invocation: Invocation) -> Options:
    """Return the backend's options that the flags of `create` or `run` ask for."""
    flags = invocation.parsed
    return Options(
        plain_newlines=not flags["console-socket"],
        systemd_cgroup=invocation.globals_["systemd-cgroup"],
        no_pivot=flags["no-pivot"],
        no_new_keyring=flags["no-new-keyring"],
        trace=Trace() if flags["trace"] else None,
        warn=invocation.journal.warning,
        debug=invocation.journal.debug if invocation.globals_["debug"] else None,
    )


class Trace:
    """Prints how long after the previous step, and after the first, each step came."""

    def __init__(self) -> None:
        self._first = self._previous = 0

    def __call__(self, step: str, now: int) -> None:
        """Take one step's name and its CLOCK_MONOTONIC time in nanoseconds."""
        self._first = self._first or now
        since = now - (self._previous or now)
        self._previous = now
        os.write(2, f"{(now - self._first) / 1e6:9.3f} ms  +{since / 1e6:8.3f}  {step}\n".encode())


def listen_descriptors(inherited: frozenset[int]) -> int:
    """Return how many sockets systemd passed to us: LISTEN_FDS, if LISTEN_PID is ours (sd_listen_fds(3))."""
    count, pid = os.environ.get("LISTEN_FDS", ""), os.environ.get("LISTEN_PID", "")
    if not count.isdecimal() or pid != str(current().pid):
        return 0
    return len([number for number in range(3, 3 + min(int(count), 4096)) if number in inherited])


def preserved(flags: Parsed, inherited: frozenset[int], listening: int = 0) -> tuple[int, ...]:
    """Return the descriptors to pass on, all of which the caller must have left open."""
    wanted = flags["preserve-fds"]
    if not 0 <= wanted <= 4096:
        raise InvalidArgument(f"--preserve-fds {wanted}: must be between 0 and 4096")
    numbers = tuple(range(3, 3 + listening + wanted))
    for number in numbers:
        if number not in inherited:
            raise InvalidArgument(
                f"unable to stat preserved-fd {number - 3 - listening} (of {wanted}): "
                f"stat /proc/self/fd/{number}: no such file or directory"
            )
    return numbers


def prepare(
    invocation: Invocation, container_id: str, bundle: Bundle, *, detach: bool
) -> tuple[Runtime, Callable[[], Container]]:
    """Check what the flags ask for and connect to what they name; return the runtime, and what creates the container.

    Changes to the bundle's directory, where hooks run.
    """
    from pysandbox import lifecycle
    from pysandbox.console import check_console

    flags, terminal = invocation.parsed, bool(bundle.spec["process"].get("terminal"))
    check_console(terminal=terminal, detach=detach, console_socket=flags["console-socket"])
    listening = listen_descriptors(invocation.inherited)
    descriptors = preserved(flags, invocation.inherited, listening)
    if listening:
        bundle = bundle.extended([f"LISTEN_FDS={listening}", "LISTEN_PID=1"])
    runtime = invocation.runtime()
    directories: tuple[str, ...] = ()
    if os.environ.get("NOTIFY_SOCKET"):
        from pysandbox import notify

        bundle = notify.with_socket(bundle, f"{runtime.store.path}/{container_id}")
        directories = (notify.DIRECTORY,)
    deliver = delivery(flags)
    os.chdir(bundle.path)
    return runtime, lambda: lifecycle.create(
        runtime,
        container_id,
        bundle,
        stdio=stdio(bundle.spec["process"], descriptors),
        options=options(invocation),
        deliver=deliver,
        directories=directories,
    )


def stdio(process: Mapping[str, Any], descriptors: tuple[int, ...]) -> Stdio:
    """Return the caller's descriptors, or a terminal, as the process's."""
    return Stdio(terminal=bool(process.get("terminal")), preserved=descriptors)


def delivery(flags: Parsed) -> Callable[[Process], None]:
    """Connect to the sockets the flags name; return what hands a new process out: console, pidfd, pid file."""
    from pysandbox.console import connect

    # Absolute before we change to the bundle's directory.
    pid_file = os.path.abspath(flags["pid-file"]) if flags["pid-file"] else ""
    send_console = connect(flags["console-socket"]) if flags["console-socket"] else None
    send_pidfd = connect(flags["pidfd-socket"]) if flags["pidfd-socket"] else None

    def deliver(process: Process) -> None:
        if send_console is not None and process.console is not None:
            with open(process.console, "rb", buffering=0) as master:
                send_console(master.fileno(), "/dev/ptmx")
        if send_pidfd is not None:
            with open(os.pidfd_open(process.pid), "rb", buffering=0) as pidfd:
                send_pidfd(pidfd.fileno(), "pidfd")
        if pid_file:
            write_pid_file(pid_file, process.pid)

    return deliver


def write_pid_file(path: str, pid: int) -> None:
    """Write a pid, all of it or nothing: who sees the file can read it."""
    directory, name = os.path.split(path)
    temporary = os.path.join(directory, f".{name}.{os.urandom(4).hex()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        with open(descriptor, "wb", buffering=0) as file:
            file.write(str(pid).encode())
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
