"""Images made by hand: tar entries, good and bad, layers, image layouts, docker archives; and the command on them."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import platform
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pysandbox.bundle.build import Built

ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
END = bytes(1024)
KINDS = {
    "file": tarfile.REGTYPE, "directory": tarfile.DIRTYPE, "symlink": tarfile.SYMTYPE, "link": tarfile.LNKTYPE,
    "fifo": tarfile.FIFOTYPE, "c": tarfile.CHRTYPE, "b": tarfile.BLKTYPE,
}  # fmt: skip


# -- tar ---------------------------------------------------------------------------------------------------------------


def entry(
    name: str, data: bytes = b"", *, kind: str = "file", pax: dict[str, str] | None = None, **fields: Any
) -> bytes:
    """Return one entry as tar holds it. `fields` are a TarInfo's: mode, uid, gid, mtime, linkname, devmajor, …"""
    info = tarfile.TarInfo(name)
    info.type = KINDS[kind]
    info.size = len(data)
    info.mode = 0o755 if kind == "directory" else 0o644
    info.pax_headers = pax or {}
    for field, value in fields.items():
        setattr(info, field, value)
    header = info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
    return header + data + bytes(-len(data) % 512)


def directory(name: str, **fields: Any) -> bytes:
    return entry(name, kind="directory", **fields)


def symlink(name: str, target: str, **fields: Any) -> bytes:
    return entry(name, kind="symlink", linkname=target, **fields)


def link(name: str, target: str, **fields: Any) -> bytes:
    return entry(name, kind="link", linkname=target, **fields)


def raw(name: bytes = b"f", *, size: bytes = b"0", type_: bytes = b"0", at: dict[int, bytes] | None = None) -> bytes:
    """Return a header block with fields as they stand; `at` puts bytes at offsets. Its checksum is right."""
    block = bytearray(512)
    block[: len(name)] = name
    for offset, text in {100: b"0000644", 124: size, 156: type_, 257: b"ustar\0" + b"00", **(at or {})}.items():
        block[offset : offset + len(text)] = text
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def extended(records: bytes, *, type_: bytes = b"x") -> bytes:
    """Return an extended header with records as they stand."""
    return raw(b"pax", size=b"%o" % len(records), type_=type_) + records + bytes(-len(records) % 512)


def record(key: str, value: bytes) -> bytes:
    """Return one PAX record."""
    body = b" " + key.encode() + b"=" + value + b"\n"
    length = len(body) + 1
    while len(b"%d" % length) + len(body) != length:
        length += 1
    return b"%d" % length + body


def archive(*entries: bytes) -> bytes:
    """Return entries as a whole archive."""
    return b"".join(entries) + END


def tar_of(files: dict[str, bytes]) -> bytes:
    """Return an archive of files by name."""
    return archive(*(entry(name, data) for name, data in files.items()))


# -- images ------------------------------------------------------------------------------------------------------------


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def configuration(layers: Sequence[bytes], config: dict[str, Any] | None = None, **members: Any) -> dict[str, Any]:
    """Return an image's configuration; `config` is its member of that name."""
    return {
        "os": "linux",
        "architecture": ARCHITECTURE,
        "config": {"Cmd": ["true"], **(config or {})},
        "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in layers]},
        **members,
    }


