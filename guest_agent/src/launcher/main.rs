//! pysandbox-launcher: what a caller starts as `pysandbox`. docs/warm.md has the whole of it.
//!
//! It hands the command over to a preloaded process, starts what that process asks for as its own children, passes
//! signals on, and ends as the command ends. What cannot be served that way it executes itself: the Python script that
//! lies beside it under its own name and `-cold`, in this very process.
#![cfg_attr(not(test), no_main)]
#![deny(unsafe_code)]

mod caller;
mod children;
mod claim;
mod cold;
mod conversation;
mod frame;
mod peer;
mod place;
mod request;
mod server;
mod signals;

use std::mem::ManuallyDrop;

use caller::Caller;
use conversation::{Conversation, End};
use place::Place;
use pysandbox_guest::sys;
use request::Request;
use signals::Signals;

#[cfg(not(test))]
pysandbox_guest::without_runtime!(run);

#[cfg_attr(test, allow(dead_code))]
fn run(arguments: sys::Strings, environment: sys::Strings) -> i32 {
    let mut signals = Signals::block();
    open_standard_descriptors();
    let caller = Caller::new(arguments, environment);
    match serve(&caller, &mut signals) {
        End::Cold => cold::execute(&caller, &signals),
        End::Exit(code) => sys::exit(code),
        End::Died(reason) => match signals.deadly() {
            Some(signal) => signals.die(signal),
            None => fail(reason),
        },
        End::Lost(reason) => fail(reason),
    }
}

/// Have the command served by a spare; whatever stands in the way means cold.
fn serve(caller: &Caller, signals: &mut Signals) -> End {
    if cold::reason(caller).is_some() {
        return End::Cold;
    }
    let (Some(place), Ok(request)) = (Place::find(caller), Request::new(caller, signals)) else {
        return End::Cold;
    };
    let began = sys::monotonic();
    let (socket, process) = match server::connect(&place) {
        Ok(connected) => connected,
        Err(server::Absent::Startable) => {
            server::start(&place);
            return End::Cold;
        }
        Err(server::Absent::Unusable) => return End::Cold,
    };
    match Conversation::open(socket, &process, request, began, caller.environment) {
        // What it holds is the kernel's to close: whatever comes next, exit or exec, does that.
        Ok(conversation) => ManuallyDrop::new(conversation).hold(signals),
        Err(_) => End::Cold,
    }
}

/// What the caller has closed of 0, 1 and 2 gets /dev/null: nothing opened here may pass for it.
fn open_standard_descriptors() {
    for number in 0..3 {
        if !sys::is_open(number) {
            // The lowest free number is this one. Where there is no /dev/null it stays closed.
            if let Ok(null) = sys::open(c"/dev/null", libc::O_RDWR) {
                let _ = sys::set_close_on_exec(number, false);
                std::mem::forget(null);
            }
        }
    }
}

fn fail(reason: &str) -> ! {
    complain(reason);
    sys::exit(1)
}

/// One line on standard error.
fn complain(reason: &str) {
    let line = format!("pysandbox: {reason}\n");
    let _ = sys::write(sys::borrow(2), line.as_bytes());
}
