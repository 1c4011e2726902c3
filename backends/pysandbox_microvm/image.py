"""The guest image: a kernel and an initrd, where they lie, and that they still are what was built.

    DIRECTORY/kernels/KEY/{vmlinux,config,System.map,manifest.json}   kept by what they were built from
    DIRECTORY/images/KEY/{vmlinux,initrd,manifest.json}               KEY is of the two files' content
    DIRECTORY/images/current -> KEY                                   the last one built: what a new machine gets

`[backends.microvm]` of the settings may say: `directory` (else /var/lib/pysandbox/microvm), `images` (else
DIRECTORY/images; kernels are kept beside it), and `kernel` and `initrd`, paths of files to use in place of those of the
image. `store.py` builds.

Whoever can write these files is root in every guest, so only root may: of files and directories that others can write
to, none is used. The digests in the manifest are for what happens without ill will: a full disk, a copy cut short.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat

from pysandbox.errors import InvalidArgument, NotFound, Unavailable
from pysandbox.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

DIRECTORY = "/var/lib/pysandbox/microvm"
CURRENT = "current"
KERNEL, INITRD, MANIFEST = "vmlinux", "initrd", "manifest.json"
#: Programs that the initrd holds: name in this installation → path in the guest.
PROGRAMS = {"pysandbox-agent": "init", "pysandbox-executor": "sbin/pysandbox-executor"}
#: Version of the manifest and of how an initrd is made up.
FORM = 1
REMEDY = "pysandbox image build"
_LARGEST_MANIFEST = 64 * 1024
#: Bytes. A kernel or initrd larger than this would leave no memory to the smallest machine.
LARGEST_FILE = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Image:
    """A kernel and an initrd to boot. `digest` is of both together; `release` is what uname(2) will say."""

    kernel: str
    initrd: str
    digest: str
    release: str
    kernel_digest: str
    initrd_digest: str

    def verify(self) -> None:
        """Read both files and compare their digests. Raises Unavailable for others than were built, or none."""
        for descriptor in self.open():
            os.close(descriptor)

    def open(self) -> tuple[int, int]:
        """Return descriptors of the kernel and the initrd, the caller's, with the content that `digest` is of."""
        kernel = _open_verified(self.kernel, self.kernel_digest)
        try:
            return kernel, _open_verified(self.initrd, self.initrd_digest)
        except BaseException:
            os.close(kernel)
            raise


def find_image(settings: Mapping[str, Any]) -> Image:
    """Return the image that a new machine boots.

    Raises NotFound where none was built, Unavailable for one that is damaged or was built with an agent other than
    this installation's, InvalidArgument for settings that name no files.
    """
    kernel, initrd = _own_file(settings, "kernel"), _own_file(settings, "initrd")
    if kernel and initrd:
        return _image(kernel, initrd, file_digest(kernel), file_digest(initrd), release_of(kernel))
    directory = current_directory(images_directory(settings))
    manifest = read_manifest(os.path.join(directory, MANIFEST))
    if not initrd:
        _check_programs(manifest)
    return _image(
        kernel or os.path.join(directory, KERNEL),
        initrd or os.path.join(directory, INITRD),
        file_digest(kernel) if kernel else _text(manifest, "kernel", "digest"),
        file_digest(initrd) if initrd else _text(manifest, "initrd", "digest"),
        release_of(kernel) if kernel else _text(manifest, "kernel", "release"),
    )


def _image(kernel: str, initrd: str, kernel_digest: str, initrd_digest: str, release: str) -> Image:
    return Image(kernel, initrd, digest_of(kernel_digest, initrd_digest), release, kernel_digest, initrd_digest)


def digest_of(kernel_digest: str, initrd_digest: str) -> str:
    """Return the digest of an image: BLAKE2b of its files' digests (SHA-256), 256 bits, hexadecimal."""
    from _blake2 import blake2b  # hashlib would load OpenSSL: 1 MB in every machine's sandbox process

    digest: str = blake2b(f"{kernel_digest} {initrd_digest}".encode(), digest_size=32).hexdigest()
    return digest


# -- where -------------------------------------------------------------------------------------------------------------


def directory_of(settings: Mapping[str, Any]) -> str:
    """Return the directory of everything that this backend keeps on disk."""
    return _path(settings, "directory") or DIRECTORY


def images_directory(settings: Mapping[str, Any]) -> str:
    """Return the directory of the images."""
    return _path(settings, "images") or os.path.join(directory_of(settings), "images")


def current_directory(images: str) -> str:
    """Return the directory of the image that was built last, by its own name: a build may go on beside."""
    try:
        key = os.readlink(os.path.join(images, CURRENT))
    except FileNotFoundError:
        raise NotFound(f"no guest image in {images}; remedy: {REMEDY}") from None
    except OSError as error:
        raise Unavailable(f"{images}/{CURRENT}: {error.strerror}; remedy: {REMEDY}") from error
    if not key.isalnum():
        raise Unavailable(f"{images}/{CURRENT}: points to {key!r}, which is no image; remedy: {REMEDY}")
    directory = os.path.join(images, key)
    for path in (os.path.dirname(images), images, directory):
        check_directory(path)
    return directory


def _own_file(settings: Mapping[str, Any], name: str) -> str:
    path = _path(settings, name)
    if path and not os.path.isfile(path):
        raise InvalidArgument(f"backends.microvm.{name}: {path}: no such file")
    if path and name == "kernel" and not is_bootable(path):
        raise InvalidArgument(f"backends.microvm.kernel: {path}: is no ELF file with a PVH note (vmlinux, CONFIG_PVH)")
    return path