class Layout:
    """An OCI image layout in memory, to be changed before it is written."""

    MANIFEST = "application/vnd.oci.image.manifest.v1+json"
    INDEX = "application/vnd.oci.image.index.v1+json"
    CONFIG = "application/vnd.oci.image.config.v1+json"
    LAYER = "application/vnd.oci.image.layer.v1.tar"

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {"oci-layout": b'{"imageLayoutVersion": "1.0.0"}'}
        self.manifests: list[dict[str, Any]] = []

    def blob(self, data: bytes, kind: str) -> dict[str, Any]:
        """Add a blob, and return its descriptor."""
        name = digest(data)
        self.files[f"blobs/{name.replace(':', '/')}"] = data
        return {"mediaType": kind, "digest": name, "size": len(data)}

    def document(self, document: Any, kind: str) -> dict[str, Any]:
        """Add a document, and return its descriptor."""
        return self.blob(json.dumps(document).encode(), kind)

    def image(
        self, layers: Sequence[bytes], config: dict[str, Any] | None = None, *, packed: Sequence[bytes] | None = None,
        tag: str = "", manifest: dict[str, Any] | None = None, descriptor: dict[str, Any] | None = None, **members: Any,
    ) -> dict[str, Any]:  # fmt: skip
        """Add an image. `packed` are the blobs of the layers where they are compressed."""
        blobs = [self.blob(one, f"{self.LAYER}{'+gzip' if packed else ''}") for one in packed or layers]
        described = self.document(configuration(layers, config, **members), self.CONFIG)
        found = self.document(
            {"schemaVersion": 2, "mediaType": self.MANIFEST, "config": described, "layers": blobs, **(manifest or {})},
            self.MANIFEST,
        )
        if tag:
            found["annotations"] = {"org.opencontainers.image.ref.name": tag}
        found |= descriptor or {}
        self.manifests.append(found)
        return found

    def all_files(self) -> dict[str, bytes]:
        """Return every file by name."""
        index = json.dumps({"schemaVersion": 2, "manifests": self.manifests}).encode()
        return {"index.json": index, **self.files}

    def write(self, path: Path) -> Path:
        """Write it as a directory."""
        for name, data in self.all_files().items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)
        return path


def layout_of(path: Path, *layers: bytes, config: dict[str, Any] | None = None, **keywords: Any) -> Path:
    """Write a layout of one image, and return where."""
    layout = Layout()
    layout.image(layers, config, **keywords)
    return layout.write(path)


def docker_archive(layers: Sequence[bytes], config: dict[str, Any] | None = None, tag: str = "local:latest") -> bytes:
    """Return what `docker save` wrote before version 25."""
    described = json.dumps(configuration(layers, config)).encode()
    name = f"{hashlib.sha256(described).hexdigest()}.json"
    names = [f"{hashlib.sha256(layer).hexdigest()}/layer.tar" for layer in layers]
    manifest = [{"Config": name, "RepoTags": [tag], "Layers": names}]
    files = {name: described, **dict(zip(names, layers, strict=True)), "manifest.json": json.dumps(manifest).encode()}
    return tar_of(files)


def zipped(data: bytes) -> bytes:
    return gzip.compress(data, 1, mtime=0)


# -- the command -------------------------------------------------------------------------------------------------------


class Quiet:
    """No progress."""

    def step(self, text: str) -> None: ...

    def share(self, done: int, total: int) -> None: ...


def bundle(
    image: Path | str, destination: Path, *, size: int = 64 << 20, entries: int = 10_000, **options: Any
) -> Built:
    """Make a bundle in this process. `options` are the caller's wishes, and `devices` and `platform`."""
    from pysandbox.bundle.build import Request, build
    from pysandbox.bundle.config import Wishes
    from pysandbox.bundle.limit import Limits
    from pysandbox.bundle.reference import parse_platform, parse_reference

    request = Request(
        reference=parse_reference(str(image)),
        destination=str(destination),
        devices=options.pop("devices", "skip"),
        platform=parse_platform(options.pop("platform", ""), os.uname().machine),
        limits=Limits(size=size, entries=entries),
        wishes=Wishes(**options),
    )
    return build(request, Quiet())


def spec_of(destination: Path) -> dict[str, Any]:
    """Return the config.json of a bundle."""
    document: dict[str, Any] = json.loads((destination / "config.json").read_text())
    return document


def names_in(data: bytes) -> list[str]:
    """Return the names in an archive, as the standard library reads them."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return tar.getnames()
