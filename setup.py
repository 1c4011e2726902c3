"""Put our programs and the guest kernel's configuration into the wheel. Everything else stands in pyproject.toml."""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.build_py import build_py

BUILT = Path("guest_agent/target/release")
NAMES = (
    "pysandbox-executor",
    "pysandbox-launcher",
    "pysandbox-agent",
    "pysandbox-proxy",
    "pysandbox-gauge",
    "pysandbox-probe",
)
PROGRAMS = [program for name in NAMES if (program := BUILT / name).exists()]
KERNEL = Path("images/kernel")


class BuildWithPrograms(build_py):
    """Copy the programs that `make setup` built. Without them the wheel holds the Python packages only."""

    def run(self) -> None:
        """Build the packages, then add the programs; an editable install finds them in guest_agent/ by itself."""
        super().run()
        if self.editable_mode:
            return
        libexec = Path(self.build_lib, "pysandbox/libexec")
        for program in PROGRAMS:
            self.mkpath(str(libexec))
            shutil.copy2(program, libexec / program.name)
            (libexec / program.name).chmod(0o755)
        shutil.copytree(KERNEL, Path(self.build_lib, "pysandbox_microvm/kernel_config"), dirs_exist_ok=True)


class LinuxDistribution(Distribution):
    """A wheel with an executable in it is for one machine architecture."""

    def has_ext_modules(self) -> bool:
        """Say whether there is an executable."""
        return bool(PROGRAMS)


setup(cmdclass={"build_py": BuildWithPrograms}, distclass=LinuxDistribution)
