"""The few rtnetlink(7) requests that mirroring needs: requests with an acknowledgement, dumps, attributes.

pyroute2 is the project's library for this, and the tests hold these messages to its decoders. A start does not load it:
importing any of its modules imports all of them, 200 ms of processor time on the reference machine while the guest
boots on the same two cores, and 19 MB that stay in every sandbox process. What is used here takes 2 ms and no memory.
"""

from __future__ import annotations

import _socket
import errno
import os
import struct

from pysandbox.errors import DeadlineExceeded, InvalidArgument, Unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

# linux/netlink.h
NETLINK_ROUTE = 0
SOL_NETLINK = 270
NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK = 10, 11, 12
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP_INTR, NLM_F_DUMP = 0x1, 0x4, 0x10, 0x300
NLM_F_EXCL, NLM_F_CREATE = 0x200, 0x400
NLM_F_ACK_TLVS = 0x200
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLMSGERR_ATTR_MSG = 1
NLA_TYPE_MASK = 0x3FFF  # without NLA_F_NESTED and NLA_F_NET_BYTEORDER

#: length, type, flags, sequence number, port
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
#: What one read may bring; the kernel fills at most 32 KiB.
_READ = 64 * 1024
#: Seconds. The kernel answers in microseconds; what can take long is the lock that all of rtnetlink shares.
_TIMEOUT = 10.0
#: A dump of what changes meanwhile is asked for again.
_ATTEMPTS = 5


def attribute(kind: int, value: bytes) -> bytes:
    """Return an attribute, padded to four bytes. Nested attributes are the value of another."""
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, kind) + value + b"\0" * (-length % 4)


def text(kind: int, value: str) -> bytes:
    """Return an attribute with a NUL-terminated string."""
    return attribute(kind, value.encode() + b"\0")


def number(kind: int, value: int) -> bytes:
    """Return an attribute with a u32."""
    return attribute(kind, struct.pack("=I", value))


def attributes(data: bytes) -> dict[int, bytes]:
    """Return the attributes' values by type, the last of each type. Raises Unavailable for what is none."""
    found = {}
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        if not _ATTRIBUTE.size <= length <= len(data):
            raise Unavailable("netlink: an attribute is longer than its message")
        found[kind & NLA_TYPE_MASK] = data[_ATTRIBUTE.size : length]
        data = data[length + -length % 4 :]
    return found


def read_number(value: bytes | None, default: int = 0) -> int:
    """Return a u32 attribute's value."""
    return int(struct.unpack_from("=I", value)[0]) if value is not None and len(value) >= 4 else default


def read_text(value: bytes | None) -> str:
    """Return a string attribute's value, what is no UTF-8 escaped as in file names."""
    return os.fsdecode((value or b"").split(b"\0", 1)[0])


class Netlink:
    """A connection to the network namespace that the calling thread is in; it stays there wherever the thread goes."""

    def __init__(self) -> None:
        self._socket = _socket.socket(_socket.AF_NETLINK, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC, NETLINK_ROUTE)
        self._sequence = 0
        try:
            self._socket.settimeout(_TIMEOUT)
            for option in (NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK):
                self._socket.setsockopt(SOL_NETLINK, option, 1)
            self._socket.bind((0, 0))
        except BaseException:
            self._socket.close()
            raise

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def request(self, kind: int, body: bytes, flags: int = 0, *, about: str) -> None:
        """Ask for a change and wait until it is made. `about` says what is asked, for the OSError if it is refused."""
        self._send(kind, NLM_F_REQUEST | NLM_F_ACK | flags, body)
        for answer, _flags, payload in self._receive(about):
            if answer == NLMSG_ERROR:
                _check(payload, _flags, about)
                return

    def dump(self, kind: int, body: bytes, *, limit: int, about: str) -> list[bytes]:
        """Return the bodies of all messages of a dump, at most `limit` (else InvalidArgument). Raises OSError."""
        for _ in range(_ATTEMPTS):
            found = self._dump(kind, body, limit, about)
            if found is not None:
                return found
        raise Unavailable(f"network: {about}: changed {_ATTEMPTS} times while they were read")

    def _dump(self, kind: int, body: bytes, limit: int, about: str) -> list[bytes] | None:
        self._send(kind, NLM_F_REQUEST | NLM_F_DUMP, body)
        found: list[bytes] = []
        interrupted = False
        for answer, flags, payload in self._receive(about):
            interrupted = interrupted or bool(flags & NLM_F_DUMP_INTR)
            if answer in (NLMSG_DONE, NLMSG_ERROR):
                _check(payload, flags, about)
                break
            found.append(payload)
            if len(found) > limit:
                self._socket.close()  # the rest of the dump would be taken for the next one's
                raise InvalidArgument(f"network: {about}: more than {limit} in the container's network namespace")
        return None if interrupted else found

    def _send(self, kind: int, flags: int, body: bytes) -> None:
        self._sequence += 1
        self._socket.send(_HEADER.pack(_HEADER.size + len(body), kind, flags, self._sequence, 0) + body)

    def _receive(self, about: str) -> Iterator[tuple[int, int, bytes]]:
        while True:
            try:
                data, sender = self._socket.recvfrom(_READ)
            except TimeoutError:
                raise DeadlineExceeded(f"network: {about}: no answer from the kernel within {_TIMEOUT:.0f} s") from None
            if sender[0] == 0:  # the kernel; other processes of root may write to this socket too
                yield from _messages(data, self._sequence)


def _messages(data: bytes, sequence: int) -> Iterator[tuple[int, int, bytes]]:
    while len(data) >= _HEADER.size:
        length, kind, flags, answered, _port = _HEADER.unpack_from(data)
        if not _HEADER.size <= length <= len(data):
            raise Unavailable("netlink: a message is longer than what was read")
        if answered == sequence:
            yield kind, flags, data[_HEADER.size : length]
        data = data[length + -length % 4 :]


def _check(payload: bytes, flags: int, about: str) -> None:
    code = -struct.unpack_from("=i", payload)[0] if len(payload) >= 4 else errno.EPROTO
    if code == 0:
        return
    # With NETLINK_CAP_ACK an error holds only the header of what it answers, then the kernel's own words.
    details = attributes(payload[4 + _HEADER.size :]) if flags & NLM_F_ACK_TLVS else {}
    said = read_text(details.get(NLMSGERR_ATTR_MSG))
    raise OSError(code, f"network: {about}: {os.strerror(code)}{f' ({said})' if said else ''}")
