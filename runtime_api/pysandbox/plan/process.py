"""The process: what init and an exec'ed process have in common, on one path (CVE-2022-29162), and the plan of an exec.

The order is runc's, with one difference: `ready` comes last. When the caller hears it, every operation that can fail
has been done, so whatever is wrong with the user, the program or the filter is an error of `create`, and the caller may
record the container and leave.

* `parent_death_signal(9)` protects against a caller that dies; it is taken back right before privileges change (which
  would clear it anyway), and from there on the report socket tells the executor.
* seccomp without no_new_privs needs CAP_SYS_ADMIN and stands before `credentials`; with it, as late as can be.
* The program is looked up as the user, since what root may execute the user may not.
* Descriptors of the host are closed when the program is found: none is left while a container waits for `start`, and
  a profile that knows no close_range(2) does not stop it.
* rlimits stand after everything that opens files. In a user namespace a hard limit can only be lowered, so one that
  must rise is raised before the namespace is entered.
"""

from __future__ import annotations

from pysandbox.errors import InvalidArgument
from pysandbox.oci.capabilities import CAPABILITIES
from pysandbox.oci.linux_rules import MEMORY_POLICY_FLAGS, MEMORY_POLICY_MODES, check_process_ids
from pysandbox.oci.process_rules import IO_PRIORITY_CLASSES, RLIMITS, SCHEDULER_FLAGS, SCHEDULER_POLICIES
from pysandbox.oci.schema import Bad
from pysandbox.plan import operation as op
from pysandbox.plan.plan import Plan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pysandbox.backend import Options
    from pysandbox.oci.types import (
        Capabilities,
        IoPriority,
        Linux,
        MemoryPolicy,
        Process,
        Rlimit,
        Scheduler,
        Spec,
    )
    from pysandbox.plan.filter import Compiler
    from pysandbox.plan.host import Host
    from pysandbox.plan.operation import Operation

#: Searched when the environment has no PATH.
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_UMASK = 0o022

# KEYCTL_SETPERM: who may search the session keyring. Under user namespaces it is "others", as runc found.
KEY_USR_SEARCH = 0x00080000
KEY_OTH_SEARCH = 0x00000008

IOPRIO_CLASS_SHIFT = 13
PERSONALITIES = {"LINUX": 0x0000, "LINUX32": 0x0008}
#: No list of CPUs or nodes names more: the kernel's own limit is 8192 CPUs.
_HIGHEST_NUMBER = 8191


def exec_plan(
    process: Process,
    spec: Spec,
    *,
    host: Host,
    options: Options,
    namespaces: Sequence[str],
    container_id: str = "",
    preserved: int = 0,
    entrances: Sequence[str] = (),
    compiler: Compiler | None = None,
) -> Plan:
    """Plan one more process in a running container, whose init is in slot `process`.

    `process` is complete; `spec` is the container's, for what belongs to it and not to the process: seccomp,
    personality, id maps. `namespaces` are the kinds that the container does not share with the caller, `entrances`
    the slots of its cgroup. `compiler` compiles the seccomp profile, where it is not to be libseccomp each time. Raises
    InvalidArgument.
    """
    if "mount" not in namespaces:
        raise InvalidArgument("linux.namespaces: cannot exec in a container without a mount namespace")
    warnings: list[str] = []
    debug: list[str] = []
    user_namespace = "user" in namespaces
    affinity = process.get("execCPUAffinity") or {}
    operations = outer_beginning(process, () if affinity else host.cpus, entrances)
    if affinity.get("initial"):
        cpus = _numbers(affinity["initial"], "process.execCPUAffinity.initial")
        debug.append(f"nsexec: affinity: {sum(1 << cpu for cpu in cpus):#x}")  # runc's words, which its tests look for
        operations.append(op.cpu_affinity(cpus))
    labelled = bool(process.get("apparmorProfile") or process.get("selinuxLabel"))
    if user_namespace and labelled:
        operations.append(op.open_tree("proc", "/proc", recursive=False))
    operations += raise_limits(process, host, user_namespace=user_namespace)
    operations.append(op.join_process(list(namespaces)))
    if user_namespace:
        operations.append(op.become_root())
    operations += [op.clone(into_cgroup="cgroup" in entrances), op.parent_death_signal(9), op.new_session()]
    operations += session_keyring(container_id, options, user_namespace=user_namespace)
    operations.append(op.use_root())
    if labelled and not user_namespace:
        operations.append(op.open_proc())
    operations.append(standard_streams(process, options, bind=False))
    operations.append(op.umask(umask_of(process, spec.get("process", process))))
    operations += process_part(process, spec, host, warnings, debug, preserved=preserved, compiler=compiler)
    if affinity.get("final"):
        _insert_before_credentials(
            operations, op.cpu_affinity(_numbers(affinity["final"], "process.execCPUAffinity.final"))
        )
    operations.append(execute(process))
    return Plan(operations=operations, trace=options.trace is not None, warnings=warnings, debug=debug)


