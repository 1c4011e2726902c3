"""`require` of the settings holds for containerd's containers, too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import weakness
from integration.shim.conftest import Shim

from pysandbox.shim.messages.runtimeoptions import Options as RuntimeOptions
from pysandbox.ttrpc.errors import RpcError
from pysandbox.ttrpc.messages.wellknown import Any as AnyMessage


def _options(text: str) -> AnyMessage:
    return AnyMessage(type_url=RuntimeOptions.NAME, value=RuntimeOptions(config_body=text.encode()).encode())


def test_a_task_is_created_only_if_its_sandbox_was_observed_to_be_as_required(
    make_shim: Callable[[Path], Shim], make_bundle: Any
) -> None:
    def strong(spec: dict[str, Any]) -> None:
        spec["linux"] = weakness.strong()["linux"]

    shim = make_shim(make_bundle(["true"], strong))

    with pytest.raises(RpcError, match=r"require: host.release is weak"):
        shim.create(options=_options('require = ["host.release"]'))
    shim.create(options=_options('require = ["seccomp.mode", "group:escape"]'))
    shim.start()

    assert shim.wait() == 0
    shim.delete()
