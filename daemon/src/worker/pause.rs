//! A rest between the batches of a flood, as network cards moderate their interrupts. Small packets that are taken as they come
//! cost three times what they cost in batches, and keep a worker so busy that those who should read them hardly get a turn.

use std::io;
use std::time::Duration;

use super::poller::Poller;

/// So many more batches with joined packets than without are a flood; a question in two packets is none.
const FLOOD: u8 = 8;
const COUNT_MAX: u8 = 16;

#[derive(Debug)]
pub(super) struct Pause {
    length: Duration,
    /// Batches in which packets were joined, less those in which none were.
    count: u8,
}

impl Pause {
    /// Rests for `length` each time; never if it is zero.
    pub(super) fn new(length: Duration) -> Pause {
        Pause { length, count: 0 }
    }

    /// Rests if the batch that has just ended, in which packets were joined or not, is one of a flood. Whether something is
    /// ready then.
    pub(super) fn rest(&mut self, poller: &mut Poller, joined: bool) -> io::Result<bool> {
        if !self.is_due(joined) {
            return Ok(false);
        }
        std::thread::sleep(self.length);
        poller.wait(Some(Duration::ZERO))?;
        Ok(poller.ready_len() > 0)
    }

    fn is_due(&mut self, joined: bool) -> bool {
        self.count = if joined { (self.count + 1).min(COUNT_MAX) } else { self.count.saturating_sub(1) };
        joined && self.count >= FLOOD && !self.length.is_zero()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of these batches it rests after.
    fn rests(pause: &mut Pause, batches: impl IntoIterator<Item = bool>) -> usize {
        batches.into_iter().filter(|joined| pause.is_due(*joined)).count()
    }

    #[test]
    fn rests_in_a_flood_only() {
        let length = Duration::from_micros(1);
        let mut pause = Pause::new(length);
        assert_eq!(rests(&mut pause, [true, false].repeat(100)), 0, "questions and answers");
        assert_eq!(rests(&mut pause, [true; 100]), 93, "a flood");
        assert_eq!(rests(&mut pause, [false; 100]), 0, "its end");
        assert_eq!(rests(&mut pause, [true; 7]), 0);
        assert_eq!(rests(&mut Pause::new(Duration::ZERO), [true; 100]), 0, "switched off");
    }

    #[test]
    fn says_whether_something_came_meanwhile() {
        let mut poller = Poller::new().unwrap();
        let mut pause = Pause { count: COUNT_MAX, ..Pause::new(Duration::from_micros(1)) };
        assert!(!pause.rest(&mut poller, true).unwrap());
        poller.waker().wake();
        assert!(pause.rest(&mut poller, true).unwrap());
    }
}
