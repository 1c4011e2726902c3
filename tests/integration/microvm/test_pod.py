"""Several containers in one machine: a sandbox, and those that join it by CRI's annotations."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from precondition import requires
from runtime import MakeBundle, Runtime, eventually

pytestmark = pytest.mark.usefixtures("leaks")

KIND, SANDBOX = "io.kubernetes.cri.container-type", "io.kubernetes.cri.sandbox-id"


@pytest.fixture(autouse=True)
def _root() -> None:
    requires("root")


Change = Callable[[dict[str, Any]], object]


class Pod:
    """A sandbox that sleeps, and how containers join it."""

    def __init__(self, runtime: Runtime, make_bundle: MakeBundle, settings: Callable[[], None] | None = None) -> None:
        self.runtime, self._make_bundle = runtime, make_bundle
        self.id = runtime.new_id()

        def be_sandbox(spec: dict[str, Any]) -> None:
            spec["annotations"] = {KIND: "sandbox", SANDBOX: self.id}
            spec["hostname"] = "pod"

        runtime.create(make_bundle(["sleep", "1000"], be_sandbox), self.id)
        runtime.ok("start", self.id)
        self.pid = runtime.state(self.id)["pid"]

    def bundle(self, program: list[str], change: Change | None = None, **process: Any) -> Path:
        """A bundle as CRI would make it: network, ipc and uts are the sandbox's."""

        def join(spec: dict[str, Any]) -> None:
            spec["annotations"] = {KIND: "container", SANDBOX: self.id}
            spec.pop("hostname", None)
            kinds = {"network": "net", "ipc": "ipc", "uts": "uts"}
            for namespace in spec["linux"]["namespaces"]:
                if namespace["type"] in kinds:
                    namespace["path"] = f"/proc/{self.pid}/ns/{kinds[namespace['type']]}"
            if change is not None:
                change(spec)

        return self._make_bundle(program, join, **process)

    def run(self, program: str, change: Change | None = None) -> Any:
        return self.runtime("run", "--bundle", self.bundle(["sh", "-c", program], change), self.runtime.new_id())


@pytest.fixture
def pod(microvm: Runtime, make_bundle: MakeBundle) -> Iterator[Pod]:
    pod = Pod(microvm, make_bundle)
    yield pod
    for container_id in reversed(microvm.ids):
        microvm.ok("delete", "--force", container_id)


def test_a_container_runs_in_the_machine_of_its_sandbox(pod: Pod) -> None:
    boot = "cat /proc/sys/kernel/random/boot_id"

    done = pod.run(f"{boot}; hostname; exit 6")

    assert done.returncode == 6
    assert done.stdout == pod.runtime.ok("exec", pod.id, "sh", "-c", boot) + "pod\n"


def test_each_has_its_own_pids_files_and_limits(pod: Pod) -> None:
    def limit(spec: dict[str, Any]) -> None:
        spec["linux"]["resources"] = {"pids": {"limit": 17}}

    program = "echo $$; touch /mine; cat /sys/fs/cgroup/containers/c-*/pids.max"
    done = pod.run(program, limit)

    assert done.stdout.split()[0] == "1"
    assert "17" in done.stdout.split()
    assert pod.runtime("exec", pod.id, "ls", "/mine").returncode == 1


def test_a_pid_namespace_can_be_shared(pod: Pod) -> None:
    def share(spec: dict[str, Any]) -> None:
        for namespace in spec["linux"]["namespaces"]:
            if namespace["type"] == "pid":
                namespace["path"] = f"/proc/{pod.pid}/ns/pid"

    done = pod.run("cat /proc/1/cmdline | tr '\\0' ' '", share)

    assert done.stdout == "sleep 1000 "


def test_exec_kill_and_delete_are_of_one_container(pod: Pod) -> None:
    container_id = pod.runtime.create(pod.bundle(["sh", "-c", "trap 'exit 3' TERM; while :; do sleep 0.1; done"]))
    pod.runtime.ok("start", container_id)

    assert pod.runtime("exec", container_id, "sh", "-c", "exit 4").returncode == 4
    pod.runtime.ok("kill", container_id, "KILL")
    pod.runtime.wait_status(container_id, "stopped")
    pod.runtime.ok("delete", container_id)

    assert pod.runtime.state(pod.id)["status"] == "running"
    assert pod.runtime("exec", pod.id, "true").returncode == 0


def test_a_container_is_paused_alone(pod: Pod) -> None:
    container_id = pod.runtime.run_detached(pod.bundle(["sleep", "1000"]))

    pod.runtime.ok("pause", container_id)

    assert pod.runtime.state(container_id)["status"] == "paused"
    assert pod.runtime.state(pod.id)["status"] == "running"
    assert pod.runtime("exec", pod.id, "true").returncode == 0
    pod.runtime.ok("resume", container_id)
    assert pod.runtime("exec", container_id, "true").returncode == 0


def test_the_end_of_the_sandbox_is_the_end_of_all(pod: Pod) -> None:
    container_id = pod.runtime.run_detached(pod.bundle(["sleep", "1000"]))

    pod.runtime.ok("kill", pod.id, "KILL")

    pod.runtime.wait_status(container_id, "stopped")
    pod.runtime.wait_status(pod.id, "stopped")


def test_a_killed_sandbox_process_takes_all_with_it(pod: Pod) -> None:
    container_id = pod.runtime.run_detached(pod.bundle(["sleep", "1000"]))

    os.kill(pod.pid, signal.SIGKILL)

    pod.runtime.wait_status(container_id, "stopped")


def test_a_machine_takes_containers_one_after_the_other(pod: Pod) -> None:
    for number in range(14):  # more than it has room for at a time
        assert pod.run(f"exit {number}").returncode == number


def test_what_is_no_sandbox_is_joined_by_nobody(microvm: Runtime, make_bundle: MakeBundle, bundle: Path) -> None:
    victim = microvm.run_detached(bundle)

    def join(spec: dict[str, Any]) -> None:
        spec["annotations"] = {KIND: "container", SANDBOX: victim}

    done = microvm("run", make_bundle(["true"], join))

    assert done.returncode == 1
    assert f"container {victim} is no sandbox that others may join" in done.stderr
    microvm.ok("delete", "--force", victim)


@pytest.mark.parametrize("name", ["../x", "", ".", "..", "a/b", "none"])
def test_no_name_leads_out_of_the_state_directory(microvm: Runtime, make_bundle: MakeBundle, name: str) -> None:
    done = microvm(
        "run", make_bundle(["true"], lambda spec: spec.update(annotations={KIND: "container", SANDBOX: name}))
    )

    assert done.returncode == 1
    assert "is no container's id" in done.stderr or "sandbox none does not exist" in done.stderr


def test_a_namespace_of_the_host_is_joined_by_nobody(pod: Pod) -> None:
    def reach(spec: dict[str, Any]) -> None:
        for namespace in spec["linux"]["namespaces"]:
            if namespace["type"] == "ipc":
                namespace["path"] = "/proc/1/ns/ipc"

    done = pod.run("true", reach)

    assert done.returncode == 1
    assert "not a namespace of another container in the same machine" in done.stderr


def test_the_console_is_shown(pod: Pod) -> None:
    eventually(lambda: pod.runtime("console", pod.id).returncode == 0, "the console is there")
    assert pod.runtime("console", "none").returncode == 1
