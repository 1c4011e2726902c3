"""`pysandbox bundle`: make a bundle of an image that is on this machine."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import contextmanager

from pysandbox.cli.flags import Command, Flag
from pysandbox.errors import InvalidArgument, PermissionDenied

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from pysandbox.bundle.build import Built, Request
    from pysandbox.cli.invocation import Invocation

COMMAND = Command(
    "bundle",
    "make a bundle of an image: an image layout, a docker archive, a root file system",
    "IMAGE DEST [-- ARGS...]",
    (
        Flag("user", "user and group, instead of the image's: names or numbers, NAME[:GROUP]", "string", "u"),
        Flag("env", "variable to add or replace, NAME=VALUE (more than once)", "strings", "e"),
        Flag("entrypoint", "program, instead of the image's entrypoint and command; empty for none", "string"),
        Flag("terminal", "give the process a terminal", alias="t"),
        Flag("read-only", "make the root file system read-only; the image's volumes are a tmpfs each then"),
        Flag("cap-add", "capability to add, or docker for those that docker gives (more than once)", "strings"),
        Flag("platform", "platform, instead of this machine's: linux/arm64", "string"),
        Flag("devices", "device nodes of the image: skip, keep or refuse", "string", default="skip"),
        Flag("max-size", "bytes that may be unpacked: 500M, 16G", "string", default="16G"),
        Flag("max-entries", "files and directories that may be unpacked", "int", default=1_000_000),
        Flag("quiet", "say nothing but what went wrong", alias="q"),
    ),
    at_least=2,
    at_most=None,
    details="""
IMAGE is an OCI image layout (a directory, or an archive of one), a docker archive (docker save, podman save), or a root
file system (a directory, or an archive: docker export). Archives may be compressed with gzip, bzip2, xz or zstd; - is
standard input. IMAGE:TAG and IMAGE@DIGEST choose one of several images.

DEST becomes the bundle: rootfs and config.json. It must not exist, or be an empty directory. ARGS are the command,
behind the image's entrypoint, as under docker run.
""",
)


def run(invocation: Invocation) -> int:
    """Make the bundle, and say what was made."""
    from pysandbox.bundle.build import build
    from pysandbox.cli.image import Progress

    request = _request(invocation)
    if os.geteuid() != 0:
        raise PermissionDenied("bundle: files of an image belong to several users: run as root")
    quiet = invocation.parsed["quiet"]
    progress = Progress() if sys.stdout.isatty() and not quiet else _Silence()
    try:
        with _interruptible():
            built = build(request, progress)
    except OSError as error:
        raise OSError(error.errno, error.strerror, _place(error.filename, request.destination)) from None
    finally:
        progress.end()
    for line in _omissions(built):
        invocation.journal.warning(line)
    if not quiet:
        sys.stdout.write(_summary(built, request.destination))
    return 0


def _request(invocation: Invocation) -> Request:
    from pysandbox.bundle.build import Request
    from pysandbox.bundle.config import Wishes
    from pysandbox.bundle.limit import Limits, parse_size
    from pysandbox.bundle.reference import parse_platform, parse_reference

    parsed = invocation.parsed
    image, destination, *args = parsed.arguments
    if parsed["devices"] not in ("skip", "keep", "refuse"):
        raise InvalidArgument(f"--devices {parsed['devices']}: must be skip, keep or refuse")
    if parsed["max-entries"] < 1:
        raise InvalidArgument(f"--max-entries {parsed['max-entries']}: must be at least 1")
    wishes = Wishes(
        args=args,
        entrypoint=parsed["entrypoint"] if "entrypoint" in parsed.given else None,
        user=parsed["user"] if "user" in parsed.given else None,
        env=parsed["env"],
        capabilities=parsed["cap-add"],
        terminal=parsed["terminal"],
        readonly=parsed["read-only"],
    )
    return Request(
        reference=parse_reference(image),
        destination=destination,
        platform=parse_platform(parsed["platform"], os.uname().machine),
        limits=Limits(size=parse_size(parsed["max-size"], "max-size"), entries=parsed["max-entries"]),
        wishes=wishes,
        devices=parsed["devices"],
    )


@contextmanager
def _interruptible() -> Iterator[None]:
    """Have the signals that end a program undo what was half made, as SIGINT does."""
    numbers = (signal.SIGTERM, signal.SIGHUP)

    def interrupt(number: int, _: FrameType | None) -> None:
        raise KeyboardInterrupt(signal.strsignal(number))

    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, action in before.items():
            signal.signal(number, action)


def _place(name: object, destination: str) -> str:
    """Return where something went wrong: a name of the image, which is quoted, or else the bundle."""
    from pysandbox.bundle.name import shown

    if isinstance(name, bytes):
        return shown(name)
    return str(name) if name else destination


def _omissions(built: Built) -> Iterator[str]:
    """Yield a line for each kind of thing that was left out."""
    for kind, omission in built.omitted.items():
        more = omission.count - len(omission.names)
        yield f"left out: {kind}: {', '.join(omission.names)}{f' and {more} more' if more else ''}"


def _summary(built: Built, destination: str) -> str:
    layers = f" of {built.layers} layer{'s' if built.layers > 1 else ''}" if built.layers else ""
    return (
        f"{destination}: {built.name}: {built.entries} entries{layers}, {built.size / 1e6:.1f} MB unpacked;"
        f" pysandbox run {destination}\n"
    )


class _Silence:
    """No progress."""

    def step(self, text: str) -> None:
        """Begin with something."""

    def share(self, done: int, total: int) -> None:
        """Show how far it is."""

    def end(self) -> None:
        """End the line of what was begun."""
