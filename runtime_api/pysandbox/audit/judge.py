"""Verdicts: pure functions from what a probe reported. Facts of a wrong type are no observation."""

from __future__ import annotations

import errno
import math
import signal
from collections.abc import Callable, Iterable, Sequence

from pysandbox.audit.context import Context
from pysandbox.audit.finding import WEAK, Facts, Judgement, ok, unknown, weak
from pysandbox.oci.capabilities import CAPABILITIES

Judge = Callable[[Facts, Context], Judgement]

#: What containerd gives a container that asks for nothing: none of them reaches beyond its namespaces.
USUAL = (
    "CAP_CHOWN CAP_DAC_OVERRIDE CAP_FSETID CAP_FOWNER CAP_MKNOD CAP_NET_RAW CAP_SETGID CAP_SETUID CAP_SETFCAP "
    "CAP_SETPCAP CAP_NET_BIND_SERVICE CAP_SYS_CHROOT CAP_KILL CAP_AUDIT_WRITE"
).split()
#: What serving files as their owners takes.
FILE_SERVER = (
    "CAP_CHOWN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_FOWNER CAP_FSETID CAP_SETGID CAP_SETUID CAP_MKNOD CAP_SETFCAP"
).split()
#: Before the kernel looked at any argument: a filter's or a missing capability's answer, or no such call.
_UNREACHED = {errno.EPERM, errno.EACCES, errno.ENOSYS}
#: Items of a list that are shown, and characters of each.
_SHOWN, _WIDTH = 3, 100


def mask(names: Iterable[str]) -> int:
    """Return capabilities as /proc shows them."""
    return sum(1 << CAPABILITIES[name] for name in names)


# -- what all have in common -------------------------------------------------------------------------------------------


def untried(facts: Facts) -> Judgement | None:
    """Return what follows from a probe that could not be carried out; None if it was."""
    if isinstance(why := facts.get("unable"), str):
        return unknown(f"it could not be tried: {clean(why)}")
    if "hung" in facts:
        return unknown("the probe hung, and was killed at its limit", "no answer in time")
    return None


def clean(text: str, width: int = _WIDTH) -> str:
    """Return a text that is safe on a terminal, and not long."""
    return "".join(character if character.isprintable() else "?" for character in text[:width])


def _listed(items: Sequence[str]) -> str:
    return ", ".join(items[:_SHOWN]) + (", …" if len(items) > _SHOWN else "")


def error_name(facts: Facts, key: str = "errno") -> str:
    """Return the name of the error number that was reported, nothing if there was none."""
    number = facts.get(key)
    if not isinstance(number, int) or isinstance(number, bool):
        return ""
    return errno.errorcode.get(number, f"errno {number}")


def _signal_name(facts: Facts) -> str:
    number = facts.get("signal")
    if not isinstance(number, int) or isinstance(number, bool):
        return ""
    try:
        return f"killed by {signal.Signals(number).name}"
    except ValueError:
        return f"killed by signal {number}"


def _odd(facts: Facts) -> Judgement:
    return untried(facts) or unknown("the probe's answer is not one that it can give")


# -- verdicts ----------------------------------------------------------------------------------------------------------


def refused(facts: Facts, _: Context) -> Judgement:
    """Weak if it could be done."""
    if facts.get("done") is True:
        where = facts.get("path", facts.get("from", ""))
        return weak(f"allowed {clean(str(where))}".strip())
    if facts.get("alone") is True:
        return ok("no other process to try it on")
    if facts.get("same") is True:
        return ok("leads to the container's own")
    failed = _signal_name(facts) or error_name(facts)
    return ok(failed) if failed else _odd(facts)


def unwritable(facts: Facts, context: Context) -> Judgement:
    """Weak if it could be opened for writing, and belongs to the host's kernel."""
    judgement = refused(facts, context)
    if judgement.verdict == WEAK and context.own_kernel:
        return ok(f"{judgement.observed}, of its own kernel")
    return judgement


def unreached(facts: Facts, _: Context) -> Judgement:
    """Weak if the kernel got as far as looking at the arguments."""
    if facts.get("done") is True:
        return weak("allowed")
    if killed := _signal_name(facts):
        return ok(killed)
    name = error_name(facts)
    if not name:
        return _odd(facts)
    return ok(name) if facts["errno"] in _UNREACHED else weak(f"reached: {name}")


def unreadable(facts: Facts, context: Context) -> Judgement:
    """Weak if there is something to read, of the host's kernel."""
    if failed := _signal_name(facts) or error_name(facts):
        return ok(failed)
    if facts.get("done") is True:
        return ok("opened, of its own kernel") if context.own_kernel else weak("opened")
    for key, noun in (("bytes", "bytes"), ("names", "names")):
        count = facts.get(key)
        if isinstance(count, int):
            if count == 0:
                return ok("empty")
            seen = f"{count} {noun}{' or more' if key == 'bytes' and count == 64 else ''}"
            return ok(f"{seen}, of its own kernel") if context.own_kernel else weak(seen)
    return _odd(facts)