def _insert_before_credentials(operations: list[Operation], operation: Operation) -> None:
    """Put an operation where the shared part has not yet given up its privileges."""
    index = next(i for i in range(len(operations) - 1, -1, -1) if operations[i] == op.parent_death_signal(0))
    operations.insert(index, operation)


# -- the outer process -------------------------------------------------------------------------------------------------


def outer_beginning(process: Process, cpus: Sequence[int], entrances: Sequence[str]) -> list[Operation]:
    """Begin a plan: everything counts for the container, nobody outlives the caller, and nobody looks in.

    `cpus` are given where the caller's affinity must not be inherited; its cpuset limits them. `entrances` are the
    slots through which the process enters the cgroup itself; without any the caller puts it there.
    """
    tasks = [slot for slot in entrances if slot != "cgroup"]
    operations = [op.enter_cgroups(tasks)] if tasks else []
    if not entrances:
        operations.append(op.stop("cgroup"))
    if cpus:
        operations.append(op.cpu_affinity(list(cpus)))
    operations.append(op.parent_death_signal(9))
    adjustment = process.get("oomScoreAdj")
    if adjustment is not None:
        operations.append(op.oom_score_adj(adjustment))
    return [*operations, op.dumpable(False)]


def raise_limits(process: Process, host: Host, *, user_namespace: bool) -> list[Operation]:
    """Raise the hard limits that no process of a user namespace may raise; `rlimit` inside sets the exact ones."""
    if not user_namespace:
        return []
    operations = []
    for number, soft, hard in _limits(process):
        now = host.limits.get(number)
        if now is not None and hard > now[1]:
            operations.append(op.rlimit(number, max(soft, now[0]), hard))
    return operations


def session_keyring(container_id: str, options: Options, *, user_namespace: bool) -> list[Operation]:
    """Join the container's session keyring, `_ses.` and its id as runc names it."""
    if options.no_new_keyring or not container_id:
        return []
    return [op.keyring(f"_ses.{container_id}", permission=KEY_OTH_SEARCH if user_namespace else KEY_USR_SEARCH)]


def standard_streams(process: Process, options: Options, *, bind: bool) -> Operation:
    """Give the process a terminal, or the ownership of the streams it was given."""
    uid = process["user"]["uid"]
    if not process.get("terminal"):
        return op.own_stdio(uid)
    size = process.get("consoleSize") or {"width": 0, "height": 0}
    return op.console(
        width=size["width"], height=size["height"], bind=bind, uid=uid, plain_newlines=options.plain_newlines
    )


def umask_of(*processes: Process) -> int:
    """Return the umask of the first process that has one."""
    own = (process["user"].get("umask") for process in processes)
    return next((umask for umask in own if umask is not None), DEFAULT_UMASK)


# -- the part that init and exec share ---------------------------------------------------------------------------------


