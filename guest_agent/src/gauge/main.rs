//! `pysandbox-gauge`: what processor, memory, system calls, files and network cost inside a sandbox.
//!
//!     pysandbox-gauge hello                                       write one line and end
//!     pysandbox-gauge wait                                        write one line, then wait for a signal, an hour at most
//!     pysandbox-gauge measure MILLISECONDS [DIRECTORY]            take each figure for about so long
//!     pysandbox-gauge floor ROOTFS PROGRAM [ARGUMENT…]            make a container by bare system calls: milliseconds
//!
//! `measure` writes one JSON object a line: `{"gauge", "value", "unit", "better"}`, or `{"gauge", "error"}` for what
//! could not be taken. It begins with `{"gauge": "begin", …}` and finishes with `{"gauge": "end", "milliseconds"}`, both
//! by the sandbox's own clock. It writes below DIRECTORY only, and removes what it wrote.
#![deny(unsafe_code)]

mod calls;
mod clock;
mod files;
mod floor;
mod network;
mod processor;
mod report;

use std::ffi::CString;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clock::Budget;
use report::Report;

/// Whatever hangs, this process ends after so long.
const LIMIT: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["hello"] => hello(),
        ["wait"] => {
            hello();
            std::thread::sleep(HOUR);
        }
        ["measure", milliseconds] => return measure(milliseconds, None),
        ["measure", milliseconds, directory] => {
            return measure(milliseconds, Some(Path::new(directory)))
        }
        ["floor", root, ref program @ ..] if !program.is_empty() => {
            return floor(Path::new(root), program)
        }
        _ => {
            eprintln!("usage: pysandbox-gauge hello | wait | measure MILLISECONDS [DIRECTORY] | floor ROOTFS PROGRAM…");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

fn hello() {
    let mut out = std::io::stdout();
    let _ = out.write_all(b"hello\n").and_then(|()| out.flush());
}

fn floor(root: &Path, program: &[&str]) -> ExitCode {
    end_in_time();
    let program: Result<Vec<CString>, _> = program.iter().map(|word| CString::new(*word)).collect();
    match floor::take(root, &program.unwrap_or_default()) {
        Ok(taken) => println!("{:.3}", taken.as_secs_f64() * 1000.0),
        Err(errno) => {
            eprintln!("pysandbox-gauge: floor: {}", errno.text());
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn measure(milliseconds: &str, directory: Option<&Path>) -> ExitCode {
    let Some(budget) = milliseconds.parse().ok().filter(|n| (1..=5000).contains(n)) else {
        eprintln!("pysandbox-gauge: milliseconds must be 1 to 5000");
        return ExitCode::from(2);
    };
    let budget = Budget::milliseconds(budget);
    end_in_time();
    let begin = Instant::now();
    let mut report = Report::begin();
    processor::measure(&mut report, budget);
    calls::measure(&mut report, budget);
    match directory {
        Some(directory) => files::measure(&mut report, budget, directory),
        None => report.failed("files", "no directory was given"),
    }
    network::measure(&mut report, budget);
    report.end(begin.elapsed());
    ExitCode::SUCCESS
}

/// A call that never returns must not keep the sandbox.
fn end_in_time() {
    std::thread::spawn(|| {
        std::thread::sleep(LIMIT);
        std::process::exit(3);
    });
}
