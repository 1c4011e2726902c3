"""The shapes of config.json, runtime-spec 1.3: for type checkers only.

Import this only under `if TYPE_CHECKING:`: at run time a spec is the plain dict that `document` read and `validate`
checked. Every field is optional here unless the validator makes sure of it.
"""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict


class ConsoleSize(TypedDict):
    """Characters."""

    height: int
    width: int


class User(TypedDict):
    """Ids in the container's user namespace; `load_bundle` fills in uid and gid."""

    uid: int
    gid: int
    umask: NotRequired[int]
    additionalGids: NotRequired[list[int]]
    username: NotRequired[str]


class Capabilities(TypedDict, total=False):
    """Names; unknown ones may be among them."""

    bounding: list[str]
    effective: list[str]
    inheritable: list[str]
    permitted: list[str]
    ambient: list[str]


class Rlimit(TypedDict):
    """2**64-1 is infinity."""

    type: str
    soft: int
    hard: int


# Functional form: "class" is a keyword. IOPRIO_CLASS_RT, _BE or _IDLE; priority is 0 to 7.
IoPriority = TypedDict("IoPriority", {"class": str, "priority": NotRequired[int]})


class Scheduler(TypedDict):
    """sched_setattr(2); runtime, deadline and period in nanoseconds."""

    policy: str
    nice: NotRequired[int]
    priority: NotRequired[int]
    flags: NotRequired[list[str]]
    runtime: NotRequired[int]
    deadline: NotRequired[int]
    period: NotRequired[int]


class ExecCpuAffinity(TypedDict, total=False):
    """Lists of CPUs: "0-3,7"."""

    initial: str
    final: str


class Process(TypedDict):
    """The container's process, or one of exec."""

    args: list[str]
    cwd: str
    user: User
    terminal: NotRequired[bool]
    consoleSize: NotRequired[ConsoleSize]
    env: NotRequired[list[str]]
    capabilities: NotRequired[Capabilities]
    rlimits: NotRequired[list[Rlimit]]
    noNewPrivileges: NotRequired[bool]
    apparmorProfile: NotRequired[str]
    selinuxLabel: NotRequired[str]
    oomScoreAdj: NotRequired[int]
    ioPriority: NotRequired[IoPriority]
    scheduler: NotRequired[Scheduler]
    execCPUAffinity: NotRequired[ExecCpuAffinity]


class Root(TypedDict):
    """The root file system."""

    path: str
    readonly: NotRequired[bool]


class IdMapping(TypedDict):
    """`size` ids from `containerID` on are the ids from `hostID` on outside."""

    containerID: int
    hostID: int
    size: int


class Mount(TypedDict):
    """One mount, in order."""

    destination: str
    type: NotRequired[str]
    source: NotRequired[str]
    options: NotRequired[list[str]]
    uidMappings: NotRequired[list[IdMapping]]
    gidMappings: NotRequired[list[IdMapping]]


class Hook(TypedDict):
    """A program of the host; `timeout` in seconds."""

    path: str
    args: NotRequired[list[str]]
    env: NotRequired[list[str]]
    timeout: NotRequired[int]


class Hooks(TypedDict, total=False):
    """By the moment at which they run."""

    prestart: list[Hook]
    createRuntime: list[Hook]
    createContainer: list[Hook]
    startContainer: list[Hook]
    poststart: list[Hook]
    poststop: list[Hook]


NamespaceType = Literal["pid", "network", "mount", "ipc", "uts", "user", "cgroup", "time"]


class Namespace(TypedDict):
    """New, or joined where `path` says."""

    type: NamespaceType
    path: NotRequired[str]


class TimeOffset(TypedDict, total=False):
    """Added to the clock."""

    secs: int
    nanosecs: int


class Device(TypedDict):
    """A node to make. `fileMode` may carry file type bits, which do not count."""

    type: Literal["c", "b", "u", "p"]
    path: str
    major: NotRequired[int]
    minor: NotRequired[int]
    fileMode: NotRequired[int]
    uid: NotRequired[int]
    gid: NotRequired[int]


class DeviceRule(TypedDict):
    """A line of the device cgroup's list; absent numbers mean all."""

    allow: bool
    access: str
    type: NotRequired[Literal["a", "c", "b"]]
    major: NotRequired[int]
    minor: NotRequired[int]


class Memory(TypedDict, total=False):
    """Bytes; -1 is no limit."""

    limit: int
    reservation: int
    swap: int
    kernel: int
    kernelTCP: int
    swappiness: int
    disableOOMKiller: bool
    useHierarchy: bool
    checkBeforeUpdate: bool


class Cpu(TypedDict, total=False):
    """Times in microseconds."""

    shares: int
    quota: int
    burst: int
    period: int
    realtimeRuntime: int
    realtimePeriod: int
    cpus: str
    mems: str
    idle: int


class Pids(TypedDict, total=False):
    """-1 is no limit."""

    limit: int


