//! What the agent knows of containers and of their processes.

use crate::cgroup::Cgroup;
use crate::connection::CallId;
use crate::launch::Launch;
use crate::status::{refuse, Answer, INVALID_ARGUMENT};
use crate::stdio::Stdio;
use std::os::fd::OwnedFd;

/// One process that the host asked for: init of a container, or one beside it.
pub struct Process {
    pub container: String,
    /// Empty: init.
    pub exec_id: String,
    /// 0 until the executor told it.
    pub pid: i32,
    pub pidfd: Option<OwnedFd>,
    /// Until the program is executed.
    pub launch: Option<Launch>,
    /// What `start` writes to.
    pub starter: Option<OwnedFd>,
    pub stdio: Stdio,
    /// The exit code, once it has ended.
    pub code: Option<u32>,
    /// The host knows of it: its call was answered, so its exit is told too.
    pub known: bool,
    /// The host has been told of its exit.
    pub told: bool,
}

pub struct Container {
    pub cgroup: Cgroup,
    /// Serial number of init.
    pub init: u64,
    /// Kills for want of memory that were told, and the watch of the file that counts them.
    pub memory_kills: u64,
    pub watch: Option<i32>,
    pub removal: Option<Removal>,
}

/// A container that is being removed.
pub struct Removal {
    pub call: Option<CallId>,
    /// What the call is answered in the end.
    pub answer: Answer,
    pub deadline: u64,
}

/// An id is the host's, but it is a key and stands in texts: it has a limit and no odd characters.
pub fn check_id(id: &str) -> Answer<()> {
    let is_odd = |byte: u8| !byte.is_ascii_graphic() || byte == b'/';
    match id.is_empty() || id.len() > 1024 || id.bytes().any(is_odd) {
        true => refuse(INVALID_ARGUMENT, format!("{id:?}: is no id")),
        false => Ok(()),
    }
}

/// Exit code of a wait status: 128+N after signal N.
pub fn exit_code(status: i32) -> u32 {
    match libc::WIFSIGNALED(status) {
        true => 128 + libc::WTERMSIG(status) as u32,
        false => libc::WEXITSTATUS(status) as u32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_no_odd_characters_and_a_limit() {
        assert!(check_id("a.b-c_D+1").is_ok());
        let long = "x".repeat(1025);
        for id in ["", "a/b", "a b", "a\n", "ü", "\0", &long] {
            assert!(check_id(id).is_err(), "{id:?}");
        }
    }

    #[test]
    fn exit_codes_are_those_of_a_shell() {
        assert_eq!(exit_code(3 << 8), 3);
        assert_eq!(exit_code(9), 137);
    }
}
