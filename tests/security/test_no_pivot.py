"""Without pivot_root(2) the host's mounts stay beneath the container's root: none of them may be of use in there."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from harness.bundle import Bundle
from harness.runtime import Runtime

#: A user namespace may mount a procfs only where another one is fully visible: mount_too_revealing() in the kernel.
ATTACK = ["unshare", "-mrpf", "sh", "-c", "mount -t proc none /tmp && test -e /tmp/version && echo bare procfs"]


@pytest.fixture
def attacker(bundle: Bundle) -> Bundle:
    """A container whose root may make user namespaces, with the masks that hide parts of its own procfs."""
    (bundle.rootfs / "bin/unshare").symlink_to("busybox")
    for kind in ("bounding", "effective", "permitted"):
        bundle.process["capabilities"][kind].append("CAP_SETFCAP")
    return bundle.runs(*ATTACK)


def on_a_host_with(place: Path) -> list[str]:
    """What runs a command where one more procfs is mounted, in a mount namespace that ends with it."""
    place.mkdir()
    script = f'mount -t proc proc "{place}" && exec "$@"'
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh"]


def test_the_attack_works_where_a_procfs_is_visible(tmp_path: Path) -> None:
    done = subprocess.run(
        [*on_a_host_with(tmp_path / "proc"), "busybox", *ATTACK],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"requires a host with a visible procfs: {done.stderr.strip()}")

    assert done.stdout == "bare procfs\n"


@pytest.mark.parametrize("options", [[], ["--no-pivot"]], ids=["pivot", "no-pivot"])
def test_no_procfs_of_the_host_lets_a_container_mount_a_bare_one(
    runtime: Runtime, attacker: Bundle, place: Path, options: list[str]
) -> None:
    """Wherever the host has it: /proc is taken away by every runtime, another one has been overlooked."""
    answer = runtime.run(attacker, *options, prefix=on_a_host_with(place / "procfs"))

    assert answer.code != 0, answer
    assert "bare procfs" not in answer.out, answer
    assert "permission denied" in answer.err, answer
