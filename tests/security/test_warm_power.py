"""No borrowed power: what a caller may not do itself, no fork of the server does for it.

Each attack is made twice. On the server as it is, which refuses: the caller gets what is its own. And on a server
without the line that refuses, which serves it: so the attack is one, and it is that line that stops it.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import confine
from harness.confine import call_server
from harness.installation import Change, Installation, descriptors, ended, eventually

from pysandbox.warm import proof
from pysandbox.warm.peer import Refused, Standing, check, standing

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="requires root")

WITHOUT = "    for name in POWERS:\n"


def without_power(*names: str) -> Change:
    """A server that does not compare some lines of /proc/PID/status."""
    return "warm/peer.py", WITHOUT, f"    for name in [name for name in POWERS if name.decode() not in {names}]:\n"


def without_namespace(kind: str) -> Change:
    """A server to which one kind of namespace does not matter."""
    return (
        "warm/peer.py",
        '        if its != ours:\n            raise Refused(f"it is in',
        f'        if its != ours and kind != {kind!r}:\n            raise Refused(f"it is in',
    )


ROOT: Change = (
    "warm/peer.py",
    'if caller.joined["mnt"] == own.joined["mnt"] and caller.root != own.root',
    'if caller.joined["mnt"] == own.joined["mnt"] and caller.root[:0] != own.root[:0]',
)
ROOT_OF_NAMESPACE: Change = ("warm/spare.py", 'if "mnt" in kinds and', 'if "mnt" in () and')
SECCOMP: Change = ("warm/peer.py", 'if caller.powers[b"Seccomp"] != b"0"', 'if caller.powers[b"Seccomp"] == b"x"')
SECUREBITS: Change = ("warm/spare.py", "if request.securebits != 0", "if request.securebits < 0")
PROOF: Change = ("warm/spare.py", "            proof.check(request.proof, self._power)\n", "")
CONFIRM: Change = ("warm/spare.py", "            who.confirm(their, self._proc)\n", "")


@pytest.fixture(scope="module")
def guarded() -> Iterator[Installation]:
    """An installation with its server, as it is."""
    installation = Installation()
    yield installation.serve()
    installation.remove()


@pytest.fixture
def unguarded() -> Iterator[Callable[..., Installation]]:
    """Make installations whose server lacks lines."""
    made: list[Installation] = []

    def make(*changes: Change, private: bool = False) -> Installation:
        made.append(Installation(*changes))
        return made[-1].serve_privately() if private else made[-1].serve()

    yield make
    for installation in made:
        installation.remove()


@pytest.fixture
def forbidden(place: Path) -> Path:
    """A directory of another user's, where root can make files by CAP_DAC_OVERRIDE only."""
    directory = place / "forbidden"
    directory.mkdir(mode=0o700)
    os.chown(directory, 65534, 65534)
    return directory


# -- callers that speak for themselves ---------------------------------------------------------------------------------

ATTACKS: dict[str, tuple[list[list[str]], list[Change], str]] = {
    "effective": ([["effective"]], [without_power("CapEff")], "CapEff differs"),
    "permitted": ([["permitted"]], [without_power("CapPrm", "CapEff")], "CapPrm differs"),
    "ambient": ([["ambient"]], [without_power("CapInh", "CapAmb")], "CapInh differs"),
    "bounding": ([["bounding"]], [without_power("CapBnd")], "CapBnd differs"),
    "inheritable": ([["inheritable"]], [without_power("CapInh")], "CapInh differs"),
    "no_new_privs": ([["no_new_privileges"]], [without_power("NoNewPrivs")], "NoNewPrivs differs"),
    "seccomp": ([["seccomp"]], [without_power("Seccomp"), SECCOMP], "Seccomp differs"),
    "saved user": ([["saved_user"]], [without_power("Uid")], "Uid differs"),
    "user namespace": ([["user_namespace"]], [without_namespace("user"), PROOF], "another user namespace"),
    "pid namespace": ([["pid_namespace"]], [without_namespace("pid")], "another pid namespace"),
    "time namespace": ([["time_namespace"]], [without_namespace("time")], "another time namespace"),
    "root directory": ([["root_directory", "/tmp"]], [ROOT], "another root directory"),
    "root of a mount namespace": (
        [["mount_namespace"], ["root_directory", "/tmp"]],
        [ROOT_OF_NAMESPACE],
        "another root directory than its mount namespace",
    ),
    "Landlock": ([["landlock"]], [PROOF], "no proof"),
}  # fmt: skip


