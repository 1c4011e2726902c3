//! The terminal: a pty of the container's own devpts, never opened by the path of its slave (CVE-2025-52565).

use crate::executor::Executor;
use crate::ops::paths::{self, Links, Make};
use crate::report::{Context, Failure, Outcome};
use crate::sys::{self, Errno};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

pub fn console(
    executor: &Executor,
    (width, height): (u16, u16),
    bind: bool,
    uid: u32,
    plain_newlines: bool,
) -> Outcome {
    let master = open_master(executor)?;
    sys::unlock_pty(master.as_fd()).at("ioctl", "TIOCSPTLCK")?;
    let slave = sys::pty_peer(master.as_fd()).at("ioctl", "TIOCGPTPEER")?;
    if width != 0 && height != 0 {
        sys::set_window_size(slave.as_fd(), width, height).at("ioctl", "TIOCSWINSZ")?;
    }
    if plain_newlines {
        sys::clear_newline_translation(slave.as_fd()).at("tcsetattr", "console")?;
    }
    own_slave(slave.as_fd(), uid)?;
    if bind {
        bind_console(executor, slave.as_fd())?;
    }
    executor
        .report
        .send_descriptor("console", master.as_fd())
        .at("sendmsg", "console")?;
    drop(master);
    for number in 0..3 {
        sys::duplicate_to(slave.as_fd(), number).at("dup3", "console")?;
    }
    sys::set_controlling_terminal(sys::borrow(0)).at("ioctl", "TIOCSCTTY")
}

/// Open a new pty of the devpts at /dev/pts of the container, once it is certain that it is one.
fn open_master(executor: &Executor) -> Outcome<OwnedFd> {
    const PATH: &str = "/dev/pts";
    let root = executor.slots.get("root")?;
    let directory = paths::resolve(root, PATH, Links::Follow).at("openat2", PATH)?;
    if sys::filesystem(directory.as_fd()).at("fstatfs", PATH)? != sys::DEVPTS_SUPER_MAGIC {
        let text = "a terminal needs a devpts mounted there";
        return Err(Failure::new("fstatfs", PATH, libc::ENODEV, text));
    }
    const RESOLVE: u64 = sys::RESOLVE_BENEATH
        | sys::RESOLVE_NO_XDEV
        | sys::RESOLVE_NO_SYMLINKS
        | sys::RESOLVE_NO_MAGICLINKS;
    let flags = libc::O_RDWR | libc::O_NOCTTY;
    sys::openat2(directory.as_fd(), c"ptmx", flags, RESOLVE).at("openat2", "/dev/pts/ptmx")
}

fn own_slave(slave: BorrowedFd, uid: u32) -> Outcome {
    // The group stays what devpts was mounted with.
    match sys::fchown(slave, uid, u32::MAX) {
        // A user namespace without that id: the terminal stays root's, as under runc.
        Ok(()) | Err(Errno(libc::EINVAL)) => Ok(()),
        Err(errno) => Err(errno).at("fchown", "console"),
    }
}

fn bind_console(executor: &Executor, slave: BorrowedFd) -> Outcome {
    const PATH: &str = "/dev/console";
    let root = executor.slots.get("root")?;
    let target = paths::resolve_or_make(root, PATH, Links::Refuse, Make::File, 0o600)?;
    let flags = sys::OPEN_TREE_CLONE | sys::AT_EMPTY_PATH;
    let mount = sys::open_tree(slave, c"", flags).at("open_tree", PATH)?;
    sys::move_mount(mount.as_fd(), target.as_fd()).at("move_mount", PATH)
}

/// Give stdio to the user, so that the program can open /dev/stdout and the like again.
pub fn own_stdio(uid: u32) -> Outcome {
    for number in 0..3 {
        own_stream(sys::borrow(number), uid)?;
    }
    Ok(())
}

fn own_stream(stream: BorrowedFd, uid: u32) -> Outcome {
    let stat = match sys::fstat(stream) {
        Err(Errno(libc::EBADF)) => return Ok(()),
        stat => stat.at("fstat", "stdio")?,
    };
    let is_null =
        stat.st_mode & libc::S_IFMT == libc::S_IFCHR && stat.st_rdev == libc::makedev(1, 3);
    if is_null || stat.st_uid == uid || stat.st_uid != sys::geteuid() {
        return Ok(());
    }
    match sys::fchown(stream, uid, stat.st_gid) {
        // A file system or a user namespace that knows no such owner: the program has its descriptor all the same.
        Ok(()) | Err(Errno(libc::EINVAL | libc::EPERM | libc::EROFS)) => Ok(()),
        Err(errno) => Err(errno).at("fchown", "stdio"),
    }
}
