"""`python -m pysandbox.compare.machinebench`: a bundle in a microVM, beside gVisor's runsc and runc, all in one run.

Every contender takes one turn in each round, in random order, with the same files: a busybox root. Everything counts:
jail, the guest's seccomp filter, the copy of the template's memory, teardown; there is no pool. Our commands are served
by a server of the bench's own, as they are everywhere; one contender has none. Read the ratios: under emulation a
guest's own work is several times slower than a processor with virtualisation makes it.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pysandbox.compare import contender, distribution, footprint, machine, measure, workload
from pysandbox.compare.contender import ENVIRONMENT, WARM, Contender
from pysandbox.compare.server import Server

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_CHANCE = random.Random()  # noqa: S311  (an order, not a secret)
ROOT_SIZE = 64 << 20
#: What the files' scenario does; each line of its output is a name and hundredths of a second.
FILES = """
now() { awk '{ print int($1 * 100) }' /proc/uptime; }
t() { n=$1; a=$(now); shift; "$@" >/dev/null 2>&1; b=$(now); echo "$n $((b - a))"; }
small() { i=0; while [ $i -lt 200 ]; do echo x >/data/f$i; i=$((i + 1)); done; }
cd /data
t "write 32 MiB, fsync" dd if=/dev/zero of=/data/big bs=1M count=32 conv=fsync
t "read 32 MiB" dd if=/data/big of=/dev/null bs=1M
t "create 200 files" small
t "stat 200 files" sh -c 'stat /data/f*'
t "remove 200 files" sh -c 'rm /data/f*'
"""

#: Bytes that are sent to a container, and where to: the address of the one interface that it has.
SENT, ADDRESS, PEER, PORT = 32 << 20, "192.0.2.2", "192.0.2.1", 5000
#: Sends them as soon as somebody listens, and prints the seconds until all were taken.
SENDER = f"""
import socket, time
deadline = time.monotonic() + 30
while True:
    try:
        connection = socket.create_connection(("{ADDRESS}", {PORT}), 1)
        break
    except OSError:
        if time.monotonic() > deadline:
            raise
        time.sleep(0.01)
connection.settimeout(60)
begin = time.monotonic()
connection.sendall(bytes({SENT}))
connection.shutdown(socket.SHUT_WR)
while connection.recv(65536):
    pass
