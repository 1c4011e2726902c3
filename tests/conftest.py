"""What every test may ask for.

`pysandbox` (or `runtime`, which `--runtime PATH` replaces by another one, `runc` say) is a `Runtime` with a state
directory of its own; `make_bundle(["true"], mutate)` makes a bundle with a busybox root; `leaks` fails a test that
leaves a process, mount, cgroup, keyring, descriptor or record behind. `from precondition import requires` skips.

`--all` runs what an ordinary run leaves to `make soak` (small.py), too.

`--warm on` (the default) has a server of the session's own serve the commands, and fails if it hardly had any;
`--warm off` runs every one cold.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bothbackends
import busybox
import guestimage
import pytest
import small
from precondition import requires
from runtime import SERVABLE, Runtime, children, command_line, end_children, eventually
from server import Servers, strayed, warm_up

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from runtime import MakeBundle

REPOSITORY = Path(__file__).parent.parent
LAUNCHER = REPOSITORY / "guest_agent/target/release/pysandbox-launcher"
PR_SET_CHILD_SUBREAPER = 36
#: The servers of this session; None with `--warm off`.
SERVERS = pytest.StashKey[Servers | None]()
#: How many tests an ordinary run has left out.
LEFT_OUT = pytest.StashKey[int]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--runtime", default=None, help="run the `runtime` tests against this OCI runtime instead")
    parser.addoption("--all", action="store_true", help="with all releases and engines, not only the machine's own")
    parser.addoption("--warm", choices=["on", "off"], default="on", help="whether a server may serve the commands")


def pytest_sessionstart(session: pytest.Session) -> None:
    # Orphans of whatever the tests start come to this process, where `leaks` and the teardown find them.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    # A shell has its background jobs ignore these, nohup a hang-up, and so would whatever the tests start. That one still
    # ends no tests: a handler is this process's own.
    actions = {
        signal.SIGINT: signal.default_int_handler, signal.SIGQUIT: signal.SIG_DFL, signal.SIGHUP: lambda *_: None,
    }  # fmt: skip
    for number, action in actions.items():
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, action)
    os.environ.setdefault("LC_ALL", "C.UTF-8")
    servers = None
    if session.config.getoption("--warm") == "on":
        servers = Servers(Path(tempfile.mkdtemp(prefix="psb-server-")))
    session.config.stash[SERVERS] = servers
    os.environ["PYSANDBOX_WARM"] = str(servers.directory) if servers else "off"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run on each backend what is to be the same on both."""
    if "pysandbox" in metafunc.fixturenames and metafunc.definition.path.name in bothbackends.FILES:
        metafunc.parametrize("pysandbox", ["namespaces", "microvm"], indirect=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.option.all:
        left_out = [item for item in items if small.is_left_out(item)]
        items[:] = [item for item in items if not small.is_left_out(item)]
        config.hook.pytest_deselected(items=left_out)
        config.stash[LEFT_OUT] = len(left_out)
    for item in items:
        if isinstance(item, pytest.Function) and "microvm" in item.name and item.path.name in bothbackends.FILES:
            for name in (item.name, item.originalname):
                if reason := bothbackends.EXCEPTIONS.get(name):
                    item.add_marker(pytest.mark.xfail(reason=reason, strict=True))


def pytest_runtest_teardown(item: pytest.Item) -> None:
    servers = item.config.stash[SERVERS]
    if servers:
        servers.status()  # what one has counted outlives it


def pytest_sessionfinish(session: pytest.Session) -> None:
    servers = session.config.stash[SERVERS]
    if servers:
        servers.status()
        if servers.too_few(len(SERVABLE)):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        servers.stop()
        shutil.rmtree(servers.directory)
    end_children(set())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if left_out := config.stash.get(LEFT_OUT, 0):
        terminalreporter.write_line(f"left out: {left_out} {small.WHY}")
    servers = config.stash[SERVERS]
    if servers:
        terminalreporter.write_line(f"warm: {servers.served} commands served, refused: {json.dumps(servers.refused)}")
        if servers.too_few(len(SERVABLE)):
            terminalreporter.write_line(f"warm: FAILED: {servers.too_few(len(SERVABLE))}", red=True)
    else:
        terminalreporter.write_line("warm: off, every command ran cold")


# -- the runtime -------------------------------------------------------------------------------------------------------


def _interpreter() -> str:
    """Return the real interpreter: the one below a venv."""
    return os.path.realpath(getattr(sys, "_base_executable", sys.executable))


@pytest.fixture(scope="session")
def cold_script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `pysandbox-cold` that runs this checkout, made from the same template as the installed one."""
    paths = [str(REPOSITORY / "runtime_api"), str(REPOSITORY / "backends")]
    paths += [path for path in sys.path if path.endswith("-packages")]
    text = (REPOSITORY / "runtime_api/launcher.in").read_text()
    program = tmp_path_factory.mktemp("launcher") / "pysandbox-cold"
    program.write_text(text.replace("@PYTHON@", _interpreter()).replace("@PATHS@", json.dumps(paths)))
    program.chmod(0o755)
    return program


@pytest.fixture(scope="session")
def launcher(cold_script: Path, servers: Servers | None) -> Iterator[Path]:
    """A `pysandbox`: the launcher that `make setup` built, the script of this checkout beside it.

    With `--warm on` it is served: it must have been, and by no other server than the session's, when the session ends.
    """
    program = cold_script.with_name("pysandbox")
    try:
        shutil.copy(LAUNCHER, program)
    except FileNotFoundError:
        pytest.fail(f"no {LAUNCHER.relative_to(REPOSITORY)}: run `make setup`")
    os.link(program, program.with_name("pysandbox-sandbox"))
    program.with_name("pysandbox-sandbox-cold").symlink_to(cold_script.name)
    if servers:
        warm_up(program, servers)
    yield program
    assert not strayed(cold_script), "a command of a test was not told PYSANDBOX_WARM: it had a server in /run"


@pytest.fixture(scope="session")
def servers(request: pytest.FixtureRequest) -> Servers | None:
    """The servers of this session; None where every command runs cold."""
    return request.config.stash[SERVERS]


@pytest.fixture
def root_dir(tmp_path: Path) -> Path:
    """A state directory, not yet made."""
    return tmp_path / "root"


@pytest.fixture
def pysandbox(request: pytest.FixtureRequest, launcher: Path, root_dir: Path) -> Iterator[Runtime]:
    """The runtime under test. What a test leaves is removed after it, whatever the test did."""
    command = [str(launcher)]
    if getattr(request, "param", "namespaces") == "microvm":
        command += ["--config", str(request.getfixturevalue("settings_file")), "--backend", "microvm"]
    yield from _runtime(command, root_dir)


@pytest.fixture
def runc(tmp_path: Path) -> Iterator[Runtime]:
    """The yardstick, with a state directory of its own."""
    requires("root", "command runc")
    yield from _runtime(["runc"], tmp_path / "runc-root")


@pytest.fixture
def runtime(request: pytest.FixtureRequest, root_dir: Path) -> Iterator[Runtime]:
    """Pysandbox, or what `--runtime` names: for tests that must hold (or be shown to fail) on others too."""
    chosen = request.config.getoption("--runtime")
    if chosen is None:
        yield request.getfixturevalue("pysandbox")
    else:
        yield from _runtime([chosen], root_dir)


def _runtime(command: list[str], root: Path) -> Iterator[Runtime]:
    known = set(children())
    runtime = Runtime(command, root)
    yield runtime
    try:
        runtime.remove_all()
    finally:
        end_children(known)
        for line in runtime.log:
            print(line)


@pytest.fixture(scope="session")
def microvm_settings(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    """The settings `[backends.microvm]` of a test: this checkout's guest image, templates of the session's own."""
    requires("root")
    return guestimage.settings(tmp_path_factory.mktemp("microvm") / "directory")


@pytest.fixture(scope="session")
def settings_file(microvm_settings: Mapping[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A settings file with the test's image and templates."""
    path = tmp_path_factory.mktemp("settings") / "config.toml"
    lines = [f"{name} = {json.dumps(value)}" for name, value in microvm_settings.items()]
    path.write_text("[backends.microvm]\n" + "\n".join(lines) + "\n")
    path.chmod(0o600)
    return path


# -- bundles -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def busybox_rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root file system to copy, never to write to."""
    try:
        rootfs = tmp_path_factory.mktemp("busybox") / "rootfs"
        busybox.build(rootfs)
    except FileNotFoundError as missing:
        pytest.skip(str(missing))
    return rootfs


@pytest.fixture
def make_bundle(request: pytest.FixtureRequest, tmp_path: Path) -> MakeBundle:
    """Make bundles: the default spec without a terminal, a writable busybox root, the given program."""

    def make(
        args: list[str],
        mutate: Callable[[dict[str, Any]], object] | None = None,
        *,
        rootfs: bool = True,
        **process: Any,
    ) -> Path:
        number = sum(1 for entry in tmp_path.iterdir() if entry.name.startswith("bundle"))
        bundle = tmp_path / f"bundle{number}"
        bundle.mkdir()
        if rootfs:
            shutil.copytree(request.getfixturevalue("busybox_rootfs"), bundle / "rootfs", symlinks=True)
        spec = _base_spec()
        spec["process"].update({"args": args, "terminal": False, **process})
        spec["root"]["readonly"] = False
        if mutate is not None:
            mutate(spec)
        (bundle / "config.json").write_text(json.dumps(spec, indent=1))
        return bundle

    return make


@pytest.fixture
def bundle(make_bundle: MakeBundle) -> Path:
    """A bundle whose program sleeps."""
    return make_bundle(["sleep", "1000"])


def _base_spec() -> dict[str, Any]:
    from pysandbox.oci.default import default_spec

    spec: dict[str, Any] = json.loads(json.dumps(default_spec()))
    return spec


# -- leaks -------------------------------------------------------------------------------------------------------------


class Host:
    """What there is on the host that a container could leave behind, as far as this test can have made it."""

    def __init__(self, tmp_path: Path, runtimes: list[Runtime], servers: Servers | None) -> None:
        self.tmp_path = tmp_path
        self.runtimes = runtimes
        self.servers = servers

    def look(self) -> dict[str, set[str]]:
        """Return the things by kind."""
        return {
            "processes": self._processes(),
            "mounts": self._mounts(),
            "cgroups": self._cgroups(),
            "keyrings": self._keyrings(),
            "descriptors": _descriptors(),
            "records": {
                str(entry) for runtime in self.runtimes if runtime.root.is_dir() for entry in runtime.root.iterdir()
            },
            "network namespaces": set(os.listdir("/run/netns")) if os.path.isdir("/run/netns") else set(),
        }

    def _processes(self) -> set[str]:
        """Ours, but for the servers and the forks that wait: not one that serves a command, or did."""
        found = [pid for pid in children() if not _reaped(pid)]
        known = self.servers.pids() if self.servers else set()
        # What it does just now is no difference.
        return {re.sub(r"^(\d+) \[\w\]", r"\1", command_line(pid)) for pid in found if pid not in known}

    def _ids(self) -> list[str]:
        return [container_id for runtime in self.runtimes for container_id in runtime.ids]

    def _mounts(self) -> set[str]:
        ours = [str(self.tmp_path), *self._ids()]
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        return {line for line in lines if any(part in line for part in ours)}

    def _cgroups(self) -> set[str]:
        ids = self._ids()
        walk = os.walk("/sys/fs/cgroup") if ids else ()
        return {
            os.path.join(top, name) for top, names, _ in walk for name in names if any(part in name for part in ids)
        }

    def _keyrings(self) -> set[str]:
        ids = self._ids()
        lines = Path("/proc/keys").read_text().splitlines() if ids and os.path.exists("/proc/keys") else []
        return {line.split()[0] for line in lines if any(part in line for part in ids)}


def _reaped(pid: int) -> bool:
    """Collect an orphan that ended; say whether there was nothing else left of it."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return not os.path.exists(f"/proc/{pid}")


def _descriptors() -> set[str]:
    found = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{number} -> {os.readlink(f'/proc/self/fd/{number}')}")
        except OSError:  # the descriptor of the listing itself
            continue
    return found


@pytest.fixture
def leaks(request: pytest.FixtureRequest, tmp_path: Path, servers: Servers | None) -> Iterator[Host]:
    """Fail the test if, 5 seconds after it, the host holds anything that it did not hold before.

    The test has to delete what it made: this looks before the other fixtures clean up. Ask for it last.
    """
    known = ("pysandbox", "runtime", "runc", "microvm", "either")
    names = [name for name in known if name in request.fixturenames]
    runtimes = list({id(found): found for found in map(request.getfixturevalue, names)}.values())
    host = Host(tmp_path, runtimes, servers)
    before = host.look()
    yield host

    def new() -> dict[str, list[str]]:
        after = host.look()
        return {kind: sorted(after[kind] - before[kind]) for kind in after if after[kind] - before[kind]}

    try:
        eventually(lambda: not new(), "the host is as it was", seconds=5)
    except AssertionError:
        pytest.fail(f"left behind: {json.dumps(new(), indent=1)}")


# -- the repository ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def repository() -> Path:
    """The top of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def tracked_files() -> list[Path]:
    """All files that git knows and that exist, or would know (new and not ignored)."""
    listed = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    return [REPOSITORY / name for name in listed.stdout.split("\0") if name and (REPOSITORY / name).is_file()]
