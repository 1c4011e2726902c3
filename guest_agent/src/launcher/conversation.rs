//! The conversation with a spare: the request, until it serves; then what it asks for, until it says how to end.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use pysandbox_guest::sys::{self, Errno, Strings};

use crate::children::Children;
use crate::claim::Claim;
use crate::frame::{milliseconds_until, Connection, Entrance, Frame, Message, Reading, PATIENCE};
use crate::request::Request;
use crate::signals::Signals;

/// Nanoseconds for a spare to begin, from connecting on; then, if it has the command, some more.
const BEGIN: u64 = 1_000_000_000;
const BEGIN_AT_LAST: u64 = BEGIN + 5_000_000_000;
/// Milliseconds from the end of a connection to the end of the process.
const GONE: i32 = 10_000;
/// The number of a descriptor in the server, which only those can take who might trace it (`pysandbox/warm/proof.py`).
const PROOF: i32 = 1000;

const DIED: &str = "the process that served this command has died";
const SILENT: &str = "the process that serves this command does not answer";
const MUTE: &str = "the process that serves this command cannot be answered";
const ODD: &str = "the process that serves this command does not keep to the protocol: restart it with `pysandbox server stop`";

/// How the command ends here.
#[derive(Debug, PartialEq)]
pub enum End {
    /// This process does it itself.
    Cold,
    Exit(i32),
    /// Whoever did it has died: of a signal that was passed on, or of something else.
    Died(&'static str),
    /// Nobody knows what has become of it.
    Lost(&'static str),
}

pub struct Conversation {
    connection: Connection,
    claim: Claim,
    /// The kernel ends the spare when the last copy of this is closed: when this process ends, whatever ends it.
    _life: OwnedFd,
    children: Children,
    /// Times of `sys::monotonic`: of the request, and when a frame that has begun must be complete.
    began: u64,
    unfinished: Option<u64>,
    /// The exit code for when the process that serves has ended, however it has.
    last: Option<i32>,
}

impl Conversation {
    /// Send the request. An error means that nobody has it.
    pub fn open(
        socket: OwnedFd,
        server: &OwnedFd,
        request: Request,
        began: u64,
        environment: Strings,
    ) -> sys::Result<Conversation> {
        let (claim, connection) = (Claim::new()?, Connection::new(socket));
        let (far, life) = sys::pipe()?;
        let cwd = sys::open(c".", libc::O_PATH | libc::O_DIRECTORY)?;
        let Request { frame, inherited } = request;
        let proof = sys::pidfd_getfd(server.as_fd(), PROOF)?;
        // Not those of our caller: a spare fetches them. In the queue of a server that does not answer they would stay
        // open, and whoever reads what we write would wait for its end in vain.
        let sent = [far.as_fd(), cwd.as_fd(), proof.as_fd()].map(|fd| fd.as_raw_fd());
        let sent = [&[claim.number()], sent.as_slice()].concat();
        match connection.send(frame, &sent, began + BEGIN) {
            // Whatever the spare has of it: the claim decides.
            Err(_) if claim.take() => return Err(Errno(libc::EPIPE)),
            _ => {}
        }
        Ok(Conversation {
            connection,
            claim,
            _life: life,
            children: Children::new(environment, inherited),
            began,
            unfinished: None,
            last: None,
        })
    }

    /// Talk until the end.
    pub fn hold(&mut self, signals: &mut Signals) -> End {
        match self.begin(signals) {
            Ok(process) => self.serve(process.as_fd(), signals),
            Err(end) => end,
        }
    }

    /// Wait for the spare to say that it serves; the process that does.
    fn begin(&mut self, signals: &mut Signals) -> Result<OwnedFd, End> {
        let mut deadline = self.began + BEGIN;
        loop {
            let left = milliseconds_until(deadline);
            if left == 0 && deadline == self.began + BEGIN_AT_LAST {
                return Err(End::Lost(SILENT));
            }
            if left == 0 {
                if self.claim.take() {
                    return Err(End::Cold);
                }
                deadline = self.began + BEGIN_AT_LAST;
            }
            wait([self.connection.descriptor()], left)?;
            match self.connection.read() {
                Reading::Frame(frame) => return self.begun(frame, signals),
                Reading::Odd => return Err(self.unless_taken(End::Lost(ODD))),
                Reading::Closed => return Err(self.unless_taken(End::Died(DIED))),
                Reading::Nothing | Reading::Partial => {}
            }
        }
    }

    fn begun(&self, frame: Frame, signals: &mut Signals) -> Result<OwnedFd, End> {
        match (frame.message, frame.descriptors.into_iter().next()) {
            (Message::Serving, Some(process)) => match signals.open() {
                Ok(()) => Ok(process),
                Err(_) => Err(End::Lost("no descriptor left to receive signals with")),
            },
            (Message::Cold, _) => Err(End::Cold),
            _ => Err(self.unless_taken(End::Lost(ODD))),
        }
    }

    /// Cold, if the command can still be had; else `end`.
    fn unless_taken(&self, end: End) -> End {
        if self.claim.take() {
            End::Cold
        } else {
            end
        }
    }

    /// Answer one request after the other, and pass signals on.
    fn serve(&mut self, process: BorrowedFd, signals: &mut Signals) -> End {
        loop {
            match (self.step(process, signals), self.last) {
                (Ok(()), _) => {}
                (Err(End::Died(_)), Some(code)) => return gone(process, code),
                (Err(end), _) => return end,
            }
        }
    }

    fn step(&mut self, process: BorrowedFd, signals: &mut Signals) -> Result<(), End> {
        let mut ended = false;
        if self.connection.is_drained() {
            ended = self.attend_to_signals(process, signals, -1)?;
        }
        match self.connection.read() {
            Reading::Frame(frame) => {
                self.unfinished = None;
                self.act(frame)
            }
            // Whatever it left behind may still hold the connection open.
            Reading::Nothing | Reading::Partial if ended => Err(End::Died(DIED)),
            Reading::Nothing => Ok(()),
            Reading::Partial => {
                let end = *self.unfinished.get_or_insert(sys::monotonic() + PATIENCE);
                match milliseconds_until(end) {
                    0 => Err(End::Lost(SILENT)),
                    left => self.attend_to_signals(process, signals, left).map(|_| ()),
                }
            }
            Reading::Odd => Err(End::Lost(ODD)),
            Reading::Closed => Err(End::Died(DIED)),
        }
    }

    /// Wait, and pass on what signals come; whether the process has ended.
    fn attend_to_signals(
        &mut self,
        process: BorrowedFd,
        signals: &mut Signals,
        milliseconds: i32,
    ) -> Result<bool, End> {
        let connection = self.connection.descriptor();
        let received = signals.descriptor().unwrap_or(connection);
        let [_, received, ended] = wait([connection, received, process], milliseconds)?;
        if received && signals.pass_on(process) {
            self.children.attend(None);
        }
        Ok(ended)
    }

    /// Do what is asked for; an error is the end.
    fn act(&mut self, frame: Frame) -> Result<(), End> {
        let answer = match frame.message {
            Message::Exit(code) => return Err(End::Exit(code)),
            Message::Cold if !self.children.has_spawned() => return Err(End::Cold),
            Message::Spawn(request) => match self.children.spawn(&request, &frame.descriptors) {
                Some(pid) => answer("pid", pid.map(|pid| pid.to_string())),
                None => return Err(End::Lost(ODD)),
            },
            Message::Reap(pid) => {
                let status = |ended: Option<i32>| ended.map_or("null".into(), |it| it.to_string());
                answer("status", self.children.reap(pid).map(status))
            }
            Message::IsChild(pid) => {
                let found = sys::ended_child(Some(pid)).is_ok();
                answer("is_child", Ok(found.to_string()))
            }
            Message::Adopt => answer(
                "adopted",
                sys::set_child_subreaper().map(|()| "true".into()),
            ),
            Message::Attend(pid) => {
                self.children.attend(Some(pid));
                answer("attending", Ok("true".into()))
            }
            Message::Session => answer("session", sys::setsid().map(|()| "true".into())),
            Message::Enter(kinds) if kinds.len() == frame.descriptors.len() => {
                let mut entrances = kinds.iter().zip(&frame.descriptors);
                let entered = entrances.try_for_each(|(kind, place)| enter(*kind, place.as_fd()));
                answer("entered", entered.map(|()| "true".into()))
            }
            Message::Last(code) => {
                self.last = Some(code);
                answer("last", Ok("true".into()))
            }
            Message::Enter(_) | Message::Serving | Message::Cold => return Err(End::Lost(ODD)),
        };
        match self.connection.answer(&answer) {
            Ok(()) => Ok(()),
            Err(Errno(libc::EPIPE | libc::ECONNRESET)) => Err(End::Died(DIED)),
            Err(Errno(libc::ETIMEDOUT)) => Err(End::Lost(SILENT)),
            // It would wait for the answer for ever.
            Err(_) => Err(End::Lost(MUTE)),
        }
    }
}

/// Wait for something to come, at the longest so many milliseconds; to which of the descriptors it has.
fn wait<const N: usize>(descriptors: [BorrowedFd; N], milliseconds: i32) -> Result<[bool; N], End> {
    let wanted = descriptors.map(|descriptor| (descriptor, libc::POLLIN));
    let Ok(events) = sys::poll(&wanted, milliseconds) else {
        return Err(End::Lost("no memory left to wait in"));
    };
    Ok(std::array::from_fn(|index| events[index] != 0))
}

/// The end of who has told its exit code beforehand: whoever waits for it may count on that it is there no more.
fn gone(process: BorrowedFd, code: i32) -> End {
    match wait([process], GONE) {
        Ok([true]) => End::Exit(code),
        _ => End::Lost(SILENT),
    }
}

/// Enter a cgroup or a network namespace, as the process that serves has.
fn enter(kind: Entrance, place: BorrowedFd) -> sys::Result<()> {
    match kind {
        Entrance::Tasks => sys::write(place, b"0").map(|_| ()),
        Entrance::Cgroup => {
            let processes = sys::openat(place, c"cgroup.procs", libc::O_WRONLY, 0)?;
            sys::write(processes.as_fd(), b"0").map(|_| ())
        }
        Entrance::Network => sys::setns(place, libc::CLONE_NEWNET),
    }
}

fn answer(key: &str, value: sys::Result<String>) -> String {
    match value {
        Ok(value) => format!("{{\"{key}\":{value}}}"),
        Err(Errno(errno)) => format!("{{\"errno\":{errno}}}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_a_value_or_an_errno() {
        assert_eq!(answer("pid", Ok("7".into())), r#"{"pid":7}"#);
        assert_eq!(answer("pid", Err(Errno(libc::ENOENT))), r#"{"errno":2}"#);
    }
}