def no_node(facts: Facts, context: Context) -> Judgement:
    """Weak unless making or opening the node was forbidden: that there is no such device today forbids nothing."""
    if failed := error_name(facts, "mknod"):
        return ok(f"mknod: {failed}")
    if facts.get("done") is True:
        return weak("opened")
    failed = _signal_name(facts) or error_name(facts)
    if not failed:
        return _odd(facts)
    if facts.get("errno") in (errno.EPERM, errno.EACCES) or "signal" in facts:
        return ok(failed)
    if context.own_kernel and facts.get("errno") in (errno.ENXIO, errno.ENODEV):
        return ok(f"{failed}, of its own kernel")
    return weak(f"let through: {failed}")


def nothing_found(facts: Facts, _: Context) -> Judgement:
    """Weak if the list is not empty."""
    found = facts.get("found", facts.get("open"))
    if isinstance(found, list):
        if not found:
            return ok("none")
        count = facts.get("count")
        total = count if isinstance(count, int) else len(found)
        return weak(f"{total}: {_listed([clean(str(item)) for item in found])}")
    if failed := error_name(facts):
        if facts["errno"] == errno.ENOENT:
            return ok("no such table")
        return unknown(f"the table cannot be read: {failed}")
    return _odd(facts)


def equals(wanted: str) -> Judge:
    """Return a judge that is content with that text."""

    def judge(facts: Facts, _: Context) -> Judgement:
        text = facts.get("text")
        if not isinstance(text, str):
            return _unread(facts)
        return ok(clean(text)) if text == wanted else weak(clean(text) or "nothing")

    return judge


def at_least_one(facts: Facts, _: Context) -> Judgement:
    """Weak if the number is 0."""
    text = facts.get("text")
    if not isinstance(text, str) or not text.isdecimal():
        return _unread(facts)
    return ok(clean(text)) if int(text[:9]) else weak("0")


def capabilities_within(names: Iterable[str]) -> Judge:
    """Return a judge that is content with a part of these."""
    allowed = mask(names)

    def judge(facts: Facts, _: Context) -> Judgement:
        bits = bits_of(facts.get("text"))
        if bits is None:
            return _unread(facts)
        excess = bits & ~allowed
        return weak(f"{bits:016x}: {_listed(names_of(excess))}") if excess else ok(f"{bits:016x}")

    return judge


def bits_of(text: object) -> int | None:
    """Return the number of a capability set as /proc writes it, None for anything else."""
    if not isinstance(text, str) or not 0 < len(text) <= 16:
        return None
    try:
        return int(text, 16)
    except ValueError:
        return None


def names_of(bits: int) -> list[str]:
    """Return the names of capabilities; those that are not known by number."""
    known = {number: name for name, number in CAPABILITIES.items()}
    return [known.get(number, f"capability {number}") for number in range(64) if bits >> number & 1]


def _unread(facts: Facts) -> Judgement:
    failed = error_name(facts)
    return unknown(f"the file cannot be read: {failed}") if failed else _odd(facts)


def capabilities_as_spec(_: Facts, context: Context) -> Judgement:
    """Weak if a set holds what `process.capabilities` does not give it."""
    asked = (context.spec.get("process") or {}).get("capabilities") or {}
    excess = []
    for name in ("bounding", "effective", "permitted", "inheritable", "ambient"):
        bits = bits_of(context.text(f"capabilities.{name}"))
        if bits is None:
            return unknown(f"the {name} set was not observed")
        more = bits & ~mask(known for known in asked.get(name) or () if known in CAPABILITIES)
        excess += [f"{name} {each}" for each in names_of(more)]
    return weak(f"beyond the spec: {_listed(excess)}") if excess else ok("none beyond the spec")


def id_as_spec(key: str) -> Judge:
    """Return a judge that is content where all four ids are those of `process.user`."""

    def judge(facts: Facts, context: Context) -> Judgement:
        text = facts.get("text")
        if not isinstance(text, str):
            return _unread(facts)
        wanted = str(((context.spec.get("process") or {}).get("user") or {}).get(key, 0))
        return ok(wanted) if text.split() == [wanted] * 4 else weak(f"{clean(text)} instead of {wanted}")

    return judge


def groups_as_spec(facts: Facts, context: Context) -> Judgement:
    """Weak if there is a supplementary group that the spec does not name."""
    text = facts.get("text")
    if not isinstance(text, str):
        return _unread(facts)
    user = (context.spec.get("process") or {}).get("user") or {}
    named = {str(gid) for gid in (*(user.get("additionalGids") or ()), user.get("gid", 0))}
    excess = [group for group in text.split() if group not in named]
    return weak(f"beyond the spec: {clean(' '.join(excess))}") if excess else ok(clean(text) or "none")


def limited(facts: Facts, _: Context) -> Judgement:
    """Weak if there is no hard limit."""
    hard = facts.get("hard")
    if not isinstance(hard, str):
        return _unread(facts)
    return weak("unlimited") if hard == "unlimited" else ok(clean(hard))


