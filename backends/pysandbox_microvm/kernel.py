"""Build the guest's kernel from the distribution's source package: configuration fragment in, stripped ELF file out.

`make allnoconfig` with `KCONFIG_ALLCONFIG` (Documentation/kbuild/kconfig.rst) turns everything off but the fragment;
`make vmlinux` builds; `strip` leaves what is loaded, and the PVH note by which QEMU enters. What takes the time is the
compiler: docs/images.md has figures.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
from collections import deque
from pathlib import Path

from pysandbox.errors import InvalidArgument, Unavailable
from pysandbox.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from typing import IO, Protocol

    class Progress(Protocol):
        """How a build tells what it does."""

        def step(self, text: str) -> None:
            """Tell that something begins."""

        def share(self, done: int, total: int) -> None:
            """Tell how much of it is done; `total` is an estimate."""


#: Where Debian's linux-source packages put their archives.
SOURCES = Path("/usr/src")
#: How a kernel is built; a number for whatever the key would not see.
RECIPE = 1
#: program → Debian package.
TOOLS = {
    "make": "make", "gcc": "gcc", "ld": "binutils", "strip": "binutils", "flex": "flex", "bison": "bison", "bc": "bc",
    "tar": "tar", "xz": "xz-utils", "perl": "perl",
}  # fmt: skip
#: header → Debian package. objtool, which the kernel's build builds for itself, reads ELF files with it.
HEADERS = {"gelf.h": "libelf-dev", "stdlib.h": "libc6-dev"}
#: Bytes that source and objects take at most.
SPACE = 1024 * 1024 * 1024
#: Lines that `make` prints for a kernel of our fragment: an estimate, for the progress only.
LINES = 1800
#: Lines of the build's log that may name the error.
_TAIL = 400
#: What no kernel of ours compiles: most of the archive, which need not be written. But each Kconfig is read.
_LEFT_OUT = (
    "*/arch/[a-w]*/*.[chS]", "*.dts", "*.dtsi", "*/Documentation/*.rst", "*/Documentation/*.yaml",
    "*/Documentation/*.txt",
    "*/sound/*.[ch]", "*/tools/perf", "*/tools/testing",
    *(f"*/drivers/{name}/*.[ch]" for name in (
        "gpu", "media", "infiniband", "staging", "scsi", "usb", "net/ethernet", "net/wireless", "iio", "hwmon", "mtd",
        "pinctrl", "clk", "video", "isdn", "crypto",
    )),
)  # fmt: skip
_ARCHIVE = re.compile(r"linux-source-(\d+(?:\.\d+)*)\.tar(?:\.xz)?")


@dataclass(frozen=True, slots=True)
class Source:
    """The archive of a source package, "linux-source-6.1" say, in the version that is installed."""

    package: str
    version: str
    archive: str


@dataclass(frozen=True, slots=True)
class Fragment:
    """The configuration: `required` is taken line for line or refused, of `optional` what this kernel knows."""

    required: str
    optional: str


def find_source(directory: Path = SOURCES) -> Source:
    """Return the newest kernel source that is installed. Raises Unavailable where there is none."""
    found = {tuple(map(int, match[1].split("."))): path
             for path in directory.glob("linux-source-*") if (match := _ARCHIVE.fullmatch(path.name))}  # fmt: skip
    if not found:
        raise Unavailable(f"no kernel source in {directory}; remedy: apt-get install linux-source")
    archive = found[max(found)]
    package = archive.name.partition(".tar")[0]
    return Source(package, _package_version(package) or f"{archive.stat().st_size}-bytes", str(archive))


def _package_version(package: str) -> str:
    """Return the version of an installed Debian package, nothing for what dpkg does not know."""
    with contextlib.suppress(FileNotFoundError):
        asked = ["dpkg-query", "-W", "-f", "${Version}", package]
        return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    return ""


def read_fragment() -> Fragment:
    """Return our configuration: from the installed package, else from this checkout."""
    package = Path(__file__).resolve().parent
    for directory in (package / "kernel_config", package.parent.parent / "images/kernel"):
        if directory.is_dir():
            names = ("fragment.config", "versions.config")
            required, optional = ((directory / name).read_text("utf-8") for name in names)
            return Fragment(required, optional)
    raise Unavailable(f"the kernel's configuration is not there: neither below {package} nor in images/kernel")


def compiler() -> str:
    """Say which compiler and linker would build."""
    return ", ".join(_first_line([program, "--version"]) for program in ("gcc", "ld"))


def _first_line(argv: Sequence[str]) -> str:
    output = subprocess.run(argv, capture_output=True, text=True, check=True, env=_environment()).stdout
    return output.partition("\n")[0].strip()


def missing() -> list[str]:
    """Return the Debian packages that a build lacks here."""
    packages = {package for program, package in TOOLS.items() if shutil.which(program) is None}
    if "gcc" not in packages:
        packages |= {package for header, package in HEADERS.items() if not _has_header(header)}
    return sorted(packages)


def _has_header(name: str) -> bool:
    argv = ["gcc", "-E", "-x", "c", "-o", "/dev/null", "-"]
    text = f"#include <{name}>\n"
    return subprocess.run(argv, input=text, text=True, capture_output=True, check=False).returncode == 0


def check_needs(directory: str) -> None:
    """Raise Unavailable, with the remedy, unless a kernel can be built in this directory."""
    if os.uname().machine != "x86_64":
        raise Unavailable(f"guest kernels are built on x86_64 only, not on {os.uname().machine}")
    if packages := missing():
        raise Unavailable(f"cannot build a kernel; remedy: apt-get install {' '.join(packages)}")
    free = shutil.disk_usage(directory).free
    if free < SPACE:
        raise Unavailable(
            f"{directory}: {free >> 20} MiB free, a kernel's build takes {SPACE >> 20} MiB; remedy: make room, or "
            "name another directory with --directory"
        )


# -- building ----------------------------------------------------------------------------------------------------------


def build(source: Source, fragment: Fragment, work: Path, jobs: int, progress: Progress) -> Path:
    """Build a kernel in the new directory `work`; return the directory of vmlinux, config and System.map.

    Raises Unavailable with the compiler's first error, InvalidArgument for a fragment that this kernel does not take.
    The whole output is in `work`/log.
    """
    tree, objects, result = work / "source", work / "objects", work / "kernel"
    for directory in (tree, objects, result):
        directory.mkdir()
    with (work / "log").open("ab") as log:
        progress.step(f"unpacking {source.package} ({source.version})")
        _run(_unpacking(source, tree), tree, log)
        progress.step("configuring")
        _configure(fragment, tree, objects, work, log)
        progress.step(f"compiling the kernel ({jobs} at a time)")
        with contextlib.closing(_lines([*_make(objects), f"-j{jobs}", "vmlinux"], tree, log)) as lines:
            for done, _ in enumerate(lines):
                progress.share(done, LINES)
        _run(["strip", "--strip-all", "-o", str(result / "vmlinux"), str(objects / "vmlinux")], tree, log)
    shutil.copy(objects / ".config", result / "config")
    shutil.copy(objects / "System.map", result / "System.map")
    return result


def _unpacking(source: Source, tree: Path) -> list[str]:
    left_out = [f"--exclude={pattern}" for pattern in _LEFT_OUT]
    decompress = ["--use-compress-program=xz -T0"] if source.archive.endswith(".xz") else []
    return ["tar", "-x", *decompress, "-f", source.archive, "--strip-components=1", *left_out, "-C", str(tree)]


def _configure(fragment: Fragment, tree: Path, objects: Path, work: Path, log: IO[bytes]) -> None:
    wanted = work / "wanted.config"
    wanted.write_text(f"{fragment.required}\n{fragment.optional}")
    _run([*_make(objects), f"KCONFIG_ALLCONFIG={wanted}", "allnoconfig"], tree, log)
    refused = not_taken(fragment.required, (objects / ".config").read_text())
    if refused:
        raise InvalidArgument(f"this kernel does not take {', '.join(refused)} of the configuration fragment")


def not_taken(fragment: str, config: str) -> list[str]:
    """Return the lines of a fragment that a resulting .config does not hold."""
    taken = set(config.splitlines())
    return [line for line in fragment.splitlines() if line.startswith("CONFIG_") and line not in taken]


def _make(objects: Path) -> list[str]:
    # In the kernel's own Makefile these stand for the building user, host and time: the same input, the same file.
    facts = {"TIMESTAMP": "Thu Jan  1 00:00:00 UTC 1970", "USER": "root", "HOST": "pysandbox", "VERSION": "1"}
    return ["make", f"O={objects}", *(f"KBUILD_BUILD_{name}={value}" for name, value in facts.items())]


# -- running programs --------------------------------------------------------------------------------------------------


def _environment() -> dict[str, str]:
    """Return the environment of a build: nothing of the caller's, such as MAKEFLAGS or a language, changes it."""
    return {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "HOME": "/"}


