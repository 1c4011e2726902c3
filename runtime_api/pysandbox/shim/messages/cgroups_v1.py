"""Messages of io.containerd.cgroups.v1. Made by pysandbox.ttrpc.generate from proto/cgroups_v1.proto: do not edit."""

from __future__ import annotations

from pysandbox.ttrpc.message import MESSAGE, REPEATED, SINGLE, STRING, UINT32, UINT64, Message

TYPE_CHECKING = False

class HugetlbStat(Message):
    """io.containerd.cgroups.v1.HugetlbStat."""

    __slots__ = ("usage", "max", "failcnt", "pagesize",)
    NAME = "io.containerd.cgroups.v1.HugetlbStat"
    FIELDS = (
        (1, "usage", UINT64, SINGLE, None),
        (2, "max", UINT64, SINGLE, None),
        (3, "failcnt", UINT64, SINGLE, None),
        (4, "pagesize", STRING, SINGLE, None),
    )
    if TYPE_CHECKING:
        usage: int
        max: int
        failcnt: int
        pagesize: str
        def __init__(self, *, usage: int = 0, max: int = 0, failcnt: int = 0, pagesize: str = "") -> None: ...


class PidsStat(Message):
    """io.containerd.cgroups.v1.PidsStat."""

    __slots__ = ("current", "limit",)
    NAME = "io.containerd.cgroups.v1.PidsStat"
    FIELDS = (
        (1, "current", UINT64, SINGLE, None),
        (2, "limit", UINT64, SINGLE, None),
    )
    if TYPE_CHECKING:
        current: int
        limit: int
        def __init__(self, *, current: int = 0, limit: int = 0) -> None: ...


class CPUUsage(Message):
    """io.containerd.cgroups.v1.CPUUsage."""

    __slots__ = ("total", "kernel", "user", "per_cpu",)
    NAME = "io.containerd.cgroups.v1.CPUUsage"
    FIELDS = (
        (1, "total", UINT64, SINGLE, None),
        (2, "kernel", UINT64, SINGLE, None),
        (3, "user", UINT64, SINGLE, None),
        (4, "per_cpu", UINT64, REPEATED, None),
    )
    if TYPE_CHECKING:
        total: int
        kernel: int
        user: int
        per_cpu: list[int]
        def __init__(self, *, total: int = 0, kernel: int = 0, user: int = 0, per_cpu: list[int] = ...) -> None: ...


class Throttle(Message):
    """io.containerd.cgroups.v1.Throttle."""

    __slots__ = ("periods", "throttled_periods", "throttled_time",)
    NAME = "io.containerd.cgroups.v1.Throttle"
    FIELDS = (
        (1, "periods", UINT64, SINGLE, None),
        (2, "throttled_periods", UINT64, SINGLE, None),
        (3, "throttled_time", UINT64, SINGLE, None),
    )
    if TYPE_CHECKING:
        periods: int
        throttled_periods: int
        throttled_time: int
        def __init__(self, *, periods: int = 0, throttled_periods: int = 0, throttled_time: int = 0) -> None: ...


class MemoryEntry(Message):
    """io.containerd.cgroups.v1.MemoryEntry."""

    __slots__ = ("limit", "usage", "max", "failcnt",)
    NAME = "io.containerd.cgroups.v1.MemoryEntry"
    FIELDS = (
        (1, "limit", UINT64, SINGLE, None),
        (2, "usage", UINT64, SINGLE, None),
        (3, "max", UINT64, SINGLE, None),
        (4, "failcnt", UINT64, SINGLE, None),
    )
    if TYPE_CHECKING:
        limit: int
        usage: int
        max: int
        failcnt: int
        def __init__(self, *, limit: int = 0, usage: int = 0, max: int = 0, failcnt: int = 0) -> None: ...


class MemoryOomControl(Message):
    """io.containerd.cgroups.v1.MemoryOomControl."""

    __slots__ = ("oom_kill_disable", "under_oom", "oom_kill",)
    NAME = "io.containerd.cgroups.v1.MemoryOomControl"
    FIELDS = (
        (1, "oom_kill_disable", UINT64, SINGLE, None),
        (2, "under_oom", UINT64, SINGLE, None),
        (3, "oom_kill", UINT64, SINGLE, None),
    )
    if TYPE_CHECKING:
        oom_kill_disable: int
        under_oom: int
        oom_kill: int
        def __init__(self, *, oom_kill_disable: int = 0, under_oom: int = 0, oom_kill: int = 0) -> None: ...


