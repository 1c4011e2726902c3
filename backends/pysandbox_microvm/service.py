"""How commands talk to the sandbox process: JSON frames with descriptors over a socket in the state directory.

The socket is `STATE_DIR/sandbox.sock`, 0600, and takes nobody who is not of our own user. One connection is one
request, `{NAME: {argument: value, …}}`, and one answer, `{"answer": {…}}` or `{"error": {…}}`; `oom` alone is answered
again and again.

The frames are those of the warm start (`pysandbox.warm.wire`). Errors keep their class: a leaf of `pysandbox.errors`,
an OSError with its number, or the executor's with what failed.
"""

from __future__ import annotations

import _socket
import contextlib
import os

from pysandbox import errors
from pysandbox.executor import ExecutorError
from pysandbox.warm.wire import Closed, receive, send

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

SOCKET = "sandbox.sock"
#: Commands that may wait to be accepted, and those that are served at a time.
BACKLOG = 128
#: Seconds for an answer where the guest has something to do, and where it has not.
PATIENCE = 90.0
QUICK = 20.0

_FIELDS = ("op", "index", "call", "path", "errno", "text")


# -- errors ------------------------------------------------------------------------------------------------------------


def error_document(error: BaseException) -> dict[str, Any]:
    """Return an error as a JSON object."""
    if isinstance(error, ExecutorError):
        return {"kind": "ExecutorError", **{name: getattr(error, name) for name in _FIELDS}}
    if isinstance(error, errors.SandboxError):
        return {"kind": _leaf(error), "text": str(error)}
    if isinstance(error, OSError):
        text = error.strerror or str(error)
        return {"kind": "OSError", "errno": error.errno or 0, "text": text, "path": _path(error)}
    return {"kind": "Unknown", "text": f"{type(error).__name__}: {error}"}


def _leaf(error: errors.SandboxError) -> str:
    return next((each.__name__ for each in type(error).__mro__ if each in errors.STATUS_CODES), "SandboxError")


def _path(error: OSError) -> str | None:
    return os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else None


def error_of(document: Mapping[str, Any]) -> Exception:
    """Return the error that a document tells of."""
    kind, text = document.get("kind"), str(document.get("text", ""))
    if kind == "ExecutorError" and document.keys() >= set(_FIELDS):
        return ExecutorError(**{name: document[name] for name in _FIELDS})
    if kind == "OSError":
        return OSError(document.get("errno", 0), text, document.get("path"))
    leaf = getattr(errors, str(kind), None)
    if isinstance(leaf, type) and issubclass(leaf, errors.SandboxError):
        return leaf(text)
    return errors.Unknown(text)


# -- the client --------------------------------------------------------------------------------------------------------


def connect(state_dir: str, limit: float = QUICK) -> _socket.socket:
    """Connect to a sandbox process. FailedPrecondition: there is none; DeadlineExceeded: it is too busy."""
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    connection.settimeout(limit)
    try:
        directory = os.open(state_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            connection.connect(f"/proc/self/fd/{directory}/{SOCKET}")  # sun_path holds 108 bytes
        finally:
            os.close(directory)
    except (FileNotFoundError, ConnectionRefusedError):
        connection.close()
        raise errors.FailedPrecondition("container not running") from None
    except (TimeoutError, BlockingIOError):
        connection.close()
        raise errors.DeadlineExceeded(f"the sandbox process takes no request for {limit:g} s") from None
    except BaseException:
        connection.close()
        raise
    return connection


def ask(
    state_dir: str, name: str, arguments: Mapping[str, Any], descriptors: Sequence[int] = (), limit: float = PATIENCE
) -> tuple[dict[str, Any], list[int]]:
    """Make one request; return the answer and the descriptors that came with it, the caller's to close.

    Raises what the sandbox process raised, FailedPrecondition where it has ended, DeadlineExceeded.
    """
    connection = connect(state_dir, min(limit, QUICK))
    with contextlib.closing(connection):
        request(connection, name, arguments, descriptors)
        return answer(connection, limit)


def request(
    connection: _socket.socket, name: str, arguments: Mapping[str, Any], descriptors: Sequence[int] = ()
) -> None:
    """Send a request. One that nobody takes any more shows at `answer`."""
    with contextlib.suppress(Closed):
        send(connection, {name: arguments}, descriptors)


def answer(connection: _socket.socket, limit: float) -> tuple[dict[str, Any], list[int]]:
    """Wait for an answer, `limit` seconds at most. Raises as `ask` does."""
    import time

    began = time.monotonic()
    try:
        message, descriptors = receive(connection, limit)
    except Closed:
        if time.monotonic() - began >= limit:
            raise errors.DeadlineExceeded(f"the sandbox process has not answered for {limit:g} s") from None
        raise errors.FailedPrecondition("container not running") from None
    match message:
        case {"answer": dict(found)}:
            return found, descriptors
        case {"error": dict(document)}:
            raise error_of(document)
    raise errors.Unknown(f"the sandbox process says {str(message)[:200]}")


# -- the server --------------------------------------------------------------------------------------------------------


def listen(state_dir: str) -> _socket.socket:
    """Return a socket that listens in a state directory, for root alone."""
    listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    directory = os.open(state_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    mask = os.umask(0o177)
    try:
        listener.bind(f"/proc/self/fd/{directory}/{SOCKET}")
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    finally:
        os.umask(mask)
        os.close(directory)
    return listener


def accept(listener: _socket.socket) -> _socket.socket | None:
    """Take the next connection; None for one of somebody else's user."""
    descriptor, _ = listener._accept()  # type: ignore[attr-defined]  # the C half has no other
    connection = _socket.socket(fileno=descriptor)
    credentials = connection.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12)
    if int.from_bytes(credentials[4:8], "little") != os.geteuid():
        connection.close()
        return None
    return connection
