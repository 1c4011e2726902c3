"""What is to be measured, and how much of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from pysandbox.compare import figure


@dataclass(frozen=True, slots=True)
class Settings:
    """How much is measured."""

    rounds: int = 30
    #: One round of so many measures inside, where each figure takes a while.
    inside_every: int = 3
    memory_rounds: int = 3
    throughput_rounds: int = 3
    containers: int = 32
    growth: tuple[int, ...] = (1, 5, 20, 50)
    #: Seconds of growth for one contender: fifty machines take 70 under emulation.
    growth_limit: float = 120.0
    #: What is measured: groups of figure.GROUPS.
    groups: tuple[str, ...] = figure.GROUPS

    @classmethod
    def quick(cls) -> Settings:
        """Return settings for a first look, of about half a minute."""
        return cls(10, 3, 1, 1, 16, (1, 5), 10.0)


@dataclass(frozen=True, slots=True)
class Request:
    """What to measure."""

    bundle: str
    program: tuple[str, ...]
    names: tuple[str, ...] = ()
    runtimes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    baseline: str = ""
    #: Settings file that `program` is called with; empty for none.
    config: str = ""
    #: Socket of a containerd; empty for none.
    containerd: str = ""
    settings: Settings = field(default_factory=Settings)
