//! What is written to procfs: in the host's before any namespace changes, after that only in a private one.

use crate::executor::Executor;
use crate::plan::Text;
use crate::report::{Context, Failure, Outcome};
use crate::sys::{self, Errno};
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

pub fn oom_score_adj(value: i32) -> Outcome {
    const PATH: &str = "/proc/self/oom_score_adj";
    let file = sys::open(c"/proc/self/oom_score_adj", libc::O_WRONLY).at("open", PATH)?;
    write_whole(file.as_fd(), value.to_string().as_bytes(), PATH)
}

/// A procfs of the pid namespace, attached nowhere: nobody can have put anything over its files (CVE-2025-52881).
pub fn open_proc(executor: &mut Executor) -> Outcome {
    let context = sys::fsopen(c"proc").at("fsopen", "proc")?;
    sys::fsconfig_create(context.as_fd()).at("fsconfig", "proc")?;
    const ATTRIBUTES: u64 = sys::MOUNT_ATTR_NOSUID | sys::MOUNT_ATTR_NODEV | sys::MOUNT_ATTR_NOEXEC;
    let mount = sys::fsmount(context.as_fd(), ATTRIBUTES).at("fsmount", "proc")?;
    executor.slots.set("proc", mount);
    Ok(())
}

/// Open a file of the private procfs for writing; no link and no other mount can be on the way.
fn open_private(executor: &Executor, path: &str) -> Outcome<OwnedFd> {
    const RESOLVE: u64 = sys::RESOLVE_BENEATH
        | sys::RESOLVE_NO_XDEV
        | sys::RESOLVE_NO_MAGICLINKS
        | sys::RESOLVE_NO_SYMLINKS;
    let proc = executor.slots.get("proc")?;
    let name = CString::new(path).map_err(|_| Errno(libc::EINVAL));
    let name = name.at("openat2", path)?;
    let flags = libc::O_WRONLY | libc::O_NOFOLLOW;
    let file = sys::openat2(proc, &name, flags, RESOLVE).at("openat2", &format!("/proc/{path}"))?;
    if sys::filesystem(file.as_fd()).at("fstatfs", path)? != sys::PROC_SUPER_MAGIC {
        return Err(Failure::new(
            "fstatfs",
            path,
            libc::EXDEV,
            "is not on procfs",
        ));
    }
    Ok(file)
}

/// Write in one call: the kernel's files take a value whole or not at all.
fn write_whole(file: BorrowedFd, data: &[u8], path: &str) -> Outcome {
    match sys::write(file, data).at("write", path)? {
        length if length == data.len() => Ok(()),
        _ => Err(Errno(libc::EIO)).at("write", path),
    }
}

fn write_private(executor: &Executor, path: &str, data: &[u8]) -> Outcome {
    let file = open_private(executor, path)?;
    write_whole(file.as_fd(), data, &format!("/proc/{path}"))
}

pub fn sysctl(executor: &Executor, key: &Text, value: &Text) -> Outcome {
    let path = sysctl_path(key.as_str())
        .ok_or_else(|| Failure::new("sysctl", key.as_str(), libc::EINVAL, "is not a sysctl"))?;
    write_private(executor, &path, value.as_str().as_bytes())
}

/// The file of a sysctl below /proc. As for sysctl(8), the first separator of the key says which of "." and "/" it
/// uses; the other one is part of a name then (an interface called eth0.1).
fn sysctl_path(key: &str) -> Option<String> {
    let swap = |c| match c {
        '.' => '/',
        '/' => '.',
        c => c,
    };
    let path: String = match key.find(['.', '/']) {
        Some(place) if key.as_bytes()[place] == b'.' => key.chars().map(swap).collect(),
        _ => key.to_string(),
    };
    let is_name = |part: &str| !part.is_empty() && part != "." && part != "..";
    path.split('/').all(is_name).then(|| format!("sys/{path}"))
}

/// This process as the private procfs numbers it: one of the host's has other numbers than our own pid namespace.
fn own_pid(executor: &Executor) -> Outcome<String> {
    let proc = executor.slots.get("proc")?;
    let pid = sys::readlinkat(proc, c"self").at("readlinkat", "/proc/self")?;
    Ok(pid.to_string_lossy().into_owned())
}

pub fn apparmor(executor: &Executor, profile: &Text) -> Outcome {
    let data = format!("exec {}", profile.as_str());
    let pid = own_pid(executor)?;
    let own = format!("{pid}/attr/apparmor/exec");
    match open_private(executor, &own) {
        Ok(file) => write_whole(file.as_fd(), data.as_bytes(), &format!("/proc/{own}")),
        // Before Linux 5.8, or without stacking, all modules share one file.
        Err(failure) if failure.errno == libc::ENOENT => {
            let shared = format!("{pid}/attr/exec");
            write_private(executor, &shared, data.as_bytes())
        }
        Err(failure) => Err(failure),
    }
}

pub fn selinux(executor: &Executor, label: &Text) -> Outcome {
    let path = format!("{}/attr/exec", own_pid(executor)?);
    write_private(executor, &path, label.as_str().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sysctl_with_dots_is_a_path() {
        assert_eq!(
            sysctl_path("net.ipv4.ip_forward").unwrap(),
            "sys/net/ipv4/ip_forward"
        );
    }

    #[test]
    fn the_other_separator_belongs_to_the_name() {
        let expected = "sys/net/ipv4/conf/eth0.1/forwarding";
        assert_eq!(
            sysctl_path("net.ipv4.conf.eth0/1.forwarding").unwrap(),
            expected
        );
        assert_eq!(
            sysctl_path("net/ipv4/conf/eth0.1/forwarding").unwrap(),
            expected
        );
    }

    #[test]
    fn a_key_that_leads_elsewhere_is_refused() {
        for key in [
            "",
            "kernel..core_pattern",
            "../../sysrq-trigger",
            "/kernel/x",
            "net/../x",
        ] {
            assert!(sysctl_path(key).is_none(), "{key}");
        }
    }
}
