//! Files below one directory: in sequence, small ones, and what waits for the disk.

use std::fs::{self, File};
use std::io::{Read, Result, Write};
use std::path::{Path, PathBuf};

use crate::clock::{Budget, MEBIBYTE, MICRO, MILLI};
use crate::report::Report;

const BLOCK: usize = 1 << 16;
const LARGE: usize = 16 * MEBIBYTE;
/// Small files: at most so many, of so many bytes.
const FILES: u32 = 500;
const SMALL: usize = 1024;
const SYNCS: u32 = 50;

pub fn measure(report: &mut Report, budget: Budget, parent: &Path) {
    let directory = parent.join(format!("gauge-{}", std::process::id()));
    if let Err(error) = fs::create_dir(&directory) {
        return report.failed("files", format!("{}: {error}", directory.display()));
    }
    sequential(report, budget, &directory.join("large"));
    small(report, budget, &directory);
    let synced = synced(budget, &directory.join("synced"));
    report.cost_of("write and fsync", synced.map(|s| s * MILLI), "ms");
    let _ = fs::remove_dir_all(&directory);
}

/// One file, written until the time is up, then read again: from memory, where the kernel keeps it.
fn sequential(report: &mut Report, budget: Budget, path: &Path) {
    let rate = |seconds: f64| BLOCK as f64 / MEBIBYTE as f64 / seconds;
    report.rate_of("file write", write(budget, path).map(rate), "MiB/s");
    report.rate_of("file read", read(budget, path).map(rate), "MiB/s");
    let _ = fs::remove_file(path);
}

fn write(budget: Budget, path: &Path) -> Result<f64> {
    let (mut file, block) = (File::create_new(path)?, [7_u8; BLOCK]);
    budget.mean((LARGE / BLOCK) as u32, || file.write_all(&block))
}

/// Reads whole blocks: what is left is less than that at the end of each turn.
fn read(budget: Budget, path: &Path) -> Result<f64> {
    let (mut file, mut block) = (File::open(path)?, [0_u8; BLOCK]);
    budget.mean(u32::MAX, || {
        if file.read(&mut block)? == BLOCK {
            return Ok(());
        }
        file = File::open(path)?;
        file.read_exact(&mut block)
    })
}

fn small(report: &mut Report, budget: Budget, directory: &Path) {
    let name = |number: u32| -> PathBuf { directory.join(format!("small-{number}")) };
    let (mut made, content) = (0, [7_u8; SMALL]);
    let created = budget.mean(FILES, || {
        File::create_new(name(made))?.write_all(&content)?;
        made += 1;
        Ok(())
    });
    report.cost_of("small file create", created.map(|s| s * MICRO), "µs");
    let mut next = (0..made).cycle();
    let opened = budget.mean(FILES, || {
        let mut file = File::open(name(next.next().unwrap_or(0)))?;
        file.read_exact(&mut [0_u8; SMALL])
    });
    report.cost_of("small file read", opened.map(|s| s * MICRO), "µs");
    let removed = budget.mean(made.max(1), || {
        made -= 1;
        fs::remove_file(name(made))
    });
    report.cost_of("small file remove", removed.map(|s| s * MICRO), "µs");
}

fn synced(budget: Budget, path: &Path) -> Result<f64> {
    let (mut file, block) = (File::create_new(path)?, [7_u8; 4096]);
    budget.mean(SYNCS, || {
        file.write_all(&block)?;
        file.sync_all()
    })
}
