//! Cgroups of version 2: a container's own, below the mount at /sys/fs/cgroup. Every name in them comes from the host as
//! a relative path of plain names, and is resolved beneath the cgroup's own descriptor.

use crate::messages::FileWrite;
use crate::status::{refuse, Answer, Said, Status, INVALID_ARGUMENT};
use crate::sys as own;
use pysandbox_guest::sys::{self, Errno};
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

const ROOT: &std::ffi::CStr = c"/sys/fs/cgroup";
const BENEATH: u64 = sys::RESOLVE_BENEATH | sys::RESOLVE_NO_SYMLINKS | sys::RESOLVE_NO_XDEV;
const DIRECTORY: i32 = libc::O_RDONLY | libc::O_DIRECTORY;
/// Bytes of one file, and how deep cgroups of a container are looked into.
const LONGEST_FILE: usize = 64 * 1024;
const DEEPEST: usize = 32;

/// A relative path of plain names: nothing empty, no `.` or `..`.
pub fn plain(path: &str) -> Answer<CString> {
    let is_plain = |name: &str| !name.is_empty() && name != "." && name != ".." && name.len() < 256;
    if path.len() < 4096 && path.split('/').all(is_plain) {
        if let Ok(path) = CString::new(path) {
            return Ok(path);
        }
    }
    refuse(
        INVALID_ARGUMENT,
        format!("{path:?}: is no relative path of plain names"),
    )
}

pub struct Cgroup {
    pub path: String,
    directory: OwnedFd,
}

impl Cgroup {
    /// Make a cgroup and what is missing above it, with every controller there is.
    pub fn create(path: &str) -> Answer<Cgroup> {
        let path = path.trim_matches('/');
        plain(path)?;
        let mut directory = sys::open(ROOT, DIRECTORY).said("open", "/sys/fs/cgroup")?;
        let mut made = false;
        for name in path.split('/') {
            enable_controllers(directory.as_fd());
            let name = plain(name)?;
            made = match sys::mkdirat(directory.as_fd(), &name, 0o755) {
                Err(Errno(libc::EEXIST)) => false,
                result => result.said("mkdir", path).map(|()| true)?,
            };
            directory = open(directory.as_fd(), &name, DIRECTORY).said("openat2", path)?;
        }
        if !made {
            return Err(Errno(libc::EEXIST)).said("mkdir", path);
        }
        Ok(Cgroup {
            path: path.to_string(),
            directory,
        })
    }

    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// A cgroup below this one, or another descriptor of this one.
    pub fn below(&self, path: &str) -> Answer<OwnedFd> {
        if path.is_empty() {
            return open(self.descriptor(), c".", DIRECTORY).said("openat2", &self.path);
        }
        open(self.descriptor(), &plain(path)?, DIRECTORY).said("openat2", path)
    }

    pub fn write(&self, write: &FileWrite) -> Answer<()> {
        let name = plain(&write.file)?;
        write_file(self.descriptor(), &name, write.value.as_bytes()).said("write", &write.file)
    }

    /// What a file holds; None where there is none.
    pub fn read(&self, name: &str) -> Answer<Option<String>> {
        match read_file(self.descriptor(), &plain(name)?) {
            Ok(text) => Ok(Some(text)),
            Err(Errno(libc::ENOENT | libc::EOPNOTSUPP | libc::ENODEV)) => Ok(None),
            Err(errno) => Err(errno).said("read", name),
        }
    }

    pub fn add(&self, below: &str, pid: i32) -> Answer<()> {
        let directory = self.below(below)?;
        let text = pid.to_string();
        write_file(directory.as_fd(), c"cgroup.procs", text.as_bytes())
            .said("write", "cgroup.procs")
    }

    pub fn set_device_program(&self, program: BorrowedFd) -> Answer<()> {
        own::attach_device_program(self.descriptor(), program).said("bpf", "BPF_PROG_ATTACH")
    }

    /// End every process in it.
    pub fn kill(&self) {
        if write_file(self.descriptor(), c"cgroup.kill", b"1").is_err() {
            for pid in self.pids() {
                let _ = sys::kill(pid, libc::SIGKILL);
            }
        }
        // What is frozen dies of a kill, but not of the single signals.
        let _ = write_file(self.descriptor(), c"cgroup.freeze", b"0");
    }

    pub fn is_populated(&self) -> bool {
        let text = read_file(self.descriptor(), c"cgroup.events").unwrap_or_default();
        value(&text, "populated") == Some(1)
    }

    /// Processes that were killed for want of memory, in it and below.
    pub fn memory_kills(&self) -> u64 {
        let text = read_file(self.descriptor(), c"memory.events").unwrap_or_default();
        value(&text, "oom_kill").unwrap_or(0)
    }

