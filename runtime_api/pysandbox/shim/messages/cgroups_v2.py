"""Messages of io.containerd.cgroups.v2. Made by pysandbox.ttrpc.generate from proto/cgroups_v2.proto: do not edit."""

from __future__ import annotations

from pysandbox.ttrpc.message import MESSAGE, REPEATED, SINGLE, STRING, UINT32, UINT64, Message

TYPE_CHECKING = False

class PidsStat(Message):
    """io.containerd.cgroups.v2.PidsStat."""

    __slots__ = ("current", "limit",)
    NAME = "io.containerd.cgroups.v2.PidsStat"
    FIELDS = (
        (1, "current", UINT64, SINGLE, None),
        (2, "limit", UINT64, SINGLE, None),
    )
    if TYPE_CHECKING:
        current: int
        limit: int
        def __init__(self, *, current: int = 0, limit: int = 0) -> None: ...


class CPUStat(Message):
    """io.containerd.cgroups.v2.CPUStat."""

    __slots__ = ("usage_usec", "user_usec", "system_usec", "nr_periods", "nr_throttled", "throttled_usec",)
    NAME = "io.containerd.cgroups.v2.CPUStat"
    FIELDS = (
        (1, "usage_usec", UINT64, SINGLE, None),
        (2, "user_usec", UINT64, SINGLE, None),
        (3, "system_usec", UINT64, SINGLE, None),
        (4, "nr_periods", UINT64, SINGLE, None),
        (5, "nr_throttled", UINT64, SINGLE, None),
        (6, "throttled_usec", UINT64, SINGLE, None),
    )
    if TYPE_CHECKING:
        usage_usec: int
        user_usec: int
        system_usec: int
        nr_periods: int
        nr_throttled: int
        throttled_usec: int
        def __init__(self, *, usage_usec: int = 0, user_usec: int = 0, system_usec: int = 0, nr_periods: int = 0, nr_throttled: int = 0, throttled_usec: int = 0) -> None: ...


