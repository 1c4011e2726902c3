//! The system calls that only the agent makes; those of `pysandbox_guest::sys` are not repeated here. The only module of
//! the agent with `unsafe`, for the same three reasons: *pointers* outlive the call with their length beside them,
//! *results* are read only after the call has succeeded, *descriptors* are owned only when the kernel has just made them.
#![allow(unsafe_code)]

use pysandbox_guest::sys::{Errno, Result};
use std::ffi::CStr;
use std::mem::{size_of, size_of_val, zeroed};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

fn last() -> Errno {
    let error = std::io::Error::last_os_error();
    Errno(error.raw_os_error().unwrap_or(libc::EIO))
}

fn check(result: i64) -> Result<i64> {
    match result {
        -1 => Err(last()),
        value => Ok(value),
    }
}

fn done(result: i32) -> Result<()> {
    check(result.into()).map(|_| ())
}

fn owned(result: i64) -> Result<OwnedFd> {
    // SAFETY: descriptors.
    check(result).map(|fd| unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

// -- epoll ------------------------------------------------------------------------------------------------------------

pub fn epoll() -> Result<OwnedFd> {
    // SAFETY: no pointers.
    owned(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) }.into())
}

/// epoll_ctl(2) with `EPOLL_CTL_ADD`, `_MOD` or `_DEL`.
pub fn epoll_control(
    epoll: BorrowedFd,
    operation: i32,
    fd: BorrowedFd,
    events: u32,
    token: u64,
) -> Result<()> {
    let mut event = libc::epoll_event { events, u64: token };
    // SAFETY: pointers.
    done(unsafe { libc::epoll_ctl(epoll.as_raw_fd(), operation, fd.as_raw_fd(), &mut event) })
}

/// What happened: events and token of each. Nothing after `milliseconds` (-1: no limit), or when a signal came.
pub fn epoll_wait(epoll: BorrowedFd, milliseconds: i32) -> Result<Vec<(u32, u64)>> {
    const MOST: usize = 64;
    let mut list = [libc::epoll_event { events: 0, u64: 0 }; MOST];
    // SAFETY: pointers, results.
    let count = unsafe {
        libc::epoll_wait(
            epoll.as_raw_fd(),
            list.as_mut_ptr(),
            MOST as i32,
            milliseconds,
        )
    };
    match check(count.into()) {
        Ok(count) => Ok(list[..count as usize]
            .iter()
            .map(|event| (event.events, event.u64))
            .collect()),
        Err(Errno(libc::EINTR)) => Ok(Vec::new()),
        Err(errno) => Err(errno),
    }
}

// -- descriptors ------------------------------------------------------------------------------------------------------

pub fn set_nonblocking(fd: BorrowedFd) -> Result<()> {
    // SAFETY: no pointers.
    unsafe {
        let flags = check(libc::fcntl(fd.as_raw_fd(), libc::F_GETFL).into())? as i32;
        done(libc::fcntl(
            fd.as_raw_fd(),
            libc::F_SETFL,
            flags | libc::O_NONBLOCK,
        ))
    }
}

/// A connected pair of local sockets that keep messages apart, closed on exec.
pub fn message_pair() -> Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: pointers, descriptors.
    unsafe {
        done(libc::socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr()))?;
        Ok((OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])))
    }
}

/// A file in memory, which may be executed if `executable`.
pub fn memory_file(name: &CStr, executable: bool) -> Result<OwnedFd> {
    const MFD_EXEC: u32 = 0x10; // Linux 6.3; before that every one may
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    let make = |flags: u32| {
        // SAFETY: pointers.
        owned(unsafe { libc::memfd_create(name.as_ptr(), flags) }.into())
    };
    match make(flags | if executable { MFD_EXEC } else { 0 }) {
        Err(Errno(libc::EINVAL)) => make(flags),
        result => result,
    }
}

/// Let nobody change a file in memory any more.
pub fn seal(fd: BorrowedFd) -> Result<()> {
    let seals = libc::F_SEAL_SEAL | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE;
    // SAFETY: no pointers.
    done(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, seals) })
}

pub fn rewind(fd: BorrowedFd) -> Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::lseek(fd.as_raw_fd(), 0, libc::SEEK_SET) }).map(|_| ())
}

pub fn inotify() -> Result<OwnedFd> {
    // SAFETY: no pointers.
    owned(unsafe { libc::inotify_init1(libc::IN_CLOEXEC | libc::IN_NONBLOCK) }.into())
}