class BlkIOEntry(Message):
    """io.containerd.cgroups.v1.BlkIOEntry."""

    __slots__ = ("op", "device", "major", "minor", "value",)
    NAME = "io.containerd.cgroups.v1.BlkIOEntry"
    FIELDS = (
        (1, "op", STRING, SINGLE, None),
        (2, "device", STRING, SINGLE, None),
        (3, "major", UINT64, SINGLE, None),
        (4, "minor", UINT64, SINGLE, None),
        (5, "value", UINT64, SINGLE, None),
    )
    if TYPE_CHECKING:
        op: str
        device: str
        major: int
        minor: int
        value: int
        def __init__(self, *, op: str = "", device: str = "", major: int = 0, minor: int = 0, value: int = 0) -> None: ...


class RdmaEntry(Message):
    """io.containerd.cgroups.v1.RdmaEntry."""

    __slots__ = ("device", "hca_handles", "hca_objects",)
    NAME = "io.containerd.cgroups.v1.RdmaEntry"
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


class NetworkStat(Message):
    """io.containerd.cgroups.v1.NetworkStat."""

    __slots__ = ("name", "rx_bytes", "rx_packets", "rx_errors", "rx_dropped", "tx_bytes", "tx_packets", "tx_errors", "tx_dropped",)
    NAME = "io.containerd.cgroups.v1.NetworkStat"
    FIELDS = (
        (1, "name", STRING, SINGLE, None),
        (2, "rx_bytes", UINT64, SINGLE, None),
        (3, "rx_packets", UINT64, SINGLE, None),
        (4, "rx_errors", UINT64, SINGLE, None),
        (5, "rx_dropped", UINT64, SINGLE, None),
        (6, "tx_bytes", UINT64, SINGLE, None),
        (7, "tx_packets", UINT64, SINGLE, None),
        (8, "tx_errors", UINT64, SINGLE, None),
        (9, "tx_dropped", UINT64, SINGLE, None),
    )
    if TYPE_CHECKING:
        name: str
        rx_bytes: int
        rx_packets: int
        rx_errors: int
        rx_dropped: int
        tx_bytes: int
        tx_packets: int
        tx_errors: int
        tx_dropped: int
        def __init__(self, *, name: str = "", rx_bytes: int = 0, rx_packets: int = 0, rx_errors: int = 0, rx_dropped: int = 0, tx_bytes: int = 0, tx_packets: int = 0, tx_errors: int = 0, tx_dropped: int = 0) -> None: ...


class CgroupStats(Message):
    """io.containerd.cgroups.v1.CgroupStats."""

    __slots__ = ("nr_sleeping", "nr_running", "nr_stopped", "nr_uninterruptible", "nr_io_wait",)
    NAME = "io.containerd.cgroups.v1.CgroupStats"
    FIELDS = (
        (1, "nr_sleeping", UINT64, SINGLE, None),
        (2, "nr_running", UINT64, SINGLE, None),
        (3, "nr_stopped", UINT64, SINGLE, None),
        (4, "nr_uninterruptible", UINT64, SINGLE, None),
        (5, "nr_io_wait", UINT64, SINGLE, None),
    )
    if TYPE_CHECKING:
        nr_sleeping: int
        nr_running: int
        nr_stopped: int
        nr_uninterruptible: int
        nr_io_wait: int
        def __init__(self, *, nr_sleeping: int = 0, nr_running: int = 0, nr_stopped: int = 0, nr_uninterruptible: int = 0, nr_io_wait: int = 0) -> None: ...


class CPUStat(Message):
    """io.containerd.cgroups.v1.CPUStat."""

    __slots__ = ("usage", "throttling",)
    NAME = "io.containerd.cgroups.v1.CPUStat"
    FIELDS = (
        (1, "usage", MESSAGE, SINGLE, CPUUsage),
        (2, "throttling", MESSAGE, SINGLE, Throttle),
    )
    if TYPE_CHECKING:
        usage: CPUUsage | None
        throttling: Throttle | None
        def __init__(self, *, usage: CPUUsage | None = None, throttling: Throttle | None = None) -> None: ...


