"""What is legal when, in runc's words; what hooks see and do; what a killed command leaves."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from pysandbox import lifecycle
from pysandbox.backend import Process
from pysandbox.errors import AlreadyExists, DeadlineExceeded, FailedPrecondition, NotFound, SandboxError, Unavailable
from pysandbox.lifecycle import Runtime, check_transition
from pysandbox.linux import start_time
from pysandbox.record import replace
from pysandbox.testing.fake import FakeContainer

STATUSES = ("creating", "created", "running", "paused", "stopped")
#: What runc 1.1.5 answers, where it refuses.
REFUSED = {
    ("start", "creating"): "cannot start a container in the creating state",
    ("start", "running"): "cannot start an already running container",
    ("start", "paused"): "cannot start a container in the paused state",
    ("start", "stopped"): "cannot start a container that has stopped",
    ("exec", "creating"): "cannot exec in a creating container",
    ("exec", "paused"): "cannot exec in a paused container (use --ignore-paused to override)",
    ("exec", "stopped"): "cannot exec in a stopped container",
    ("kill", "creating"): "container not running",
    ("kill", "stopped"): "container not running",
    ("pause", "creating"): "container not running",
    ("pause", "paused"): "container not running",
    ("pause", "stopped"): "container not running",
    ("resume", "creating"): "container not paused",
    ("resume", "created"): "container not paused",
    ("resume", "running"): "container not paused",
    ("resume", "stopped"): "container not paused",
    ("update", "creating"): "container not running",
    ("update", "stopped"): "container not running",
    ("delete", "creating"): "cannot delete container c that is not stopped: creating",
    ("delete", "running"): "cannot delete container c that is not stopped: running",
    ("delete", "paused"): "cannot delete container c that is not stopped: paused",
    ("events", "creating"): "container with id c is not running",
    ("events", "stopped"): "container with id c is not running",
}


@pytest.mark.parametrize("operation", ["start", "exec", "kill", "pause", "resume", "update", "delete", "events"])
@pytest.mark.parametrize("status", STATUSES)
def test_each_operation_is_legal_or_refused_in_runcs_words(operation: str, status: str) -> None:
    said = ""
    try:
        check_transition(operation, status, "c")
    except FailedPrecondition as error:
        said = str(error)

    assert said == REFUSED.get((operation, status), "")


# -- create ------------------------------------------------------------------------------------------------------------


def test_the_record_knows_init_by_pid_and_start_time(front: Runtime, bundle_of: Any) -> None:
    container = lifecycle.create(front, "c", bundle_of("sleep", "100", annotations={"k": "v"}))

    record = lifecycle.state(front, "c").record

    assert (record.pid, record.pid_start_time) == (container.init.pid, start_time(container.init.pid))
    assert (record.backend, record.status, record.annotations) == ("fake", "created", {"k": "v"})


def test_an_id_in_use_is_refused_and_its_owner_goes_on(front: Runtime, bundle_of: Any) -> None:
    container = lifecycle.create(front, "c", bundle_of("sleep", "100"))

    with pytest.raises(AlreadyExists, match="container with given ID already exists"):
        lifecycle.create(front, "c", bundle_of("sleep", "100"))
    assert container.alive()


def test_what_cannot_be_delivered_is_undone(front: Runtime, bundle_of: Any) -> None:
    made: list[int] = []

    def deliver(process: Process) -> None:
        made.append(process.pid)
        raise OSError(28, "no space left on device", "/pid-file")

    with pytest.raises(OSError, match="no space"):
        lifecycle.create(front, "c", bundle_of("sleep", "100"), deliver=deliver)

    assert start_time(made[0]) is None
    assert os.listdir(front.store.path) == []


def _stale(front: Runtime, bundle_of: Any, container_id: str = "c") -> int:
    """Leave what a `create` leaves that was killed before it had finished: a creating record with its lock free."""
    container = lifecycle.create(front, container_id, bundle_of("sleep", "100"))
    with front.store.lock(container_id) as directory:
        directory.write(replace(directory.read(), status="creating", pid=0, pid_start_time=0))
    return container.init.pid


@pytest.mark.parametrize("command", ["state", "start", "kill", "delete", "force", "create", "list"])
def test_the_next_command_sweeps_what_a_killed_create_left(front: Runtime, bundle_of: Any, command: str) -> None:
    pid = _stale(front, bundle_of)

    if command == "create":
        lifecycle.create(front, "c", bundle_of("sleep", "100"))
        assert lifecycle.state(front, "c").status == "created"
    elif command == "list":
        assert list(lifecycle.containers(front)) == []
    elif command == "force":
        lifecycle.delete(front, "c", force=True)
    else:
        call: Any = {"state": lifecycle.state, "start": lifecycle.start, "delete": lifecycle.delete}.get(command)
        with pytest.raises(NotFound, match="container does not exist"):
            lifecycle.kill(front, "c", 9) if call is None else call(front, "c")

    assert start_time(pid) is None
    assert os.listdir(front.store.path) == (["c"] if command == "create" else [])


def test_a_create_under_way_is_creating_and_cannot_be_signalled(front: Runtime, bundle_of: Any) -> None:
    lifecycle.create(front, "c", bundle_of("sleep", "100"))
    with front.store.lock("c") as directory:
        record = directory.read()
        directory.write(replace(record, status="creating"))

        assert lifecycle.state(front, "c").document("")["status"] == "creating"
        with pytest.raises(FailedPrecondition, match="container not running"):
            lifecycle.kill(front, "c", 9)
        directory.write(record)


# -- hooks -------------------------------------------------------------------------------------------------------------


def _telling_hooks(tmp_path: Path, *kinds: str) -> dict[str, Any]:
    """Hooks that append their kind and the status they were told to a file."""
    script = f"""echo $0 $(sed -n 's/.*"status": "\\([a-z]*\\)".*/\\1/p') >> {tmp_path}/told"""
    return {kind: [{"path": "/bin/sh", "args": ["sh", "-c", script, kind]}] for kind in kinds}


def test_hooks_run_in_the_specs_order_and_are_told_the_status(front: Runtime, bundle_of: Any, tmp_path: Path) -> None:
    hooks = _telling_hooks(tmp_path, "poststop", "poststart", "createRuntime", "prestart")
    container = lifecycle.create(front, "c", bundle_of("sleep", "100", hooks=hooks))
    lifecycle.start(front, "c", container)
    lifecycle.delete(front, "c", force=True)

    assert (tmp_path / "told").read_text().splitlines() == [
        "prestart creating",
        "createRuntime creating",
        "poststart running",
        "poststop stopped",
    ]


def test_a_failed_prestart_hook_undoes_create_and_runs_poststop(front: Runtime, bundle_of: Any, tmp_path: Path) -> None:
    hooks = {"prestart": [{"path": "/bin/false"}], **_telling_hooks(tmp_path, "poststop")}

    with pytest.raises(SandboxError, match="error running prestart hook #0: /bin/false: exit status 1"):
        lifecycle.create(front, "c", bundle_of("sleep", "100", hooks=hooks))

    assert (tmp_path / "told").read_text() == "poststop stopped\n"
    assert os.listdir(front.store.path) == []


def test_a_failed_poststart_hook_ends_the_container(front: Runtime, bundle_of: Any) -> None:
    container = lifecycle.create(front, "c", bundle_of("sleep", "100", hooks={"poststart": [{"path": "/bin/false"}]}))

    with pytest.raises(SandboxError, match="error running poststart hook #0"):
        lifecycle.start(front, "c", container)

    assert container.wait(timeout=10).code == 128 + signal.SIGKILL


def test_a_failed_poststop_hook_is_a_warning(front: Runtime, bundle_of: Any) -> None:
    lifecycle.create(front, "c", bundle_of("sleep", "100", hooks={"poststop": [{"path": "/bin/false"}]}))

    lifecycle.delete(front, "c")

    assert "error running poststop hook #0" in front.warn.lines[0]  # type: ignore[attr-defined]
    assert os.listdir(front.store.path) == []


def test_a_poststart_hook_may_use_the_container(front: Runtime, bundle_of: Any, tmp_path: Path) -> None:
    script = f"flock -n {front.store.path}/c true && echo free > {tmp_path}/lock"
    hooks = {"poststart": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]}
    container = lifecycle.create(front, "c", bundle_of("sleep", "100", hooks=hooks))

    lifecycle.start(front, "c", container)

    assert (tmp_path / "lock").read_text() == "free\n"


# -- damage and disappearance ---------------------------------------------------------------------------------------------


def test_a_damaged_record_stops_everything_but_delete_by_force(front: Runtime, bundle_of: Any) -> None:
    container = lifecycle.create(front, "c", bundle_of("sleep", "100"))
    path = Path(front.store.path, "c", "state.json")
    path.write_text("{")

    for call in (lifecycle.state, lifecycle.start, lifecycle.delete):
        with pytest.raises(Unavailable, match="state.json: is damaged"):
            call(front, "c")
    lifecycle.delete(front, "c", force=True)

    assert os.listdir(front.store.path) == []
    container.delete()  # the fake's processes are known by its record alone


def test_a_backend_that_does_not_load_keeps_the_record(
    front: Runtime, bundle_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who forgot the container could not end its processes any more, once the backend loads again."""
    container = lifecycle.create(front, "c", bundle_of("sleep", "100"))

    with monkeypatch.context() as patch:
        patch.setattr(lifecycle, "load_backend", _not_installed)
        with pytest.raises(Unavailable, match="not installed"):
            lifecycle.delete(front, "c", force=True)
        Path(front.store.path, "c", "state.json").write_text("{")
        with pytest.raises(Unavailable, match="not installed"):
            lifecycle.delete(front, "c", force=True)

    assert os.listdir(front.store.path) == ["c"]
    lifecycle.delete(front, "c", force=True)
    container.delete()