class WeightDevice(TypedDict):
    """Weight on one block device."""

    major: int
    minor: int
    weight: NotRequired[int]
    leafWeight: NotRequired[int]


class ThrottleDevice(TypedDict):
    """Bytes or operations per second on one block device."""

    major: int
    minor: int
    rate: int


class BlockIo(TypedDict, total=False):
    """Weights are 10 to 1000, 0 for unset."""

    weight: int
    leafWeight: int
    weightDevice: list[WeightDevice]
    throttleReadBpsDevice: list[ThrottleDevice]
    throttleWriteBpsDevice: list[ThrottleDevice]
    throttleReadIOPSDevice: list[ThrottleDevice]
    throttleWriteIOPSDevice: list[ThrottleDevice]


class HugepageLimit(TypedDict):
    """`pageSize` is "2MB"; `limit` in bytes."""

    pageSize: str
    limit: int


class InterfacePriority(TypedDict):
    """net_prio."""

    name: str
    priority: int


class NetworkResources(TypedDict, total=False):
    """net_cls and net_prio."""

    classID: int
    priorities: list[InterfacePriority]


class Rdma(TypedDict, total=False):
    """Limits of one device."""

    hcaHandles: int
    hcaObjects: int


class Resources(TypedDict, total=False):
    """What the cgroup limits."""

    devices: list[DeviceRule]
    memory: Memory
    cpu: Cpu
    pids: Pids
    blockIO: BlockIo
    hugepageLimits: list[HugepageLimit]
    network: NetworkResources
    rdma: dict[str, Rdma]
    unified: dict[str, str]


class SeccompArgument(TypedDict):
    """A comparison of one of six arguments."""

    index: int
    value: int
    op: str
    valueTwo: NotRequired[int]


class SeccompRule(TypedDict):
    """One action for several system calls."""

    names: list[str]
    action: str
    errnoRet: NotRequired[int]
    args: NotRequired[list[SeccompArgument]]


class Seccomp(TypedDict, total=False):
    """A filter; without defaultAction and syscalls it is none."""

    defaultAction: str
    defaultErrnoRet: int
    architectures: list[str]
    flags: list[str]
    listenerPath: str
    listenerMetadata: str
    syscalls: list[SeccompRule]


class IntelRdt(TypedDict, total=False):
    """Resource director technology."""

    closID: str
    schemata: list[str]
    l3CacheSchema: str
    memBwSchema: str
    enableMonitoring: bool
    enableCMT: bool
    enableMBM: bool


class Personality(TypedDict):
    """Execution domain."""

    domain: Literal["LINUX", "LINUX32"]
    flags: NotRequired[list[str]]


class MemoryPolicy(TypedDict, total=False):
    """set_mempolicy(2); without a mode it is none."""

    mode: str
    nodes: str
    flags: list[str]


class NetDevice(TypedDict, total=False):
    """A host's network device that moves into the container, under a new name if there is one."""

    name: str


class Linux(TypedDict, total=False):
    """The Linux section."""

    uidMappings: list[IdMapping]
    gidMappings: list[IdMapping]
    timeOffsets: dict[str, TimeOffset]
    sysctl: dict[str, str]
    resources: Resources
    cgroupsPath: str
    namespaces: list[Namespace]
    devices: list[Device]
    netDevices: dict[str, NetDevice]
    seccomp: Seccomp
    rootfsPropagation: str
    maskedPaths: list[str]
    readonlyPaths: list[str]
    mountLabel: str
    intelRdt: IntelRdt
    personality: Personality
    memoryPolicy: MemoryPolicy


class VmProgram(TypedDict):
    """A hypervisor, or a kernel with its initial ramdisk."""

    path: str
    parameters: NotRequired[list[str]]
    initrd: NotRequired[str]


class VmImage(TypedDict):
    """The machine's own root file system: raw, qcow2, vdi, vmdk, vhd."""

    path: str
    format: str


class VmIomem(TypedDict):
    """Frames of host memory for the machine."""

    firstGFN: NotRequired[int]
    firstMFN: int
    nrMFNs: int


class VmHwConfig(TypedDict, total=False):
    """`memory` in bytes."""

    deviceTree: str
    vcpus: int
    memory: int
    dtdevs: list[str]
    iomems: list[VmIomem]
    irqs: list[int]


class Vm(TypedDict, total=False):
    """The section for runtimes that use a virtual machine."""

    hypervisor: VmProgram
    kernel: VmProgram
    image: VmImage
    hwConfig: VmHwConfig


class Spec(TypedDict):
    """The whole of config.json."""

    ociVersion: str
    process: Process
    root: Root
    hostname: NotRequired[str]
    domainname: NotRequired[str]
    mounts: NotRequired[list[Mount]]
    hooks: NotRequired[Hooks]
    annotations: NotRequired[dict[str, str]]
    linux: NotRequired[Linux]
    vm: NotRequired[Vm]
