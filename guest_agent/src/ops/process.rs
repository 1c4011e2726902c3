//! The process itself: how it is made, what it may use, and the program that it becomes.

use crate::executor::Executor;
use crate::ops::mounts::attributes;
use crate::ops::namespaces::{self, CLONE_NEWTIME};
use crate::plan::{Operation, Text};
use crate::report::{Context, Failure, Outcome, Report};
use crate::slots::close_around;
use crate::sys::{self, Errno};
use serde_json::json;
use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

pub fn parent_death_signal(executor: &mut Executor, signal: i32) -> Outcome {
    sys::set_parent_death_signal(signal).at("prctl", "PR_SET_PDEATHSIG")?;
    executor.parent_death_signal = signal;
    // A parent that died before the call sends no signal any more.
    if signal != 0 && !executor.report.alive() {
        sys::exit(1);
    }
    Ok(())
}

pub fn dumpable(value: bool) -> Outcome {
    sys::set_dumpable(value).at("prctl", "PR_SET_DUMPABLE")
}

/// Tell the caller where we are and wait for its word.
pub fn stop(executor: &Executor, name: &Text) -> Outcome {
    executor.report.ask(&json!({ "stop": name.as_str() }));
    Ok(())
}

/// Take the cgroup's directory as a read-only mount of its own: the new process is born with it, and whoever may look
/// into that process (CAP_SYS_PTRACE) would find the host's whole cgroup file system at `..`.
///
/// In a pid namespace of its own there is nobody to look, and the mount's end would hold the new process up for 0.2 ms.
pub fn confine_cgroup(executor: &mut Executor, operations: &[Operation]) -> Outcome {
    const SLOT: &str = "cgroup";
    if namespaces::makes(operations, "pid") {
        return Ok(());
    }
    let Some(directory) = executor.slots.take(SLOT) else {
        return Ok(());
    };
    let flags = sys::OPEN_TREE_CLONE | sys::AT_EMPTY_PATH;
    let mount = sys::open_tree(directory.as_fd(), c"", flags).at("open_tree", SLOT)?;
    let readonly = attributes(sys::MOUNT_ATTR_RDONLY, 0, libc::MS_PRIVATE);
    sys::mount_setattr(mount.as_fd(), false, &readonly).at("mount_setattr", SLOT)?;
    executor.slots.set(SLOT, mount);
    Ok(())
}

/// Move this process, which has one thread, into cgroups of v1: `0` means whoever writes it.
pub fn enter_cgroups(executor: &mut Executor, slots: &[Text]) -> Outcome {
    for slot in slots {
        sys::write(executor.slots.get(slot.as_str())?, b"0").at("write", slot.as_str())?;
        executor.slots.take(slot.as_str());
    }
    Ok(())
}

/// Go on as a new process: a sibling of this one, which ends. Its pid is the first thing that it reports.
///
/// If others are in its pid namespace, this one reports it, too: they may stop it before it has said a word.
pub fn clone(executor: &mut Executor, into_cgroup: bool) -> Outcome {
    let cgroup = match into_cgroup {
        true => Some(executor.slots.get("cgroup")?),
        false => None,
    };
    let pid = match may_hand_over(executor.made) {
        true => hand_over(cgroup, &executor.report),
        false => fork(cgroup, &executor.report),
    };
    let pid = pid.at("clone3", "")?;
    if report_pid(&executor.report, pid).is_err() {
        sys::exit(1);
    }
    executor.slots.take("cgroup");
    executor.parent_death_signal = 0;
    // A caller that died before this gets no chance to kill us.
    if !executor.report.alive() {
        sys::exit(1);
    }
    Ok(())
}

/// Whether the new process may take this one's memory. In a pid namespace that others are in, whoever may trace it
/// would for a moment write to this process's memory as well, which is the host's. And who shares memory does not enter
/// a new time namespace (clone(2)).
fn may_hand_over(made: i32) -> bool {
    made & libc::CLONE_NEWPID != 0 && made & CLONE_NEWTIME == 0
}

fn fork(cgroup: Option<BorrowedFd>, report: &Report) -> sys::Result<i32> {
    match sys::clone_sibling(cgroup)? {
        sys::Side::Caller(pid) => {
            let _ = report_pid(report, pid);
            sys::exit(0)
        }
        sys::Side::Sibling(pid) => Ok(pid),
    }
}

