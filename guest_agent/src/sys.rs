//! The system calls: the only module with `unsafe`. Each function is one call (or one ioctl, one prctl option) with
//! borrowed descriptors and C strings in, an owned descriptor or an errno out.
//!
//! Three reasons cover every block here. *Pointers*: what is passed lives in a Rust value that outlives the call, with
//! the length given beside it. *Results*: a kernel structure is read only after the call that fills it has succeeded.
//! *Descriptors*: a number becomes an `OwnedFd` only when the kernel has just made it, so there is one owner.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::mem::{size_of, zeroed, MaybeUninit};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::{null, null_mut};

pub const PROC_SUPER_MAGIC: u64 = 0x9fa0;
pub const DEVPTS_SUPER_MAGIC: u64 = 0x1cd1;
pub const NSFS_MAGIC: u64 = 0x6e73_6673;

pub const RESOLVE_NO_XDEV: u64 = 0x01;
pub const RESOLVE_NO_MAGICLINKS: u64 = 0x02;
pub const RESOLVE_NO_SYMLINKS: u64 = 0x04;
pub const RESOLVE_BENEATH: u64 = 0x08;
pub const RESOLVE_IN_ROOT: u64 = 0x10;

pub const OPEN_TREE_CLONE: u32 = 1;
pub const MOUNT_ATTR_RDONLY: u64 = 0x1;
pub const MOUNT_ATTR_NOSUID: u64 = 0x2;
pub const MOUNT_ATTR_NODEV: u64 = 0x4;
pub const MOUNT_ATTR_NOEXEC: u64 = 0x8;
pub const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;

pub const SECCOMP_FILTER_FLAG_NEW_LISTENER: u64 = 8;

/// An error number of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub i32);

impl Errno {
    fn last() -> Errno {
        Errno(
            std::io::Error::last_os_error()
                .raw_os_error()
                .unwrap_or(libc::EIO),
        )
    }

    /// The error's text: lower case, without a number.
    pub fn text(self) -> String {
        let text = std::io::Error::from_raw_os_error(self.0).to_string();
        let text = text.split(" (os error").next().unwrap_or("").to_string();
        text.to_lowercase()
    }
}

pub type Result<T> = std::result::Result<T, Errno>;

fn check(result: libc::c_long) -> Result<libc::c_long> {
    match result {
        -1 => Err(Errno::last()),
        value => Ok(value),
    }
}

fn done(result: libc::c_long) -> Result<()> {
    check(result).map(|_| ())
}

