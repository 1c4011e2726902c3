"""No descriptor of the host reaches a container, and closed or odd ones do no harm (CVE-2024-21626)."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from harness.bundle import Bundle
from harness.host import CONTENT, Canary, descriptor_of
from harness.runtime import Runtime


def assert_stdio_only(listing: str) -> None:
    """`ls -l /proc/self/fd` shows 0, 1 and 2, pipes of the test; its own descriptor is gone when it looks."""
    shown = [line.split()[-3:] for line in listing.splitlines() if "->" in line]
    assert [number for number, _, _ in shown] == ["0", "1", "2"], listing
    assert all(target.startswith(("pipe:[", "/dev/null")) for _, _, target in shown), listing


def test_init_gets_its_stdio_and_nothing_else(runtime: Runtime, bundle: Bundle, canary: Canary) -> None:
    with descriptor_of(canary.path) as leaked:
        answer = runtime.run(bundle.runs("/bin/ls", "-l", "/proc/self/fd"), pass_fds=[leaked])

    assert answer.code == 0, answer
    assert_stdio_only(answer.out)


def test_exec_gets_its_stdio_and_nothing_else(runtime: Runtime, bundle: Bundle, canary: Canary) -> None:
    with runtime.running(bundle.runs("/bin/sleep", "1000")) as container, descriptor_of(canary.path) as leaked:
        answer = runtime.exec(container, "/bin/ls", "-l", "/proc/self/fd", pass_fds=[leaked])

    assert answer.code == 0, answer
    assert_stdio_only(answer.out)


def test_init_that_waits_for_start_holds_nothing_of_the_host(runtime: Runtime, bundle: Bundle, canary: Canary) -> None:
    """From outside: what the created process has open, but its rootfs' own files, pipes, sockets and /dev/null."""
    with descriptor_of(canary.path) as leaked:
        container, created = runtime.create(bundle, pass_fds=[leaked])
    assert created.code == 0, created
    pid = runtime.state(container)["pid"]

    targets = [os.readlink(f"/proc/{pid}/fd/{number}") for number in os.listdir(f"/proc/{pid}/fd")]

    assert not [target for target in targets if os.fspath(canary.path) in target], targets


def test_preserved_descriptors_are_exactly_those_asked_for(runtime: Runtime, bundle: Bundle, place: Path) -> None:
    (place / "given").write_text("given")
    (place / "withheld").write_text("withheld")
    number = os.open(place / "given", os.O_RDONLY)
    other = os.open(place / "withheld", os.O_RDONLY)
    try:
        bundle.script("cat <&3; cat <&4")
        shell = (
            f'exec 3<&{number} 4<&{other} {number}<&- {other}<&-; exec "$@"' if min(number, other) > 4 else 'exec "$@"'
        )
        answer = runtime.run(
            bundle, "--preserve-fds", "1", pass_fds=[number, other], prefix=["bash", "-c", shell, "sh"]
        )
    finally:
        os.close(number)
        os.close(other)

    assert "given" in answer.out, answer
    assert "withheld" not in answer.out


@pytest.mark.parametrize("count", ["-1", "x", "1.5", "4294967296", "99999999999999999999"])
def test_an_impossible_number_of_descriptors_is_refused(runtime: Runtime, bundle: Bundle, count: str) -> None:
    answer = runtime.run(bundle, "--preserve-fds", count, limit=20)

    assert answer.refused, answer
    assert "Traceback" not in answer.err


def test_more_descriptors_than_are_open_are_refused_in_one_line(runtime: Runtime, bundle: Bundle) -> None:
    answer = runtime.run(bundle, "--preserve-fds", "7", limit=20)

    answer.assert_one_clear_line("preserve")


@pytest.mark.parametrize("closed", ["0", "1", "2", "012"])
def test_a_caller_with_closed_stdio_gives_the_container_no_file_of_the_host(
    runtime: Runtime, bundle: Bundle, canary: Canary, closed: str
) -> None:
    """With descriptor 1 closed, the first file that a careless runtime opens becomes the container's stdout."""
    (bundle.rootfs / "seen").touch()
    bundle.script(
        "echo overwritten 2>/dev/null; echo overwritten >&2 2>/dev/null; ls -l /proc/self/fd > /seen 2>/dev/null"
    )
    config = bundle.write() / "config.json"
    before = config.read_bytes()
    redirect = " ".join(f"{number}{'<' if number == '0' else '>'}&-" for number in closed)

    answer = subprocess.run(
        ["sh", "-c", f'exec "$@" {redirect}', "sh", *runtime.argv("run", "--bundle", os.fspath(bundle.path), runtime.new_id())],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, env=runtime.environment(), check=False,
    )  # fmt: skip

    assert "Traceback" not in answer.stderr
    assert config.read_bytes() == before
    seen = (bundle.rootfs / "seen").read_text()
    assert "config.json" not in seen
    assert os.fspath(runtime.root) not in seen
    assert CONTENT not in seen


CWDS = [*(f"/proc/self/fd/{number}" for number in range(3, 16)), "/proc/thread-self/fd/7", "/proc/self/fd/3/.."]


@pytest.mark.parametrize("cwd", CWDS)
def test_a_working_directory_is_never_a_descriptor_of_the_host(
    runtime: Runtime, bundle: Bundle, canary: Canary, cwd: str
) -> None:
    bundle.runs("/bin/sh", "-c", "ls; ls ..; ls ../..; ls ../../..")
    bundle.process["cwd"] = cwd

    with descriptor_of(canary.path) as leaked:
        answer = runtime.run(bundle, pass_fds=[leaked])

    assert answer.refused, answer
    assert "host-only" not in answer.out


def test_a_working_directory_behind_a_link_is_never_a_descriptor_of_the_host(
    runtime: Runtime, bundle: Bundle, canary: Canary
) -> None:
    with descriptor_of(canary.path) as leaked:
        for number in (*range(3, 12), leaked):
            link = bundle.rootfs / f"link{number}"
            link.symlink_to(f"/proc/self/fd/{number}")
            bundle.process["cwd"] = f"/{link.name}"
            answer = runtime.run(bundle.runs("/bin/ls", "."), pass_fds=[leaked])
            assert answer.refused, (number, answer)
            assert "host-only" not in answer.out


def test_a_working_directory_of_exec_is_never_a_descriptor_of_the_host(
    runtime: Runtime, bundle: Bundle, canary: Canary
) -> None:
    with runtime.running(bundle.runs("/bin/sleep", "1000")) as container, descriptor_of(canary.path) as leaked:
        for number in (*range(3, 12), leaked):
            answer = runtime.exec(
                container, "/bin/ls", ".", options=["--cwd", f"/proc/self/fd/{number}"], pass_fds=[leaked]
            )
            assert answer.code != 0, (number, answer)
            assert "host-only" not in answer.out
