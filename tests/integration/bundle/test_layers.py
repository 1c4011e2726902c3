"""Layers one on another: what each hides, replaces and keeps (image-spec, layer.md)."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import layout
import pytest
from layout import Layout, archive, directory, entry, extended, layout_of, link, raw, record, symlink
from precondition import requires

CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")


@pytest.fixture(autouse=True)
def _as_root() -> None:
    requires("root")


def unpacked(tmp_path: Path, *layers: bytes) -> Path:
    """Make a bundle of layers, and return its root file system."""
    layout.bundle(layout_of(tmp_path / "image", *layers), tmp_path / "bundle")
    return tmp_path / "bundle/rootfs"


def tree(rootfs: Path) -> dict[str, str]:
    """Return what files say, where links lead, and directories, by path."""
    found = {}
    for path in sorted(rootfs.rglob("*")):
        name = str(path.relative_to(rootfs))
        found[name] = f"-> {os.readlink(path)}" if path.is_symlink() else "/" if path.is_dir() else path.read_text()
    return found


BASE = archive(
    directory("d"), entry("d/a", b"1"), entry("d/b", b"1"), directory("d/e"), entry("d/e/f", b"1"), entry("g", b"1")
)

HIDDEN: dict[str, tuple[bytes, dict[str, str]]] = {
    "nothing": (b"", {"d": "/", "d/a": "1", "d/b": "1", "d/e": "/", "d/e/f": "1", "g": "1"}),
    "a file": (entry("d/.wh.a"), {"d": "/", "d/b": "1", "d/e": "/", "d/e/f": "1", "g": "1"}),
    "a directory": (entry(".wh.d"), {"g": "1"}),
    "what is not there": (entry("x/.wh.y") + entry(".wh.z"), {"d": "/", "d/a": "1", "d/b": "1", "d/e": "/", "d/e/f": "1", "g": "1"}),
    "all of a directory": (entry("d/.wh..wh..opq"), {"d": "/", "g": "1"}),
    "all of the root": (entry(".wh..wh..opq"), {}),
    "all but what the layer has made before": (entry("d/new", b"2") + entry("d/.wh..wh..opq"), {"d": "/", "d/new": "2", "g": "1"}),
    "all but what the layer makes afterwards": (entry("d/.wh..wh..opq") + entry("d/new", b"2"), {"d": "/", "d/new": "2", "g": "1"}),
    "all but what is deep in it": (entry("d/e/new", b"2") + entry("d/.wh..wh..opq"), {"d": "/", "d/e": "/", "d/e/new": "2", "g": "1"}),
    "all but a directory made anew": (directory("d/e") + entry("d/.wh..wh..opq"), {"d": "/", "d/e": "/", "g": "1"}),
    "a name that the layer has made": (entry("g", b"2") + entry(".wh.g"), {"d": "/", "d/a": "1", "d/b": "1", "d/e": "/", "d/e/f": "1", "g": "2"}),
    "a name before the layer makes it": (entry(".wh.g") + entry("g", b"2"), {"d": "/", "d/a": "1", "d/b": "1", "d/e": "/", "d/e/f": "1", "g": "2"}),
    "a directory before the layer makes it": (entry(".wh.d") + directory("d") + entry("d/new", b"2"), {"d": "/", "d/new": "2", "g": "1"}),
    "a directory after the layer made it": (directory("d") + entry("d/new", b"2") + entry(".wh.d"), {"d": "/", "d/new": "2", "g": "1"}),
    "as a hard link (AUFS)": (entry(".wh..wh.aufs") + link("d/.wh.a", ".wh..wh.aufs") + directory(".wh..wh.plnk") + entry(".wh..wh.plnk/1.2"), {"d": "/", "d/b": "1", "d/e": "/", "d/e/f": "1", "g": "1"}),
    "a directory by a file": (entry("d", b"2"), {"d": "2", "g": "1"}),
    "a directory by a link": (symlink("d", "g"), {"d": "-> g", "g": "1"}),
    "a file by a directory": (directory("g") + entry("g/h", b"2"), {"d": "/", "d/a": "1", "d/b": "1", "d/e": "/", "d/e/f": "1", "g": "/", "g/h": "2"}),
    "a file by a hard link": (link("g", "d/a"), {"d": "/", "d/a": "1", "d/b": "1", "d/e": "/", "d/e/f": "1", "g": "1"}),
}  # fmt: skip


@pytest.mark.parametrize("what", HIDDEN)
def test_a_layer_hides(tmp_path: Path, what: str) -> None:
    layer, expected = HIDDEN[what]

    assert tree(unpacked(tmp_path, BASE, archive(layer))) == expected


def test_the_first_layer_has_nothing_to_hide(tmp_path: Path) -> None:
    assert tree(unpacked(tmp_path, archive(entry("a"), entry(".wh.a"), entry(".wh..wh..opq")))) == {"a": ""}


def test_what_is_hidden_can_come_back(tmp_path: Path) -> None:
    layers = [BASE, archive(entry(".wh.d")), archive(entry("d/a", b"3"))]

    assert tree(unpacked(tmp_path, *layers)) == {"d": "/", "d/a": "3", "g": "1"}


def test_entries_reach_through_a_link_of_a_lower_layer(tmp_path: Path) -> None:
    """Debian's /bin: a layer that was made before has bin/tool, and the link is none of its own."""
    lower = archive(directory("usr/bin"), symlink("bin", "usr/bin"), symlink("abs", "/usr/bin"))

    found = tree(
        unpacked(tmp_path, lower, archive(entry("bin/tool", b"2"), entry("abs/other", b"2"), entry("bin/.wh.no")))
    )

    assert found == {"usr": "/", "usr/bin": "/", "usr/bin/tool": "2", "usr/bin/other": "2", "bin": "-> usr/bin", "abs": "-> /usr/bin"}  # fmt: skip


