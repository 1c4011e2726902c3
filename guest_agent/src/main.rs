//! pysandbox-executor: carries out a plan that Python worked out, then executes the container's program.
//!
//! It is started as `pysandbox-init report=N [network]`, from a sealed memfd, while Python still plans. The plan and
//! whatever else it needs come over the report socket, as slots. It decides nothing. Operations are carried out in their
//! order, and the first that fails ends it. `network` says that the plan will make a network namespace: what takes as
//! long as all mounts is done while there is no plan yet.
//!
//! It begins where the C library calls a C program: what Rust does before its own `main` (it reads /proc/self/maps and
//! makes a stack for the message of a stack overflow) costs as much as all of the container's bind mounts.
#![deny(unsafe_code)]
#![no_main]

use pysandbox_guest::executor::{Executor, Start};
use pysandbox_guest::ops::namespaces;
use pysandbox_guest::plan::Plan;
use pysandbox_guest::report::{Context, Failure, Outcome, Report};
use pysandbox_guest::slots::Slots;
use pysandbox_guest::sys;

/// What the GNU C library calls. It has told the standard library the arguments before (.init_array).
#[allow(unsafe_code)] // an exported name, which no other library here has
#[no_mangle]
extern "C" fn main() -> i32 {
    sys::reset_signals();
    sys::end_on_signals();
    let (network, others): (Vec<_>, Vec<_>) = arguments().partition(|word| word == "network");
    match Report::from_arguments(others.into_iter()) {
        Ok(report) => run(report, !network.is_empty()),
        Err(reason) => {
            eprintln!("pysandbox-init: {reason}");
            sys::exit(1);
        }
    }
}

/// The arguments as text: they are our own caller's, or a container's that executes /proc/self/exe with any bytes.
fn arguments() -> impl Iterator<Item = String> {
    let arguments = std::env::args_os().skip(1);
    arguments.map(|argument| argument.to_string_lossy().into_owned())
}

fn run(report: Report, network: bool) -> ! {
    let mut start = Start::default();
    if network {
        start.note("network");
        start.made = namespaces::make_early();
    }
    start.note("wait_plan");
    // Nothing has been done yet: a caller that has no plan, or has died, hears no word of ours.
    let Some(mut slots) = Slots::receive(&report) else {
        sys::exit(1);
    };
    start.note("plan");
    match read_plan(&mut slots, &report) {
        Ok(plan) => Executor::new(plan, slots, report, start).run(),
        Err(failure) => {
            report.error(0, "plan", &failure);
            sys::exit(1);
        }
    }
}

fn read_plan(slots: &mut Slots, report: &Report) -> Outcome<Plan> {
    use std::os::fd::AsFd;
    slots.take_stdio().at("dup3", "stdio")?;
    let file = slots
        .take("plan")
        .ok_or_else(|| Failure::new("read", "", libc::EBADF, "no slot named plan"))?;
    let json = sys::read_all(file.as_fd()).at("read", "plan")?;
    let plan = Plan::parse(&json)
        .map_err(|reason| Failure::new("parse", "plan", libc::EINVAL, format!("plan: {reason}")))?;
    drop(file);
    slots
        .close_others(report, plan.preserved())
        .at("close_range", "")?;
    Ok(plan)
}
