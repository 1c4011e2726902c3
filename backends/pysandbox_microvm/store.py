"""The images on disk: build one, list them, remove old ones. `image.py` says where they lie, and finds them.

A build works in DIRECTORY/.build, beside what is there, and puts its results in place by renaming. One build at a time
holds the lock; what a killed one has left is removed by the next. The kernel and the initrd have keys of their own:
a changed agent costs as long as it takes to copy it, a changed configuration the time of a compiler.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import signal
import time
from pathlib import Path

from pysandbox.errors import InvalidArgument, SandboxError, Unavailable
from pysandbox.executor import program_path
from pysandbox.record import dataclass
from pysandbox_microvm import initrd, kernel
from pysandbox_microvm.image import (
    CURRENT,
    FORM,
    INITRD,
    KERNEL,
    MANIFEST,
    PROGRAMS,
    Image,
    check_directory,
    digest_of,
    directory_of,
    file_digest,
    fingerprint,
    images_directory,
    is_bootable,
    read_manifest,
    release_of,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from pysandbox_microvm.kernel import Progress

#: Seconds that a build waits for another's end: longer than one takes.
LOCK_LIMIT = 1800.0
#: Images, and kernels, that are kept: a machine that is being started may still open the one before the last, and who
#: goes back to the kernel before has not to wait for a compiler.
KEPT = 3
_KEY_LENGTH = 24
#: Directories of the initrd; the agent mounts onto most of them.
DIRECTORIES = ("dev", "proc", "run", "sbin", "sys", "tmp")
#: /dev until the agent has mounted devtmpfs: where its first words and its descriptors 0 to 2 go (devices.txt).
DEVICES = (("dev/console", 0o600, 5, 1), ("dev/null", 0o666, 1, 3))


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One image of the store, as a list shows it. `damaged` says why a machine would refuse it."""

    key: str
    current: bool
    release: str
    size: int
    built: float
    digest: str
    damaged: str = ""


