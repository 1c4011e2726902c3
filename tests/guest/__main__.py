"""`python -m tests.guest [COMMAND]`: run the guest's tests, or one shell command, in the Debian machine."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.guest.image import build_image
from tests.guest.machine import run_in_guest

#: Seconds. Under emulation the whole run takes some ten minutes.
PATIENCE = 2400
TESTS = (
    "PYTHONPATH=runtime_api:backends python3 -m pytest -ra --color=no -p no:cacheprovider tests/contract"
    " tests/integration/test_cgroup.py tests/integration/test_cgroup_limits.py tests/integration/test_systemd.py"
    " tests/integration/test_apparmor.py tests/integration/test_user_namespace.py"
)


def main() -> int:
    """Build what is missing, boot, run, report."""
    command = " ".join(sys.argv[1:]) or TESTS
    return run_in_guest(build_image(), Path(__file__).parents[2], command, PATIENCE)


if __name__ == "__main__":
    sys.exit(main())