def _not_installed(name: str, *_: object) -> None:
    raise Unavailable(f"backend {name!r}: not installed")


def test_an_init_that_cannot_be_killed_keeps_its_record(
    front: Runtime, bundle_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL waits where a process is frozen by somebody else's cgroup: who forgot it could not try again."""
    container = lifecycle.create(front, "c", bundle_of("sleep", "100"))

    with monkeypatch.context() as patch:
        patch.setattr(FakeContainer, "kill", lambda *_, **__: None)
        patch.setattr(lifecycle, "KILL_LIMIT", 0.05)
        with pytest.raises(DeadlineExceeded, match="container init still running"):
            lifecycle.delete(front, "c", force=True)

    assert lifecycle.state(front, "c").status == "created"
    assert container.alive()


def test_a_link_with_a_containers_name_is_removed_by_force(front: Runtime, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    os.symlink(tmp_path / "precious", f"{front.store.path}/c")

    lifecycle.delete(front, "c", force=True)

    assert os.listdir(front.store.path) == []
    assert (tmp_path / "precious").is_dir()


def test_listing_skips_the_damaged_and_says_so(front: Runtime, bundle_of: Any) -> None:
    lifecycle.create(front, "good", bundle_of("sleep", "100"))
    Path(front.store.path, "bad").mkdir()

    assert [standing.record.id for standing in lifecycle.containers(front)] == ["good"]
    assert "skipping container bad" in front.warn.lines[0]  # type: ignore[attr-defined]


def test_a_container_outlives_its_bundle(front: Runtime, bundle_of: Any) -> None:
    bundle = bundle_of("sleep", "100")
    lifecycle.create(front, "c", bundle)
    Path(bundle.path, "config.json").unlink()
    os.rmdir(bundle.rootfs)
    os.rmdir(bundle.path)

    assert lifecycle.state(front, "c").status == "created"
    lifecycle.kill(front, "c", signal.SIGKILL)
    lifecycle.delete(front, "c", force=True)


def test_after_a_reboot_a_container_is_stopped_and_can_be_deleted(front: Runtime, bundle_of: Any) -> None:
    container = lifecycle.create(front, "c", bundle_of("sleep", "100"))
    container.delete()
    with front.store.lock("c") as directory:  # the pid is somebody else's now
        directory.write(replace(directory.read(), pid=os.getpid(), status="running"))

    assert lifecycle.state(front, "c").status == "stopped"
    lifecycle.delete(front, "c")
    assert start_time(os.getpid()) is not None


def test_a_backend_state_that_makes_no_sense_is_damage(front: Runtime, bundle_of: Any) -> None:
    container = lifecycle.create(front, "c", bundle_of("sleep", "100"))
    with front.store.lock("c") as directory:
        directory.write(replace(directory.read(), backend_state={}))

    with pytest.raises(Unavailable, match="backend_state"):
        lifecycle.kill(front, "c", signal.SIGKILL)
    lifecycle.delete(front, "c", force=True)
    container.delete()


def test_the_state_document_has_runcs_members_in_runcs_order(front: Runtime, bundle_of: Any) -> None:
    bundle = bundle_of("sleep", "100", annotations={"k": "v"})
    lifecycle.create(front, "c", bundle)

    document = lifecycle.state(front, "c").document("")

    assert list(document) == [
        "ociVersion", "id", "pid", "status", "bundle", "rootfs", "created", "annotations", "owner",
    ]  # fmt: skip
    assert json.loads(json.dumps(document))["rootfs"] == bundle.rootfs


def test_what_a_spec_says_in_vain_is_a_warning(front: Runtime, bundle_of: Any) -> None:
    lifecycle.create(front, "c", bundle_of("sleep", "100", windows={}))

    assert front.warn.lines == ["windows: ignored: of another platform"]  # type: ignore[attr-defined]
