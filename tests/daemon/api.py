"""gRPC services, called by the names and messages of a .proto file of the tests."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import ModuleType

#: What the tests use of containerd's and Kubernetes' services.
PROTOS = Path(__file__).parents[1] / "data/containerd"


def compile_protos(directory: Path) -> None:
    """Compile them into modules of a directory, and have them found by import. Needs grpcio-tools."""
    from grpc_tools import protoc

    included = Path(protoc.__file__).parent / "_proto"
    names = [str(path) for path in sorted(PROTOS.glob("*.proto"))]
    where = [f"--python_out={directory}", f"--grpc_python_out={directory}"]
    assert protoc.main(["protoc", f"-I{PROTOS}", f"-I{included}", *where, *names]) == 0
    sys.path.append(str(directory))


class Service:
    """One service: `service.Start(container_id="web")`. Fails with grpc.RpcError; every call has a limit."""

    def __init__(self, channel: Any, proto: str, name: str, *, metadata: dict[str, str] | None = None) -> None:
        self.messages: ModuleType = importlib.import_module(f"{proto}_pb2")
        self._stub = getattr(importlib.import_module(f"{proto}_pb2_grpc"), f"{name}Stub")(channel)
        self._methods = self.messages.DESCRIPTOR.services_by_name[name].methods_by_name
        self._metadata = tuple((metadata or {}).items())

    def __getattr__(self, method: str) -> Any:
        request = getattr(self.messages, self._methods[method].input_type.name)

        def call(*, limit: float = 30, **fields: Any) -> Any:
            return getattr(self._stub, method)(request(**fields), timeout=limit, metadata=self._metadata)

        return call
