"""Pods: containerd's CRI plug-in over our shim, as the kubelet calls it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from daemon import image
from daemon.pods import ADDRESS, NAMESPACE, PAUSE, Pods, settings
from daemon.process import mounts_below, parent_of, running
from daemon.release import installed
from integration.shim.conftest import eventually
from precondition import requires

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from daemon.containerd import Containerd
    from daemon.release import Release

SLEEP = ("sleep", "1000")


@pytest.fixture(scope="session")
def cri_directory(release: Release, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the settings of the handlers are."""
    return tmp_path_factory.mktemp("cri")


@pytest.fixture(scope="session")
def pods_containerd(
    make_containerd: Callable[..., Containerd], release: Release, layer: Path, cri_directory: Path
) -> Containerd:
    """A containerd with four runtime handlers: without options, with a settings file, with settings, and for microVMs.

    The file of the last is written by the test that uses it.
    """
    requires("command nsenter", "command ip")
    directory = cri_directory
    file = directory / "settings.toml"
    file.write_text('backend = "of-the-file"\n')
    file.chmod(0o600)
    handlers = {
        "pysandbox": "",
        "file": f'ConfigPath = "{file}"',
        "body": 'backend = "of-the-body"',
        "microvm": f'ConfigPath = "{directory / "microvm.toml"}"',
    }
    containerd = make_containerd(settings=settings(release, directory, handlers), namespace=NAMESPACE)
    image.oci_archive(layer, directory / "pause.tar", name=PAUSE, command=SLEEP)
    containerd.ok("image", "import", str(directory / "pause.tar"))
    return containerd


@pytest.fixture
def pods(pods_containerd: Containerd, protos: None, tmp_path: Path) -> Iterator[Pods]:
    client = Pods(pods_containerd, tmp_path)
    eventually(client.ready)
    names = {image.NAME, PAUSE}
    eventually(lambda: names <= {tag for each in client.images.ListImages().images for tag in each.repo_tags})
    yield client
    client.remove_all()


def pid_of(pods: Pods, container: str) -> int:
    return pods.containerd.task(container)[0]


def refused(call: Callable[[], Any]) -> tuple[str, str]:
    import grpc

    with pytest.raises(grpc.RpcError) as raised:
        call()
    return raised.value.code().name, raised.value.details()


def test_the_runtime_and_its_network_are_ready(pods: Pods) -> None:
    conditions = {each.type: each.status for each in pods.runtime.Status().status.conditions}

    assert conditions["RuntimeReady"]
    assert conditions["NetworkReady"]


def test_two_containers_of_a_pod_share_its_network_and_its_shim(pods: Pods) -> None:
    pod = pods.run()
    serving = pods.start(pod, "serving", "sh", "-c", "echo hello | nc -l -p 8080; sleep 1000")
    asking = pods.start(pod, "asking", *SLEEP)

    assert pods.runtime.PodSandboxStatus(pod_sandbox_id=pod).status.network.ip == ADDRESS
    eventually(lambda: b"hello" in pods.exec(asking, "nc", ADDRESS, "8080")[1])
    assert pods.exec(asking, "hostname")[1] == b"pod\n"
    shims = {parent_of(pid_of(pods, each))[0] for each in (pod, serving, asking)}
    assert len(shims) == 1
    assert "containerd-shim-pysandbox-v2" in Path(f"/proc/{shims.pop()}/cmdline").read_text()


def test_exec_sync(pods: Pods) -> None:
    container = pods.start(pods.run(), "web", *SLEEP)

    assert pods.exec(container, "sh", "-c", "echo out; echo err >&2; exit 5") == (5, b"out\n", b"err\n")
    assert len(pods.exec(container, "sh", "-c", "head -c 1000000 /dev/zero")[1]) == 1_000_000


def test_an_exec_that_takes_too_long_is_ended(pods: Pods) -> None:
    container = pods.start(pods.run(), "web", *SLEEP)

    code, text = refused(lambda: pods.runtime.ExecSync(container_id=container, cmd=["sleep", "777"], timeout=1))

    assert code in {"DEADLINE_EXCEEDED", "UNKNOWN"}
    assert "timeout" in text
    assert b"777" not in pods.exec(container, "ps")[1]


