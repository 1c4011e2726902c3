"""Calling one installation cold and warm in turn, and comparing what was seen."""

from __future__ import annotations

import difflib
import json
import os
import pprint
import re
import shutil
import subprocess
import tempfile
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime import children, end_children, eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from server import Servers

#: Seconds for a command to end.
LIMIT = 30.0
#: What a program in a container can find out about what it has inherited.
LOOK = r"""
id; umask; env | sort; cat /proc/self/limits /proc/self/oom_score_adj /proc/self/cgroup
for each in /proc/self/fd/*; do readlink $each; done | sort
grep -E '^(PPid|NSpgid|NSsid|Groups|Sig[PBIC]|ShdPnd|Cap|NoNew|Seccomp|Cpus_allowed|Mems_allowed|CoreDumping)' \
    /proc/self/status
cut -d ' ' -f 4-8,18-20,41 /proc/self/stat
sed -E 's/^[0-9]+ [0-9]+ [0-9]+:[0-9]+ //' /proc/self/mountinfo
for each in /proc/self/ns/*; do readlink $each; done
cat /proc/self/personality /proc/self/coredump_filter /proc/self/timerslack_ns /proc/self/loginuid
hostname; pwd; ls -ln /dev | awk '{print $1, $3, $4, $5, $6, $NF}'
"""
#: Outside of the container: what a hook has, and whose it is.
HOOK = """{
echo "== $0"; cat; echo; pwd; /usr/bin/env | /usr/bin/sort; umask; cat /proc/self/cgroup /proc/self/limits /proc/self/oom_score_adj
for each in /proc/self/fd/*; do readlink $each; done; for each in /proc/self/ns/*; do readlink $each; done
grep -E '^(Groups|Uid|Gid|Sig[PBIC]|Cap|NoNew|Seccomp):' /proc/self/status
set -- $(cut -d ' ' -f 1,4-7 /proc/$$/stat)
test $1 = $3 && echo "leads its group"; echo "parent: $2, session: $4, terminal: $5"
} >> %s 2>&1"""
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")
_START_TIME = re.compile(r'("pid_start_time":)\d+')
#: What `ps -ef` shows: how busy a process has been, when it was started.
_PS = re.compile(r" +\d+ \d\d:\d\d (?=\S+ +\d\d:\d\d:\d\d )")
_UNNAMED = re.compile(r"/tmp/#\d+ ")
_PID = re.compile(r'("pid": ?)\d{2,}')
_PIPE = re.compile(r"(pipe|socket):\[\d+\]")
_NAMESPACE = re.compile(r"\b([a-z_]+):\[(\d+)\]")
_PEERS = re.compile(r"\b(master|shared|propagate_from):\d+")