fn owned(result: libc::c_long) -> Result<OwnedFd> {
    // SAFETY: descriptors: the call that succeeded has just made this one.
    check(result).map(|fd| unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

macro_rules! syscall {
    // SAFETY: see the module's reasons: pointers.
    ($number:expr $(, $argument:expr)* $(,)?) => { unsafe { libc::syscall($number $(, $argument)*) } };
}

/// A borrowed descriptor of which the caller only knows the number: one of stdio, or one given on the command line.
pub fn borrow(fd: RawFd) -> BorrowedFd<'static> {
    // SAFETY: descriptors: nothing in this program closes what it did not make; a wrong number answers EBADF.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

/// Take over a descriptor that this process was started with.
pub fn adopt(fd: RawFd) -> Result<OwnedFd> {
    set_close_on_exec(fd, true)?;
    // SAFETY: descriptors: the command line names each inherited one once, and fcntl has just proved that it is open.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

pub fn set_close_on_exec(fd: RawFd, on: bool) -> Result<()> {
    let flags = if on { libc::FD_CLOEXEC } else { 0 };
    // SAFETY: no pointers.
    done(unsafe { libc::fcntl(fd, libc::F_SETFD, flags) }.into())
}

// -- paths ------------------------------------------------------------------------------------------------------------

#[repr(C)]
struct OpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

/// openat2(2), with O_CLOEXEC. EAGAIN (a rename or mount raced with `..`) is tried again, 128 times at most.
pub fn openat2(dir: BorrowedFd, path: &CStr, flags: i32, resolve: u64) -> Result<OwnedFd> {
    let how = OpenHow {
        flags: (flags | libc::O_CLOEXEC) as u64,
        mode: 0,
        resolve,
    };
    let mut attempts = 0;
    loop {
        let fd = syscall!(
            libc::SYS_openat2,
            dir.as_raw_fd(),
            path.as_ptr(),
            &how,
            size_of::<OpenHow>()
        );
        match owned(fd) {
            Err(Errno(libc::EAGAIN)) if attempts < 128 => attempts += 1,
            result => return result,
        }
    }
}

/// open(2) of a path of the host, with O_CLOEXEC.
pub fn open(path: &CStr, flags: i32) -> Result<OwnedFd> {
    // SAFETY: pointers.
    owned(unsafe { libc::open(path.as_ptr(), flags | libc::O_CLOEXEC) }.into())
}

pub fn openat(dir: BorrowedFd, name: &CStr, flags: i32, mode: u32) -> Result<OwnedFd> {
    let flags = flags | libc::O_CLOEXEC;
    // SAFETY: pointers.
    owned(unsafe { libc::openat(dir.as_raw_fd(), name.as_ptr(), flags, mode) }.into())
}

pub fn mkdirat(dir: BorrowedFd, name: &CStr, mode: u32) -> Result<()> {
    // SAFETY: pointers.
    done(unsafe { libc::mkdirat(dir.as_raw_fd(), name.as_ptr(), mode) }.into())
}

pub fn mknodat(dir: BorrowedFd, name: &CStr, mode: u32, device: u64) -> Result<()> {
    // SAFETY: pointers.
    done(unsafe { libc::mknodat(dir.as_raw_fd(), name.as_ptr(), mode, device) }.into())
}

pub fn symlinkat(target: &CStr, dir: BorrowedFd, name: &CStr) -> Result<()> {
    // SAFETY: pointers.
    done(unsafe { libc::symlinkat(target.as_ptr(), dir.as_raw_fd(), name.as_ptr()) }.into())
}

pub fn unlinkat(dir: BorrowedFd, name: &CStr, flags: i32) -> Result<()> {
    // SAFETY: pointers.
    done(unsafe { libc::unlinkat(dir.as_raw_fd(), name.as_ptr(), flags) }.into())
}

pub fn readlinkat(dir: BorrowedFd, name: &CStr) -> Result<CString> {
    let mut buffer = vec![0u8; libc::PATH_MAX as usize];
    let start = buffer.as_mut_ptr().cast();
    // SAFETY: pointers.
    let length =
        unsafe { libc::readlinkat(dir.as_raw_fd(), name.as_ptr(), start, buffer.len()) } as i64;
    buffer.truncate(check(length)? as usize);
    CString::new(buffer).map_err(|_| Errno(libc::EINVAL))
}

pub fn fstat(fd: BorrowedFd) -> Result<libc::stat> {
    fstatat(fd, c"")
}

/// fstatat(2) without following a symbolic link; an empty name means the descriptor itself.
pub fn fstatat(dir: BorrowedFd, name: &CStr) -> Result<libc::stat> {
    let flags = libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW;
    let mut stat = MaybeUninit::uninit();
    // SAFETY: pointers, results.
    done(
        unsafe { libc::fstatat(dir.as_raw_fd(), name.as_ptr(), stat.as_mut_ptr(), flags) }.into(),
    )?;
    Ok(unsafe { stat.assume_init() })
}

/// stat(2) by path: only for paths that the kernel resolves below the process's own root.
pub fn stat(path: &CStr) -> Result<libc::stat> {
    let mut stat = MaybeUninit::uninit();
    // SAFETY: pointers, results.
    done(unsafe { libc::stat(path.as_ptr(), stat.as_mut_ptr()) }.into())?;
    Ok(unsafe { stat.assume_init() })
}

/// faccessat2(2) for execution with the effective ids.
pub fn may_execute(path: &CStr) -> Result<()> {
    done(syscall!(
        libc::SYS_faccessat2,
        libc::AT_FDCWD,
        path.as_ptr(),
        libc::X_OK,
        libc::AT_EACCESS
    ))
}

/// The magic number of the file system that `fd` lies on.
pub fn filesystem(fd: BorrowedFd) -> Result<u64> {
    let mut stat: MaybeUninit<libc::statfs> = MaybeUninit::uninit();
    // SAFETY: pointers, results.
    done(unsafe { libc::fstatfs(fd.as_raw_fd(), stat.as_mut_ptr()) }.into())?;
    Ok(unsafe { stat.assume_init() }.f_type as u64)
}

pub fn fchown(fd: BorrowedFd, uid: u32, gid: u32) -> Result<()> {
    // SAFETY: no pointers.
    done(unsafe { libc::fchown(fd.as_raw_fd(), uid, gid) }.into())
}

pub fn fchownat(dir: BorrowedFd, name: &CStr, uid: u32, gid: u32) -> Result<()> {
    let flags = libc::AT_SYMLINK_NOFOLLOW;
    // SAFETY: pointers.
    done(unsafe { libc::fchownat(dir.as_raw_fd(), name.as_ptr(), uid, gid, flags) }.into())
}

pub fn fchmod(fd: BorrowedFd, mode: u32) -> Result<()> {
    // SAFETY: no pointers.
    done(unsafe { libc::fchmod(fd.as_raw_fd(), mode) }.into())
}

/// Set access and modification time, without following a symbolic link.
pub fn set_times(dir: BorrowedFd, name: &CStr, of: &libc::stat) -> Result<()> {
    let time = |seconds, nanoseconds| libc::timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds,
    };
    let times = [
        time(of.st_atime, of.st_atime_nsec),
        time(of.st_mtime, of.st_mtime_nsec),
    ];
    let flags = libc::AT_SYMLINK_NOFOLLOW;
    // SAFETY: pointers.
    done(unsafe { libc::utimensat(dir.as_raw_fd(), name.as_ptr(), times.as_ptr(), flags) }.into())
}

/// The names of the entries of a directory, `.` and `..` left out.
pub fn list(dir: BorrowedFd) -> Result<Vec<CString>> {
    let mut names = Vec::new();
    let mut buffer = vec![0u8; 32 * 1024];
    each_entry(dir, &mut buffer, |name| names.push(name.to_owned()))?;
    Ok(names)
}

/// Tell `each` the names of the entries of a directory, `.` and `..` left out. `buffer` is where the kernel writes them.
pub fn each_entry(dir: BorrowedFd, buffer: &mut [u8], mut each: impl FnMut(&CStr)) -> Result<()> {
    loop {
        let length = check(syscall!(
            libc::SYS_getdents64,
            dir.as_raw_fd(),
            buffer.as_mut_ptr(),
            buffer.len()
        ))?;
        if length == 0 {
            return Ok(());
        }
        read_entries(&buffer[..length as usize], &mut each);
    }
}

/// Take the names out of a buffer of `struct linux_dirent64`: inode 8, offset 8, record length 2, type 1, name.
fn read_entries(mut buffer: &[u8], each: &mut impl FnMut(&CStr)) {
    while buffer.len() > 19 {
        let length = usize::from(u16::from_ne_bytes([buffer[16], buffer[17]]));
        let Ok(name) = CStr::from_bytes_until_nul(&buffer[19..length]) else {
            return;
        };
        if name != c"." && name != c".." {
            each(name);
        }
        buffer = &buffer[length..];
    }
}

/// All extended attributes of an open file. A file system without them has none.
pub fn attributes(fd: BorrowedFd) -> Result<Vec<(CString, Vec<u8>)>> {
    let mut names = vec![0u8; 64 * 1024];
    let fd = fd.as_raw_fd();
    // SAFETY: pointers.
    let length = unsafe { libc::flistxattr(fd, names.as_mut_ptr().cast(), names.len()) } as i64;
    match check(length) {
        Err(Errno(libc::ENOTSUP)) => return Ok(Vec::new()),
        length => names.truncate(length? as usize),
    }
    let names = names.split(|&byte| byte == 0).filter(|n| !n.is_empty());
    names
        .map(|name| {
            let name = CString::new(name).map_err(|_| Errno(libc::EINVAL))?;
            let mut value = vec![0u8; 64 * 1024];
            let start = value.as_mut_ptr().cast();
            // SAFETY: pointers.
            let length = unsafe { libc::fgetxattr(fd, name.as_ptr(), start, value.len()) } as i64;
            value.truncate(check(length)? as usize);
            Ok((name, value))
        })
        .collect()
}

pub fn set_attribute(fd: BorrowedFd, name: &CStr, value: &[u8]) -> Result<()> {
    let start = value.as_ptr().cast();
    // SAFETY: pointers.
    done(unsafe { libc::fsetxattr(fd.as_raw_fd(), name.as_ptr(), start, value.len(), 0) }.into())
}

pub fn chdir(path: &CStr) -> Result<()> {
    // SAFETY: pointers.
    done(unsafe { libc::chdir(path.as_ptr()) }.into())
}

pub fn fchdir(fd: BorrowedFd) -> Result<()> {
    // SAFETY: no pointers.
    done(unsafe { libc::fchdir(fd.as_raw_fd()) }.into())
}

pub fn chroot(path: &CStr) -> Result<()> {
    // SAFETY: pointers.
    done(unsafe { libc::chroot(path.as_ptr()) }.into())
}

/// getcwd(2) itself: glibc's would hide the kernel's "(unreachable)".
pub fn getcwd() -> Result<Vec<u8>> {
    let mut buffer = vec![0u8; libc::PATH_MAX as usize];
    let length = check(syscall!(
        libc::SYS_getcwd,
        buffer.as_mut_ptr(),
        buffer.len()
    ))?;
    buffer.truncate((length as usize).saturating_sub(1));
    Ok(buffer)
}

// -- mounts -----------------------------------------------------------------------------------------------------------

const OPEN_TREE_CLOEXEC: u32 = libc::O_CLOEXEC as u32;
pub const AT_EMPTY_PATH: u32 = libc::AT_EMPTY_PATH as u32;
pub const AT_RECURSIVE: u32 = 0x8000;
pub const AT_SYMLINK_NOFOLLOW: u32 = libc::AT_SYMLINK_NOFOLLOW as u32;

pub fn open_tree(dir: BorrowedFd, path: &CStr, flags: u32) -> Result<OwnedFd> {
    owned(syscall!(
        libc::SYS_open_tree,
        dir.as_raw_fd(),
        path.as_ptr(),
        flags | OPEN_TREE_CLOEXEC
    ))
}

/// Attach the mount `from` at the place that `to` is a descriptor of.
pub fn move_mount(from: BorrowedFd, to: BorrowedFd) -> Result<()> {
    const EMPTY_PATHS: u32 = 0x04 | 0x40; // MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH
    let empty = c"".as_ptr();
    done(syscall!(
        libc::SYS_move_mount,
        from.as_raw_fd(),
        empty,
        to.as_raw_fd(),
        empty,
        EMPTY_PATHS
    ))
}

pub fn fsopen(kind: &CStr) -> Result<OwnedFd> {
    owned(syscall!(libc::SYS_fsopen, kind.as_ptr(), 1)) // FSOPEN_CLOEXEC
}

/// fsconfig(2) of one option: a string, or a flag where there is no value.
pub fn fsconfig_set(context: BorrowedFd, key: &CStr, value: Option<&CStr>) -> Result<()> {
    let (command, value) = match value {
        None => (0, null()),                // FSCONFIG_SET_FLAG
        Some(value) => (1, value.as_ptr()), // FSCONFIG_SET_STRING
    };
    let fd = context.as_raw_fd();
    done(syscall!(
        libc::SYS_fsconfig,
        fd,
        command,
        key.as_ptr(),
        value,
        0
    ))
}

pub fn fsconfig_create(context: BorrowedFd) -> Result<()> {
    const FSCONFIG_CMD_CREATE: i32 = 6;
    let nothing: *const libc::c_char = null();
    done(syscall!(
        libc::SYS_fsconfig,
        context.as_raw_fd(),
        FSCONFIG_CMD_CREATE,
        nothing,
        nothing,
        0
    ))
}

pub fn fsmount(context: BorrowedFd, attributes: u64) -> Result<OwnedFd> {
    owned(syscall!(
        libc::SYS_fsmount,
        context.as_raw_fd(),
        1, // FSMOUNT_CLOEXEC
        attributes as u32
    ))
}

/// `struct mount_attr`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct MountAttr {
    pub set: u64,
    pub clear: u64,
    pub propagation: u64,
    pub userns: u64,
}

pub fn mount_setattr(mount: BorrowedFd, recursive: bool, attr: &MountAttr) -> Result<()> {
    let flags = AT_EMPTY_PATH | if recursive { AT_RECURSIVE } else { 0 };
    done(syscall!(
        libc::SYS_mount_setattr,
        mount.as_raw_fd(),
        c"".as_ptr(),
        flags,
        attr,
        size_of::<MountAttr>()
    ))
}

/// mount(2). What is not given is a null pointer.
pub fn mount(
    source: Option<&CStr>,
    target: &CStr,
    kind: Option<&CStr>,
    flags: u64,
    data: Option<&CStr>,
) -> Result<()> {
    let pointer = |text: Option<&CStr>| text.map_or(null(), CStr::as_ptr);
    let flags = flags as libc::c_ulong;
    // SAFETY: pointers.
    let result = unsafe {
        libc::mount(
            pointer(source),
            target.as_ptr(),
            pointer(kind),
            flags,
            pointer(data).cast(),
        )
    };
    done(result.into())
}

pub fn umount_detach(path: &CStr) -> Result<()> {
    // SAFETY: pointers.
    done(unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) }.into())
}

