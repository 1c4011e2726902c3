//! Namespaces: joined, made, and set up.

use crate::executor::Executor;
use crate::plan::{IdMap, Operation, Text};
use crate::report::{Context, Failure, Outcome};
use crate::sys::{self, Errno};
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

pub const CLONE_NEWTIME: i32 = 0x80;

/// The `CLONE_NEW*` flag of a namespace kind, named as in the spec.
fn kind_flag(kind: &str) -> Outcome<i32> {
    Ok(match kind {
        "pid" => libc::CLONE_NEWPID,
        "network" => libc::CLONE_NEWNET,
        "mount" => libc::CLONE_NEWNS,
        "ipc" => libc::CLONE_NEWIPC,
        "uts" => libc::CLONE_NEWUTS,
        "user" => libc::CLONE_NEWUSER,
        "cgroup" => libc::CLONE_NEWCGROUP,
        "time" => CLONE_NEWTIME,
        _ => {
            let text = format!("unknown namespace kind {kind:?}");
            return Err(Failure::new("namespace", kind, libc::EINVAL, text));
        }
    })
}

fn kind_flags(kinds: &[Text]) -> Outcome<i32> {
    let mut flags = kinds.iter().map(|kind| kind_flag(kind.as_str()));
    flags.try_fold(0, |all, flag| flag.map(|flag| all | flag))
}

fn kind_names(kinds: &[Text]) -> String {
    let names: Vec<&str> = kinds.iter().map(Text::as_str).collect();
    names.join(",")
}

/// Open a namespace file and make sure that it is one, and of the kind that it should be.
pub fn open_namespace(flag: i32, path: &Text) -> Outcome<OwnedFd> {
    let name = path.as_str();
    // O_NONBLOCK: the path of a FIFO must not hold us.
    let fd = sys::open(path.as_c(), libc::O_RDONLY | libc::O_NONBLOCK).at("open", name)?;
    let magic = sys::filesystem(fd.as_fd()).at("fstatfs", name)?;
    let kind = match magic {
        sys::NSFS_MAGIC => sys::namespace_kind(fd.as_fd()).at("ioctl", name)?,
        _ => 0,
    };
    if kind != flag {
        let text = "is not a namespace of the kind asked for";
        return Err(Failure::new("ioctl", name, libc::EINVAL, text));
    }
    Ok(fd)
}

/// Join one namespace. The first of several in a row opens the files of all.
pub fn join(executor: &mut Executor, kind: &Text, path: &Text, rest: &[Operation]) -> Outcome {
    if executor.joins.is_empty() {
        executor.joins = open_joins(rest)?;
    }
    debug_assert!(kind_flag(kind.as_str()).is_ok());
    let (flag, fd) = executor.joins.remove(0);
    sys::setns(fd.as_fd(), flag).at("setns", path.as_str())
}

fn open_joins(rest: &[Operation]) -> Outcome<Vec<(i32, OwnedFd)>> {
    let joins = rest.iter().map_while(|operation| match operation {
        Operation::Join { kind, path } => Some((kind, path)),
        _ => None,
    });
    joins
        .map(|(kind, path)| {
            let flag = kind_flag(kind.as_str())?;
            let namespace = open_namespace(flag, path)?;
            if flag == libc::CLONE_NEWNS {
                refuse_own_mounts(namespace.as_fd(), path)?;
            }
            Ok((flag, namespace))
        })
        .collect()
}

/// In the caller's own mount namespace a change of the root would be one of the whole host.
fn refuse_own_mounts(namespace: BorrowedFd, path: &Text) -> Outcome {
    const OWN: &str = "/proc/self/ns/mnt";
    let own = sys::open(c"/proc/self/ns/mnt", libc::O_RDONLY).at("open", OWN)?;
    let inode = |fd| {
        sys::fstat(fd)
            .at("fstat", path.as_str())
            .map(|stat| (stat.st_dev, stat.st_ino))
    };
    if inode(own.as_fd())? != inode(namespace)? {
        return Ok(());
    }
    let text = "is the runtime's own mount namespace, which is no container's to change";
    Err(Failure::new("setns", path.as_str(), libc::EINVAL, text))
}

pub fn join_process(executor: &mut Executor, kinds: &[Text]) -> Outcome {
    let process = executor.slots.get("process")?;
    sys::setns(process, kind_flags(kinds)?).at("setns", &kind_names(kinds))?;
    executor.slots.take("process");
    Ok(())
}

pub fn unshare(executor: &mut Executor, kinds: &[Text]) -> Outcome {
    let flags = kind_flags(kinds)?;
    let early = flags & executor.early;
    sys::unshare(flags & !early).at("unshare", &kind_names(kinds))?;
    executor.early &= !early;
    executor.made |= flags;
    Ok(())
}

/// Make the network namespace of a plan that is still to come; the `CLONE_NEW*` flags of what was made. What the kernel
/// refuses it refuses again where the plan asks for it.
pub fn make_early() -> i32 {
    match sys::unshare(libc::CLONE_NEWNET) {
        Ok(()) => libc::CLONE_NEWNET,
        Err(_) => 0,
    }
}

/// Refuse a plan that does not make what is made already, or makes a user namespace that should own it.
pub fn check_early(early: i32, operations: &[Operation]) -> Outcome {
    if early == 0 || (makes(operations, "network") && !enters_user(operations)) {
        return Ok(());
    }
    let text = "a network namespace was made before the plan came, which makes none of its own";
    Err(Failure::new("unshare", "network", libc::EINVAL, text))
}

