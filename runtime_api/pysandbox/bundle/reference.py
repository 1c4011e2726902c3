"""Which image of several: `IMAGE`, `IMAGE:TAG`, `IMAGE@DIGEST`, and the platform."""

from __future__ import annotations

import os

from pysandbox.errors import InvalidArgument
from pysandbox.oci.document import quote
from pysandbox.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_ARCHITECTURES = {
    "x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "armv6l": "arm", "i686": "386", "riscv64": "riscv64",
    "ppc64le": "ppc64le", "s390x": "s390x", "loongarch64": "loong64",
}  # fmt: skip
_VARIANTS = {"armv7l": "v7", "armv6l": "v6"}


@dataclass(frozen=True, slots=True)
class Platform:
    """Go's names of an operating system and an architecture; an empty variant is any."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(filter(None, (self.os, self.architecture, self.variant)))

    def matches(self, described: dict[str, Any]) -> bool:
        """Say whether an object with `os`, `architecture` and `variant` is for this platform."""
        variant = described.get("variant") or ""
        return (
            described.get("os") == self.os
            and described.get("architecture") == self.architecture
            and (not self.variant or not variant or variant == self.variant)
        )


def parse_platform(text: str, machine: str) -> Platform:
    """Return the platform of `linux/arm64/v8`, or of this machine (`uname -m`) for "". Raises InvalidArgument."""
    if not text:
        return Platform("linux", _ARCHITECTURES.get(machine, machine), _VARIANTS.get(machine, ""))
    parts = text.split("/")
    if len(parts) not in (2, 3) or not all(parts) or parts[0] != "linux":
        raise InvalidArgument(f"--platform {text}: must be linux/ARCHITECTURE or linux/ARCHITECTURE/VARIANT")
    return Platform(*parts)


@dataclass(frozen=True, slots=True)
class Reference:
    """A path, and what chooses one of several images there: a digest, a tag or a whole name, or "" for neither."""

    path: str
    digest: str = ""
    tag: str = ""

    def chooses(self, names: list[str], digests: list[str]) -> bool:
        """Say whether an image with these names and digests is meant."""
        if self.digest:
            return self.digest in digests
        return not self.tag or any(
            name == self.tag or name.endswith((f":{self.tag}", f"/{self.tag}")) for name in names
        )

    @property
    def chosen(self) -> str:
        """What was asked for, for errors."""
        return self.digest or self.tag


def parse_reference(text: str) -> Reference:
    """Split IMAGE: whatever exists is the path, the longest first. Raises InvalidArgument where nothing does."""
    if not text or "\0" in text:
        raise InvalidArgument("image: must name a file or a directory")
    if text == "-" or os.path.lexists(text):
        return Reference(text)
    for position in sorted((at for at, letter in enumerate(text) if letter in ":@"), reverse=True):
        path, rest = text[:position], text[position + 1 :]
        if rest and (path == "-" or os.path.lexists(path)):
            return Reference(path, digest=rest) if text[position] == "@" else Reference(path, tag=rest)
    raise InvalidArgument(
        f"image {quote(text)}: no such file or directory; it must be on this machine (docker save, podman save, skopeo"
        " copy)"
    )