def seen_from(steps: list[list[str]], socket: Path) -> Path:
    """The socket's path after a change of the root directory to /tmp."""
    return Path("/", socket.relative_to("/tmp")) if ["root_directory", "/tmp"] in steps else socket


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_caller_with_less_power_is_refused(guarded: Installation, attack: str, forbidden: Path) -> None:
    steps, _, reason = ATTACKS[attack]

    with guarded.counted() as count:
        answers = call_server(seen_from(steps, guarded.socket), ["spec", "--bundle", str(forbidden)], before=steps)

    assert list(answers[0]) == ["cold"], answers
    assert reason in answers[0]["cold"]
    assert count["served"] == 0
    assert os.listdir(forbidden) == []


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_caller_with_less_power_is_served_without_the_line_that_refuses_it(
    unguarded: Callable[..., Installation], attack: str, place: Path
) -> None:
    steps, changes, _ = ATTACKS[attack]
    installation = unguarded(*changes)

    answers = call_server(seen_from(steps, installation.socket), ["--version"], before=steps)

    assert answers == [{"serving": True}, {"exit": 0}]


@pytest.mark.parametrize(("steps", "change"), [("effective", without_power("CapEff")), ("landlock", PROOF)])
def test_power_would_be_borrowed(
    unguarded: Callable[..., Installation], forbidden: Path, steps: str, change: Change
) -> None:
    """What the missing line would cost: a file where the caller itself could make none."""
    installation = unguarded(change)

    answers = call_server(installation.socket, ["spec", "--bundle", str(forbidden)], before=[[steps]])

    assert answers == [{"serving": True}, {"exit": 0}]
    assert os.listdir(forbidden) == ["config.json"]


# -- who is asked about, and when --------------------------------------------------------------------------------------


def test_a_thread_with_less_power_than_its_process_is_refused(guarded: Installation) -> None:
    """/proc/PID shows the first thread. The launcher has one."""
    answers = call_server(guarded.socket, ["--version"], before=[["permitted"]], thread=True)

    assert answers == [{"cold": "Threads differs from the server's"}]


def test_a_thread_would_be_taken_for_its_process(unguarded: Callable[..., Installation]) -> None:
    installation = unguarded(without_power("Threads"))

    answers = call_server(installation.socket, ["--version"], before=[["permitted"]], thread=True)

    assert answers == [{"serving": True}, {"exit": 0}]


def test_power_that_is_lost_between_connecting_and_asking_is_lost(guarded: Installation) -> None:
    answers = call_server(guarded.socket, ["--version"], after=[["permitted"]])

    assert answers == [{"cold": "it has changed since it called"}]


def test_power_that_is_lost_after_connecting_would_be_kept(unguarded: Callable[..., Installation]) -> None:
    installation = unguarded(CONFIRM)

    answers = call_server(installation.socket, ["--version"], after=[["permitted"]])

    assert answers == [{"serving": True}, {"exit": 0}]


def test_a_connection_of_a_process_that_has_ended_is_nobodys(guarded: Installation) -> None:
    """Its pid may be another's by now: what /proc says is not about whoever holds the connection."""
    answers = call_server(guarded.socket, ["--version"], pass_on="and end", confined=[])

    assert list(answers[0]) == ["cold"], answers
    assert "ended" in answers[0]["cold"] or "cannot tell" in answers[0]["cold"]


def test_a_connection_that_a_confined_process_was_given_proves_nothing(guarded: Installation) -> None:
    answers = call_server(guarded.socket, ["--version"], pass_on="and wait", confined=[["landlock"]])

    assert answers == [{"cold": "it has no proof of power over the server"}]


@pytest.mark.parametrize("what", ["/dev/null", "/", "/proc/self/status"])
def test_a_descriptor_of_something_else_is_no_proof(guarded: Installation, what: str) -> None:
    answers = call_server(guarded.socket, ["--version"], proof=what)

    assert answers == [{"cold": "it has no proof of power over the server"}]


def test_the_proof_of_another_server_is_no_proof(guarded: Installation, unguarded: Callable[..., Installation]) -> None:
    other = unguarded()

    answers = call_server(guarded.socket, ["--version"], proof=f"/proc/{other.server}/fd/{proof.NUMBER}")

    assert answers == [{"cold": "it has no proof of power over the server"}]


def test_only_the_server_holds_the_proof(guarded: Installation) -> None:
    found = guarded.settled()

    assert proof.NUMBER in descriptors(found["pid"])
    for spare in found["spares"]:
        assert not [target for target in descriptors(spare).values() if "proof" in target]


@pytest.mark.parametrize("change", [(), (ROOT,)], ids=["guarded", "unguarded"])
def test_a_root_directory_that_is_called_like_the_servers_is_another(
    unguarded: Callable[..., Installation], change: tuple[Change, ...]
) -> None:
    """In the server's own mount namespace, on a mount that covers its root. The path in /proc is `/`."""
    installation = unguarded(*change, private=True)

    answers = call_server(
        installation.socket, ["--version"], before=[["enter_mounts", str(installation.server)], ["covered_root"]]
    )

    assert answers == [{"serving": True}, {"exit": 0}] if change else [{"cold": "it has another root directory"}]


