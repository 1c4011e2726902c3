"""What only many repetitions show: leaks, races, a runtime killed or failing at each of its steps.

The counts are the caller's: few in the ordinary run, many in the soak.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from harness.bundle import Bundle
from harness.host import leftovers, reap, settled
from harness.runtime import Result, Runtime

#: What changes the world, or is waited for, while a container is made or removed by the runtime's own process.
STEPS = (
    "mkdir mkdirat rmdir unlink unlinkat rename renameat renameat2 symlink symlinkat link linkat openat write pwrite64 sendmsg sendto "
    "recvmsg recvfrom vfork clone clone3 memfd_create socketpair mknod mknodat fchmod chmod fchown ftruncate flock fcntl pidfd_open "
    "pidfd_send_signal kill wait4 waitid poll ppoll dup2 pipe2 prctl bpf inotify_init1 close_range fsync fdatasync"
).split()  # fmt: skip

#: What the executor does inside, each of which may fail.
INSIDE = (
    "unshare setns clone3 mount umount2 move_mount open_tree fsopen fsconfig fsmount mount_setattr openat2 mknodat symlinkat mkdirat "
    "pivot_root chroot fchdir chdir sethostname setdomainname keyctl setsid prctl seccomp capset capget setgroups setresgid setresuid "
    "close_range execve dup3 dup2 fchown umask sendmsg recvmsg ioctl socket prlimit64 statx fstatfs"
).split()  # fmt: skip

ERRORS = ("ENOMEM", "EIO", "EINTR", "ENOSPC", "EMFILE", "EPERM")

#: Seconds that the runtime waits for an executor whose report got lost.
REPORT_LIMIT = 60

#: With children; the tracer as a process aside, for it stays as long as the container's init does.
_FOLLOW = ("-f", "-D")

#: One injection: system call, which of its calls, what happens then.
Injection = tuple[str, int, str]


def cycle(runtime: Runtime, bundle: Bundle, *, start: bool) -> None:
    """Create and delete one container; with `start` its program runs to its end in between."""
    container, created = runtime.create(bundle)
    assert created.code == 0, created
    if start:
        assert (answer := runtime.call("start", container)).code == 0, answer
        wait_stopped(runtime, container)
    deleted = runtime.call("delete", *([] if start else ["--force"]), container)
    assert deleted.code == 0, deleted


def wait_stopped(runtime: Runtime, container: str, seconds: float = 20) -> None:
    """Wait until `state` says stopped."""
    end = time.monotonic() + seconds
    while runtime.state(container)["status"] != "stopped":
        assert time.monotonic() < end, f"{container} does not stop"
        time.sleep(0.01)
        reap()


def descriptors() -> Counter[str]:
    """What this process has open, by kind."""
    kinds = []
    for number in os.listdir("/proc/self/fd"):
        try:
            kinds.append(re.sub(r"\d+", "N", os.readlink(f"/proc/self/fd/{number}")))
        except OSError:
            continue
    return Counter(kinds)


def cycles(runtime: Runtime, bundle: Bundle, place: Path, count: int) -> None:
    """`count` lives, every third without a start; nothing is left after any hundred of them."""
    before = descriptors()
    for number in range(count):
        cycle(runtime, bundle, start=number % 3 != 0)
        if number % 100 == 99:
            assert_nothing_left(runtime, place)
    assert_nothing_left(runtime, place)
    assert descriptors() - before == Counter()


def assert_nothing_left(runtime: Runtime, place: Path) -> None:
    """No process, mount, cgroup, keyring, record or file of this runtime's containers."""
    left = settled(lambda: leftovers(runtime, place))
    assert not left, "left behind:\n" + "\n".join(left)


# -- races ---------------------------------------------------------------------------------------------------------------


def together(commands: Sequence[Sequence[str]], environment: dict[str, str]) -> list[tuple[int, str]]:
    """Start all commands at once; return exit code and stderr of each. A created container keeps the pipe open."""
    null, pipe = subprocess.DEVNULL, subprocess.PIPE
    started = [subprocess.Popen(command, stdin=null, stdout=null, stderr=pipe, env=environment) for command in commands]
    answers = []
    for process in started:
        code = process.wait(timeout=120)
        assert process.stderr is not None
        os.set_blocking(process.stderr.fileno(), False)
        try:
            answers.append((code, os.read(process.stderr.fileno(), 65536).decode(errors="replace")))
        except BlockingIOError:
            answers.append((code, ""))
        process.stderr.close()
    return answers


def race(runtime: Runtime, bundle: Bundle, contestants: int, rounds: int) -> None:
    """Everybody creates the same id, then everybody does something else to it: one winner, no traceback, no hang."""
    chance = random.Random(rounds)
    for _ in range(rounds):
        container = runtime.new_id()
        create = runtime.argv("create", "--bundle", os.fspath(bundle.write()), container)
        assert_one_winner(together([create] * contestants, runtime.environment()))
        verbs = [["start"], ["kill"], ["delete", "--force"], ["state"], ["exec"], ["pause"], ["resume"], ["delete"]]
        chosen = [chance.choice(verbs) for _ in range(contestants)]
        commands = [runtime.argv(*verb, container, *(["/bin/true"] if verb == ["exec"] else [])) for verb in chosen]
        for code, err in together(commands, runtime.environment()):
            assert "Traceback" not in err, err
            assert code in (0, 1, 255), (code, err)
        runtime.call("resume", container)
        assert runtime.call("delete", "--force", container).code == 0
        reap()