class Store:
    """The images below one directory."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.directory = Path(directory_of(settings))
        self.images = Path(images_directory(settings))
        self.kernels = self.images.parent / "kernels"
        self._own_kernel = str(settings.get("kernel") or "")

    def build(self, progress: Progress, jobs: int = 0) -> Image:
        """Build what is not there yet, make it the current image, and return it.

        `jobs` compilers run at a time, 0: as many as this host has processors. Raises Unavailable for a missing piece
        of the host, with the remedy.
        """
        self._make_directories()
        with self._lock(progress), _terminated_as_interrupted():
            self._sweep()
            kernel_directory = self._kernel(progress, jobs)
            os.utime(kernel_directory)
            image = self._assemble(kernel_directory, progress)
            self._remove_old()
            return image

    def is_compiled(self) -> bool:
        """Say whether a build would find its kernel: without one it takes minutes."""
        if self._own_kernel:
            return True
        key = kernel_key(kernel.find_source(), kernel.read_fragment(), kernel.compiler())
        return _is_intact(self.kernels / key)

    def _make_directories(self) -> None:
        for path in (self.directory, self.images, self.kernels):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            check_directory(str(path))

    @contextlib.contextmanager
    def _lock(self, progress: Progress) -> Iterator[None]:
        """Hold the lock. Raises Unavailable when another build holds it for longer than one takes."""
        descriptor = os.open(self.images.parent / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            _wait_for_lock(descriptor, progress, self.images)
            yield
        finally:
            os.close(descriptor)

    @property
    def _work(self) -> Path:
        return self.images.parent / ".build"

    def _sweep(self) -> None:
        """Remove what a killed build has left. Under the lock none of it is in use."""
        shutil.rmtree(self._work, ignore_errors=True)

    # -- the kernel ----------------------------------------------------------------------------------------------------

    def _kernel(self, progress: Progress, jobs: int) -> Path:
        """Return the directory of the kernel, built now if it is not there: the settings' own, if they name one."""
        if self._own_kernel:
            progress.step(f"kernel: {self._own_kernel}, as the settings say")
            return self._take_in(self._own_kernel)
        source, fragment, compiler = kernel.find_source(), kernel.read_fragment(), kernel.compiler()
        directory = self.kernels / kernel_key(source, fragment, compiler)
        if _is_intact(directory):
            progress.step(f"kernel {source.package} ({source.version}): built before")
            return directory
        kernel.check_needs(str(self.images.parent))
        self._compile(source, fragment, directory, jobs or os.cpu_count() or 1, compiler, progress)
        return directory

    def _compile(
        self,
        source: kernel.Source,
        fragment: kernel.Fragment,
        directory: Path,
        jobs: int,
        compiler: str,
        progress: Progress,
    ) -> None:
        self._work.mkdir(mode=0o700)
        try:
            built = kernel.build(source, fragment, self._work, jobs, progress)
            path = str(built / KERNEL)
            facts = {"digest": file_digest(path), "release": release_of(path), "size": os.path.getsize(path)}
            facts |= {"source": f"{source.package} {source.version}", "compiler": compiler}
            _write_manifest(built, kernel=facts)
            _install(built, directory)
        except SandboxError:
            log = self.images.parent / "build.log"
            with contextlib.suppress(OSError):
                os.replace(self._work / "log", log)
            raise
        finally:
            self._sweep()

    def _take_in(self, path: str) -> Path:
        """Keep a copy of a kernel that was built elsewhere. Raises InvalidArgument for a file that is none."""
        if not is_bootable(path):
            raise InvalidArgument(f"{path}: is no ELF file with a PVH note (vmlinux, CONFIG_PVH)")
        digest = file_digest(path)
        directory = self.kernels / digest[:_KEY_LENGTH]
        if _is_intact(directory):
            return directory
        self._work.mkdir(mode=0o700)
        try:
            kept = self._work / "kernel"
            kept.mkdir(mode=0o700)
            shutil.copyfile(path, kept / KERNEL)
            facts = {"digest": digest, "release": release_of(path), "size": os.path.getsize(path), "source": path}
            _write_manifest(kept, kernel=facts)
            _install(kept, directory)
        finally:
            self._sweep()
        return directory

    # -- the image -----------------------------------------------------------------------------------------------------

    def _assemble(self, kernel_directory: Path, progress: Progress) -> Image:
        """Put kernel and initrd together, and make them the current image."""
        progress.step("initrd: the agent and the executor")
        seen = {name: fingerprint(program_path(name)) for name in PROGRAMS}
        programs = {name: Path(program_path(name)).read_bytes() for name in PROGRAMS}
        content = initrd.archive(entries(programs))
        facts: dict[str, Any] = {
            "digest": hashlib.sha256(content).hexdigest(),
            "size": len(content),
            "programs": {name: hashlib.sha256(program).hexdigest() for name, program in programs.items()},
            "installed": seen,
        }
        kernel_facts: dict[str, Any] = read_manifest(str(kernel_directory / MANIFEST))["kernel"]
        key = digest_of(kernel_facts["digest"], facts["digest"])[:_KEY_LENGTH]
        if not _is_intact(self.images / key):
            self._install_image(key, content, kernel_directory, {"kernel": kernel_facts, "initrd": facts})
        os.utime(self.images / key)
        self._make_current(key)
        return _image(self.images / key)

    def _install_image(self, key: str, content: bytes, kernel_directory: Path, facts: dict[str, Any]) -> None:
        self._work.mkdir(mode=0o700)
        try:
            image = self._work / "image"
            image.mkdir(mode=0o700)
            (image / INITRD).write_bytes(content)
            os.link(kernel_directory / KERNEL, image / KERNEL)
            _write_manifest(image, **facts)
            _install(image, self.images / key)
        finally:
            self._sweep()

    def _make_current(self, key: str) -> None:
        new = self.images / f".{CURRENT}"
        new.unlink(missing_ok=True)
        new.symlink_to(key)
        os.replace(new, self.images / CURRENT)

    def _remove_old(self) -> None:
        """Remove all but the images and kernels that were used last: a kernel longer than the images that have it."""
        for directory in (self.images, self.kernels):
            last_used = sorted(_entries(directory), key=lambda path: path.stat().st_mtime, reverse=True)
            for path in last_used[KEPT:]:
                shutil.rmtree(path, ignore_errors=True)

    # -- looking -------------------------------------------------------------------------------------------------------

    def list(self) -> list[Stored]:
        """Return the images, the newest first; each is read through and compared with its digests."""
        try:
            current = os.readlink(self.images / CURRENT)
        except OSError:
            current = ""
        stored = [_stored(path, current=path.name == current) for path in _entries(self.images)]
        return sorted(stored, key=lambda one: one.built, reverse=True)


