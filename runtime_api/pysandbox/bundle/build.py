"""Make a bundle: in a directory of its own beside the destination, which becomes it when all of it is right."""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
import stat
from contextlib import ExitStack, contextmanager, suppress

from pysandbox.bundle.archive import Archive
from pysandbox.bundle.beneath import open_directory
from pysandbox.bundle.config import Configuration, make_spec, volumes
from pysandbox.bundle.directory import Directory, holds_itself
from pysandbox.bundle.image import Image, docker_image, is_docker_archive, layout_image
from pysandbox.bundle.layer import Layer
from pysandbox.bundle.limit import Budget
from pysandbox.bundle.name import shown
from pysandbox.bundle.source import ArchiveSource, DirectorySource
from pysandbox.bundle.stream import PIECE, Counted, Hashed, Pipe, Section, Watched, compression, decompressed
from pysandbox.bundle.tree import Tree
from pysandbox.bundle.user import find_user
from pysandbox.errors import AlreadyExists, InvalidArgument, NotFound
from pysandbox.oci.bundle import load_bundle
from pysandbox.record import dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Protocol

    from pysandbox.bundle.config import Wishes
    from pysandbox.bundle.limit import Limits
    from pysandbox.bundle.reference import Platform, Reference
    from pysandbox.bundle.source import Blob, Source
    from pysandbox.bundle.stream import Stream
    from pysandbox.oci.types import Spec

    class Progress(Protocol):
        """What is shown to a person."""

        def step(self, text: str) -> None:
            """Begin with something."""

        def share(self, done: int, total: int) -> None:
            """Show how far it is."""


#: Names kept of what was left out.
_SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to make. `devices`: skip, keep or refuse device nodes."""

    reference: Reference
    destination: str
    platform: Platform
    limits: Limits
    wishes: Wishes
    devices: str


@dataclass(slots=True)
class Omission:
    """How many things of a kind were left out, and the names of the first few."""

    count: int = 0
    names: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Built:
    """What was made: the image's name, entries and bytes unpacked, layers, and what was left out of it, by kind."""

    name: str
    entries: int
    size: int
    layers: int
    omitted: dict[str, Omission]


def build(request: Request, progress: Progress) -> Built:
    """Make the bundle. Raises SandboxError or OSError, and has left nothing behind then."""
    with _staging(request.destination) as staging:
        builder = _Builder(request, staging, progress)
        return builder.build()


# -- the directory -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Staging:
    """The directory that becomes the bundle: its name in `parent`, its path, descriptors of both."""

    parent: int
    descriptor: int
    path: str


@contextmanager
def _staging(destination: str) -> Iterator[_Staging]:
    """Make a directory beside the destination. At the end it is renamed, or else removed."""
    parent, name = _split(destination)
    holder = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _check_free(holder, name, destination)
        temporary = f".{name[:200]}.{secrets.token_hex(8)}"
        os.mkdir(temporary, 0o700, dir_fd=holder)
        try:
            descriptor = open_directory(holder, os.fsencode(temporary))
            try:
                _make_private(descriptor)
                yield _Staging(holder, descriptor, f"{parent}/{temporary}")
            finally:
                os.close(descriptor)
            _rename(holder, temporary, name, destination)
        except BaseException:
            with suppress(FileNotFoundError):
                shutil.rmtree(temporary, dir_fd=holder)
            raise
    finally:
        os.close(holder)


def _split(destination: str) -> tuple[str, str]:
    """Return the directory that holds the destination, without symbolic links, and its name there."""
    if not destination or "\0" in destination:
        raise InvalidArgument("destination: must name a directory")
    parent, name = os.path.split(os.path.abspath(destination))
    if not name:
        raise AlreadyExists(f"{destination}: is the root directory")
    try:
        return os.path.realpath(parent, strict=True), name
    except OSError as error:
        raise InvalidArgument(f"{parent}: {(error.strerror or str(error)).lower()}") from None


def _check_free(holder: int, name: str, destination: str) -> None:
    """Raise AlreadyExists unless nothing is there, or an empty directory."""
    try:
        mode = os.stat(name, dir_fd=holder, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode):
        found = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=holder)
        try:
            if not os.listdir(found):
                _refuse_mount_point(holder, found, destination)
                return
        finally:
            os.close(found)
    raise _exists(destination)


def _refuse_mount_point(holder: int, found: int, destination: str) -> None:
    if os.fstat(found).st_dev != os.fstat(holder).st_dev:
        raise AlreadyExists(f"{destination}: is a mount point, which nothing can replace: name a directory in it")


