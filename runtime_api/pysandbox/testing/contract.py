"""The contract that every backend keeps, as tests to inherit: it drives a backend as the front end does.

```python
from pysandbox.testing.contract import BackendContract


class TestExample(BackendContract):
    backend_class = ExampleBackend

    @pytest.fixture
    def rootfs(self): ...  # a directory with /bin/sh, if the backend changes the root
```

Each test is one promise. A class that cannot keep a promise overrides the test, and says why.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from pysandbox import lifecycle, plugins
from pysandbox.backend import Options, Stdio
from pysandbox.config import Config
from pysandbox.errors import AlreadyExists, DeadlineExceeded, FailedPrecondition, NotFound, SandboxError, Unimplemented
from pysandbox.linux import start_time
from pysandbox.oci.bundle import Bundle, load_bundle
from pysandbox.oci.default import default_spec
from pysandbox.record import replace
from pysandbox.state import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path
    from typing import Any, ClassVar

    from pysandbox.backend import Backend, Container
    from pysandbox.lifecycle import Runtime

#: A program of another process: argv is name, module, class, settings, root, what to do, the id, the bundle to create.
_OTHER_PROCESS = """
import json
import os
import sys
sys.path[:0] = {path!r}
from pysandbox import lifecycle, plugins
from pysandbox.backend import Stdio
from pysandbox.config import Config
from pysandbox.errors import SandboxError
from pysandbox.oci.bundle import load_bundle
from pysandbox.state import Store
name, module, kind, settings, root, action, container_id, *bundle = sys.argv[1:]
family = name.partition(":")[0]
plugins.BUILT_IN[family] = (module, kind)
config = Config(backends={{family: json.loads(settings)}})
warn = lambda text: print(text, file=sys.stderr)
runtime = lifecycle.Runtime(store=Store(root), warn=warn, config=config, backend=name)
try:
    if action == "create":
        null = os.open("/dev/null", os.O_RDWR)
        stdio = Stdio(stdin=null, stdout=null, stderr=null)
        lifecycle.create(runtime, container_id, load_bundle(bundle[0]), stdio=stdio)
    elif action == "kill":
        lifecycle.kill(runtime, container_id, 9)
    else:
        lifecycle.delete(runtime, container_id, force=action == "force")
except SandboxError as error:
    print(type(error).__name__)
else:
    print("done")
