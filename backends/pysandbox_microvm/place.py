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

    `peers` maps the host's pid of another container's init to its pid in the guest.
    """

    storage: str = "container"
    peers: Mapping[int, int] = field(default_factory=dict)

    @property
    def directory(self) -> str:
        """The path in the guest of what the host shares."""
        return f"{STORAGE}/{self.storage}"

    def saved(self) -> dict[str, Any]:
        """Return a JSON object for `load`."""
        return {"storage": self.storage, "peers": {str(pid): guest for pid, guest in self.peers.items()}}

    @classmethod
    def load(cls, saved: Mapping[str, Any]) -> Place:
        """Make one again from what `saved` returned."""
        return cls(str(saved["storage"]), {int(pid): int(guest) for pid, guest in saved["peers"].items()})
