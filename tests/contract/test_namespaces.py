"""The namespaces backend keeps the contract."""

from __future__ import annotations

from pathlib import Path

import pytest
from precondition import requires

from pysandbox.testing.contract import BackendContract
from pysandbox_namespaces.backend import NamespacesBackend


class TestNamespaces(BackendContract):
    backend_class = NamespacesBackend

    @pytest.fixture
    def rootfs(self, busybox_rootfs: Path) -> Path:
        return busybox_rootfs

    @pytest.fixture(autouse=True)
    def _able(self) -> None:
        requires("root")
        problems = NamespacesBackend().probe()
        if problems:
            pytest.skip("; ".join(problem.what for problem in problems))