class MemoryStat(Message):
    """io.containerd.cgroups.v1.MemoryStat."""

    __slots__ = ("cache", "rss", "rss_huge", "mapped_file", "dirty", "writeback", "pg_pg_in", "pg_pg_out", "pg_fault", "pg_maj_fault", "inactive_anon", "active_anon", "inactive_file", "active_file", "unevictable", "hierarchical_memory_limit", "hierarchical_swap_limit", "total_cache", "total_rss", "total_rss_huge", "total_mapped_file", "total_dirty", "total_writeback", "total_pg_pg_in", "total_pg_pg_out", "total_pg_fault", "total_pg_maj_fault", "total_inactive_anon", "total_active_anon", "total_inactive_file", "total_active_file", "total_unevictable", "usage", "swap", "kernel", "kernel_tcp",)
    NAME = "io.containerd.cgroups.v1.MemoryStat"
    FIELDS = (
        (1, "cache", UINT64, SINGLE, None),
        (2, "rss", UINT64, SINGLE, None),
        (3, "rss_huge", UINT64, SINGLE, None),
        (4, "mapped_file", UINT64, SINGLE, None),
        (5, "dirty", UINT64, SINGLE, None),
        (6, "writeback", UINT64, SINGLE, None),
        (7, "pg_pg_in", UINT64, SINGLE, None),
        (8, "pg_pg_out", UINT64, SINGLE, None),
        (9, "pg_fault", UINT64, SINGLE, None),
        (10, "pg_maj_fault", UINT64, SINGLE, None),
        (11, "inactive_anon", UINT64, SINGLE, None),
        (12, "active_anon", UINT64, SINGLE, None),
        (13, "inactive_file", UINT64, SINGLE, None),
        (14, "active_file", UINT64, SINGLE, None),
        (15, "unevictable", UINT64, SINGLE, None),
        (16, "hierarchical_memory_limit", UINT64, SINGLE, None),
        (17, "hierarchical_swap_limit", UINT64, SINGLE, None),
        (18, "total_cache", UINT64, SINGLE, None),
        (19, "total_rss", UINT64, SINGLE, None),
        (20, "total_rss_huge", UINT64, SINGLE, None),
        (21, "total_mapped_file", UINT64, SINGLE, None),
        (22, "total_dirty", UINT64, SINGLE, None),
        (23, "total_writeback", UINT64, SINGLE, None),
        (24, "total_pg_pg_in", UINT64, SINGLE, None),
        (25, "total_pg_pg_out", UINT64, SINGLE, None),
        (26, "total_pg_fault", UINT64, SINGLE, None),
        (27, "total_pg_maj_fault", UINT64, SINGLE, None),
        (28, "total_inactive_anon", UINT64, SINGLE, None),
        (29, "total_active_anon", UINT64, SINGLE, None),
        (30, "total_inactive_file", UINT64, SINGLE, None),
        (31, "total_active_file", UINT64, SINGLE, None),
        (32, "total_unevictable", UINT64, SINGLE, None),
        (33, "usage", MESSAGE, SINGLE, MemoryEntry),
        (34, "swap", MESSAGE, SINGLE, MemoryEntry),
        (35, "kernel", MESSAGE, SINGLE, MemoryEntry),
        (36, "kernel_tcp", MESSAGE, SINGLE, MemoryEntry),
    )
    if TYPE_CHECKING:
        cache: int
        rss: int
        rss_huge: int
        mapped_file: int
        dirty: int
        writeback: int
        pg_pg_in: int
        pg_pg_out: int
        pg_fault: int
        pg_maj_fault: int
        inactive_anon: int
        active_anon: int
        inactive_file: int
        active_file: int
        unevictable: int
        hierarchical_memory_limit: int
        hierarchical_swap_limit: int
        total_cache: int
        total_rss: int
        total_rss_huge: int
        total_mapped_file: int
        total_dirty: int
        total_writeback: int
        total_pg_pg_in: int
        total_pg_pg_out: int
        total_pg_fault: int
        total_pg_maj_fault: int
        total_inactive_anon: int
        total_active_anon: int
        total_inactive_file: int
        total_active_file: int
        total_unevictable: int
        usage: MemoryEntry | None
        swap: MemoryEntry | None
        kernel: MemoryEntry | None
        kernel_tcp: MemoryEntry | None
        def __init__(self, *, cache: int = 0, rss: int = 0, rss_huge: int = 0, mapped_file: int = 0, dirty: int = 0, writeback: int = 0, pg_pg_in: int = 0, pg_pg_out: int = 0, pg_fault: int = 0, pg_maj_fault: int = 0, inactive_anon: int = 0, active_anon: int = 0, inactive_file: int = 0, active_file: int = 0, unevictable: int = 0, hierarchical_memory_limit: int = 0, hierarchical_swap_limit: int = 0, total_cache: int = 0, total_rss: int = 0, total_rss_huge: int = 0, total_mapped_file: int = 0, total_dirty: int = 0, total_writeback: int = 0, total_pg_pg_in: int = 0, total_pg_pg_out: int = 0, total_pg_fault: int = 0, total_pg_maj_fault: int = 0, total_inactive_anon: int = 0, total_active_anon: int = 0, total_inactive_file: int = 0, total_active_file: int = 0, total_unevictable: int = 0, usage: MemoryEntry | None = None, swap: MemoryEntry | None = None, kernel: MemoryEntry | None = None, kernel_tcp: MemoryEntry | None = None) -> None: ...


