//! Other processes: which are visible, and whether one could be looked into. Nobody is stopped, traced or signalled, and
//! nothing of another's memory is read.

use crate::child::{run, End};
use crate::fact::{facts, outcome, unable, Facts};
use crate::Probe;
use pysandbox_guest::sys::{self, Errno};
use serde_json::{json, Value};
use std::os::fd::AsRawFd;

/// Most pids that are reported.
const MANY: usize = 20;
/// Most processes that are tried.
const TRIED: usize = 500;

pub fn probes() -> Vec<Probe> {
    vec![
        Probe::new(
            "processes.visible",
            "pids in /proc that are neither this program's nor its children's",
            |_| match others() {
                Ok(pids) => {
                    let count = pids.len();
                    let some: Vec<Value> = pids.into_iter().take(MANY).map(Value::from).collect();
                    facts([("found", json!(some)), ("count", json!(count))])
                }
                Err(facts) => facts,
            },
        ),
        Probe::new(
            "processes.environ",
            "open /proc/PID/environ of another process, read nothing",
            |_| on_others(|pid| sys::open(&name(pid, "environ"), libc::O_RDONLY).map(drop)),
        ),
        Probe::new(
            "processes.memory",
            "open /proc/PID/mem of another process for reading, read nothing",
            |_| on_others(|pid| sys::open(&name(pid, "mem"), libc::O_RDONLY).map(drop)),
        ),
        Probe::new(
            "processes.root",
            "open /proc/PID/root of another process, whose mounts are others than ours",
            |_| on_others(foreign_root),
        ),
        Probe::new(
            "processes.vm_read",
            "process_vm_readv of an address that no process has, in another process",
            |_| on_others(vm_read),
        ),
        Probe::new(
            "processes.kcmp",
            "kcmp(KCMP_VM) of another process and itself",
            |_| on_others(|pid| sys::attempt(libc::SYS_kcmp, [pid, pid, 1, 0, 0, 0]).map(drop)),
        ),
        Probe::new(
            "processes.descriptors",
            "pidfd_getfd of a descriptor that no process has, from another process",
            |_| on_others(foreign_descriptor),
        ),
        Probe::new(
            "processes.ptrace_child",
            "PTRACE_TRACEME in a child of its own, in a process that ends at once",
            |_| traceme(),
        ),
    ]
}

/// Pids that do not descend from the program itself: this process's parent, or its own children.
fn others() -> Result<Vec<usize>, Facts> {
    let program = std::os::unix::process::parent_id() as usize;
    let own = [program, sys::getpid() as usize];
    let entries = std::fs::read_dir("/proc").map_err(|_| unable("/proc cannot be listed"))?;
    let pids: Vec<usize> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| !own.contains(pid))
        .collect();
    Ok(pids)
}

/// Try each of the first few; done if it could be done to one of them.
fn on_others(act: impl Fn(usize) -> sys::Result<()>) -> Facts {
    let pids = match others() {
        Ok(pids) => pids,
        Err(facts) => return facts,
    };
    let mut last = facts([("alone", json!(true))]);
    for pid in pids.into_iter().take(TRIED) {
        match act(pid) {
            Ok(()) => return facts([("done", json!(true)), ("pid", json!(pid))]),
            // It has ended, or is a kernel thread.
            Err(Errno(libc::ESRCH | libc::ENOENT)) => {}
            Err(errno) => last = outcome::<()>(Err(errno)),
        }
    }
    last
}

fn name(pid: usize, file: &str) -> std::ffi::CString {
    std::ffi::CString::new(format!("/proc/{pid}/{file}")).unwrap_or_default()
}

fn foreign_root(pid: usize) -> sys::Result<()> {
    let (theirs, ours) = (sys::stat(&name(pid, "root"))?, sys::stat(c"/")?);
    match (theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino) {
        true => Err(Errno(libc::ENOENT)),
        false => Ok(()),
    }
}

/// EFAULT comes after the kernel has allowed it: nothing lies at address 1.
fn vm_read(pid: usize) -> sys::Result<()> {
    let mut byte = 0u8;
    let local = [&raw mut byte as usize, 1];
    let remote = [1usize, 1];
    let arguments = [
        pid,
        local.as_ptr() as usize,
        1,
        remote.as_ptr() as usize,
        1,
        0,
    ];
    match sys::attempt(libc::SYS_process_vm_readv, arguments) {
        Ok(_) | Err(Errno(libc::EFAULT)) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// EBADF comes after the kernel has allowed it.
fn foreign_descriptor(pid: usize) -> sys::Result<()> {
    let pidfd = sys::pidfd_open(pid as i32)?;
    let arguments = [pidfd.as_raw_fd() as usize, i32::MAX as usize, 0, 0, 0, 0];
    match sys::attempt(libc::SYS_pidfd_getfd, arguments) {
        Ok(_) | Err(Errno(libc::EBADF)) => Ok(()),
        Err(errno) => Err(errno),
    }
}

fn traceme() -> Facts {
    let answer = run(2_000, || match sys::attempt(libc::SYS_ptrace, [0; 6]) {
        Ok(_) => vec![0],
        Err(Errno(errno)) => vec![errno as u8],
    });
    match answer {
        Ok(End::Answer(answer)) => match answer.first() {
            Some(0) => facts([("done", json!(true))]),
            Some(&errno) => outcome::<()>(Err(Errno(errno.into()))),
            None => unable("the probe's process gave no answer"),
        },
        Ok(End::Signal(signal)) => facts([("signal", json!(signal))]),
        Ok(End::Hung) => facts([("hung", json!(2_000))]),
        Err(errno) => unable(&errno.text()),
    }
}
