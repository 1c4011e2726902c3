//! System calls that reach much of the kernel, each with arguments that fail or that only concern the child. What comes
//! back tells whether the kernel's own code was reached: EPERM and ENOSYS mean that it was not.

use crate::fact::{facts, outcome, unable, Facts};
use crate::Probe;
use pysandbox_guest::sys::{self, Errno};
use serde_json::json;
use std::os::fd::AsRawFd;

const NOWHERE: usize = usize::MAX;

type Call = (&'static str, i64, [usize; 6]);

/// Name, number and arguments. None of them can succeed in anything but making a descriptor or reading a state.
const CALLS: [Call; 28] = [
    // action 3 reads all messages, into no room
    ("syslog", libc::SYS_syslog, [3, 0, 0, 0, 0, 0]),
    (
        "io_uring_setup",
        libc::SYS_io_uring_setup,
        [1, 0, 0, 0, 0, 0],
    ),
    ("userfaultfd", libc::SYS_userfaultfd, [0; 6]),
    ("add_key", libc::SYS_add_key, [0; 6]),
    ("request_key", libc::SYS_request_key, [0; 6]),
    // KEYCTL_GET_KEYRING_ID of the session's keyring, which makes none
    (
        "keyctl",
        libc::SYS_keyctl,
        [0, (-3isize) as usize, 0, 0, 0, 0],
    ),
    ("fsopen", libc::SYS_fsopen, [0; 6]),
    ("open_tree", libc::SYS_open_tree, [NOWHERE, 0, 1, 0, 0, 0]),
    (
        "mount_setattr",
        libc::SYS_mount_setattr,
        [NOWHERE, 0, 0, NOWHERE, 32, 0],
    ),
    (
        "move_mount",
        libc::SYS_move_mount,
        [NOWHERE, 0, NOWHERE, 0, 0, 0],
    ),
    ("fsmount", libc::SYS_fsmount, [NOWHERE, 0, 0, 0, 0, 0]),
    (
        "pivot_root",
        libc::SYS_pivot_root,
        [NOWHERE, NOWHERE, 0, 0, 0, 0],
    ),
    ("setns", libc::SYS_setns, [NOWHERE, 0, 0, 0, 0, 0]),
    (
        "name_to_handle_at",
        libc::SYS_name_to_handle_at,
        [NOWHERE, 0, 0, 0, 0, 0],
    ),
    // MMAP_PAGE_ZERO: maps page 0 into what is executed next
    (
        "personality",
        libc::SYS_personality,
        [0x10_0000, 0, 0, 0, 0, 0],
    ),
    ("init_module", libc::SYS_init_module, [0; 6]),
    (
        "finit_module",
        libc::SYS_finit_module,
        [NOWHERE, NOWHERE, 0, 0, 0, 0],
    ),
    (
        "delete_module",
        libc::SYS_delete_module,
        [NOWHERE, 0, 0, 0, 0, 0],
    ),
    ("swapon", libc::SYS_swapon, [NOWHERE, 0, 0, 0, 0, 0]),
    ("swapoff", libc::SYS_swapoff, [NOWHERE, 0, 0, 0, 0, 0]),
    ("acct", libc::SYS_acct, [NOWHERE, 0, 0, 0, 0, 0]),
    // Q_GETFMT
    (
        "quotactl",
        libc::SYS_quotactl,
        [0x8000_0400, NOWHERE, 0, NOWHERE, 0, 0],
    ),
    (
        "settimeofday",
        libc::SYS_settimeofday,
        [NOWHERE, 0, 0, 0, 0, 0],
    ),
    (
        "clock_settime",
        libc::SYS_clock_settime,
        [0, NOWHERE, 0, 0, 0, 0],
    ),
    (
        "sethostname",
        libc::SYS_sethostname,
        [NOWHERE, NOWHERE, 0, 0, 0, 0],
    ),
    ("fanotify_init", libc::SYS_fanotify_init, [0; 6]),
    ("mbind", libc::SYS_mbind, [0, 0, NOWHERE, 0, 0, 0]),
    (
        "move_pages",
        libc::SYS_move_pages,
        [0, 1, NOWHERE, NOWHERE, NOWHERE, NOWHERE],
    ),
];

/// The same where only x86 has them.
#[cfg(target_arch = "x86_64")]
const MACHINE: [Call; 5] = [
    ("modify_ldt", libc::SYS_modify_ldt, [0, 0, 0, 0, 0, 0]),
    ("iopl", libc::SYS_iopl, [3, 0, 0, 0, 0, 0]),
    ("ioperm", libc::SYS_ioperm, [0x80, 1, 1, 0, 0, 0]),
    (
        "lookup_dcookie",
        libc::SYS_lookup_dcookie,
        [0, NOWHERE, 1, 0, 0, 0],
    ),
    // getpid(2) by the x32 ABI, whose numbers a filter has to refuse as well
    ("x32", 0x4000_0000 + 39, [0; 6]),
];
#[cfg(not(target_arch = "x86_64"))]
const MACHINE: [Call; 0] = [];

pub fn probes() -> Vec<Probe> {
    let mut probes: Vec<Probe> = CALLS
        .into_iter()
        .chain(MACHINE)
        .map(|(name, number, arguments)| {
            let how = format!("{name}: system call {number} with {}", shown(arguments));
            Probe::new(format!("call.{name}"), how, move |_| {
                outcome(sys::attempt(number, arguments))
            })
        })
        .collect();
    probes.push(Probe::new(
        "call.perf_event_open",
        "perf_event_open of a clock in software, of the child itself, kernel excluded",
        |_| perf_event_open(),
    ));
    probes.push(Probe::new(
        "call.bpf",
        "bpf(BPF_MAP_CREATE) of an array of one element, gone with the child",
        |_| bpf(),
    ));
    probes.push(Probe::new(
        "call.mount",
        "mount(2) that moves nothing to /: EINVAL, or EPERM before",
        |_| outcome(sys::mount(Some(c""), c"/", None, libc::MS_MOVE, None)),
    ));
    probes.push(Probe::new(
        "call.umount2",
        "umount2 of / with MNT_EXPIRE and MNT_DETACH: EINVAL, or EPERM before",
        |_| {
            let flags = (libc::MNT_EXPIRE | libc::MNT_DETACH) as usize;
            let arguments = [c"/".as_ptr() as usize, flags, 0, 0, 0, 0];
            outcome(sys::attempt(libc::SYS_umount2, arguments))
        },
    ));
    probes.push(Probe::new(
        "call.open_by_handle_at",
        "open_by_handle_at of inode 2 of the root file system (\"shocker\")",
        |_| by_handle(),
    ));
    probes.push(Probe::new(
        "call.chroot",
        "chroot(\"/\") in the child",
        |_| outcome(sys::chroot(c"/")),
    ));
    probes.push(Probe::new(
        "call.keyctl_session",
        "keyctl(KEYCTL_JOIN_SESSION_KEYRING) of a new one, in the child",
        |_| outcome(sys::attempt(libc::SYS_keyctl, [1, 0, 0, 0, 0, 0])),
    ));
    probes.push(Probe::new(
        "call.int80",
        "getpid by int 0x80, the 32-bit ABI",
        |_| {
            sys::getpid_of_32_bit()
                .map_or_else(|| unable("this machine has no such ABI"), answer_of_32_bit)
        },
    ));
    probes
}

fn answer_of_32_bit(answer: i32) -> Facts {
    match answer {
        1.. => facts([("done", json!(true))]),
        _ => outcome::<()>(Err(Errno(-answer))),
    }
}

fn shown(arguments: [usize; 6]) -> String {
    let words: Vec<String> = arguments
        .iter()
        .map(|&argument| (argument as isize).to_string())
        .collect();
    words.join(", ")
}

/// A handle as ext4 and many others make them: inode number and generation 0.
fn by_handle() -> Facts {
    let handle: [u32; 4] = [8, 1, 2, 0]; // handle_bytes, handle_type, then the handle
    match sys::open(c"/", libc::O_RDONLY | libc::O_DIRECTORY) {
        Err(errno) => outcome::<()>(Err(errno)),
        Ok(root) => {
            let arguments = [
                root.as_raw_fd() as usize,
                handle.as_ptr() as usize,
                0,
                0,
                0,
                0,
            ];
            outcome(sys::attempt(libc::SYS_open_by_handle_at, arguments))
        }
    }
}

/// `struct perf_event_attr` up to `config2` (PERF_ATTR_SIZE_VER0 is 64): type, size, config, …, flags.
fn perf_event_open() -> Facts {
    const SOFTWARE: u64 = 1;
    const SIZE: u64 = 64;
    const DISABLED_WITHOUT_KERNEL: u64 = 1 | 1 << 5 | 1 << 6;
    let attributes: [u64; 8] = [
        SOFTWARE | SIZE << 32,
        0,
        0,
        0,
        0,
        DISABLED_WITHOUT_KERNEL,
        0,
        0,
    ];
    let arguments = [attributes.as_ptr() as usize, 0, NOWHERE, NOWHERE, 0, 0];
    outcome(sys::attempt(libc::SYS_perf_event_open, arguments))
}

/// The beginning of `union bpf_attr`: map_type, key_size, value_size, max_entries.
fn bpf() -> Facts {
    const ARRAY: u32 = 2;
    let attributes: [u32; 4] = [ARRAY, 4, 4, 1];
    let arguments = [
        0,
        attributes.as_ptr() as usize,
        size_of_val(&attributes),
        0,
        0,
        0,
    ];
    outcome(sys::attempt(libc::SYS_bpf, arguments))
}
