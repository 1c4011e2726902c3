//! Signals: blocked from the start, passed on to the process that serves the command, given back for a cold one.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use pysandbox_guest::sys;

pub struct Signals {
    /// What the caller had blocked: bit n-1 for signal n.
    pub blocked: u64,
    /// What the caller had ignored; nothing before it has been asked for.
    pub ignored: u64,
    waiting: Option<OwnedFd>,
    /// What has been passed on, the last one last.
    passed: Vec<i32>,
}

impl Signals {
    /// Block all signals: what comes waits until it is known who is to have it.
    pub fn block() -> Signals {
        Signals {
            blocked: sys::set_signal_mask(u64::MAX),
            ignored: 0,
            waiting: None,
            passed: Vec::new(),
        }
    }

    /// Take signals in from now on. Those that the caller blocked stay where they are, but for SIGCHLD.
    pub fn open(&mut self) -> sys::Result<()> {
        let wanted = !self.blocked | bit(libc::SIGCHLD);
        self.waiting = Some(sys::signal_descriptor(wanted)?);
        Ok(())
    }

    /// Readable when there is a signal; None before `open`.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.waiting.as_ref().map(AsFd::as_fd)
    }

    /// Pass on what has come; whether there was a SIGCHLD, which is about children that only this process has.
    pub fn pass_on(&mut self, to: BorrowedFd) -> bool {
        let mut child = false;
        while let Some(signal) = self.descriptor().and_then(sys::next_signal) {
            if signal == libc::SIGCHLD {
                child = true;
                continue;
            }
            // ESRCH: it has ended, and the connection's end tells so.
            let _ = sys::pidfd_send_signal(to, signal);
            self.remember(signal);
        }
        child
    }

    fn remember(&mut self, signal: i32) {
        self.passed.retain(|&other| other != signal);
        self.passed.push(signal);
    }

    /// The signal that has ended the process they were passed on to, if one of them may have.
    pub fn deadly(&self) -> Option<i32> {
        let ends = |signal: i32| ends_processes(signal) && self.ignored & bit(signal) == 0;
        self.passed
            .iter()
            .rev()
            .copied()
            .find(|&signal| ends(signal))
    }

    /// Die of a signal as the process that served the command has.
    pub fn die(&self, signal: i32) -> ! {
        sys::set_default_action(signal);
        let _ = sys::kill(sys::getpid(), signal);
        sys::set_signal_mask(!bit(signal));
        sys::exit(128 + signal)
    }

    /// Set the caller's mask again. What was passed on to a spare that then gave the command back comes again.
    pub fn give_back(&self) {
        for &signal in &self.passed {
            let _ = sys::kill(sys::getpid(), signal);
        }
        sys::set_signal_mask(self.blocked);
    }
}

fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

/// Whether a signal's default action ends a process: signal(7).
fn ends_processes(signal: i32) -> bool {
    !matches!(
        signal,
        libc::SIGCHLD
            | libc::SIGCONT
            | libc::SIGSTOP
            | libc::SIGTSTP
            | libc::SIGTTIN
            | libc::SIGTTOU
            | libc::SIGURG
            | libc::SIGWINCH
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(passed: &[i32], ignored: u64) -> Option<i32> {
        let mut signals = Signals {
            blocked: 0,
            ignored,
            waiting: None,
            passed: Vec::new(),
        };
        passed.iter().for_each(|&signal| signals.remember(signal));
        signals.deadly()
    }

    #[test]
    fn the_last_signal_that_ends_processes_was_deadly() {
        assert_eq!(after(&[], 0), None);
        assert_eq!(after(&[libc::SIGTERM], 0), Some(libc::SIGTERM));
        let two = [libc::SIGTERM, libc::SIGINT, libc::SIGWINCH, libc::SIGTERM];
        assert_eq!(after(&two, 0), Some(libc::SIGTERM));
        assert_eq!(
            after(&[libc::SIGTERM, libc::SIGRTMIN()], 0),
            Some(libc::SIGRTMIN())
        );
    }

    #[test]
    fn a_signal_that_is_ignored_ends_nothing() {
        assert_eq!(after(&[libc::SIGHUP], bit(libc::SIGHUP)), None);
        assert_eq!(
            after(&[libc::SIGWINCH, libc::SIGCONT, libc::SIGTSTP], 0),
            None
        );
    }
}
