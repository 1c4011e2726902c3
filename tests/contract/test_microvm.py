"""The microvm backend keeps the contract, but for the promises in `EXCEPTIONS`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from precondition import requires

from pysandbox import lifecycle
from pysandbox.backend import Stdio
from pysandbox.errors import Unimplemented
from pysandbox.testing.contract import BackendContract
from pysandbox_microvm.backend import MicrovmBackend

#: Promise → why a virtual machine cannot keep it. What happens instead is a test below.
EXCEPTIONS = {
    "test_a_preserved_descriptor_is_number_three": "a descriptor is of the host's kernel, and cannot be one of the guest's",
}


class TestMicrovm(BackendContract):
    backend_class = MicrovmBackend

    @pytest.fixture
    def rootfs(self, busybox_rootfs: Path) -> Path:
        return busybox_rootfs

    @pytest.fixture
    def settings(self, microvm_settings: Mapping[str, Any]) -> Mapping[str, Any]:
        return microvm_settings

    @pytest.fixture(autouse=True)
    def _able(self) -> None:
        requires("root")

    def test_a_preserved_descriptor_is_number_three(
        self, runtime: lifecycle.Runtime, container_id: str, make_bundle: Any
    ) -> None:
        """It is refused, with the reason, and nothing is left."""
        with pytest.raises(Unimplemented, match="cannot be handed into a virtual machine"):
            lifecycle.create(runtime, container_id, make_bundle("true"), stdio=Stdio(preserved=(0,)))


def test_every_exception_is_of_a_promise_and_has_a_test_of_its_own() -> None:
    for name in EXCEPTIONS:
        assert getattr(TestMicrovm, name) is not getattr(BackendContract, name)
    changed = {name for name in vars(TestMicrovm) if name.startswith("test_") and hasattr(BackendContract, name)}
    assert changed == set(EXCEPTIONS)
