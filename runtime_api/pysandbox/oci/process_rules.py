"""What a process may say: config.json's `process`, and the file of `exec --process`."""

from __future__ import annotations

from pysandbox.oci.document import quote
from pysandbox.oci.schema import (
    INT32,
    UINT16,
    Array,
    Bad,
    Choice,
    Integer,
    Object,
    Strings,
    absolute,
    boolean,
    identifier,
    line,
    string,
    uint64,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pysandbox.oci.types import Rlimit, Scheduler

#: setrlimit(2), by name. The numbers are those of every architecture but mips, alpha and sparc.
RLIMITS = {
    f"RLIMIT_{name}": number
    for number, name in enumerate(
        ("CPU FSIZE DATA STACK CORE RSS NPROC NOFILE MEMLOCK AS LOCKS SIGPENDING MSGQUEUE NICE RTPRIO RTTIME").split()
    )
}

#: sched(7), by name.
SCHEDULER_POLICIES = {
    "SCHED_OTHER": 0,
    "SCHED_FIFO": 1,
    "SCHED_RR": 2,
    "SCHED_BATCH": 3,
    "SCHED_ISO": 4,
    "SCHED_IDLE": 5,
    "SCHED_DEADLINE": 6,
}

#: sched_setattr(2), by name.
SCHEDULER_FLAGS = {
    "SCHED_FLAG_RESET_ON_FORK": 0x01,
    "SCHED_FLAG_RECLAIM": 0x02,
    "SCHED_FLAG_DL_OVERRUN": 0x04,
    "SCHED_FLAG_KEEP_POLICY": 0x08,
    "SCHED_FLAG_KEEP_PARAMS": 0x10,
    "SCHED_FLAG_UTIL_CLAMP_MIN": 0x20,
    "SCHED_FLAG_UTIL_CLAMP_MAX": 0x40,
}

#: ioprio_set(2), by name.
IO_PRIORITY_CLASSES = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}

CAPABILITY_SETS = ("bounding", "effective", "inheritable", "permitted", "ambient")

#: NGROUPS_MAX of setgroups(2).
_GROUPS = 65536
_CPUS = 1 << 16


def _args(value: Any) -> None:
    Strings(least=1)(value)
    if not value[0]:
        raise Bad("must not be empty", 0)


def _env(value: Any) -> None:
    Strings()(value)
    for index, entry in enumerate(value):
        # As runc: an entry without a name would be invisible to getenv(3), and shells choke on it.
        if "=" not in entry:
            raise Bad(f"invalid environment variable: missing '=' in {quote(entry)}", index)
        if entry.startswith("="):
            raise Bad(f"invalid environment variable: name cannot be empty in {quote(entry)}", index)


def _rlimit(rlimit: Rlimit) -> None:
    if rlimit["soft"] > rlimit["hard"]:
        raise Bad(f"must not exceed the hard limit {rlimit['hard']}, but is {rlimit['soft']}", "soft")


_RLIMITS = Array(
    Object({"type": Choice("rlimit", RLIMITS), "soft": uint64, "hard": uint64}, ("type", "soft", "hard"), rule=_rlimit)
)


def _rlimits(value: Any) -> None:
    _RLIMITS(value)
    seen = set()
    for index, rlimit in enumerate(value):
        if rlimit["type"] in seen:
            raise Bad(f"duplicate rlimit {rlimit['type']}", index, "type")
        seen.add(rlimit["type"])


def _scheduler(scheduler: Scheduler) -> None:
    policy = scheduler["policy"]
    realtime = policy in {"SCHED_FIFO", "SCHED_RR"}
    priority = scheduler.get("priority", 0)
    if priority and not realtime:
        raise Bad("can only be specified for SchedFIFO or SchedRR policy", "priority")
    if realtime and not 1 <= priority <= 99:
        raise Bad(f"must be from 1 to 99 for {policy}, not {priority}", "priority")
    for name in ("runtime", "deadline", "period"):
        if scheduler.get(name) and policy != "SCHED_DEADLINE":
            raise Bad("can only be specified for SchedDeadline policy", name)


def _cpu_list(value: Any) -> None:
    string(value)
    for part in value.split(","):
        if part.strip():
            _cpu_range(part.strip())


def _cpu_range(text: str) -> None:
    first, dash, last = text.partition("-")
    low, high = _cpu(first, text), _cpu(last, text) if dash else 0
    if dash and high < low:
        raise Bad(f"invalid range {quote(text)}")


def _cpu(digits: str, text: str) -> int:
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 6 and int(digits) < _CPUS):
        raise Bad(f"invalid CPU list at {quote(text)}")
    return int(digits)


#: The shape of a process object.
PROCESS = Object(
    {
        "terminal": boolean,
        "consoleSize": Object({"height": Integer(0, UINT16), "width": Integer(0, UINT16)}, ("height", "width")),
        "user": Object(
            {
                "uid": identifier,
                "gid": identifier,
                "umask": Integer(0, 0o777),
                "additionalGids": Array(identifier, most=_GROUPS),
                "username": string,
            }
        ),
        "args": _args,
        "env": _env,
        "cwd": absolute,
        "capabilities": Object(dict.fromkeys(CAPABILITY_SETS, Strings())),
        "rlimits": _rlimits,
        "noNewPrivileges": boolean,
        "apparmorProfile": line,
        "selinuxLabel": line,
        "oomScoreAdj": Integer(-1000, 1000),
        "ioPriority": Object(
            {"class": Choice("I/O priority class", IO_PRIORITY_CLASSES), "priority": Integer(0, 7)}, ("class",)
        ),
        "scheduler": Object(
            {
                "policy": Choice("scheduler policy", SCHEDULER_POLICIES),
                "nice": Integer(-20, 19),
                "priority": Integer(-INT32 - 1, INT32),
                "flags": Array(Choice("scheduler flag", SCHEDULER_FLAGS)),
                "runtime": uint64,
                "deadline": uint64,
                "period": uint64,
            },
            ("policy",),
            rule=_scheduler,
        ),
        "execCPUAffinity": Object({"initial": _cpu_list, "final": _cpu_list}),
    },
    ("args", "cwd"),
)
