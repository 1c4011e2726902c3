"""Whatever a caller is like, a served command is like its caller; who cannot be matched runs cold."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from precondition import requires
from runtime import eventually
from server import Servers
from side import LOOK, add_hooks, enter, hierarchies

if TYPE_CHECKING:
    from collections.abc import Callable

    from side import Side, Sides


def run_everywhere(side: Side, change: Callable[[dict[str, Any]], object] | None = None, **how: Any) -> None:
    """Run a container that looks around, with hooks that do; then create one and run a process in it."""

    def spec(spec: dict[str, Any]) -> None:
        add_hooks(spec, side.place / "hooks")
        if change is not None:
            change(spec)

    prefix = how.pop("prefix", ())
    for words in (
        ["run", "--bundle", side.bundle(LOOK, spec), "c"],
        ["create", "--bundle", side.bundle(["sleep", "1000"], change), "--pid-file", "pid", "d"],
        ["exec", "d", "sh", "-c", LOOK],
        ["state", "d"],
        ["delete", "--force", "d"],
    ):
        side(*words, argv=[*prefix, *side.argv(*words)], **how)


# -- directory, umask, environment -------------------------------------------------------------------------------------


def test_paths_are_relative_to_the_callers_directory(sides: Sides) -> None:
    def scene(side: Side) -> None:
        bundle = side.bundle("echo ran")
        (side.place / "there").mkdir()
        program = str(side.program)
        for words in (
            ["--root", "state", "run", "-b", "../bundle0", "c"],
            ["--root", "state", "--log", "log", "create", "--bundle", "../bundle0", "--pid-file", "pid", "d"],
            ["--root", "state", "state", "d"],
            ["--root", "../there/state", "delete", "--force", "d"],
            ["--root", "state", "spec"],
        ):
            side(*words, argv=[program, *words], cwd=side.place / "there")
        side("run", "c", cwd=bundle)

    sides.compare(scene, off=True)


def test_the_directory_is_gone(sides: Sides) -> None:
    def scene(side: Side) -> None:
        bundle = side.bundle("pwd")
        for words in (["--version"], ["list"], ["run", "--bundle", bundle, "c"], ["run", "c"], ["spec"]):
            (side.place / "gone").mkdir()
            script = 'rmdir "$PWD"; exec "$@"'
            side(*words, argv=["sh", "-c", script, "sh", *side.argv(*words)], cwd=side.place / "gone")

    sides.compare(scene, off=True)


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o777])
def test_umask(sides: Sides, umask: int) -> None:
    def scene(side: Side) -> None:
        run_everywhere(side, umask=umask)
        side("--log", "log", "state", "x", umask=umask)
        side("spec", umask=umask)

    sides.compare(scene)


@pytest.mark.parametrize(
    "variables",
    [
        {"LC_ALL": "C", "LANG": "xx_XX"},
        {"LC_ALL": "tr_TR.UTF-8", "TZ": "America/Caracas"},
        {"PYTHONPATH": "/nonexistent", "PYTHONHOME": "/nonexistent", "PYTHONUNBUFFERED": "1", "PYTHONUTF8": "0"},
        {"EMPTY": "", "MANY": "x" * 100_000, "LINES": "a\nb", "UNICODE": "ä€😀"},
        {"PATH": "/nonexistent", "LC_CTYPE": "C"},
    ],
)
def test_environment(sides: Sides, variables: dict[str, str]) -> None:
    def scene(side: Side) -> None:
        run_everywhere(side, env={**side.environment, **variables})
        side("list", "é", "x", env={**side.environment, **variables})

    sides.compare(scene)


def test_an_empty_environment(sides: Sides) -> None:
    def scene(side: Side) -> None:
        run_everywhere(side, env={"PYSANDBOX_WARM": side.environment["PYSANDBOX_WARM"]})

    sides.compare(scene)


def test_a_huge_environment(sides: Sides) -> None:
    def scene(side: Side) -> None:
        huge = {f"V{number}": "x" * 1000 for number in range(1000)}
        side("run", "--bundle", side.bundle("echo ran"), "c", env={**side.environment, **huge})

    sides.compare(scene)


def test_what_is_not_utf8_runs_cold(sides: Sides) -> None:
    def scene(side: Side) -> None:
        side("--version", env={**side.environment, "ODD": b"\xff"})
        side("state", argv=[*side.argv("state"), b"\xff\xfe"])
        bundle = side.bundle("echo $ODD")
        os.rename(bundle, os.fsencode(side.place) + b"/\xe4")
        side("run", argv=[*side.argv("run", "--bundle"), os.fsencode(side.place) + b"/\xe4", "c"])
        shutil.rmtree(os.fsencode(side.place) + b"/\xe4")

    sides.compare(scene, served=False)


@pytest.mark.parametrize("variable", ["NOTIFY_SOCKET"])
def test_what_speaks_of_one_process_runs_cold(sides: Sides, variable: str) -> None:
    sides.compare(lambda side: side("--version", env={**side.environment, variable: "/nonexistent"}), served=False)


# -- limits, priorities, credentials -----------------------------------------------------------------------------------

#: A lower value of each limit that a command can still run with.
LIMITS = {
    "RLIMIT_CPU": 100, "RLIMIT_FSIZE": 50 << 20, "RLIMIT_DATA": 1 << 30, "RLIMIT_STACK": 2 << 20, "RLIMIT_CORE": 0,
    "RLIMIT_NPROC": 5000, "RLIMIT_NOFILE": 60, "RLIMIT_MEMLOCK": 4096, "RLIMIT_AS": 2 << 30,
    "RLIMIT_SIGPENDING": 100, "RLIMIT_MSGQUEUE": 1000,
}  # fmt: skip


@pytest.mark.parametrize("name", LIMITS)
def test_lowered_limits(sides: Sides, name: str) -> None:
    number, value = getattr(resource, name, {"RLIMIT_SIGPENDING": 11}.get(name, -1)), LIMITS[name]

    def own(spec: dict[str, Any]) -> None:
        spec["process"].pop("rlimits")

    def scene(side: Side) -> None:
        for hard in (value, resource.getrlimit(number)[1]):
            run_everywhere(side, own, preexec_fn=partial(resource.setrlimit, number, (value, hard)))
            (side.place / "hooks").unlink()

    sides.compare(scene)


def test_a_file_may_not_grow(sides: Sides) -> None:
    """The limit holds for what the command itself writes."""

    def scene(side: Side) -> None:
        limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (100, 100))
        side("create", "--bundle", side.bundle("true"), "c", preexec_fn=limit)
        side("spec", preexec_fn=limit)
        side("list")

    sides.compare(scene)


def test_priorities(sides: Sides) -> None:
    def lower() -> None:
        os.nice(7)
        os.sched_setaffinity(0, {0})
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        Path("/proc/self/oom_score_adj").write_text("321")
        Path("/proc/self/coredump_filter").write_text("0x7")
        Path("/proc/self/timerslack_ns").write_text("60000")

    def scene(side: Side) -> None:
        run_everywhere(side, preexec_fn=lower)

    sides.compare(scene, off=True)


def test_a_server_is_not_as_patient_as_who_has_started_it(sides: Sides, tmp_path: Path) -> None:
    requires("command ionice", "command env")

    def lower() -> None:
        os.nice(7)
        os.sched_setaffinity(0, {0})
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))

    servers = Servers(tmp_path / "server")
    environment = {**os.environ, "PYSANDBOX_WARM": str(servers.directory)}
    argv = ["ionice", "--class", "idle", str(sides.program), "--version"]
    subprocess.run(argv, env=environment, preexec_fn=lower, stdout=subprocess.DEVNULL, check=True)
    try:
        (status,) = eventually(servers.status, "there is a server")
        for pid in (status["pid"], *status["spares"]):
            assert os.getpriority(os.PRIO_PROCESS, pid) == 0
            assert os.sched_getscheduler(pid) == os.SCHED_OTHER
            assert os.sched_getaffinity(pid) == os.sched_getaffinity(0)
            said = subprocess.run(["ionice", "--pid", str(pid)], stdout=subprocess.PIPE, text=True, check=True)
            assert said.stdout.startswith("none"), said.stdout
    finally:
        servers.stop()


def test_groups(sides: Sides) -> None:
    def scene(side: Side) -> None:
        run_everywhere(side, extra_groups=[3, 70_000])
        side("--log", "log", "state", "x", group=1000)
        side("spec", group=1000)

    sides.compare(scene)


def test_another_user_runs_cold(sides: Sides) -> None:
    def scene(side: Side) -> None:
        side("--version", user=1000)
        side("list", user=1000)
        side("run", "--bundle", side.bundle("true"), "c", user=1000)

    sides.compare(scene, served=False)


@pytest.mark.parametrize(
    "prefix",
    [
        ["setpriv", "--no-new-privs"],
        ["setpriv", "--bounding-set", "-net_raw"],
        ["setpriv", "--securebits", "+noroot"],
        ["setpriv", "--ruid", "1000", "--clear-groups"],
    ],
)
def test_lesser_powers_run_cold(sides: Sides, prefix: list[str]) -> None:
    requires("command setpriv")

    def scene(side: Side) -> None:
        bundle = side.bundle("grep -E '^(Cap|NoNew)' /proc/self/status")
        for words in (["--version"], ["run", "--bundle", bundle, "c"]):
            side(*words, argv=[*prefix, *side.argv(*words)])

    sides.compare(scene, served=False)


# -- signals -----------------------------------------------------------------------------------------------------------


def test_ignored_and_blocked_signals(sides: Sides) -> None:
    def inherit() -> None:
        for number in (
            signal.SIGHUP,
            signal.SIGINT,
            signal.SIGTERM,
            signal.SIGCHLD,
            signal.SIGUSR1,
            signal.SIGRTMIN + 1,
        ):
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, {signal.SIGUSR2, signal.SIGTERM, signal.SIGCHLD, signal.SIGRTMAX})

    def scene(side: Side) -> None:
        run_everywhere(side, preexec_fn=inherit)

    sides.compare(scene, off=True)


def _running(*commands: str) -> list[str]:
    from runtime import children

    found = [Path(f"/proc/{pid}/cmdline").read_text() for pid in children() if Path(f"/proc/{pid}").exists()]
    return sorted(line.rstrip("\0") for line in found if line.startswith(commands))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGWINCH, signal.SIGCONT])
def test_signals_for_a_program_in_the_foreground(sides: Sides, number: signal.Signals) -> None:
    name = number.name.removeprefix("SIG")
    script = f"trap 'echo got {name}; exit 7' {name}; echo ready; while :; do sleep 0.05; done"

    def scene(side: Side) -> None:
        for words in (["run", "--bundle", side.bundle(script), "c"], ["exec", "d", "sh", "-c", script]):
            with (side.place / "out").open("wb") as out:
                process = side.start(side.argv(*words), stdout=out)
            side.wait_for("out")
            process.send_signal(number)
            side.note("ended", process.wait(20))
            side.note("said", (side.place / "out").read_text())
            if words[0] == "run":
                side("run", "--detach", "--bundle", side.bundle(["sleep", "1000"]), "d")

    sides.compare(scene)


def test_a_caller_in_the_foreground_is_killed(sides: Sides) -> None:
    def scene(side: Side) -> None:
        with (side.place / "out").open("wb") as out:
            # It says that it is up when `run`, too, has had the time to see and record that it runs.
            script = "sleep 1; echo up; exec sleep 1001"
            process = side.start(side.argv("run", "--bundle", side.bundle(script), "c"), stdout=out)
        side.wait_for("out")
        process.kill()
        side.note("ended", process.wait(20))
        time.sleep(0.2)
        side.learn()
        side.note("left", _running("sleep\0001001"))
        for words in (["list"], ["delete", "--force", "c"], ["list"]):
            side(*words)

    sides.compare(scene)


def test_a_caller_is_stopped_and_continued(sides: Sides) -> None:
    def scene(side: Side) -> None:
        process = side.start(side.argv("run", "--bundle", side.bundle("sleep 0.3; exit 5"), "c"))
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.6)
        side.note("stopped", process.poll())
        process.send_signal(signal.SIGCONT)
        side.note("ended", process.wait(20))

    sides.compare(scene)


# -- cgroups -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [None, "below/it", "/psb-test-absolute/it"])
def test_the_callers_cgroup(sides: Sides, own_cgroup: str, path: str | None) -> None:
    """Paths are relative to it, hooks are in it."""

    def place(spec: dict[str, Any]) -> None:
        spec["linux"].pop("cgroupsPath")
        if path is not None:
            spec["linux"]["cgroupsPath"] = path

    def scene(side: Side) -> None:
        run_everywhere(side, place, preexec_fn=partial(enter, own_cgroup))
        assert own_cgroup in (side.place / "hooks").read_text()
        side.note("left in it", sorted(str(path) for top in hierarchies() for path in (top / own_cgroup).glob("*/")))

    sides.compare(scene, off=True)


# -- namespaces and roots ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "flags",
    [["--mount"], ["--net"], ["--uts"], ["--ipc"], ["--cgroup"], ["--mount", "--net", "--uts", "--ipc", "--cgroup"]],
)
def test_namespaces_of_the_callers_own_are_joined(sides: Sides, flags: list[str]) -> None:
    requires("command unshare")

    def scene(side: Side) -> None:
        run_everywhere(side, prefix=["unshare", *flags])

    sides.compare(scene, off=True)


def test_a_namespace_shared_with_the_caller_is_the_callers(sides: Sides) -> None:
    requires("command unshare")

    def share(spec: dict[str, Any]) -> None:
        kept = [each for each in spec["linux"]["namespaces"] if each["type"] not in ("network", "uts", "ipc")]
        spec["linux"]["namespaces"] = kept
        spec.pop("hostname")

    def scene(side: Side) -> None:
        bundle = side.bundle("hostname; ls /sys/class/net; cat /proc/net/dev | wc -l", share)
        words = side.argv("run", "--bundle", bundle, "c")
        script = 'hostname callers; exec "$@"'
        seen = side("run", argv=["unshare", "--net", "--uts", "--ipc", "sh", "-c", script, "sh", *words])
        assert "callers" in seen.out, seen.err

    sides.compare(scene)


def test_a_mount_that_only_the_caller_sees(sides: Sides) -> None:
    """Bundle, state and a source of a bind mount lie on it."""
    requires("command unshare")

    def scene(side: Side) -> None:
        def bind(spec: dict[str, Any]) -> None:
            spec["mounts"].append({"destination": "/mnt", "type": "bind", "source": f"{own}/data", "options": ["bind"]})
            add_hooks(spec, side.place / "hooks")

        own = side.place / "own"
        own.mkdir()
        bundle = side.bundle("cat /mnt/file", bind)
        script = f"""mount -t tmpfs own {own} && mkdir {own}/data && echo inside > {own}/data/file && cp -r {bundle} {own}/b &&
            exec "$@" """
        argv = [str(side.program), "--root", f"{own}/state", "run", "--bundle", f"{own}/b", "c"]
        seen = side("run", argv=["unshare", "--mount", "sh", "-c", script, "sh", *argv])
        assert seen.out == "inside\n", seen.err

    sides.compare(scene)


@pytest.mark.parametrize(
    "prefix", [["unshare", "--pid", "--fork"], ["unshare", "--user", "--map-root-user"], ["unshare", "--time"]]
)
def test_other_namespaces_run_cold(sides: Sides, prefix: list[str]) -> None:
    requires("command unshare")

    def scene(side: Side) -> None:
        bundle = side.bundle("echo ran; readlink /proc/self/ns/time")
        for words in (["--version"], ["run", "--bundle", bundle, "c"]):
            side(*words, argv=[*prefix, *side.argv(*words)])

    sides.compare(scene, served=False)


def test_another_root_directory_runs_cold(sides: Sides) -> None:
    requires("command chroot", "command unshare")

    def scene(side: Side) -> None:
        top = side.place / "top"
        top.mkdir()
        script = f'mount --rbind / {top} && exec chroot {top} "$@"'
        for words in (["--version"], ["list"]):
            side(*words, argv=["unshare", "--mount", "sh", "-c", script, "sh", *side.argv(*words)])

    sides.compare(scene, served=False)


def test_without_proc_it_runs_cold(sides: Sides) -> None:
    requires("command unshare")

    def scene(side: Side) -> None:
        script = 'umount -l /proc && exec "$@"'
        side("--version", argv=["unshare", "--mount", "sh", "-c", script, "sh", *side.argv("--version")])

    sides.compare(scene, served=False)


def test_a_traced_caller(sides: Sides) -> None:
    """A debugger sees the launcher and what it starts; it need not be told more."""
    if shutil.which("strace") is None:
        pytest.skip("requires command strace: not installed")

    def scene(side: Side) -> None:
        words = ["run", "--bundle", side.bundle("exit 3"), "c"]
        side(*words, argv=["strace", "-f", "-o", "/dev/null", *side.argv(*words)])

    sides.compare(scene)