print(time.monotonic() - begin)
"""


@dataclass(frozen=True, slots=True)
class Goal:
    """At most `limit` times the median of `reference`; `aim` is what is hoped for."""

    label: str
    reference: str
    limit: float
    aim: float


GOALS = (
    Goal("microvm", "runsc", 4.0, 3.0),
    Goal("microvm, block root", "runsc", 4.0, 1.2),
    Goal("microvm, interface", "runsc", 4.0, 3.0),
    Goal("microvm, cold boot", "runsc", 14.0, 6.0),
)
#: MiB of a second sandbox: half of what Kata's takes, and what is hoped for.
MEMORY_GOAL, MEMORY_AIMS = 61.5, {"microvm": 45.0, "microvm, block root": 20.0}


@dataclass(frozen=True, slots=True)
class Runtime:
    """A way to run the bundles: a command line, and the directory of its bundles."""

    label: str
    command: tuple[str, ...]
    bundles: Path
    environment: dict[str, str]
    #: A path of the network namespace that can reach the container, where it has an interface.
    peer: str = ""

    @property
    def ours(self) -> bool:
        """Tell whether this is pysandbox: it can tell how long each step takes."""
        return self.label.startswith("microvm")


class Bench:
    """One of them, with a container to run further processes in."""

    def __init__(self, runtime: Runtime, directory: Path) -> None:
        self.runtime = runtime
        self._name = name = "bench-" + runtime.label.replace(", ", "-").replace(" ", "-")
        self._root, self._pid_file = directory / f"state-{name}", directory / f"pid-{name}"
        self._output = os.open(directory / f"output-{name}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._number = 0
        self.long = ""
        self.alone = bool(runtime.peer)

    def command(self, *args: str) -> float:
        """Run one command; return its milliseconds."""
        argv = [*self.runtime.command, "--root", os.fspath(self._root), *args]
        return measure.run(argv, self.runtime.environment, self._output)

    def output(self) -> str:
        """Return what the last command wrote."""
        return os.pread(self._output, 1 << 20, 0).decode(errors="replace")

    def start(self) -> tuple[str, int]:
        """Start a container that sleeps; return its id and pid."""
        name = self._new()
        self.command("create", "--bundle", self._bundle("sleep"), "--pid-file", os.fspath(self._pid_file), name)
        self.command("start", name)
        return name, int(self._pid_file.read_text())

    def remove(self, name: str) -> None:
        """End a container, whatever its state."""
        with contextlib.suppress(measure.Failed):
            self.command("delete", "--force", name)

    def run_true(self) -> Iterator[tuple[str, float]]:
        """`run` of a program that does nothing."""
        yield "run true", self.command("run", "--bundle", self._bundle("true"), self._new())

    def life(self) -> Iterator[tuple[str, float]]:
        """Create and start, and delete --force."""
        name, begin = self._new(), time.perf_counter()
        self.command("create", "--bundle", self._bundle("sleep"), name)
        self.command("start", name)
        yield "create+start", (time.perf_counter() - begin) * 1000
        yield "delete --force", self.command("delete", "--force", name)

    def exec_true(self) -> Iterator[tuple[str, float]]:
        """`exec` of a program that does nothing."""
        yield "exec true", self.command("exec", self.long, "/bin/true")

    def files(self) -> Iterator[tuple[str, float]]:
        """What a program does with files of its root, by its own clock."""
        self.command("run", "--bundle", self._bundle("files"), self._new())
        for line in self.output().splitlines():
            name, _, value = line.rpartition(" ")
            if value.isdigit():
                yield name, int(value) * 10.0

    def steps(self) -> Iterator[tuple[str, float]]:
        """What `create` takes its time for, step by step."""
        name = self._new()
        self.command("create", "--trace", "--bundle", self._bundle("sleep"), name)
        yield from read_steps(self.output())
        self.remove(name)

    def network(self) -> Iterator[tuple[str, float]]:
        """Have it receive something over its interface."""
        argv = ["nsenter", f"--net={self.runtime.peer}", sys.executable, "-c", SENDER]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as sender:
            try:
                self.command("run", "--bundle", self._bundle("receive"), self._new())
                said, _ = sender.communicate(timeout=90)
            finally:
                sender.kill()
        yield f"receive {SENT >> 20} MiB", float(said) * 1000

    def scenarios(self) -> list[Scenario]:
        """All of them; where a network namespace is one sandbox's at a time, only one container at a time."""
        if self.alone:
            return [self.run_true, self.network]
        steps = [self.steps] if self.runtime.ours else []
        return [self.run_true, self.life, self.exec_true, self.files, *steps]

    def second(self) -> footprint.Footprint:
        """Return the memory of all processes of one more container than there is."""
        name, pid = self.start()
        try:
            return footprint.of(*_family(pid))
        finally:
            self.remove(name)

    def _new(self) -> str:
        self._number += 1
        return f"{self._name}-{os.getpid()}-{self._number}"

    def _bundle(self, name: str) -> str:
        return os.fspath(self.runtime.bundles / name)


def read_steps(text: str) -> Iterator[tuple[str, float]]:
    """Return what `--trace` tells: each step, and the milliseconds until the next begins."""
    lines = [line.split() for line in text.splitlines() if " ms " in line]
    told = [(" ".join(words[4:]), float(words[0])) for words in lines if len(words) > 4]
    for (name, begin), (_, end) in itertools.pairwise(told):
        yield f"create: {name}", end - begin


