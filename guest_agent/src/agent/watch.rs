//! What the loop waits for: epoll(7), and the tokens by which it says what happened.

use crate::sys as own;
use pysandbox_guest::sys::{self, Errno};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Where something happened. Processes are known by their serial number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Token {
    Host,
    Listener,
    Signals,
    Uevents,
    Cgroups,
    Report(u64),
    Input(u64),
    /// Of the output 0 (stdout, or the terminal) or 1 (stderr).
    Output(u64, usize),
}

impl Token {
    fn pack(self) -> u64 {
        let (kind, serial) = match self {
            Token::Host => (0, 0),
            Token::Listener => (1, 0),
            Token::Signals => (2, 0),
            Token::Uevents => (3, 0),
            Token::Cgroups => (4, 0),
            Token::Report(serial) => (5, serial),
            Token::Input(serial) => (6, serial),
            Token::Output(serial, index) => (7 + index as u64, serial),
        };
        serial << 8 | kind
    }

    fn unpack(packed: u64) -> Token {
        let serial = packed >> 8;
        match packed & 0xff {
            0 => Token::Host,
            1 => Token::Listener,
            2 => Token::Signals,
            3 => Token::Uevents,
            4 => Token::Cgroups,
            5 => Token::Report(serial),
            6 => Token::Input(serial),
            kind => Token::Output(serial, (kind - 7) as usize),
        }
    }
}

pub const READ: u32 = libc::EPOLLIN as u32;
pub const WRITE: u32 = libc::EPOLLOUT as u32;
/// Only errors and hang-ups.
pub const NOTHING: u32 = 0;
/// Both, told once for each change.
pub const CHANGES: u32 = (libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLET) as u32;

pub struct Watch(OwnedFd);

impl Watch {
    pub fn new() -> Result<Watch, Errno> {
        own::epoll().map(Watch)
    }

    /// Watch a descriptor, or watch it otherwise.
    pub fn set(&self, fd: BorrowedFd, events: u32, token: Token) -> Result<(), Errno> {
        let control =
            |operation| own::epoll_control(self.0.as_fd(), operation, fd, events, token.pack());
        match control(libc::EPOLL_CTL_MOD) {
            Err(Errno(libc::ENOENT)) => control(libc::EPOLL_CTL_ADD),
            result => result,
        }
    }

    /// Watch a descriptor no longer. One that is closed is forgotten by itself.
    pub fn remove(&self, fd: BorrowedFd) {
        let _ = own::epoll_control(self.0.as_fd(), libc::EPOLL_CTL_DEL, fd, 0, 0);
    }

    /// What happened until `deadline` (of `sys::monotonic`).
    pub fn wait(&self, deadline: Option<u64>) -> Result<Vec<(u32, Token)>, Errno> {
        let milliseconds = deadline.map_or(-1, |deadline| {
            let left = deadline.saturating_sub(sys::monotonic());
            i32::try_from(left.div_ceil(1_000_000)).unwrap_or(i32::MAX)
        });
        let happened = own::epoll_wait(self.0.as_fd(), milliseconds)?;
        Ok(happened
            .into_iter()
            .map(|(events, token)| (events, Token::unpack(token)))
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back_as_they_went() {
        let tokens = [
            Token::Host,
            Token::Listener,
            Token::Signals,
            Token::Uevents,
            Token::Cgroups,
            Token::Report(7),
            Token::Input(1 << 40),
            Token::Output(3, 0),
            Token::Output(3, 1),
        ];
        for token in tokens {
            assert_eq!(Token::unpack(token.pack()), token);
        }
    }
}