    /// A path of its memory.events that no name of a container is part of.
    pub fn memory_events(&self) -> CString {
        let number = self.directory.as_raw_fd();
        CString::new(format!("/proc/self/fd/{number}/memory.events")).unwrap_or_default()
    }

    pub fn pids(&self) -> Vec<i32> {
        let mut pids = Vec::new();
        collect_pids(self.descriptor(), DEEPEST, &mut pids);
        pids
    }

    /// Remove it and all below. EBUSY while there are processes.
    pub fn remove(&self) -> Result<(), Errno> {
        remove_below(self.descriptor(), DEEPEST)?;
        let root = sys::open(ROOT, DIRECTORY)?;
        let path = CString::new(self.path.as_str()).map_err(|_| Errno(libc::EINVAL))?;
        match sys::unlinkat(root.as_fd(), &path, libc::AT_REMOVEDIR) {
            Err(Errno(libc::ENOENT)) => Ok(()),
            result => result,
        }
    }
}

fn open(directory: BorrowedFd, name: &std::ffi::CStr, flags: i32) -> sys::Result<OwnedFd> {
    sys::openat2(directory, name, flags, BENEATH)
}

fn write_file(directory: BorrowedFd, name: &std::ffi::CStr, value: &[u8]) -> sys::Result<()> {
    let file = open(directory, name, libc::O_WRONLY)?;
    sys::write(file.as_fd(), value).map(|_| ())
}

fn read_file(directory: BorrowedFd, name: &std::ffi::CStr) -> sys::Result<String> {
    let file = open(directory, name, libc::O_RDONLY)?;
    let data = sys::read_at_most(file.as_fd(), LONGEST_FILE)?;
    Ok(String::from_utf8_lossy(&data).into_owned())
}

/// The number behind a name, of lines such as `oom_kill 3`.
fn value(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (key, number) = line.split_once(' ')?;
        (key == name).then(|| number.parse().ok())?
    })
}

/// Let the cgroups below have controllers: each by itself, so that one that cannot be had spoils no other.
fn enable_controllers(directory: BorrowedFd) {
    let there = read_file(directory, c"cgroup.controllers").unwrap_or_default();
    for name in there.split_whitespace() {
        let word = format!("+{name}");
        let _ = write_file(directory, c"cgroup.subtree_control", word.as_bytes());
    }
}

fn children(directory: BorrowedFd) -> Vec<(CString, OwnedFd)> {
    const MOST: usize = 4096;
    // Opened anew: where the last reading of a directory ended, the next begins.
    let anew = open(directory, c".", DIRECTORY);
    let names = anew.and_then(|fresh| sys::list(fresh.as_fd()));
    let names = names.unwrap_or_default();
    let open = |name: CString| open(directory, &name, DIRECTORY).ok().map(|fd| (name, fd));
    names.into_iter().filter_map(open).take(MOST).collect()
}

fn collect_pids(directory: BorrowedFd, depth: usize, pids: &mut Vec<i32>) {
    // A threaded cgroup has no processes to tell.
    let text = read_file(directory, c"cgroup.procs").unwrap_or_default();
    pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
    if depth > 0 {
        for (_, child) in children(directory) {
            collect_pids(child.as_fd(), depth - 1, pids);
        }
    }
}

fn remove_below(directory: BorrowedFd, depth: usize) -> Result<(), Errno> {
    if depth == 0 {
        return Err(Errno(libc::ELOOP));
    }
    for (name, child) in children(directory) {
        remove_below(child.as_fd(), depth - 1)?;
        sys::unlinkat(directory, &name, libc::AT_REMOVEDIR)?;
    }
    Ok(())
}

impl From<Errno> for Status {
    fn from(errno: Errno) -> Status {
        let failed: Result<(), Errno> = Err(errno);
        failed.said("", "").unwrap_err()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_relative_names_are_taken() {
        for path in ["memory.max", "a/b.c", "a b", "...", "x..y"] {
            assert!(plain(path).is_ok(), "{path}");
        }
        let long = "x".repeat(256);
        for path in [
            "", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "../a", "a/.", "a\0b", &long,
        ] {
            assert!(plain(path).is_err(), "{path}");
        }
    }

    #[test]
    fn numbers_are_found_behind_their_names() {
        let text = "low 0\noom 2\noom_kill 3\n";
        assert_eq!(value(text, "oom_kill"), Some(3));
        assert_eq!(value(text, "kill"), None);
        assert_eq!(value("oom_kill x", "oom_kill"), None);
    }
}
