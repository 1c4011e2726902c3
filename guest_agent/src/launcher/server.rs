//! The server: connecting to one of its spares, and starting it where there is none.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};

use pysandbox_guest::sys::{self, Errno};

use crate::peer;
use crate::place::Place;

/// Seconds between two starts: one that cannot live is not tried with every command.
const BETWEEN_STARTS: i64 = 5;
/// Seconds that a server which can never live here may put that off for: it dates its lock file in the future.
const LONGEST_PAUSE: i64 = 3600;
/// A server acts for callers in other namespaces, but it lives in the host's own. Kinds, with the numbers of the initial
/// ones: `enum init_ns_ino` of linux/nsfs.h (Linux 6.18; those of mnt and net had no fixed number before).
const NAMESPACES: [(&CStr, u32); 8] = [
    (c"mnt", 0xefff_fff8),
    (c"net", 0xefff_fff9),
    (c"ipc", 0xefff_ffff),
    (c"uts", 0xefff_fffe),
    (c"pid", 0xefff_fffc),
    (c"user", 0xefff_fffd),
    (c"cgroup", 0xefff_fffb),
    (c"time", 0xefff_fffa),
];
/// Whoever starts a server does not choose where its programs come from.
const PATH: &CStr = c"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Why there is no connection.
pub enum Absent {
    /// There is no server: one may be started.
    Startable,
    /// There is something, but it is busy or not to be trusted.
    Unusable,
}

/// Connect; the socket, and the server's pidfd.
pub fn connect(place: &Place) -> Result<(OwnedFd, OwnedFd), Absent> {
    let directory = place.open().map_err(absent)?;
    let socket = sys::connect(&place.socket(&directory)).map_err(absent)?;
    match peer::equal(socket.as_fd()) {
        Ok(process) => Ok((socket, process)),
        Err(_) => Err(Absent::Unusable),
    }
}

fn absent(errno: Errno) -> Absent {
    match errno.0 {
        libc::ENOENT | libc::ECONNREFUSED => Absent::Startable,
        _ => Absent::Unusable,
    }
}

/// Start the server, if this is the host and nobody has tried a moment ago. The command does not wait for it.
pub fn start(place: &Place) {
    if !is_host() || was_started(place) || !tells_who_calls() {
        return;
    }
    match sys::fork_quietly() {
        Ok(Some(child)) => {
            let _ = sys::wait_quietly(child);
        }
        Ok(None) => {
            let _ = prepare(place);
            sys::exit(0)
        }
        Err(_) => {}
    }
}

/// Whether this kernel tells processes that talk to each other who they are, race-free: Linux 6.5.
fn tells_who_calls() -> bool {
    sys::stream_pair().is_ok_and(|(one, _other)| sys::peer_pidfd(one.as_fd()).is_ok())
}

/// Whether this process is in all namespaces of PID 1; in the initial ones where PID 1 may not be asked, which takes
/// all the capabilities that it has (ptrace(2), `PTRACE_MODE_READ_FSCREDS`).
fn is_host() -> bool {
    let own = sys::open(c"/proc/self/ns", libc::O_PATH | libc::O_DIRECTORY);
    let first = sys::open(c"/proc/1/ns", libc::O_PATH | libc::O_DIRECTORY);
    let (Ok(own), Ok(first)) = (own, first) else {
        return false;
    };
    NAMESPACES.iter().all(|(kind, initial)| {
        let ours = sys::readlinkat(own.as_fd(), kind);
        let its = sys::readlinkat(first.as_fd(), kind);
        is_shared(kind, ours, its, *initial)
    })
}

/// Whether a namespace of ours is PID 1's, from what the links in both `ns` directories say: `mnt:[4026531832]`.
fn is_shared(
    kind: &CStr,
    ours: sys::Result<CString>,
    its: sys::Result<CString>,
    initial: u32,
) -> bool {
    match (ours, its) {
        (Ok(ours), Ok(its)) => ours == its,
        (Ok(ours), Err(Errno(libc::EACCES))) => {
            let kind = kind.to_string_lossy();
            ours.to_bytes() == format!("{kind}:[{initial}]").as_bytes()
        }
        // A kind that this kernel does not have.
        (Err(Errno(libc::ENOENT)), Err(Errno(libc::ENOENT))) => true,
        _ => false,
    }
}

