//! Waiting for a condition, never for a time.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

/// How long to wait for what has to come: far longer than it takes, since others may use the machine too. Nobody waits so
/// long but for what never comes.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Calls `condition` until it holds.
///
/// # Errors
/// It did not hold within `limit`: the error names `what` and carries the last error of `condition`.
pub fn wait_until(what: &str, limit: Duration, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + limit;
    loop {
        let outcome = condition();
        if let Ok(true) = outcome {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let late = anyhow!("{what}: not within {} ms", limit.as_millis());
            return Err(match outcome {
                Err(error) => error.context(late),
                Ok(_) => late,
            });
        }
        std::thread::sleep(Duration::from_millis(25));
    }
}
