//! Each probe is a process of its own: what it changes of itself ends with it, and one that hangs is killed.

use crate::fact::{facts, unable, Facts};
use pysandbox_guest::sys;
use serde_json::{json, Value};
use std::os::fd::{AsFd, BorrowedFd};

/// Bytes of a probe's facts.
const ANSWER: usize = 16 * 1024;

/// How a child went.
pub enum End {
    /// What it wrote.
    Answer(Vec<u8>),
    /// It ended by this signal before it had written anything.
    Signal(i32),
    /// It took longer than its limit, and was killed.
    Hung,
}

/// Run a probe in a process of its own, for at most `limit` milliseconds.
pub fn observe(limit: i32, act: impl FnOnce() -> Facts) -> Facts {
    match run(limit, || Value::Object(act()).to_string().into_bytes()) {
        Ok(End::Answer(answer)) => serde_json::from_slice::<Value>(&answer)
            .ok()
            .and_then(|value| value.as_object().cloned())
            .unwrap_or_else(|| unable("the probe's process gave no answer")),
        Ok(End::Signal(signal)) => facts([("signal", json!(signal))]),
        Ok(End::Hung) => facts([("hung", json!(limit))]),
        Err(errno) => unable(&format!("no process for the probe: {}", errno.text())),
    }
}

/// Run `act` in a process of its own.
pub fn run(limit: i32, act: impl FnOnce() -> Vec<u8>) -> sys::Result<End> {
    let (reader, writer) = sys::pipe()?;
    let Some(pid) = sys::clone(0)? else {
        drop(reader);
        let answer = act();
        let mut rest = &answer[..];
        while !rest.is_empty() {
            match sys::write(writer.as_fd(), rest) {
                Ok(length) => rest = &rest[length..],
                Err(_) => break,
            }
        }
        sys::exit(0);
    };
    drop(writer);
    let (answer, in_time) = gather(reader.as_fd(), limit);
    // It may have stopped itself, or hold children that do; what it had to say has been heard.
    let _ = sys::kill(pid, libc::SIGKILL);
    let status = sys::waitpid(pid)?;
    if !in_time {
        return Ok(End::Hung);
    }
    Ok(match (answer.is_empty(), status & 0x7f) {
        (true, signal @ 1..) if signal != libc::SIGKILL => End::Signal(signal),
        _ => End::Answer(answer),
    })
}

/// Read to the end of the pipe; false if that did not come within the limit.
fn gather(pipe: BorrowedFd, limit: i32) -> (Vec<u8>, bool) {
    let deadline = sys::monotonic() + limit as u64 * 1_000_000;
    let mut answer = Vec::new();
    let mut buffer = [0u8; 4096];
    loop {
        let left = deadline.saturating_sub(sys::monotonic()) / 1_000_000;
        match sys::poll(&[(pipe, libc::POLLIN)], left as i32) {
            Ok(ready) if ready[0] != 0 => {}
            _ => return (answer, false),
        }
        match sys::read(pipe, &mut buffer) {
            Ok(0) | Err(_) => return (answer, true),
            Ok(length) => answer.extend_from_slice(&buffer[..length]),
        }
        if answer.len() > ANSWER {
            return (Vec::new(), true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_that_hangs_is_killed_and_told_so() {
        let began = sys::monotonic();

        let observed = observe(50, || loop {
            std::thread::sleep(std::time::Duration::from_secs(1));
        });

        assert_eq!(observed.get("hung"), Some(&json!(50)));
        assert!(sys::monotonic() - began < 5_000_000_000);
    }

    #[test]
    fn a_probe_that_is_killed_by_a_signal_is_told_so() {
        let observed = observe(5_000, || {
            let _ = sys::kill(sys::getpid(), libc::SIGSYS);
            Facts::new()
        });

        assert_eq!(observed.get("signal"), Some(&json!(libc::SIGSYS)));
    }

    #[test]
    fn an_answer_beyond_its_bound_is_none() {
        let observed = observe(5_000, || facts([("text", json!("x".repeat(ANSWER)))]));

        assert!(observed.contains_key("unable"));
    }
}
