"""What a runtime is given: the checked document, changed only where it has to be."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from pysandbox.oci.default import default_spec
from pysandbox_oci.age import OLDEST, needed_version
from pysandbox_oci.handover import derived, needs_gate, write_bundle

GATE = {"path": "/gate"}


def spec(**members: Any) -> Any:
    document = json.loads(json.dumps(default_spec())) | members
    document["root"] = {"path": "rootfs", "readonly": True}
    return document


def test_the_root_is_absolute_and_otherwise_as_it_was() -> None:
    assert derived(spec(), "/bundle", None)["root"] == {"path": "/bundle/rootfs", "readonly": True}


def test_sources_of_bind_mounts_are_absolute_others_as_they_are() -> None:
    mounts = [
        {"destination": "/a", "source": "data", "options": ["rbind"]},
        {"destination": "/b", "source": "data", "type": "bind"},
        {"destination": "/c", "source": "tmpfs", "type": "tmpfs"},
        {"destination": "/d", "source": "/data", "options": ["bind"]},
    ]

    found = [mount["source"] for mount in derived(spec(mounts=mounts), "/bundle", None)["mounts"]]

    assert found == ["/bundle/data", "/bundle/data", "tmpfs", "/data"]


def test_the_hooks_that_the_front_end_runs_are_gone_those_of_the_container_stay() -> None:
    kinds = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"]
    hooks = {kind: [{"path": f"/{kind}"}] for kind in kinds}

    document = derived(spec(hooks=hooks), "/bundle", GATE)

    assert document["hooks"] == {
        "createContainer": [{"path": "/createContainer"}],
        "startContainer": [{"path": "/startContainer"}],
        "createRuntime": [GATE],
    }


def test_without_hooks_there_are_none() -> None:
    assert "hooks" not in derived(spec(hooks={"poststop": [{"path": "/x"}]}), "/bundle", None)


@pytest.mark.parametrize(("kind", "needed"), [("prestart", True), ("createRuntime", True), ("poststop", False)])
def test_the_gate_is_for_hooks_that_run_while_the_namespaces_stand(kind: str, needed: bool) -> None:
    assert needs_gate({"hooks": {kind: [{"path": "/x"}]}}) is needed
    assert not needs_gate({"hooks": {kind: []}})


def test_the_given_document_is_not_changed() -> None:
    given = spec(hooks={"prestart": [{"path": "/x"}]})
    before = json.dumps(given)

    derived(given, "/bundle", GATE)

    assert json.dumps(given) == before


def test_nobody_else_can_read_the_bundle(tmp_path: Path) -> None:
    path = Path(write_bundle({"process": "secrets"}, str(tmp_path)))

    assert json.loads((path / "config.json").read_text()) == {"process": "secrets"}
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o700
    assert stat.S_IMODE(os.stat(path / "config.json").st_mode) == 0o600


# -- version ---------------------------------------------------------------------------------------------------------


def test_a_document_that_needs_no_more_is_one_of_the_oldest_version() -> None:
    assert spec()["ociVersion"] != OLDEST
    assert needed_version(spec()) == OLDEST
    assert derived(spec(), "/bundle", None)["ociVersion"] == OLDEST


def test_an_older_one_stays_what_it_is() -> None:
    assert needed_version(spec(ociVersion="1.0.0")) == "1.0.0"


@pytest.mark.parametrize(
    "young",
    [
        {"domainname": "x"},
        {"process": {"scheduler": {}}},
        {"process": {"ioPriority": {}}},
        {"linux": {"timeOffsets": {}}},
        {"linux": {"netDevices": {}}},
        {"linux": {"namespaces": [{"type": "time"}]}},
        {"linux": {"seccomp": {"listenerPath": "/x"}}},
        {"linux": {"resources": {"unified": {}}}},
        {"linux": {"resources": {"cpu": {"idle": 1}}}},
        {"linux": {"resources": {"memory": {"checkBeforeUpdate": True}}}},
        {"mounts": [{"destination": "/x", "uidMappings": []}]},
        {"mounts": [{"destination": "/x", "options": ["rro"]}]},
    ],
)
def test_one_that_uses_something_younger_says_so(young: dict[str, Any]) -> None:
    assert needed_version({"ociVersion": "1.2.0", **young}) == "1.2.0"
