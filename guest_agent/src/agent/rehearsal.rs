//! What is done once in a machine that becomes a template, so that none of its clones has to: the kernel's own first times
//! (caches, patched branches, chunks of per-processor memory), and the check of the device programs that most containers
//! have. Under emulation each of these is code that every clone would have to translate.

use crate::agent::Agent;
use crate::cgroup::Cgroup;
use crate::messages::RehearseRequest;
use crate::status::{refuse, Answer, Said, Status, RESOURCE_EXHAUSTED};
use crate::sys as own;
use pysandbox_guest::sys;
use std::os::fd::{AsFd, OwnedFd};

/// A cgroup that stays: with it stay the branches that the kernel patches for the first of its kind.
const PATH: &str = "rehearsal";
/// Programs that are kept.
const MOST: usize = 8;
const NAMESPACES: u64 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP) as u64;

/// The cgroup, and each program with its instructions.
#[derive(Default)]
pub struct Rehearsal {
    cgroup: Option<Cgroup>,
    programs: Vec<(Vec<u8>, OwnedFd)>,
}

impl Rehearsal {
    /// A device program: one that is kept, or a new one.
    pub fn program(&self, instructions: &[u8]) -> Answer<OwnedFd> {
        let kept = self.programs.iter().find(|(each, _)| each == instructions);
        match kept {
            Some((_, program)) => program
                .try_clone()
                .map_err(|_| Status::new(RESOURCE_EXHAUSTED, "fcntl: too many open files")),
            None => own::load_device_program(instructions).said("bpf", "BPF_PROG_LOAD"),
        }
    }
}

impl Agent {
    /// Do it all once more for another program. What cannot be done is told: a template is not made then.
    pub fn rehearse(&mut self, request: RehearseRequest) -> Answer<()> {
        if self.rehearsal.programs.len() >= MOST {
            return refuse(RESOURCE_EXHAUSTED, "too many device programs");
        }
        let program = self.rehearsal.program(&request.device_program)?;
        let cgroup = match self.rehearsal.cgroup.take() {
            Some(cgroup) => cgroup,
            None => Cgroup::create(PATH)?,
        };
        cgroup.set_device_program(program.as_fd())?;
        self.rehearsal.cgroup = Some(cgroup);
        let kept = (request.device_program, program);
        self.rehearsal.programs.push(kept);
        match sys::clone(NAMESPACES).said("clone3", "namespaces")? {
            Some(_) => Ok(()), // reaped as any orphan
            None => sys::exit(0),
        }
    }
}
