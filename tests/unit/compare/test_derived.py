"""The bundle that is derived from the user's."""

from __future__ import annotations

import contextlib
import copy
import json
import os
from pathlib import Path

import pytest
from precondition import requires

from pysandbox.compare import derived
from pysandbox.compare.workplace import mounts_below
from pysandbox.errors import InvalidArgument, Unavailable
from pysandbox.oci.bundle import load_bundle
from pysandbox.oci.default import default_spec

GAUGE = "a program"


def spec(**more):
    return {**copy.deepcopy(dict(default_spec())), **more}


def derive(document):
    return derived.derive(document, "/the/bundle", "/view", ["hello"])


def test_it_runs_the_gauge_on_the_view_and_keeps_everything_else() -> None:
    before = spec()

    after, _ = derive(before)

    assert after["process"]["args"] == [derived.PROGRAM, "hello"]
    assert after["root"] == {"path": "/view", "readonly": False}
    assert after["process"]["capabilities"] == before["process"]["capabilities"]
    assert after["linux"] == before["linux"]
    assert after["mounts"] == before["mounts"]


def test_the_users_document_is_not_touched() -> None:
    before = spec(hooks={"prestart": [{"path": "/x"}]})
    text = json.dumps(before)

    derive(before)

    assert json.dumps(before) == text


def test_nothing_is_run_in_the_users_own_network_namespace() -> None:
    namespaces = [{"type": "pid", "path": "/proc/1/ns/pid"}, {"type": "network", "path": "/run/netns/mine"}]

    after, _ = derive(spec(linux={"namespaces": namespaces}))

    assert after["linux"]["namespaces"] == [{"type": "pid", "path": "/proc/1/ns/pid"}, {"type": "network"}]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hooks": {"prestart": [{"path": "/x"}]}}, "hooks are not run"),
        ({"root": {"path": "rootfs", "readonly": True}}, "yours is read-only"),
        ({"linux": {"cgroupsPath": "/mine"}}, "not in linux.cgroupsPath"),
        ({"ociVersion": "1.2.1"}, "yours is 1.2.1"),
        ({"linux": {"netDevices": {"eth0": {}}}}, "no network device of the host is moved"),
        ({"linux": {"namespaces": [{"type": "network", "path": "/run/netns/mine"}]}}, "a network namespace of its own"),
    ],
)
def test_what_it_changes_is_said(change, said) -> None:
    unchanged, _ = spec(ociVersion="1.0.2", root={"path": "rootfs"}), None

    _, told = derive({**unchanged, **change})
    _, plain = derive(unchanged)

    assert any(said in text for text in told)
    assert not any(said in text for text in plain)


def test_bind_mounts_are_meant_from_the_bundle_they_were_written_in() -> None:
    mounts = [
        {"destination": "/a", "source": "data", "options": ["rbind"]},
        {"destination": "/b", "source": "/data", "options": ["bind"]},
        {"destination": "/c", "source": "tmpfs", "type": "tmpfs"},
    ]

    after, _ = derive(spec(mounts=mounts))

    assert [mount["source"] for mount in after["mounts"]] == ["/the/bundle/data", "/data", "tmpfs"]


def test_root_of_a_user_namespace_is_the_group_that_may_pass() -> None:
    maps = [{"containerID": 1, "hostID": 5, "size": 1}, {"containerID": 0, "hostID": 100000, "size": 1}]

    assert derived.mapped_group(spec(linux={"gidMappings": maps})) == 100000
    assert derived.mapped_group(spec()) is None


def make_root(tmp_path: Path) -> Path:
    root = tmp_path / "bundle/rootfs, with: odd\\characters"
    root.mkdir(parents=True)
    (root / "file").write_text("the user's")
    return root


def gauge(tmp_path: Path) -> str:
    (tmp_path / "gauge").write_text(GAUGE)
    return os.fspath(tmp_path / "gauge")


def test_a_view_shows_the_root_and_the_gauge_and_keeps_changes_to_itself(tmp_path: Path) -> None:
    requires("root")
    root = make_root(tmp_path)

    with derived.View(os.fspath(root), gauge(tmp_path), tmp_path / "view") as view:
        assert (view.root / derived.PROGRAM.lstrip("/")).read_text() == GAUGE
        assert (view.root / "file").read_text() == "the user's"
        (view.root / "file").write_text("changed")
        (view.root / "new").mkdir()

    assert (root / "file").read_text() == "the user's"
    assert os.listdir(root) == ["file"]
    assert os.listdir(tmp_path / "view/root") == []  # unmounted


def test_on_an_overlay_the_changes_are_in_memory_and_it_is_said(tmp_path: Path) -> None:
    requires("root")
    root = make_root(tmp_path)

    with derived.View(os.fspath(root), gauge(tmp_path), tmp_path / "view") as outer:
        # An overlay can hold no other one's changes.
        with derived.View(os.fspath(root), gauge(tmp_path), outer.root / "inner") as inner:
            assert (inner.root / derived.PROGRAM.lstrip("/")).read_text() == GAUGE
            (inner.root / "new").mkdir()
        assert (outer.in_memory, inner.in_memory) == (False, True)
        assert os.listdir(outer.root / "inner/root") == []

    assert os.listdir(root) == ["file"]


def test_a_view_that_cannot_be_mounted_says_so_and_leaves_nothing_mounted(tmp_path: Path) -> None:
    requires("root")
    lower = make_root(tmp_path)

    with contextlib.ExitStack() as stack:
        for number in range(2):
            lower = stack.enter_context(derived.View(os.fspath(lower), gauge(tmp_path), tmp_path / str(number))).root
        third = derived.View(os.fspath(lower), gauge(tmp_path), tmp_path / "third")  # FILESYSTEM_MAX_STACK_DEPTH is 2
        with pytest.raises(Unavailable, match="cannot lay a view over .*: overlay: "):
            third.__enter__()

    assert mounts_below(Path("/proc/self/mountinfo").read_bytes(), os.fsencode(tmp_path)) == []


def test_a_bundle_that_is_derived_already_is_refused(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    (bundle / "rootfs" / derived.DIRECTORY.lstrip("/")).mkdir(parents=True)
    (bundle / "config.json").write_text(json.dumps(spec()))

    with pytest.raises(InvalidArgument, match="is there already"):
        derived.check(load_bundle(os.fspath(bundle)))