class MemoryStat(Message):
    """io.containerd.cgroups.v2.MemoryStat."""

    __slots__ = ("anon", "file", "kernel_stack", "slab", "sock", "shmem", "file_mapped", "file_dirty", "file_writeback", "anon_thp", "inactive_anon", "active_anon", "inactive_file", "active_file", "unevictable", "slab_reclaimable", "slab_unreclaimable", "pgfault", "pgmajfault", "workingset_refault", "workingset_activate", "workingset_nodereclaim", "pgrefill", "pgscan", "pgsteal", "pgactivate", "pgdeactivate", "pglazyfree", "pglazyfreed", "thp_fault_alloc", "thp_collapse_alloc", "usage", "usage_limit", "swap_usage", "swap_limit", "max_usage", "swap_max_usage",)
    NAME = "io.containerd.cgroups.v2.MemoryStat"
    FIELDS = (
        (1, "anon", UINT64, SINGLE, None),
        (2, "file", UINT64, SINGLE, None),
        (3, "kernel_stack", UINT64, SINGLE, None),
        (4, "slab", UINT64, SINGLE, None),
        (5, "sock", UINT64, SINGLE, None),
        (6, "shmem", UINT64, SINGLE, None),
        (7, "file_mapped", UINT64, SINGLE, None),
        (8, "file_dirty", UINT64, SINGLE, None),
        (9, "file_writeback", UINT64, SINGLE, None),
        (10, "anon_thp", UINT64, SINGLE, None),
        (11, "inactive_anon", UINT64, SINGLE, None),
        (12, "active_anon", UINT64, SINGLE, None),
        (13, "inactive_file", UINT64, SINGLE, None),
        (14, "active_file", UINT64, SINGLE, None),
        (15, "unevictable", UINT64, SINGLE, None),
        (16, "slab_reclaimable", UINT64, SINGLE, None),
        (17, "slab_unreclaimable", UINT64, SINGLE, None),
        (18, "pgfault", UINT64, SINGLE, None),
        (19, "pgmajfault", UINT64, SINGLE, None),
        (20, "workingset_refault", UINT64, SINGLE, None),
        (21, "workingset_activate", UINT64, SINGLE, None),
        (22, "workingset_nodereclaim", UINT64, SINGLE, None),
        (23, "pgrefill", UINT64, SINGLE, None),
        (24, "pgscan", UINT64, SINGLE, None),
        (25, "pgsteal", UINT64, SINGLE, None),
        (26, "pgactivate", UINT64, SINGLE, None),
        (27, "pgdeactivate", UINT64, SINGLE, None),
        (28, "pglazyfree", UINT64, SINGLE, None),
        (29, "pglazyfreed", UINT64, SINGLE, None),
        (30, "thp_fault_alloc", UINT64, SINGLE, None),
        (31, "thp_collapse_alloc", UINT64, SINGLE, None),
        (32, "usage", UINT64, SINGLE, None),
        (33, "usage_limit", UINT64, SINGLE, None),
        (34, "swap_usage", UINT64, SINGLE, None),
        (35, "swap_limit", UINT64, SINGLE, None),
        (36, "max_usage", UINT64, SINGLE, None),
        (37, "swap_max_usage", UINT64, SINGLE, None),
    )
    if TYPE_CHECKING:
        anon: int
        file: int
        kernel_stack: int
        slab: int
        sock: int
        shmem: int
        file_mapped: int
        file_dirty: int
        file_writeback: int
        anon_thp: int
        inactive_anon: int
        active_anon: int
        inactive_file: int
        active_file: int
        unevictable: int
        slab_reclaimable: int
        slab_unreclaimable: int
        pgfault: int
        pgmajfault: int
        workingset_refault: int
        workingset_activate: int
        workingset_nodereclaim: int
        pgrefill: int
        pgscan: int
        pgsteal: int
        pgactivate: int
        pgdeactivate: int
        pglazyfree: int
        pglazyfreed: int
        thp_fault_alloc: int
        thp_collapse_alloc: int
        usage: int
        usage_limit: int
        swap_usage: int
        swap_limit: int
        max_usage: int
        swap_max_usage: int
        def __init__(self, *, anon: int = 0, file: int = 0, kernel_stack: int = 0, slab: int = 0, sock: int = 0, shmem: int = 0, file_mapped: int = 0, file_dirty: int = 0, file_writeback: int = 0, anon_thp: int = 0, inactive_anon: int = 0, active_anon: int = 0, inactive_file: int = 0, active_file: int = 0, unevictable: int = 0, slab_reclaimable: int = 0, slab_unreclaimable: int = 0, pgfault: int = 0, pgmajfault: int = 0, workingset_refault: int = 0, workingset_activate: int = 0, workingset_nodereclaim: int = 0, pgrefill: int = 0, pgscan: int = 0, pgsteal: int = 0, pgactivate: int = 0, pgdeactivate: int = 0, pglazyfree: int = 0, pglazyfreed: int = 0, thp_fault_alloc: int = 0, thp_collapse_alloc: int = 0, usage: int = 0, usage_limit: int = 0, swap_usage: int = 0, swap_limit: int = 0, max_usage: int = 0, swap_max_usage: int = 0) -> None: ...


class MemoryEvents(Message):
    """io.containerd.cgroups.v2.MemoryEvents."""

    __slots__ = ("low", "high", "max", "oom", "oom_kill",)
    NAME = "io.containerd.cgroups.v2.MemoryEvents"
    FIELDS = (
        (1, "low", UINT64, SINGLE, None),
        (2, "high", UINT64, SINGLE, None),
        (3, "max", UINT64, SINGLE, None),
        (4, "oom", UINT64, SINGLE, None),
        (5, "oom_kill", UINT64, SINGLE, None),
    )
    if TYPE_CHECKING:
        low: int
        high: int
        max: int
        oom: int
        oom_kill: int
        def __init__(self, *, low: int = 0, high: int = 0, max: int = 0, oom: int = 0, oom_kill: int = 0) -> None: ...


class RdmaEntry(Message):
    """io.containerd.cgroups.v2.RdmaEntry."""

    __slots__ = ("device", "hca_handles", "hca_objects",)
    NAME = "io.containerd.cgroups.v2.RdmaEntry"
    FIELDS = (
        (1, "device", STRING, SINGLE, None),
        (2, "hca_handles", UINT32, SINGLE, None),
        (3, "hca_objects", UINT32, SINGLE, None),
    )
    if TYPE_CHECKING:
        device: str
        hca_handles: int
        hca_objects: int
        def __init__(self, *, device: str = "", hca_handles: int = 0, hca_objects: int = 0) -> None: ...


