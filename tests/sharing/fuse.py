"""A hostile guest without a machine: raw FUSE requests over vhost-user, whatever a kernel would never send.

Sources: docs/interop/vhost-user.rst of QEMU, the virtio 1.1 specification (2.6, split virtqueues; 5.11, file system
device), include/uapi/linux/fuse.h.
"""

from __future__ import annotations

import array
import mmap
import os
import select
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import _socket

SIZE = 1 << 20
BASE = 0x7000_0000_0000  # the address that the master claims to have the memory at
_QUEUE = 16
_REQUEST, _ANSWER, _LONGEST = 0x40000, 0x80000, 0x20000
_VERSION, _REPLY = 1, 4
(GET_FEATURES, SET_FEATURES, SET_OWNER, SET_MEM_TABLE, SET_VRING_NUM, SET_VRING_ADDR, SET_VRING_BASE) = (
    1,
    2,
    3,
    5,
    8,
    9,
    10,
)
(SET_VRING_KICK, SET_VRING_CALL, GET_PROTOCOL_FEATURES, SET_PROTOCOL_FEATURES, SET_VRING_ENABLE) = (12, 13, 15, 16, 18)
_PROTOCOL_FEATURES, _VERSION_1 = 1 << 30, 1 << 32

(LOOKUP, GETATTR, SETATTR, READLINK, SYMLINK, MKNOD, MKDIR, UNLINK, RMDIR, RENAME, LINK, OPEN, READ, WRITE) = (
    1, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14, 15, 16,
)  # fmt: skip
(SETXATTR, INIT, OPENDIR, CREATE) = (21, 26, 27, 35)
ROOT = 1


class Ended(Exception):
    """The file server has hung up, or says nothing."""


class Fuse:
    """A connection as QEMU would have it; `request` answers (error, payload), error 0 or an errno."""

    def __init__(self, socket: _socket.socket) -> None:
        self._socket = socket
        self._file = os.memfd_create("fuse")
        os.ftruncate(self._file, SIZE)
        self._memory = mmap.mmap(self._file, SIZE)
        self._kicks = [os.eventfd(0) for _ in range(2)]
        self._calls = [os.eventfd(0) for _ in range(2)]
        self._unique = 0
        self._turn = 0
        self._connect()
        error, _ = self.request(INIT, 0, struct.pack("=IIIIII40x", 7, 36, 1 << 17, 0, 0, 0))
        assert error == 0, error

    # -- vhost-user ----------------------------------------------------------------------------------------------------

    def _send(self, number: int, payload: bytes = b"", descriptor: int | None = None) -> None:
        message = struct.pack("=III", number, _VERSION, len(payload)) + payload
        passed = (
            [] if descriptor is None else [(1, 1, array.array("i", [descriptor]).tobytes())]
        )  # SOL_SOCKET, SCM_RIGHTS
        self._socket.sendmsg([message], passed)

    def _ask(self, number: int) -> int:
        self._send(number)
        self._socket.settimeout(5)
        answer = b""
        while len(answer) < 20:
            answer += self._socket.recv(20 - len(answer))
        return int.from_bytes(answer[12:20], "little")

    def _connect(self) -> None:
        self._send(SET_OWNER)
        features = self._ask(GET_FEATURES)
        self._ask(GET_PROTOCOL_FEATURES)
        self._send(SET_PROTOCOL_FEATURES, struct.pack("=Q", 0))
        self._send(SET_FEATURES, struct.pack("=Q", features & (_PROTOCOL_FEATURES | _VERSION_1)))
        self._send(SET_MEM_TABLE, struct.pack("=IIQQQQ", 1, 0, 0, SIZE, BASE, 0), self._file)
        for queue in range(2):
            at = BASE + queue * 0x10000
            self._send(SET_VRING_NUM, struct.pack("=II", queue, _QUEUE))
            self._send(SET_VRING_BASE, struct.pack("=II", queue, 0))
            self._send(SET_VRING_ADDR, struct.pack("=IIQQQQ", queue, 0, at, at + 0x3000, at + 0x2000, 0))
            self._send(SET_VRING_CALL, struct.pack("=Q", queue), self._calls[queue])
            self._send(SET_VRING_KICK, struct.pack("=Q", queue), self._kicks[queue])
            self._send(SET_VRING_ENABLE, struct.pack("=II", queue, 1))
        self._ask(GET_FEATURES)  # all before it has been done when the answer comes

    # -- FUSE ----------------------------------------------------------------------------------------------------------

    def request(self, opcode: int, node: int, payload: bytes = b"", uid: int = 0, gid: int = 0) -> tuple[int, bytes]:
        """Send one request as a user of the guest; return its error and what came back."""
        self._unique += 1
        header = struct.pack("=IIQQIIIHH", 40 + len(payload), opcode, self._unique, node, uid, gid, 1, 0, 0)
        return self.raw(header + payload)

    def raw(self, message: bytes, length: int | None = None) -> tuple[int, bytes]:
        """Put any bytes into the request queue; `length` is what the descriptor says, if not the truth."""
        queue = 0x10000
        self._memory[_REQUEST : _REQUEST + len(message)] = message
        self._memory[_ANSWER : _ANSWER + 16] = bytes(16)
        out = struct.pack("=QIHH", _REQUEST, len(message) if length is None else length, 1, 1)
        into = struct.pack("=QIHH", _ANSWER, _LONGEST, 2, 0)
        self._memory[queue : queue + 32] = out + into
        self._memory[queue + 0x2000 + 4 + 2 * (self._turn % _QUEUE) :][:2]
        position = queue + 0x2000 + 4 + 2 * (self._turn % _QUEUE)
        self._memory[position : position + 2] = struct.pack("=H", 0)
        self._turn += 1
        self._memory[queue + 0x2002 : queue + 0x2004] = struct.pack("=H", self._turn & 0xFFFF)
        os.eventfd_write(self._kicks[1], 1)
        self._wait()
        size, error, _ = struct.unpack("=IiQ", self._memory[_ANSWER : _ANSWER + 16])
        return -error, bytes(self._memory[_ANSWER + 16 : _ANSWER + max(16, size)])

    def _wait(self) -> None:
        for _ in range(500):
            used = struct.unpack("=H", self._memory[0x13002:0x13004])[0]
            if used == self._turn & 0xFFFF:
                return
            ready = select.select([self._socket, self._calls[1]], [], [], 0.01)[0]
            if self._calls[1] in ready:
                os.eventfd_read(self._calls[1])
            elif self._socket in ready and not self._socket.recv(1, 2):  # MSG_PEEK
                raise Ended("it has hung up")
        raise Ended("it has said nothing for 5 s")

    def lookup(self, parent: int, name: str) -> int:
        """Return the node of a name, 0 for an error."""
        error, entry = self.request(LOOKUP, parent, name.encode() + b"\0")
        return 0 if error else int(struct.unpack("=Q", entry[:8])[0])

    def walk(self, *names: str) -> int:
        """Return the node of a path below the root."""
        node = ROOT
        for name in names:
            node = self.lookup(node, name)
            assert node, name
        return node

    def inode(self, node: int) -> int:
        """Return the inode number that a node has on the host."""
        error, answer = self.request(GETATTR, node, bytes(16))
        assert error == 0, error
        return int(struct.unpack("=Q", answer[16:24])[0])

    def close(self) -> None:
        self._memory.close()
        for descriptor in (self._file, *self._kicks, *self._calls):
            os.close(descriptor)
