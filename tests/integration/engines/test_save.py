"""Images that engines save, and file systems that they export, become the bundle that the engine would have run."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import layout
import pytest
from daemon import image

if TYPE_CHECKING:
    from daemon.engine import Engine
    from runtime import Runtime

#: Everything that a layer can say about the one below: whiteouts, an opaque directory, replacements, links, modes.
CHANGES = """
rm /etc/group; rm -r /home; mkdir -m 700 /home; touch /home/new; mkdir -p /a/b/c; echo 1 > /a/b/c/f; ln /a/b/c/f /a/same
ln -s /etc/passwd /a/link; rm /var -r; ln -s a /var; chmod 4755 /a/b/c/f; chown 7:8 /a; mkfifo /a/fifo; touch -d @1000 /a/b
"""
FORMATS = {"docker": [[]], "podman": [["--format=docker-archive"], ["--format=oci-archive"], ["--format=oci-dir"]]}


def snapshot(top: Path) -> dict[str, object]:
    """Return what an engine keeps of a tree, by path."""
    found: dict[str, object] = {}
    for path in top.rglob("*"):
        name, status = str(path.relative_to(top)), path.lstat()
        if name.split("/", maxsplit=1)[0] not in (
            "dev",
            "proc",
            "sys",
            "run",
            "etc",
            ".dockerenv",
        ):  # an export has the engine's own in these
            content = path.read_bytes() if stat.S_ISREG(status.st_mode) else None
            target = os.readlink(path) if path.is_symlink() else None
            links = status.st_nlink if stat.S_ISREG(status.st_mode) else 0
            found[name] = (oct(status.st_mode), status.st_uid, status.st_gid, links, content, target)
    return found


@pytest.mark.parametrize("started_engine", ["docker", "podman"], indirect=True)
def test_a_saved_image_is_what_the_engine_exports(engine: Engine, tmp_path: Path, pysandbox: Runtime) -> None:
    name = "localhost/changed:local"
    container = engine.start(["sh", "-c", CHANGES])
    assert engine.wait(container) == 0
    engine.ok("commit", "--change", 'CMD ["cat", "/a/same"]', "--change", "USER user", container, name)
    engine.ok("export", "--output", str(tmp_path / "exported.tar"), container)
    layout.bundle(tmp_path / "exported.tar", tmp_path / "exported")
    exported = snapshot(tmp_path / "exported/rootfs")
    assert {"home/new", "a/same", "a/fifo"} <= set(exported)

    for number, options in enumerate(FORMATS[engine.name]):
        saved, made = tmp_path / f"saved{number}", tmp_path / f"bundle{number}"
        engine.ok("save", *options, "--output", str(saved), name)
        said = pysandbox.ok("bundle", saved, made)

        assert "of 2 layers" in said
        assert snapshot(made / "rootfs") == exported
        assert not (made / "rootfs/etc/group").exists()
        assert layout.spec_of(made)["process"]["user"] == {"uid": 1000, "gid": 1000}
        assert pysandbox.ok("run", made) == "1\n"
    engine.ok("rmi", name)


@pytest.mark.parametrize("started_engine", ["docker"], indirect=True)
def test_an_archive_of_several_images_needs_a_choice(engine: Engine, tmp_path: Path, pysandbox: Runtime) -> None:
    container = engine.start(["touch", "/other"])
    assert engine.wait(container) == 0
    engine.ok("commit", container, "localhost/other:second")
    engine.ok("save", "--output", str(tmp_path / "saved.tar"), image.NAME, "localhost/other:second")

    refused = pysandbox("bundle", tmp_path / "saved.tar", tmp_path / "bundle")
    pysandbox.ok("bundle", f"{tmp_path / 'saved.tar'}:second", tmp_path / "bundle", "--", "true")

    assert "several images" in refused.stderr
    assert (tmp_path / "bundle/rootfs/other").exists()
    engine.ok("rmi", "localhost/other:second")


@pytest.mark.parametrize("started_engine", ["podman"], indirect=True)
@pytest.mark.parametrize("form", ["gzip", "zstd"])
def test_layers_that_an_engine_has_compressed_are_unpacked(
    engine: Engine, tmp_path: Path, pysandbox: Runtime, form: str
) -> None:
    if form == "zstd":
        pytest.importorskip("zstandard", reason="the package zstandard is not installed (extra `bundle`)")
    engine.ok("push", "--compression-format", form, image.NAME, f"oci:{tmp_path / 'image'}:tagged")
    kinds = [
        b"layer.v1.tar+" + form.encode() in path.read_bytes() for path in (tmp_path / "image/blobs/sha256").iterdir()
    ]

    pysandbox.ok("bundle", f"{tmp_path / 'image'}:tagged", tmp_path / "bundle", "--", "echo", "ran")

    assert any(kinds)
    assert pysandbox.ok("run", tmp_path / "bundle") == "ran\n"
