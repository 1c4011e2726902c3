//! Processor and memory: what a sandbox should cost nothing for, unless its processor is emulated.

use std::hint::black_box;

use crate::clock::{Budget, MEBIBYTE, MICRO};
use crate::report::Report;

/// Steps of the generator between two looks at the clock.
const STEPS: u32 = 20_000;
const BUFFER: usize = 4 * MEBIBYTE;
const PAGE: usize = 4096;

pub fn measure(report: &mut Report, budget: Budget) {
    let mut state = 88_172_645_463_325_252_u64;
    let step = budget.mean(u32::MAX, || {
        for _ in 0..STEPS {
            // Marsaglia's xorshift: three shifts that wait for each other.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
        }
        black_box(state);
        Ok(())
    });
    report.rate_of("cpu", step.map(|s| f64::from(STEPS) / s / 1e6), "M steps/s");
    copy(report, budget);
    touch(report, budget);
}

fn copy(report: &mut Report, budget: Budget) {
    let (from, mut to) = (vec![1_u8; BUFFER], vec![0_u8; BUFFER]);
    let seconds = budget.mean(u32::MAX, || {
        black_box(&mut to).copy_from_slice(black_box(&from));
        Ok(())
    });
    let rate = seconds.map(|s| (BUFFER / MEBIBYTE) as f64 / s);
    report.rate_of("memory copy", rate, "MiB/s");
}

/// The first write to each page of fresh memory: one page fault each.
fn touch(report: &mut Report, budget: Budget) {
    // Larger than what an allocator keeps for itself: each comes fresh from the kernel, and goes back to it.
    const FRESH: usize = 33 * MEBIBYTE;
    const TOUCHED: usize = 4 * MEBIBYTE;
    let seconds = budget.mean(64, || {
        let mut memory = vec![0_u8; FRESH];
        for page in memory[..TOUCHED].chunks_mut(PAGE) {
            page[0] = 1;
        }
        black_box(&memory);
        Ok(())
    });
    let cost = seconds.map(|s| s * MICRO / (TOUCHED / PAGE) as f64);
    report.cost_of("page fault", cost, "µs");
}