def process_part(
    process: Process,
    spec: Spec,
    host: Host,
    warnings: list[str],
    debug: list[str],
    *,
    preserved: int,
    compiler: Compiler | None = None,
) -> list[Operation]:
    """Plan everything between the container's file system and `execute`. Appends to `warnings` and `debug`."""
    linux = spec.get("linux") or {}
    no_new_privileges = bool(process.get("noNewPrivileges"))
    filters = _seccomp(linux, warnings, debug, compiler)
    env = environment(process)
    operations = _labels(process, host)
    if no_new_privileges:
        operations.append(op.no_new_privileges())
    operations += _scheduling(process, linux)
    operations.append(op.change_directory(process["cwd"] or "/"))
    if "HOME" not in env:
        operations.append(op.home(process["user"]["uid"]))
    operations += [op.rlimit(number, soft, hard) for number, soft, hard in _limits(process)]
    operations.append(op.parent_death_signal(0))
    if not no_new_privileges:
        operations += filters
    operations.append(_credentials(process, spec, host, warnings))
    operations.append(op.find_program(process["args"][0], env.get("PATH") or DEFAULT_PATH, process["cwd"] or "/"))
    operations.append(op.close_descriptors(preserved))
    if no_new_privileges:
        operations += filters
    return operations


def _seccomp(linux: Linux, warnings: list[str], debug: list[str], compiler: Compiler | None) -> list[Operation]:
    profile = linux.get("seccomp")
    if not profile:
        return []
    if compiler is None:
        from pysandbox.plan.seccomp import compile_profile

        compiler = compile_profile
    compiled = compiler(profile)
    if compiled is None:
        return []
    debug += [f"unknown seccomp syscall {name!r} ignored" for name in compiled.ignored]
    if compiled.ignored:
        names = ", ".join(dict.fromkeys(compiled.ignored))
        warnings.append(f"linux.seccomp.syscalls: libseccomp does not know, so left out: {names}")
    debug.append(f"seccomp filter flags: {compiled.flags}")
    return [op.seccomp(compiled.program, compiled.flags, listener=compiled.listener)]


def _labels(process: Process, host: Host) -> list[Operation]:
    operations = []
    profile, label = process.get("apparmorProfile"), process.get("selinuxLabel")
    if profile:
        if not host.apparmor:
            raise InvalidArgument(f"process.apparmorProfile: {profile}: AppArmor is not enabled on this host")
        operations.append(op.apparmor(profile))
    if label:
        if not host.selinux:
            raise InvalidArgument(f"process.selinuxLabel: {label}: SELinux is not enabled on this host")
        operations.append(op.selinux(label))
    return operations


def _scheduling(process: Process, linux: Linux) -> list[Operation]:
    operations = []
    scheduler, priority = process.get("scheduler"), process.get("ioPriority")
    personality, policy = linux.get("personality"), linux.get("memoryPolicy")
    if scheduler:
        operations.append(_scheduler(scheduler))
    if priority:
        operations.append(_io_priority(priority))
    if personality:
        value = _choose(PERSONALITIES, personality["domain"], "linux.personality.domain")
        operations.append(op.personality(value))
    if policy is not None:
        operations.append(_memory_policy(policy))
    return operations


def _choose(table: Mapping[str, int], name: str, where: str) -> int:
    try:
        return table[name]
    except KeyError:
        raise InvalidArgument(f"{where}: {name!r} is none of {', '.join(table)}") from None


def _scheduler(scheduler: Scheduler) -> Operation:
    flags = 0
    for index, name in enumerate(scheduler.get("flags") or ()):
        flags |= _choose(SCHEDULER_FLAGS, name, f"process.scheduler.flags[{index}]")
    return op.scheduler(
        _choose(SCHEDULER_POLICIES, scheduler["policy"], "process.scheduler.policy"),
        flags,
        scheduler.get("nice") or 0,
        scheduler.get("priority") or 0,
        scheduler.get("runtime") or 0,
        scheduler.get("deadline") or 0,
        scheduler.get("period") or 0,
    )


def _io_priority(priority: IoPriority) -> Operation:
    level = priority.get("priority") or 0
    if not 0 <= level <= 7:
        raise InvalidArgument(f"process.ioPriority.priority: {level} is not between 0 and 7")
    return op.io_priority(
        _choose(IO_PRIORITY_CLASSES, priority["class"], "process.ioPriority.class") << IOPRIO_CLASS_SHIFT | level
    )


def _memory_policy(policy: MemoryPolicy) -> Operation:
    mode = _choose(MEMORY_POLICY_MODES, policy.get("mode", ""), "linux.memoryPolicy.mode: invalid memory policy mode")
    for index, name in enumerate(policy.get("flags") or ()):
        mode |= _choose(MEMORY_POLICY_FLAGS, name, f"linux.memoryPolicy.flags[{index}]: invalid memory policy flag")
    return op.memory_policy(mode, _numbers(policy.get("nodes") or "", "linux.memoryPolicy.nodes"))


