//! What tells which machine and kernel this is; the audit compares it with the host's own.

use crate::fact::text;
use crate::status::of_file;
use crate::Probe;

const FILES: [(&str, &str); 9] = [
    ("host.release", "/proc/sys/kernel/osrelease"),
    ("host.version", "/proc/sys/kernel/version"),
    ("host.boot_id", "/proc/sys/kernel/random/boot_id"),
    ("host.name", "/proc/sys/kernel/hostname"),
    ("host.uptime", "/proc/uptime"),
    ("host.load", "/proc/loadavg"),
    ("host.command_line", "/proc/cmdline"),
    ("host.memory", "/proc/meminfo"),
    ("host.processor", "/proc/cpuinfo"),
];

pub fn probes() -> Vec<Probe> {
    FILES
        .into_iter()
        .map(|(name, path)| {
            let how = format!("read {path}");
            Probe::new(name, how, of_file(path, |whole, _| text(telling(whole))))
        })
        .collect()
}

/// The line that tells most: of /proc/cpuinfo the processor's model, of others the first.
fn telling(whole: &str) -> &str {
    let model = whole.lines().find(|line| line.starts_with("model name"));
    model.or(whole.lines().next()).unwrap_or("").trim()
}