class Ended:
    """How a command ended: exit code (-N after signal N) and what it wrote, as it is."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


class Side:
    """One way of calling the runtime, in a place that is empty at first and has the same path for every side.

    Every command and what it did is kept in `seen`, with what may differ between any two runs made equal.
    """

    def __init__(self, how: str, program: Path, directory: str, place: Path, rootfs: Path) -> None:
        self.how, self.program, self.place, self._rootfs = how, program, place, rootfs
        self.environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "PYSANDBOX_WARM": directory}
        self.root = place / "root"
        self.calls = 0
        self.seen: list[tuple[str, Any]] = []
        self._pids: dict[int, str] = {}

    # -- calling -------------------------------------------------------------------------------------------------------

    def argv(self, *words: str | Path | int) -> list[str]:
        """Return a whole command line."""
        return [str(self.program), "--root", str(self.root), *map(str, words)]

    def start(self, argv: Sequence[str | bytes], **how: Any) -> subprocess.Popen[bytes]:
        """Start a command. `how` goes to Popen; stdio is /dev/null unless it says otherwise."""
        self.calls += 1
        for stream in ("stdin", "stdout", "stderr"):
            how.setdefault(stream, subprocess.DEVNULL)
        process = subprocess.Popen(argv, **{"env": self.environment, "cwd": self.place, **how})
        self.known(process.pid, "caller")
        return process

    def __call__(
        self, *words: str | Path | int, argv: Sequence[str | bytes] = (), stdin: bytes | None = None, **how: Any
    ) -> Ended:
        """Run a command to its end, and note all about it. A container may hold on to what is its stdout: a file."""
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, tempfile.TemporaryFile() as given:
            if stdin is not None:
                given.write(stdin)
                given.seek(0)
                how["stdin"] = given
            process = self.start(argv or self.argv(*words), **{"stdout": out, "stderr": err, **how})
            try:
                code = process.wait(LIMIT)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise
            ended = Ended(code, _text(out), _text(err))
        self.learn()
        self.note(f"{' '.join(map(str, words or argv))}: exit code", code)
        self.note("stdout", ended.out)
        self.note("stderr", ended.err)
        self.note("files", self.files())
        return ended

    # -- what is there -------------------------------------------------------------------------------------------------

    def bundle(self, script: str | list[str], change: Callable[[dict[str, Any]], object] | None = None) -> Path:
        """Make a bundle in the place: a shell script, or the words of a program."""
        from pysandbox.oci.default import default_spec

        bundle = self.place / f"bundle{sum(1 for _ in self.place.glob('bundle*'))}"
        bundle.mkdir()
        spec: dict[str, Any] = json.loads(json.dumps(default_spec()))
        args = ["sh", "-c", script] if isinstance(script, str) else script
        spec["process"].update({"args": args, "terminal": False})
        spec["root"] = {"path": str(self._rootfs), "readonly": True}
        # By default it would be the container's id, which other sessions on this machine use as well.
        spec["linux"]["cgroupsPath"] = cgroup_of(bundle)
        if change is not None:
            change(spec)
        (bundle / "config.json").write_text(json.dumps(spec))
        return bundle

    def copy_rootfs(self) -> None:
        """Make a root file system in the place, for a spec that writes to it."""
        shutil.copytree(self._rootfs, self.place / "rootfs", symlinks=True)

    def known(self, pid: int, name: str) -> None:
        """Give a pid a name that it has on every side."""
        self._pids[pid] = f"<{name}>"

    def is_caller(self, pid: int) -> bool:
        """Say whether it is a command that was started here."""
        return self._pids.get(pid) == "<caller>"

    def learn(self) -> None:
        """Name the inits that the records speak of."""
        for record in sorted(self.root.glob("*/state.json")):
            pid = json.loads(record.read_text()).get("pid", 0)
            if pid:
                self.known(pid, f"init of {record.parent.name}")

    def note(self, what: str, value: Any) -> None:
        """Keep an observation."""
        self.seen.append((what, self.normal(value) if isinstance(value, str) else value))

    def normal(self, text: str) -> str:
        """Make equal what two runs may differ in: times, pids, numbers of pipes."""
        text = _START_TIME.sub(r"\1…", _TIME.sub("<time>", text))
        text = _PEERS.sub(r"\1:…", _PIPE.sub(r"\1:[…]", text))
        text = _NAMESPACE.sub(_namespace, text)
        text = _PS.sub(" <used> <started> ", text)
        text = _UNNAMED.sub("/tmp/#… ", text)
        text = _PID.sub(r"\1<pid>", text)
        text = re.sub(r"PYSANDBOX_WARM=\S+", "PYSANDBOX_WARM=…", text)
        return re.sub(r"(?<![\w.-])[1-9]\d*(?![\w.])", lambda found: self._pids.get(int(found[0]), found[0]), text)

    def files(self) -> dict[str, str]:
        """Describe all that is in the place."""
        return {str(entry.relative_to(self.place)): self._describe(entry) for entry in sorted(self.place.rglob("*"))}

    def _describe(self, entry: Path) -> str:
        status = entry.lstat()
        about = f"{status.st_mode:o} {status.st_uid}:{status.st_gid}"
        if entry.is_symlink():
            return f"{about} -> {os.readlink(entry)}"
        if entry.name.endswith("pid") and entry.is_file():  # a pid file, whose process may have ended
            return f"{about} {'a pid' if entry.read_text().isdecimal() else entry.read_text()}"
        if entry.is_file():
            return f"{about} {self.normal(entry.read_text(errors='backslashreplace'))}"
        return about

    def pid(self, container: str) -> int:
        """Return a container's init."""
        return int(json.loads((self.root / container / "state.json").read_text())["pid"])

    def wait_for(self, name: str) -> None:
        """Wait until a file is there, in the place, with something in it."""
        path = self.place / name
        eventually(lambda: path.exists() and path.stat().st_size, f"{name} is written")

    def clean(self) -> None:
        """Remove the containers and the place."""
        for record in self.root.iterdir() if self.root.is_dir() else ():
            subprocess.run(
                [self.program.with_name("pysandbox-cold"), "--root", self.root, "delete", "--force", record.name],
                check=False, capture_output=True, env=self.environment, timeout=LIMIT,
            )  # fmt: skip
        shutil.rmtree(self.place)


