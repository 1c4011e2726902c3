//! Devices that are plugged while the guest runs: waited for, then mounted or set up. What can hang, a mount of a file
//! system whose server is the host, is done by a child of this process: the agent itself never waits.

use crate::agent::Agent;
use crate::connection::CallId;
use crate::messages::{AttachRequest, AttachResponse, ConnectRequest, DetachRequest, GrowRequest};
use crate::network;
use crate::protobuf::Message;
use crate::status::{
    refuse, Answer, Said, Status, ALREADY_EXISTS, DEADLINE_EXCEEDED, INVALID_ARGUMENT, NOT_FOUND,
    UNIMPLEMENTED,
};
use crate::sys as own;
use pysandbox_guest::sys::{self, Errno};
use std::ffi::CString;
use std::os::fd::AsFd;

pub const STORAGE: &str = "/run/storage";
/// Nanoseconds between two looks when no uevent says that there is something to see, and for a wait without a limit.
const TICK: u64 = 100_000_000;
const PATIENCE: u64 = 30_000_000_000;
/// The most that are waited for at a time.
const MOST: usize = 256;

enum Goal {
    Attach(AttachRequest),
    Detach(String),
    Grow(GrowRequest),
    Connect(ConnectRequest),
}

/// A call that waits for devices, or for a child that does what can hang.
pub struct Pending {
    call: CallId,
    goal: Goal,
    worker: Option<i32>,
    deadline: u64,
    next_look: u64,
}

impl Pending {
    pub fn worker(&self) -> Option<i32> {
        self.worker
    }

    pub fn next_look(&self) -> u64 {
        match self.worker {
            Some(_) => self.deadline,
            None => self.next_look.min(self.deadline),
        }
    }

    fn what(&self) -> String {
        match &self.goal {
            Goal::Attach(request) => format!(
                "attach {}: {} {}",
                request.name, request.kind, request.source
            ),
            Goal::Detach(name) => format!("detach {name}"),
            Goal::Grow(request) => format!(
                "{} processors and {} bytes",
                request.processors, request.memory
            ),
            Goal::Connect(_) => "network interfaces".to_string(),
        }
    }
}

impl Agent {
    pub fn attach(&mut self, call: CallId, request: AttachRequest) -> Answer<()> {
        check_name(&request.name)?;
        if request.source.is_empty() || request.source.contains('\0') {
            return refuse(
                INVALID_ARGUMENT,
                format!("{:?}: names no device", request.source),
            );
        }
        let is_word = |kind: &str| {
            kind.bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        };
        if request.kind != "disk" && (!is_word(&request.kind) || !is_filesystem(&request.kind)) {
            return refuse(
                UNIMPLEMENTED,
                format!("{}: the guest has no such file system", request.kind),
            );
        }
        let limit = request.timeout_ms;
        self.wait_for(call, Goal::Attach(request), limit)
    }

    pub fn detach(&mut self, call: CallId, request: DetachRequest) -> Answer<()> {
        check_name(&request.name)?;
        self.wait_for(call, Goal::Detach(request.name), 0)
    }

    pub fn grow(&mut self, call: CallId, request: GrowRequest) -> Answer<()> {
        let limit = request.timeout_ms;
        self.wait_for(call, Goal::Grow(request), limit)
    }

    pub fn connect_network(&mut self, call: CallId, request: ConnectRequest) -> Answer<()> {
        network::check(&request)?;
        let limit = request.timeout_ms;
        self.wait_for(call, Goal::Connect(request), limit)
    }

    fn wait_for(&mut self, call: CallId, goal: Goal, limit_ms: u32) -> Answer<()> {
        if self.pending.len() >= MOST {
            return refuse(
                crate::status::RESOURCE_EXHAUSTED,
                "too many calls wait for devices",
            );
        }
        let patience = match limit_ms {
            0 => PATIENCE,
            milliseconds => u64::from(milliseconds) * 1_000_000,
        };
        self.pending.push(Pending {
            call,
            goal,
            worker: None,
            deadline: sys::monotonic() + patience,
            next_look: 0,
        });
        self.look_at_pending();
        Ok(())
    }

