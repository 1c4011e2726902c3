//! Who does the command: an eventfd that holds 1, which one of the two sides reads.

use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use pysandbox_guest::sys;

pub struct Claim(OwnedFd);

impl Claim {
    pub fn new() -> sys::Result<Claim> {
        sys::event(1).map(Claim)
    }

    /// Take the command, so that nobody else does it. False: the spare has it.
    pub fn take(&self) -> bool {
        sys::read(self.0.as_fd(), &mut [0; 8]) == Ok(8)
    }

    pub fn number(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_taken_once() {
        let claim = Claim::new().unwrap();
        assert!(claim.take());
        assert!(!claim.take());
    }
}