fn was_started(place: &Place) -> bool {
    let Ok(directory) = place.open() else {
        return false;
    };
    let lock = sys::fstatat(directory.as_fd(), &place.lock());
    lock.is_ok_and(|status| is_recent(status.st_mtime, sys::realtime()))
}

/// A time further to come says nothing: the clock has been set back since.
fn is_recent(then: i64, now: i64) -> bool {
    (-LONGEST_PAUSE..BETWEEN_STARTS).contains(&now.saturating_sub(then))
}

/// In a child of the launcher's: make the directory, then leave a grandchild that is nobody's any more.
fn prepare(place: &Place) -> sys::Result<()> {
    sys::umask(0o022);
    let here = sys::borrow(libc::AT_FDCWD);
    match sys::mkdirat(here, &place.directory, 0o700) {
        Ok(()) | Err(Errno(libc::EEXIST)) => {}
        Err(errno) => return Err(errno),
    }
    let directory = place.open()?;
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let lock = sys::openat(directory.as_fd(), &place.lock(), flags, 0o600)?;
    sys::touch(lock.as_fd())?;
    sys::setsid()?;
    if sys::fork_quietly()?.is_none() {
        let _ = execute(place);
        sys::exit(1);
    }
    Ok(())
}

/// Become the server, with nothing of the command's but the credentials and limits.
fn execute(place: &Place) -> sys::Result<()> {
    let key = CString::new(place.key.as_str()).unwrap_or_default();
    sys::chdir(c"/")?;
    sys::close_range(0, u32::MAX, false)?;
    for number in 0..3 {
        let null = sys::open(c"/dev/null", libc::O_RDWR)?;
        sys::set_close_on_exec(number, false)?;
        std::mem::forget(null);
    }
    sys::reset_signals();
    let words = [&place.script, c"server", c"serve", &place.directory, &key];
    Err(sys::execve(&place.script, &words, &[PATH]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_is_recent_for_five_seconds() {
        assert!(is_recent(100, 100));
        assert!(is_recent(100, 104));
        assert!(!is_recent(100, 105));
    }

    #[test]
    fn a_start_may_be_put_off_for_an_hour() {
        assert!(is_recent(3700, 100));
        assert!(!is_recent(3701, 100));
        assert!(!is_recent(i64::MAX, -100));
        assert!(!is_recent(i64::MIN, 100));
    }

    #[test]
    fn a_namespace_is_compared_with_that_of_pid_1() {
        let initial = || Ok(c"mnt:[4026531832]".to_owned());
        let other = || Ok(c"mnt:[4026532000]".to_owned());
        let failed = |errno| Err(Errno(errno));
        let shared = |ours, its| is_shared(c"mnt", ours, its, 0xefff_fff8);
        assert!(shared(other(), other()));
        assert!(!shared(initial(), other()));
        assert!(shared(initial(), failed(libc::EACCES)));
        assert!(!shared(other(), failed(libc::EACCES)));
        assert!(shared(failed(libc::ENOENT), failed(libc::ENOENT)));
        assert!(!shared(initial(), failed(libc::ENOENT)));
    }

    #[test]
    fn a_server_is_started_only_where_there_is_none() {
        assert!(matches!(absent(Errno(libc::ENOENT)), Absent::Startable));
        assert!(matches!(
            absent(Errno(libc::ECONNREFUSED)),
            Absent::Startable
        ));
        for errno in [
            libc::EAGAIN,
            libc::EPERM,
            libc::ELOOP,
            libc::ENOTDIR,
            libc::EMFILE,
        ] {
            assert!(matches!(absent(Errno(errno)), Absent::Unusable));
        }
    }
}
