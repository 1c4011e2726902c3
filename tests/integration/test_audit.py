"""`pysandbox audit` and `verify` on real containers: what is planted is found, and stops them.

Two containers show most of it: one as it should be, one with everything open. A probe whose weakness cannot be planted
on this machine (a device, a file, a part of the kernel that it has not) is named by
`test_most_verdicts_flip_where_everything_is_open`; that its verdict flips is shown by tests/unit/audit/test_judge.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import weakness
from precondition import requires
from runtime import eventually

from pysandbox.audit.audit import report
from pysandbox.audit.catalogue import COMPUTED, PROBES
from pysandbox.audit.context import read_host
from pysandbox.audit.lines import Reader
from pysandbox.audit.session import Observation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

REPOSITORY = Path(__file__).parent.parent.parent
PROBE = REPOSITORY / "guest_agent/target/release/pysandbox-probe"
#: No machine of the tests has fewer that can really be planted.
FLIPPED = 110


class Auditor:
    """Runs audit and verify with a state directory of its own."""

    def __init__(self, launcher: Path, directory: Path) -> None:
        self.launcher, self.directory, self.count = launcher, directory, 0

    def bundle(self, change: Callable[[dict[str, Any]], object] | None = None) -> Path:
        """Make a bundle of the strong spec with an empty root file system."""
        self.count += 1
        path = self.directory / f"bundle{self.count}"
        (path / "rootfs/tmp").mkdir(parents=True)
        spec = weakness.strong()
        if change is not None:
            change(spec)
        (path / "config.json").write_text(json.dumps(spec))
        return path

    def __call__(self, *words: str | Path, flags: tuple[str | Path, ...] = ()) -> subprocess.CompletedProcess[str]:
        argv = [self.launcher, "--root", self.directory / "root", *flags, *words]
        # The host's file that nobody may find is made below TMPDIR, which `open_everything` gives away.
        environment = {**os.environ, "PYSANDBOX_WARM": "off", "TMPDIR": "/tmp"}
        return subprocess.run(
            list(map(str, argv)), env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=200, check=False,
        )  # fmt: skip

    def audit(self, bundle: Path, *words: str, flags: tuple[str | Path, ...] = ()) -> dict[str, Any]:
        done = self("audit", "--json", *words, bundle, flags=flags)
        assert done.returncode == 0, done.stderr
        document: dict[str, Any] = json.loads(done.stdout)
        return document

    def left(self) -> list[str]:
        root = self.directory / "root"
        return [entry.name for entry in root.iterdir() if entry.name != ".evidence:"] if root.exists() else []


@pytest.fixture(scope="module")
def auditor(launcher: Path, tmp_path_factory: pytest.TempPathFactory) -> Auditor:
    requires("root")
    return Auditor(launcher, tmp_path_factory.mktemp("audit"))


def _verdicts(document: dict[str, Any]) -> dict[str, str]:
    return {finding["probe"]: finding["verdict"] for finding in document["findings"]}


@pytest.fixture(scope="module")
def strong(auditor: Auditor) -> dict[str, Any]:
    return auditor.audit(auditor.bundle())


@contextlib.contextmanager
def _listening() -> Iterator[None]:
    """Have sockets in the host's network namespace that a container of its own must not see."""
    with contextlib.ExitStack() as held:
        unix = held.enter_context(socket.socket(socket.AF_UNIX))
        unix.bind(f"\0pysandbox-test-{os.getpid()}")
        for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            with contextlib.suppress(OSError):  # no such family here
                tcp = held.enter_context(socket.socket(family))
                tcp.bind((address, 0))
                tcp.listen()
        yield