    /// The kernel tells of devices: which does not matter, whoever waits looks for its own.
    pub fn read_uevents(&mut self) {
        let Some(uevents) = &self.uevents else { return };
        let mut buffer = [0u8; 8192];
        loop {
            match sys::read(uevents.as_fd(), &mut buffer) {
                Ok(0) => return,
                // ENOBUFS: some were lost.
                Ok(_) | Err(Errno(libc::ENOBUFS)) => self.news = true,
                Err(_) => return,
            }
        }
    }

    /// Look whether what is waited for has come.
    pub fn look_at_pending(&mut self) {
        let now = sys::monotonic();
        let news = std::mem::take(&mut self.news);
        for mut pending in std::mem::take(&mut self.pending) {
            let is_due = pending.worker.is_none() && (news || pending.next_look <= now);
            let outcome = if is_due {
                pending.look(self.is_guest)
            } else {
                Ok(None)
            };
            match outcome {
                Ok(None) if pending.deadline <= now => self.give_up(pending),
                Ok(None) => {
                    if is_due {
                        pending.next_look = now + TICK;
                    } else if news {
                        pending.next_look = 0; // when its child has ended without finding it
                    }
                    self.pending.push(pending);
                }
                Ok(Some(answer)) => self.answer(pending.call, Ok(answer)),
                Err(status) => self.answer(pending.call, Err(status)),
            }
        }
    }

    fn give_up(&mut self, pending: Pending) {
        let text = match pending.worker {
            Some(worker) => {
                let _ = sys::kill(worker, libc::SIGKILL);
                format!("{}: the host's side does not answer", pending.what())
            }
            None => format!("{}: have not appeared in time", pending.what()),
        };
        self.answer(pending.call, refuse(DEADLINE_EXCEEDED, text));
    }

    /// Whether the child that has ended was one of those; its exit code is an errno.
    pub fn worker_ended(&mut self, pid: i32, status: i32) -> bool {
        let found = self
            .pending
            .iter()
            .position(|pending| pending.worker == Some(pid));
        let Some(position) = found else { return false };
        let mut pending = self.pending.swap_remove(position);
        pending.worker = None;
        let errno = if libc::WIFEXITED(status) {
            libc::WEXITSTATUS(status)
        } else {
            libc::EINTR
        };
        match pending.finish(errno) {
            Ok(Some(answer)) => self.answer(pending.call, Ok(answer)),
            Ok(None) => self.pending.push(pending),
            Err(status) => self.answer(pending.call, Err(status)),
        }
        true
    }
}

impl Pending {
    /// The answer, if what is waited for is there; None to go on waiting.
    fn look(&mut self, is_guest: bool) -> Answer<Option<Vec<u8>>> {
        let worker = match &self.goal {
            Goal::Grow(request) => {
                let is_done =
                    !is_guest || crate::machine::grown(request.processors, request.memory);
                return Ok(is_done.then(|| crate::machine::check().encode()));
            }
            Goal::Connect(request) => return Ok(network::connect(request)?.then(Vec::new)),
            Goal::Attach(request) if request.kind == "disk" => {
                return Ok(find_disk(&request.source).map(|disk| disk.encode()))
            }
            Goal::Attach(request) => start_mount(request)?,
            Goal::Detach(name) => start_umount(name)?,
        };
        self.worker = worker;
        Ok(None)
    }

    /// The child has ended with this errno.
    fn finish(&self, errno: i32) -> Answer<Option<Vec<u8>>> {
        match (&self.goal, errno) {
            (Goal::Attach(request), 0) => Ok(Some(attached(request).encode())),
            // What virtiofs says where there is no such tag, and a disk that has no node yet.
            (Goal::Attach(request), libc::EINVAL) if request.kind == "virtiofs" => Ok(None),
            (Goal::Attach(_), libc::ENOENT | libc::ENXIO) => Ok(None),
            (Goal::Attach(request), errno) => {
                let _ = std::fs::remove_dir(mount_point(&request.name));
                Err(Errno(errno)).said("mount", &format!("{} {}", request.kind, request.source))
            }
            (Goal::Detach(_), 0) => Ok(Some(Vec::new())),
            (Goal::Detach(name), errno) => Err(Errno(errno)).said("umount2", name),
            _ => Ok(None),
        }
    }
}