def _exists(destination: str) -> AlreadyExists:
    return AlreadyExists(f"{destination}: exists, and is no empty directory: remove it first, or name another place")


def _make_private(descriptor: int) -> None:
    """Take away what a directory inherits: an image's set-user-id programs are nothing for the users of this host."""
    for name in ("system.posix_acl_default", "system.posix_acl_access"):
        with suppress(OSError):
            os.removexattr(descriptor, name)
    os.fchown(descriptor, os.geteuid(), os.getegid())
    os.fchmod(descriptor, 0o700)


def _rename(holder: int, temporary: str, name: str, destination: str) -> None:
    try:
        os.rename(temporary, name, src_dir_fd=holder, dst_dir_fd=holder)
    except OSError as error:
        if isinstance(error, FileExistsError | NotADirectoryError) or error.errno == errno.ENOTEMPTY:
            raise _exists(destination) from None
        raise


# -- the bundle --------------------------------------------------------------------------------------------------------


class _Builder:
    """One bundle in the making."""

    def __init__(self, request: Request, staging: _Staging, progress: Progress) -> None:
        self._request, self._staging, self._progress = request, staging, progress
        self._budget = Budget(request.limits)
        self._omitted: dict[str, Omission] = {}
        self._what = os.path.basename(request.reference.path.rstrip("/")) or request.reference.path

    def build(self) -> Built:
        os.mkdir("rootfs", 0o755, dir_fd=self._staging.descriptor)
        with ExitStack() as stack:
            root = open_directory(self._staging.descriptor, b"rootfs")
            stack.callback(os.close, root)
            os.fchown(root, 0, 0)
            os.fchmod(root, 0o755)
            tree = Tree(root, lambda kind, name: self._omit(kind, shown(name)))
            stack.callback(tree.close)
            image = self._unpack(tree, stack)
            spec = self._spec(image, tree)
            tree.finish()
            self._write(spec)
        load_bundle(self._staging.path)
        name, layers = (image.name, len(image.layers)) if image else (self._what, 0)
        return Built(name, self._budget.entries, self._budget.size, layers, self._omitted)

    def _omit(self, kind: str, name: str) -> None:
        omission = self._omitted.setdefault(kind, Omission())
        omission.count += 1
        if omission.count <= _SHOWN:
            omission.names.append(name)

    # -- files

    def _unpack(self, tree: Tree, stack: ExitStack) -> Image | None:
        """Fill the tree. Return the image, None for a root file system without a configuration."""
        descriptor = self._open(stack)
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            source: Source = DirectorySource(descriptor, self._what, stack)
            image = self._image(source)
            if image is None:
                self._copy(tree, descriptor)
        else:
            descriptor = self._plain(descriptor, stack)
            size = os.fstat(descriptor).st_size
            self._progress.step(f"reading {self._what}")
            archive = ArchiveSource(descriptor, size, Budget(self._request.limits), self._what)
            image = self._image(archive)
            if image is None:
                self._progress.step(f"unpacking {self._what}")
                stream = self._watched(Section(descriptor, 0, size, self._what), size)
                self._apply(tree, stream, self._what, first=True, layer=False)
        if image is not None:
            self._unpack_layers(tree, image)
        return image

    def _open(self, stack: ExitStack) -> int:
        path = self._request.reference.path
        # O_NONBLOCK: opening a FIFO that nobody writes to would stop us here for ever.
        descriptor = (
            os.dup(0) if path == "-" else os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        )
        stack.callback(os.close, descriptor)
        mode = os.fstat(descriptor).st_mode
        if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode) or stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
            raise InvalidArgument(f"{path}: must be a directory, a file or a pipe")
        return descriptor

    def _image(self, source: Source) -> Image | None:
        """Return the image that a source is, None if it is none: a root file system."""
        reference, platform = self._request.reference, self._request.platform
        self._progress.step(f"checking {self._what}")
        if _has(source, "oci-layout"):
            return layout_image(source, reference, platform, self._progress.share)
        if is_docker_archive(source):
            return docker_image(source, reference, platform)
        if reference.chosen:
            raise InvalidArgument(
                f"{source.what}: no image layout and no docker archive: {reference.chosen} is nowhere"
            )
        if _has(source, "repositories") and not _has(source, "manifest.json"):
            raise InvalidArgument(
                f"{source.what}: docker archive without manifest.json (docker before 1.10): save it again"
            )
        return None

    def _plain(self, descriptor: int, stack: ExitStack) -> int:
        """Return a file of the archive decompressed: itself, or a nameless copy."""
        seekable = stat.S_ISREG(os.fstat(descriptor).st_mode)
        if seekable and not compression(os.pread(descriptor, 6, 0)):
            return descriptor
        os.set_blocking(descriptor, True)
        size = os.fstat(descriptor).st_size
        stream: Stream = Section(descriptor, 0, size, self._what) if seekable else Pipe(descriptor, self._what)
        self._progress.step(f"reading {self._what}")
        copy = self._nameless_file()
        stack.callback(os.close, copy)
        counted = Counted(
            decompressed(self._watched(stream, size), self._what), Budget(self._request.limits), self._what
        )
        while data := counted.read(PIECE):
            view = memoryview(data)
            while view:
                view = view[os.write(copy, view) :]
        return copy

    def _nameless_file(self) -> int:
        # Not O_TMPFILE, which overlayfs and others lack.
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open("archive", flags, 0o600, dir_fd=self._staging.descriptor)
        os.unlink("archive", dir_fd=self._staging.descriptor)
        return descriptor

    def _watched(self, stream: Stream, total: int) -> Stream:
        done = 0

        def tell(count: int) -> None:
            nonlocal done
            done += count
            if total:
                self._progress.share(done, total)

        return Watched(stream, tell)

    def _unpack_layers(self, tree: Tree, image: Image) -> None:
        for number, (blob, digest) in enumerate(image.layers, start=1):
            what = f"layer {number} of {len(image.layers)}"
            self._progress.step(f"unpacking {what} ({blob.size / 1e6:.1f} MB)")
            self._unpack_layer(tree, blob, digest, what, first=number == 1)

    def _unpack_layer(self, tree: Tree, blob: Blob, digest: str, what: str, *, first: bool) -> None:
        hashed = Hashed(decompressed(self._watched(blob.stream(), blob.size), what), digest.partition(":")[0])
        self._apply(tree, hashed, what, first=first, layer=True)
        found = f"{digest.partition(':')[0]}:{hashed.hexdigest()}"
        if found != digest:
            raise InvalidArgument(f"{what}: wrong digest: unpacked it is {found}, not {digest} (rootfs.diff_ids)")

    def _apply(self, tree: Tree, stream: Stream, what: str, *, first: bool, layer: bool) -> None:
        """Apply one archive. A layer's digest tells whether all of it is there, a lone archive's end mark."""
        archive = Archive(Counted(stream, self._budget, what), self._budget, what, marked=not layer)
        one = self._layer(tree, what, whiteouts=layer)
        for entry in archive.entries():
            one.apply(entry, archive.content(entry))

    def _layer(self, tree: Tree, what: str, *, whiteouts: bool) -> Layer:
        devices = self._request.devices
        return Layer(
            tree, what, whiteouts=whiteouts, devices=devices, warn=lambda kind, name: self._omit(kind, shown(name))
        )

    def _copy(self, tree: Tree, root: int) -> None:
        top = os.path.realpath(self._request.reference.path)
        if os.path.commonpath((top, self._staging.path)) == top:  # told before anything is copied
            raise holds_itself(self._what)
        self._progress.step(f"copying {self._what}")
        directory = Directory(
            root, self._budget, self._what, self._staging.descriptor, lambda kind, name: self._omit(kind, shown(name))
        )
        one = self._layer(tree, self._what, whiteouts=False)
        for entry, content in directory.entries():
            one.apply(entry, content)

    # -- configuration

    def _spec(self, image: Image | None, tree: Tree) -> Spec:
        wishes, document = self._request.wishes, image.config if image else {}
        unified = os.path.exists("/sys/fs/cgroup/cgroup.controllers")
        spec = make_spec(
            document, wishes, unified=unified, image=image is not None,
            warn=lambda kind, name: self._omit(kind, shown(name.encode(errors="backslashreplace"))),
        )  # fmt: skip
        configuration = Configuration(document)
        said = configuration.text("User") if wishes.user is None else wishes.user
        place = "image configuration: config.User" if wishes.user is None else "--user"
        spec["process"]["user"] = find_user(tree.root, said, place)
        for path in [spec["process"]["cwd"], *volumes(configuration)]:
            tree.make_directories(os.fsencode(path).strip(b"/"), f"image configuration: {path}")
        return spec

    def _write(self, spec: Any) -> None:
        text = json.dumps(spec, indent="\t", ensure_ascii=False) + "\n"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open("config.json", flags, 0o644, dir_fd=self._staging.descriptor)
        with open(descriptor, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)


def _has(source: Source, name: str) -> bool:
    try:
        source.open(name)
    except (NotFound, InvalidArgument):
        return False
    return True