fn hand_over(cgroup: Option<BorrowedFd>, report: &Report) -> sys::Result<i32> {
    match sys::hand_over(cgroup) {
        // A seccomp profile that cannot look into clone3's arguments, or another architecture.
        Err(Errno(libc::ENOSYS | libc::EPERM)) => fork(cgroup, report),
        result => result,
    }
}

fn report_pid(report: &Report, pid: i32) -> sys::Result<()> {
    report.write(&json!({ "pid": pid }))
}

pub fn new_session() -> Outcome {
    sys::setsid().at("setsid", "")
}

pub fn keyring(name: &Text, permission: u32) -> Outcome {
    let serial = match sys::keyctl_join(name.as_c()) {
        // A kernel without keyrings has none to protect.
        Err(Errno(libc::ENOSYS)) => return Ok(()),
        result => result.at("keyctl", name.as_str())?,
    };
    let description = sys::keyctl_describe(serial).at("keyctl", name.as_str())?;
    let permissions = key_permissions(&description)
        .ok_or(Errno(libc::EPROTO))
        .at("keyctl", name.as_str())?;
    sys::keyctl_set_permissions(serial, permissions | permission).at("keyctl", name.as_str())
}

/// The permissions in a key's description, "type;uid;gid;permissions;description".
fn key_permissions(description: &[u8]) -> Option<u32> {
    let text = String::from_utf8_lossy(description);
    let permissions = text.split(';').nth(3)?;
    u32::from_str_radix(permissions, 16).ok()
}

pub fn umask(executor: &mut Executor, value: u32) -> Outcome {
    sys::umask(value);
    executor.umask = value;
    Ok(())
}

pub fn no_new_privileges() -> Outcome {
    sys::set_no_new_privileges().at("prctl", "PR_SET_NO_NEW_PRIVS")
}

pub fn scheduler(operation: &Operation) -> Outcome {
    let Operation::Scheduler {
        policy,
        flags,
        nice,
        priority,
        runtime,
        deadline,
        period,
    } = operation
    else {
        unreachable!("scheduler is for the operation of that name");
    };
    let attr = sys::SchedAttr {
        size: std::mem::size_of::<sys::SchedAttr>() as u32,
        policy: *policy,
        flags: *flags,
        nice: *nice,
        priority: *priority,
        runtime: *runtime,
        deadline: *deadline,
        period: *period,
    };
    sys::sched_setattr(&attr).at("sched_setattr", "")
}

pub fn io_priority(value: i32) -> Outcome {
    sys::ioprio_set(value).at("ioprio_set", "")
}

pub fn personality(value: u64) -> Outcome {
    sys::personality(value).at("personality", "")
}

pub fn memory_policy(mode: i32, nodes: &[u32]) -> Outcome {
    sys::set_mempolicy(mode, &bit_mask(nodes)?).at("set_mempolicy", "")
}

pub fn cpu_affinity(cpus: &[u32]) -> Outcome {
    sys::sched_setaffinity(&bit_mask(cpus)?).at("sched_setaffinity", "")
}

/// Numbers as a mask of bits, in words of the kernel's `unsigned long`.
fn bit_mask(numbers: &[u32]) -> Outcome<Vec<u64>> {
    const MOST: u32 = 8192;
    let mut mask = Vec::new();
    for &number in numbers {
        if number >= MOST {
            let text = format!("{number} is beyond any kernel's limit of {MOST}");
            return Err(Failure::new("mask", "", libc::EINVAL, text));
        }
        let word = number as usize / 64;
        if mask.len() <= word {
            mask.resize(word + 1, 0);
        }
        mask[word] |= 1 << (number % 64);
    }
    Ok(mask)
}

pub fn rlimit(resource: i32, soft: u64, hard: u64) -> Outcome {
    sys::prlimit(resource, soft, hard).at("prlimit", &resource.to_string())
}

/// HOME of a user as /etc/passwd of the container has it, or `/`.
pub fn home(executor: &mut Executor, uid: u32) -> Outcome {
    let passwd = read_passwd(executor.slots.get("root")?).unwrap_or_default();
    let home = home_of(&passwd, uid).filter(|home| !home.is_empty());
    let variable = Text::new(&format!("HOME={}", home.unwrap_or("/")));
    executor.home = variable.or_else(|_| Text::new("HOME=/")).ok();
    Ok(())
}