fn check_name(name: &str) -> Answer<()> {
    crate::cgroup::plain(name)?;
    match name.contains('/') {
        true => refuse(INVALID_ARGUMENT, format!("{name:?}: is no file name")),
        false => Ok(()),
    }
}

fn is_filesystem(kind: &str) -> bool {
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    known
        .lines()
        .any(|line| line.split('\t').nth(1) == Some(kind))
}

fn mount_point(name: &str) -> String {
    format!("{STORAGE}/{name}")
}

fn attached(request: &AttachRequest) -> AttachResponse {
    let disk = find_disk(&request.source).unwrap_or_default();
    AttachResponse {
        path: mount_point(&request.name),
        ..disk
    }
}

/// The disk with a serial number: its node, and its numbers.
fn find_disk(serial: &str) -> Option<AttachResponse> {
    let entries = std::fs::read_dir("/sys/block").ok()?;
    entries.flatten().find_map(|entry| {
        let read = |file| std::fs::read_to_string(entry.path().join(file)).ok();
        if read("serial")?.trim_end() != serial {
            return None;
        }
        let numbers = read("dev")?;
        let (major, minor) = numbers.trim_end().split_once(':')?;
        let path = format!("/dev/{}", entry.file_name().to_str()?);
        Some(AttachResponse {
            path,
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
        })
    })
}

/// Have a child mount a device, if it may be there.
fn start_mount(request: &AttachRequest) -> Answer<Option<i32>> {
    let source = match request.kind.as_str() {
        "virtiofs" if !has_virtiofs() => return Ok(None),
        "virtiofs" => request.source.clone(),
        _ => match find_disk(&request.source) {
            Some(disk) => disk.path,
            None => return Ok(None),
        },
    };
    let target = mount_point(&request.name);
    match std::fs::create_dir(&target) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && is_mounted(&target) => {
            return refuse(ALREADY_EXISTS, format!("{target}: is mounted already"));
        }
        _ => {}
    }
    let text = |text: String| {
        CString::new(text).map_err(|_| Status::new(INVALID_ARGUMENT, "NUL in a name"))
    };
    let (source, target, kind) = (text(source)?, text(target)?, text(request.kind.clone())?);
    let flags = if request.read_only {
        libc::MS_RDONLY
    } else {
        0
    };
    start_worker(|| sys::mount(Some(&source), &target, Some(&kind), flags, None)).map(Some)
}

/// Whether there is any virtiofs device. Linux tells their tags only from 6.9 on: mounting is how one is found.
fn has_virtiofs() -> bool {
    let entries = std::fs::read_dir("/sys/bus/virtio/drivers/virtiofs")
        .into_iter()
        .flatten()
        .flatten();
    entries
        .into_iter()
        .any(|entry| entry.file_name().to_string_lossy().starts_with("virtio"))
}

fn is_mounted(path: &str) -> bool {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    table
        .lines()
        .any(|line| line.split(' ').nth(4) == Some(path))
}

fn start_umount(name: &str) -> Answer<Option<i32>> {
    let path = mount_point(name);
    if !is_mounted(&path) {
        return refuse(NOT_FOUND, format!("{path}: is not mounted"));
    }
    let target = CString::new(path.clone()).unwrap_or_default();
    let unmount = move || {
        // Written back before it is let go, whoever may still hold it; a lazy unmount would not tell when.
        match own::umount(&target, false) {
            Err(Errno(libc::EBUSY)) => own::umount(&target, true)?,
            result => result?,
        }
        let _ = std::fs::remove_dir(&path);
        Ok(())
    };
    start_worker(unmount).map(Some)
}

/// Have a child do it: its exit code is the errno.
fn start_worker(work: impl FnOnce() -> sys::Result<()>) -> Answer<i32> {
    match sys::clone(0).said("clone3", "")? {
        Some(pid) => Ok(pid),
        None => sys::exit(work().map_or_else(|errno| errno.0, |()| 0)),
    }
}
