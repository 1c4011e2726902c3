"""The oci backend keeps the contract with each runtime that is installed, but for the promises in `EXCEPTIONS`."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from precondition import requires

from pysandbox import lifecycle, linux
from pysandbox.backend import Stdio
from pysandbox.errors import Unimplemented
from pysandbox.testing.contract import BackendContract
from pysandbox_oci.backend import OciBackend
from pysandbox_oci.call import RuntimeFailed

#: Runtime → promise → why it cannot keep it. What happens instead is a test of its class.
EXCEPTIONS: dict[str, dict[str, str]] = {
    "runc": {},
    "crun": {},
    "runsc": {
        "test_a_preserved_descriptor_is_number_three": "its `create` has no --preserve-fds: the descriptor is of the host's kernel",
        "test_exec_before_start": "its `exec` needs a container whose program runs",
    },
}
CACHED_RUNSC = Path.home() / ".cache/pysandbox/gvisor/runsc"
CLONE_NEWNS = 0x20000
UNIFIED = "/sys/fs/cgroup/unified"


@contextlib.contextmanager
def _mount_namespace() -> Iterator[None]:
    """Be in a mount namespace of this thread's own for a while, and come back to where it was."""
    descriptors = [os.open(name, os.O_RDONLY | os.O_CLOEXEC) for name in ("/proc/thread-self/ns/mnt", ".")]
    linux.unshare(CLONE_NEWNS)
    try:
        subprocess.run(["mount", "--make-rslave", "/"], check=True)
        yield
    finally:
        linux.setns(descriptors[0], CLONE_NEWNS)
        os.fchdir(descriptors[1])
        for descriptor in descriptors:
            os.close(descriptor)


class OciContract(BackendContract):
    """What the classes below share: they differ in the runtime."""

    __test__ = False
    backend_class = OciBackend

    @pytest.fixture
    def rootfs(self, busybox_rootfs: Path) -> Path:
        return busybox_rootfs

    @pytest.fixture(autouse=True)
    def _able(self) -> None:
        requires("root")
        problems = self.backend().probe()
        if problems:
            pytest.skip("; ".join(problem.what for problem in problems))


class TestRunc(OciContract):
    __test__ = True
    variant = "runc"


class TestCrun(OciContract):
    __test__ = True
    variant = "crun"

    @pytest.fixture(autouse=True)
    def _cgroups(self, _able: None) -> Iterator[None]:
        """crun refuses a host whose controllers are on version 1 beside a cgroup2 tree: it gets one without that."""
        if not os.path.exists(f"{UNIFIED}/cgroup.procs"):
            yield
            return
        with _mount_namespace():
            subprocess.run(["umount", UNIFIED], check=True)
            yield

    @pytest.fixture(autouse=True)
    def _files(self, _cgroups: None, container_id: str) -> Iterator[None]:
        """Where that was, crun makes files all the same, and leaves them: they are no cgroups, and go with a tmpfs."""
        alone = os.path.exists(UNIFIED)
        if alone:
            subprocess.run(["mount", "-t", "tmpfs", "none", UNIFIED], check=True)
        yield
        if alone:  # before `container_id` looks for cgroups with that name
            subprocess.run(["umount", UNIFIED], check=True)

    def test_statistics_come_from_the_kernel(
        self, runtime: lifecycle.Runtime, container_id: str, make_bundle: Any
    ) -> None:
        """It has no `events`; containerd asks every few seconds."""
        self.running(runtime, container_id, make_bundle)

        stats = lifecycle.running(runtime, container_id).stats()

        assert stats["pids"]["current"] == 1
        assert stats["memory"]["usage"]["usage"] > 0


class TestRunsc(OciContract):
    """On PATH, or where the comparison's tests keep theirs."""

    __test__ = True
    variant = "runsc" if shutil.which("runsc") or not CACHED_RUNSC.exists() else str(CACHED_RUNSC)

    @pytest.fixture
    def settings(self) -> Mapping[str, Any]:
        return {"args": {self.variant: ["--ignore-cgroups", "--network=none"]}}

    def test_exec_before_start(self, runtime: lifecycle.Runtime, container_id: str, make_bundle: Any) -> None:
        """It is refused in the runtime's own words, and the container can still be started."""
        container = lifecycle.create(runtime, container_id, make_bundle("sh", "-c", "exit 3"))

        with pytest.raises(RuntimeFailed, match="exec: .*not started"):
            lifecycle.exec_(runtime, container_id, make_bundle("true").spec["process"], exec_id="one")

        lifecycle.start(runtime, container_id, container)
        assert container.wait(timeout=30).code == 3

    def test_a_preserved_descriptor_is_number_three(
        self, runtime: lifecycle.Runtime, container_id: str, make_bundle: Any
    ) -> None:
        """It is refused, with the reason, and nothing is left."""
        with pytest.raises(Unimplemented, match="hands no descriptors into a container"):
            lifecycle.create(runtime, container_id, make_bundle("true"), stdio=Stdio(preserved=(0,)))


@pytest.mark.parametrize("kept", [TestRunc, TestCrun, TestRunsc])
def test_every_exception_is_of_a_promise_and_has_a_test_of_its_own(kept: type[OciContract]) -> None:
    changed = {name for name in vars(kept) if name.startswith("test_") and hasattr(BackendContract, name)}
    assert changed == set(EXCEPTIONS[Path(kept.variant).name])
