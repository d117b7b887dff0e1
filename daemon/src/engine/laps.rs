//! Where the time of a change goes, in the log at level DEBUG.

use std::time::Instant;

/// Times one change step by step.
#[derive(Debug)]
pub(super) struct Laps<'a> {
    lab: &'a str,
    last: Instant,
}

impl<'a> Laps<'a> {
    /// Begins now.
    pub(super) fn begin(lab: &'a str) -> Laps<'a> {
        Laps { lab, last: Instant::now() }
    }

    /// What was done since the lap before.
    pub(super) fn lap(&mut self, step: &'static str) {
        let now = Instant::now();
        let took_us = now.duration_since(self.last).as_micros() as u64;
        tracing::debug!(lab = %self.lab, step, took_us, "change");
        self.last = now;
    }
}
