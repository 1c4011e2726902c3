"""What breaks, breaks soon and for a reason: the exit status and one line within 2 seconds, nothing left on the host."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest
from precondition import requires
from runtime import MakeBundle, Runtime, cgroup_of, eventually

from pysandbox.linux import start_time
from pysandbox_microvm.heartbeat import LONGEST

pytestmark = pytest.mark.usefixtures("leaks")

#: Seconds from the fault to the end of `run`, with some for a host that has much else to do.
LIMIT = 2.0
#: Seconds that QEMU may wait for a processor without being given more time to answer (`Heartbeat`).
KEPT = 0.12

#: Overwrites the agent's code, in a container that sees the guest's pid 1: all of it becomes one byte, wherever it goes
#: on, and the end two more.
PREPARE = r"""
line=$(grep r-xp /proc/1/maps | head -n 1); range=${{line%% *}}; from=${{range%-*}}; to=${{range#*-}}
size=$(( (0x$to - 0x$from) / 4096 ))
yes "$(printf '{bytes}')" | tr -d '\n' | dd of=/poison bs=4096 count=$size iflag=fullblock 2>/dev/null
printf '\353\376' | dd of=/poison bs=1 seek=$(( size * 4096 - 2 )) conv=notrunc 2>/dev/null
"""
POISON = "dd if=/poison of=/proc/1/mem bs=4096 seek=$(( 0x$from / 4096 )) conv=notrunc 2>/dev/null; sleep 1000"
NOTHING, TRAP = r"\220", r"\314"  # nop, up to a jmp to itself at the end; int3


@pytest.fixture(autouse=True)
def _root() -> None:
    requires("root")


def powerful(spec: dict[str, Any]) -> None:
    """Have the container see the guest's own pid namespace, with every capability: root of the guest."""
    spec["linux"]["namespaces"] = [each for each in spec["linux"]["namespaces"] if each["type"] != "pid"]
    every = [f"CAP_{name}" for name in ("SYS_BOOT", "SYS_PTRACE", "SYS_ADMIN", "DAC_OVERRIDE", "KILL")]
    spec["process"]["capabilities"] = dict.fromkeys(("bounding", "effective", "permitted"), every)
    spec["linux"] |= {"maskedPaths": [], "readonlyPaths": []}


def helper_of(runtime: Runtime, container_id: str, name: str) -> int:
    beside = cgroup_of(runtime.state(container_id)["pid"])
    return next(pid for program, pid in beside.items() if program.startswith(name))


class Waiting:
    """How long a process's threads wait for a processor, all together: `seconds`, up to its end."""

    def __init__(self, pid: int) -> None:
        self.seconds = 0.0
        self._pid, self._over = pid, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        before = self._waited()
        while not self._over.wait(0.05):
            self.seconds = max(self.seconds, self._waited() - before)

    def _waited(self) -> float:
        found = 0
        with contextlib.suppress(OSError):
            for thread in os.listdir(f"/proc/{self._pid}/task"):
                found += int(Path(f"/proc/{self._pid}/task/{thread}/schedstat").read_text().split()[1])
        return found / 1e9


class Running:
    """A `run` in the foreground whose program has said that it is ready."""

    def __init__(self, runtime: Runtime, bundle: Path) -> None:
        self.id = runtime.new_id()
        self.runtime = runtime
        self.process = subprocess.Popen(
            runtime.argv("run", "--bundle", bundle, self.id),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n", self.process.stderr and self.process.stderr.read()

    def helper(self, name: str) -> int:
        """Return the pid of the sandbox's QEMU or virtiofsd."""
        return helper_of(self.runtime, self.id, name)

    def end(self) -> tuple[int, str, float]:
        """Wait for its end; return the exit code, what it said, and the seconds that it took from now."""
        began = time.monotonic()
        _, said = self.process.communicate(timeout=60)
        return self.process.returncode, said, time.monotonic() - began


@pytest.fixture
def running(microvm: Runtime, make_bundle: MakeBundle) -> Callable[..., Running]:
    def run(
        program: str = "sleep 1000",
        change: Callable[[dict[str, Any]], object] | None = None,
        prepare: str = ":",
    ) -> Running:
        return Running(microvm, make_bundle(["sh", "-c", f"{prepare}\necho ready; read go; {program}"], change))

    return run


def go(running: Running) -> None:
    assert running.process.stdin is not None
    running.process.stdin.write("go\n")
    running.process.stdin.flush()


def test_qemu_is_killed(running: Callable[..., Running]) -> None:
    container = running()

    os.kill(container.helper("qemu"), signal.SIGKILL)
    code, said, seconds = container.end()

    assert code == 137
    assert f"the machine of container {container.id} has ended: qemu was killed by signal 9" in said
    assert seconds < LIMIT


def test_the_file_server_is_killed(running: Callable[..., Running]) -> None:
    container = running()

    os.kill(container.helper("virtiofsd"), signal.SIGKILL)
    code, said, seconds = container.end()

    assert code == 255
    assert "virtiofsd has ended" in said
    assert seconds < LIMIT


def test_the_sandbox_process_is_killed(running: Callable[..., Running]) -> None:
    container = running()
    qemu, server = container.helper("qemu"), container.helper("virtiofsd")

    os.kill(container.runtime.state(container.id)["pid"], signal.SIGKILL)
    code, _, seconds = container.end()

    assert code == 137
    assert seconds < LIMIT
    eventually(lambda: start_time(qemu) is start_time(server) is None, "both are gone")


@pytest.mark.parametrize("command", ["reboot -f", "poweroff -f"])
def test_root_of_the_guest_ends_the_machine(running: Callable[..., Running], command: str) -> None:
    container = running(f"{command}; sleep 1000", powerful)

    go(container)
    code, said, seconds = container.end()

    assert code == 255
    assert f"the machine of container {container.id} has ended: the guest " in said
    assert seconds < LIMIT


def test_the_guest_panics(running: Callable[..., Running]) -> None:
    container = running(POISON, powerful, PREPARE.format(bytes=TRAP))
    go(container)
    time.sleep(1)

    container.runtime("events", "--stats", container.id)  # it panics when the agent has something to do
    code, said, seconds = container.end()

    assert code == 255
    assert "kernel panic" in said
    assert seconds < LIMIT


def test_the_agent_stands_still(running: Callable[..., Running]) -> None:
    container = running(POISON, powerful, PREPARE.format(bytes=NOTHING))

    with Waiting(container.helper("qemu")) as waiting:
        go(container)
        code, said, seconds = container.end()

    assert code == 255
    assert "the guest's agent does not answer" in said
    # From before the guest begins to overwrite it, which takes it a second. While QEMU waits, silence does not count.
    assert seconds < LIMIT + 2 + LONGEST * (waiting.seconds > KEPT)


def test_a_machine_that_is_kept_from_running_is_not_silent(microvm: Runtime, make_bundle: MakeBundle) -> None:
    container_id = microvm.run_detached(make_bundle(["sleep", "1000"]))
    qemu = helper_of(microvm, container_id, "qemu")

    os.kill(qemu, signal.SIGSTOP)
    time.sleep(5)
    os.kill(qemu, signal.SIGCONT)

    assert microvm.ok("exec", container_id, "echo", "here") == "here\n"
    time.sleep(3)
    assert json.loads(microvm.ok("state", container_id))["status"] == "running"
    microvm.ok("delete", "--force", container_id)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    path = tmp_path / "disk"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(path)], check=True)
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


def test_the_disk_below_the_container_is_full(microvm: Runtime, make_bundle: MakeBundle, small_disk: Path) -> None:
    def share(spec: dict[str, Any]) -> None:
        spec["mounts"].append({"destination": "/data", "type": "bind", "source": str(small_disk), "options": ["rbind"]})

    bundle = make_bundle(["sh", "-c", "mkdir -p /data; dd if=/dev/zero of=/data/big bs=1M count=8; exit $?"], share)

    done = microvm("run", "--bundle", bundle, microvm.new_id())

    assert done.returncode == 1
    assert "No space left on device" in done.stderr


def test_the_disk_of_the_state_directory_is_full(microvm: Runtime, make_bundle: MakeBundle, small_disk: Path) -> None:
    """`leaks` finds nothing of the container that could not be made."""
    microvm.root = small_disk / "state"
    bundle = make_bundle(["true"])
    microvm.root.mkdir(mode=0o700)
    with contextlib.suppress(OSError), open(small_disk / "filling", "wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass

    done = microvm("run", "--bundle", bundle, microvm.new_id())

    assert done.returncode != 0
    assert "no space left on device" in done.stderr.lower()
    assert done.stderr.count("\n") == 1
    (small_disk / "filling").unlink()
    assert json.loads(microvm.ok("list", "--format", "json")) in (None, [])


def test_the_memory_limit_is_hit(running: Callable[..., Running]) -> None:
    def limit(spec: dict[str, Any]) -> None:
        spec["linux"]["resources"] = {"memory": {"limit": 32 << 20}}

    container = running("tail /dev/zero; exit $?", limit)

    go(container)
    code, _, _ = container.end()

    assert code == 137


def test_a_memory_limit_too_low_for_init_is_told(microvm: Runtime, make_bundle: MakeBundle) -> None:
    def limit(spec: dict[str, Any]) -> None:
        spec["linux"]["resources"] = {"memory": {"limit": 4096}}

    done = microvm("run", "--bundle", make_bundle(["true"], limit), microvm.new_id())

    assert done.returncode != 0
    assert "container init was OOM-killed (memory limit too low?)" in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_out_of_memory_kill_is_told(microvm: Runtime, make_bundle: MakeBundle) -> None:
    def limit(spec: dict[str, Any]) -> None:
        spec["linux"]["resources"] = {"memory": {"limit": 32 << 20}}

    container_id = microvm.run_detached(make_bundle(["sleep", "1000"], limit))
    argv = microvm.argv("events", "--interval", "1h", container_id)
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as events:
        time.sleep(1)

        assert microvm("exec", container_id, "tail", "/dev/zero").returncode == 137

        assert events.stdout is not None
        assert json.loads(events.stdout.readline()) == {"type": "oom", "id": container_id}
        microvm.ok("delete", "--force", container_id)
        assert events.wait(30) == 0


def test_a_template_that_was_changed_is_made_anew(
    microvm: Runtime, make_bundle: MakeBundle, microvm_settings: dict[str, Any]
) -> None:
    bundle = make_bundle(["echo", "fine"])
    microvm.ok("run", bundle)
    memories = list(Path(microvm_settings["directory"], "templates").glob("*/memory"))
    assert memories
    for memory in memories:
        os.truncate(memory, 4096)

    done = microvm("run", bundle)

    assert (done.returncode, done.stdout) == (0, "fine\n")


def test_no_image_is_one_line_with_its_remedy(
    microvm: Runtime, make_bundle: MakeBundle, launcher: Path, tmp_path: Path
) -> None:
    settings = tmp_path / "none.toml"
    settings.write_text(f'[backends.microvm]\ndirectory = "{tmp_path}/none"\n')
    settings.chmod(0o600)
    microvm.command = [str(launcher), "--config", str(settings), "--backend", "microvm"]

    done = microvm("run", make_bundle(["true"]))

    assert done.returncode == 1
    assert "no guest image" in done.stderr
    assert "pysandbox image build" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("setting", ['qemu = "/none/qemu"', 'virtiofsd = "/none/virtiofsd"'])
def test_a_missing_program_is_named(
    microvm: Runtime, make_bundle: MakeBundle, launcher: Path, settings_file: Path, tmp_path: Path, setting: str
) -> None:
    settings = tmp_path / "missing.toml"
    settings.write_text(f"{settings_file.read_text()}{setting}\n")
    settings.chmod(0o600)
    microvm.command = [str(launcher), "--config", str(settings), "--backend", "microvm"]

    done = microvm("run", make_bundle(["true"]))

    assert done.returncode == 1
    assert setting.split('"')[1] in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_host_network_is_refused_with_the_reason(microvm: Runtime, make_bundle: MakeBundle) -> None:
    def share(spec: dict[str, Any]) -> None:
        spec["linux"]["namespaces"] = [each for each in spec["linux"]["namespaces"] if each["type"] != "network"]

    done = microvm("run", make_bundle(["true"], share))

    assert done.returncode == 1
    assert "a virtual machine cannot be in the host's network" in done.stderr


def test_a_failed_hook_leaves_nothing(microvm: Runtime, make_bundle: MakeBundle) -> None:
    bundle = make_bundle(["true"], lambda spec: spec.update(hooks={"createContainer": [{"path": "/bin/false"}]}))

    done = microvm("run", bundle)

    assert done.returncode == 1
    assert "createContainer hook #0: /bin/false: exit status 1" in done.stderr


def test_a_killed_create_is_swept(microvm: Runtime, bundle: Path) -> None:
    container_id = microvm.new_id()
    argv = microvm.argv("create", "--bundle", bundle, container_id)
    creating = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    eventually((microvm.root / container_id / "sandbox.log").exists, "the sandbox process has been started")

    creating.kill()
    creating.wait()

    microvm.ok("delete", "--force", container_id)
    assert microvm("state", container_id).returncode == 1