def no_core(facts: Facts, _: Context) -> Judgement:
    """Weak if a core would be dumped."""
    soft = facts.get("soft")
    if not isinstance(soft, str):
        return _unread(facts)
    return ok("0") if soft == "0" else weak(clean(soft))


def own_children_only(facts: Facts, context: Context) -> Judgement:
    """Weak if it can be done where other processes can be seen."""
    if facts.get("done") is not True:
        return refused(facts, context)
    visible = context.facts.get("processes.visible", {}).get("found")
    if visible == []:
        return ok("allowed on its own children, the only processes that it sees")
    return weak("allowed, and other processes can be seen")


def differs(facts: Facts, context: Context, probe: str) -> Judgement:
    """Weak if a line is the host's."""
    text, own = facts.get("text"), context.host.get(probe)
    if not isinstance(text, str):
        return ok(failed) if (failed := error_name(facts)) else _odd(facts)
    if own is None:
        return unknown("the host's own could not be read")
    return weak(f"the host's: {clean(text, 60)}") if text == own else ok(clean(text, 60) or "nothing")


def uptime_differs(facts: Facts, context: Context) -> Judgement:
    """Weak if it is the host's, give or take a minute."""
    theirs, ours = _number(facts.get("text"), 0), _number(context.host.get("host.uptime"), 0)
    if theirs is None or ours is None:
        return ok(failed) if (failed := error_name(facts)) else _odd(facts)
    far = abs(theirs - ours) >= 60
    return ok(f"{theirs:.0f} s") if far else weak(f"the host's: {theirs:.0f} s")


def load_differs(facts: Facts, context: Context) -> Judgement:
    """Weak if the longest average is the host's; that of a machine that never had a load tells nothing."""
    theirs, ours = _number(facts.get("text"), 2), _number(context.host.get("host.load"), 2)
    if theirs is None or ours is None:
        return ok(failed) if (failed := error_name(facts)) else _odd(facts)
    if ours == 0.0:
        return unknown("the host has no load to compare with", f"{theirs}")
    return ok(f"{theirs}") if abs(theirs - ours) > 0.05 else weak(f"the host's: {theirs}")


def _number(text: object, index: int) -> float | None:
    """Return a word of a text as a number, None if it is none."""
    try:
        number = float(str(text).split()[index]) if isinstance(text, str) else math.nan
    except (ValueError, IndexError):
        return None
    return number if math.isfinite(number) else None


def few_calls(limit: int) -> Judge:
    """Return a judge that is content with that many system calls of the sweep."""

    def judge(facts: Facts, _: Context) -> Judgement:
        reached, silent = facts.get("reached"), facts.get("silent")
        if not isinstance(reached, list) or not isinstance(silent, list):
            return _odd(facts)
        more = f", {len(silent)} without an answer" if silent else ""
        seen = f"{len(reached)} reached{more}"
        return ok(seen) if len(reached) + len(silent) <= limit else weak(seen)

    return judge


# -- from outside ------------------------------------------------------------------------------------------------------


def all_threads(facts: Facts, _: Context) -> Judgement:
    """Weak if a thread has not what all should have."""
    threads, without = facts.get("threads"), facts.get("without")
    if not isinstance(threads, int) or not isinstance(without, int):
        return _odd(facts)
    return weak(f"{without} of {threads} threads without") if without else ok(f"all {threads} threads")


def not_shared(facts: Facts, _: Context) -> Judgement:
    """Weak if it is the host's."""
    shared = facts.get("shared")
    if not isinstance(shared, bool):
        return _odd(facts)
    return weak("the host's") if shared else ok("its own")


def not_root(facts: Facts, _: Context) -> Judgement:
    """Weak if it runs as root of the host."""
    uid = facts.get("uid")
    if not isinstance(uid, int):
        return _odd(facts)
    seen = f"uid {uid}, map {clean(str(facts.get('map', '')))}"
    return weak(seen) if uid == 0 else ok(seen)


def accelerated(facts: Facts, _: Context) -> Judgement:
    """Weak if the machine is emulated."""
    name = facts.get("text")
    if not isinstance(name, str):
        return _odd(facts)
    return ok(clean(name)) if name == "kvm" else weak(clean(name))


def in_cgroup(facts: Facts, _: Context) -> Judgement:
    """Weak if a controller sees it in the auditor's own cgroup, or in the root."""
    outside = facts.get("outside")
    if not isinstance(outside, list):
        return _odd(facts)
    return weak(f"not in one of its own for {', '.join(map(str, outside))}") if outside else ok("its own")


def pids_bounded(facts: Facts, context: Context) -> Judgement:
    """Weak if the cgroup sets no limit; a kernel of its own has process ids of its own."""
    judgement = bounded(facts, context)
    if judgement.verdict == WEAK and context.own_kernel:
        return ok(f"{judgement.observed}, of its own kernel")
    return judgement


def bounded(facts: Facts, _: Context) -> Judgement:
    """Weak if the cgroup sets no limit."""
    if "limit" not in facts:
        return _odd(facts)
    limit = facts["limit"]
    if not isinstance(limit, str):
        return weak("unlimited") if limit is None else _odd(facts)
    return ok(clean(limit))
