"""What an ordinary run of the tests leaves to `make soak`: the same tests with other releases, and on more engines.

A machine under emulation takes seconds to do what takes milliseconds on the host, so each of these costs minutes.
"""

from __future__ import annotations

import pytest

#: A file below tests/ → parameters whose tests are left out; none: the whole file is.
LEFT_OUT: dict[str, tuple[str, ...]] = {
    "integration/microvm/test_qemu_releases.py": (),
    "integration/microvm/test_sharing.py": ("trixie", "testing"),
    "integration/microvm/test_hostile_files.py": ("trixie", "testing"),
    **{
        f"integration/engines/test_{name}.py": ("podman microvm", "oci:runc")
        for name in ("exec", "leftovers", "limits", "namespaces", "run", "security", "stop", "terminal")
    },
    "integration/engines/test_network.py": ("oci:runc",),
}
WHY = (
    "tests with other releases of QEMU and virtiofsd, of podman with machines, of engines with runc behind us: "
    "make soak runs them (--all)"
)


def is_left_out(item: pytest.Item) -> bool:
    """Tell whether it is only for `--all`."""
    for path, parameters in LEFT_OUT.items():
        if item.path.as_posix().endswith(f"/tests/{path}"):
            return not parameters or any(parameter in item.name for parameter in parameters)
    return False