def _path(settings: Mapping[str, Any], name: str) -> str:
    value = settings.get(name, "")
    if not isinstance(value, str) or "\0" in value or (value and not value.startswith("/")):
        raise InvalidArgument(f"backends.microvm.{name}: must be an absolute path, not {value!r}")
    return value


def check_directory(path: str) -> None:
    """Raise Unavailable unless a directory is root's, and what is in it can be put there or renamed by root only."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise Unavailable(f"{path}: {error.strerror}; remedy: {REMEDY}") from error
    sticky = status.st_mode & stat.S_ISVTX and status.st_uid == 0  # /tmp: others cannot rename what is root's
    if not stat.S_ISDIR(status.st_mode) or not (_trusted(status) or sticky):
        raise Unavailable(f"{path}: must be a directory of root's that only root can write")


def _trusted(status: os.stat_result) -> bool:
    return status.st_uid in (0, os.geteuid()) and not status.st_mode & 0o022


# -- content -----------------------------------------------------------------------------------------------------------


def read_manifest(path: str) -> dict[str, Any]:
    """Return a manifest. Raises Unavailable for what none of this version wrote."""
    try:
        descriptor = _open(path)
        with open(descriptor, "rb") as file:
            document = json.loads(file.read(_LARGEST_MANIFEST))
    except (ValueError, RecursionError):
        raise Unavailable(f"{path}: is no manifest; remedy: {REMEDY}") from None
    if not isinstance(document, dict) or document.get("form") != FORM:
        raise Unavailable(f"{path}: was written by another version of pysandbox; remedy: {REMEDY}")
    return document


def _text(manifest: Mapping[str, Any], part: str, name: str) -> str:
    table = manifest.get(part)
    value = table.get(name) if isinstance(table, dict) else None
    if not isinstance(value, str):
        raise Unavailable(f"the image's manifest lacks {part}.{name}; remedy: {REMEDY}")
    return value


def file_digest(path: str) -> str:
    """Return the digest of a file's content. Raises Unavailable for a file that others than root can write."""
    descriptor = _open(path)
    try:
        return _digest(descriptor)
    finally:
        os.close(descriptor)


def _open_verified(path: str, digest: str) -> int:
    descriptor = _open(path)
    try:
        if _digest(descriptor) != digest:
            raise Unavailable(f"{path}: is not what was built (its digest differs); remedy: {REMEDY}")
        os.lseek(descriptor, 0, os.SEEK_SET)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _open(path: str) -> int:
    """Open a file that only root can have written. The name may be a link: root's, as the directory is."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        raise Unavailable(f"{path}: {error.strerror}; remedy: {REMEDY}") from error
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode) and _trusted(status) and status.st_size <= LARGEST_FILE:
        return descriptor
    os.close(descriptor)
    raise Unavailable(f"{path}: must be a regular file of root's that only root can write, of at most 256 MiB")


def _digest(descriptor: int) -> str:
    import hashlib

    with open(descriptor, "rb", closefd=False) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_bootable(kernel: str) -> bool:
    """Say whether a file is what QEMU enters without a BIOS: 64-bit ELF with XEN_ELFNOTE_PHYS32_ENTRY (type 18).

    Source: xen/include/public/elfnote.h; a note is sizes of name and content, type, name (elf(5)).
    """
    import mmap
    import re

    descriptor = _open(kernel)
    try:
        with contextlib.suppress(ValueError), mmap.mmap(descriptor, 0, prot=mmap.PROT_READ) as content:
            note = re.search(rb"\x04\0\0\0[\x04\x08]\0\0\0\x12\0\0\0Xen\0", content)
            return content[:5] == b"\x7fELF\x02" and note is not None
        return False
    finally:
        os.close(descriptor)


def release_of(kernel: str) -> str:
    """Return the release of a kernel's ELF file: the word after "Linux version". Empty where it does not say."""
    import mmap

    descriptor = _open(kernel)
    try:
        with contextlib.suppress(ValueError), mmap.mmap(descriptor, 0, prot=mmap.PROT_READ) as content:
            place = content.find(b"Linux version ")
            if place >= 0:
                return content[place + 14 : place + 14 + 64].split(b" ")[0].decode("ascii", "replace")
        return ""
    finally:
        os.close(descriptor)


# -- the programs of this installation ---------------------------------------------------------------------------------


def program_digest(name: str) -> str:
    """Return the digest of a program as it is now. Raises Unavailable where there is none."""
    from pysandbox.executor import program_path

    return file_digest(program_path(name))


def _members(document: Any, name: str) -> Mapping[str, Any]:
    found = document.get(name) if isinstance(document, dict) else None
    return found if isinstance(found, dict) else {}


def fingerprint(path: str) -> list[int]:
    """Return what changes with a file's content: nobody can set the time of its last change. Raises Unavailable."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise Unavailable(f"{path}: {error.strerror}") from error
    return [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _check_programs(manifest: Mapping[str, Any]) -> None:
    """Refuse an image whose agent is another than the one this Python speaks with."""
    from pysandbox.executor import program_path

    initrd: Any = manifest.get("initrd")
    recorded, seen = (_members(initrd, member) for member in ("programs", "installed"))
    for name in PROGRAMS:
        if seen.get(name) == fingerprint(program_path(name)):
            continue  # no byte of it has changed since it was read
        if recorded.get(name) != program_digest(name):
            raise Unavailable(f"the guest image holds another {name} than this installation's; remedy: {REMEDY}")
