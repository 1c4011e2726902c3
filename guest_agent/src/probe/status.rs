//! What the process is: capabilities, filter, ids, descriptors, limits.

use crate::fact::{cut, errno_of, facts, outcome, text, unable, Facts};
use crate::place::Place;
use crate::Probe;
use pysandbox_guest::sys;
use serde_json::{json, Value};

/// Most descriptors and lines that are reported.
const MANY: usize = 40;

pub fn probes() -> Vec<Probe> {
    let of_status = [
        ("seccomp.mode", "Seccomp"),
        ("seccomp.filters", "Seccomp_filters"),
        ("no_new_privs", "NoNewPrivs"),
        ("capabilities.effective", "CapEff"),
        ("capabilities.permitted", "CapPrm"),
        ("capabilities.bounding", "CapBnd"),
        ("capabilities.inheritable", "CapInh"),
        ("capabilities.ambient", "CapAmb"),
        ("user.uid", "Uid"),
        ("user.gid", "Gid"),
        ("user.groups", "Groups"),
    ];
    let mut probes: Vec<Probe> = of_status
        .into_iter()
        .map(|(name, field)| {
            let how = format!("{field} of /proc/self/status");
            Probe::new(name, how, move |_| status(field))
        })
        .collect();
    probes.push(Probe::new(
        "descriptors.open",
        "readlink /proc/self/fd/*",
        |place| place.descriptors.clone(),
    ));
    for (name, row) in [
        ("limits.open_files", "Max open files"),
        ("limits.core", "Max core file size"),
        ("limits.locked_memory", "Max locked memory"),
    ] {
        let how = format!("{row} of /proc/self/limits");
        probes.push(Probe::new(name, how, move |_| limit(row)));
    }
    probes
}

fn status(field: &str) -> Facts {
    let found = read("/proc/self/status");
    match found {
        Err(facts) => facts,
        Ok(whole) => whole
            .lines()
            .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
            .map_or_else(
                || unable("/proc/self/status has no such line"),
                |value| text(value.trim()),
            ),
    }
}

/// Soft and hard value of a row, as they stand there.
fn limit(row: &str) -> Facts {
    match read("/proc/self/limits") {
        Err(facts) => facts,
        Ok(whole) => whole
            .lines()
            .find_map(|line| line.strip_prefix(row))
            .map_or_else(
                || unable("/proc/self/limits has no such row"),
                |rest| {
                    let mut words = rest.split_whitespace();
                    let (soft, hard) = (words.next(), words.next());
                    facts([("soft", json!(soft)), ("hard", json!(hard))])
                },
            ),
    }
}

/// The descriptors beyond stdio that this process was given: to be asked before any other is open.
pub fn descriptors() -> Facts {
    let listing = format!("/proc/{}/fd", sys::getpid());
    let entries = match std::fs::read_dir("/proc/self/fd") {
        Ok(entries) => entries,
        Err(error) => return outcome::<()>(Err(errno_of(&error))),
    };
    let open: Vec<Value> = entries
        .flatten()
        .filter_map(|entry| {
            let number: u32 = entry.file_name().to_str()?.parse().ok()?;
            let target = std::fs::read_link(entry.path()).ok()?;
            let target = target.to_string_lossy();
            let given = number > 2 && target != listing;
            given.then(|| json!(cut(&format!("{number} -> {target}"))))
        })
        .take(MANY)
        .collect();
    facts([("open", json!(open))])
}

/// A whole file of procfs as text.
pub fn read(path: &str) -> Result<String, Facts> {
    std::fs::read(path)
        .map(|data| String::from_utf8_lossy(&data).into_owned())
        .map_err(|error| outcome::<()>(Err(errno_of(&error))))
}

/// What `act` makes of a file's text.
pub fn of_file(
    path: &'static str,
    act: impl Fn(&str, &Place) -> Facts + 'static,
) -> impl Fn(&Place) -> Facts {
    move |place| match read(path) {
        Ok(whole) => act(&whole, place),
        Err(facts) => facts,
    }
}