def kernel_key(source: kernel.Source, fragment: kernel.Fragment, compiler: str) -> str:
    """Return what tells one kernel from another before it is built."""
    parts = (kernel.RECIPE, source.package, source.version, fragment.required, fragment.optional, compiler)
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:_KEY_LENGTH]


def entries(programs: Mapping[str, bytes]) -> Iterator[initrd.Entry]:
    """Yield what is in the initrd."""
    for path in DIRECTORIES:
        yield initrd.directory(path)
    for path, permissions, major, minor in DEVICES:
        yield initrd.character_device(path, permissions, major, minor)
    for name, content in programs.items():
        yield initrd.program(PROGRAMS[name], content)


# -- files -------------------------------------------------------------------------------------------------------------


def _entries(directory: Path) -> list[Path]:
    """Return the directories of kernels or images, without the link and what is being made."""
    try:
        return [path for path in directory.iterdir() if path.name.isalnum() and path.is_dir() and not path.is_symlink()]
    except OSError:
        return []


def _write_manifest(directory: Path, **parts: Any) -> None:
    document = {"form": FORM, "built": int(time.time()), **parts}
    (directory / MANIFEST).write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")


def _install(made: Path, place: Path) -> None:
    """Put a directory in its place, complete or not at all, even if the power goes."""
    for path in (*made.iterdir(), made):
        if path.is_file():
            path.chmod(0o444)  # QEMU has a user of its own, and opens what it is handed once more
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    made.chmod(0o700)
    shutil.rmtree(place, ignore_errors=True)  # there only if it is damaged
    os.rename(made, place)


def _image(directory: Path) -> Image:
    manifest = read_manifest(str(directory / MANIFEST))
    one, other = manifest["kernel"], manifest["initrd"]
    digest = digest_of(one["digest"], other["digest"])
    paths = (str(directory / KERNEL), str(directory / INITRD))
    return Image(*paths, digest, one["release"], one["digest"], other["digest"])


def _is_intact(directory: Path) -> bool:
    """Say whether what a manifest tells of is there, every byte of it."""
    try:
        manifest = read_manifest(str(directory / MANIFEST))
        for name, part in ((KERNEL, "kernel"), (INITRD, "initrd")):
            facts = manifest.get(part)
            if facts and file_digest(str(directory / name)) != facts["digest"]:
                return False
    except (SandboxError, OSError, KeyError, TypeError):
        return False
    return True


def _stored(directory: Path, *, current: bool) -> Stored:
    try:
        manifest = read_manifest(str(directory / MANIFEST))
        image = _image(directory)
        size = manifest["kernel"]["size"] + manifest["initrd"]["size"]
        damaged = "" if _is_intact(directory) else "its files are not what was built"
        return Stored(
            key=directory.name, current=current, release=image.release, size=size,
            built=float(manifest["built"]), digest=image.digest, damaged=damaged,
        )  # fmt: skip
    except (SandboxError, OSError, KeyError, TypeError, ValueError) as error:
        return Stored(key=directory.name, current=current, release="", size=0, built=0.0, digest="", damaged=str(error))


# -- one at a time, and interruptible ----------------------------------------------------------------------------------


def _wait_for_lock(descriptor: int, progress: Progress, images: Path) -> None:
    deadline = time.monotonic() + LOCK_LIMIT
    told = False
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise Unavailable(f"{images}: another build has held the lock for {LOCK_LIMIT:g} s") from None
            if not told:
                told = True
                progress.step("waiting for another build to end")
            time.sleep(0.2)


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Take SIGTERM and SIGHUP for what ^C is: KeyboardInterrupt, and whatever is half made is removed."""
    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, signal.default_int_handler) for number in numbers}
    try:
        yield
    finally:
        for number, action in before.items():
            signal.signal(number, action)