pub fn pivot_root(new: &CStr, old: &CStr) -> Result<()> {
    done(syscall!(libc::SYS_pivot_root, new.as_ptr(), old.as_ptr()))
}

// -- namespaces and processes -----------------------------------------------------------------------------------------

pub fn setns(fd: BorrowedFd, kinds: i32) -> Result<()> {
    // SAFETY: no pointers.
    done(unsafe { libc::setns(fd.as_raw_fd(), kinds) }.into())
}

/// The `CLONE_NEW*` kind of a namespace descriptor.
pub fn namespace_kind(fd: BorrowedFd) -> Result<i32> {
    const NS_GET_NSTYPE: u64 = 0xb703;
    // SAFETY: no pointers.
    let kind = unsafe { libc::ioctl(fd.as_raw_fd(), NS_GET_NSTYPE as _) };
    check(kind.into()).map(|kind| kind as i32)
}

pub fn unshare(kinds: i32) -> Result<()> {
    // SAFETY: no pointers.
    done(unsafe { libc::unshare(kinds) }.into())
}

/// `struct clone_args` up to `cgroup` (Linux 5.7).
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// clone3(2) as a fork: None in the child, the child's pid in the parent.
pub fn clone(flags: u64) -> Result<Option<i32>> {
    let pid = clone3(CloneArgs {
        flags,
        exit_signal: libc::SIGCHLD as u64,
        ..CloneArgs::default()
    })?;
    Ok(if pid == 0 { None } else { Some(pid as i32) })
}

/// Which of the two processes a call came back in.
pub enum Side {
    /// The one that called, with the new process's pid.
    Caller(i32),
    /// The new process, with its pid as the caller's pid namespace has it.
    Sibling(i32),
}

/// clone3(`CLONE_PARENT`) as a fork: a child of the caller's parent, in a cgroup of its own if one is given.
///
/// The kernel writes the pid into a page that both share before the new process runs, so that it can report itself.
pub fn clone_sibling(cgroup: Option<BorrowedFd>) -> Result<Side> {
    let page = shared_page()?;
    let pid = clone3(sibling(page, cgroup))?;
    if pid != 0 {
        return Ok(Side::Caller(pid as i32));
    }
    // SAFETY: results: the page is mapped for good, and the kernel wrote it before this process began.
    Ok(Side::Sibling(unsafe { page.read_volatile() }))
}

/// A child of the caller's parent; the kernel writes its pid, as this pid namespace has it, to `pid`.
fn sibling(pid: *mut i32, cgroup: Option<BorrowedFd>) -> CloneArgs {
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    let into = cgroup.map_or(0, |_| CLONE_INTO_CGROUP);
    // The exit signal is the caller's own, and must be 0 here.
    CloneArgs {
        flags: libc::CLONE_PARENT as u64 | libc::CLONE_PARENT_SETTID as u64 | into,
        parent_tid: pid as u64,
        cgroup: cgroup.map_or(0, |fd| fd.as_raw_fd() as u64),
        ..CloneArgs::default()
    }
}

/// Go on as a new process, which takes over this one's memory, stack and all; its pid as the old one's pid namespace has
/// it. It is a sibling as `clone_sibling` makes one, without the copy of all page tables and the copy of each page that
/// is written to after that. The old process ends.
///
/// Whoever can write to the new process's memory can write to the old one's as long as that is there: for a new pid
/// namespace, in which there is nobody else. ENOSYS where it cannot be had.
pub fn hand_over(cgroup: Option<BorrowedFd>) -> Result<i32> {
    let mut pid = 0;
    let mut arguments = sibling(&raw mut pid, cgroup);
    arguments.flags |= libc::CLONE_VM as u64;
    // SAFETY: pointers.
    let result = unsafe { clone3_and_end(&arguments) };
    match i32::try_from(-result) {
        Ok(errno @ 1..) => Err(Errno(errno)),
        // SAFETY: results: the kernel wrote it before this process began.
        _ => Ok(unsafe { (&raw const pid).read_volatile() }),
    }
}

/// clone3(2), which returns 0 in the new process, or the negative error number. The old one calls exit_group(2): the
/// stack is the new one's by then, so all of it happens in registers.
#[cfg(target_arch = "x86_64")]
unsafe fn clone3_and_end(arguments: &CloneArgs) -> i64 {
    let result;
    // SAFETY: pointers; a system call changes rax, rcx and r11.
    std::arch::asm!(
        "syscall",
        "test rax, rax",
        "jle 2f",
        "xor edi, edi",
        "mov eax, {exit_group}",
        "syscall",
        "2:",
        exit_group = const libc::SYS_exit_group,
        inlateout("rax") libc::SYS_clone3 => result,
        inlateout("rdi") arguments => _,
        in("rsi") size_of::<CloneArgs>(),
        out("rcx") _,
        out("r11") _,
    );
    result
}

