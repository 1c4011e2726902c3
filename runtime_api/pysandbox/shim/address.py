"""Where a shim listens, and how it is found: one socket for each container, or for each pod.

`/run/containerd/s/` and the SHA-256 of containerd's address, its namespace and the container's id, as containerd's own
shims have it (pkg/shim, SocketAddress). The bundle's file `address` tells containerd after it was restarted.
"""

from __future__ import annotations

import contextlib
import errno
import os
from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_STREAM, socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

DIRECTORY = "/run/containerd/s"
ADDRESS_FILE = "address"
#: Seconds for a shim that is there to answer.
_ANSWER_LIMIT = 2.0
#: Annotations that name the group, the first one wins: containerd's runc shim reads these.
GROUP_ANNOTATIONS = ("io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id")


class InUse(Exception):
    """A shim listens there already."""


def group(spec: Mapping[str, Any], container_id: str) -> str:
    """Return the id that a container's shim listens for: its pod's, or its own."""
    annotations = spec.get("annotations") or {}
    return next((annotations[name] for name in GROUP_ANNOTATIONS if annotations.get(name)), container_id)


def socket_path(address: str, namespace: str, group_id: str) -> str:
    """Return the path of the socket."""
    try:
        from _sha256 import sha256  # type: ignore[import-not-found]  # hashlib would load OpenSSL
    except ImportError:  # Python 3.12
        from _sha2 import sha256  # type: ignore[import-not-found]

    joined = os.path.normpath(f"{address}/{namespace}/{group_id}")
    return f"{DIRECTORY}/{sha256(joined.encode()).hexdigest()}"


def listen(path: str) -> socket:
    """Listen there, for root alone. Raises InUse if a shim answers; what a dead one left is taken away."""
    os.makedirs(os.path.dirname(path), mode=0o711, exist_ok=True)
    for _ in range(8):
        listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC)
        try:
            _bind(listener, path)
            listener.listen(64)
            return listener
        except OSError as error:
            listener.close()
            if error.errno != errno.EADDRINUSE:
                raise
        if answers(path):
            raise InUse
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE), path)


def _bind(listener: socket, path: str) -> None:
    before = os.umask(0o177)
    try:
        listener.bind(path)
    finally:
        os.umask(before)


def answers(path: str) -> bool:
    """Say whether somebody listens there."""
    with contextlib.closing(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC)) as probe:
        probe.settimeout(_ANSWER_LIMIT)
        try:
            probe.connect(path)
        except OSError as error:
            return isinstance(error, BlockingIOError | TimeoutError)  # it is there, and busy
        return True


def write_address(bundle: str, path: str) -> None:
    """Write the bundle's address file, all of it or nothing."""
    temporary = os.path.join(bundle, f".{ADDRESS_FILE}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb", buffering=0) as file:
        file.write(f"unix://{path}".encode())
    os.rename(temporary, os.path.join(bundle, ADDRESS_FILE))


def read_address(bundle: str) -> str:
    """Return the socket's path from the address file, empty if there is none."""
    try:
        with open(os.path.join(bundle, ADDRESS_FILE), encoding="utf-8") as file:
            return file.read(4096).strip().removeprefix("unix://")
    except (OSError, ValueError):
        return ""
