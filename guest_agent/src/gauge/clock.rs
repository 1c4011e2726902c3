//! How long a figure is taken, and what it comes to.

use std::io::{Error, Result};
use std::time::{Duration, Instant};

use pysandbox_guest::sys;

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

/// Measure in a thread that has one processor, and so has everything that it starts: whether two threads are woken on
/// the same processor or on two is chance, and makes a factor of five.
pub fn on_one_processor(action: impl FnOnce() -> Result<f64> + Send + 'static) -> Result<f64> {
    let measured = std::thread::spawn(|| {
        // Which ones are allowed here is not known; where none is, the figure is taken all the same.
        let _ = (0..64).find(|number| sys::sched_setaffinity(&[1 << number]).is_ok());
        action()
    });
    let ended = measured.join();
    ended.unwrap_or_else(|_| Err(Error::other("the thread that measures has panicked")))
}

pub const MICRO: f64 = 1e6;
pub const MILLI: f64 = 1e3;
pub const NANO: f64 = 1e9;
pub const MEBIBYTE: usize = 1 << 20;
