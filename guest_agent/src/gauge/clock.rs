//! How long a figure is taken, and what it comes to.

use std::io::Result;
use std::time::{Duration, Instant};

/// Time for one figure.
#[derive(Clone, Copy)]
pub struct Budget(Duration);

impl Budget {
    pub fn milliseconds(number: u64) -> Budget {
        Budget(Duration::from_millis(number))
    }

    /// Repeat an action until the time is up or it was done `most` times; return the mean seconds of one.
    pub fn mean(self, most: u32, mut action: impl FnMut() -> Result<()>) -> Result<f64> {
        let begin = Instant::now();
        let mut count = 0;
        while count < most && (count == 0 || begin.elapsed() < self.0) {
            action()?;
            count += 1;
        }
        Ok(begin.elapsed().as_secs_f64() / f64::from(count))
    }
}

pub const MICRO: f64 = 1e6;
pub const MILLI: f64 = 1e3;
pub const NANO: f64 = 1e9;
pub const MEBIBYTE: usize = 1 << 20;
