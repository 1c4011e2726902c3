//! System calls, switches between threads, and new processes.

use std::io::{Error, Read, Result, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use pysandbox_guest::sys;

use crate::clock::{on_one_processor, Budget, MICRO, NANO};
use crate::report::Report;

/// Calls between two looks at the clock.
const CALLS: u32 = 1000;

pub fn measure(report: &mut Report, budget: Budget) {
    let call = budget.mean(u32::MAX, || {
        for _ in 0..CALLS {
            std::hint::black_box(sys::geteuid());
        }
        Ok(())
    });
    report.cost_of(
        "system call",
        call.map(|s| s * NANO / f64::from(CALLS)),
        "ns",
    );
    report.cost_of(
        "switch",
        on_one_processor(move || switch(budget)).map(|s| s * MICRO),
        "µs",
    );
    report.cost_of("new process", new_process(budget).map(|s| s * MICRO), "µs");
}

/// A byte to another thread and back.
fn switch(budget: Budget) -> Result<f64> {
    let (mut here, mut there) = UnixStream::pair()?;
    let echo = std::thread::spawn(move || {
        let mut byte = [0];
        while there.read(&mut byte).unwrap_or(0) == 1 && there.write_all(&byte).is_ok() {}
    });
    let mut byte = [1];
    let seconds = budget.mean(u32::MAX, || {
        here.write_all(&byte)?;
        here.read_exact(&mut byte)
    });
    drop(here);
    let _ = echo.join();
    seconds
}

/// This program again, which only says hello.
fn new_process(budget: Budget) -> Result<f64> {
    let path = std::env::args_os().next().unwrap_or_default();
    budget.mean(1000, || {
        let status = Command::new(&path)
            .arg("hello")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()?;
        match status.success() {
            true => Ok(()),
            false => Err(Error::other(format!("a new process ended with {status}"))),
        }
    })
}