/// The container's /etc/passwd, if it is a regular file of sensible size.
fn read_passwd(root: BorrowedFd) -> Option<String> {
    const LARGEST: i64 = 1 << 20;
    const RESOLVE: u64 = sys::RESOLVE_IN_ROOT | sys::RESOLVE_NO_MAGICLINKS;
    let sensible = |file: BorrowedFd| match sys::fstat(file) {
        Ok(stat) => stat.st_mode & libc::S_IFMT == libc::S_IFREG && stat.st_size <= LARGEST,
        Err(_) => false,
    };
    let open = |flags| sys::openat2(root, c"etc/passwd", flags, RESOLVE).ok();
    // Looked at before it is opened: to open a device can do something.
    open(libc::O_PATH).filter(|file| sensible(file.as_fd()))?;
    let flags = libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = open(flags).filter(|file| sensible(file.as_fd()))?;
    let data = sys::read_at_most(file.as_fd(), LARGEST as usize).ok()?;
    Some(String::from_utf8_lossy(&data).into_owned())
}

/// The sixth field of the first line with this uid, as passwd(5) has it.
fn home_of(passwd: &str, uid: u32) -> Option<&str> {
    passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let is_line = fields.len() >= 7 && fields[2].parse() == Ok(uid);
        is_line.then(|| fields[5])
    })
}

/// Find the program as execvp(3) does. Paths are the container's: the process's root is its root by now.
pub fn find_program(executor: &mut Executor, name: &Text, path: &Text, cwd: &Text) -> Outcome {
    let found = match name.as_str() {
        name if name.contains('/') => {
            check_program(&from_directory(cwd, name)).map(|()| name.to_string())
        }
        name => search_path(name, path.as_str(), cwd),
    };
    let found = found?;
    executor.program = Some(
        Text::new(&found)
            .map_err(|text| Failure::new("lookpath", name.as_str(), libc::EINVAL, text))?,
    );
    Ok(())
}

/// What a relative name means from the directory in which the program will start.
fn from_directory(cwd: &Text, name: &str) -> String {
    if name.starts_with('/') {
        return name.to_string();
    }
    format!("{}/{name}", cwd.as_str())
}

fn search_path(name: &str, path: &str, cwd: &Text) -> Outcome<String> {
    let missing = || {
        let text = "executable file not found in $PATH";
        Failure::new("lookpath", name, libc::ENOENT, text)
    };
    if name.is_empty() {
        return Err(missing());
    }
    let candidates = path.split(':').map(|directory| match directory {
        "" => format!("./{name}"),
        directory => format!("{directory}/{name}"),
    });
    candidates
        .into_iter()
        .find(|candidate| check_program(&from_directory(cwd, candidate)).is_ok())
        .ok_or_else(missing)
}

fn check_program(path: &str) -> Outcome {
    let c_path = Text::new(path).map_err(|text| Failure::new("stat", path, libc::EINVAL, text))?;
    let mode = sys::stat(c_path.as_c()).at("stat", path)?.st_mode;
    if mode & libc::S_IFMT == libc::S_IFDIR {
        return Err(Failure::new("access", path, libc::EACCES, "is a directory"));
    }
    match sys::may_execute(c_path.as_c()) {
        // A seccomp profile older than faccessat2(2) is in force already: what the mode says must do.
        Err(Errno(libc::ENOSYS | libc::EPERM)) if mode & 0o111 != 0 => Ok(()),
        result => result.at("access", path),
    }
}

pub fn seccomp(executor: &Executor, program: &[u8], flags: u64, listener: bool) -> Outcome {
    let flags = match listener {
        true => flags | sys::SECCOMP_FILTER_FLAG_NEW_LISTENER,
        false => flags,
    };
    let descriptor = sys::seccomp(program, flags).map_err(|errno| {
        let text = match errno {
            Errno(libc::EACCES) => "needs CAP_SYS_ADMIN or no_new_privs".to_string(),
            errno => errno.text(),
        };
        Failure::new("seccomp", "", errno.0, text)
    })?;
    if let Some(descriptor) = descriptor {
        let message = json!({ "listener": descriptor.as_raw_fd() });
        executor.report.write(&message).at("write", "listener")?;
        executor.report.wait_go();
    }
    Ok(())
}

/// Wait until `start` writes a byte into the FIFO, which both sides hold open for writing: it never ends by itself.
pub fn wait_start(executor: &mut Executor) -> Outcome {
    let fifo = executor.slots.get("start")?;
    let length = sys::read(fifo, &mut [0]).at("read", "start")?;
    executor.slots.take("start");
    match length {
        1 => Ok(()),
        _ => Err(Errno(libc::EPIPE)).at("read", "start"),
    }
}

