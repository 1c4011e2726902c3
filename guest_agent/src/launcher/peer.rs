//! Who serves. A server that is uid 0 may still be root in a container which has got hold of the directory, and it would
//! have programs started by us: it must have exactly what this process has, as it demands of us.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use pysandbox_guest::sys::{self, Errno};

/// The process at the other end, by its pidfd. EPERM for one that has not our user ids, capabilities, no_new_privs, or
/// user and pid namespaces, or that has a seccomp filter where we have none.
pub fn equal(socket: BorrowedFd) -> sys::Result<OwnedFd> {
    let process = sys::peer_pidfd(socket)?;
    let (pid, uid) = sys::peer_credentials(socket)?;
    let (theirs, ours) = (Standing::of(&pid.to_string())?, Standing::of("self")?);
    // It lives: so what was read under its pid was its own.
    let ended = sys::poll(&[(process.as_fd(), libc::POLLIN)], 0)?[0] != 0;
    if ended || uid != 0 || theirs != ours {
        return Err(Errno(libc::EPERM));
    }
    Ok(process)
}

#[derive(PartialEq)]
struct Standing {
    powers: Vec<u8>,
    namespaces: [Vec<u8>; 2],
}

impl Standing {
    fn of(process: &str) -> sys::Result<Standing> {
        let file = |name: &str| {
            let path = format!("/proc/{process}/{name}");
            CString::new(path).map_err(|_| Errno(libc::EINVAL))
        };
        let status = sys::open(&file("status")?, libc::O_RDONLY)?;
        let status = sys::read_at_most(status.as_fd(), 16 * 1024)?;
        let here = sys::borrow(libc::AT_FDCWD);
        let link = |name: &str| -> sys::Result<Vec<u8>> {
            Ok(sys::readlinkat(here, &file(name)?)?.into_bytes())
        };
        Ok(Standing {
            powers: powers(&status),
            namespaces: [link("ns/user")?, link("ns/pid")?],
        })
    }
}

/// The lines of /proc/PID/status (proc(5)) that say what a process may do.
fn powers(status: &[u8]) -> Vec<u8> {
    const NAMES: [&[u8]; 8] = [
        b"Uid:",
        b"CapInh:",
        b"CapPrm:",
        b"CapEff:",
        b"CapBnd:",
        b"CapAmb:",
        b"NoNewPrivs:",
        b"Seccomp:",
    ];
    let lines = status.split(|&byte| byte == b'\n');
    let wanted = lines.filter(|line| NAMES.iter().any(|name| line.starts_with(name)));
    wanted.collect::<Vec<_>>().join(&b'\n')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_are_the_lines_that_count() {
        let status =
            b"Name:\tx\nUid:\t0\t0\t0\t0\nGid:\t0\nCapEff:\tff\nSeccomp:\t0\nSeccomp_filters:\t0\n";
        assert_eq!(
            powers(status),
            b"Uid:\t0\t0\t0\t0\nCapEff:\tff\nSeccomp:\t0"
        );
    }

    #[test]
    fn this_process_has_what_it_has() {
        assert!(Standing::of("self").unwrap() == Standing::of("self").unwrap());
    }
}
