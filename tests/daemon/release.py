"""Releases of containerd: the machine's own, and those of other Debian suites, each unpacked into a directory of its own.

Packages come by apt, from the mirror that this machine's apt has (DEBIAN_MIRROR in the environment is another), with
lists and cache of their own: nothing of the machine's is touched. They are kept outside of the tree under a digest of
the package.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

#: The suites that the tests ask for, beside what the machine has.
SUITES = ("trixie", "testing")
_CONFIGURATION = """\
Dir::State "{place}/state";
Dir::State::status "/dev/null";
Dir::Cache "{place}/cache";
Dir::Etc::sourcelist "{place}/suite.sources";
Dir::Etc::sourceparts "/dev/null";
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::Retries "2";
"""
_SOURCES = """\
Types: deb
URIs: {mirror}
Suites: {suite}
Components: main
Targets: Packages
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
"""
#: Seconds for one command of apt's.
_LIMIT = 300


class Unavailable(Exception):
    """A release that cannot be had here; says why."""


@dataclass(frozen=True)
class Release:
    """One containerd. `directory` has `containerd`, `ctr` and `containerd-shim-runc-v2`."""

    directory: Path
    version: tuple[int, ...]

    @property
    def containerd(self) -> Path:
        return self.directory / "containerd"

    @property
    def ctr(self) -> Path:
        return self.directory / "ctr"


def installed() -> Release:
    """Return the machine's own. Raises Unavailable."""
    program = shutil.which("containerd")
    if program is None:
        raise Unavailable("no containerd is installed")
    return _release(Path(program).parent)


def of_suite(suite: str) -> Release:
    """Return that of a Debian suite, downloading it if the cache has none. Raises Unavailable."""
    cache = _cache()
    link = cache / f"containerd-{suite}"
    if not (link / "usr/bin/containerd").exists():
        try:
            with tempfile.TemporaryDirectory(prefix="psb-apt-") as place:
                _unpack(_download(suite, Path(place)), cache, link)
        except OSError as error:
            raise Unavailable(f"containerd of Debian {suite}: {error}") from error
    return _release(link.resolve() / "usr/bin")


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "pysandbox"


def _release(directory: Path) -> Release:
    """Ask a containerd for its version: `containerd NAME 1.7.24~ds1 …`."""
    line = _output([str(directory / "containerd"), "--version"], os.environ)
    number = line.split()[2].partition("~")[0].partition("+")[0].lstrip("v")
    return Release(directory, tuple(int(part) for part in number.split(".")))


def _download(suite: str, place: Path) -> Path:
    """Have apt fetch the package, whose signature it checks, and return its path."""
    for name in ("state/lists/partial", "cache/archives/partial", "package"):
        (place / name).mkdir(parents=True)
    (place / "suite.sources").write_text(_SOURCES.format(mirror=_mirror(), suite=suite))
    (place / "apt.conf").write_text(_CONFIGURATION.format(place=place))
    environment = {**os.environ, "APT_CONFIG": str(place / "apt.conf")}
    _output(["apt-get", "--quiet", "--error-on=any", "update"], environment)
    _output(["apt-get", "--quiet", "download", "containerd"], environment, place / "package")
    return next((place / "package").glob("*.deb"))


def _mirror() -> str:
    """Return the address that the machine's apt has Debian from."""
    if mirror := os.environ.get("DEBIAN_MIRROR"):
        return mirror
    words = ["--format", "$(REPO_URI)", "Origin: Debian", "Label: Debian", "Component: main", "Created-By: Packages"]
    addresses = _output(["apt-get", "indextargets", *words], os.environ).split()
    if not addresses:
        raise Unavailable("apt knows no mirror of Debian here; set DEBIAN_MIRROR")
    return addresses[0]


def _unpack(package: Path, cache: Path, link: Path) -> None:
    """Unpack a package under its digest, whole or not at all, and have the suite's link lead there."""
    digest = hashlib.sha256(package.read_bytes()).hexdigest()[:16]
    root = cache / f"containerd-{digest}"
    cache.mkdir(parents=True, exist_ok=True)
    if not root.exists():
        unfinished = Path(tempfile.mkdtemp(prefix="containerd-unfinished-", dir=cache))
        _output(["dpkg-deb", "-x", str(package), str(unfinished)], os.environ)
        unfinished.rename(root)
    fresh = link.with_name(f".{link.name}.{os.getpid()}")
    fresh.symlink_to(root.name)
    fresh.rename(link)


def _output(command: list[str], environment: os._Environ[str] | dict[str, str], cwd: Path | None = None) -> str:
    """Run a command and return what it prints. Raises Unavailable."""
    try:
        done = subprocess.run(
            command, env=dict(environment), cwd=cwd, capture_output=True, text=True, timeout=_LIMIT, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{command[0]}: {error}") from error
    if done.returncode != 0:
        raise Unavailable(f"{' '.join(command)}: {' '.join(done.stderr.split())[:400]}")
    return done.stdout
