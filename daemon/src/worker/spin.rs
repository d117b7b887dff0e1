//! Whether a worker looks for more for a moment before it sleeps: waking it costs the sender, and the packet, more than the
//! looks do where the next packet is about to come.

use std::io;
use std::time::Duration;

use vnet_dataplane::Nanos;

use super::monotonic;
use super::poller::Poller;

/// Looks that found something pay for as many that find nothing, up to this many.
const CREDIT_MAX: u8 = 16;
/// Without credit, one batch in so many tries again.
const TRIAL_INTERVAL: u8 = 64;
/// Giving way for longer than this means that somebody else uses this processor: to him a worker that looks is in the
/// way, while one that sleeps is woken in time.
const ALONE: Duration = Duration::from_micros(4);

/// How a look ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Found,
    Nothing,
    NotAlone,
}

/// Counts how often looking paid of late, so that a lab in which packets are rare is left to sleep.
#[derive(Debug)]
pub(super) struct Spin {
    limit: Duration,
    credit: u8,
    batches: u8,
}

impl Spin {
    /// Looks for at most `limit` each time; never if it is zero.
    pub(super) fn new(limit: Duration) -> Spin {
        Spin { limit, credit: 0, batches: 0 }
    }

    /// Whether it ever looks.
    pub(super) fn is_on(&self) -> bool {
        !self.limit.is_zero()
    }

    /// Looks for something to do until `due` or the limit; whether there was something. After a batch that had packets.
    pub(super) fn look(&mut self, poller: &mut Poller, now: Nanos, due: Option<Nanos>) -> io::Result<bool> {
        if !self.is_due() {
            return Ok(false);
        }
        let limit = now + self.limit;
        let end = due.map_or(limit, |due| due.min(limit));
        let mut now = now;
        let outcome = loop {
            // Whoever shares this processor may be the one that has something to send.
            std::thread::yield_now();
            poller.wait(Some(Duration::ZERO))?;
            let before = std::mem::replace(&mut now, monotonic());
            if poller.ready_len() > 0 {
                break Outcome::Found;
            }
            if now.since(before) > ALONE {
                break Outcome::NotAlone;
            }
            if now >= end {
                break Outcome::Nothing;
            }
        };
        self.looked(outcome);
        Ok(outcome == Outcome::Found)
    }

    /// Whether to look after this batch.
    fn is_due(&mut self) -> bool {
        if self.limit.is_zero() {
            return false;
        }
        self.batches = (self.batches + 1) % TRIAL_INTERVAL;
        self.credit > 0 || self.batches == 0
    }

    fn looked(&mut self, outcome: Outcome) {
        self.credit = match outcome {
            Outcome::Found => (self.credit + 2).min(CREDIT_MAX),
            Outcome::Nothing => self.credit.saturating_sub(1),
            Outcome::NotAlone => self.credit.saturating_sub(4),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often it looks in this many batches, if each look ends so.
    fn looks(spin: &mut Spin, batches: u32, outcome: Outcome) -> u32 {
        let mut looks = 0;
        for _ in 0..batches {
            if spin.is_due() {
                spin.looked(outcome);
                looks += 1;
            }
        }
        looks
    }

    #[test]
    fn looks_only_where_it_finds_something() {
        let mut spin = Spin::new(Duration::from_micros(20));
        let batches = 10 * u32::from(TRIAL_INTERVAL);
        assert_eq!(looks(&mut spin, batches, Outcome::Nothing), 10, "rare packets: a trial now and then");
        assert!(looks(&mut spin, batches, Outcome::Found) > 9 * u32::from(TRIAL_INTERVAL), "nearly always");
        assert!(looks(&mut spin, batches, Outcome::Nothing) < 30, "rare again");
        looks(&mut spin, batches, Outcome::Found);
        assert!(looks(&mut spin, batches, Outcome::NotAlone) < 16, "a busy processor");
    }

    #[test]
    fn looks_until_the_limit_and_never_where_it_is_off() {
        let mut poller = Poller::new().unwrap();
        let now = monotonic();
        assert!(!Spin::new(Duration::ZERO).look(&mut poller, now, None).unwrap());
        assert!(
            !Spin { credit: 1, ..Spin::new(Duration::from_micros(20)) }.look(&mut poller, now, None).unwrap()
        );
        poller.waker().wake();
        let mut spin = Spin { credit: 1, ..Spin::new(Duration::from_secs(60)) };
        assert!(spin.look(&mut poller, now, None).unwrap());
        assert_eq!(spin.credit, 3);
    }
}
