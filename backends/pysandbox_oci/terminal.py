"""The socket over which a runtime sends the master of a terminal: `--console-socket`, as runc's docs/terminals.md says.

Our own caller's socket is not handed on: the front end wants the master first, to resize it or to relay it.
"""

from __future__ import annotations

import _socket
import contextlib
import os
import select
import sys

from pysandbox.errors import Unavailable

#: Bytes of a path in sockaddr_un, without the last (unix(7)).
_LONGEST_PATH = 107
#: Seconds for a runtime that has ended to have sent the terminal.
_PATIENCE = 1.0
#: Bytes of the master's name, which nobody needs.
_LONGEST_NAME = 4096


class ConsoleSocket:
    """Listens in the container's directory; gone, with what came, when `held` closes. `path` is for the runtime.

    Where the directory's path is too long for a socket's, it leads there through our open descriptor of it: no runtime
    gets that, which could hand it on into the container.
    """

    def __init__(self, state_dir: str, held: contextlib.ExitStack) -> None:
        name = os.urandom(4).hex()
        self._directory = os.open(state_dir, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        held.callback(os.close, self._directory)
        self.path = f"{state_dir}/{name}"
        if len(os.fsencode(self.path)) > _LONGEST_PATH:
            self.path = f"/proc/{os.getpid()}/fd/{self._directory}/{name}"
        self._listener = _socket.socket(
            _socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK
        )
        held.callback(self._listener.close)
        self._listener.bind(f"/proc/self/fd/{self._directory}/{name}")
        held.callback(self._unlink, name)
        self._listener.listen(1)

    def _unlink(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._directory)

    def take(self) -> int:
        """Return the master that a runtime which has ended well has sent, the caller's to close. Raises Unavailable.

        It may have left the sending to a process that goes on, which has a moment for it.
        """
        poll = select.poll()
        poll.register(self._listener.fileno(), select.POLLIN)
        if not poll.poll(_PATIENCE * 1000):
            raise Unavailable(f"process.terminal: the runtime has sent no terminal within {_PATIENCE:g} s of its end")
        number, _ = self._listener._accept()  # type: ignore[attr-defined]  # the C half has no other
        connection = _socket.socket(fileno=number)
        try:
            return _receive(connection)
        finally:
            connection.close()


def _receive(connection: _socket.socket) -> int:
    connection.settimeout(_PATIENCE)
    _, control, _, _ = connection.recvmsg(_LONGEST_NAME, _socket.CMSG_SPACE(4 * 8), _socket.MSG_CMSG_CLOEXEC)
    descriptors = [
        int.from_bytes(payload[at : at + 4], sys.byteorder, signed=True)
        for level, kind, payload in control
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS
        for at in range(0, len(payload) - 3, 4)
    ]
    if len(descriptors) == 1 and os.isatty(descriptors[0]):
        return descriptors[0]
    for descriptor in descriptors:
        os.close(descriptor)
    raise Unavailable(f"process.terminal: the runtime has sent {len(descriptors)} descriptors instead of one terminal")
