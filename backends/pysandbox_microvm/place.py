"""Where a container is in its guest: what planning and every exec must know, kept in the record."""

from __future__ import annotations

from pysandbox.record import dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

#: Where the guest mounts what is attached (`agent.proto`, Attach).
STORAGE = "/run/storage"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a container is in its guest: the name of its storage, and pids of containers whose namespaces it may join.

    `peers` maps the host's pid of another container's init to its pid in the guest. `disk` is the name of the storage
    that is the container's root, where that is an image (`block.py`).
    """

    storage: str = "container"
    peers: Mapping[int, int] = field(default_factory=dict)
    disk: str = ""

    @property
    def directory(self) -> str:
        """The path in the guest of what the host shares."""
        return f"{STORAGE}/{self.storage}"

    @property
    def root(self) -> str:
        """The path in the guest of the container's root."""
        return f"{STORAGE}/{self.disk}" if self.disk else f"{self.directory}/rootfs"

    def saved(self) -> dict[str, Any]:
        """Return a JSON object for `load`."""
        peers = {str(pid): guest for pid, guest in self.peers.items()}
        return {"storage": self.storage, "peers": peers, "disk": self.disk}

    @classmethod
    def load(cls, saved: Mapping[str, Any]) -> Place:
        """Make one again from what `saved` returned."""
        peers = {int(pid): int(guest) for pid, guest in saved["peers"].items()}
        return cls(str(saved["storage"]), peers, str(saved.get("disk", "")))