"""


class BackendContract:
    """Inherit and set `backend_class`; override the fixture `rootfs` where a backend needs one with programs in it.

    `settings` is the backend's table of the settings file. `variant` is what follows the colon of `NAME:VARIANT`.
    """

    backend_class: ClassVar[type[Backend]]
    variant: ClassVar[str] = ""

    def backend(self) -> Backend:
        """Make the backend under test."""
        return self.backend_class.of_variant(self.variant) if self.variant else self.backend_class()

    # -- what the tests are given ------------------------------------------------------------------------------------

    @pytest.fixture
    def rootfs(self, tmp_path: Path) -> Path:
        """Return a root file system; this one is empty, for backends that change no root."""
        path = tmp_path / "rootfs"
        path.mkdir()
        return path

    @pytest.fixture
    def settings(self) -> Mapping[str, Any]:
        """Return the backend's settings."""
        return {}

    @pytest.fixture
    def make_bundle(self, tmp_path: Path, rootfs: Path) -> Callable[..., Bundle]:
        """Return a function that makes a bundle which runs a program; keywords go into the spec."""

        def make(*args: str, **members: Any) -> Bundle:
            spec: dict[str, Any] = json.loads(json.dumps(default_spec())) | members
            spec["process"] |= {"args": list(args), "terminal": False}
            spec["root"] = {"path": str(rootfs)}
            path = tmp_path / f"bundle-{os.urandom(4).hex()}"
            path.mkdir()
            (path / "config.json").write_text(json.dumps(spec))
            return load_bundle(str(path))

        return make

    @pytest.fixture
    def runtime(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Mapping[str, Any]) -> Runtime:
        """Return a front end with a state directory of its own, whose only backend is the one under test."""
        kind = self.backend_class
        monkeypatch.setitem(plugins.BUILT_IN, kind.name, (kind.__module__, kind.__qualname__))
        config = Config(backends={kind.name: settings})
        store = Store(str(tmp_path / "root"))
        name = f"{kind.name}:{self.variant}" if self.variant else kind.name
        return lifecycle.Runtime(store=store, warn=print, config=config, backend=name)

    @pytest.fixture(autouse=True)
    def container_id(self, runtime: Runtime, tmp_path: Path) -> Iterator[str]:
        """Return an id nobody else uses; after the test nothing of it may be left in /proc, mounts, cgroups."""
        name = f"contract-{os.getpid()}-{os.urandom(4).hex()}"
        descriptors = _descriptors()
        yield name
        with contextlib.suppress(NotFound):
            with runtime.store.open(name) as directory:
                pid = directory.read().pid
            lifecycle.delete(runtime, name, force=True)
            assert not _exists(pid), f"process {pid} is left behind"
        assert os.listdir(runtime.store.path) == []
        assert _mounts_of(str(tmp_path)) == []
        assert _cgroups_of(name) == []
        assert _descriptors() - descriptors == set()

    def other_process(self, runtime: Runtime, action: str, container_id: str, *bundle: str) -> subprocess.Popen[str]:
        """Start a process that does one thing with a container and prints `done` or the error's name."""
        kind = self.backend_class
        program = _OTHER_PROCESS.format(path=[path for path in sys.path if path])
        settings = json.dumps(runtime.config.backends[kind.name])
        names = [runtime.backend or kind.name, kind.__module__, kind.__qualname__, settings, runtime.store.path]
        return subprocess.Popen(
            [sys.executable, "-c", program, *names, action, container_id, *bundle],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )

    # -- life --------------------------------------------------------------------------------------------------------

    def test_create_start_wait_delete(self, runtime: Runtime, container_id: str, make_bundle: Any) -> None:
        """A program runs when it is started, not before, and its exit code comes back."""
        container = lifecycle.create(runtime, container_id, make_bundle("sh", "-c", "exit 7"))
        assert lifecycle.state(runtime, container_id).status == "created"
        assert container.alive()

        lifecycle.start(runtime, container_id, container)

        assert container.wait(timeout=30).code == 7
        assert lifecycle.state(runtime, container_id).status == "stopped"
        lifecycle.delete(runtime, container_id)
        with pytest.raises(NotFound):
            lifecycle.state(runtime, container_id)

    def test_standard_streams_are_the_callers(self, runtime: Runtime, container_id: str, make_bundle: Any) -> None:
        """What the program writes arrives at the descriptors that were handed in."""
        reader, writer = os.pipe()
        with open(reader, "rb") as output:
            container = lifecycle.create(
                runtime, container_id, make_bundle("sh", "-c", "echo out; echo err >&2"),
                stdio=Stdio(stdin=0, stdout=writer, stderr=writer),
            )  # fmt: skip
            os.close(writer)
            lifecycle.start(runtime, container_id, container)
            container.wait(timeout=30)
            assert output.read() == b"out\nerr\n"

    def test_a_preserved_descriptor_is_number_three(
        self, runtime: Runtime, container_id: str, make_bundle: Any
    ) -> None:
        """Preserved descriptors become 3, 4, … whatever their numbers were."""
        reader, writer = os.pipe()
        with open(reader, "rb") as output:
            bundle = make_bundle("sh", "-c", "echo three >&3")
            container = lifecycle.create(runtime, container_id, bundle, stdio=Stdio(preserved=(writer,)))
            os.close(writer)
            lifecycle.start(runtime, container_id, container)
            container.wait(timeout=30)
            assert output.read() == b"three\n"

    def test_death_by_signal_is_128_and_its_number(self, runtime: Runtime, container_id: str, make_bundle: Any) -> None:
        """SIGKILL makes 137."""
        container = self.running(runtime, container_id, make_bundle)

        lifecycle.kill(runtime, container_id, signal.SIGKILL)

        assert container.wait(timeout=30).code == 128 + signal.SIGKILL

    def test_waiting_has_a_limit(self, runtime: Runtime, container_id: str, make_bundle: Any) -> None:
        """`wait` with a timeout comes back while the program runs."""
        container = self.running(runtime, container_id, make_bundle)

        with pytest.raises(DeadlineExceeded):
            container.wait(timeout=0.05)
        assert container.alive()

    # -- moments -----------------------------------------------------------------------------------------------------

    def test_kill_before_start(self, runtime: Runtime, container_id: str, make_bundle: Any) -> None:
        """A container that never ran can be killed; then it cannot be started, and can be deleted."""
        container = lifecycle.create(runtime, container_id, make_bundle("sleep", "100"))

        lifecycle.kill(runtime, container_id, signal.SIGKILL)
        container.wait(timeout=30)

        assert lifecycle.state(runtime, container_id).status == "stopped"
        with pytest.raises(FailedPrecondition, match="cannot start a container that has stopped"):
            lifecycle.start(runtime, container_id)
        lifecycle.delete(runtime, container_id)

    def test_exit_before_start_returns(self, runtime: Runtime, container_id: str, make_bundle: Any) -> None:
        """A program may be over at once; `start` is no failure for it."""
        container = lifecycle.create(runtime, container_id, make_bundle("true"))

        lifecycle.start(runtime, container_id, container)

        assert container.wait(timeout=30).code == 0
        assert lifecycle.state(runtime, container_id).status == "stopped"

    def test_starting_twice_is_refused(self, runtime: Runtime, container_id: str, make_bundle: Any) -> None:
        """The second `start` says that it runs already."""
        self.running(runtime, container_id, make_bundle)

        with pytest.raises(FailedPrecondition, match="cannot start an already running container"):
            lifecycle.start(runtime, container_id)

    def test_a_stopped_container_is_not_signalled(self, runtime: Runtime, container_id: str, make_bundle: Any) -> None:
        """Its pid may be somebody else's by now."""
        container = self.running(runtime, container_id, make_bundle)
        lifecycle.kill(runtime, container_id, signal.SIGKILL)
        container.wait(timeout=30)

        with pytest.raises(FailedPrecondition, match="container not running"):
            lifecycle.kill(runtime, container_id, signal.SIGTERM)

    def test_a_reused_pid_is_not_signalled(self, runtime: Runtime, container_id: str, make_bundle: Any) -> None:
        """A record whose pid is now another process's (its start time differs) is that of a stopped container."""
        container = self.running(runtime, container_id, make_bundle)
        time.sleep(0.05)  # start times count in clock ticks of 10 ms
        stranger = subprocess.Popen(["sleep", "100"])
        try:
            with runtime.store.lock(container_id) as directory:
                record = directory.read()
                directory.write(replace(record, pid=stranger.pid))

            with pytest.raises(FailedPrecondition, match="container not running"):
                lifecycle.kill(runtime, container_id, signal.SIGKILL)
            assert stranger.poll() is None

            with runtime.store.lock(container_id) as directory:
                directory.write(record)
        finally:
            stranger.kill()
            stranger.wait()
        container.kill(signal.SIGKILL)
        container.wait(timeout=30)

    # -- exec --------------------------------------------------------------------------------------------------------

    def test_exec_returns_its_own_exit_code(self, runtime: Runtime, container_id: str, make_bundle: Any) -> None:
        """One more process runs beside init, and init goes on."""
        container = self.running(runtime, container_id, make_bundle)

        executing, process = lifecycle.exec_(
            runtime, container_id, _process(make_bundle, "sh", "-c", "exit 9"), exec_id="one"
        )

        assert process.pid != container.init.pid
        assert executing.wait("one", timeout=30).code == 9
        assert container.alive()

    def test_exec_can_be_killed(self, runtime: Runtime, container_id: str, make_bundle: Any) -> None:
        """A signal for an exec'ed process reaches it, and not init."""
        container = self.running(runtime, container_id, make_bundle)
        executing, _ = lifecycle.exec_(runtime, container_id, _process(make_bundle, "sleep", "100"), exec_id="one")

        executing.kill(signal.SIGKILL, exec_id="one")

        assert executing.wait("one", timeout=30).code == 128 + signal.SIGKILL
        assert container.alive()

    def test_exec_before_start(self, runtime: Runtime, container_id: str, make_bundle: Any) -> None:
        """A created container takes processes, as under runc."""
        lifecycle.create(runtime, container_id, make_bundle("sleep", "100"))

        executing, _ = lifecycle.exec_(runtime, container_id, _process(make_bundle, "true"), exec_id="one")

        assert executing.wait("one", timeout=30).code == 0

    def test_exec_after_init_has_ended_is_refused(self, runtime: Runtime, container_id: str, make_bundle: Any) -> None:
        """There is nothing left to run in."""
        container = self.running(runtime, container_id, make_bundle)
        container.kill(signal.SIGKILL)
        container.wait(timeout=30)

        with pytest.raises(FailedPrecondition, match="cannot exec in a stopped container"):
            lifecycle.exec_(runtime, container_id, _process(make_bundle, "true"), exec_id="one")

    # -- pause -------------------------------------------------------------------------------------------------------

    def test_pause_and_resume(self, runtime: Runtime, container_id: str, make_bundle: Any) -> None:
        """A paused container says so, takes no exec, and goes on when resumed; or the backend cannot pause at all."""
        self.running(runtime, container_id, make_bundle)
        try:
            lifecycle.pause(runtime, container_id)
        except Unimplemented:
            pytest.skip(f"backend {self.backend_class.name} does not pause")

        assert lifecycle.state(runtime, container_id).status == "paused"
        with pytest.raises(FailedPrecondition, match="cannot exec in a paused container"):
            lifecycle.exec_(runtime, container_id, _process(make_bundle, "true"), exec_id="one")
        lifecycle.resume(runtime, container_id)
        assert lifecycle.state(runtime, container_id).status == "running"

    # -- removal -----------------------------------------------------------------------------------------------------

    def test_deleting_twice(self, runtime: Runtime, container_id: str, make_bundle: Any) -> None:
        """The second `delete` finds nothing; with force that is no error."""
        lifecycle.create(runtime, container_id, make_bundle("sleep", "100"))
        lifecycle.delete(runtime, container_id)

        with pytest.raises(NotFound):
            lifecycle.delete(runtime, container_id)
        lifecycle.delete(runtime, container_id, force=True)

    def test_a_running_container_is_deleted_by_force_only(
        self, runtime: Runtime, container_id: str, make_bundle: Any
    ) -> None:
        """And by force it is, with every process it started."""
        container = self.running(runtime, container_id, make_bundle)

        with pytest.raises(FailedPrecondition, match="that is not stopped: running"):
            lifecycle.delete(runtime, container_id)
        lifecycle.delete(runtime, container_id, force=True)

        assert not _exists(container.init.pid)

    @pytest.mark.parametrize("moment", ["created", "running", "stopped"])
    def test_destroy_in_any_state_any_number_of_times(
        self, runtime: Runtime, container_id: str, make_bundle: Any, moment: str
    ) -> None:
        """`destroy` gets the record alone and leaves no process."""
        container = lifecycle.create(runtime, container_id, make_bundle("sleep", "100"))
        if moment != "created":
            lifecycle.start(runtime, container_id, container)
        if moment == "stopped":
            container.kill(signal.SIGKILL)
            container.wait(timeout=30)
        with runtime.store.open(container_id) as directory:
            record = directory.read()
        backend = self.backend()

        backend.destroy(record)
        backend.destroy(record)

        assert not lifecycle.init_alive(record)

    def test_destroy_before_anything_was_remembered(
        self, runtime: Runtime, container_id: str, make_bundle: Any
    ) -> None:
        """A record of a `create` that was killed at once holds nothing; `destroy` copes."""
        lifecycle.create(runtime, container_id, make_bundle("sleep", "100"))
        with runtime.store.open(container_id) as directory:
            record = directory.read()

        self.backend().destroy(replace(record, status="creating", pid=0, pid_start_time=0, backend_state={}))

    def test_a_failed_create_leaves_nothing(self, runtime: Runtime, container_id: str, make_bundle: Any) -> None:
        """A hook that fails undoes all that was done by then; the id is free again."""
        bundle = make_bundle("sleep", "100", hooks={"createRuntime": [{"path": "/bin/false"}]})

        with pytest.raises(Exception, match=r"createRuntime hook #0: /bin/false: exit status 1"):
            lifecycle.create(runtime, container_id, bundle)

        assert os.listdir(runtime.store.path) == []
        lifecycle.create(runtime, container_id, make_bundle("sleep", "100"))

    def test_a_program_that_is_not_there(self, runtime: Runtime, container_id: str, make_bundle: Any) -> None:
        """It is an error of `create` or `start`, or an exit code that tells; never silence, never a leftover."""
        said = ""
        try:
            container = lifecycle.create(runtime, container_id, make_bundle("/no/such/program"))
            lifecycle.start(runtime, container_id, container)
        except (SandboxError, OSError) as error:
            said = str(error)
        assert "/no/such/program" in said or container.wait(timeout=30).code == 127

    # -- several processes ---------------------------------------------------------------------------------------------

    def test_another_process_takes_hold(self, runtime: Runtime, container_id: str, make_bundle: Any) -> None:
        """Signals and removal work from a process that did not create the container."""
        container = self.running(runtime, container_id, make_bundle)

        assert self.other_process(runtime, "kill", container_id).communicate(timeout=60)[0] == "done\n"
        assert container.wait(timeout=30).code == 128 + signal.SIGKILL
        assert self.other_process(runtime, "delete", container_id).communicate(timeout=60)[0] == "done\n"

        with pytest.raises(NotFound):
            lifecycle.state(runtime, container_id)

    def test_one_winner_of_many_creates(self, runtime: Runtime, container_id: str, make_bundle: Any) -> None:
        """Of several processes that create the same id, one does; the others learn that it is taken."""
        bundle = make_bundle("sleep", "100")

        racers = [self.other_process(runtime, "create", container_id, bundle.path) for _ in range(4)]
        answers = sorted(racer.communicate(timeout=60)[0].strip() for racer in racers)

        assert answers == [AlreadyExists.__name__] * 3 + ["done"]
        assert lifecycle.state(runtime, container_id).status == "created"

    def test_one_winner_of_many_deletes(self, runtime: Runtime, container_id: str, make_bundle: Any) -> None:
        """Of several processes that delete a container, one does; for the others it does not exist."""
        lifecycle.create(runtime, container_id, make_bundle("sleep", "100"))

        racers = [self.other_process(runtime, "delete", container_id) for _ in range(4)]
        answers = sorted(racer.communicate(timeout=60)[0].strip() for racer in racers)

        assert answers == [NotFound.__name__] * 3 + ["done"]

    # -- what is said --------------------------------------------------------------------------------------------------

    def test_planning_changes_nothing(self, runtime: Runtime, container_id: str, make_bundle: Any) -> None:
        """`plan` returns JSON objects and leaves no trace."""
        bundle = make_bundle("true")

        options = Options(settings=runtime.config.backends[self.backend_class.name])
        operations = self.backend().plan(bundle.path, bundle.spec, container_id, options)

        assert operations
        assert json.loads(json.dumps(operations)) is not None
        assert os.listdir(runtime.store.path) == []

    def test_features_use_the_four_words(self) -> None:
        """Every field is enforced, done by the guest, refused or ignored."""
        assert set(self.backend().features().fields.values()) <= {"enforced", "guest", "refused", "ignored"}

    def test_probing_twice_says_the_same(self) -> None:
        """`probe` changes nothing, so it has nothing new to say."""
        backend = self.backend()
        assert list(backend.probe()) == list(backend.probe())

    # -- steps -------------------------------------------------------------------------------------------------------

    def running(self, runtime: Runtime, container_id: str, make_bundle: Callable[..., Bundle]) -> Container:
        """Create and start a container whose program sleeps."""
        container = lifecycle.create(runtime, container_id, make_bundle("sleep", "100"))
        lifecycle.start(runtime, container_id, container)
        return container


def _process(make_bundle: Callable[..., Bundle], *args: str) -> Any:
    return make_bundle(*args).spec["process"]


def _exists(pid: int) -> bool:
    """Say whether a process is there (a zombie is not: its parent's to reap); it has a moment to vanish."""
    for _ in range(200):
        if start_time(pid) is None:
            return False
        time.sleep(0.01)
    return True


def _descriptors() -> set[str]:
    """Return what the open descriptors lead to, but for the interpreter's own listing."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.add(f"{name} {os.readlink(f'/proc/self/fd/{name}')}")
    return {entry for entry in found if "/proc/" not in entry}


def _mounts_of(path: str) -> list[str]:
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as mounts:
        return [line for line in mounts if path in line]


def _cgroups_of(container_id: str) -> list[str]:
    """Look for the id in the names of cgroups, as deep as any runtime puts them."""
    found, level = [], ["/sys/fs/cgroup"]
    for _ in range(6):
        below = [entry.path for path in level for entry in _directories(path)]
        found += [path for path in below if container_id in os.path.basename(path)]
        level = below
    return found


def _directories(path: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as entries:
            return [entry for entry in entries if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []  # somebody else's, gone while we were looking