pub fn inotify_watch(inotify: BorrowedFd, path: &CStr) -> Result<i32> {
    // SAFETY: pointers.
    let watch =
        unsafe { libc::inotify_add_watch(inotify.as_raw_fd(), path.as_ptr(), libc::IN_MODIFY) };
    check(watch.into()).map(|watch| watch as i32)
}

/// A watch of a file that has gone removes itself: the error says no more.
pub fn inotify_forget(inotify: BorrowedFd, watch: i32) {
    // SAFETY: no pointers.
    unsafe { libc::inotify_rm_watch(inotify.as_raw_fd(), watch) };
}

// -- sockets ----------------------------------------------------------------------------------------------------------

/// A netlink socket of a family, which gets the messages of `groups`.
pub fn netlink(family: i32, groups: u32, nonblocking: bool) -> Result<OwnedFd> {
    let flags = if nonblocking { libc::SOCK_NONBLOCK } else { 0 };
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | flags;
    // SAFETY: no pointers.
    let socket = owned(unsafe { libc::socket(libc::AF_NETLINK, kind, family) }.into())?;
    // SAFETY: pointers; a zeroed address is a valid one.
    unsafe {
        let mut address: libc::sockaddr_nl = zeroed();
        address.nl_family = libc::AF_NETLINK as libc::sa_family_t;
        address.nl_groups = groups;
        let length = size_of::<libc::sockaddr_nl>() as libc::socklen_t;
        done(libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            length,
        ))?;
    }
    Ok(socket)
}

/// Let a socket's recv(2) wait no longer than so.
pub fn set_receive_limit(socket: BorrowedFd, seconds: i64) -> Result<()> {
    let limit = libc::timeval {
        tv_sec: seconds,
        tv_usec: 0,
    };
    // SAFETY: pointers.
    done(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVTIMEO,
            (&raw const limit).cast(),
            size_of_val(&limit) as libc::socklen_t,
        )
    })
}

/// A socket that listens for the host's (or anyone's) connections to a port of vsock(7).
pub fn vsock_listener(port: u32) -> Result<OwnedFd> {
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: no pointers.
    let socket = owned(unsafe { libc::socket(libc::AF_VSOCK, kind, 0) }.into())?;
    // SAFETY: pointers; a zeroed address is a valid one.
    unsafe {
        let mut address: libc::sockaddr_vm = zeroed();
        address.svm_family = libc::AF_VSOCK as libc::sa_family_t;
        address.svm_port = port;
        address.svm_cid = libc::VMADDR_CID_ANY;
        let length = size_of::<libc::sockaddr_vm>() as libc::socklen_t;
        done(libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            length,
        ))?;
        done(libc::listen(socket.as_raw_fd(), 1))?;
    }
    Ok(socket)
}

pub fn accept(listener: BorrowedFd) -> Result<OwnedFd> {
    let (nobody, no_length) = (std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: no pointers: who connects is not asked for.
    owned(
        unsafe { libc::accept4(listener.as_raw_fd(), nobody, no_length, libc::SOCK_CLOEXEC) }
            .into(),
    )
}

/// Accept a connection to a vsock listener, if it is the host's.
pub fn accept_host(listener: BorrowedFd) -> Result<OwnedFd> {
    let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: pointers, descriptors.
    unsafe {
        let mut address: libc::sockaddr_vm = zeroed();
        let mut length = size_of::<libc::sockaddr_vm>() as libc::socklen_t;
        let place = (&raw mut address).cast();
        let socket = owned(libc::accept4(listener.as_raw_fd(), place, &mut length, flags).into())?;
        match address.svm_cid {
            libc::VMADDR_CID_HOST => Ok(socket),
            _ => Err(Errno(libc::EACCES)),
        }
    }
}

// -- the machine ------------------------------------------------------------------------------------------------------

pub fn prepare_pid_1() -> Result<()> {
    // SAFETY: no pointers.
    done(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) })
}

/// umount2(2): a lazy one where `detach`.
pub fn umount(path: &CStr, detach: bool) -> Result<()> {
    let flags = libc::UMOUNT_NOFOLLOW | if detach { libc::MNT_DETACH } else { 0 };
    // SAFETY: pointers.
    done(unsafe { libc::umount2(path.as_ptr(), flags) })
}

/// uname(2): the kernel's release.
pub fn kernel_release() -> String {
    // SAFETY: pointers, results: the kernel ends each text with a NUL.
    unsafe {
        let mut names: libc::utsname = zeroed();
        if libc::uname(&mut names) != 0 {
            return String::new();
        }
        CStr::from_ptr(names.release.as_ptr())
            .to_string_lossy()
            .into_owned()
    }
}