class IOEntry(Message):
    """io.containerd.cgroups.v2.IOEntry."""

    __slots__ = ("major", "minor", "rbytes", "wbytes", "rios", "wios",)
    NAME = "io.containerd.cgroups.v2.IOEntry"
    FIELDS = (
        (1, "major", UINT64, SINGLE, None),
        (2, "minor", UINT64, SINGLE, None),
        (3, "rbytes", UINT64, SINGLE, None),
        (4, "wbytes", UINT64, SINGLE, None),
        (5, "rios", UINT64, SINGLE, None),
        (6, "wios", UINT64, SINGLE, None),
    )
    if TYPE_CHECKING:
        major: int
        minor: int
        rbytes: int
        wbytes: int
        rios: int
        wios: int
        def __init__(self, *, major: int = 0, minor: int = 0, rbytes: int = 0, wbytes: int = 0, rios: int = 0, wios: int = 0) -> None: ...


class HugeTlbStat(Message):
    """io.containerd.cgroups.v2.HugeTlbStat."""

    __slots__ = ("current", "max", "pagesize",)
    NAME = "io.containerd.cgroups.v2.HugeTlbStat"
    FIELDS = (
        (1, "current", UINT64, SINGLE, None),
        (2, "max", UINT64, SINGLE, None),
        (3, "pagesize", STRING, SINGLE, None),
    )
    if TYPE_CHECKING:
        current: int
        max: int
        pagesize: str
        def __init__(self, *, current: int = 0, max: int = 0, pagesize: str = "") -> None: ...


class RdmaStat(Message):
    """io.containerd.cgroups.v2.RdmaStat."""

    __slots__ = ("current", "limit",)
    NAME = "io.containerd.cgroups.v2.RdmaStat"
    FIELDS = (
        (1, "current", MESSAGE, REPEATED, RdmaEntry),
        (2, "limit", MESSAGE, REPEATED, RdmaEntry),
    )
    if TYPE_CHECKING:
        current: list[RdmaEntry]
        limit: list[RdmaEntry]
        def __init__(self, *, current: list[RdmaEntry] = ..., limit: list[RdmaEntry] = ...) -> None: ...


class IOStat(Message):
    """io.containerd.cgroups.v2.IOStat."""

    __slots__ = ("usage",)
    NAME = "io.containerd.cgroups.v2.IOStat"
    FIELDS = (
        (1, "usage", MESSAGE, REPEATED, IOEntry),
    )
    if TYPE_CHECKING:
        usage: list[IOEntry]
        def __init__(self, *, usage: list[IOEntry] = ...) -> None: ...


class Metrics(Message):
    """io.containerd.cgroups.v2.Metrics."""

    __slots__ = ("pids", "cpu", "memory", "rdma", "io", "hugetlb", "memory_events",)
    NAME = "io.containerd.cgroups.v2.Metrics"
    FIELDS = (
        (1, "pids", MESSAGE, SINGLE, PidsStat),
        (2, "cpu", MESSAGE, SINGLE, CPUStat),
        (4, "memory", MESSAGE, SINGLE, MemoryStat),
        (5, "rdma", MESSAGE, SINGLE, RdmaStat),
        (6, "io", MESSAGE, SINGLE, IOStat),
        (7, "hugetlb", MESSAGE, REPEATED, HugeTlbStat),
        (8, "memory_events", MESSAGE, SINGLE, MemoryEvents),
    )
    if TYPE_CHECKING:
        pids: PidsStat | None
        cpu: CPUStat | None
        memory: MemoryStat | None
        rdma: RdmaStat | None
        io: IOStat | None
        hugetlb: list[HugeTlbStat]
        memory_events: MemoryEvents | None
        def __init__(self, *, pids: PidsStat | None = None, cpu: CPUStat | None = None, memory: MemoryStat | None = None, rdma: RdmaStat | None = None, io: IOStat | None = None, hugetlb: list[HugeTlbStat] = ..., memory_events: MemoryEvents | None = None) -> None: ...
