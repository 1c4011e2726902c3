"""Loading a bundle: what is refused, in runc's words where runc has any, and what comes back."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from descriptors import open_descriptors
from precondition import requires

from pysandbox.errors import InvalidArgument
from pysandbox.oci.bundle import load_bundle, load_process, load_resources
from pysandbox.oci.default import default_spec


def _make(directory: Path, **changes: Any) -> Path:
    (directory / "rootfs").mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps({**default_spec(), **changes}))
    return directory


def _refusal(path: object) -> str:
    with pytest.raises(InvalidArgument) as refused:
        load_bundle(str(path))
    return str(refused.value)


def test_a_bundle_has_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _make(tmp_path / "b")
    monkeypatch.chdir(tmp_path)

    bundle = load_bundle("b")

    assert bundle.path == str(tmp_path / "b")
    assert bundle.rootfs == str(tmp_path / "b/rootfs")
    assert bundle.spec["process"]["args"] == ["sh"]


def test_a_link_to_the_bundle_is_resolved_once(tmp_path: Path) -> None:
    _make(tmp_path / "b")
    (tmp_path / "link").symlink_to("b")

    assert load_bundle(str(tmp_path / "link")).path == str(tmp_path / "b")


def test_an_absolute_root_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    _make(tmp_path / "b", root={"path": str(tmp_path / "elsewhere/")})

    assert load_bundle(str(tmp_path / "b")).rootfs == str(tmp_path / "elsewhere")


def test_a_root_beside_the_bundle_is_taken(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    _make(tmp_path / "b", root={"path": "../elsewhere"})

    assert load_bundle(str(tmp_path / "b")).rootfs == str(tmp_path / "elsewhere")


def test_a_missing_user_is_root(tmp_path: Path) -> None:
    process: dict[str, Any] = {"args": ["sh"], "cwd": "/"}
    _make(tmp_path / "b", process=process)

    assert load_bundle(str(tmp_path / "b")).spec["process"]["user"] == {"uid": 0, "gid": 0}


def test_a_missing_directory(tmp_path: Path) -> None:
    assert _refusal(tmp_path / "none") == f"chdir {tmp_path}/none: no such file or directory"


def test_a_file_in_place_of_the_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    assert _refusal(tmp_path / "file") == f"chdir {tmp_path}/file: not a directory"


def test_a_path_with_nul() -> None:
    assert _refusal("a\0b").startswith("chdir ")


def test_a_missing_config(tmp_path: Path) -> None:
    assert _refusal(tmp_path) == "JSON specification file config.json not found"


def test_a_config_that_is_a_link(tmp_path: Path) -> None:
    _make(tmp_path / "b")
    (tmp_path / "b/config.json").rename(tmp_path / "secret.json")
    (tmp_path / "b/config.json").symlink_to(tmp_path / "secret.json")

    assert _refusal(tmp_path / "b") == "config.json: is a symbolic link"


def test_a_config_that_is_a_fifo(tmp_path: Path) -> None:
    _make(tmp_path / "b")
    (tmp_path / "b/config.json").unlink()
    os.mkfifo(tmp_path / "b/config.json")

    assert _refusal(tmp_path / "b") == "config.json: not a regular file"


def test_a_missing_root(tmp_path: Path) -> None:
    _make(tmp_path / "b")
    (tmp_path / "b/rootfs").rmdir()

    assert _refusal(tmp_path / "b") == f"invalid rootfs: stat {tmp_path}/b/rootfs: no such file or directory"


def test_a_root_that_is_a_file(tmp_path: Path) -> None:
    _make(tmp_path / "b")
    (tmp_path / "b/rootfs").rmdir()
    (tmp_path / "b/rootfs").touch()

    assert load_bundle(str(tmp_path / "b")).image  # for backends that take one


def test_a_root_that_is_neither_a_directory_nor_an_image(tmp_path: Path) -> None:
    _make(tmp_path / "b")
    (tmp_path / "b/rootfs").rmdir()
    os.mkfifo(tmp_path / "b/rootfs")

    assert _refusal(tmp_path / "b") == f"invalid rootfs: {tmp_path}/b/rootfs: not a directory"


@pytest.mark.parametrize("target", ["/", "../real"])
def test_a_root_that_is_a_link(tmp_path: Path, target: str) -> None:
    (tmp_path / "real").mkdir()
    _make(tmp_path / "b")
    (tmp_path / "b/rootfs").rmdir()
    (tmp_path / "b/rootfs").symlink_to(target)

    assert _refusal(tmp_path / "b") == f"invalid rootfs: {tmp_path}/b/rootfs: not an absolute path, or a symlink"


def test_a_root_behind_a_link(tmp_path: Path) -> None:
    _make(tmp_path / "b", root={"path": "link/etc"})
    (tmp_path / "b/link").symlink_to("/")

    assert _refusal(tmp_path / "b").endswith("not an absolute path, or a symlink")


@pytest.mark.parametrize("field", ["sysctl", "netDevices"])
def test_joining_our_own_network_by_its_path_is_no_private_network(tmp_path: Path, field: str) -> None:
    linux: Any = default_spec()["linux"]
    linux["namespaces"][1]["path"] = "/proc/self/ns/net"
    linux[field] = {"net.ipv4.ip_forward": "1"} if field == "sysctl" else {"eth0": {}}
    _make(tmp_path / "b", linux=linux)

    assert _refusal(tmp_path / "b").startswith(f"linux.{field}: ")


def test_a_network_that_is_not_there(tmp_path: Path) -> None:
    linux: Any = default_spec()["linux"]
    linux["namespaces"][1]["path"] = str(tmp_path / "none")
    linux["sysctl"] = {"net.ipv4.ip_forward": "1"}
    _make(tmp_path / "b", linux=linux)

    assert _refusal(tmp_path / "b") == f"linux.namespaces[1].path: {tmp_path}/none: no such file or directory"


@pytest.mark.parametrize(("size", "refused"), [(2**32 - 1, False), (65536, True)])
def test_maps_beside_a_joined_user_namespace_are_its_own(tmp_path: Path, size: int, refused: bool) -> None:
    requires("root")
    if Path("/proc/self/uid_map").read_text().split() != ["0", "0", str(2**32 - 1)]:
        pytest.skip("needs the first user namespace")
    linux: Any = default_spec()["linux"]
    linux["namespaces"].append({"type": "user", "path": f"/proc/{os.getpid()}/ns/user"})
    linux["uidMappings"] = linux["gidMappings"] = [{"containerID": 0, "hostID": 0, "size": size}]
    _make(tmp_path / "b", linux=linux)

    if refused:
        assert "both namespace path and non-matching mapping specified" in _refusal(tmp_path / "b")
    else:
        load_bundle(str(tmp_path / "b"))


def test_a_user_namespace_of_a_process_that_is_gone(tmp_path: Path) -> None:
    linux: Any = default_spec()["linux"]
    linux["namespaces"].append({"type": "user", "path": "/proc/4194999/ns/user"})
    linux["uidMappings"] = linux["gidMappings"] = [{"containerID": 0, "hostID": 0, "size": 1}]
    _make(tmp_path / "b", linux=linux)

    assert _refusal(tmp_path / "b") == "/proc/4194999/uid_map: no such file or directory"


def test_no_descriptor_is_left(tmp_path: Path) -> None:
    _make(tmp_path / "good")
    _make(tmp_path / "bad", root=1)
    before = open_descriptors()

    load_bundle(str(tmp_path / "good"))
    _refusal(tmp_path / "bad")

    assert open_descriptors() == before


def test_a_process_file_is_read_and_completed(tmp_path: Path) -> None:
    (tmp_path / "p").write_text('{"args": ["true"], "cwd": "/", "user": {"uid": 5}}')

    assert load_process(str(tmp_path / "p"))["user"] == {"uid": 5, "gid": 0}


def test_a_bad_process_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p").write_text('{"args": ["true"], "cwd": "x"}')

    with pytest.raises(InvalidArgument, match=r'^process\.cwd: must be an absolute path, not "x"$'):
        load_process(str(tmp_path / "p"))
    with pytest.raises(InvalidArgument, match="no such file or directory"):
        load_process(str(tmp_path / "none"))


def test_a_resources_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "r").write_text('{"pids": {"limit": 5}}')

    assert load_resources(str(tmp_path / "r")) == {"pids": {"limit": 5}}


def test_resources_come_from_standard_input_too() -> None:
    reading, writing = os.pipe()
    kept = os.dup(0)
    os.write(writing, b'{"pids": {"limit": "5"}}')
    os.close(writing)
    os.dup2(reading, 0)
    os.close(reading)
    try:
        with pytest.raises(InvalidArgument, match=r"^resources\.pids\.limit: must be an integer, not a string$"):
            load_resources("-")
    finally:
        os.dup2(kept, 0)
        os.close(kept)