def test_a_directory_takes_the_place_of_a_link(tmp_path: Path) -> None:
    lower = archive(entry("real/a", b"1"), symlink("l", "real"))

    found = tree(unpacked(tmp_path, lower, archive(directory("l"), entry("l/b", b"2"))))

    assert found == {"l": "/", "l/b": "2", "real": "/", "real/a": "1"}


def test_a_directorys_later_entry_gives_it_owner_mode_and_time(tmp_path: Path) -> None:
    noted = extended(record("SCHILY.xattr.user.old", b"x")) + raw(b"d", type_=b"5")
    layers = [archive(noted, entry("d/a")), archive(directory("d", mode=0o2750, uid=3, gid=4, mtime=1000))]

    status = (unpacked(tmp_path, *layers) / "d").stat()

    assert (status.st_mode & 0o7777, status.st_uid, status.st_gid, status.st_mtime) == (0o2750, 3, 4, 1000)
    assert "user.old" not in os.listxattr(tmp_path / "bundle/rootfs/d")


def test_directories_taken_for_granted_belong_to_root(tmp_path: Path) -> None:
    layer = archive(directory("shared", mode=0o2777, gid=7), entry("shared/a/b/c"))

    status = (unpacked(tmp_path, layer) / "shared/a").stat()

    assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (0o755, 0, 0)


def test_a_capability_outlives_the_owner(tmp_path: Path) -> None:
    header = extended(record("SCHILY.xattr.security.capability", CAPABILITY)) + raw(b"ping", at={108: b"0001750\0"})

    rootfs = unpacked(tmp_path, archive(header))

    assert os.getxattr(rootfs / "ping", "security.capability") == CAPABILITY
    assert (rootfs / "ping").stat().st_uid == 0o1750


def test_the_roots_own_entry_counts(tmp_path: Path) -> None:
    status = unpacked(tmp_path, archive(directory("./", mode=0o711, uid=9, mtime=77), entry("./f"))).stat()

    assert (status.st_mode & 0o7777, status.st_uid, status.st_mtime) == (0o711, 9, 77)


def test_a_directory_may_be_named_twice(tmp_path: Path) -> None:
    layer = archive(directory("d", mode=0o700), entry("d/f"), directory("d", mode=0o755))

    assert (unpacked(tmp_path, layer) / "d").stat().st_mode & 0o777 == 0o755