def test_logs(pods: Pods) -> None:
    container = pods.start(pods.run(), "web", "sh", "-c", "echo out; echo err >&2; printf unended; exit 3")

    eventually(lambda: pods.state(container) == "exited")
    eventually(lambda: len(pods.log("web")) == 3)
    assert sorted(pods.log("web")) == ["stderr F err", "stdout F out", "stdout P unended"]
    status = pods.runtime.ContainerStatus(container_id=container).status
    assert (status.exit_code, status.reason) == (3, "Error")


def test_a_log_that_was_rotated_goes_on_in_a_new_file(pods: Pods) -> None:
    container = pods.start(pods.run(), "web", "sh", "-c", "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.1; done")
    log = pods.logs / "web.log"
    eventually(lambda: log.exists() and pods.log("web"))
    log.rename(pods.logs / "old.log")

    pods.runtime.ReopenContainerLog(container_id=container)

    eventually(lambda: log.exists() and len(pods.log("web")) > 2)
    lines = [*pods.log("old"), *pods.log("web")]
    assert lines == [f"stdout F line {number}" for number in range(1, len(lines) + 1)]


def test_stats(pods: Pods) -> None:
    container = pods.start(pods.run(), "web", "sh", "-c", "while :; do :; done")

    def busy() -> bool:
        stats = pods.runtime.ContainerStats(container_id=container).stats
        return bool(stats.cpu.usage_core_nano_seconds.value > 1e7 and stats.memory.working_set_bytes.value > 0)

    eventually(busy)
    listed = pods.runtime.ListContainerStats().stats
    assert container in {each.attributes.id for each in listed}


def test_limits_are_changed(pods: Pods) -> None:
    container = pods.start(pods.run(), "web", *SLEEP)

    pods.runtime.UpdateContainerResources(container_id=container, linux={"memory_limit_in_bytes": 48 << 20})

    assert str(48 << 20) in pods.containerd.ok("task", "metrics", container)


def test_who_runs_out_of_memory_is_said_to_have(pods: Pods) -> None:
    container = pods.start(
        pods.run(),
        "web",
        "sh",
        "-c",
        "x=$(cat /dev/zero | tr '\\0' x)",
        linux={"resources": {"memory_limit_in_bytes": 16 << 20}},
    )

    eventually(lambda: pods.state(container) == "exited")

    def told() -> bool:
        return bool(pods.runtime.ContainerStatus(container_id=container).status.reason == "OOMKilled")

    eventually(told)


def test_stop_gives_time_and_then_kills(pods: Pods) -> None:
    pod = pods.run()
    polite = pods.start(pod, "polite", "sh", "-c", "trap 'exit 4' TERM; while :; do sleep 0.1; done")
    deaf = pods.start(pod, "deaf", "sh", "-c", "trap '' TERM; while :; do sleep 0.1; done")
    eventually(lambda: pods.state(deaf) == "running")

    pods.runtime.StopContainer(container_id=polite, timeout=20)
    pods.runtime.StopContainer(container_id=deaf, timeout=1)

    codes = [pods.runtime.ContainerStatus(container_id=each).status.exit_code for each in (polite, deaf)]
    assert codes == [4, 137]


def test_a_container_is_started_anew_in_its_pod(pods: Pods) -> None:
    pod = pods.run()
    first = pods.start(pod, "web", "sh", "-c", "exit 9")
    eventually(lambda: pods.state(first) == "exited")

    second = pods.start(pod, "web", *SLEEP, attempt=1)

    assert pods.state(second) == "running"
    pods.runtime.RemoveContainer(container_id=first)
    assert [each.id for each in pods.runtime.ListContainers().containers] == [second]


def test_containers_see_the_pods_processes_where_it_says_so(pods: Pods) -> None:
    container = pods.start(pods.run(pid="POD"), "web", "sleep", "2000")

    processes = pods.exec(container, "ps")[1]

    assert b"sleep 1000" in processes
    assert b"sleep 2000" in processes


def test_a_pod_on_the_hosts_network(pods: Pods) -> None:
    container = pods.start(pods.run(network="NODE"), "web", *SLEEP)

    own = pods.exec(container, "readlink", "/proc/self/ns/net")[1].decode().strip()

    assert own == Path("/proc/self/ns/net").readlink().name


def test_a_pod_in_a_user_namespace(pods: Pods, release: Release) -> None:
    if release.version < (2,):
        pytest.skip("containerd 1 has no pods in user namespaces")
    ids = [{"host_id": 1_000_000, "container_id": 0, "length": 65536}]
    container = pods.start(pods.run(userns_options={"mode": "POD", "uids": ids, "gids": ids}), "web", *SLEEP)

    assert pods.exec(container, "cat", "/proc/self/uid_map")[1].split() == [b"0", b"1000000", b"65536"]
    assert pods.exec(container, "stat", "-c", "%u", "/bin/busybox")[1] == b"0\n"
    assert Path(f"/proc/{pid_of(pods, container)}").stat().st_uid == 1_000_000


