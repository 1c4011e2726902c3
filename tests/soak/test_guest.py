"""What this kernel cannot show: full cgroup v2, systemd scopes, AppArmor. In a machine under QEMU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from precondition import requires


def test_the_tests_for_cgroup_v2_systemd_and_apparmor_pass_in_a_debian_machine(repository: Path) -> None:
    requires("root", "command mmdebstrap", "command qemu-system-x86_64", "command mke2fs")

    done = subprocess.run([sys.executable, "-m", "tests.guest"], cwd=repository, timeout=3600, check=False)

    assert done.returncode == 0
