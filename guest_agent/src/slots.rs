//! Slots: the descriptors that the executor holds, by name. Every one is close-on-exec.

use crate::report::{Failure, Outcome, Report};
use crate::sys;
use serde_json::Value;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// The most slots that a caller hands over, and the bytes that their names take.
const MOST: usize = 32;
const LONGEST: usize = 4096;

/// Named descriptors.
#[derive(Default)]
pub struct Slots(BTreeMap<String, OwnedFd>);

impl Slots {
    /// Wait for the caller to hand descriptors over, in the first datagram: `{"slots": [name, ...]}`. None for anything
    /// else, and for the end of the socket.
    pub fn receive(report: &Report) -> Option<Slots> {
        let mut buffer = [0u8; LONGEST];
        let mut descriptors = Vec::new();
        let length = sys::receive_with(report.as_fd()?, &mut buffer, &mut descriptors, 0).ok()?;
        Slots::named(&buffer[..length], descriptors)
    }

    fn named(datagram: &[u8], descriptors: Vec<OwnedFd>) -> Option<Slots> {
        let Value::Object(members) = serde_json::from_slice(datagram).ok()? else {
            return None;
        };
        let names = members.get("slots")?.as_array()?;
        if members.len() != 1 || names.len() != descriptors.len() || names.len() > MOST {
            return None;
        }
        let mut slots = Slots::default();
        for (name, descriptor) in names.iter().zip(descriptors) {
            let name = name.as_str().filter(|name| !name.is_empty())?;
            if slots.0.insert(name.to_string(), descriptor).is_some() {
                return None;
            }
        }
        Some(slots)
    }

    pub fn take(&mut self, name: &str) -> Option<OwnedFd> {
        self.0.remove(name)
    }

    /// Take over the stdio that came along, in place of what this process was started with: one that was started before
    /// anybody asked for it (a guest's agent does that) learns only now whose it is.
    pub fn take_stdio(&mut self) -> sys::Result<()> {
        for (number, name) in ["stdin", "stdout", "stderr"].into_iter().enumerate() {
            if let Some(fd) = self.take(name) {
                sys::duplicate_to(fd.as_fd(), number as i32)?;
            }
        }
        Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptors(count: usize) -> Vec<OwnedFd> {
        let null = || sys::open(c"/dev/null", libc::O_RDONLY).unwrap();
        (0..count).map(|_| null()).collect()
    }

    #[test]
    fn descriptors_get_the_names_that_came_with_them() {
        let given = descriptors(2);
        let numbers: Vec<_> = given.iter().map(|fd| fd.as_raw_fd()).collect();
        let mut slots = Slots::named(br#"{"slots": ["plan", "tasks0"]}"#, given).unwrap();
        assert_eq!(slots.take("tasks0").unwrap().as_raw_fd(), numbers[1]);
        assert_eq!(slots.take("plan").unwrap().as_raw_fd(), numbers[0]);
    }

    #[test]
    fn a_datagram_that_is_not_of_the_protocol_hands_nothing_over() {
        let odd: [(&[u8], usize); 14] = [
            (b"", 0),
            (b"\xff", 1),
            (b"{", 1),
            (b"[\"plan\"]", 1),
            (br#"{"go":true}"#, 0),
            (br#"{"slots":"plan"}"#, 1),
            (br#"{"slots":["plan"]} x"#, 1),
            (br#"{"slots":["plan"],"more":1}"#, 1),
            (br#"{"slots":["plan"]}"#, 0),
            (br#"{"slots":["plan"]}"#, 2),
            (br#"{"slots":["plan","plan"]}"#, 2),
            (br#"{"slots":["plan",""]}"#, 2),
            (br#"{"slots":["plan",1]}"#, 2),
            (br#"{"slots":["plan",null]}"#, 2),
        ];
        for (datagram, count) in odd {
            let text = String::from_utf8_lossy(datagram);
            assert!(
                Slots::named(datagram, descriptors(count)).is_none(),
                "{text}"
            );
        }
    }

    #[test]
    fn the_number_of_slots_has_a_limit() {
        let named = |count: usize| {
            let names: Vec<String> = (0..count).map(|number| format!("\"s{number}\"")).collect();
            let datagram = format!("{{\"slots\":[{}]}}", names.join(","));
            Slots::named(datagram.as_bytes(), descriptors(count))
        };
        assert!(named(MOST).is_some());
        assert!(named(MOST + 1).is_none());
    }

    #[test]
    fn there_is_nothing_to_receive_without_a_socket() {
        assert!(Slots::receive(&Report::new(None)).is_none());
    }
}
