"""Frames between launcher and spare: a length, one JSON object, and the descriptors that go with it.

4 bytes length (little endian), then that many bytes of JSON; descriptors ride on the first byte as SCM_RIGHTS
(unix(7)). docs/warm.md lists the messages.
"""

from __future__ import annotations

import _socket
import json
import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

#: Bytes. The largest frames are environments, which execve(2) limits to far less.
FRAME_LIMIT = 16 * 1024 * 1024
#: The kernel's own limit for one message: SCM_MAX_FD of include/net/scm.h.
DESCRIPTOR_LIMIT = 253
_HEADER = 4
_RIGHTS = DESCRIPTOR_LIMIT * 4


class Closed(Exception):
    """The other side has closed the connection, or said what is no frame."""


class Truncated(Closed):
    """Descriptors of a frame were lost, for want of room for them; the next frame can be received."""


def send(connection: _socket.socket, message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
    """Send a frame. Raises Closed when nobody is there any more."""
    body = json.dumps(message, separators=(",", ":")).encode()
    rest = memoryview(len(body).to_bytes(_HEADER, "little") + body)
    control = []
    if descriptors:
        rights = b"".join(descriptor.to_bytes(4, "little") for descriptor in descriptors)
        control = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)]
    try:
        rest = rest[connection.sendmsg([rest], control, _socket.MSG_NOSIGNAL) :]
        while rest:
            rest = rest[connection.send(rest, _socket.MSG_NOSIGNAL) :]
    except (BrokenPipeError, ConnectionResetError, TimeoutError) as error:
        raise Closed(str(error)) from error


def receive(connection: _socket.socket, seconds: float | None = None) -> tuple[dict[str, Any], list[int]]:
    """Receive a frame: the object, and its descriptors, which are CLOEXEC and the caller's to close.

    Raises Closed, also when it has not come in whole after so many seconds, and Truncated.
    """
    end = None if seconds is None else time.monotonic() + seconds
    if seconds is not None:
        connection.settimeout(seconds)
    try:
        # Never more than the header: the next frame's descriptors would come with it.
        header, control, flags, _ = connection.recvmsg(_HEADER, _socket.CMSG_SPACE(_RIGHTS), _socket.MSG_CMSG_CLOEXEC)
        descriptors = _descriptors(control)
        try:
            length = int.from_bytes(header + _exactly(connection, _HEADER - len(header), end), "little")
            if length > FRAME_LIMIT:
                raise Closed("no frame")
            body = _exactly(connection, length, end)
            if flags & _socket.MSG_CTRUNC:
                raise Truncated("descriptors are lost")
            message = json.loads(body)
            if not isinstance(message, dict):
                raise Closed("no frame")
        except BaseException:
            for descriptor in descriptors:
                os.close(descriptor)
            raise
    except (ConnectionResetError, TimeoutError, ValueError, RecursionError) as error:
        raise Closed(str(error)) from error
    return message, descriptors


def _descriptors(control: list[tuple[int, int, bytes]]) -> list[int]:
    return [
        int.from_bytes(payload[place : place + 4], "little")
        for level, kind, payload in control
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS
        for place in range(0, len(payload) - len(payload) % 4, 4)
    ]


def _exactly(connection: _socket.socket, length: int, end: float | None) -> bytes:
    """Read so many bytes. One recv(2) is the rule: a frame is written at once."""
    data = b""
    while len(data) < length:
        if end is not None and data:
            connection.settimeout(max(end - time.monotonic(), 0.001))
        piece = connection.recv(length - len(data))
        if not piece:
            raise Closed("end of file")
        data += piece
    return data