#[cfg(target_arch = "aarch64")]
unsafe fn clone3_and_end(arguments: &CloneArgs) -> i64 {
    let result;
    // SAFETY: pointers; a system call changes x0.
    std::arch::asm!(
        "svc 0",
        "cmp x0, 0",
        "b.le 2f",
        "mov x0, 0",
        "mov x8, {exit_group}",
        "svc 0",
        "2:",
        exit_group = const libc::SYS_exit_group,
        inlateout("x8") libc::SYS_clone3 => _,
        inlateout("x0") arguments => result,
        in("x1") size_of::<CloneArgs>(),
    );
    result
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
unsafe fn clone3_and_end(_: &CloneArgs) -> i64 {
    -i64::from(libc::ENOSYS)
}

/// A page of memory that processes made by clone(2) share with this one.
fn shared_page() -> Result<*mut i32> {
    let (access, kind) = (
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_SHARED | libc::MAP_ANONYMOUS,
    );
    // SAFETY: no pointers: the kernel chooses the place.
    let page = unsafe { libc::mmap(null_mut(), 4096, access, kind, -1, 0) };
    if page == libc::MAP_FAILED {
        return Err(Errno::last());
    }
    Ok(page.cast())
}

/// 0 in the child. The child gets a copy of this process, which has one thread: nothing in it can be held by another.
fn clone3(arguments: CloneArgs) -> Result<libc::c_long> {
    let size = size_of::<CloneArgs>();
    match check(syscall!(libc::SYS_clone3, &arguments, size)) {
        // What a seccomp profile answers that cannot look into clone3's arguments: hooks run behind it.
        Err(Errno(libc::ENOSYS | libc::EPERM)) if arguments.cgroup == 0 => {
            let flags = arguments.flags | arguments.exit_signal;
            let (none, parent_tid) = (0u64, arguments.parent_tid);
            check(syscall!(
                libc::SYS_clone,
                flags,
                none,
                parent_tid,
                none,
                none
            ))
        }
        made => made,
    }
}

/// Wait for a child to end; the status as wait(2) gives it.
pub fn waitpid(pid: i32) -> Result<i32> {
    let mut status = 0;
    loop {
        // SAFETY: pointers.
        match check(unsafe { libc::waitpid(pid, &mut status, 0) }.into()) {
            Err(Errno(libc::EINTR)) => {}
            result => return result.map(|_| status),
        }
    }
}

pub fn pidfd_open(pid: i32) -> Result<OwnedFd> {
    owned(syscall!(libc::SYS_pidfd_open, pid, 0))
}

pub fn kill(pid: i32, signal: i32) -> Result<()> {
    // SAFETY: no pointers.
    done(unsafe { libc::kill(pid, signal) }.into())
}

pub fn getpid() -> i32 {
    // SAFETY: no pointers.
    unsafe { libc::getpid() }
}

pub fn geteuid() -> u32 {
    // SAFETY: no pointers.
    unsafe { libc::geteuid() }
}

/// End this process at once, without destructors.
pub fn exit(code: i32) -> ! {
    // SAFETY: no pointers.
    unsafe { libc::_exit(code) }
}

/// execve(2); returns only the error.
pub fn execve(path: &CStr, args: &[&CStr], env: &[&CStr]) -> Errno {
    let pointers = |texts: &[&CStr]| -> Vec<*const libc::c_char> {
        texts
            .iter()
            .map(|text| text.as_ptr())
            .chain([null()])
            .collect()
    };
    let (args, env) = (pointers(args), pointers(env));
    // SAFETY: pointers: both lists end with a null.
    unsafe { libc::execve(path.as_ptr(), args.as_ptr(), env.as_ptr()) };
    Errno::last()
}

/// Give every signal its default action and unblock all: a parent may have left some ignored (Python ignores SIGPIPE
/// and SIGXFSZ, Rust's runtime SIGPIPE), and execve(2) keeps that.
pub fn reset_signals() {
    const KERNEL_SIGACTION_SIZE: usize = 32; // handler, flags, restorer, mask: all zero is SIG_DFL
    let action = [0u64; KERNEL_SIGACTION_SIZE / 8];
    let old: *mut u64 = null_mut();
    for signal in 1..=64 {
        // SIGKILL and SIGSTOP answer EINVAL: they have no other action.
        let _ = syscall!(
            libc::SYS_rt_sigaction,
            signal,
            action.as_ptr(),
            old,
            size_of::<u64>()
        );
    }
    let none = 0u64;
    let _ = syscall!(
        libc::SYS_rt_sigprocmask,
        libc::SIG_SETMASK,
        &none,
        old,
        size_of::<u64>()
    );
}

/// Let the signals that ask a process to end do so for PID 1 of a pid namespace too, where the kernel drops those that
/// are not caught (pid_namespaces(7)): a container that waits for `start` can be ended by SIGTERM. execve(2) takes the
/// handlers off again.
pub fn end_on_signals() {
    extern "C" fn end(signal: i32) {
        // SAFETY: no pointers; async-signal-safe (signal-safety(7)).
        unsafe { libc::_exit(128 + signal) }
    }
    let handler = end as extern "C" fn(i32) as libc::sighandler_t;
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM] {
        // SAFETY: the handler is a function of this program and only ends it.
        unsafe { libc::signal(signal, handler) };
    }
}

/// Return what a signal means, in lower case: "bad system call".
pub fn signal_text(signal: i32) -> String {
    // SAFETY: strsignal(3) answers any number with a string that nobody else changes: this program has one thread.
    let text = unsafe { CStr::from_ptr(libc::strsignal(signal)) };
    text.to_string_lossy().to_lowercase()
}

fn prctl(option: i32, argument: u64) -> Result<i64> {
    let zero = 0u64;
    // SAFETY: none of the options used here takes a pointer but PR_SET_NAME, which has its own function.
    check(unsafe { libc::prctl(option, argument, zero, zero, zero) }.into())
}

pub fn set_parent_death_signal(signal: i32) -> Result<()> {
    prctl(libc::PR_SET_PDEATHSIG, signal as u64).map(|_| ())
}

pub fn set_dumpable(on: bool) -> Result<()> {
    prctl(libc::PR_SET_DUMPABLE, u64::from(on)).map(|_| ())
}

pub fn set_keep_capabilities(on: bool) -> Result<()> {
    prctl(libc::PR_SET_KEEPCAPS, u64::from(on)).map(|_| ())
}

pub fn set_no_new_privileges() -> Result<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1).map(|_| ())
}

/// Whether a capability is in the bounding set; EINVAL for one that this kernel does not know.
pub fn bounding_has(capability: u32) -> Result<bool> {
    prctl(libc::PR_CAPBSET_READ, capability.into()).map(|set| set == 1)
}

pub fn bounding_drop(capability: u32) -> Result<()> {
    prctl(libc::PR_CAPBSET_DROP, capability.into()).map(|_| ())
}

pub fn ambient_clear() -> Result<()> {
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as u64).map(|_| ())
}

pub fn ambient_raise(capability: u32) -> Result<()> {
    let (raise, zero) = (libc::PR_CAP_AMBIENT_RAISE as u64, 0u64);
    // SAFETY: no pointers.
    let result = unsafe {
        libc::prctl(
            libc::PR_CAP_AMBIENT,
            raise,
            u64::from(capability),
            zero,
            zero,
        )
    };
    done(result.into())
}

/// capset(2) of the calling thread, `_LINUX_CAPABILITY_VERSION_3`: bit N for capability N.
pub fn capset(effective: u64, permitted: u64, inheritable: u64) -> Result<()> {
    let header = [0x2008_0522u32, 0];
    let half = |shift: u32| {
        [
            (effective >> shift) as u32,
            (permitted >> shift) as u32,
            (inheritable >> shift) as u32,
        ]
    };
    let data = [half(0), half(32)];
    done(syscall!(libc::SYS_capset, header.as_ptr(), data.as_ptr()))
}