def test_names_that_look_like_whiteouts_are_names_in_a_plain_archive(tmp_path: Path) -> None:
    (tmp_path / "rootfs.tar").write_bytes(archive(entry("a"), entry(".wh.a", b"x")))

    layout.bundle(tmp_path / "rootfs.tar", tmp_path / "bundle")

    assert tree(tmp_path / "bundle/rootfs") == {"a": "", ".wh.a": "x"}


def test_layers_may_be_compressed(tmp_path: Path) -> None:
    layers = [archive(entry("a", b"1")), archive(entry("b", b"2"))]

    layout.bundle(
        layout_of(tmp_path / "image", *layers, packed=[layout.zipped(one) for one in layers]), tmp_path / "bundle"
    )

    assert tree(tmp_path / "bundle/rootfs") == {"a": "1", "b": "2"}


# -- which image -------------------------------------------------------------------------------------------------------


def several(path: Path) -> Path:
    """Write a layout of three images: two named ones, and one of those for two platforms."""
    image = Layout()
    one = image.image([archive(entry("one"))], tag="one")
    image.manifests = []
    platforms = []
    for name in (layout.ARCHITECTURE, "pdp11"):
        described = image.image([archive(entry(name))], architecture=name)
        platforms.append({**described, "platform": {"os": "linux", "architecture": name}})
    attestation = {**platforms[0], "platform": {"os": "unknown", "architecture": "unknown"}, "annotations": {"vnd.docker.reference.type": "attestation-manifest"}}  # fmt: skip
    index = image.document({"schemaVersion": 2, "manifests": [*platforms, attestation]}, Layout.INDEX)
    image.manifests = [one, {**index, "annotations": {"io.containerd.image.name": "example.test/two:latest"}}]
    return image.write(path)


@pytest.mark.parametrize(
    ("chosen", "file"),
    [(":one", "one"), (":latest", layout.ARCHITECTURE), (":two:latest", layout.ARCHITECTURE), (":example.test/two:latest", layout.ARCHITECTURE)],
)  # fmt: skip
def test_a_tag_chooses_and_the_machine_chooses_the_platform(tmp_path: Path, chosen: str, file: str) -> None:
    layout.bundle(f"{several(tmp_path / 'image')}{chosen}", tmp_path / "bundle")

    assert os.listdir(tmp_path / "bundle/rootfs") == [file]


def test_a_digest_chooses(tmp_path: Path) -> None:
    image = Layout()
    digests = [image.image([archive(entry(name))])["digest"] for name in ("a", "b")]
    image.write(tmp_path / "image")

    layout.bundle(f"{tmp_path / 'image'}@{digests[1]}", tmp_path / "bundle")

    assert os.listdir(tmp_path / "bundle/rootfs") == ["b"]


def test_another_platform_can_be_chosen(tmp_path: Path) -> None:
    layout.bundle(f"{several(tmp_path / 'image')}:latest", tmp_path / "bundle", platform="linux/pdp11")

    assert os.listdir(tmp_path / "bundle/rootfs") == ["pdp11"]


@pytest.mark.parametrize(
    ("chosen", "reason"),
    [
        ("", 'several images: "one", "example.test/two:latest"'),
        (":three", 'no image "three" here: "one", "example.test/two:latest"'),
        ("@sha256:" + "0" * 64, "no image"),
    ],
)
def test_a_choice_that_is_none_names_what_is_there(tmp_path: Path, chosen: str, reason: str) -> None:
    from pysandbox.errors import SandboxError

    with pytest.raises(SandboxError, match=reason):
        layout.bundle(f"{several(tmp_path / 'image')}{chosen}", tmp_path / "bundle")


def test_two_names_of_one_image_are_no_choice(tmp_path: Path) -> None:
    image = Layout()
    one = image.image([archive(entry("f"))], tag="a")
    image.manifests.append({**one, "annotations": {"org.opencontainers.image.ref.name": "b"}})

    layout.bundle(image.write(tmp_path / "image"), tmp_path / "bundle")


