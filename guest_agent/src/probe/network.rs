//! What can be seen of others by the network: sockets and services of the same network namespace, an address that clouds
//! answer at.

use crate::fact::{cut, errno_of, facts, outcome, Facts};
use crate::status::of_file;
use crate::Probe;
use pysandbox_guest::sys::Errno;
use serde_json::{json, Value};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const MANY: usize = 20;

pub fn probes() -> Vec<Probe> {
    vec![
        Probe::new(
            "network.abstract_sockets",
            "names that begin with @ in /proc/net/unix",
            of_file("/proc/net/unix", |table, _| {
                facts([("found", abstract_names(table))])
            }),
        ),
        Probe::new(
            "network.listeners",
            "listening sockets in /proc/net/tcp",
            of_file("/proc/net/tcp", |table, _| {
                facts([("found", listeners(table))])
            }),
        ),
        Probe::new(
            "network.listeners6",
            "listening sockets in /proc/net/tcp6",
            of_file("/proc/net/tcp6", |table, _| {
                facts([("found", listeners(table))])
            }),
        ),
        Probe::new(
            "network.metadata",
            "connect to 169.254.169.254, port 80, for at most 1 s; nothing is sent",
            |_| metadata(),
        ),
    ]
}

fn abstract_names(table: &str) -> Value {
    table
        .lines()
        .filter_map(|line| {
            line.split_whitespace()
                .last()
                .filter(|name| name.starts_with('@'))
        })
        .take(MANY)
        .map(|name| json!(cut(name)))
        .collect()
}

/// Local addresses, as the kernel writes them, of the sockets in state 0A: LISTEN.
fn listeners(table: &str) -> Value {
    table
        .lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            let (local, state) = (fields.nth(1)?, fields.nth(1)?);
            (state == "0A").then(|| json!(cut(local)))
        })
        .take(MANY)
        .collect()
}

fn metadata() -> Facts {
    let address = SocketAddr::from(([169, 254, 169, 254], 80));
    match TcpStream::connect_timeout(&address, Duration::from_secs(1)) {
        Ok(_) => outcome(Ok(())),
        Err(error) if error.kind() == std::io::ErrorKind::TimedOut => {
            outcome::<()>(Err(Errno(libc::ETIMEDOUT)))
        }
        Err(error) => outcome::<()>(Err(errno_of(&error))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listening_socket_and_an_abstract_name_are_found_and_others_are_not() {
        let tcp = "  sl  local_address rem_address   st\n\
             0: 0100007F:0050 00000000:0000 0A 0\n   1: 0100007F:0051 0100007F:0050 01 0\n";
        let unix = "Num RefCount Protocol Flags Type St Inode Path\n\
             0000: 2 0 0 1 1 10 /run/x\n0000: 2 0 0 1 1 11 @name\n";
        assert_eq!(listeners(tcp), json!(["0100007F:0050"]));
        assert_eq!(abstract_names(unix), json!(["@name"]));
    }
}