// The raw calls: glibc's wrappers would signal threads that a fork of this program does not have.
pub fn setgroups(groups: &[u32]) -> Result<()> {
    done(syscall!(libc::SYS_setgroups, groups.len(), groups.as_ptr()))
}

pub fn setresgid(gid: u32) -> Result<()> {
    done(syscall!(libc::SYS_setresgid, gid, gid, gid))
}

pub fn setresuid(uid: u32) -> Result<()> {
    done(syscall!(libc::SYS_setresuid, uid, uid, uid))
}

/// Real, effective and saved user and group ids.
pub fn identities() -> Result<([u32; 3], [u32; 3])> {
    let (mut uids, mut gids) = ([0u32; 3], [0u32; 3]);
    let [real, effective, saved] = &mut uids;
    // SAFETY: pointers.
    done(unsafe { libc::getresuid(real, effective, saved) }.into())?;
    let [real, effective, saved] = &mut gids;
    // SAFETY: pointers.
    done(unsafe { libc::getresgid(real, effective, saved) }.into())?;
    Ok((uids, gids))
}

pub fn setsid() -> Result<()> {
    // SAFETY: no pointers.
    done(unsafe { libc::setsid() }.into())
}

pub fn umask(mask: u32) -> u32 {
    // SAFETY: no pointers; umask(2) cannot fail.
    unsafe { libc::umask(mask) }
}

pub fn sethostname(name: &CStr) -> Result<()> {
    // SAFETY: pointers.
    done(unsafe { libc::sethostname(name.as_ptr(), name.to_bytes().len()) }.into())
}

pub fn setdomainname(name: &CStr) -> Result<()> {
    // SAFETY: pointers.
    done(unsafe { libc::setdomainname(name.as_ptr(), name.to_bytes().len()) }.into())
}

/// `KEYCTL_JOIN_SESSION_KEYRING`: the new ring's serial number.
pub fn keyctl_join(name: &CStr) -> Result<i32> {
    check(syscall!(libc::SYS_keyctl, 1, name.as_ptr())).map(|serial| serial as i32)
}

/// `KEYCTL_DESCRIBE`: "type;uid;gid;permissions;description".
pub fn keyctl_describe(serial: i32) -> Result<Vec<u8>> {
    let mut buffer = vec![0u8; 4096];
    let length = check(syscall!(
        libc::SYS_keyctl,
        6,
        serial,
        buffer.as_mut_ptr(),
        buffer.len()
    ))?;
    buffer.truncate((length as usize).saturating_sub(1));
    Ok(buffer)
}

/// `KEYCTL_SETPERM`.
pub fn keyctl_set_permissions(serial: i32, permissions: u32) -> Result<()> {
    done(syscall!(libc::SYS_keyctl, 5, serial, permissions))
}

pub fn prlimit(resource: i32, soft: u64, hard: u64) -> Result<()> {
    let limits = [soft, hard];
    let old: *mut u64 = null_mut();
    done(syscall!(
        libc::SYS_prlimit64,
        0,
        resource,
        limits.as_ptr(),
        old
    ))
}

/// `struct sched_attr`, first version (48 bytes).
#[repr(C)]
pub struct SchedAttr {
    pub size: u32,
    pub policy: u32,
    pub flags: u64,
    pub nice: i32,
    pub priority: u32,
    pub runtime: u64,
    pub deadline: u64,
    pub period: u64,
}

pub fn sched_setattr(attr: &SchedAttr) -> Result<()> {
    done(syscall!(libc::SYS_sched_setattr, 0, attr, 0))
}

pub fn ioprio_set(value: i32) -> Result<()> {
    const IOPRIO_WHO_PROCESS: i32 = 1;
    done(syscall!(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, value))
}

pub fn personality(value: u64) -> Result<()> {
    done(syscall!(libc::SYS_personality, value))
}

pub fn set_mempolicy(mode: i32, mask: &[u64]) -> Result<()> {
    // The kernel reads one bit less than it is told, for compatibility with its oldest callers.
    let bits = if mask.is_empty() {
        0
    } else {
        mask.len() * 64 + 1
    };
    let start = if mask.is_empty() {
        null()
    } else {
        mask.as_ptr()
    };
    done(syscall!(libc::SYS_set_mempolicy, mode, start, bits))
}

pub fn sched_setaffinity(mask: &[u64]) -> Result<()> {
    done(syscall!(
        libc::SYS_sched_setaffinity,
        0,
        std::mem::size_of_val(mask),
        mask.as_ptr()
    ))
}

/// seccomp(`SECCOMP_SET_MODE_FILTER`) of a program of `struct sock_filter`, 8 bytes each; a listener's descriptor where
/// the flags ask for one.
pub fn seccomp(program: &[u8], flags: u64) -> Result<Option<OwnedFd>> {
    #[repr(C)]
    struct SockFprog {
        length: u16,
        filter: *const u8,
    }
    const SECCOMP_SET_MODE_FILTER: i32 = 1;
    if program.is_empty() || program.len() % 8 != 0 {
        return Err(Errno(libc::EINVAL));
    }
    let program = SockFprog {
        length: u16::try_from(program.len() / 8).map_err(|_| Errno(libc::E2BIG))?,
        filter: program.as_ptr(),
    };
    let result = syscall!(libc::SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
    if flags & SECCOMP_FILTER_FLAG_NEW_LISTENER != 0 {
        return owned(result).map(Some);
    }
    match check(result)? {
        0 => Ok(None),
        _ => Err(Errno(libc::ESRCH)), // TSYNC: a thread that could not be brought along; there is none
    }
}

// -- descriptors ------------------------------------------------------------------------------------------------------

pub fn read(fd: BorrowedFd, buffer: &mut [u8]) -> Result<usize> {
    loop {
        let start = buffer.as_mut_ptr().cast();
        // SAFETY: pointers.
        match check(unsafe { libc::read(fd.as_raw_fd(), start, buffer.len()) } as i64) {
            Err(Errno(libc::EINTR)) => {}
            result => return result.map(|length| length as usize),
        }
    }
}

pub fn read_all(fd: BorrowedFd) -> Result<Vec<u8>> {
    read_at_most(fd, usize::MAX)
}

/// Read up to the end, but no more than `limit` bytes: a file can grow while it is read.
pub fn read_at_most(fd: BorrowedFd, limit: usize) -> Result<Vec<u8>> {
    let mut data = Vec::with_capacity(limit.min(16 * 1024));
    let mut buffer = [0u8; 16 * 1024];
    while data.len() < limit {
        let room = buffer.len().min(limit - data.len());
        match read(fd, &mut buffer[..room])? {
            0 => break,
            length => data.extend_from_slice(&buffer[..length]),
        }
    }
    Ok(data)
}

pub fn write(fd: BorrowedFd, data: &[u8]) -> Result<usize> {
    loop {
        let start = data.as_ptr().cast();
        // SAFETY: pointers.
        match check(unsafe { libc::write(fd.as_raw_fd(), start, data.len()) } as i64) {
            Err(Errno(libc::EINTR)) => {}
            result => return result.map(|length| length as usize),
        }
    }
}

/// send(2) without SIGPIPE.
pub fn send(fd: BorrowedFd, data: &[u8], flags: i32) -> Result<usize> {
    let (start, flags) = (data.as_ptr().cast(), flags | libc::MSG_NOSIGNAL);
    loop {
        // SAFETY: pointers.
        match check(unsafe { libc::send(fd.as_raw_fd(), start, data.len(), flags) } as i64) {
            Err(Errno(libc::EINTR)) => {}
            result => return result.map(|length| length as usize),
        }
    }
}

/// One datagram with one descriptor beside it (SCM_RIGHTS).
pub fn send_descriptor(fd: BorrowedFd, data: &[u8], descriptor: BorrowedFd) -> Result<()> {
    let mut control = [0u64; 4]; // aligned as struct cmsghdr; CMSG_SPACE(4) is 24
    let mut vector = libc::iovec {
        iov_base: data.as_ptr().cast_mut().cast(),
        iov_len: data.len(),
    };
    // SAFETY: pointers: the header's one control message lies within `control`, which outlives the call.
    let result = unsafe {
        let mut message: libc::msghdr = zeroed();
        message.msg_iov = &mut vector;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = libc::CMSG_SPACE(size_of::<RawFd>() as u32) as _;
        let header = libc::CMSG_FIRSTHDR(&message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(size_of::<RawFd>() as u32) as _;
        libc::CMSG_DATA(header)
            .cast::<RawFd>()
            .write_unaligned(descriptor.as_raw_fd());
        libc::sendmsg(fd.as_raw_fd(), &message, libc::MSG_NOSIGNAL)
    };
    done(result as i64)
}

pub fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0; 2];
    // SAFETY: pointers, descriptors.
    unsafe {
        done(libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC).into())?;
        Ok((OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])))
    }
}

