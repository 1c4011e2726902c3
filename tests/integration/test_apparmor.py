"""`process.apparmorProfile` on a kernel that has AppArmor, and on one that has none."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from precondition import requires

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runtime import MakeBundle, Runtime

PROFILE = """\
profile pysandbox-test flags=(attach_disconnected,mediate_deleted) {
  file,
  capability,
  signal,
  deny /forbidden w,
}
"""


@pytest.fixture
def profile(tmp_path: Path) -> Iterator[str]:
    """A loaded profile that forbids writing to /forbidden."""
    requires("root", "apparmor", "command apparmor_parser")
    file = tmp_path / "profile"
    file.write_text(PROFILE)
    subprocess.run(["apparmor_parser", "-r", str(file)], check=True)
    yield "pysandbox-test"
    subprocess.run(["apparmor_parser", "-R", str(file)], check=True)


def test_the_program_runs_under_the_profile(pysandbox: Runtime, make_bundle: MakeBundle, profile: str) -> None:
    program = ["sh", "-c", "cat /proc/self/attr/current; echo x > /allowed && ! echo x > /forbidden"]
    bundle = make_bundle(program, apparmorProfile=profile)
    output = pysandbox.ok("run", "--bundle", bundle, pysandbox.new_id())
    assert output.startswith(f"{profile} (enforce)")


def test_exec_runs_under_it_too(pysandbox: Runtime, make_bundle: MakeBundle, profile: str) -> None:
    container_id = pysandbox.run_detached(make_bundle(["sleep", "1000"], apparmorProfile=profile))
    assert pysandbox.ok("exec", container_id, "cat", "/proc/self/attr/current").startswith(profile)


def test_a_profile_that_is_not_loaded_is_refused(pysandbox: Runtime, make_bundle: MakeBundle, profile: str) -> None:
    bundle = make_bundle(["true"], apparmorProfile="no-such-profile-here")
    refused = pysandbox("run", "--bundle", bundle, pysandbox.new_id())
    assert refused.returncode == 1
    assert "apparmor" in refused.stderr.lower()


def test_a_kernel_without_apparmor_refuses_rather_than_runs_unconfined(
    pysandbox: Runtime, make_bundle: MakeBundle
) -> None:
    requires("root")
    if Path("/sys/module/apparmor").exists():
        pytest.skip("this kernel has AppArmor")
    bundle = make_bundle(["true"], apparmorProfile="docker-default")
    refused = pysandbox("run", "--bundle", bundle, pysandbox.new_id())
    assert refused.returncode == 1
    assert "process.apparmorProfile" in refused.stderr