def _told(cold: Any, other: Any) -> str:
    """Show how two observations differ, line by line."""
    lines = [pprint.pformat(each, width=200).replace("\\n", "\n").splitlines() for each in (cold, other)]
    return "\n".join(difflib.unified_diff(*lines, "cold", "other", n=2, lineterm=""))


def add_hooks(spec: dict[str, Any], path: Path, **fields: Any) -> None:
    """Give a spec hooks of every kind that append to `path` what they see; `fields` go into each of them."""
    spec["hooks"] = {
        kind: [{"path": "/bin/bash", "args": ["bash", "-c", HOOK % path, kind], **fields}]
        for kind in ("prestart", "createRuntime", "createContainer", "poststart", "poststop")
    }


def cgroup_of(bundle: Path) -> str:
    """Return the cgroup of a bundle's container, relative to its caller's."""
    return f"psb-equal-{os.getpid()}-{bundle.name}"


def hierarchies() -> list[Path]:
    """Return where every cgroup hierarchy is mounted."""
    lines = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [Path(words[4]) for words in lines if words[words.index("-") + 1] in ("cgroup", "cgroup2")]


def enter(name: str) -> None:
    """Move this process into a cgroup of every hierarchy."""
    for top in hierarchies():
        (top / name / "cgroup.procs").write_text("0")


def _text(file: Any) -> str:
    file.seek(0)
    return str(file.read().decode(errors="backslashreplace"))


def _namespace(found: re.Match[str]) -> str:
    kind, number = found.groups()
    try:
        own = os.stat(f"/proc/self/ns/{kind}").st_ino
    except FileNotFoundError:
        return found[0]
    return f"{kind}:[{'the host' if own == int(number) else 'another'}]"


class Sides:
    """The installation, its server, and the scenes that are played on each side."""

    def __init__(self, program: Path, servers: Servers, rootfs: Path) -> None:
        self.program, self.servers, self._rootfs = program, servers, rootfs
        self._place = servers.directory.parent / "place"

    def play(self, scene: Callable[[Side], object], how: str) -> Side:
        """Play a scene on one side: `cold` (the script), `off` (the launcher without a server) or `warm`."""
        pass_low_pids()
        self._place.mkdir()
        program = self.program.with_name("pysandbox-cold") if how == "cold" else self.program
        directory = "off" if how == "off" else str(self.servers.directory)
        side = Side(how, program, directory, self._place, self._rootfs)
        before = set(children())
        try:
            scene(side)
        finally:
            end_children(before)
            side.clean()
        return side

    def compare(self, scene: Callable[[Side], object], *, served: bool = True, off: bool = False) -> None:
        """Fail unless a scene goes warm as it goes cold, and every command of it was served (or none)."""
        sides = {how: self.play(scene, how) for how in (("cold", "off") if off else ("cold",))}
        self.settle()
        before = self.servers.served
        sides["warm"] = self.play(scene, "warm")
        self.settle()
        assert sides["cold"].seen, "nothing was looked at"
        for how in sides.keys() - {"cold"}:
            differing = [pair for pair in zip_longest(sides["cold"].seen, sides[how].seen) if pair[0] != pair[1]]
            assert not differing, f"{how} differs from cold: {_told(*differing[0])}"
        expected = sides["warm"].calls if served else 0
        assert self.servers.served - before == expected, f"refused: {self.servers.refused}"

    def settle(self) -> None:
        """Wait until the server has heard from all its forks, and two wait for callers."""

        def quiet() -> bool:
            (status,) = self.servers.status() or [{"spares": (), "serving": True}]
            return len(status["spares"]) == 2 and not status["serving"]

        eventually(quiet, "the server is quiet")


def pass_low_pids() -> None:
    """Use pids up until they are higher than the modes, sizes and ids that a scene's output holds."""
    pid = 0
    while pid < 5000:
        pid = os.posix_spawn("/bin/true", ["true"], {})
        os.waitpid(pid, 0)
