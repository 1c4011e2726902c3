//! Children: what the process that serves the command has this one start, reap and look after.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use pysandbox_guest::sys::{self, Errno, Strings};

use crate::frame::Spawn;

pub struct Children {
    /// What a child gets that is given none of its own.
    environment: Strings,
    /// The descriptors that the caller left open: what a request may name.
    inherited: Vec<RawFd>,
    /// Everything but 0, 1 and 2 is closed on exec.
    sealed: bool,
    /// The child whose end is the server's business, while all others are reaped here.
    attended: Option<i32>,
    /// Children started meanwhile, and not reaped yet: the server waits for them, too.
    started_meanwhile: Vec<i32>,
}

impl Children {
    pub fn new(environment: Strings, inherited: Vec<RawFd>) -> Children {
        Children {
            environment,
            inherited,
            sealed: false,
            attended: None,
            started_meanwhile: Vec::new(),
        }
    }

    /// Whether there has been any effect that a cold start would repeat.
    pub fn has_spawned(&self) -> bool {
        self.sealed
    }

    /// Start a program. None: the request names what there is not.
    pub fn spawn(&mut self, request: &Spawn, sent: &[OwnedFd]) -> Option<sys::Result<i32>> {
        let parts = Parts::of(request, sent, &self.inherited)?;
        let sealed = self.seal();
        let started = sealed.and_then(|()| start(request, &parts, self.environment));
        if let (Ok(pid), Some(_)) = (&started, self.attended) {
            self.started_meanwhile.push(*pid);
        }
        Some(started)
    }

    /// What the caller has left open is no child's: as Python's front end does with what it was left.
    fn seal(&mut self) -> sys::Result<()> {
        if !self.sealed {
            // A caller that ignores SIGCHLD would have its children reaped unseen.
            sys::set_default_action(libc::SIGCHLD);
            sys::close_range(3, u32::MAX, true)?;
            self.sealed = true;
        }
        Ok(())
    }

    /// Reap a child if it has ended; its wait status. With the one that is attended to, attending ends: what is started
    /// after it (hooks) is again the server's to reap.
    pub fn reap(&mut self, pid: i32) -> sys::Result<Option<i32>> {
        let status = sys::try_wait(pid)?;
        if status.is_some() {
            self.started_meanwhile.retain(|&started| started != pid);
            if self.attended == Some(pid) {
                self.attended = None;
            }
        }
        Ok(status)
    }

    /// Reap every child that has ended, up to one whose end another waits for.
    pub fn attend(&mut self, pid: Option<i32>) {
        if pid.is_some() {
            self.attended = pid;
        }
        if self.attended.is_none() {
            return;
        }
        while let Ok(Some(ended)) = sys::ended_child(None) {
            let awaited = Some(ended) == self.attended || self.started_meanwhile.contains(&ended);
            if awaited || sys::try_wait(ended).is_err() {
                return;
            }
        }
    }
}

/// The descriptors of a request, by what they are for.
struct Parts<'a> {
    program: Option<BorrowedFd<'a>>,
    streams: Vec<BorrowedFd<'a>>,
    directory: BorrowedFd<'a>,
}

impl<'a> Parts<'a> {
    fn of(request: &Spawn, sent: &'a [OwnedFd], inherited: &[RawFd]) -> Option<Parts<'a>> {
        let (directory, sent) = sent.split_last()?;
        let (program, sent) = match request.program {
            Some(_) => (None, sent),
            None => sent
                .split_first()
                .map(|(first, rest)| (Some(first.as_fd()), rest))?,
        };
        let stream = |&number: &i32| -> Option<BorrowedFd<'a>> {
            match usize::try_from(number) {
                Ok(_) => inherited.contains(&number).then(|| sys::borrow(number)),
                Err(_) => sent
                    .get(number.unsigned_abs() as usize - 1)
                    .map(AsFd::as_fd),
            }
        };
        Some(Parts {
            program,
            streams: request.streams.iter().map(stream).collect::<Option<_>>()?,
            directory: directory.as_fd(),
        })
    }
}

/// Every descriptor below the targets is first copied beyond them, so that no dup2(2) overwrites what a later one needs.
fn start(request: &Spawn, parts: &Parts, environment: Strings) -> sys::Result<i32> {
    let beyond = RawFd::try_from(parts.streams.len()).map_err(|_| Errno(libc::EMFILE))?;
    let mut copies = Vec::new();
    for stream in parts.streams.iter().chain(&parts.program) {
        if stream.as_raw_fd() < beyond {
            copies.push((stream.as_raw_fd(), sys::duplicate_beyond(*stream, beyond)?));
        }
    }
    let directory = sys::duplicate_beyond(parts.directory, beyond)?;
    let safe = |fd: &BorrowedFd| {
        let copy = copies.iter().find(|(number, _)| *number == fd.as_raw_fd());
        copy.map_or(fd.as_raw_fd(), |(_, copy)| copy.as_raw_fd())
    };
    let streams: Vec<_> = parts
        .streams
        .iter()
        .map(|fd| sys::borrow(safe(fd)))
        .collect();
    let path = path(request, parts.program.as_ref().map(safe));
    sys::spawn(&sys::Program {
        path: &path,
        args: &request.args,
        env: request.env.as_deref(),
        given_env: environment,
        streams: &streams,
        directory: directory.as_fd(),
        group: request.group,
    })
}

fn path(request: &Spawn, program: Option<RawFd>) -> CString {
    match (&request.program, program) {
        (Some(path), _) => path.clone(),
        (None, number) => {
            let path = format!("/proc/self/fd/{}", number.unwrap_or(-1));
            CString::new(path).unwrap_or_default()
        }
    }
}
