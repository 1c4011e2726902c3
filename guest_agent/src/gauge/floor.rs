//! A container by bare system calls: what the kernel takes for one at least, beside which a runtime can be read.
//!
//! As the default bundle has it: namespaces of six kinds, a root of its own, seven file systems, and a program. Nothing
//! that protects or counts (cgroups, capabilities, masks, seccomp), and no plan.

use std::ffi::{CStr, CString};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use pysandbox_guest::sys::{self, Result};

const NAMESPACES: i32 = libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWCGROUP;

/// File systems in their order: the type and where it is mounted, below the new root.
const FILE_SYSTEMS: [(&CStr, &CStr); 7] = [
    (c"proc", c"proc"),
    (c"tmpfs", c"dev"),
    (c"devpts", c"dev/pts"),
    (c"tmpfs", c"dev/shm"),
    (c"mqueue", c"dev/mqueue"),
    (c"sysfs", c"sys"),
    (c"tmpfs", c"tmp"),
];

/// Run a program in a container; return the time from the first call until the program is executed.
pub fn take(root: &Path, program: &[CString]) -> Result<Duration> {
    let root = CString::new(root.as_os_str().as_bytes()).map_err(|_| sys::Errno(libc::EINVAL))?;
    let arguments: Vec<&CStr> = program.iter().map(CString::as_c_str).collect();
    let (executed, ours) = sys::pipe()?;
    let begin = sys::monotonic();
    let Some(pid) = sys::clone(NAMESPACES as u64)? else {
        let failure = enter(&root).map_or_else(
            |errno| errno,
            |()| sys::execve(arguments[0], &arguments, &[]),
        );
        let _ = sys::write(ours.as_fd(), &failure.0.to_ne_bytes());
        sys::exit(1);
    };
    drop(ours);
    let failure = sys::read_at_most(executed.as_fd(), 4);
    let taken = Duration::from_nanos(sys::monotonic() - begin);
    sys::waitpid(pid)?;
    match <[u8; 4]>::try_from(failure?) {
        Ok(errno) => Err(sys::Errno(i32::from_ne_bytes(errno))),
        Err(_) => Ok(taken), // nothing: the pipe has closed with execve
    }
}

fn enter(root: &CStr) -> Result<()> {
    sys::mount(None, c"/", None, libc::MS_REC | libc::MS_PRIVATE, None)?;
    sys::mount(Some(root), root, None, libc::MS_BIND | libc::MS_REC, None)?;
    sys::chdir(root)?;
    for (kind, place) in FILE_SYSTEMS {
        match sys::mount(Some(kind), place, Some(kind), 0, None) {
            Err(sys::Errno(libc::ENOENT)) => {
                sys::mkdirat(sys::borrow(libc::AT_FDCWD), place, 0o755)?;
                sys::mount(Some(kind), place, Some(kind), 0, None)?;
            }
            result => result?,
        }
    }
    sys::pivot_root(c".", c".")?;
    sys::umount_detach(c".")?;
    sys::chdir(c"/")
}
