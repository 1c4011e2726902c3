"""The warm start under faults: servers, spares and launchers that are killed, stopped, replaced, overrun.

The counts are the caller's: few in the ordinary run, many in the soak.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from harness import endurance
from harness.bundle import Bundle
from harness.endurance import Injection
from harness.host import reap
from harness.installation import Installation, descriptors, ended, eventually
from harness.runtime import Result, Runtime

#: What a spare does for a command, each of which it may be killed at.
SPARE_STEPS = (*endurance.STEPS, "getsockopt", "fstat", "readlink", "read", "close", "ioctl", "setns", "prctl")
#: What a launcher does.
LAUNCHER_STEPS = (*endurance.STEPS, "connect", "getsockopt", "pidfd_getfd", "eventfd2", "signalfd4", "rt_sigprocmask")


class Served(Runtime):
    """An installation, driven as any runtime is."""

    def __init__(self, installation: Installation, root: Path) -> None:
        super().__init__("served", [str(installation.program)], root)
        self.installation = installation

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """With the directory of the installation's server."""
        return super().environment({"PYSANDBOX_WARM": str(self.installation.directory), **(extra or {})})


# -- many --------------------------------------------------------------------------------------------------------------


def footprint(installation: Installation) -> dict[str, Any]:
    """What a server holds: descriptors, resident KiB, and the names beside its socket."""
    found = installation.settled()
    time.sleep(0.05)  # the server closes our connection
    status = Path(f"/proc/{found['pid']}/status").read_text().splitlines()
    return {
        "descriptors": len(descriptors(found["pid"])),
        "KiB": next(int(line.split()[1]) for line in status if line.startswith("VmRSS:")),
        "names": sorted(os.listdir(installation.directory)),
        "pid": found["pid"],
    }


def assert_as_before(installation: Installation, before: Mapping[str, Any], growth: int = 2048) -> None:
    """The same server, with nothing more than before, but for some memory."""
    after = footprint(installation)
    assert {**after, "KiB": 0} == {**before, "KiB": 0}
    assert after["KiB"] <= before["KiB"] + growth, (before, after)


def in_sequence(installation: Installation, count: int) -> None:
    """So many commands, one after the other: each is served."""
    environment, null = installation.environment(), subprocess.DEVNULL
    served = installation.settled()["served"]
    for _ in range(count):
        argv = [installation.program, "--root", installation.top / "root", "list", "-q"]
        assert subprocess.run(argv, env=environment, stdin=null, stdout=null, check=False).returncode == 0
    eventually(lambda: installation.status()["served"] >= served + count, f"{count} commands are served")


def in_parallel(installation: Installation, count: int) -> None:
    """So many commands at once, none of which fails: some are served, the others run cold."""
    started = [installation.start("list", "-q") for _ in range(count)]
    answers = [(*process.communicate(timeout=120), process.returncode) for process in started]
    assert answers == [(b"", b"", 0)] * count
    installation.started.clear()


# -- killed ------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def traced(pids: Iterable[int], *arguments: str) -> Iterator[None]:
    """Have strace follow processes that run already."""
    pids = list(pids)
    argv = ["strace", "-qq", *arguments, *(word for pid in pids for word in ("-p", str(pid)))]
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as tracer:
        eventually(lambda: all(map(is_traced, pids)), "strace has attached itself")
        yield
        tracer.send_signal(signal.SIGINT)
        tracer.wait(10)


def is_traced(pid: int) -> bool:
    """Whether a process has a tracer."""
    return "TracerPid:\t0\n" not in Path(f"/proc/{pid}/status").read_text()


