"""How commands talk to the sandbox process: errors keep their class, nobody waits for ever, nobody else is served."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from precondition import requires

from pysandbox import errors
from pysandbox.executor import ExecutorError
from pysandbox.warm.wire import receive, send
from pysandbox_microvm import service

Serve = Callable[[Callable[[Any], None]], None]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Serve one connection with a function."""
    listener = service.listen(str(tmp_path))
    threads = []

    def serve_one(answer: Callable[[Any], None]) -> None:
        def run() -> None:
            connection = service.accept(listener)
            assert connection is not None
            answer(connection)
            connection.close()

        threads.append(threading.Thread(target=run))
        threads[-1].start()

    yield serve_one
    for thread in threads:
        thread.join(10)
    listener.close()


@pytest.mark.parametrize(
    "error",
    [
        errors.FailedPrecondition("container not running"),
        errors.NotFound("exec x"),
        errors.InvalidArgument("linux.x: wrong"),
        ExecutorError("find_program", 3, "stat", "/x", 2, "no such file or directory"),
        OSError(13, "permission denied", "/some/file"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_keeps_its_class_and_its_words(tmp_path: Path, serve: Serve, error: Exception) -> None:
    def answer(connection: Any) -> None:
        assert receive(connection)[0] == {"start": {"container": "c"}}
        send(connection, {"error": service.error_document(error)})

    serve(answer)

    with pytest.raises(type(error)) as raised:
        service.ask(str(tmp_path), "start", {"container": "c"})
    assert str(raised.value) == str(error)
    for name in ("errno", "op", "index", "path", "filename"):
        assert getattr(raised.value, name, None) == getattr(error, name, None)


def test_what_was_no_error_of_ours_is_told_with_its_name(tmp_path: Path, serve: Serve) -> None:
    serve(lambda connection: send(connection, {"error": service.error_document(KeyError("x"))}))

    with pytest.raises(errors.Unknown, match="KeyError: 'x'"):
        service.ask(str(tmp_path), "start", {})


@pytest.mark.parametrize("answer", [{}, {"answer": 1}, {"error": "x"}, {"error": {"kind": "ExecutorError"}}, {"error": {"kind": "Exception"}}])  # fmt: skip
def test_an_answer_that_is_none_is_an_error(tmp_path: Path, serve: Serve, answer: dict[str, Any]) -> None:
    serve(lambda connection: send(connection, answer))

    with pytest.raises(errors.Unknown):
        service.ask(str(tmp_path), "start", {})


def test_no_answer_is_a_deadline_that_says_what_it_waited_for(tmp_path: Path, serve: Serve) -> None:
    serve(lambda _connection: time.sleep(1))

    with pytest.raises(errors.DeadlineExceeded, match=r"has not answered for 0\.2 s"):
        service.ask(str(tmp_path), "start", {}, limit=0.2)


def test_a_sandbox_process_that_ends_meanwhile_is_a_container_that_does_not_run(tmp_path: Path, serve: Serve) -> None:
    serve(lambda _connection: None)

    with pytest.raises(errors.FailedPrecondition, match="container not running"):
        service.ask(str(tmp_path), "start", {})


def test_no_socket_is_a_container_that_does_not_run(tmp_path: Path) -> None:
    with pytest.raises(errors.FailedPrecondition, match="container not running"):
        service.ask(str(tmp_path), "start", {})


def test_the_socket_is_roots_alone(tmp_path: Path) -> None:
    listener = service.listen(str(tmp_path))

    assert (tmp_path / service.SOCKET).stat().st_mode & 0o777 == 0o600
    listener.close()


def test_another_user_is_served_by_nobody(tmp_path: Path) -> None:
    """However he got hold of the socket."""
    requires("root")
    listener = service.listen(str(tmp_path))
    listener.settimeout(10)
    (tmp_path / service.SOCKET).chmod(0o666)
    tmp_path.chmod(0o755)
    assert _connect_as(os.geteuid(), tmp_path) == 0
    assert service.accept(listener) is not None

    assert _connect_as(65534, tmp_path) == 0
    assert service.accept(listener) is None
    listener.close()


def _connect_as(uid: int, directory: Path) -> int:
    """Connect, in a child of that user, by a name in its working directory: those above it are in nobody's way."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.chdir(directory)
            os.setresuid(uid, uid, uid)
            socket.socket(socket.AF_UNIX).connect(service.SOCKET)
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_long_path_is_no_hindrance(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    listener = service.listen(str(deep))

    service.connect(str(deep)).close()
    listener.close()
