//! Time as the data plane sees it: nanoseconds of a monotonic clock that the caller reads.

use std::ops::{Add, Sub};
use std::time::Duration;

/// Nanoseconds since an origin that the caller chose; never wall-clock time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Nanos(pub u64);

impl Nanos {
    /// The origin.
    pub const ZERO: Nanos = Nanos(0);

    /// Whole milliseconds since the origin.
    pub fn from_millis(millis: u64) -> Nanos {
        Nanos(millis * 1_000_000)
    }

    /// The time from `earlier` to `self`, zero if `earlier` is later.
    pub fn since(self, earlier: Nanos) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Nanos {
    type Output = Nanos;

    fn add(self, rhs: Duration) -> Nanos {
        Nanos(self.0.saturating_add(u64::try_from(rhs.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Nanos> for Nanos {
    type Output = Duration;

    fn sub(self, rhs: Nanos) -> Duration {
        self.since(rhs)
    }
}
