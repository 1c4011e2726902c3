//! From the kernel's first call to a system that containers can be made in: a root of its own, the kernel's file systems,
//! and the settings that no container should find open.

use crate::launch::Executor;
use crate::sys as own;
use pysandbox_guest::report::{Context, Outcome};
use pysandbox_guest::sys::{self, Strings};
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

const EXECUTOR: &CStr = c"/sbin/pysandbox-executor";

/// What a test on a host gives the agent instead of a guest.
#[derive(Default)]
pub struct Stand {
    pub executor: Option<CString>,
    /// A directory that is to be found at /run/storage/test.
    pub storage: Option<CString>,
}

/// Make the root. A root that the kernel unpacked cannot be left by pivot_root(2), which every container does: so a tmpfs
/// is laid over it and becomes the root of this process. The executor is kept as a sealed copy that no container can
/// write to, whatever it finds under /proc/PID/exe; so the new root holds no program at all.
pub fn make_root(stand: &Stand, environment: Strings) -> Outcome<Executor> {
    let executor = seal_executor(stand.executor.as_deref().unwrap_or(EXECUTOR))?;
    if stand.executor.is_none() {
        let _ = sys::unlinkat(sys::borrow(libc::AT_FDCWD), EXECUTOR, 0); // the copy takes as much memory
    }
    let storage = stand.storage.as_deref().map(open_storage).transpose()?;
    // Whatever is mounted from now on is nobody else's affair.
    let private = libc::MS_PRIVATE | libc::MS_REC;
    sys::mount(None, c"/", None, private, None).at("mount", "/")?;
    lay_root()?;
    mount_system()?;
    open_standard_descriptors()?;
    make_directory(c"/run/storage", 0o755)?;
    if let Some(storage) = storage {
        make_directory(c"/run/storage/test", 0o755)?;
        let place =
            sys::open(c"/run/storage/test", libc::O_PATH).at("open", "/run/storage/test")?;
        sys::move_mount(storage.as_fd(), place.as_fd()).at("move_mount", "/run/storage/test")?;
    }
    Ok(Executor {
        file: executor,
        environment,
    })
}

fn seal_executor(path: &CStr) -> Outcome<OwnedFd> {
    let name = path.to_str().unwrap_or("");
    let source = sys::open(path, libc::O_RDONLY).at("open", name)?;
    let copy = own::memory_file(c"pysandbox-executor", true).at("memfd_create", name)?;
    let program = sys::read_all(source.as_fd()).at("read", name)?;
    let mut rest = program.as_slice();
    while !rest.is_empty() {
        let written = sys::write(copy.as_fd(), rest).at("write", name)?;
        rest = &rest[written..];
    }
    own::seal(copy.as_fd()).at("fcntl", name)?;
    Ok(copy)
}

fn open_storage(path: &CStr) -> Outcome<OwnedFd> {
    let name = path.to_str().unwrap_or("");
    let directory = sys::open(path, libc::O_PATH | libc::O_DIRECTORY).at("open", name)?;
    let flags = sys::OPEN_TREE_CLONE | sys::AT_EMPTY_PATH | sys::AT_RECURSIVE;
    sys::open_tree(directory.as_fd(), c"", flags).at("open_tree", name)
}

fn lay_root() -> Outcome {
    let root = file_system(c"tmpfs", &[(c"mode", c"0755")], 0)?;
    let place = sys::open(c"/", libc::O_PATH | libc::O_DIRECTORY).at("open", "/")?;
    sys::move_mount(root.as_fd(), place.as_fd()).at("move_mount", "/")?;
    sys::fchdir(root.as_fd()).at("fchdir", "/")?;
    sys::chroot(c".").at("chroot", ".")?;
    sys::chdir(c"/").at("chdir", "/")
}

fn file_system(kind: &CStr, options: &[(&CStr, &CStr)], attributes: u64) -> Outcome<OwnedFd> {
    let name = kind.to_str().unwrap_or("");
    let context = sys::fsopen(kind).at("fsopen", name)?;
    for (key, value) in options {
        sys::fsconfig_set(context.as_fd(), key, Some(value)).at("fsconfig", name)?;
    }
    sys::fsconfig_create(context.as_fd()).at("fsconfig", name)?;
    sys::fsmount(context.as_fd(), attributes).at("fsmount", name)
}

fn make_directory(path: &CStr, mode: u32) -> Outcome {
    let root: BorrowedFd = sys::borrow(libc::AT_FDCWD);
    match sys::mkdirat(root, path, mode) {
        Err(sys::Errno(libc::EEXIST)) => Ok(()),
        result => result.at("mkdir", path.to_str().unwrap_or("")),
    }
}

