//! pysandbox-agent: PID 1 of a guest. It does what the host asks over ttrpc (`guest_agent/proto/agent.proto`): makes
//! containers by the plans that the host worked out, streams their stdio, and sets up what is plugged in. It decides
//! nothing, waits for nobody, and holds no more than its limits allow.
//!
//! On a host, for tests, as the first process of new pid, mount, network and cgroup namespaces:
//! `pysandbox-agent --descriptor N --executor PATH [--storage DIRECTORY]`, where N is a connected socket, or
//! `--listener N …`, where it is one to connect to.
#![cfg_attr(not(test), no_main)]
#![deny(unsafe_code)]

mod agent;
mod boot;
mod cgroup;
mod connection;
mod devices;
mod ending;
mod events;
mod frame;
mod launch;
mod lifecycle;
mod machine;
mod messages;
mod network;
mod port;
mod process;
mod protobuf;
mod rehearsal;
mod reports;
mod service;
mod status;
mod stdio;
mod sys;
mod watch;

use agent::Agent;
use boot::Stand;
use port::Port;
use pysandbox_guest::report::{Context, Outcome};
use pysandbox_guest::sys::{adopt, exit, getpid, Strings};

// The standard library's own beginning would end the process: there is no /dev/null yet.
#[cfg(not(test))]
pysandbox_guest::without_runtime!(run);

#[cfg_attr(test, allow(dead_code))]
fn run(arguments: Strings, environment: Strings) -> i32 {
    let arguments: Vec<_> = arguments.iter().skip(1).collect();
    // The kernel hands its first process what it does not understand of its own command line.
    let is_guest = !matches!(arguments.first(), Some(&first) if first == c"--descriptor" || first == c"--listener");
    if getpid() != 1 {
        eprintln!("pysandbox-agent: is the first process of a guest, not a command");
        return 2;
    }
    let failure = match serve(&arguments, environment, is_guest) {
        Ok(()) => return 0,
        Err(failure) => failure,
    };
    let text = format!("{}: {}: {}", failure.call, failure.path, failure.text);
    match is_guest {
        true => boot::complain(&text), // then the kernel panics: its first process ends
        false => eprintln!("pysandbox-agent: {text}"),
    }
    exit(1)
}

fn serve(arguments: &[&std::ffi::CStr], environment: Strings, is_guest: bool) -> Outcome {
    let (mut stand, mut port) = (Stand::default(), None);
    if !is_guest {
        for pair in arguments.chunks_exact(2) {
            match pair[0].to_bytes() {
                b"--executor" => stand.executor = Some(pair[1].to_owned()),
                b"--storage" => stand.storage = Some(pair[1].to_owned()),
                option => {
                    let number = pair[1].to_str().ok().and_then(|text| text.parse().ok());
                    let descriptor = adopt(number.unwrap_or(-1)).at("fcntl", "--descriptor")?;
                    port = Some(match option {
                        b"--listener" => Port::Listener(descriptor),
                        _ => Port::Descriptor(Some(descriptor)),
                    });
                }
            }
        }
    }
    let executor = boot::make_root(&stand, environment)?;
    boot::settle();
    boot::raise_loopback()?;
    if is_guest {
        boot::harden();
    }
    let port = port.unwrap_or_else(|| {
        Port::of_command_line(&std::fs::read_to_string("/proc/cmdline").unwrap_or_default())
    });
    let agent = Agent::new(port, executor, is_guest).at("epoll", "")?;
    match agent.run() {
        // A test has hung up.
        Err(pysandbox_guest::sys::Errno(libc::ENOTCONN)) if !is_guest => Ok(()),
        outcome => outcome.at("serve", ""),
    }
}
