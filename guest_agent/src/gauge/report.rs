//! What is written: one JSON object a line.

use std::io::Write;
use std::time::Duration;

use serde_json::{json, Value};

/// Standard output; a reader that is gone ends nothing.
pub struct Report;

impl Report {
    /// Write the first line: which kernel answers here.
    pub fn begin() -> Report {
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let report = Report;
        report.write(&json!({"gauge": "begin", "version": 1, "kernel": kernel.trim()}));
        report
    }

    /// A cost: the less the better.
    pub fn cost(&mut self, name: &str, value: f64, unit: &str) {
        self.write(&json!({"gauge": name, "value": value, "unit": unit, "better": "lower"}));
    }

    /// A rate: the more the better.
    pub fn rate(&mut self, name: &str, value: f64, unit: &str) {
        self.write(&json!({"gauge": name, "value": value, "unit": unit, "better": "higher"}));
    }

    /// What could not be taken, and why.
    pub fn failed(&mut self, name: &str, error: impl ToString) {
        self.write(&json!({"gauge": name, "error": error.to_string()}));
    }

    /// A cost, or why there is none.
    pub fn cost_of(&mut self, name: &str, value: std::io::Result<f64>, unit: &str) {
        match value {
            Ok(value) => self.cost(name, value, unit),
            Err(error) => self.failed(name, error),
        }
    }

    /// A rate, or why there is none.
    pub fn rate_of(&mut self, name: &str, value: std::io::Result<f64>, unit: &str) {
        match value {
            Ok(value) => self.rate(name, value, unit),
            Err(error) => self.failed(name, error),
        }
    }

    /// Write the last line.
    pub fn end(&self, elapsed: Duration) {
        self.write(&json!({"gauge": "end", "milliseconds": elapsed.as_secs_f64() * 1e3}));
    }

    fn write(&self, line: &Value) {
        let mut out = std::io::stdout();
        let _ = writeln!(out, "{line}").and_then(|()| out.flush());
    }
}