class BlkIOStat(Message):
    """io.containerd.cgroups.v1.BlkIOStat."""

    __slots__ = ("io_service_bytes_recursive", "io_serviced_recursive", "io_queued_recursive", "io_service_time_recursive", "io_wait_time_recursive", "io_merged_recursive", "io_time_recursive", "sectors_recursive",)
    NAME = "io.containerd.cgroups.v1.BlkIOStat"
    FIELDS = (
        (1, "io_service_bytes_recursive", MESSAGE, REPEATED, BlkIOEntry),
        (2, "io_serviced_recursive", MESSAGE, REPEATED, BlkIOEntry),
        (3, "io_queued_recursive", MESSAGE, REPEATED, BlkIOEntry),
        (4, "io_service_time_recursive", MESSAGE, REPEATED, BlkIOEntry),
        (5, "io_wait_time_recursive", MESSAGE, REPEATED, BlkIOEntry),
        (6, "io_merged_recursive", MESSAGE, REPEATED, BlkIOEntry),
        (7, "io_time_recursive", MESSAGE, REPEATED, BlkIOEntry),
        (8, "sectors_recursive", MESSAGE, REPEATED, BlkIOEntry),
    )
    if TYPE_CHECKING:
        io_service_bytes_recursive: list[BlkIOEntry]
        io_serviced_recursive: list[BlkIOEntry]
        io_queued_recursive: list[BlkIOEntry]
        io_service_time_recursive: list[BlkIOEntry]
        io_wait_time_recursive: list[BlkIOEntry]
        io_merged_recursive: list[BlkIOEntry]
        io_time_recursive: list[BlkIOEntry]
        sectors_recursive: list[BlkIOEntry]
        def __init__(self, *, io_service_bytes_recursive: list[BlkIOEntry] = ..., io_serviced_recursive: list[BlkIOEntry] = ..., io_queued_recursive: list[BlkIOEntry] = ..., io_service_time_recursive: list[BlkIOEntry] = ..., io_wait_time_recursive: list[BlkIOEntry] = ..., io_merged_recursive: list[BlkIOEntry] = ..., io_time_recursive: list[BlkIOEntry] = ..., sectors_recursive: list[BlkIOEntry] = ...) -> None: ...


class RdmaStat(Message):
    """io.containerd.cgroups.v1.RdmaStat."""

    __slots__ = ("current", "limit",)
    NAME = "io.containerd.cgroups.v1.RdmaStat"
    FIELDS = (
        (1, "current", MESSAGE, REPEATED, RdmaEntry),
        (2, "limit", MESSAGE, REPEATED, RdmaEntry),
    )
    if TYPE_CHECKING:
        current: list[RdmaEntry]
        limit: list[RdmaEntry]
        def __init__(self, *, current: list[RdmaEntry] = ..., limit: list[RdmaEntry] = ...) -> None: ...


class Metrics(Message):
    """io.containerd.cgroups.v1.Metrics."""

    __slots__ = ("hugetlb", "pids", "cpu", "memory", "blkio", "rdma", "network", "cgroup_stats", "memory_oom_control",)
    NAME = "io.containerd.cgroups.v1.Metrics"
    FIELDS = (
        (1, "hugetlb", MESSAGE, REPEATED, HugetlbStat),
        (2, "pids", MESSAGE, SINGLE, PidsStat),
        (3, "cpu", MESSAGE, SINGLE, CPUStat),
        (4, "memory", MESSAGE, SINGLE, MemoryStat),
        (5, "blkio", MESSAGE, SINGLE, BlkIOStat),
        (6, "rdma", MESSAGE, SINGLE, RdmaStat),
        (7, "network", MESSAGE, REPEATED, NetworkStat),
        (8, "cgroup_stats", MESSAGE, SINGLE, CgroupStats),
        (9, "memory_oom_control", MESSAGE, SINGLE, MemoryOomControl),
    )
    if TYPE_CHECKING:
        hugetlb: list[HugetlbStat]
        pids: PidsStat | None
        cpu: CPUStat | None
        memory: MemoryStat | None
        blkio: BlkIOStat | None
        rdma: RdmaStat | None
        network: list[NetworkStat]
        cgroup_stats: CgroupStats | None
        memory_oom_control: MemoryOomControl | None
        def __init__(self, *, hugetlb: list[HugetlbStat] = ..., pids: PidsStat | None = None, cpu: CPUStat | None = None, memory: MemoryStat | None = None, blkio: BlkIOStat | None = None, rdma: RdmaStat | None = None, network: list[NetworkStat] = ..., cgroup_stats: CgroupStats | None = None, memory_oom_control: MemoryOomControl | None = None) -> None: ...
