"""Everything that arrives at one interface is sent out of another: an ingress qdisc with one filter (tc(8)).

A filter redirects before the host's stack has seen a frame: nothing of the host answers ARP, neighbour discovery, ping
or a connection in the guest's stead, though the addresses stay on the interface, where tools of the host look for them.

The qdisc outlives the process that made it, and swallows everything once its tap is gone. It carries a cookie, so that
the next mirror in the namespace, or `remove_stale`, knows it for a dead one of ours.
"""

from __future__ import annotations

import errno
import struct

from pysandbox.errors import FailedPrecondition, Unavailable
from pysandbox.record import dataclass
from pysandbox_microvm.netlink import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    attribute,
    attributes,
    read_text,
    text,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pysandbox_microvm.netlink import Netlink

# linux/rtnetlink.h, pkt_sched.h, pkt_cls.h, tc_act/tc_mirred.h
RTM_NEWQDISC, RTM_DELQDISC, RTM_NEWTFILTER, RTM_GETTFILTER = 36, 37, 44, 46
TCA_KIND, TCA_OPTIONS = 1, 2
TC_H_INGRESS = 0xFFFFFFF1
INGRESS_HANDLE = 0xFFFF0000
ETH_P_ALL = 0x0003
TCA_MATCHALL_ACT = 2
TCA_U32_SEL, TCA_U32_ACT = 5, 7
TC_U32_TERMINAL = 1
TCA_ACT_KIND, TCA_ACT_OPTIONS, TCA_ACT_COOKIE = 1, 2, 6
TCA_MIRRED_PARMS = 2
TCA_EGRESS_REDIR = 1
TC_ACT_STOLEN = 4

#: On every action of ours; at most 16 bytes (TC_COOKIE_MAX_SIZE).
COOKIE = b"pysandbox"
#: struct tcmsg: family, interface, handle, parent, info.
_TCMSG = struct.Struct("=BxxxiIII")
#: struct tc_u32_sel: flags, shift, number of keys, … A selector without keys reads nothing of a frame and takes all.
_U32_SEL = struct.Struct("=BBBxHHhhI")
#: struct tc_mirred: index, capabilities, action, two counts; what to do, interface.
_MIRRED = struct.Struct("=IIiiiiI")
#: Priority 1, all protocols, as tcm_info has them: the protocol in network order.
_ALL_FIRST = 1 << 16 | struct.unpack("=H", struct.pack(">H", ETH_P_ALL))[0]
#: u32 has two nodes for its hash table beside the filter.
_FILTERS = 64


@dataclass(frozen=True, slots=True)
class Redirect:
    """A filter's action. `target` is an interface's index, 0 if that is gone; `ours` says that it has our cookie."""

    target: int
    ours: bool


def redirect(netlink: Netlink, source: int, target: int, name: str) -> None:
    """Send what arrives at interface `source`, called `name`, out of `target`.

    Raises FailedPrecondition if something else has an ingress qdisc there, OSError.
    """
    if not _add_qdisc(netlink, source, name):
        _remove_dead(netlink, source, name)
        if not _add_qdisc(netlink, source, name):
            raise FailedPrecondition(f"interface {name}: somebody gave it an ingress qdisc just now")
    try:
        _add_filter(netlink, source, target, name)
    except BaseException:
        _remove_qdisc(netlink, source, name)
        raise


def end_redirect(netlink: Netlink, source: int, target: int, name: str) -> None:
    """Remove the redirection from `source` to `target` if it is still there. What somebody else put there stays."""
    if _ours(_redirects(netlink, source, name), (target, 0)):
        _remove_qdisc(netlink, source, name)


def remove_stale(netlink: Netlink, source: int, name: str) -> bool:
    """Remove a redirection of ours from `source` if its tap is gone; say whether there was one."""
    found = _ours(_redirects(netlink, source, name), (0,))
    if found:
        _remove_qdisc(netlink, source, name)
    return found


def action(target: int) -> bytes:
    """Return the list of actions of a filter: one, that redirects to an interface."""
    parameters = _MIRRED.pack(0, 0, TC_ACT_STOLEN, 0, 0, TCA_EGRESS_REDIR, target)
    options = attribute(TCA_ACT_OPTIONS, attribute(TCA_MIRRED_PARMS, parameters))
    return attribute(1, text(TCA_ACT_KIND, "mirred") + options + attribute(TCA_ACT_COOKIE, COOKIE))