# -- security labels: there is no security module here, so /proc is what the test says it is ---------------------------


def standing_of(label: bytes) -> Standing:
    """What this process has, with another security label."""
    directory = os.open("/proc", os.O_PATH)
    try:
        own = standing(os.getpid(), directory)
    finally:
        os.close(directory)
    fields = {name: getattr(own, name) for name in Standing.__slots__}
    powers = {**own.powers, b"Seccomp": b"0"}
    return Standing(**{**fields, "powers": powers, "label": label})


@pytest.mark.parametrize("label", [b"container_t\n", b"", b"docker-default (enforce)\n", b"unconfined"])
def test_a_caller_with_another_security_label_is_refused(label: bytes) -> None:
    own = standing_of(b"unconfined\n")

    check(own, own)
    with pytest.raises(Refused, match="security label"):
        check(standing_of(label), own)


# -- launchers: the command is done, with what is the caller's own -----------------------------------------------------


def untimed(text: str) -> str:
    """A log line without its time."""
    return re.sub(r'time="[^"]*"', "", text)


CONFINED = {
    "bounding": [["bounding"]],
    "ambient": [["ambient"]],
    "no root by uid": [["ambient"], ["noroot"]],
    "no_new_privs": [["no_new_privileges"]],
    "seccomp": [["seccomp"]],
    "user namespace": [["user_namespace"]],
    "root of a mount namespace": [["bound_root"]],
    "Landlock": [["landlock"]],
}


@pytest.mark.parametrize("how", CONFINED)
def test_a_confined_launcher_does_what_the_cold_command_does(guarded: Installation, forbidden: Path, how: str) -> None:
    """It writes where CAP_DAC_OVERRIDE, mkdir(2) or making files is needed; whatever comes of it comes of both."""

    def confined() -> None:
        confine.confine(CONFINED[how])

    words = ["spec", "--bundle", str(forbidden)]
    before = guarded.settled()["served"]
    warm = guarded.call(*words, preexec_fn=confined)
    made = os.listdir(forbidden)
    for name in made:
        (forbidden / name).unlink()
    cold = guarded.call_cold(*words, preexec_fn=confined)

    assert (warm.code, warm.out, made) == (cold.code, cold.out, os.listdir(forbidden))
    assert untimed(warm.err) == untimed(cold.err)
    assert guarded.settled()["served"] == before


def test_securebits_send_a_caller_cold(guarded: Installation) -> None:
    """They do not show in /proc. The launcher tells; one that lies has all its capabilities as long as it can lie."""
    answers = call_server(guarded.socket, ["--version"], request={"securebits": 1})

    assert answers == [{"cold": "its securebits are not the server's"}]


def test_an_unconfined_launcher_is_served(guarded: Installation, place: Path) -> None:
    """Or all of the above would prove nothing."""
    with guarded.counted() as count:
        answer = guarded.call("spec", "--bundle", str(place))

    assert answer.code == 0
    assert count == {"served": 1, "refused": []}


@pytest.mark.parametrize("how", ["permitted", "no_new_privileges", "ambient"])
def test_a_server_that_was_started_by_somebody_confined_makes_room(how: str) -> None:
    """Else everybody would run cold for as long as somebody calls."""
    installation = Installation()
    try:
        installation.serve(preexec_fn=lambda: confine.confine([["bounding"] if how == "permitted" else [how]]))
        first = installation.server

        answer = installation.call("--version")

        assert answer.code == 0
        eventually(lambda: ended(first), "the server of the confined one ends")
        installation.serve()
        with installation.counted() as count:
            installation.call("--version")
        assert count["served"] == 1
    finally:
        installation.remove()


@pytest.mark.parametrize("name", ATTACKS)
def test_nobody_with_less_power_ends_the_server(guarded: Installation, name: str) -> None:
    steps = ATTACKS[name][0]
    before = guarded.settled()["pid"]

    call_server(seen_from(steps, guarded.socket), ["--version"], before=steps)

    assert guarded.settled()["pid"] == before


# -- those who are not root --------------------------------------------------------------------------------------------


def test_another_user_cannot_reach_the_server(guarded: Installation) -> None:
    def become() -> None:
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)

    for path in (guarded.directory, guarded.socket, guarded.directory / f"{guarded.key}.control", guarded.lock):
        status = path.stat()
        assert (status.st_uid, status.st_mode & 0o077) == (0, 0), path
    with guarded.counted_nothing():
        warm = guarded.call("--version", preexec_fn=become)
        reach = subprocess.run(["ls", guarded.directory], preexec_fn=become, capture_output=True, check=False)

    assert warm.code == 0
    assert b"Permission denied" in reach.stderr
