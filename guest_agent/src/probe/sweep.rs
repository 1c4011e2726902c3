//! Every system call that this machine's kernels have, each in a process of its own with arguments that fail harmlessly:
//! -1 for all of them, others where -1 would do something. What could hurt with any arguments is left out.

use crate::child::{run, End};
use crate::fact::{facts, unable, Facts};
use crate::Probe;
use pysandbox_guest::sys::{self, Errno};
use serde_json::{json, Value};

/// Milliseconds for one call.
const LIMIT: i32 = 1_000;
const NAME: &str = "syscalls.sweep";
/// No process has this pid: the kernel's highest is 2^22.
#[cfg(target_arch = "x86_64")]
const NOBODY: usize = i32::MAX as usize;

pub fn probe() -> Probe {
    Probe::new(
        NAME,
        "each system call of 0-334 and 424-469 in a process of its own, arguments -1, at most 1 s",
        |_| sweep(),
    )
}

#[cfg(not(target_arch = "x86_64"))]
fn sweep() -> Facts {
    unable("the numbers of this machine's system calls are not known")
}

/// What never returns, what makes processes, what waits for ever, what stops or reloads a machine, and what needs no
/// valid argument to act on all of it.
#[cfg(target_arch = "x86_64")]
const LEFT_OUT: [i64; 14] = [
    libc::SYS_rt_sigreturn,
    libc::SYS_pause,
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_restart_syscall,
    libc::SYS_vhangup,
    libc::SYS_sync,
    libc::SYS_reboot,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
];

#[cfg(target_arch = "x86_64")]
fn arguments(number: i64) -> [usize; 6] {
    match number {
        // -1 has the flag that makes one
        libc::SYS_msgget | libc::SYS_shmget | libc::SYS_semget => [0x7fff_fff1, 0, 0, 0, 0, 0],
        // -1 is everybody, whatever the signal
        libc::SYS_kill | libc::SYS_tkill => [NOBODY, 0, 0, 0, 0, 0],
        // an unknown function is answered as an unknown call is
        libc::SYS_futex => [0, 1, 1, 0, 0, 0],
        libc::SYS_modify_ldt => [0, usize::MAX, 0, 0, 0, 0],
        // -1 bytes would be asked for
        libc::SYS_init_module => [0; 6],
        _ => [usize::MAX; 6],
    }
}

#[cfg(target_arch = "x86_64")]
fn sweep() -> Facts {
    const KINDS: [&str; 6] = ["reached", "eperm", "enosys", "killed", "silent", "failed"];
    let mut found: [Vec<i64>; KINDS.len()] = Default::default();
    for number in (0..=334).chain(424..=469) {
        if LEFT_OUT.contains(&number) {
            continue;
        }
        let answer = run(LIMIT, || {
            let errno =
                sys::attempt(number, arguments(number)).map_or_else(|Errno(errno)| errno, |_| 0);
            vec![errno.unsigned_abs() as u8]
        });
        let kind = match answer {
            Ok(End::Answer(answer)) => match answer.first().map(|&errno| i32::from(errno)) {
                Some(libc::EPERM | libc::EACCES) => 1,
                Some(libc::ENOSYS) => 2,
                Some(_) => 0,
                None => 5,
            },
            Ok(End::Signal(libc::SIGSYS)) => 3,
            Ok(End::Signal(_)) => 0,
            Ok(End::Hung) => 4,
            Err(_) => 5,
        };
        found[kind].push(number);
    }
    if found[0].is_empty() {
        return unable("no call answered");
    }
    let mut answer = facts([("left_out", json!(LEFT_OUT))]);
    for (kind, numbers) in KINDS.iter().zip(&found) {
        answer.insert((*kind).to_string(), Value::from(numbers.clone()));
    }
    answer
}
