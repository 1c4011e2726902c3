//! The machine as a whole: what it is, what makes it one sandbox's own, and what grows.

use crate::agent::Agent;
use crate::messages::{CheckResponse, PrepareRequest};
use crate::status::{refuse, Answer, Said, INVALID_ARGUMENT};
use crate::sys as own;
use pysandbox_guest::sys;
use std::ffi::CString;
use std::os::fd::AsFd;

/// Of the protocol.
const VERSION: u32 = 1;
const PROCESSORS: &str = "/sys/devices/system/cpu";
const MEMORY: &str = "/sys/devices/system/memory";

impl Agent {
    pub fn prepare(&self, request: PrepareRequest) -> Answer<()> {
        if !(64..=512).contains(&request.seed.len()) {
            return refuse(INVALID_ARGUMENT, "a seed has 64 to 512 bytes");
        }
        let device = sys::open(c"/dev/urandom", libc::O_RDONLY).said("open", "/dev/urandom")?;
        own::add_randomness(device.as_fd(), &request.seed).said("ioctl", "/dev/urandom")?;
        if request.realtime_ns != 0 && self.is_guest {
            own::set_realtime(request.realtime_ns).said("clock_settime", "")?;
        }
        if !request.hostname.is_empty() {
            let Ok(name) = CString::new(request.hostname) else {
                return refuse(INVALID_ARGUMENT, "a host name has no NUL");
            };
            sys::sethostname(&name).said("sethostname", "")?;
        }
        Ok(())
    }
}

/// What the guest is.
pub fn check() -> CheckResponse {
    CheckResponse {
        version: VERSION,
        kernel: own::kernel_release(),
        processors: count(&text(&format!("{PROCESSORS}/online"))),
        memory: memory(&text("/proc/meminfo")),
        agent: env!("CARGO_PKG_VERSION").to_string(),
    }
}

/// Bring every processor and every block of memory into use that is there; whether there is now as much as wanted.
pub fn grown(processors: u32, bytes: u64) -> bool {
    let is_enough =
        || count(&text(&format!("{PROCESSORS}/online"))) >= processors && online_memory() >= bytes;
    if is_enough() {
        return true;
    }
    for (directory, prefix) in [(PROCESSORS, "cpu"), (MEMORY, "memory")] {
        for name in numbered(directory, prefix) {
            let file = format!("{directory}/{name}/online");
            if text(&file).trim() == "0" {
                let _ = std::fs::write(&file, "1");
            }
        }
    }
    is_enough()
}

/// Bytes of memory in blocks that are in use: what QEMU's size is, unlike MemTotal. That where there are no blocks.
fn online_memory() -> u64 {
    let block = u64::from_str_radix(text(&format!("{MEMORY}/block_size_bytes")).trim(), 16);
    let blocks = numbered(MEMORY, "memory");
    let is_online = |name: &&String| text(&format!("{MEMORY}/{name}/online")).trim() == "1";
    match block {
        Ok(size) if !blocks.is_empty() => blocks.iter().filter(is_online).count() as u64 * size,
        _ => memory(&text("/proc/meminfo")),
    }
}

/// Entries such as `cpu0`, `cpu1`.
fn numbered(directory: &str, prefix: &str) -> Vec<String> {
    let is_numbered = |name: &String| {
        name.strip_prefix(prefix)
            .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(is_numbered).collect()
}

fn text(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// How many numbers a list such as `0-3,5` holds.
fn count(list: &str) -> u32 {
    let length = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        last.checked_sub(first)?.checked_add(1)
    };
    list.trim().split(',').filter_map(length).sum()
}

/// MemTotal in bytes.
fn memory(information: &str) -> u64 {
    let line = information
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    number.unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_counted() {
        assert_eq!(count("0\n"), 1);
        assert_eq!(count("0-3,5,7-8\n"), 7);
        assert_eq!(count("\n"), 0);
        assert_eq!(count("3-1"), 0);
    }

    #[test]
    fn memory_is_read() {
        assert_eq!(memory("MemTotal:        2048 kB\nMemFree: 1 kB\n"), 2 << 20);
        assert_eq!(memory(""), 0);
    }
}
