//! Messages to the service manager (sd_notify(3)). Each one does nothing where no manager listens.

use std::time::Duration;

use sd_notify::NotifyState;

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager did not take a message");
    }
}

/// Labs are adopted and the socket is open.
pub fn ready(status: &str) {
    send(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// One line for `systemctl status`.
pub fn status(text: &str) {
    send(&[NotifyState::Status(text)]);
}

/// A reload has begun; [`ready`] ends it.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => send(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "the monotonic clock cannot be read"),
    }
}

/// The daemon is about to end.
pub fn stopping() {
    send(&[NotifyState::Stopping]);
}

/// Feeds the manager's watchdog, if it set one, as long as `alive` answers true: ask the parts whose standstill
/// would be a fault. Never returns where a watchdog is set.
pub async fn watchdog(alive: impl Fn() -> bool) {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    feed(limit, alive).await;
}

async fn feed(limit: Duration, alive: impl Fn() -> bool) {
    // Half the limit, as sd_watchdog_enabled(3) recommends.
    let mut beat = tokio::time::interval(limit / 2);
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        beat.tick().await;
        if alive() {
            send(&[NotifyState::Watchdog]);
        } else {
            tracing::error!("a worker stands still: the watchdog is not fed");
        }
    }
}