@pytest.fixture(scope="module")
def weak(auditor: Auditor) -> dict[str, Any]:
    with _listening():
        return auditor.audit(auditor.bundle(weakness.open_everything))


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the probe finds on this host without any sandbox, with a descriptor that it was not meant to have."""
    requires("root")
    place = tmp_path_factory.mktemp("place")
    (place / "canary").touch()
    with open("/etc/passwd", "rb") as leaked, _listening():
        done = subprocess.run(
            [PROBE, "--place", place, "--canary", place / "canary"], stdin=subprocess.DEVNULL,
            capture_output=True, timeout=200, check=True, pass_fds=[leaked.fileno()],
        )  # fmt: skip
    reader = Reader()
    reader.feed(done.stdout)
    assert reader.faults == []
    assert [entry.name for entry in place.iterdir()] == ["canary"]
    observation = Observation(facts=reader.facts, hows=reader.hows, changes=())
    return report(observation, weakness.strong(), read_host(), backend="host", bundle="").document()


def test_the_program_and_the_catalogue_know_the_same_probes() -> None:
    listed = json.loads(subprocess.run([PROBE, "--listed"], capture_output=True, timeout=10, check=True).stdout)

    assert sorted(listed) == sorted(
        name for name, probe in PROBES.items() if not probe.outside and name not in COMPUTED
    )


def test_each_finding_says_what_how_and_why(strong: dict[str, Any]) -> None:
    assert (strong["version"], strong["backend"]) == (1, "namespaces")
    assert strong["notes"] == []
    assert len(strong["findings"]) > 200
    for finding in strong["findings"]:
        assert finding.keys() == {"probe", "group", "how", "observed", "expected", "verdict", "why"}
        assert all(isinstance(text, str) and text for text in finding.values()), finding
    assert {name for name, verdict in _verdicts(strong).items() if verdict == "unknown"} <= {"host.load"}


def test_a_container_as_it_should_be_is_weak_only_where_it_shares_the_hosts_kernel(strong: dict[str, Any]) -> None:
    found = {name for name, verdict in _verdicts(strong).items() if verdict == "weak"}

    assert {name for name in found if not name.startswith("host.")} <= {"mounts.host_paths", "outside.init.uid"}


def test_most_verdicts_flip_where_everything_is_open(
    strong: dict[str, Any], weak: dict[str, Any], host: dict[str, Any]
) -> None:
    before, opened, bare = _verdicts(strong), _verdicts(weak), _verdicts(host)
    flipped = {name for name in before if before[name] == "ok" and "weak" in (opened[name], bare.get(name))}
    both = {name for name in before if before[name] == "weak"}
    print("not to be planted here:", sorted(before.keys() - flipped - both))

    assert len(flipped) >= FLIPPED, sorted(before.keys() - flipped)
    # Where this host itself is open, so is a container that nothing holds. Apart: what every container gets anew (/dev,
    # procfs, groups), what was done to the host's run alone, and what differs from one moment to the next.
    anew = {"file.dev_mem", "setting.binfmt_register", "user.groups"}
    closed = {name for name, verdict in bare.items() if verdict == "weak" and opened[name] == "ok"}
    assert closed <= {*anew, "descriptors.open", "capabilities.as_spec", "host.load"}


def test_runc_is_seen_as_the_namespaces_backend_is(auditor: Auditor, strong: dict[str, Any]) -> None:
    requires("command runc")
    theirs = _verdicts(auditor.audit(auditor.bundle(), "--backend", "oci:runc"))

    differing = {name for name, verdict in _verdicts(strong).items() if theirs[name] != verdict}

    # runc puts the hierarchies of cgroup version 1 on a tmpfs without a size; a load may change between two looks.
    assert differing <= {"limits.tmpfs", "host.load"}


def test_a_filter_that_kills_is_a_refusal(auditor: Auditor) -> None:
    def change(spec: dict[str, Any]) -> None:
        spec["linux"]["seccomp"]["defaultAction"] = "SCMP_ACT_KILL_PROCESS"

    found = {finding["probe"]: finding for finding in auditor.audit(auditor.bundle(change))["findings"]}

    assert (found["call.bpf"]["verdict"], found["call.bpf"]["observed"]) == ("ok", "killed by SIGSYS")


def test_a_filter_that_kills_the_probe_itself_is_no_observation(auditor: Auditor) -> None:
    def change(spec: dict[str, Any]) -> None:
        allowed = {"names": ["execve", "exit_group", "brk", "write", "arch_prctl"], "action": "SCMP_ACT_ALLOW"}
        spec["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_KILL_PROCESS", "syscalls": [allowed]}

    bundle = auditor.bundle(change)

    for words in (["audit", bundle], ["verify", "--policy", "container", bundle]):
        done = auditor(*words)
        assert (done.returncode, done.stdout) == (1, "")
        # It dies as it waits for its start, or at its first call after that.
        assert len(done.stderr.splitlines()) == 1
    assert auditor.left() == []


def test_nothing_is_left_behind(
    auditor: Auditor, strong: dict[str, Any], weak: dict[str, Any], host: dict[str, Any]
) -> None:
    assert auditor.left() == []
    mounts = Path("/proc/self/mountinfo").read_text()
    assert str(auditor.directory) not in mounts
    assert ".pysandbox-probe" not in mounts
    for bundle in auditor.directory.glob("bundle*"):
        # Mount points that any container of it gets, and nothing of the probe's.
        assert [str(path) for path in bundle.rglob("*pysandbox*")] == []


@pytest.mark.parametrize("name", weakness.PLANTS)
def test_a_planted_weakness_is_found_and_stops_verify(auditor: Auditor, tmp_path: Path, name: str) -> None:
    change, probe = weakness.PLANTS[name]
    evidence = tmp_path / "evidence.json"

    done = auditor("verify", "--policy", "container", "--evidence", evidence, auditor.bundle(change))

    assert done.returncode == 1, done.stderr
    assert f"{probe}: weak: " in done.stdout
    document = json.loads(evidence.read_text())
    assert document["passed"] is False
    assert probe in {failure["probe"] for failure in document["failures"]}
    assert _verdicts(document["audit"])[probe] == "weak"
    assert evidence.stat().st_mode & 0o777 == 0o600


def test_verify_passes_what_meets_the_policy(auditor: Auditor, tmp_path: Path) -> None:
    evidence = tmp_path / "evidence.json"

    done = auditor("verify", "--policy", "container", "--evidence", evidence, auditor.bundle())

    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads(evidence.read_text())
    assert (document["passed"], document["failures"]) == (True, [])


def test_a_container_is_no_machine(auditor: Auditor) -> None:
    done = auditor("verify", "--policy", "machine", auditor.bundle())

    assert done.returncode == 1
    assert "outside.qemu.seccomp: unknown: nothing (there is no such process)" in done.stdout


def test_a_bundle_that_cannot_run_is_one_line_and_another_exit_code(auditor: Auditor) -> None:
    bundle = auditor.bundle(lambda spec: spec["mounts"].clear())

    done = auditor("audit", "--json", bundle)

    assert done.returncode == 1
    assert done.stdout == ""
    assert "there is no writable tmpfs to put the probe on" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("words", [(), ("--policy", "nothing")])
def test_verify_without_a_policy_fails(auditor: Auditor, words: tuple[str, ...]) -> None:
    assert auditor("verify", *words, auditor.bundle()).returncode == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_audit_that_is_interrupted_leaves_nothing_behind(auditor: Auditor, number: int) -> None:
    bundle = auditor.bundle()
    argv = [str(auditor.launcher), "--root", str(auditor.directory / "root"), "audit", str(bundle)]
    process = subprocess.Popen(
        argv, env={**os.environ, "PYSANDBOX_WARM": "off"}, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    eventually(lambda: auditor.left() or process.poll() is not None, "there is a container", seconds=20)

    process.send_signal(number)

    assert process.wait(timeout=60) in (0, 130, -signal.SIGKILL)
    eventually(lambda: not auditor.left(), "nothing is left", seconds=20)


# -- the gate at create ------------------------------------------------------------------------------------------------


@pytest.fixture
def settings(tmp_path: Path) -> Callable[[str], Path]:
    def write(require: str) -> Path:
        path = tmp_path / "config.toml"
        path.write_text(f"require = {require}\n")
        path.chmod(0o600)
        return path

    return write


def _run(auditor: Auditor, bundle: Path, config: Path) -> subprocess.CompletedProcess[str]:
    return auditor("run", "--bundle", bundle, f"t{auditor.count}", flags=("--config", config))


def test_no_container_is_made_that_is_not_as_the_settings_require(
    auditor: Auditor, settings: Callable[[str], Path], busybox_rootfs: Path
) -> None:
    def change(spec: dict[str, Any]) -> None:
        spec["process"]["args"] = ["echo", "it ran"]
        spec["root"]["path"] = str(busybox_rootfs)

    good = auditor.bundle(change)
    bad = auditor.bundle(lambda spec: (change(spec), spec["linux"].pop("seccomp")))
    config = settings('["policy:container"]')

    made, refused, again = _run(auditor, good, config), _run(auditor, bad, config), _run(auditor, bad, config)

    assert (made.returncode, made.stdout) == (0, "it ran\n"), made.stderr
    for done in (refused, again):  # the second time by the evidence of the first
        assert (done.returncode, done.stdout) == (1, "")
        assert "config.toml: require: seccomp.mode is weak: 0" in done.stderr
    assert auditor.left() == []


def test_evidence_of_another_sandbox_or_one_that_cannot_be_read_does_not_count(
    auditor: Auditor, settings: Callable[[str], Path]
) -> None:
    config, kept = settings('["seccomp.mode"]'), auditor.directory / "root/.evidence:"
    bundle = auditor.bundle(lambda spec: spec["linux"].pop("seccomp"))
    before = set(kept.iterdir()) if kept.exists() else set()
    _run(auditor, bundle, config)
    (mine,) = set(kept.iterdir()) - before
    text = mine.read_text()

    for forged in ("", "{}", text.replace('"sandbox": "', '"sandbox": "0'), text.replace('"weak"', '"fine"')):
        mine.write_text(forged)
        done = _run(auditor, bundle, config)
        assert "require: seccomp.mode is weak" in done.stderr
    old = json.loads(text)
    old["at"] -= 7200
    for finding in old["findings"]:
        finding["verdict"] = "ok"
    mine.write_text(json.dumps(old))
    assert "require: seccomp.mode is weak" in _run(auditor, bundle, config).stderr
    # The proof that it is looked at: as fresh as it was, the same text counts.
    old["at"] += 7200
    mine.write_text(json.dumps(old))
    assert "require" not in _run(auditor, bundle, config).stderr


def test_a_requirement_that_nobody_knows_stops_every_container(
    auditor: Auditor, settings: Callable[[str], Path]
) -> None:
    done = _run(auditor, auditor.bundle(), settings('["seccomp.mod"]'))

    assert done.returncode == 1
    assert "no probe 'seccomp.mod': did you mean 'seccomp.mode'" in done.stderr


# -- machines ----------------------------------------------------------------------------------------------------------


def test_a_machine_knows_nothing_of_the_host_and_its_qemu_is_jailed(auditor: Auditor, settings_file: Path) -> None:
    document = auditor.audit(auditor.bundle(), "--backend", "microvm", flags=("--config", settings_file))
    found = {finding["probe"]: finding for finding in document["findings"]}

    assert document["machine"]["own_kernel"] is True
    for name, finding in found.items():
        if name.startswith(("host.", "outside.qemu.", "escape.", "setting.", "file.")):
            # Emulation isolates nothing, with KVM the processor is the host's, and a host may have no load.
            either = {"ok", "weak"}
            allowed = {
                "outside.qemu.accelerator": either,
                "host.processor": either,
                "host.load": {*either, "unknown"},
            }
            assert finding["verdict"] in allowed.get(name, {"ok"}), finding
    assert {"outside.sandbox.uid", "outside.virtiofsd.seccomp"} <= found.keys()
    assert auditor.left() == []


def test_a_weakness_that_is_planted_in_a_guest_is_found_there(auditor: Auditor, settings_file: Path) -> None:
    change, _ = weakness.PLANTS["a capability and no filter"]
    bundle = auditor.bundle(change)

    found = _verdicts(auditor.audit(bundle, "--backend", "microvm", flags=("--config", settings_file)))

    planted = ("seccomp.mode", "capabilities.effective", "mount.tmpfs", "mount.remount_proc_sys", "unshare.user")
    assert {name: found[name] for name in planted} == dict.fromkeys(planted, "weak")
    # QEMU's walls stand for themselves.
    assert found["outside.qemu.seccomp"] == found["outside.qemu.capabilities"] == "ok"
