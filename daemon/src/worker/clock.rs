//! The one clock of the packet's way.

use nix::time::{ClockId, clock_gettime};
use vnet_dataplane::Nanos;

/// CLOCK_MONOTONIC: it counts from the host's start, so times in a lab's shared records stay comparable when the
/// daemon is started again.
pub fn monotonic() -> Nanos {
    // CLOCK_MONOTONIC exists on every Linux; the call has no other way to fail.
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("CLOCK_MONOTONIC is readable");
    Nanos(now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64)
}
