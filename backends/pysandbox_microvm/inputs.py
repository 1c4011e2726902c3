"""What QEMU reads when it starts: kernel, initrd, the guest's memory, a template's state, a disk; all by descriptor."""

from __future__ import annotations

import fcntl
import os
import stat

from pysandbox_microvm.arguments import Place
from pysandbox_microvm.memory import new_memory, sealed_copy

TYPE_CHECKING = False
if TYPE_CHECKING:
    import contextlib

    from pysandbox_microvm.arguments import Disk, Hardware
    from pysandbox_microvm.image import Image
    from pysandbox_microvm.template import Template

#: Bytes that a pipe holds for us without anybody reading: a template's state goes into one whole.
LONGEST_STATE = 1024 * 1024
F_SETPIPE_SZ = 1031


def _open(path: str) -> int:
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def _readable(theirs: contextlib.ExitStack, descriptor: int) -> int:
    """Return a file that QEMU's own user can open once more, by its descriptor: a copy, if that may not read it."""
    if os.fstat(descriptor).st_mode & stat.S_IROTH:
        return descriptor
    copy = sealed_copy(descriptor)
    theirs.callback(os.close, copy)
    return copy


def open_inputs(
    theirs: contextlib.ExitStack, image: Image, hardware: Hardware, template: Template | None, disk: Disk | None
) -> dict[int, int]:
    """Return what QEMU reads, by its places."""
    # Of a clone QEMU reads both, and the guest neither: what it boots from is in the memory, and it cannot reset.
    kernel, initrd = image.open() if template is None else (_open(image.kernel), _open(image.initrd))
    theirs.callback(os.close, kernel)
    theirs.callback(os.close, initrd)
    places = {Place.KERNEL: _readable(theirs, kernel), Place.INITRD: _readable(theirs, initrd)}
    if template is not None:
        places[Place.STATE] = _pipe_with(theirs, template.state())
    private = maps_template(template, disk)
    memory = template.share_memory() if template is not None and private else new_memory(hardware.memory)
    theirs.callback(os.close, memory)
    places[Place.MEMORY] = memory
    if disk is not None:
        places[Place.DISK] = disk.descriptor
    return places


def maps_template(template: Template | None, disk: Disk | None) -> bool:
    """Say whether a machine maps its template's memory: where no file server has to see what it writes."""
    return template is not None and disk is not None


def _pipe_with(theirs: contextlib.ExitStack, data: bytes) -> int:
    """Return the reading end of a pipe with data in it, whose writing end is closed."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    theirs.callback(os.close, reader)
    try:
        fcntl.fcntl(writer, F_SETPIPE_SZ, LONGEST_STATE)
        os.set_blocking(writer, False)
        if os.write(writer, data) != len(data):
            raise OSError(27, os.strerror(27), "a template's state")  # EFBIG
    finally:
        os.close(writer)
    return reader
