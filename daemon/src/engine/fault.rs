//! Faults on demand, so that tests can prove what a failure of any step leaves behind.
//!
//! `VNETD_FAIL_AT=N` makes the Nth step of the process's builds fail, `VNETD_FAIL_AT=N:abort` ends the process there as
//! `kill -9` would. Without the variable a step costs one load.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::host::error::HostError;

static STEPS: AtomicU64 = AtomicU64::new(0);
static SUSPENDED: AtomicU32 = AtomicU32::new(0);

struct Plan {
    step: u64,
    abort: bool,
}

fn plan() -> Option<&'static Plan> {
    static PLAN: OnceLock<Option<Plan>> = OnceLock::new();
    PLAN.get_or_init(|| {
        let text = std::env::var("VNETD_FAIL_AT").ok()?;
        let (step, mode) = text.split_once(':').unwrap_or((&text, ""));
        Some(Plan { step: step.parse().ok()?, abort: mode == "abort" })
    })
    .as_ref()
}

/// Passes a step, unless it is the one that shall fail.
pub(super) fn step(what: &str) -> Result<(), HostError> {
    let Some(plan) = plan() else { return Ok(()) };
    if SUSPENDED.load(Ordering::Relaxed) > 0 || STEPS.fetch_add(1, Ordering::Relaxed) + 1 != plan.step {
        return Ok(());
    }
    if plan.abort {
        tracing::warn!(step = plan.step, what, "ending the process as VNETD_FAIL_AT asks");
        std::process::abort();
    }
    Err(HostError::Invalid(format!("step {} ({what}) failed, as VNETD_FAIL_AT asks", plan.step)))
}

/// No step fails while the guard lives: a roll-back is not to be hindered.
pub(super) fn suspend() -> impl Drop {
    SUSPENDED.fetch_add(1, Ordering::Relaxed);
    Suspension
}

struct Suspension;

impl Drop for Suspension {
    fn drop(&mut self) {
        SUSPENDED.fetch_sub(1, Ordering::Relaxed);
    }
}
