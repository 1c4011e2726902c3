//! pysandbox-executor: carries out a plan that Python worked out, then executes the container's program.
//!
//! It is started as `pysandbox-init report=N`, from a sealed memfd, while Python still plans. The plan and whatever else
//! it needs come over the report socket, as slots. It decides nothing. Operations are carried out in their order, and the
//! first that fails ends it.
//!
//! It begins where the C library calls a C program: what Rust does before its own `main` (it reads /proc/self/maps and
//! makes a stack for the message of a stack overflow) costs as much as all of the container's bind mounts.
#![deny(unsafe_code)]
#![no_main]

use pysandbox_guest::executor::Executor;
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
    match Report::from_arguments(arguments()) {
        Ok(report) => run(report),
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

fn run(report: Report) -> ! {
    let waiting = sys::monotonic();
    // Nothing has been done yet: a caller that has no plan, or has died, hears no word of ours.
    let Some(mut slots) = Slots::receive(&report) else {
        sys::exit(1);
    };
    let given = sys::monotonic();
    match read_plan(&mut slots, &report) {
        Ok(plan) => Executor::new(plan, slots, report, [waiting, given]).run(),
        Err(failure) => {
            report.error(0, "plan", &failure);
            sys::exit(1);
        }
    }
}

fn read_plan(slots: &mut Slots, report: &Report) -> Outcome<Plan> {
    use std::os::fd::AsFd;
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