if TYPE_CHECKING:
    from collections.abc import Callable

    Scenario = Callable[[], Iterator[tuple[str, float]]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the bench and print its tables. The exit code is 1 if a contender of ours could not be measured."""
    wanted = _arguments(arguments)
    measure.adopt_orphans()
    series: dict[str, dict[str, list[float]]] = {}
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pysandbox-bench-")))
        benches, missing = _start(stack, directory, wanted)
        _print_head(benches, missing, wanted.rounds)
        memory = {
            bench.runtime.label: bench.second() for bench in benches if bench.long and bench.runtime.label != "runsc"
        }
        for number in range(wanted.rounds + 1):
            turns = [(bench, take) for bench in benches for take in bench.scenarios()]
            _CHANCE.shuffle(turns)
            for bench, take in turns:
                for name, value in take():
                    if number:  # the first round makes templates and warms caches
                        series.setdefault(name, {}).setdefault(bench.runtime.label, []).append(value)
    for line in (*_tables(series), *_memory(memory), *_goals(series["run true"], memory)):
        print(line)
    if wanted.json is not None:
        wanted.json.write_text(json.dumps({"raw": series, "missing": missing}, indent=1) + "\n")
    return 1 if any(label.startswith("microvm") for label in missing) else 0


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="machinebench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=10, help="turns of each contender (default: 10)")
    parser.add_argument("--runsc", default=shutil.which("runsc"), help="gVisor's runsc (default: by PATH)")
    parser.add_argument("--platform", default="systrap", help="runsc's platform (default: systrap)")
    parser.add_argument("--images", help="directory with guest images (default: that of the settings)")
    parser.add_argument("--json", type=Path, help="write all raw figures to this file")
    wanted = parser.parse_args(arguments)
    if os.geteuid() != 0:
        parser.error("only root can run containers")
    return wanted


# -- contenders --------------------------------------------------------------------------------------------------------


def _start(
    stack: contextlib.ExitStack, directory: Path, wanted: argparse.Namespace
) -> tuple[list[Bench], dict[str, str]]:
    """Start each contender's long-running container; who cannot is left out, with its own words as the reason."""
    benches, missing = [], {}
    for runtime in _runtimes(stack, directory, wanted):
        bench = Bench(runtime, directory)
        try:
            if not bench.alone:
                bench.long = bench.start()[0]
        except (measure.Failed, OSError, ValueError) as error:
            missing[runtime.label] = str(error)
            continue
        if bench.long:
            stack.callback(bench.remove, bench.long)
        benches.append(bench)
    if not wanted.runsc:
        missing["runsc"] = "not installed"
    return benches, missing


def _runtimes(stack: contextlib.ExitStack, directory: Path, wanted: argparse.Namespace) -> Iterator[Runtime]:
    plain = _bundles(directory / "plain")
    block = _bundles(directory / "block", image=True)
    program = contender.find_program(contender.WARM)
    if program is None:
        raise measure.Failed("pysandbox is not installed")
    namespace, peer = _interface(stack)
    interface = _bundles(directory / "interface", namespace=namespace)
    warm, cold = _environments(stack, directory, program)
    ours = [
        ("microvm", plain, True, warm),
        ("microvm, block root", block, True, warm),
        ("microvm, interface", interface, True, warm),
        ("microvm, cold boot", plain, False, warm),
        ("microvm, no server", plain, True, cold),
    ]
    for label, bundles, template, environment in ours:
        settings = _settings(directory / f"{label.replace(' ', '-')}.toml", wanted.images, template=template)
        command = (program, "--config", os.fspath(settings), "--backend", "microvm")
        yield Runtime(label, command, bundles, environment, peer if bundles is interface else "")
    if wanted.runsc:
        flags = ("--ignore-cgroups", "--network=none", f"--platform={wanted.platform}")
        stack.callback(_unmount, directory / "state-bench-runsc/null-netns")  # runsc keeps a network namespace there
        yield Runtime("runsc", (wanted.runsc, *flags), plain, dict(ENVIRONMENT))
    runc = shutil.which("runc")
    if runc:
        yield Runtime("runc", (runc,), plain, dict(ENVIRONMENT))
        yield Runtime("runc, interface", (runc,), interface, dict(ENVIRONMENT), peer)


def _environments(stack: contextlib.ExitStack, directory: Path, program: str) -> tuple[dict[str, str], dict[str, str]]:
    """Return the environments with a server, which runs for as long as the bench, and without one."""
    with_server = Contender(WARM, (program,), server=os.fspath(directory / "server"))
    stack.enter_context(Server(with_server, directory / "first"))
    return with_server.environment, {**ENVIRONMENT, "PYSANDBOX_WARM": "off"}


def _settings(path: Path, images: str | None, *, template: bool) -> Path:
    lines = ["[backends.microvm]", f"template = {str(template).lower()}"]
    lines += [f"directory = {json.dumps(os.fspath(path.parent / 'microvm'))}"]
    lines += [f"images = {json.dumps(images or '/var/lib/pysandbox/microvm/images')}"]
    path.write_text("\n".join(lines) + "\n")
    path.chmod(0o600)
    return path


def _bundles(path: Path, *, image: bool = False, namespace: str | None = None) -> Path:
    """Make the bundles of each scenario; with `image` their roots are ext4 images."""
    receive = ["/bin/sh", "-c", f"nc -l -p {PORT} >/dev/null"]
    programs = {"true": workload.TRUE, "sleep": workload.SLEEP, "files": ["/bin/sh", "-c", FILES], "receive": receive}
    for name, args in programs.items():
        bundle = workload.make_bundle(path / name, args)
        document = json.loads((bundle / "config.json").read_text())
        document["root"]["readonly"] = name != "files"  # images are shared by readers alone
        for program in ("sh", "awk", "dd", "stat", "rm", "nc"):
            (bundle / "rootfs/bin" / program).symlink_to("busybox")
        (bundle / "rootfs/data").mkdir()
        if namespace is not None:
            spaces = document["linux"]["namespaces"]
            next(space for space in spaces if space["type"] == "network")["path"] = namespace
        if image:
            document["root"]["path"] = "root.img"
            _make_image(bundle)
        (bundle / "config.json").write_text(json.dumps(document))
    return path


def _make_image(bundle: Path) -> None:
    image = bundle / "root.img"
    with open(image, "wb") as file:
        file.truncate(ROOT_SIZE)
    command = ["mke2fs", "-q", "-t", "ext4", "-d", os.fspath(bundle / "rootfs"), os.fspath(image)]
    subprocess.run(command, check=True, env={"PATH": "/usr/sbin:/sbin:/usr/bin:/bin"})


def _interface(stack: contextlib.ExitStack) -> tuple[str, str]:
    """Make two network namespaces that an Ethernet connects; return their paths."""
    namespaces = [_namespace(stack), _namespace(stack)]
    far, near = namespaces[1], f"nsenter --net={namespaces[0]} ip"
    pid = far.split("/")[2]
    for command in (f"{near} link add eth0 type veth peer name eth0 netns {pid}",
                    f"{near} link set lo up", f"{near} link set eth0 up", f"{near} address add {ADDRESS}/24 dev eth0",
                    f"nsenter --net={far} ip link set eth0 up",
                    f"nsenter --net={far} ip address add {PEER}/24 dev eth0"):  # fmt: skip
        subprocess.run(command.split(), check=True)
    return namespaces[0], far


def _namespace(stack: contextlib.ExitStack) -> str:
    holder = subprocess.Popen(["unshare", "--net", "sh", "-c", "echo; exec sleep 100000"], stdout=subprocess.PIPE)
    stack.callback(holder.wait)
    stack.callback(holder.kill)
    assert holder.stdout is not None
    holder.stdout.readline()
    return f"/proc/{holder.pid}/ns/net"


def _unmount(path: Path) -> None:
    if path.exists():
        subprocess.run(["umount", "--lazy", os.fspath(path)], check=False, stderr=subprocess.DEVNULL)


def _family(pid: int) -> list[int]:
    """Return all processes in a process's cgroups, itself among them: what is a fork of a server is no descendant."""
    wanted, found = Path(f"/proc/{pid}/cgroup").read_text(), []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{name}/cgroup").read_text() == wanted:
                found.append(int(name))
    return found


# -- tables ------------------------------------------------------------------------------------------------------------


def _print_head(benches: Sequence[Bench], missing: dict[str, str], rounds: int) -> None:
    found = machine.describe([Contender(each.runtime.label, each.runtime.command) for each in benches[-2:]])
    print(f"kernel {found['kernel']}, {found['processors']} processors, load {found['load'][0]:.2f}, {rounds} rounds")
    for bench in benches:
        print(f"  {bench.runtime.label}: {' '.join(bench.runtime.command)}")
    for label, reason in missing.items():
        print(f"  left out {label}: {reason}")


def _tables(series: dict[str, dict[str, list[float]]]) -> Iterator[str]:
    for name, contenders in series.items():
        references = [each for each in ("runsc", "runc") if each in contenders]
        heads = "".join(f"{f'ratio to {each} (95 %)':<26}" for each in references)
        yield f"\n{name:<24}{'median ms':>12}{'quartiles':>20}   {heads}".rstrip()
        for label, values in contenders.items():
            found = distribution.summarize(values)
            quartiles = f"{found.lower:.1f} … {found.upper:.1f}"
            ratios = "".join(f"{_ratio(values, contenders[each], label == each):<26}" for each in references)
            yield f"  {label:<22}{found.median:>12.1f}{quartiles:>20}   {ratios}".rstrip()


def _ratio(values: list[float], reference: list[float], same: bool) -> str:  # noqa: FBT001
    if same or not min(reference):  # the clock of the files' scenario goes by hundredths of a second
        return ""
    found = distribution.ratio(values, reference)
    return f"{found.value:.2f} ({found.low:.2f} … {found.high:.2f})"


def _memory(found: dict[str, footprint.Footprint]) -> Iterator[str]:
    yield f"\n{'memory of one more':<24}{'processes':>12}{'PSS MiB':>10}{'private MiB':>14}"
    for label, each in found.items():
        yield f"  {label:<22}{each.processes:>12}{each.proportional:>10.1f}{each.private:>14.1f}"


def _goals(run: dict[str, list[float]], memory: dict[str, footprint.Footprint]) -> Iterator[str]:
    yield f"\n{'goals':<44}{'median (95 %)':<26}{'goal':<18}aim"
    for goal in GOALS:
        if goal.label in run and goal.reference in run:
            found = distribution.ratio(run[goal.label], run[goal.reference])
            told = f"{found.value:.2f} ({found.low:.2f} … {found.high:.2f})"
            yield _judged(f"run true: {goal.label} / {goal.reference}", told, found.value, goal.limit, goal.aim)
    for label, aim in MEMORY_AIMS.items():
        if label in memory:
            value = memory[label].proportional
            yield _judged(f"memory of one more: {label}", f"{value:.1f} MiB", value, MEMORY_GOAL, aim)


def _judged(what: str, told: str, value: float, limit: float, aim: float) -> str:
    goal = f"≤ {limit:g}: {'met' if value <= limit else 'missed'}"
    return f"  {what:<42}{told:<26}{goal:<18}≤ {aim:g}: {'met' if value <= aim else 'missed'}"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (measure.Failed, OSError, subprocess.CalledProcessError) as failure:
        sys.exit(f"machinebench: {failure}")
