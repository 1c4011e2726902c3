//! pysandbox-proxy: stands on the host for one process in a guest. Its parent sends signals to it, waits for it, and
//! gets that process's exit code from it.
//!
//! Its one descriptor besides stdio is 3, a socket to the sandbox process: it writes the number of each signal that it
//! gets, one byte each, and exits with the one byte that it is sent (`backends/pysandbox_microvm/proxy.py`). SIGKILL and
//! SIGSTOP cannot be passed on: the end of the socket tells of the first, the second stops the proxy alone. A terminal
//! is its descriptor 0, which is how it hears of a new size.
#![cfg_attr(not(test), no_main)]
#![deny(unsafe_code)]

use pysandbox_guest::sys::{self, Errno, Strings};
use std::os::fd::{AsFd, BorrowedFd};

const SOCKET: i32 = 3;
/// What a proxy exits with that will never hear of its process again.
const LOST: i32 = 255;

#[cfg(not(test))]
pysandbox_guest::without_runtime!(run);

#[cfg_attr(test, allow(dead_code))]
fn run(_arguments: Strings, _environment: Strings) -> i32 {
    sys::set_signal_mask(u64::MAX);
    match follow() {
        Ok(code) => code.into(),
        Err(errno) => {
            eprintln!(
                "pysandbox-proxy: the sandbox process has gone: {}",
                errno.text()
            );
            LOST
        }
    }
}

/// Pass signals on until there is an exit code.
fn follow() -> Result<u8, Errno> {
    let socket = sys::adopt(SOCKET)?;
    take_terminal();
    give_up_everything()?;
    let signals = sys::signal_descriptor(!bit(libc::SIGCHLD))?;
    loop {
        let wanted = [
            (socket.as_fd(), libc::POLLIN),
            (signals.as_fd(), libc::POLLIN),
        ];
        let happened = sys::poll(&wanted, -1)?;
        // An exit code first: whoever has it needs no signals any more.
        if happened[0] != 0 {
            return exit_code(socket.as_fd());
        }
        while let Some(signal) = sys::next_signal(signals.as_fd()) {
            if let Ok(number) = u8::try_from(signal) {
                sys::send(socket.as_fd(), &[number], 0)?;
            }
        }
    }
}

/// Lead a session whose terminal is the descriptor 0, if that is one: a change of its size is a SIGWINCH then, its end a
/// SIGHUP, as for the process in the guest.
fn take_terminal() {
    if sys::setsid().is_ok() {
        let _ = sys::set_controlling_terminal(sys::borrow(0));
    }
}

fn exit_code(socket: BorrowedFd) -> Result<u8, Errno> {
    let mut code = [0u8];
    match sys::read(socket, &mut code)? {
        0 => Err(Errno(libc::EPIPE)),
        _ => Ok(code[0]),
    }
}

/// It needs no other descriptor, no directory, no privilege, and nobody is to look into it.
fn give_up_everything() -> Result<(), Errno> {
    sys::close_range(SOCKET as u32 + 1, u32::MAX, false)?;
    sys::chdir(c"/")?;
    sys::set_dumpable(false)?;
    sys::set_no_new_privileges()?;
    sys::capset(0, 0, 0)
}

fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_byte_that_it_is_sent_is_its_exit_code_and_an_end_without_one_is_an_error() {
        let (ours, theirs) = sys::stream_pair().unwrap();
        sys::write(theirs.as_fd(), &[137]).unwrap();
        assert_eq!(exit_code(ours.as_fd()), Ok(137));
        drop(theirs);
        assert_eq!(exit_code(ours.as_fd()), Err(Errno(libc::EPIPE)));
    }
}