pub fn datagram_socket() -> Result<OwnedFd> {
    // SAFETY: no pointers.
    owned(unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) }.into())
}

/// A connected pair of local stream sockets, closed on exec.
pub fn stream_pair() -> Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0; 2];
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC;
    // SAFETY: pointers, descriptors.
    unsafe {
        done(libc::socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr()).into())?;
        Ok((OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])))
    }
}

/// poll(2): what happened at each descriptor within `milliseconds` (-1: no limit).
pub fn poll(wanted: &[(BorrowedFd, i16)], milliseconds: i32) -> Result<Vec<i16>> {
    let mut list: Vec<libc::pollfd> = wanted
        .iter()
        .map(|(fd, events)| libc::pollfd {
            fd: fd.as_raw_fd(),
            events: *events,
            revents: 0,
        })
        .collect();
    // SAFETY: pointers.
    match check(unsafe { libc::poll(list.as_mut_ptr(), list.len() as _, milliseconds) }.into()) {
        Ok(_) | Err(Errno(libc::EINTR)) => Ok(list.iter().map(|entry| entry.revents).collect()),
        Err(errno) => Err(errno),
    }
}

/// Make `number` another name of `fd`, kept across exec.
pub fn duplicate_to(fd: BorrowedFd, number: RawFd) -> Result<()> {
    if fd.as_raw_fd() == number {
        return set_close_on_exec(number, false);
    }
    // SAFETY: no pointers; the numbers used are stdio's, which no `OwnedFd` holds.
    done(unsafe { libc::dup3(fd.as_raw_fd(), number, 0) }.into())
}

/// close_range(2) from `first` to `last`, both included; with `mark` they are only made close-on-exec.
pub fn close_range(first: u32, last: u32, mark: bool) -> Result<()> {
    const CLOSE_RANGE_CLOEXEC: u32 = 4;
    if first > last {
        return Ok(());
    }
    let flags = if mark { CLOSE_RANGE_CLOEXEC } else { 0 };
    // Callers give up the `OwnedFd`s in the range first, without running their destructors.
    done(syscall!(libc::SYS_close_range, first, last, flags))
}

// -- terminals and interfaces -----------------------------------------------------------------------------------------

pub fn unlock_pty(master: BorrowedFd) -> Result<()> {
    let unlocked: libc::c_int = 0;
    // SAFETY: pointers.
    done(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK as _, &unlocked) }.into())
}

/// `TIOCGPTPEER`: the slave of a master, without a path (Linux 4.13).
pub fn pty_peer(master: BorrowedFd) -> Result<OwnedFd> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: no pointers.
    owned(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER as _, flags) }.into())
}

pub fn set_window_size(terminal: BorrowedFd, columns: u16, rows: u16) -> Result<()> {
    let size = libc::winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: pointers.
    done(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ as _, &size) }.into())
}

/// Let a terminal write newlines as they are: termios(3), ONLCR.
pub fn clear_newline_translation(terminal: BorrowedFd) -> Result<()> {
    let terminal = terminal.as_raw_fd();
    // SAFETY: pointers; a zeroed termios is a valid one.
    unsafe {
        let mut attributes: libc::termios = zeroed();
        done(libc::tcgetattr(terminal, &mut attributes).into())?;
        attributes.c_oflag &= !libc::ONLCR;
        done(libc::tcsetattr(terminal, libc::TCSANOW, &attributes).into())
    }
}

pub fn set_controlling_terminal(terminal: BorrowedFd) -> Result<()> {
    // SAFETY: no pointers.
    done(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY as _, 0) }.into())
}

/// Bring the interface `lo` up.
pub fn raise_loopback(socket: BorrowedFd) -> Result<()> {
    // SAFETY: pointers, results: SIOCGIFFLAGS fills the union's flags.
    unsafe {
        let mut request: libc::ifreq = zeroed();
        request.ifr_name[0] = b'l' as libc::c_char;
        request.ifr_name[1] = b'o' as libc::c_char;
        let fd = socket.as_raw_fd();
        done(libc::ioctl(fd, libc::SIOCGIFFLAGS as _, &mut request).into())?;
        request.ifr_ifru.ifru_flags |= libc::IFF_UP as libc::c_short;
        done(libc::ioctl(fd, libc::SIOCSIFFLAGS as _, &request).into())
    }
}

/// CLOCK_MONOTONIC in nanoseconds.
pub fn monotonic() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: pointers.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

// -- the launcher -----------------------------------------------------------------------------------------------------

/// A list of C strings as execve(2) takes it: the arguments or the environment that this process was started with.
#[derive(Clone, Copy)]
pub struct Strings(*const *const libc::c_char);

impl Strings {
    /// # Safety
    /// `first` must point at a list that ends with a null pointer, which nobody changes or frees while this is used.
    pub const unsafe fn new(first: *const *const libc::c_char) -> Strings {
        Strings(first)
    }

    pub fn iter(self) -> impl Iterator<Item = &'static CStr> {
        (0..).map_while(move |index| {
            // SAFETY: results: the kernel ends the list with a null, and no index beyond it is asked for.
            let text = unsafe { *self.0.add(index) };
            (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) })
        })
    }
}

/// Make `$run(arguments, environment)` the program's `main`, without Rust's runtime: that would ignore SIGPIPE before
/// anybody can ask what the caller made of it, and would install handlers and a stack for them.
#[macro_export]
macro_rules! without_runtime {
    ($run:path) => {
        #[allow(unsafe_code)]
        #[no_mangle]
        extern "C" fn main(
            _count: i32,
            arguments: *const *const std::ffi::c_char,
            environment: *const *const std::ffi::c_char,
        ) -> i32 {
            // SAFETY: what the C library passes to `main`; nothing in this program changes the environment.
            unsafe {
                $run(
                    $crate::sys::Strings::new(arguments),
                    $crate::sys::Strings::new(environment),
                )
            }
        }
    };
}

/// execve(2) with lists that this process was given; returns only the error.
pub fn execve_given(path: &CStr, args: Strings, env: Strings) -> Errno {
    // SAFETY: pointers: both lists end with a null.
    unsafe { libc::execve(path.as_ptr(), args.0, env.0) };
    Errno::last()
}

/// The path this program was executed by, as the caller wrote it: getauxval(3), `AT_EXECFN`.
pub fn executed_path() -> Option<&'static CStr> {
    // SAFETY: results: the kernel puts the string above the stack for as long as the process lives.
    let path = unsafe { libc::getauxval(libc::AT_EXECFN) } as *const libc::c_char;
    (!path.is_null()).then(|| unsafe { CStr::from_ptr(path) })
}

