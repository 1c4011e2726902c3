"""Images made on the spot from a root file system: nothing is pulled."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tarfile
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

NAME = "localhost/busybox:local"
ENVIRONMENT = "PATH=/usr/sbin:/usr/bin:/sbin:/bin"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def layer(rootfs: Path, archive: Path) -> None:
    """Write the root file system as a tar archive: what `docker import` and `podman import` take."""
    with tarfile.open(archive, "w") as tar:
        tar.add(rootfs, arcname=".")


def oci_archive(layer_path: Path, archive: Path, *, name: str = NAME, command: Sequence[str] = ("sh",)) -> None:
    """Write a one-layer OCI image layout (image-spec 1.0, image-layout.md) as a tar archive."""
    with tarfile.open(archive, "w") as tar:
        blob = layer_path.read_bytes()
        filesystem = _add_blob(tar, "application/vnd.oci.image.layer.v1.tar", blob)
        config = _add_json(
            tar,
            "application/vnd.oci.image.config.v1+json",
            {
                "architecture": _ARCHITECTURES[platform.machine()],
                "os": "linux",
                "config": {"Env": [ENVIRONMENT], "Cmd": list(command)},
                "rootfs": {"type": "layers", "diff_ids": [filesystem["digest"]]},
            },
        )
        manifest = _add_json(
            tar,
            "application/vnd.oci.image.manifest.v1+json",
            {"schemaVersion": 2, "config": config, "layers": [filesystem]},
        )
        manifest["annotations"] = {"io.containerd.image.name": name}
        _add(tar, "index.json", json.dumps({"schemaVersion": 2, "manifests": [manifest]}).encode())
        _add(tar, "oci-layout", b'{"imageLayoutVersion": "1.0.0"}')


def _add_json(tar: tarfile.TarFile, media_type: str, document: dict[str, Any]) -> dict[str, Any]:
    return _add_blob(tar, media_type, json.dumps(document).encode())


def _add_blob(tar: tarfile.TarFile, media_type: str, blob: bytes) -> dict[str, Any]:
    digest = hashlib.sha256(blob).hexdigest()
    _add(tar, f"blobs/sha256/{digest}", blob)
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(blob)}


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))
