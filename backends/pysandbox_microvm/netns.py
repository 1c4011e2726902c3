"""Network namespaces: the spec's, as a descriptor, and a function carried out inside one."""

from __future__ import annotations

import _socket
import errno
import fcntl
import os

from pysandbox.errors import FailedPrecondition, InvalidArgument
from pysandbox.linux import setns, unshare

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Callable
    from typing import TypeVar

    from pysandbox.oci.types import Spec

    Result = TypeVar("Result")

#: Bound by the sandbox that has a namespace.
_CLAIM = b"\0pysandbox.network"
CLONE_NEWNET = 0x40000000
NS_GET_NSTYPE = 0xB703
#: Of the calling thread; /proc/self is the process's first thread.
_OWN = "/proc/thread-self/ns/net"
#: The host's, or what is the host for whoever runs this in a container.
_HOST = "/proc/1/ns/net"


def network_path(spec: Spec) -> str | None:
    """Return the path of the network namespace that a container is to have, None for a new one.

    Raises InvalidArgument where it is to have the host's: a guest's kernel has a network stack of its own.
    """
    for number, namespace in enumerate(spec.get("linux", {}).get("namespaces") or ()):
        if namespace["type"] == "network":
            path = namespace.get("path") or None
            if path in (_HOST, "/proc/self/ns/net"):
                raise _host_network(f"linux.namespaces[{number}].path: {path}")
            return path
    raise _host_network('linux.namespaces: no "network"')


def open_namespace(path: str | None) -> int:
    """Open a network namespace, or make a new one without a path, and return its descriptor (CLOEXEC).

    Raises InvalidArgument for what is none, or the host's.
    """
    if path is None:
        return in_thread(_unshared)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise InvalidArgument(f"linux.namespaces: network namespace {path}: {error.strerror}") from None
    try:
        if not is_network(descriptor):
            raise InvalidArgument(f"linux.namespaces: {path}: not a network namespace")
        if is_host(descriptor):
            raise _host_network(f"linux.namespaces: {path}")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def is_network(descriptor: int) -> bool:
    """Say whether a descriptor is that of a network namespace."""
    try:
        return fcntl.ioctl(descriptor, NS_GET_NSTYPE) == CLONE_NEWNET
    except OSError:
        return False


def is_host(namespace: int) -> bool:
    """Say whether a namespace is that of process 1, where this one may ask, or the calling thread's own.

    The runtime's own is never a container's: what the runtime and its caller are connected by would be the guest's.
    """
    wanted = _identity(os.fstat(namespace))
    return wanted == _identity(os.stat(_OWN)) or wanted == _host_identity()


def _host_identity() -> tuple[int, int] | None:
    try:
        return _identity(os.stat(_HOST))
    except PermissionError:  # a security module's, or a container's root that may not look at process 1
        return None


def claim() -> socket:
    """Claim the calling thread's network namespace for one sandbox, until the socket that is returned is closed.

    Two guests in one namespace would each have a loopback device of its own: what shares a namespace to talk would not
    be heard. An abstract unix(7) name is the namespace's, and gone with its holder. Raises FailedPrecondition.
    """
    held = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
    try:
        held.bind(_CLAIM)
    except OSError as error:
        held.close()
        if error.errno != errno.EADDRINUSE:
            raise
        raise FailedPrecondition(
            "network: another sandbox has this network namespace: a virtual machine shares its network only with"
            " containers in the same machine"
        ) from None
    return held


def forget_network(path: str) -> None:
    """Give the interfaces of a spec's network namespace back that a killed sandbox process had mirrored."""
    if path:
        from pysandbox_microvm.network import remove_leftovers_at

        remove_leftovers_at(path)


def within(namespace: int, function: Callable[[], Result]) -> Result:
    """Carry out `function` in a network namespace: here if this thread is in it, else on a thread that enters it.

    What it opens there (netlink sockets, taps) stays there. Its exceptions are raised here.
    """
    if _identity(os.stat(_OWN)) == _identity(os.fstat(namespace)):
        return function()

    def enter() -> Result:
        setns(namespace, CLONE_NEWNET)
        return function()

    return in_thread(enter)


def in_thread(function: Callable[[], Result]) -> Result:
    """Carry out `function` on a thread that ends with it: what it does to its namespaces is nobody else's."""
    return begin_thread(function)()


def begin_thread(function: Callable[[], Result]) -> Callable[[], Result]:
    """Begin `function` on a thread; return what waits for it and returns, or raises, what it did."""
    import _thread

    results: list[Result] = []
    errors: list[BaseException] = []
    done = _thread.allocate_lock()
    done.acquire()

    def run() -> None:
        try:
            results.append(function())
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            errors.append(error)
        finally:
            done.release()

    def result() -> Result:
        with done:
            if errors:
                raise errors[0]
            return results[0]

    _thread.start_new_thread(run, ())
    return result


def _unshared() -> int:
    unshare(CLONE_NEWNET)
    return os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _host_network(where: str) -> InvalidArgument:
    return InvalidArgument(
        f"{where}: the host's network cannot be a guest's: give the container a network namespace,"
        " new or by path, or use the namespaces backend"
    )