/// Whether a plan makes a namespace of this kind.
pub fn makes(operations: &[Operation], kind: &str) -> bool {
    operations.iter().any(|operation| match operation {
        Operation::Unshare { kinds } => kinds.iter().any(|made| made.as_str() == kind),
        _ => false,
    })
}

fn enters_user(operations: &[Operation]) -> bool {
    let joins = |operation: &Operation| matches!(operation, Operation::Join { kind, .. } if kind.as_str() == "user");
    makes(operations, "user") || operations.iter().any(joins)
}

pub fn become_root() -> Outcome {
    match sys::setgroups(&[]) {
        // EPERM: /proc/self/setgroups says deny, or the gid map is not set by a privileged process.
        Ok(()) | Err(Errno(libc::EPERM)) => {}
        Err(errno) => return Err(errno).at("setgroups", ""),
    }
    sys::setresgid(0).at("setresgid", "0")?;
    sys::setresuid(0).at("setresuid", "0")
}

/// Open /proc/self/timens_offsets where the plan will write it: once a user namespace is entered, or the process is
/// not dumpable, the file is another user's. The kernel checks the opener's rights over the namespace (Linux 5.5).
pub fn open_time_offsets(executor: &mut Executor, operations: &[Operation]) -> Outcome {
    const PATH: &CStr = c"/proc/self/timens_offsets";
    let is_needed = |operation: &Operation| matches!(operation, Operation::TimeOffsets { .. });
    if operations.iter().any(is_needed) {
        let file = sys::open(PATH, libc::O_WRONLY).at("open", "/proc/self/timens_offsets")?;
        executor.time_offsets = Some(file);
    }
    Ok(())
}

pub fn time_offsets(executor: &mut Executor, offsets: &[(Text, i64, u32)]) -> Outcome {
    let lines = offsets.iter().map(|(clock, seconds, nanoseconds)| {
        format!("{} {seconds} {nanoseconds}\n", clock.as_str())
    });
    let text: String = lines.collect();
    let Some(file) = executor.time_offsets.take() else {
        return Err(Errno(libc::EBADF)).at("write", "timens_offsets");
    };
    sys::write(file.as_fd(), text.as_bytes())
        .map(|_| ())
        .at("write", "/proc/self/timens_offsets")
}

pub fn loopback() -> Outcome {
    let socket = sys::datagram_socket().at("socket", "lo")?;
    sys::raise_loopback(socket.as_fd()).at("ioctl", "lo")
}

pub fn hostname(name: &Text) -> Outcome {
    sys::sethostname(name.as_c()).at("sethostname", name.as_str())
}

pub fn domainname(name: &Text) -> Outcome {
    sys::setdomainname(name.as_c()).at("setdomainname", name.as_str())
}

/// A user namespace with these maps and nobody in it: made by a child that lives no longer than it takes.
pub fn mapping_namespace(uid_maps: &[IdMap], gid_maps: &[IdMap]) -> Outcome<OwnedFd> {
    let (wait, hold) = sys::pipe().at("pipe2", "")?;
    let Some(pid) = sys::clone(libc::CLONE_NEWUSER as u64).at("clone3", "user")? else {
        drop(hold);
        // Ends when the parent has what it came for, or has died.
        let _ = sys::read(wait.as_fd(), &mut [0]);
        sys::exit(0);
    };
    let namespace = write_maps(pid, "uid_map", uid_maps)
        .and_then(|()| write_maps(pid, "gid_map", gid_maps))
        .and_then(|()| {
            let path = format!("/proc/{pid}/ns/user");
            sys::open(&c_path(&path), libc::O_RDONLY).at("open", &path)
        });
    drop(hold);
    sys::waitpid(pid).at("waitpid", "")?;
    namespace
}

fn c_path(path: &str) -> CString {
    CString::new(path).unwrap_or_default()
}

fn write_maps(pid: i32, file: &str, maps: &[IdMap]) -> Outcome {
    let path = format!("/proc/{pid}/{file}");
    let lines = maps
        .iter()
        .map(|(container, host, size)| format!("{container} {host} {size}\n"));
    let text: String = lines.collect();
    let fd = sys::open(&c_path(&path), libc::O_WRONLY).at("open", &path)?;
    sys::write(fd.as_fd(), text.as_bytes())
        .map(|_| ())
        .at("write", &path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Text {
        Text::new(text).unwrap()
    }

    fn unshares(kinds: &[&str]) -> Operation {
        let kinds = kinds.iter().map(|kind| text(kind)).collect();
        Operation::Unshare { kinds }
    }

    fn joins(kind: &str) -> Operation {
        let (kind, path) = (text(kind), text("/proc/1/ns/x"));
        Operation::Join { kind, path }
    }

    #[test]
    fn a_plan_makes_what_it_unshares_and_not_what_it_joins() {
        assert!(makes(&[joins("ipc"), unshares(&["uts", "pid"])], "pid"));
        assert!(!makes(&[joins("pid"), unshares(&["uts"])], "pid"));
    }

    #[test]
    fn a_network_namespace_made_early_is_for_a_plan_that_makes_one() {
        let early = libc::CLONE_NEWNET;
        assert!(check_early(early, &[unshares(&["pid", "network"])]).is_ok());
        assert!(check_early(early, &[unshares(&["pid"])]).is_err());
        assert!(check_early(early, &[joins("network")]).is_err());
        assert!(check_early(0, &[joins("network")]).is_ok());
    }

    #[test]
    fn a_network_namespace_of_a_user_namespace_is_not_made_early() {
        let network = unshares(&["network"]);
        for user in [unshares(&["user"]), joins("user")] {
            assert!(check_early(libc::CLONE_NEWNET, &[user, network.clone()]).is_err());
        }
    }
}