def matchall(target: int) -> bytes:
    """Return the attributes of a filter that redirects everything: `matchall`."""
    return text(TCA_KIND, "matchall") + attribute(TCA_OPTIONS, attribute(TCA_MATCHALL_ACT, action(target)))


def u32(target: int) -> bytes:
    """Return the same as `u32`, for kernels without `matchall`."""
    selector = attribute(TCA_U32_SEL, _U32_SEL.pack(TC_U32_TERMINAL, 0, 0, 0, 0, 0, 0, 0))
    return text(TCA_KIND, "u32") + attribute(TCA_OPTIONS, selector + attribute(TCA_U32_ACT, action(target)))


def read_redirect(filter_message: bytes) -> Redirect | None:
    """Read the body of a filter: None if it has no action (u32's hash tables), or one that is no redirection."""
    found = attributes(filter_message[_TCMSG.size :])
    kind = read_text(found.get(TCA_KIND))
    options = attributes(found.get(TCA_OPTIONS, b""))
    actions = attributes(options.get({"u32": TCA_U32_ACT, "matchall": TCA_MATCHALL_ACT}.get(kind, 0), b""))
    if 1 not in actions:
        return None
    first = attributes(actions[1])
    parameters = attributes(first.get(TCA_ACT_OPTIONS, b"")).get(TCA_MIRRED_PARMS, b"")
    if read_text(first.get(TCA_ACT_KIND)) != "mirred" or len(parameters) < _MIRRED.size:
        return None
    return Redirect(_MIRRED.unpack_from(parameters)[6], first.get(TCA_ACT_COOKIE) == COOKIE)


def _add_qdisc(netlink: Netlink, index: int, name: str) -> bool:
    body = _TCMSG.pack(0, index, INGRESS_HANDLE, TC_H_INGRESS, 0) + text(TCA_KIND, "ingress")
    try:
        netlink.request(RTM_NEWQDISC, body, NLM_F_CREATE | NLM_F_EXCL, about=f"interface {name}: ingress qdisc")
    except OSError as error:
        if error.errno == errno.EEXIST:
            return False
        if error.errno == errno.ENOENT:
            raise Unavailable("network: this kernel has no ingress qdisc: load the module sch_ingress") from None
        raise
    return True


def _remove_qdisc(netlink: Netlink, index: int, name: str) -> None:
    body = _TCMSG.pack(0, index, INGRESS_HANDLE, TC_H_INGRESS, 0)
    try:
        netlink.request(RTM_DELQDISC, body, about=f"interface {name}: ingress qdisc")
    except OSError as error:
        if error.errno not in (errno.ENODEV, errno.ENOENT, errno.EINVAL):
            raise  # these three: it is gone already, or its interface is


def _add_filter(netlink: Netlink, source: int, target: int, name: str) -> None:
    head = _TCMSG.pack(0, source, 0, INGRESS_HANDLE, _ALL_FIRST)
    for options in (matchall(target), u32(target)):
        try:
            flags = NLM_F_CREATE | NLM_F_EXCL
            netlink.request(RTM_NEWTFILTER, head + options, flags, about=f"interface {name}: filter")
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
        else:
            return
    raise Unavailable("network: this kernel cannot redirect: load the modules cls_matchall (or cls_u32) and act_mirred")


def _remove_dead(netlink: Netlink, source: int, name: str) -> None:
    """Make room where a redirection of ours is that leads nowhere. Raises FailedPrecondition."""
    found = _redirects(netlink, source, name)
    if _ours(found, (0,)):
        _remove_qdisc(netlink, source, name)
    elif any(each.ours for each in found):
        raise FailedPrecondition(
            f"interface {name}: another sandbox has it: end that one, or use a namespace of its own"
        )
    else:
        raise FailedPrecondition(
            f"interface {name}: something else has an ingress or clsact qdisc there (tc qdisc show dev {name}):"
            " a machine needs it alone"
        )


def _redirects(netlink: Netlink, source: int, name: str) -> list[Redirect]:
    body = _TCMSG.pack(0, source, 0, INGRESS_HANDLE, 0)
    try:
        messages = netlink.dump(RTM_GETTFILTER, body, limit=_FILTERS, about=f"interface {name}: filters")
    except OSError as error:
        if error.errno in (errno.ENODEV, errno.ENOENT, errno.EINVAL):
            return []
        raise
    return [found for message in messages if (found := read_redirect(message)) is not None]


def _ours(redirects: list[Redirect], targets: tuple[int, ...]) -> bool:
    return len(redirects) == 1 and redirects[0].ours and redirects[0].target in targets
