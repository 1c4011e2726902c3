"""sd_notify(3) out of a container: a socket of ours inside it, and READY=1 passed on to the caller's NOTIFY_SOCKET.

As under runc, a directory of the state directory is mounted read-only at /run/notify when the container is created;
the socket in it is bound just before the program starts. Nothing a container sends is passed on but the one fact that
it is ready; the pid that goes with it is the one we know.
"""

from __future__ import annotations

import _socket
import contextlib
import os
import select

from pysandbox.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pysandbox.oci.bundle import Bundle
    from pysandbox.oci.types import Mount

DIRECTORY = "notify"
_NAME = "notify.sock"
_INSIDE = "/run/notify"
#: Seconds that the caller's manager has to acknowledge, as runc gives it.
BARRIER_LIMIT = 30.0


class NotifySocket:
    """The socket in a container's state directory, from before `start` until it is ready or has ended."""

    def __init__(self, state_dir: str, host: str) -> None:
        self._host = _connect(host)
        self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
        try:
            _bind(self._socket, f"{state_dir}/{DIRECTORY}")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close both sockets."""
        self._host.close()
        self._socket.close()

    def relay(self, pid: int) -> None:
        """Wait for the container to be ready and pass it on, or for its init to end; then close."""
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            self.close()
            return
        try:
            poll = select.poll()
            for descriptor in (pidfd, self._socket.fileno()):
                poll.register(descriptor, select.POLLIN)
            while self._socket.fileno() in dict(poll.poll()):
                if any(line == b"READY=1" for line in self._socket.recv(4096).split(b"\n")):
                    with contextlib.suppress(OSError):  # the manager has gone meanwhile
                        self._tell(pid)
                    return
        finally:
            os.close(pidfd)
            self.close()

    def _tell(self, pid: int) -> None:
        """Say READY and MAINPID, then wait until the manager has taken note (sd_notify_barrier(3))."""
        self._host.send(b"READY=1\n")
        self._host.send(f"MAINPID={pid}\n".encode())
        reader, writer = os.pipe()
        try:
            rights = (_socket.SOL_SOCKET, _socket.SCM_RIGHTS, writer.to_bytes(4, "little"))
            self._host.sendmsg([b"BARRIER=1"], [rights])
        finally:
            os.close(writer)
        with open(reader, "rb", buffering=0):
            poll = select.poll()
            poll.register(reader, 0)  # POLLHUP comes unasked when the last writing end is closed
            poll.poll(BARRIER_LIMIT * 1000)


def _connect(host: str) -> _socket.socket:
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
    try:
        connection.connect(f"\0{host[1:]}" if host.startswith("@") else host)
    except OSError as error:
        connection.close()
        raise InvalidArgument(f"NOTIFY_SOCKET={host}: {error.strerror or error}") from error
    return connection


def _bind(listener: _socket.socket, directory: str) -> None:
    """Bind below a descriptor: a whole path may be longer than sun_path, 108 bytes."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        path = f"/proc/self/fd/{descriptor}/{_NAME}"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        # For whichever user the container's program is. By umask, not chmod(2): a container that may mount can make its
        # side of the directory writable and put a link to a file of the host in the socket's place.
        umask = os.umask(0)
        try:
            listener.bind(path)
        finally:
            os.umask(umask)
    finally:
        os.close(descriptor)


def bind(state_dir: str, host: str) -> NotifySocket | None:
    """Bind a container's socket; None for a container that was created without one."""
    return NotifySocket(state_dir, host) if os.path.isdir(f"{state_dir}/{DIRECTORY}") else None


def with_socket(bundle: Bundle, state_dir: str) -> Bundle:
    """Return a bundle whose container sees its socket, by mount and by environment."""
    return bundle.extended([f"NOTIFY_SOCKET={_INSIDE}/{_NAME}"], [_mount(state_dir)])


def _mount(state_dir: str) -> Mount:
    options = ["bind", "nosuid", "noexec", "nodev", "ro"]
    return {"destination": _INSIDE, "source": f"{state_dir}/{DIRECTORY}", "type": "bind", "options": options}