def test_a_removed_pod_leaves_nothing(pods: Pods) -> None:
    pod = pods.run()
    container = pods.start(pod, "web", *SLEEP)
    pids = [pid_of(pods, each) for each in (pod, container)]
    shim, _ = parent_of(pids[0])

    pods.remove(pod)

    eventually(lambda: not any(running(pid) for pid in [shim, *pids]), 5)
    left = [point for point in mounts_below(pods.containerd.directory) if pod in point or container in point]
    assert not left
    assert not [path for name in (pod, container) for path in Path("/run/pysandbox-containerd/k8s.io").glob(f"{name}*")]
    assert pods.runtime.ListPodSandbox().items == []


def test_pods_survive_containerd_and_no_exit_is_lost(pods: Pods) -> None:
    pod = pods.run()
    living = pods.start(pod, "living", "sh", "-c", "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.2; done")
    ending = pods.start(pod, "ending", "sh", "-c", "sleep 2; exit 6")
    pid = pid_of(pods, ending)
    pods.containerd.kill()
    eventually(lambda: not running(pid))
    pods.containerd.boot()
    eventually(pods.ready)

    eventually(lambda: pods.state(ending) == "exited")
    assert pods.runtime.ContainerStatus(container_id=ending).status.exit_code == 6
    assert pods.state(living) == "running"
    assert pods.exec(living, "sh", "-c", "exit 8")[0] == 8
    before = len(pods.log("living"))
    eventually(lambda: len(pods.log("living")) > before)
    assert pods.log("living") == [f"stdout F line {number}" for number in range(1, len(pods.log("living")) + 1)]
    assert pods.runtime.ContainerStats(container_id=living).stats.memory.working_set_bytes.value > 0


@pytest.mark.parametrize("handler", ["file", "body"])
def test_a_handler_has_settings_of_its_own(pods: Pods, release: Release, handler: str) -> None:
    if handler == "body" and release.version < (1, 7):
        pytest.skip("containerd 1.6 tells only ConfigPath")

    _, text = refused(lambda: pods.run(handler=handler))

    assert f"of-the-{handler}" in text


def test_a_pod_in_a_machine_beside_one_in_namespaces(
    pods: Pods, release: Release, cri_directory: Path, request: pytest.FixtureRequest
) -> None:
    """Two handlers with two settings files give two backends."""
    if release.directory != installed().directory:
        pytest.skip("machines are tried with the installed containerd only")
    written = request.getfixturevalue("settings_file").read_text()
    place = cri_directory / "microvm.toml"
    place.write_text(f'backend = "microvm"\n{written}')
    place.chmod(0o600)
    pod, other = pods.run(handler="microvm"), pods.run()
    web = pods.start(pod, "web", "sh", "-c", "echo out; echo err >&2; exec sleep 1000")
    beside = pods.start(pod, "beside", "sleep", "2000")
    near = pods.start(other, "near", *SLEEP)

    kernels = [pods.exec(each, "uname", "-r")[1].decode().strip() for each in (web, beside, near)]
    assert kernels[0] == kernels[1] != kernels[2] == os.uname().release
    assert pods.exec(web, "sh", "-c", "exit 5")[0] == 5
    eventually(lambda: sorted(pods.log("web")) == ["stderr F err", "stdout F out"])
    stats = pods.runtime.ContainerStats(container_id=web).stats
    assert stats.memory.working_set_bytes.value > 0
    code, text = refused(lambda: pods.runtime.ExecSync(container_id=web, cmd=["sleep", "777"], timeout=2))
    assert code in {"DEADLINE_EXCEEDED", "UNKNOWN"}
    assert "timeout" in text
    assert b"777" not in pods.exec(web, "ps")[1]
    pods.runtime.StopContainer(container_id=beside, timeout=1)
    assert pods.state(beside) == "exited"
    assert pods.state(web) == "running"
    pids = [pid_of(pods, each) for each in (pod, web)]

    pods.remove(pod)

    eventually(lambda: not any(running(pid) for pid in pids), 10)
    assert pods.exec(near, "true")[0] == 0
