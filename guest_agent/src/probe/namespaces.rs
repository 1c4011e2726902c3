//! New namespaces, each in a process that ends at once.

use crate::child::{run, End};
use crate::fact::{facts, outcome, unable, Facts};
use crate::Probe;
use pysandbox_guest::sys;
use serde_json::json;

const KINDS: [(&str, i32); 8] = [
    ("user", libc::CLONE_NEWUSER),
    ("mnt", libc::CLONE_NEWNS),
    ("net", libc::CLONE_NEWNET),
    ("pid", libc::CLONE_NEWPID),
    ("ipc", libc::CLONE_NEWIPC),
    ("uts", libc::CLONE_NEWUTS),
    ("cgroup", libc::CLONE_NEWCGROUP),
    ("time", 0x80),
];

pub fn probes() -> Vec<Probe> {
    let mut probes: Vec<Probe> = KINDS
        .into_iter()
        .map(|(name, kind)| {
            Probe::new(
                format!("unshare.{name}"),
                format!("unshare({kind:#x})"),
                move |_| outcome(sys::unshare(kind)),
            )
        })
        .collect();
    probes.push(Probe::new(
        "clone.user",
        "clone(CLONE_NEWUSER | SIGCHLD), exit at once",
        |_| clone_user(),
    ));
    probes.push(Probe::new(
        "unshare.user_then_mount",
        "unshare(CLONE_NEWUSER), then unshare(CLONE_NEWNS)",
        |_| {
            outcome(
                sys::unshare(libc::CLONE_NEWUSER).and_then(|()| sys::unshare(libc::CLONE_NEWNS)),
            )
        },
    ));
    probes
}

/// By clone(2) where the machine has it as x86 does, which a filter can look into; clone3(2) none can.
fn clone_user() -> Facts {
    let call = || {
        let flags = (libc::CLONE_NEWUSER | libc::SIGCHLD) as usize;
        match sys::attempt(libc::SYS_clone, [flags, 0, 0, 0, 0, 0]) {
            Ok(0) => sys::exit(0),
            Ok(pid) => {
                let _ = sys::waitpid(pid as i32);
                vec![0]
            }
            Err(sys::Errno(errno)) => vec![errno as u8],
        }
    };
    match run(2_000, call) {
        Ok(End::Answer(answer)) => match answer.first() {
            Some(0) => facts([("done", json!(true))]),
            Some(&errno) => outcome::<()>(Err(sys::Errno(errno.into()))),
            None => unable("the probe's process gave no answer"),
        },
        Ok(End::Signal(signal)) => facts([("signal", json!(signal))]),
        Ok(End::Hung) => facts([("hung", json!(2_000))]),
        Err(errno) => unable(&errno.text()),
    }
}