pub fn is_open(fd: RawFd) -> bool {
    // SAFETY: no pointers.
    check(unsafe { libc::fcntl(fd, libc::F_GETFD) }.into()).is_ok()
}

/// A copy of a descriptor at `lowest` or above, closed on exec.
pub fn duplicate_beyond(fd: BorrowedFd, lowest: RawFd) -> Result<OwnedFd> {
    // SAFETY: no pointers.
    owned(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, lowest) }.into())
}

/// An eventfd(2) that holds `value` and never blocks.
pub fn event(value: u32) -> Result<OwnedFd> {
    // SAFETY: no pointers.
    owned(unsafe { libc::eventfd(value, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) }.into())
}

/// Set access and modification time of an open file to now.
pub fn touch(fd: BorrowedFd) -> Result<()> {
    // SAFETY: no pointers: a null stands for now.
    done(unsafe { libc::futimens(fd.as_raw_fd(), null()) }.into())
}

/// CLOCK_REALTIME in seconds.
pub fn realtime() -> i64 {
    // SAFETY: no pointers: the result comes by value.
    unsafe { libc::time(null_mut()) }
}

pub fn securebits() -> Result<i64> {
    prctl(libc::PR_GET_SECUREBITS, 0)
}

pub fn set_child_subreaper() -> Result<()> {
    prctl(libc::PR_SET_CHILD_SUBREAPER, 1).map(|_| ())
}

// Signal sets are the kernel's: bit n-1 for signal n. glibc's would leave out the two that its threads use.

/// Set the mask of blocked signals; the one before.
pub fn set_signal_mask(mask: u64) -> u64 {
    let mut old = 0u64;
    // Cannot fail: the pointers and the size are right.
    let _ = syscall!(
        libc::SYS_rt_sigprocmask,
        libc::SIG_SETMASK,
        &mask,
        &mut old,
        size_of::<u64>()
    );
    old
}

/// Give one signal its default action.
pub fn set_default_action(signal: i32) {
    let action = [0u64; 4];
    let old: *mut u64 = null_mut();
    let _ = syscall!(
        libc::SYS_rt_sigaction,
        signal,
        action.as_ptr(),
        old,
        size_of::<u64>()
    );
}

/// A signalfd(2) of the signals in `mask`, which never blocks.
pub fn signal_descriptor(mask: u64) -> Result<OwnedFd> {
    owned(syscall!(
        libc::SYS_signalfd4,
        -1,
        &mask,
        size_of::<u64>(),
        libc::SFD_CLOEXEC | libc::SFD_NONBLOCK
    ))
}

/// The number of the next signal that a signalfd has, None when there is no more.
pub fn next_signal(fd: BorrowedFd) -> Option<i32> {
    let mut information = [0u8; size_of::<libc::signalfd_siginfo>()];
    match read(fd, &mut information) {
        Ok(length) if length == information.len() => {
            let [a, b, c, d, ..] = information;
            Some(i32::from_ne_bytes([a, b, c, d]))
        }
        _ => None,
    }
}

pub fn pidfd_send_signal(process: BorrowedFd, signal: i32) -> Result<()> {
    let nothing: *const u64 = null();
    done(syscall!(
        libc::SYS_pidfd_send_signal,
        process.as_raw_fd(),
        signal,
        nothing,
        0
    ))
}

/// fork(2) that tells the parent nothing when the child ends: `wait_quietly` waits for it.
pub fn fork_quietly() -> Result<Option<i32>> {
    let pid = clone3(CloneArgs::default())?;
    Ok(if pid == 0 { None } else { Some(pid as i32) })
}

pub fn wait_quietly(pid: i32) -> Result<()> {
    let status: *mut i32 = null_mut();
    loop {
        // SAFETY: pointers.
        match check(unsafe { libc::waitpid(pid, status, libc::__WALL) }.into()) {
            Err(Errno(libc::EINTR)) => {}
            result => return result.map(|_| ()),
        }
    }
}

/// A child's wait status if it has ended, without waiting; it is reaped then.
pub fn try_wait(pid: i32) -> Result<Option<i32>> {
    let mut status = 0;
    // SAFETY: pointers.
    let ended = check(unsafe { libc::waitpid(pid, &mut status, libc::WNOHANG) }.into())?;
    Ok((ended != 0).then_some(status))
}

/// A child that has ended and is not reaped: this one, or any if none is named. ECHILD without such a child, ended or not.
pub fn ended_child(pid: Option<i32>) -> Result<Option<i32>> {
    let kind = if pid.is_some() {
        libc::P_PID
    } else {
        libc::P_ALL
    };
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: pointers, results: zeroed is a valid siginfo_t, and what says "no child yet".
    unsafe {
        let mut information: libc::siginfo_t = zeroed();
        done(libc::waitid(kind, pid.unwrap_or(0) as _, &mut information, options).into())?;
        let found = information.si_pid();
        Ok((found != 0).then_some(found))
    }
}

/// What posix_spawn(3) starts. `streams` become the descriptors 0, 1, 2, …: none of them may be below their number.
pub struct Program<'a> {
    pub path: &'a CStr,
    pub args: &'a [CString],
    pub env: Option<&'a [CString]>,
    pub given_env: Strings,
    pub streams: &'a [BorrowedFd<'a>],
    pub directory: BorrowedFd<'a>,
    pub group: bool,
}

/// posix_spawn(3): all signals at their default, none blocked, in `directory`. What executing fails with comes back.
pub fn spawn(program: &Program) -> Result<i32> {
    let pointers = |texts: &[CString]| -> Vec<*const libc::c_char> {
        let texts = texts.iter().map(|text| text.as_ptr());
        texts.chain([null()]).collect()
    };
    let args = pointers(program.args);
    let env = program.env.map(pointers);
    let env = env
        .as_ref()
        .map_or(program.given_env.0, |list| list.as_ptr());
    let failure = |number: i32| {
        if number == 0 {
            Ok(())
        } else {
            Err(Errno(number))
        }
    };
    let mut pid = 0;
    // SAFETY: pointers: all lists end with a null; actions and attributes are initialised before their use and
    // destroyed after it (they are left to the process's end where a step fails for want of memory).
    unsafe {
        let mut actions: libc::posix_spawn_file_actions_t = zeroed();
        failure(libc::posix_spawn_file_actions_init(&mut actions))?;
        let directory = program.directory.as_raw_fd();
        failure(libc::posix_spawn_file_actions_addfchdir_np(
            &mut actions,
            directory,
        ))?;
        for (target, stream) in program.streams.iter().enumerate() {
            let (from, to) = (stream.as_raw_fd(), target as RawFd);
            failure(libc::posix_spawn_file_actions_adddup2(
                &mut actions,
                from,
                to,
            ))?;
        }
        let mut attributes: libc::posix_spawnattr_t = zeroed();
        failure(libc::posix_spawnattr_init(&mut attributes))?;
        let mut signals: libc::sigset_t = zeroed();
        libc::sigemptyset(&mut signals);
        failure(libc::posix_spawnattr_setsigmask(&mut attributes, &signals))?;
        libc::sigfillset(&mut signals);
        failure(libc::posix_spawnattr_setsigdefault(
            &mut attributes,
            &signals,
        ))?;
        let mut flags = libc::POSIX_SPAWN_SETSIGMASK | libc::POSIX_SPAWN_SETSIGDEF;
        if program.group {
            flags |= libc::POSIX_SPAWN_SETPGROUP; // the group is 0 unless set: the child's own pid
        }
        failure(libc::posix_spawnattr_setflags(
            &mut attributes,
            flags as libc::c_short,
        ))?;
        let spawned = libc::posix_spawn(
            &mut pid,
            program.path.as_ptr(),
            &actions,
            &attributes,
            args.as_ptr().cast(),
            env.cast(),
        );
        libc::posix_spawnattr_destroy(&mut attributes);
        libc::posix_spawn_file_actions_destroy(&mut actions);
        failure(spawned)?;
    }
    Ok(pid)
}

