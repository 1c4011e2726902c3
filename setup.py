"""Put the executor into the wheel. Everything else stands in pyproject.toml."""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.build_py import build_py

EXECUTOR = Path("guest_agent/target/release/pysandbox-executor")


class BuildWithExecutor(build_py):
    """Copy the executor that `make setup` built. Without one the wheel holds the Python packages only."""

    def run(self) -> None:
        """Build the packages, then add the executor; an editable install finds it in guest_agent/ by itself."""
        super().run()
        if EXECUTOR.exists() and not self.editable_mode:
            libexec = Path(self.build_lib, "pysandbox/libexec")
            self.mkpath(str(libexec))
            shutil.copy2(EXECUTOR, libexec / EXECUTOR.name)
            (libexec / EXECUTOR.name).chmod(0o755)


class LinuxDistribution(Distribution):
    """A wheel with an executable in it is for one machine architecture."""

    def has_ext_modules(self) -> bool:
        """Say whether there is an executable."""
        return EXECUTOR.exists()


setup(cmdclass={"build_py": BuildWithExecutor}, distclass=LinuxDistribution)
