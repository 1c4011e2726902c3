"""Which network namespace a spec asks for."""

from __future__ import annotations

from typing import Any

import pytest

from pysandbox.errors import InvalidArgument
from pysandbox_microvm.netns import begin_thread, in_thread, network_path


def _spec(*namespaces: dict[str, str]) -> Any:
    return {"linux": {"namespaces": list(namespaces)}}


def test_a_network_namespace_without_a_path_is_a_new_one() -> None:
    assert network_path(_spec({"type": "pid"}, {"type": "network"})) is None
    assert network_path(_spec({"type": "network", "path": ""})) is None


def test_a_network_namespace_with_a_path_is_that() -> None:
    assert network_path(_spec({"type": "network", "path": "/run/netns/pod"})) == "/run/netns/pod"


@pytest.mark.parametrize("spec", [{}, {"linux": {}}, {"linux": {"namespaces": None}}, _spec({"type": "pid"})])
def test_the_hosts_network_is_refused_with_the_remedy(spec: Any) -> None:
    with pytest.raises(
        InvalidArgument, match="no \"network\": the host's network cannot be a guest's: give the container"
    ):
        network_path(spec)


@pytest.mark.parametrize("path", ["/proc/1/ns/net", "/proc/self/ns/net"])
def test_so_it_is_by_its_usual_paths(path: str) -> None:
    with pytest.raises(InvalidArgument, match=rf"linux.namespaces\[1\].path: {path}"):
        network_path(_spec({"type": "pid"}, {"type": "network", "path": path}))


def test_a_threads_result_and_failure_come_to_who_waits() -> None:
    def fail() -> None:
        raise InvalidArgument("so it goes")

    assert in_thread(lambda: 7) == 7
    begun = begin_thread(fail)
    with pytest.raises(InvalidArgument, match="so it goes"):
        begun()
