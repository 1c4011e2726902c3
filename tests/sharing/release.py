"""The virtiofsd of other Debian releases, each in a root directory of its own with the libraries that it needs.

Packages come by apt as in `daemon.release`: from the machine's mirror, with lists and cache of their own.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

import pytest
from daemon.release import _CONFIGURATION, _SOURCES, Unavailable, _cache, _mirror, _output

from pysandbox.errors import SandboxError
from pysandbox_microvm import virtiofsd

SUITES = ("trixie", "testing")
#: The machine's own, and those of the suites.
RELEASES = ("installed", *SUITES)
_PACKAGES = ("virtiofsd", "libc6", "libcap-ng0", "libgcc-s1", "libseccomp2")


def server_of(release: str) -> virtiofsd.Server:
    """Return a release's file server; skip the test where it is not to be had."""
    try:
        return virtiofsd.find_server() if release == "installed" else virtiofsd.find_server(root=str(root_of(release)))
    except (Unavailable, SandboxError) as missing:
        pytest.skip(f"requires virtiofsd ({release}): {missing}")


def root_of(suite: str) -> Path:
    """Return the root directory with a suite's virtiofsd, downloading it if the cache has none. Raises Unavailable."""
    cache = _cache()
    link = cache / f"virtiofsd-{suite}"
    if not (link / "usr/libexec/virtiofsd").exists():
        try:
            with tempfile.TemporaryDirectory(prefix="psb-apt-") as place:
                _unpack(_download(suite, Path(place)), cache, link)
        except OSError as error:
            raise Unavailable(f"virtiofsd of Debian {suite}: {error}") from error
    return link.resolve()


def _download(suite: str, place: Path) -> list[Path]:
    """Have apt fetch the packages, whose signatures it checks, and return their paths."""
    for name in ("state/lists/partial", "cache/archives/partial", "package"):
        (place / name).mkdir(parents=True)
    (place / "suite.sources").write_text(_SOURCES.format(mirror=_mirror(), suite=suite))
    (place / "apt.conf").write_text(_CONFIGURATION.format(place=place))
    environment = {**os.environ, "APT_CONFIG": str(place / "apt.conf")}
    _output(["apt-get", "--quiet", "--error-on=any", "update"], environment)
    _output(["apt-get", "--quiet", "download", *_PACKAGES], environment, place / "package")
    return sorted((place / "package").glob("*.deb"))


def _unpack(packages: list[Path], cache: Path, link: Path) -> None:
    """Unpack packages into one root under their digest, whole or not at all, and have the suite's link lead there."""
    digest = hashlib.sha256(b"".join(package.read_bytes() for package in packages)).hexdigest()[:16]
    root = cache / f"virtiofsd-{digest}"
    cache.mkdir(parents=True, exist_ok=True)
    if not root.exists():
        unfinished = Path(tempfile.mkdtemp(prefix="virtiofsd-unfinished-", dir=cache))
        unfinished.chmod(0o755)
        for package in packages:
            _output(["dpkg-deb", "-x", str(package), str(unfinished)], os.environ)
        for name in ("lib", "lib64"):
            if not (unfinished / name).exists():
                (unfinished / name).symlink_to(f"usr/{name}")
        unfinished.rename(root)
    fresh = link.with_name(f".{link.name}.{os.getpid()}")
    fresh.symlink_to(root.name)
    fresh.rename(link)