def points_of_spare(runtime: Served, bundle: Bundle, place: Path) -> list[Injection]:
    """Learn from one good `create` where the spare that serves it can be killed."""
    log, container = place / "trace", runtime.new_id()
    bundle.write()
    names = ",".join(f"?{call}" for call in SPARE_STEPS)
    with traced(runtime.installation.settled()["spares"], "-o", str(log), "-e", f"trace={names}", "-e", "signal=none"):
        answer = runtime.call(*endurance.create_arguments(bundle, container))
    assert answer.code == 0, answer
    assert runtime.call("delete", "--force", container).code == 0
    counts: dict[str, endurance.Counter[str]] = {}
    for line in log.read_text().splitlines():
        pid, _, rest = line.partition(" ")
        counts.setdefault(pid, endurance.Counter())[rest.strip().partition("(")[0]] += 1
    busiest = max(counts.values(), key=lambda counter: counter.total())
    return endurance.injections(endurance.Counter({k: v for k, v in busiest.items() if k.isidentifier()}), ["KILL"])


def kill_spares(runtime: Served, bundle: Bundle, place: Path, points: Iterable[Injection]) -> Iterator[str]:
    """Kill the spare at each point of a `create`; yield in words what was wrong.

    The command fails in one line, or succeeds, cold where there was no effect yet; and what is left can be removed.
    """
    for name, number, fault in points:
        container = runtime.new_id()
        what = f"spare of create, {name} {number}"
        inject = f"inject={name}:signal={fault}:when={number}"
        with traced(runtime.installation.settled()["spares"], "-o", "/dev/null", "-e", f"trace={name}", "-e", inject):
            answer = runtime.call(*endurance.create_arguments(bundle, container), limit=20)
        yield from odd(answer, what)
        yield from endurance._aftermath(runtime, bundle, place, container, f"{what}, exit code {answer.code}")


def points_of_server(runtime: Served, bundle: Bundle, place: Path) -> list[Injection]:
    """Learn from one good `create` at which system calls the server itself can be killed meanwhile."""
    log, container = place / "trace-server", runtime.new_id()
    bundle.write()
    runtime.installation.settled()
    with traced([runtime.installation.server], "-o", str(log), "-e", "signal=none"):
        answer = runtime.call(*endurance.create_arguments(bundle, container))
        runtime.installation.settled()  # what it does when a fork has ended belongs to it
    assert answer.code == 0, answer
    assert runtime.call("delete", "--force", container).code == 0
    names = [line.partition("(")[0] for line in log.read_text().splitlines()]
    return endurance.injections(endurance.Counter(name for name in names if name.isidentifier()), ["KILL"])


def kill_servers(runtime: Served, bundle: Bundle, place: Path, points: Iterable[Injection]) -> Iterator[str]:
    """Kill the server at each point of a `create`; yield what was wrong. No command may fail for it."""
    for name, number, fault in points:
        container = runtime.new_id()
        runtime.installation.serve()
        inject = f"inject={name}:signal={fault}:when={number}"
        with traced([runtime.installation.server], "-o", "/dev/null", "-e", f"trace={name}", "-e", inject):
            answers = [
                runtime.call(*endurance.create_arguments(bundle, container), limit=20),
                runtime.call("delete", "--force", container, limit=20),
            ]
        for answer in answers:
            if answer.code != 0:
                yield f"server during create and delete, {name} {number}: {answer}"
        yield from endurance._aftermath(runtime, bundle, place, container, f"server, {name} {number}")


def kill_launchers(runtime: Served, bundle: Bundle, place: Path, points: Iterable[Injection]) -> Iterator[str]:
    """Kill the launcher at each point of a `create`; yield what was wrong. Whoever served it dies with it."""
    for point in points:
        container = runtime.new_id()
        runtime.installation.settled()
        answer = endurance.inject(runtime, endurance.create_arguments(bundle, container), point, follow=False)
        began = time.monotonic()
        with contextlib.suppress(AssertionError):
            eventually(lambda: not runtime.installation.status()["serving"], "it dies", seconds=5)
        if time.monotonic() - began > 1:
            yield f"launcher of create, {point}: served on for {time.monotonic() - began:.1f} s"
        what = f"launcher of create, {point}, exit code {answer.code}"
        yield from endurance._aftermath(runtime, bundle, place, container, what)