def _run(argv: Sequence[str], directory: Path, log: IO[bytes]) -> None:
    for _ in _lines(argv, directory, log):
        pass


def _lines(argv: Sequence[str], directory: Path, log: IO[bytes]) -> Generator[str]:
    """Run a program in a process group of its own and yield the lines it prints; end the group if we are ended."""
    last: deque[str] = deque(maxlen=_TAIL)
    process = subprocess.Popen(
        argv, cwd=directory, env=_environment(), process_group=0,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        for line in process.stdout:
            log.write(line)
            last.append(line.decode("utf-8", "replace").strip())
            yield last[-1]
    finally:
        _end(process)
    if process.returncode != 0:
        log.flush()
        raise Unavailable(f"{argv[0]} failed: {_reason(last) or f'exit code {process.returncode}'}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Reap a program that has closed its output, or end it with all that it started."""
    assert process.stdout is not None
    process.stdout.close()
    with contextlib.suppress(ProcessLookupError):
        if process.poll() is None and not _ends(process, 1):
            os.killpg(process.pid, signal.SIGTERM)
        if not _ends(process, 10):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _ends(process: subprocess.Popen[bytes], seconds: float) -> bool:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def _reason(lines: Sequence[str]) -> str:
    """Return the line that says why: the first that speaks of an error, else the last."""
    for line in lines:
        if re.search(r"\b(error|cannot|no space|killed)\b", line, re.IGNORECASE):
            return line
    return lines[-1] if lines else ""
