//! Where this installation's server is: a directory of root's, and in it files that begin with the installation's key.
//! `pysandbox/warm/place.py` has the same rules.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use pysandbox_guest::sys::{self, Errno};

use crate::caller::Caller;

const DEFAULT_DIRECTORY: &CStr = c"/run/pysandbox-server";
const VARIABLE: &str = "PYSANDBOX_WARM";
/// What the process that owns a machine is started as.
const SANDBOX: &[u8] = b"pysandbox-sandbox";

pub struct Place {
    /// The script that the server runs, and whose file the key names.
    pub script: CString,
    pub directory: CString,
    pub key: String,
    /// Which of its sockets: spares accept on `sock`; who serves a `shim` is forked for it, as it will live long.
    pub kind: &'static str,
}

impl Place {
    /// None where no server is wanted, or the installation has none to start.
    pub fn find(caller: &Caller) -> Option<Place> {
        let directory = directory(caller.variable(VARIABLE))?;
        let script = caller.beside("pysandbox-cold")?;
        let key = key(&sys::stat(&script).ok()?);
        Some(Place {
            script,
            directory,
            key,
            kind: kind(caller.program()),
        })
    }

    /// The directory, opened without following a link. EPERM where others than root could have put something in it.
    pub fn open(&self) -> sys::Result<OwnedFd> {
        let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW;
        let directory = sys::open(&self.directory, flags)?;
        let status = sys::fstat(directory.as_fd())?;
        if status.st_uid != 0 || status.st_mode & 0o077 != 0 {
            return Err(Errno(libc::EPERM));
        }
        Ok(directory)
    }

    /// The socket to connect to, below an open directory: whatever becomes of the path, it is that one's.
    pub fn socket(&self, directory: &OwnedFd) -> CString {
        let (number, key, kind) = (directory.as_raw_fd(), &self.key, self.kind);
        let path = format!("/proc/self/fd/{number}/{key}.{kind}");
        CString::new(path).unwrap_or_default()
    }

    pub fn lock(&self) -> CString {
        CString::new(format!("{}.lock", self.key)).unwrap_or_default()
    }
}

fn kind(program: &[u8]) -> &'static str {
    if program.starts_with(b"containerd-shim-") || program == SANDBOX {
        "shim"
    } else {
        "sock"
    }
}

/// The directory that a value of PYSANDBOX_WARM means; None for `off`, and for a relative path.
fn directory(value: Option<&[u8]>) -> Option<CString> {
    match value {
        None | Some(b"") => Some(DEFAULT_DIRECTORY.to_owned()),
        Some(path) if path.starts_with(b"/") => CString::new(path).ok(),
        Some(_) => None,
    }
}

/// The key of an installation: another file is another key.
fn key(status: &libc::stat) -> String {
    let modified = i128::from(status.st_mtime) * 1_000_000_000 + i128::from(status.st_mtime_nsec);
    format!("{:x}-{:x}-{modified:x}", status.st_dev, status.st_ino)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn off_and_relative_paths_mean_no_server() {
        assert_eq!(directory(None).as_deref(), Some(DEFAULT_DIRECTORY));
        assert_eq!(directory(Some(b"")).as_deref(), Some(DEFAULT_DIRECTORY));
        assert_eq!(directory(Some(b"/tmp/x")).as_deref(), Some(c"/tmp/x"));
        assert_eq!(directory(Some(b"off")), None);
        assert_eq!(directory(Some(b"tmp/x")), None);
    }

    #[test]
    fn who_lives_long_is_forked_when_it_is_asked_for() {
        assert_eq!(kind(b"pysandbox"), "sock");
        assert_eq!(kind(b"pysandbox-sandbox"), "shim");
        assert_eq!(kind(b"containerd-shim-pysandbox-v2"), "shim");
    }

    #[test]
    fn a_file_that_has_changed_has_another_key() {
        let mut status = sys::stat(c"/").unwrap();
        (status.st_dev, status.st_ino) = (0x801, 0xabc);
        (status.st_mtime, status.st_mtime_nsec) = (1, 2);
        assert_eq!(key(&status), "801-abc-3b9aca02");
        status.st_mtime_nsec = 3;
        assert_eq!(key(&status), "801-abc-3b9aca03");
    }
}
