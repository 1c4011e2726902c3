//! pysandbox-probe: runs in a workload's place and reports what it could do there, a JSON line for each probe. It judges
//! nothing: `runtime_api/pysandbox/audit` does, on the host.
//!
//! `pysandbox-probe [--own PATH] [--place DIRECTORY]… [--canary PATH] [--listed]`. `--own` is where this program is
//! mounted, to be left out of what is reported; in the first `--place` that it can write to it may make files of its own,
//! which it removes;
//! `--canary` is a file of the host's that is not to be found; `--listed` prints the probes' names and does nothing else.
//! After the last line it waits for the end of standard input, so that it can be looked at from outside.
//!
//! Harmless by construction: each probe is a process of its own with a limit, attempts are of kinds that fail or that end
//! with that process, nothing is written that was there before, and what is made in `--place` is removed.
#![deny(unsafe_code)]

mod calls;
mod child;
mod devices;
mod escape;
mod fact;
mod files;
mod host;
mod mounts;
mod namespaces;
mod network;
mod place;
mod processes;
mod sockets;
mod status;
mod sweep;

use place::Place;
use pysandbox_guest::sys;
use serde_json::{json, Value};
use std::io::Write;

/// Milliseconds for one probe, for the sweep of all system calls, and for the host to have looked at us.
const LIMIT: i32 = 5_000;
const SWEEP_LIMIT: i32 = 120_000;
const STAY: i32 = 60_000;

/// One thing to try: its name, how it is tried, and what tries it.
pub struct Probe {
    pub name: String,
    pub how: String,
    pub act: Box<dyn Fn(&Place) -> fact::Facts>,
    pub limit: i32,
}

impl Probe {
    pub fn new(
        name: impl Into<String>,
        how: impl Into<String>,
        act: impl Fn(&Place) -> fact::Facts + 'static,
    ) -> Probe {
        Probe {
            name: name.into(),
            how: how.into(),
            act: Box::new(act),
            limit: LIMIT,
        }
    }
}

fn main() {
    let place = match Place::from_arguments(std::env::args().skip(1)) {
        Ok(place) => place,
        Err(text) => {
            eprintln!("pysandbox-probe: {text}");
            std::process::exit(2);
        }
    };
    let probes = catalogue();
    if place.listed {
        print(&Value::from_iter(probes.iter().map(|probe| &*probe.name)));
        return;
    }
    print(&json!({"version": 1, "probes": probes.len()}));
    for probe in &probes {
        let observed = child::observe(probe.limit, || (probe.act)(&place));
        print(&json!({"probe": probe.name, "how": probe.how, "observed": observed}));
    }
    print(&json!({"end": probes.len()}));
    stay();
}

fn catalogue() -> Vec<Probe> {
    let mut probes = status::probes();
    probes.extend(files::probes());
    probes.extend(mounts::probes());
    probes.extend(namespaces::probes());
    probes.extend(devices::probes());
    probes.extend(calls::probes());
    probes.extend(sockets::probes());
    probes.extend(network::probes());
    probes.extend(processes::probes());
    probes.extend(host::probes());
    probes.extend(escape::probes());
    probes.push(Probe {
        limit: SWEEP_LIMIT,
        ..sweep::probe()
    });
    probes
}

/// Write one line; nobody to read it is no reason to go on.
fn print(line: &Value) {
    let mut text = line.to_string();
    text.push('\n');
    if std::io::stdout().write_all(text.as_bytes()).is_err() {
        sys::exit(1);
    }
}

/// Wait for the end of standard input.
fn stay() {
    let deadline = sys::monotonic() + STAY as u64 * 1_000_000;
    let mut buffer = [0u8; 64];
    while sys::monotonic() < deadline {
        match sys::poll(&[(sys::borrow(0), libc::POLLIN)], 1_000) {
            Ok(ready) if ready[0] == 0 => continue,
            Ok(_) => {}
            Err(_) => return,
        }
        if !matches!(sys::read(sys::borrow(0), &mut buffer), Ok(1..)) {
            return;
        }
    }
}
