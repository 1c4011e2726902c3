//! Families of sockets: one is made and closed.

use crate::fact::outcome;
use crate::Probe;
use pysandbox_guest::sys;

const STREAM: i32 = libc::SOCK_STREAM;
const DATAGRAM: i32 = libc::SOCK_DGRAM;
const RAW: i32 = libc::SOCK_RAW;
const SEQUENCED: i32 = libc::SOCK_SEQPACKET;

/// Name, family, type, protocol (the kernel's include/linux/socket.h).
const SOCKETS: [(&str, i32, i32, i32); 19] = [
    ("packet", 17, RAW, 0),
    ("inet_raw", 2, RAW, 1),
    ("inet6_raw", 10, RAW, 58),
    ("netlink_audit", 16, RAW, 9),
    ("netlink_xfrm", 16, RAW, 6),
    ("netlink_netfilter", 16, RAW, 12),
    ("netlink_uevent", 16, RAW, 15),
    ("vsock", 40, STREAM, 0),
    ("xdp", 44, RAW, 0),
    ("alg", 38, SEQUENCED, 0),
    ("key", 15, RAW, 2),
    ("rxrpc", 33, DATAGRAM, 2),
    ("tipc", 30, SEQUENCED, 0),
    ("can", 29, RAW, 1),
    ("bluetooth", 31, RAW, 1),
    ("smc", 43, STREAM, 0),
    ("kcm", 41, DATAGRAM, 0),
    ("rds", 21, SEQUENCED, 0),
    ("sctp", 2, STREAM, 132),
];

pub fn probes() -> Vec<Probe> {
    SOCKETS
        .into_iter()
        .map(|(name, family, kind, protocol)| {
            let how = format!("socket({family}, {kind}, {protocol})");
            Probe::new(format!("socket.{name}"), how, move |_| {
                let arguments = [family as usize, kind as usize, protocol as usize, 0, 0, 0];
                outcome(sys::attempt(libc::SYS_socket, arguments))
            })
        })
        .collect()
}
