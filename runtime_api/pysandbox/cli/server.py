"""`pysandbox server`: look at the warm start's server, or end it. `serve` is for launchers, in the background."""

from __future__ import annotations

import _socket
import os
import sys

from pysandbox.cli.flags import Command, UsageError
from pysandbox.errors import NotFound, PermissionDenied
from pysandbox.warm import place

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pysandbox.cli.invocation import Invocation

COMMAND = Command(
    "server",
    "show the server of the warm start, or end it",
    "status | stop",
    at_most=3,
    details="""
status prints, as JSON, the server's pid, how many commands it has served, and which it refused, with the reason.
stop ends it; commands that are being served go on. PYSANDBOX_WARM=off keeps a command from using or starting one.
""",
)
#: Seconds that the server may take for an answer.
ANSWER_LIMIT = 5.0


def run(invocation: Invocation) -> int:
    """Do what the first argument says."""
    # The server is that of our own installation: the file that was executed for this command.
    program = os.path.abspath(sys.argv[0])
    match invocation.parsed.arguments:
        case ["serve", directory, key]:
            return _serve(directory, key, program)
        case ["status" | "stop" as request]:
            sys.stdout.write(f"{_ask(program, request)}\n")
            return 0
    raise UsageError('pysandbox: "server" requires status or stop')


def _serve(directory: str, key: str, program: str) -> int:
    from pysandbox.warm.server import Server

    Server(directory, key, program).serve()
    return 0


def _ask(program: str, request: str) -> str:
    if os.geteuid() != 0:
        raise PermissionDenied("only root may ask the server")
    path = place.directory_path()
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    connection.settimeout(ANSWER_LIMIT)
    try:
        directory = place.open_directory(path)
        connection.connect(f"/proc/self/fd/{directory}/{place.key_of(program)}.control")
        connection.send(request.encode())
        return connection.recv(65536).decode()
    except (FileNotFoundError, ConnectionRefusedError):
        raise NotFound(f"no server of {program.removesuffix('-cold')} in {path}") from None
    finally:
        connection.close()
