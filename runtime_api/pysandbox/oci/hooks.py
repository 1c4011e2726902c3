"""OCI hooks that run in the runtime's own namespaces: prestart, createRuntime, poststart, poststop.

runtime-spec, config.md "POSIX-platform Hooks": the state document comes on stdin, `args[0]` is the program's name, the
environment is exactly what the hook says (one that says nothing inherits ours, as under runc and crun), and a hook that
still runs after `timeout` seconds is killed. Hooks of the container's namespaces (createContainer, startContainer) are
operations of a plan.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import time

from pysandbox.caller import current
from pysandbox.errors import DeadlineExceeded, SandboxError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

#: Bytes kept of each of a hook's two outputs, for the error text.
OUTPUT_LIMIT = 16 * 1024
#: Seconds for a hook that was killed to be gone.
END_LIMIT = 10.0


class HookFailed(SandboxError):
    """A hook could not be started, or ended otherwise than with 0."""


def run_hooks(spec: Mapping[str, Any], kind: str, state: Mapping[str, Any]) -> None:
    """Run all hooks of a kind, one after the other, up to the first that fails. Raises HookFailed."""
    for index, hook in enumerate((spec.get("hooks") or {}).get(kind) or ()):
        where = f"error running {kind} hook #{index}: {hook['path']}"
        try:
            code, outputs = _run(hook, json.dumps(state).encode())
        except OSError as error:
            raise HookFailed(f"{where}: {error.strerror}") from error
        except DeadlineExceeded as error:
            raise HookFailed(f"{where}: {error}") from error
        if code != 0:
            ending = f"exit status {code}" if code > 0 else f"signal: {signal.strsignal(-code)}".lower()
            stdout, stderr = (output.decode(errors="replace").strip() for output in outputs)
            raise HookFailed(f"{where}: {ending}, stdout: {stdout}, stderr: {stderr}")


def _run(hook: Mapping[str, Any], stdin: bytes) -> tuple[int, tuple[bytes, bytes]]:
    """Run one hook; return its exit code (-N after signal N) and what it wrote."""
    stdin_read = _memory_file(stdin)
    stdout_read, stdout_write = os.pipe()
    stderr_read, stderr_write = os.pipe()
    try:
        pid = _spawn(hook, stdin_read, stdout_write, stderr_write)
    except OSError:
        os.close(stdout_read)
        os.close(stderr_read)
        raise
    finally:
        for descriptor in (stdin_read, stdout_write, stderr_write):
            os.close(descriptor)
    with open(stdout_read, "rb", buffering=0), open(stderr_read, "rb", buffering=0):
        return _wait(pid, stdout_read, stderr_read, hook.get("timeout"))


def _memory_file(text: bytes) -> int:
    descriptor = os.memfd_create("state", os.MFD_CLOEXEC)
    with open(descriptor, "wb", closefd=False) as file:
        file.write(text)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _spawn(hook: Mapping[str, Any], stdin: int, stdout: int, stderr: int) -> int:
    """Start a hook as the leader of a process group of its own, so that its time-out ends its children as well."""
    entries = hook.get("env")
    environment = None if entries is None else dict(entry.partition("=")[::2] for entry in entries)
    args = hook.get("args") or [hook["path"]]
    return current().spawn(hook["path"], args, environment, (stdin, stdout, stderr), group=True)


def _wait(pid: int, stdout: int, stderr: int, timeout: int | None) -> tuple[int, tuple[bytes, bytes]]:
    """Collect the outputs until the hook itself ends: a daemon it leaves behind may hold on to them."""
    outputs = {stdout: b"", stderr: b""}
    deadline = None if timeout is None else time.monotonic() + timeout
    process = os.pidfd_open(pid)
    poll = select.poll()
    for descriptor in (process, stdout, stderr):
        os.set_blocking(descriptor, False)
        poll.register(descriptor, select.POLLIN)
    try:
        ready: set[int] = set()
        while process not in ready:
            left = None if deadline is None else max(0, deadline - time.monotonic()) * 1000
            ready = {descriptor for descriptor, _ in poll.poll(left)}
            if not ready:
                raise DeadlineExceeded(f"hook ran past timeout of {timeout} s and was killed")
            for descriptor in ready & outputs.keys():
                _collect(descriptor, outputs, poll)
    except BaseException:  # the time-out, or a signal for us: the hook does not outlive it
        _end_group(pid, process)
        raise
    finally:
        os.close(process)
    for descriptor in outputs:
        _collect(descriptor, outputs, None)
    return os.waitstatus_to_exitcode(current().reap(pid) or 0), (outputs[stdout], outputs[stderr])


def _collect(descriptor: int, outputs: dict[int, bytes], poll: select.poll | None) -> None:
    """Take what is there to be read; what goes beyond the limit is read and dropped."""
    with contextlib.suppress(BlockingIOError):
        text = os.read(descriptor, 65536)
        outputs[descriptor] = (outputs[descriptor] + text)[:OUTPUT_LIMIT]
        if not text and poll is not None:
            poll.unregister(descriptor)


def _end_group(pid: int, pidfd: int) -> None:
    """Kill a hook with its process group, and reap it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.poll(END_LIMIT * 1000)
    current().reap(pid)