def points_of_launcher(runtime: Served, bundle: Bundle, place: Path) -> list[Injection]:
    """Learn from one good `create` where the launcher can be killed."""
    bundle.write()
    container = runtime.new_id()
    runtime.installation.settled()
    arguments = endurance.create_arguments(bundle, container)
    counts = endurance.traced(runtime, arguments, place / "trace", follow=False, calls=LAUNCHER_STEPS)
    assert runtime.call("delete", "--force", container).code == 0
    return endurance.injections(counts, ["KILL"])


def odd(answer: Result, what: str) -> Iterator[str]:
    """What is wrong with the end of a command whose server has died: one line, or none."""
    if answer.code not in (0, 1) or answer.err.count("\n") > 1 or "Traceback" in answer.err:
        yield f"{what}: {answer}"


# -- while others work -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def working(installation: Installation, workers: int = 3) -> Iterator[list[Result]]:
    """Have commands run, some at a time, all the while; their answers are complete at the end."""
    answers: list[Result] = []
    over = threading.Event()

    def work() -> None:
        while not over.is_set():
            answers.append(installation.call("list", "-q"))

    threads = [threading.Thread(target=work) for _ in range(workers)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        over.set()
        for thread in threads:
            thread.join()
        installation.started.clear()


def disturb(installation: Installation, disturbance: Callable[[Installation], None], times: int) -> list[Result]:
    """Do something to an installation again and again while commands run; return the answers that are wrong."""
    with working(installation) as answers:
        for _ in range(times):
            time.sleep(0.3)
            disturbance(installation)
        time.sleep(0.3)
    reap()
    assert len(answers) > times
    return [answer for answer in answers if (answer.code, answer.out, answer.err) != (0, "", "")]


def kill_server(installation: Installation) -> None:
    """As the OOM killer would; the next command may start another at once."""
    status = installation.status()
    if status:
        os.kill(status["pid"], signal.SIGKILL)
        eventually(lambda: ended(status["pid"]), "the server is dead")
    installation.lock.unlink(missing_ok=True)


def terminate_server(installation: Installation) -> None:
    """As a shutdown does."""
    status = installation.status()
    if status:
        os.kill(status["pid"], signal.SIGTERM)
        eventually(lambda: ended(status["pid"]), "the server has ended")
    installation.lock.unlink(missing_ok=True)


def kill_idle_spares(installation: Installation) -> None:
    """All that wait."""
    for pid in installation.status().get("spares", ()):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def touch_a_source(installation: Installation) -> None:
    """As an editor does: at no time is there half a file."""
    path = installation.top / "lib/pysandbox/lifecycle/__init__.py"
    if not path.exists():
        path = installation.top / "lib/pysandbox/lifecycle.py"
    new = path.with_suffix(".new")
    new.write_bytes(path.read_bytes())
    new.rename(path)
    installation.lock.unlink(missing_ok=True)


def replace_the_script(installation: Installation) -> None:
    """As `make install` does: another file takes the name."""
    new = installation.cold.with_suffix(".new")
    new.write_bytes(installation.cold.read_bytes())
    new.chmod(0o755)
    new.rename(installation.cold)


def replace_the_tree(installation: Installation) -> None:
    """As a package manager would like to: at once, by another directory with the same in it."""
    old, new = installation.top / "lib", installation.top / "new"
    shutil.copytree(old, new)
    at_cwd, exchange = -100, 2
    result = ctypes.CDLL(None).renameat2(at_cwd, os.fsencode(old), at_cwd, os.fsencode(new), exchange)
    assert result == 0
    time.sleep(0.5)  # for those who have begun in the old one
    shutil.rmtree(new)
    installation.lock.unlink(missing_ok=True)


def replace_the_launcher(installation: Installation) -> None:
    """Another file takes the name of a program that runs."""
    new = installation.program.with_suffix(".new")
    new.write_bytes(installation.program.read_bytes())
    new.chmod(0o755)
    new.rename(installation.program)
