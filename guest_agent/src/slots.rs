//! Slots: the descriptors that the executor holds, by name. Every one is close-on-exec.

use crate::report::{Failure, Outcome, Report};
use crate::sys;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Named descriptors.
#[derive(Default)]
pub struct Slots(BTreeMap<String, OwnedFd>);

impl Slots {
    /// Take over what the command line names: `slot=N`.
    pub fn from_arguments(arguments: impl Iterator<Item = String>) -> Result<Slots, String> {
        let mut slots = Slots::default();
        for argument in arguments {
            let (name, number) = parse_argument(&argument)?;
            let taken = slots.0.values().any(|fd| fd.as_raw_fd() == number);
            if taken || slots.0.contains_key(name) {
                return Err(format!("{argument}: given twice"));
            }
            let fd = sys::adopt(number).map_err(|errno| format!("{argument}: {}", errno.text()))?;
            slots.0.insert(name.to_string(), fd);
        }
        Ok(slots)
    }

    pub fn take(&mut self, name: &str) -> Option<OwnedFd> {
        self.0.remove(name)
    }

    pub fn set(&mut self, name: &str, fd: OwnedFd) {
        self.0.insert(name.to_string(), fd);
    }

    /// Borrow a slot; EBADF where there is none of that name.
    pub fn get(&self, name: &str) -> Outcome<BorrowedFd<'_>> {
        self.0
            .get(name)
            .map(|fd| fd.as_fd())
            .ok_or_else(|| Failure::new("slot", name, libc::EBADF, format!("no slot named {name}")))
    }

    /// Close what is neither a slot, the report socket, stdio nor one of the container's own `preserved` descriptors:
    /// what a caller left open by mistake.
    pub fn close_others(&self, report: &Report, preserved: u32) -> sys::Result<()> {
        let report = report.as_fd().map(|fd| fd.as_raw_fd() as u32);
        let mut kept: Vec<u32> = self.0.values().map(|fd| fd.as_raw_fd() as u32).collect();
        kept.extend(report);
        close_around(kept, 3 + preserved)
    }

    /// Let go of all slots without closing them one by one.
    pub fn forget(&mut self) {
        for fd in std::mem::take(&mut self.0).into_values() {
            std::mem::forget(fd);
        }
    }
}

/// Close every descriptor from `first` on but those in `kept`.
pub fn close_around(mut kept: Vec<u32>, first: u32) -> sys::Result<()> {
    kept.sort_unstable();
    let mut next = first;
    for fd in kept.into_iter().filter(|fd| *fd >= first) {
        if fd > next {
            sys::close_range(next, fd - 1, false)?;
        }
        next = fd + 1;
    }
    sys::close_range(next, u32::MAX, false)
}

fn parse_argument(argument: &str) -> Result<(&str, i32), String> {
    let wrong = || format!("{argument}: not of the form slot=N");
    let (name, number) = argument.split_once('=').ok_or_else(wrong)?;
    match number.parse::<i32>() {
        Ok(number) if number > 2 && !name.is_empty() => Ok((name, number)),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_argument_names_a_slot_and_its_descriptor() {
        assert_eq!(parse_argument("report=7"), Ok(("report", 7)));
    }

    #[test]
    fn stdio_is_no_slot() {
        assert!(parse_argument("report=2").is_err());
        assert!(parse_argument("report=-1").is_err());
        assert!(parse_argument("report").is_err());
        assert!(parse_argument("=5").is_err());
    }
}