fn mount_system() -> Outcome {
    const NOTHING_ODD: u64 =
        sys::MOUNT_ATTR_NOSUID | sys::MOUNT_ATTR_NODEV | sys::MOUNT_ATTR_NOEXEC;
    const DEVICES: u64 = sys::MOUNT_ATTR_NOSUID | sys::MOUNT_ATTR_NOEXEC;
    type Options = &'static [(&'static CStr, &'static CStr)];
    let system: [(&CStr, &CStr, Options, u64); 6] = [
        (c"proc", c"/proc", &[], NOTHING_ODD),
        (c"sysfs", c"/sys", &[], NOTHING_ODD),
        (c"devtmpfs", c"/dev", &[], DEVICES),
        (c"tmpfs", c"/run", &[(c"mode", c"0755")], NOTHING_ODD),
        (c"tmpfs", c"/tmp", &[(c"mode", c"1777")], NOTHING_ODD),
        (c"cgroup2", c"/sys/fs/cgroup", &[], NOTHING_ODD),
    ];
    for (kind, path, options, attributes) in system {
        let name = path.to_str().unwrap_or("");
        if path != c"/sys/fs/cgroup" {
            make_directory(path, 0o755)?;
        }
        let mount = file_system(kind, options, attributes)?;
        let place = sys::open(path, libc::O_PATH | libc::O_DIRECTORY).at("open", name)?;
        sys::move_mount(mount.as_fd(), place.as_fd()).at("move_mount", name)?;
    }
    Ok(())
}

/// The kernel gives its first process no descriptors, or the console: nothing here writes to either.
fn open_standard_descriptors() -> Outcome {
    let null = sys::open(c"/dev/null", libc::O_RDWR | libc::O_NOCTTY).at("open", "/dev/null")?;
    for number in 0..3 {
        sys::duplicate_to(null.as_fd(), number).at("dup3", "/dev/null")?;
    }
    if std::os::fd::AsRawFd::as_raw_fd(&null) < 3 {
        std::mem::forget(null); // it is one of them
    }
    Ok(())
}

/// Bring `lo` up.
pub fn raise_loopback() -> Outcome {
    let socket = sys::datagram_socket().at("socket", "lo")?;
    sys::raise_loopback(socket.as_fd()).at("ioctl", "lo")
}

/// What a guest's kernel leaves open that nothing in a container needs. What this kernel has not is closed already.
pub fn harden() {
    const SETTINGS: [(&str, &str); 18] = [
        ("kernel/dmesg_restrict", "1"),
        ("kernel/kptr_restrict", "2"),
        ("kernel/perf_event_paranoid", "3"),
        ("kernel/unprivileged_bpf_disabled", "2"),
        ("kernel/io_uring_disabled", "2"),
        ("kernel/kexec_load_disabled", "1"),
        ("kernel/sysrq", "0"),
        ("kernel/panic_on_oops", "1"),
        ("kernel/yama/ptrace_scope", "1"),
        ("kernel/randomize_va_space", "2"),
        ("vm/unprivileged_userfaultfd", "0"),
        ("net/core/bpf_jit_harden", "2"),
        ("fs/protected_hardlinks", "1"),
        ("fs/protected_symlinks", "1"),
        ("fs/protected_fifos", "2"),
        ("fs/protected_regular", "2"),
        ("fs/suid_dumpable", "0"),
        ("kernel/modules_disabled", "1"),
    ];
    for (name, value) in SETTINGS {
        let _ = std::fs::write(format!("/proc/sys/{name}"), value);
    }
}

/// This process: not for others to look into, the last to die when memory runs out, and with descriptors enough. What it
/// starts has the same limit, as under a daemon of containers.
pub fn settle() {
    const DESCRIPTORS: u64 = 1 << 20;
    let _ = own::prepare_pid_1();
    let _ = std::fs::write("/proc/self/oom_score_adj", "-1000");
    let _ = sys::prlimit(libc::RLIMIT_NOFILE as i32, DESCRIPTORS, DESCRIPTORS);
    sys::umask(0o022);
}

/// Leave a line in the kernel's log, which the console shows: the last that is heard of a guest whose agent cannot go on.
pub fn complain(text: &str) {
    let line = format!("<2>pysandbox-agent: {text}\n");
    if let Ok(log) = sys::open(c"/dev/kmsg", libc::O_WRONLY) {
        let _ = sys::write(log.as_fd(), line.as_bytes());
    }
}
