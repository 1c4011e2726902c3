"""A program of another Debian release, in a root directory of its own with all that it needs.

Packages come by apt as in `daemon.release`: from the machine's mirror, with lists and cache of their own; nothing is
installed. They are kept outside of the tree, under a digest of the packages.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from pathlib import Path

from daemon.release import _CONFIGURATION, _SOURCES, Unavailable, _cache, _mirror, _output

SUITES = ("trixie", "testing")
#: The machine's own, and those of the suites.
RELEASES = ("installed", *SUITES)


def root_of(suite: str, package: str, program: str) -> Path:
    """Return the root directory with a suite's package, downloading it if the cache has none. Raises Unavailable."""
    cache = _cache()
    link = cache / f"{package}-root-{suite}"
    if not Path(f"{link}{program}").exists():
        try:
            with tempfile.TemporaryDirectory(prefix="psb-apt-") as place:
                _unpack(_download(suite, package, Path(place)), package, cache, link)
        except OSError as error:
            raise Unavailable(f"{package} of Debian {suite}: {error}") from error
    return link.resolve()


def _download(suite: str, package: str, place: Path) -> list[Path]:
    """Have apt fetch the package with all that it depends on, as on a machine that has nothing; return the paths."""
    for name in ("state/lists/partial", "cache/archives/partial"):
        (place / name).mkdir(parents=True)
    (place / "suite.sources").write_text(_SOURCES.format(mirror=_mirror(), suite=suite))
    (place / "apt.conf").write_text(_CONFIGURATION.format(place=place))
    environment = {**os.environ, "APT_CONFIG": str(place / "apt.conf")}
    _output(["apt-get", "--quiet", "--error-on=any", "update"], environment)
    words = ["--quiet", "--yes", "--no-install-recommends", "--download-only", "install", package]
    _output(["apt-get", *words], environment)
    return sorted((place / "cache/archives").glob("*.deb"))


def _unpack(packages: list[Path], name: str, cache: Path, link: Path) -> None:
    """Unpack packages into one root under their digest, whole or not at all, and have the suite's link lead there."""
    digest = hashlib.sha256(b"".join(package.read_bytes() for package in packages)).hexdigest()[:16]
    root = cache / f"{name}-{digest}"
    cache.mkdir(parents=True, exist_ok=True)
    if not root.exists():
        unfinished = Path(tempfile.mkdtemp(prefix=f"{name}-unfinished-", dir=cache))
        unfinished.chmod(0o755)
        for directory in ("lib", "lib64", "bin", "sbin"):
            (unfinished / "usr" / directory).mkdir(parents=True)
            (unfinished / directory).symlink_to(f"usr/{directory}")
        for package in packages:
            _unpack_one(package, unfinished)
        unfinished.rename(root)
    fresh = link.with_name(f".{link.name}.{os.getpid()}")
    fresh.symlink_to(root.name)
    fresh.rename(link)


def _unpack_one(package: Path, root: Path) -> None:
    """Unpack by tar, which goes through the links of a merged /usr where `dpkg-deb -x` would replace them."""
    archive = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE)
    _output_of(["tar", "-x", "-C", str(root), "--keep-directory-symlink", "--no-same-owner"], archive)


def _output_of(command: list[str], source: subprocess.Popen[bytes]) -> None:
    done = subprocess.run(command, stdin=source.stdout, check=False, capture_output=True, timeout=300)
    if source.wait(60) or done.returncode:
        raise Unavailable(f"{' '.join(command)}: {done.stderr.decode(errors='replace').strip()[-300:]}")