/// Close all but stdio, the container's own descriptors, the report socket and what `start` writes to: the last two are
/// close-on-exec.
pub fn close_descriptors(executor: &mut Executor, preserve: u32) -> Outcome {
    for descriptor in 3..3 + preserve {
        // Some of the numbers may be free: LISTEN_FDS and --preserve-fds may be given without a descriptor.
        let _ = sys::set_close_on_exec(descriptor as i32, false);
    }
    let start = executor.slots.take("start");
    executor.slots.forget();
    std::mem::take(&mut executor.mapped)
        .into_iter()
        .for_each(std::mem::forget);
    let report = executor.report.as_fd();
    let kept = [report, start.as_ref().map(|fd| fd.as_fd())];
    let kept = kept.iter().flatten().map(|fd| fd.as_raw_fd() as u32);
    let closed = close_around(kept.collect(), 3 + preserve);
    if let Some(start) = start {
        executor.slots.set("start", start);
    }
    match closed {
        // A seccomp profile that does not know close_range(2): execve(2) closes them, every one is close-on-exec.
        Err(Errno(libc::ENOSYS | libc::EPERM)) => Ok(()),
        result => result.at("close_range", ""),
    }
}

pub fn execute(executor: &mut Executor, args: &[Text], env: &[Text]) -> Outcome {
    if let Some(directory) = executor.pending_directory.take() {
        return Err(Errno(libc::EACCES)).at("chdir", directory.as_str());
    }
    let program = match executor.program.as_ref().or(args.first()) {
        Some(program) => program,
        None => {
            return Err(Failure::new(
                "execve",
                "",
                libc::EINVAL,
                "no program to execute",
            ))
        }
    };
    sys::umask(executor.umask);
    let args: Vec<&CStr> = args.iter().map(Text::as_c).collect();
    let env = env.iter().chain(&executor.home);
    let env: Vec<&CStr> = env.map(Text::as_c).collect();
    let errno = sys::execve(program.as_c(), &args, &env);
    Err(errno).at("execve", program.as_str())
}

/// After `start` nobody listens on the report socket: one line on the container's stderr, as runc writes it.
pub fn tell_stderr(failure: &Failure) -> ! {
    let line = format!("exec {}: {}\n", failure.path, failure.text);
    let _ = sys::write(sys::borrow(2), line.as_bytes());
    sys::exit(255)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_become_bits() {
        assert_eq!(bit_mask(&[0, 3, 64]).unwrap(), [0b1001, 1]);
        assert!(bit_mask(&[]).unwrap().is_empty());
        assert!(bit_mask(&[8192]).is_err());
    }

    #[test]
    fn memory_is_handed_over_only_into_a_new_pid_namespace() {
        assert!(may_hand_over(libc::CLONE_NEWPID | libc::CLONE_NEWNS));
        assert!(!may_hand_over(libc::CLONE_NEWNS | libc::CLONE_NEWUSER));
        assert!(!may_hand_over(0));
    }

    #[test]
    fn a_new_time_namespace_is_entered_by_a_fork() {
        assert!(!may_hand_over(libc::CLONE_NEWPID | CLONE_NEWTIME));
    }

    #[test]
    fn permissions_are_read_from_a_keys_description() {
        assert_eq!(
            key_permissions(b"keyring;0;0;3f130000;_ses.x"),
            Some(0x3f13_0000)
        );
        assert_eq!(key_permissions(b"keyring;0"), None);
    }

    #[test]
    fn home_is_the_sixth_field_of_the_users_first_line() {
        let passwd =
            "root:x:0:0:root:/root:/bin/sh\nbroken\nu:x:7:7::/home/u:\nv:x:7:7::/v:/bin/sh\n";
        assert_eq!(home_of(passwd, 0), Some("/root"));
        assert_eq!(home_of(passwd, 7), Some("/home/u"));
        assert_eq!(home_of(passwd, 8), None);
    }

    #[test]
    fn a_relative_program_starts_from_the_working_directory() {
        let cwd = Text::new("/work").unwrap();
        assert_eq!(from_directory(&cwd, "bin/x"), "/work/bin/x");
        assert_eq!(from_directory(&cwd, "/bin/x"), "/bin/x");
    }
}