@pytest.mark.parametrize(
    "form",
    ["archive", "compressed archive", "docker archive", "docker archive since 25", "docker archive as a directory"],
)
def test_an_image_comes_in_many_forms(tmp_path: Path, form: str) -> None:
    layers = [archive(entry("a", b"1")), archive(entry("b", b"2"), entry(".wh.a"))]
    image = Layout()
    image.image(layers)
    path = tmp_path / "image"
    match form:
        case "archive":
            path.write_bytes(layout.tar_of(image.all_files()))
        case "compressed archive":
            path.write_bytes(layout.zipped(layout.tar_of(image.all_files())))
        case "docker archive":
            path.write_bytes(layout.docker_archive(layers))
        case "docker archive since 25":  # an image layout, with the old manifest beside it
            config = json.loads(image.files[f"blobs/{image.manifests[0]['digest'].replace(':', '/')}"])["config"]
            names = [f"blobs/{layout.digest(layer).replace(':', '/')}" for layer in layers]
            manifest = [{"Config": f"blobs/{config['digest'].replace(':', '/')}", "RepoTags": ["a:b"], "Layers": names}]
            path.write_bytes(layout.tar_of({**image.all_files(), "manifest.json": json.dumps(manifest).encode()}))
        case _:
            with tarfile.open(fileobj=io.BytesIO(layout.docker_archive(layers))) as tar:
                tar.extractall(path)

    built = layout.bundle(path, tmp_path / "bundle")

    assert built.layers == 2
    assert tree(tmp_path / "bundle/rootfs") == {"b": "2"}
    assert layout.spec_of(tmp_path / "bundle")["process"]["args"] == ["true"]


def test_a_docker_archive_of_several_images_needs_a_choice(tmp_path: Path) -> None:
    from pysandbox.errors import SandboxError

    config = entry("c", json.dumps(layout.configuration([], {})).encode())
    both = json.dumps([{"Config": "c", "Layers": [], "RepoTags": [f"{name}:1"]} for name in "ab"]).encode()
    (tmp_path / "image.tar").write_bytes(archive(config, entry("manifest.json", both)))

    with pytest.raises(SandboxError, match='several images: "a:1", "b:1"; choose by IMAGE:TAG'):
        layout.bundle(tmp_path / "image.tar", tmp_path / "bundle")
    with pytest.raises(SandboxError, match='no image "c:1" here: "a:1", "b:1"'):
        layout.bundle(f"{tmp_path / 'image.tar'}:c:1", tmp_path / "bundle")
    layout.bundle(f"{tmp_path / 'image.tar'}:b:1", tmp_path / "bundle")


def test_the_oldest_docker_archives_are_told(tmp_path: Path) -> None:
    from pysandbox.errors import SandboxError

    (tmp_path / "image.tar").write_bytes(
        archive(entry("repositories", b"{}"), entry("1/layer.tar"), entry("1/VERSION"))
    )

    with pytest.raises(SandboxError, match="docker archive without manifest.json"):
        layout.bundle(tmp_path / "image.tar", tmp_path / "bundle")


def test_a_name_with_the_mark_in_it_is_a_name(tmp_path: Path) -> None:
    assert tree(unpacked(tmp_path, archive(entry("a.wh.b", b"x")), archive(entry("c.wh.", b"y")))) == {
        "a.wh.b": "x", "c.wh.": "y",
    }  # fmt: skip


def test_a_docker_archives_tag_chooses(tmp_path: Path) -> None:
    (tmp_path / "image.tar").write_bytes(layout.docker_archive([archive(entry("f"))], tag="example.test/a:latest"))

    layout.bundle(f"{tmp_path / 'image.tar'}:a:latest", tmp_path / "bundle")

    assert tree(tmp_path / "bundle/rootfs") == {"f": ""}


def test_a_root_file_system_with_a_manifest_of_its_own_is_one(tmp_path: Path) -> None:
    (tmp_path / "image.tar").write_bytes(
        archive(entry("manifest.json", b'{"name": "an app"}'), entry("index.json", b"["))
    )

    layout.bundle(tmp_path / "image.tar", tmp_path / "bundle")

    assert sorted(tree(tmp_path / "bundle/rootfs")) == ["index.json", "manifest.json"]