/// Connect to a local stream socket without waiting: EAGAIN where its queue is full. Nothing later waits either.
pub fn connect(path: &CStr) -> Result<OwnedFd> {
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: no pointers.
    let socket = owned(unsafe { libc::socket(libc::AF_UNIX, kind, 0) }.into())?;
    // SAFETY: pointers; a zeroed address is a valid one, and the path with its NUL is checked to fit.
    unsafe {
        let mut address: libc::sockaddr_un = zeroed();
        address.sun_family = libc::AF_UNIX as libc::sa_family_t;
        let path = path.to_bytes_with_nul();
        if path.len() > address.sun_path.len() {
            return Err(Errno(libc::ENAMETOOLONG));
        }
        for (place, byte) in address.sun_path.iter_mut().zip(path) {
            *place = *byte as libc::c_char;
        }
        let length = size_of::<libc::sockaddr_un>() as libc::socklen_t;
        let address = (&raw const address).cast();
        done(libc::connect(socket.as_raw_fd(), address, length).into())?;
    }
    Ok(socket)
}

/// Pid and user id of whoever listens (or connected) at the other end: SO_PEERCRED of unix(7).
pub fn peer_credentials(socket: BorrowedFd) -> Result<(i32, u32)> {
    let mut credentials = libc::ucred {
        pid: 0,
        uid: u32::MAX,
        gid: u32::MAX,
    };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: pointers.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut credentials).cast(),
            &mut length,
        )
    };
    done(result.into())?;
    Ok((credentials.pid, credentials.uid))
}

/// asm-generic/socket.h; libc does not have it for every target.
const SO_PEERPIDFD: i32 = 77;

/// A pidfd of whoever listens (or connected) at the other end: SO_PEERPIDFD, Linux 6.5.
pub fn peer_pidfd(socket: BorrowedFd) -> Result<OwnedFd> {
    let mut number: RawFd = -1;
    let mut length = size_of::<RawFd>() as libc::socklen_t;
    // SAFETY: pointers.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PEERPIDFD,
            (&raw mut number).cast(),
            &mut length,
        )
    };
    done(result.into())?;
    owned(number.into())
}

/// Copy a descriptor out of another process: pidfd_getfd(2). EPERM for who may not trace it.
pub fn pidfd_getfd(process: BorrowedFd, number: RawFd) -> Result<OwnedFd> {
    owned(syscall!(
        libc::SYS_pidfd_getfd,
        process.as_raw_fd(),
        number,
        0
    ))
}

/// The most descriptors that one message may carry: `SCM_MAX_FD` of the kernel's include/net/scm.h.
pub const SCM_MAX_FD: usize = 253;
/// Room for one control message of that many descriptors, in units that align it.
const RIGHTS: usize = (size_of::<libc::cmsghdr>() + SCM_MAX_FD * size_of::<RawFd>()).div_ceil(8);

/// sendmsg(2) with descriptors on the first byte (SCM_RIGHTS); how many bytes were taken.
pub fn send_with(socket: BorrowedFd, data: &[u8], descriptors: &[RawFd]) -> Result<usize> {
    if descriptors.is_empty() {
        return send(socket, data, 0);
    }
    if descriptors.len() > SCM_MAX_FD {
        return Err(Errno(libc::EINVAL));
    }
    let mut control = [0u64; RIGHTS];
    let size = std::mem::size_of_val(descriptors) as u32;
    let mut vector = libc::iovec {
        iov_base: data.as_ptr().cast_mut().cast(),
        iov_len: data.len(),
    };
    // SAFETY: pointers: `control` has room for the header and all numbers, and outlives the call.
    let result = unsafe {
        let mut message: libc::msghdr = zeroed();
        message.msg_iov = &mut vector;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = libc::CMSG_SPACE(size) as _;
        let header = libc::CMSG_FIRSTHDR(&message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(size) as _;
        let place = libc::CMSG_DATA(header).cast::<RawFd>();
        for (index, descriptor) in descriptors.iter().enumerate() {
            place.add(index).write_unaligned(*descriptor);
        }
        libc::sendmsg(socket.as_raw_fd(), &message, libc::MSG_NOSIGNAL)
    };
    check(result as i64).map(|length| length as usize)
}

/// recvmsg(2): how many bytes came (0 at the end of file); descriptors that came along are added to `descriptors`,
/// closed on exec. EMSGSIZE when not all of a datagram or of the descriptors fitted.
pub fn receive_with(
    socket: BorrowedFd,
    buffer: &mut [u8],
    descriptors: &mut Vec<OwnedFd>,
    flags: i32,
) -> Result<usize> {
    let mut control = [0u64; RIGHTS];
    let mut vector = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    let flags = flags | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: pointers, results, descriptors: the kernel has just installed those that the control messages name, and
    // says how long each message is.
    unsafe {
        let mut message: libc::msghdr = zeroed();
        message.msg_iov = &mut vector;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = std::mem::size_of_val(&control) as _;
        let length = check(libc::recvmsg(socket.as_raw_fd(), &mut message, flags) as i64)?;
        let mut header = libc::CMSG_FIRSTHDR(&message);
        while !header.is_null() {
            if (*header).cmsg_level == libc::SOL_SOCKET && (*header).cmsg_type == libc::SCM_RIGHTS {
                let size = (*header).cmsg_len as usize - libc::CMSG_LEN(0) as usize;
                let place = libc::CMSG_DATA(header).cast::<RawFd>();
                for index in 0..size / size_of::<RawFd>() {
                    let number = place.add(index).read_unaligned();
                    descriptors.push(OwnedFd::from_raw_fd(number));
                }
            }
            header = libc::CMSG_NXTHDR(&message, header);
        }
        if message.msg_flags & (libc::MSG_CTRUNC | libc::MSG_TRUNC) != 0 {
            return Err(Errno(libc::EMSGSIZE));
        }
        Ok(length as usize)
    }
}

// -- the probe --------------------------------------------------------------------------------------------------------

/// One system call by its number, for programs that ask what the kernel lets them do.
pub fn attempt(number: i64, arguments: [usize; 6]) -> Result<i64> {
    let [one, two, three, four, five, six] = arguments;
    // SAFETY: pointers: what is given is none, lies outside of any memory, or outlives the call; the process that calls
    // this was made for it, and ends after it.
    check(syscall!(number, one, two, three, four, five, six))
}

/// faccessat2(2) for writing with the effective ids.
pub fn may_write(path: &CStr) -> Result<()> {
    done(syscall!(
        libc::SYS_faccessat2,
        libc::AT_FDCWD,
        path.as_ptr(),
        libc::W_OK,
        libc::AT_EACCESS
    ))
}

/// getpid(2) by the 32-bit entry, its answer as it comes: below 0 an error number. None where there is no such entry.
#[cfg(target_arch = "x86_64")]
pub fn getpid_of_32_bit() -> Option<i32> {
    let mut answer: i32 = 20;
    // SAFETY: no pointers; what this entry does not preserve is named.
    unsafe {
        std::arch::asm!(
            "int 0x80",
            inlateout("eax") answer,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
    }
    Some(answer)
}

#[cfg(not(target_arch = "x86_64"))]
pub fn getpid_of_32_bit() -> Option<i32> {
    None
}