def _numbers(text: str, where: str) -> list[int]:
    """Read a list as cpuset(7) writes it: `0-3,7`."""
    numbers: set[int] = set()
    for part in filter(None, text.replace(" ", "").split(",")):
        first, dash, last = part.partition("-")
        last = last if dash else first
        valid = first.isascii() and first.isdigit() and last.isascii() and last.isdigit()
        if not valid or len(last) > 4 or not int(first) <= int(last) <= _HIGHEST_NUMBER:
            raise InvalidArgument(f"{where}: {part!r} is not a number or a range of them")
        numbers.update(range(int(first), int(last) + 1))
    return sorted(numbers)


def _limits(process: Process) -> list[tuple[int, int, int]]:
    return [_limit(limit, index) for index, limit in enumerate(process.get("rlimits") or ())]


def _limit(limit: Rlimit, index: int) -> tuple[int, int, int]:
    number = RLIMITS.get(limit["type"])
    if number is None:
        raise InvalidArgument(f"process.rlimits[{index}].type: invalid rlimit type {limit['type']!r}")
    return number, limit["soft"], limit["hard"]


# -- who the process is ------------------------------------------------------------------------------------------------


def _credentials(process: Process, spec: Spec, host: Host, warnings: list[str]) -> Operation:
    """Plan ids and capabilities. Without `capabilities` there are none at all; a set that is not listed is empty.

    Ambient needs permitted and inheritable; what lacks them is left out with a warning, as the kernel would refuse it.
    """
    user = process["user"]
    _check_mapped(process, spec)
    wanted = process.get("capabilities") or {}
    unknown: set[str] = set()
    masks = {
        name: _mask(wanted, name, host.last_capability, unknown)
        for name in ("bounding", "effective", "permitted", "inheritable", "ambient")
    }
    if unknown:
        warnings.append(f"ignoring unknown or unavailable capabilities: {', '.join(sorted(unknown))}")
    possible = masks["permitted"] & masks["inheritable"]
    if masks["ambient"] & ~possible:
        names = [name for name, bit in CAPABILITIES.items() if masks["ambient"] & ~possible & 1 << bit]
        warnings += [f"can't raise ambient capability {name}: not permitted and inheritable" for name in names]
        masks["ambient"] &= possible
    groups = list(user.get("additionalGids") or ())
    return op.credentials(uid=user["uid"], gid=user["gid"], groups=groups, **masks)


def _mask(wanted: Capabilities, name: str, last: int, unknown: set[str]) -> int:
    mask = 0
    for capability in wanted.get(name) or ():  # type: ignore[attr-defined]
        bit = CAPABILITIES.get(capability)
        if bit is None or bit > last:
            unknown.add(capability)
        else:
            mask |= 1 << bit
    return mask


def _check_mapped(process: Process, spec: Spec) -> None:
    """Refuse an id that the user namespace does not have: the kernel's own word for it is EINVAL."""
    try:
        check_process_ids(process, spec)
    except Bad as bad:
        raise bad.refusal("process") from None


def environment(process: Process) -> dict[str, str]:
    """Return the environment by name, in the order of runc's: of a name given twice only the last stays.

    An empty HOME counts as none.
    """
    variables: dict[str, str] = {}
    for index, entry in enumerate(process.get("env") or ()):
        name, equals, value = entry.partition("=")
        if not equals or not name:
            raise InvalidArgument(f"process.env[{index}]: {entry!r} is not of the form NAME=value")
        variables.pop(name, None)
        variables[name] = value
    if not variables.get("HOME"):
        variables.pop("HOME", None)
    return variables


def execute(process: Process) -> Operation:
    """Plan the program itself."""
    return op.execute(list(process["args"]), [f"{name}={value}" for name, value in environment(process).items()])


def hook_environment(process: Process) -> list[str]:
    """Return the process's environment for hooks that run as it. What HOME will be only `home` finds out: here `/`."""
    return [f"{name}={value}" for name, value in {"HOME": "/", **environment(process)}.items()]