def assert_one_winner(answers: list[tuple[int, str]]) -> None:
    """One creates, the others are told that it exists."""
    losers = [err for code, err in answers if code != 0]
    assert len(answers) - len(losers) == 1, [err[-300:] for err in losers]
    for err in losers:
        assert "exist" in err, err


# -- killed and failing ---------------------------------------------------------------------------------------------------


def traced(
    runtime: Runtime, arguments: Sequence[str], log: Path, *, follow: bool, calls: Iterable[str]
) -> Counter[str]:
    """Run a command under strace and count its system calls, by process and name: `name` → most calls of one process."""
    names = ",".join(f"?{call}" for call in calls)
    prefix = [
        "strace",
        *(_FOLLOW if follow else ()),
        "-qq",
        "-o",
        os.fspath(log),
        "-e",
        f"trace={names}",
        "-e",
        "signal=none",
    ]
    answer = runtime.call(*arguments, prefix=prefix)
    assert answer.code == 0, answer
    time.sleep(0.5 if follow else 0)  # the tracer's last lines
    found: dict[str, Counter[str]] = {}
    for line in log.read_text().splitlines():
        pid, _, rest = line.partition(" ") if follow else ("", "", line)
        name = rest.strip().partition("(")[0]
        if name.isidentifier():
            found.setdefault(pid, Counter())[name] += 1
    total: Counter[str] = Counter()
    for counter in found.values():
        for name, count in counter.items():
            total[name] = max(total[name], count)
    return total


def injections(counts: Counter[str], faults: Sequence[str]) -> list[Injection]:
    """Every call of every system call, the faults taken in turn."""
    points = [(name, number) for name, count in sorted(counts.items()) for number in range(1, count + 1)]
    return [(name, number, faults[at % len(faults)]) for at, (name, number) in enumerate(points)]


def spread(points: list[Injection], count: int) -> list[Injection]:
    """At most `count` of the points: the last of each system call first, then others evenly."""
    last = {name: (name, number, fault) for name, number, fault in points}
    chosen = list(last.values())[:count]
    rest = [point for point in points if point not in chosen]
    step = max(1, len(rest) // max(1, count - len(chosen)))
    return chosen + rest[::step][: count - len(chosen)]


def inject(runtime: Runtime, arguments: Sequence[str], point: Injection, *, follow: bool) -> Result:
    """Run a command in which one system call fails, or in which SIGKILL comes at it."""
    name, number, fault = point
    what = "signal=KILL" if fault == "KILL" else f"error={fault}"
    prefix = ["strace", *(_FOLLOW if follow else ()), "-qq", "-o", "/dev/null", "-e", f"trace={name}"]
    return runtime.call(
        *arguments, prefix=[*prefix, "-e", f"inject={name}:{what}:when={number}"], limit=REPORT_LIMIT * 2
    )


def create_arguments(bundle: Bundle, container: str) -> list[str]:
    """Command line of `create`."""
    return ["create", "--bundle", os.fspath(bundle.path), container]


def points_of_create(
    runtime: Runtime, bundle: Bundle, place: Path, *, follow: bool, faults: Sequence[str]
) -> list[Injection]:
    """Learn from one good `create` where it can be hit."""
    bundle.write()
    container = runtime.new_id()
    calls = [*STEPS, *INSIDE] if follow else STEPS
    counts = traced(runtime, create_arguments(bundle, container), place / "trace", follow=follow, calls=calls)
    assert runtime.call("delete", "--force", container).code == 0
    return injections(counts, faults)


def hit_create(
    runtime: Runtime, bundle: Bundle, place: Path, points: Iterable[Injection], *, follow: bool
) -> Iterator[str]:
    """Hit `create` at each point; yield in words what was wrong afterwards.

    After it `delete --force` succeeds, nothing is left, and the same id can be created again.
    """
    for point in points:
        container = runtime.new_id()
        answer = inject(runtime, create_arguments(bundle, container), point, follow=follow)
        yield from _aftermath(runtime, bundle, place, container, f"create, {point}, exit code {answer.code}")


def hit_delete(runtime: Runtime, bundle: Bundle, place: Path, points: Iterable[Injection]) -> Iterator[str]:
    """Hit `delete --force` of a created container at each point; yield what was wrong afterwards."""
    for point in points:
        container, created = runtime.create(bundle)
        assert created.code == 0, created
        answer = inject(runtime, ["delete", "--force", container], point, follow=False)
        yield from _aftermath(runtime, bundle, place, container, f"delete, {point}, exit code {answer.code}")


def points_of_delete(runtime: Runtime, bundle: Bundle, place: Path, faults: Sequence[str]) -> list[Injection]:
    """Learn from one good `delete` where it can be hit."""
    container, created = runtime.create(bundle)
    assert created.code == 0, created
    counts = traced(runtime, ["delete", "--force", container], place / "trace", follow=False, calls=STEPS)
    return injections(counts, faults)


def _aftermath(runtime: Runtime, bundle: Bundle, place: Path, container: str, what: str) -> Iterator[str]:
    """Delete, create and delete again as a caller would; what is left then is left for ever."""
    for command in ("delete", "create", "delete"):
        reap()
        if command == "create":
            _, answer = runtime.create(bundle, container=container)
        else:
            answer = runtime.call("delete", "--force", container)
        if answer.code != 0:
            yield f"{what}: {command} afterwards: {answer.err.strip()}"
    left = settled(lambda: leftovers(runtime, place), seconds=3)
    if left:
        yield f"{what}: left: {'; '.join(left)}"