/// CLOCK_REALTIME in nanoseconds.
pub fn realtime() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: pointers.
    unsafe { libc::clock_gettime(libc::CLOCK_REALTIME, &mut time) };
    (time.tv_sec as u64)
        .wrapping_mul(1_000_000_000)
        .wrapping_add(time.tv_nsec as u64)
}

pub fn set_realtime(nanoseconds: u64) -> Result<()> {
    let time = libc::timespec {
        tv_sec: (nanoseconds / 1_000_000_000) as libc::time_t,
        tv_nsec: (nanoseconds % 1_000_000_000) as libc::c_long,
    };
    // SAFETY: pointers.
    done(unsafe { libc::clock_settime(libc::CLOCK_REALTIME, &time) })
}

/// Mix bytes into the kernel's random pool, count all of their bits as unknown to anybody, and draw a new key of them:
/// RNDADDENTROPY and RNDRESEEDCRNG of random(4). At most 512 bytes.
pub fn add_randomness(device: BorrowedFd, seed: &[u8]) -> Result<()> {
    const RNDADDENTROPY: u32 = 0x4008_5203;
    const RNDRESEEDCRNG: u32 = 0x5207;
    #[repr(C)]
    struct Pool {
        bits: i32,
        size: i32,
        data: [u8; 512],
    }
    let mut pool = Pool {
        bits: (seed.len() * 8) as i32,
        size: seed.len() as i32,
        data: [0; 512],
    };
    pool.data
        .get_mut(..seed.len())
        .ok_or(Errno(libc::EINVAL))?
        .copy_from_slice(seed);
    // SAFETY: pointers.
    unsafe {
        done(libc::ioctl(
            device.as_raw_fd(),
            RNDADDENTROPY as _,
            &raw const pool,
        ))?;
        done(libc::ioctl(device.as_raw_fd(), RNDRESEEDCRNG as _))
    }
}

// -- bpf --------------------------------------------------------------------------------------------------------------

/// `union bpf_attr`, as far as BPF_PROG_LOAD and BPF_PROG_ATTACH read it: 128 bytes, zeros elsewhere.
#[repr(C, align(8))]
struct BpfAttributes([u32; 32]);

fn bpf(command: i32, attributes: &BpfAttributes) -> i64 {
    // SAFETY: pointers: what the attributes point to outlives the call too.
    unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            attributes,
            size_of::<BpfAttributes>(),
        )
    }
}

/// Load a program of type BPF_PROG_TYPE_CGROUP_DEVICE from its instructions, 8 bytes each.
pub fn load_device_program(instructions: &[u8]) -> Result<OwnedFd> {
    const BPF_PROG_LOAD: i32 = 5;
    const CGROUP_DEVICE: u32 = 15;
    if instructions.is_empty() || instructions.len() % 8 != 0 {
        return Err(Errno(libc::EINVAL));
    }
    // The kernel wants them aligned to nothing, but u64s are what they are.
    let aligned: Vec<u64> = instructions
        .chunks_exact(8)
        .map(|each| u64::from_ne_bytes(each.try_into().unwrap_or_default()))
        .collect();
    let mut attributes = BpfAttributes([0; 32]);
    let words = &mut attributes.0;
    (words[0], words[1]) = (CGROUP_DEVICE, aligned.len() as u32);
    let (start, license) = (aligned.as_ptr() as u64, c"GPL".as_ptr() as u64);
    (words[2], words[3]) = (start as u32, (start >> 32) as u32);
    (words[4], words[5]) = (license as u32, (license >> 32) as u32);
    owned(bpf(BPF_PROG_LOAD, &attributes))
}

/// Make a program the one that decides of a cgroup's devices, in place of the one before.
pub fn attach_device_program(cgroup: BorrowedFd, program: BorrowedFd) -> Result<()> {
    const BPF_PROG_ATTACH: i32 = 8;
    const BPF_CGROUP_DEVICE: u32 = 6;
    let mut attributes = BpfAttributes([0; 32]);
    let words = &mut attributes.0;
    words[0] = cgroup.as_raw_fd() as u32;
    words[1] = program.as_raw_fd() as u32;
    words[2] = BPF_CGROUP_DEVICE;
    check(bpf(BPF_PROG_ATTACH, &attributes)).map(|_| ())
}
