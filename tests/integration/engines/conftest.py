"""One list of tests for docker and podman: `engine` is each of them in turn."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from daemon.engine import Engine, backend_arguments, start_docker, start_podman, with_arguments
from precondition import requires

if TYPE_CHECKING:
    from collections.abc import Iterator

    from daemon.containerd import Containerd

#: Tests, by name or name and parameter, of what a container in a virtual machine does otherwise, and why.
#: test_microvm.py has what happens instead.
MICROVM = {
    "test_memory_pids_and_cpu": "the guest has cgroup version 2: its files have other names",
    "test_shares_and_cpus": "the guest has cgroup version 2: its files have other names, and its own processors",
    "test_update_changes_a_running_container": "the guest has cgroup version 2: its files have other names",
    "test_more_memory_than_allowed_is_reported_as_oom": "engines watch the host's cgroup, and the guest's kernel kills",
    "test_stats_and_top_show_what_runs": "engines count the processes of the host's cgroup: the machine's",
    "test_kill_takes_every_process_of_the_container": "the processes of the container are none of the host's",
    "test_privileged_gets_what_the_host_can_give": "it gets the host's block devices too, which are none of a guest's",
    "test_the_host_s---net-net": "a guest has a network of its own: refused",
    "test_another_container_s": "containers that an engine starts have a machine each: refused",
    "test_processes_of_a_joined_container_are_seen_and_can_be_signalled": "refused, as they are in different machines",
    "test_an_exec_in_a_joined_namespace_ends_with_its_container": "refused, as they are in different machines",
}
#: What an engine consists of.
PROGRAMS = {"docker": ("command dockerd", "command docker"), "podman": ("command podman", "command conmon")}


@pytest.fixture(
    scope="session",
    params=["docker", "podman", "docker microvm", "podman microvm", "docker oci:runc", "podman oci:runc"],
)
def started_engine(
    request: pytest.FixtureRequest, runtime_program: Path, layer: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engine]:
    """An engine of the session's own; the second word, if there is one, says by which backend of ours."""
    name, _, backend = request.param.partition(" ")
    requires("root", *PROGRAMS[name])
    arguments = backend_arguments(request, backend or "namespaces")
    directory = Path(tempfile.mkdtemp(prefix="psb-"))
    if name == "docker":
        containerd: Containerd = request.getfixturevalue("containerd_daemon")
        started = start_docker(directory, runtime_program, containerd.address, arguments=arguments)
    else:
        told = request.getfixturevalue("told_program")
        program = with_arguments(told, arguments, tmp_path_factory.mktemp("told"))
        started = start_podman(directory, program)
    started.import_image(layer)
    yield started
    started.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        name, _, parameters = item.name.partition("[")
        engine, _, parameter = parameters.rstrip("]").partition("-")
        reason = MICROVM.get(name) or MICROVM.get(f"{name}-{parameter}")
        if engine.endswith(" microvm") and reason:
            item.add_marker(pytest.mark.skip(reason=f"in a virtual machine: {reason}"))


@pytest.fixture
def engine(started_engine: Engine) -> Iterator[Engine]:
    """A running engine. Its containers are removed after the test."""
    yield started_engine
    started_engine.remove_containers()
