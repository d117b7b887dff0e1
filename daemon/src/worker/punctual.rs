//! Departures on time: waiting that ends when one is due, and looks at the clock within a batch.

use std::io;
use std::time::Duration;

use vnet_dataplane::{Nanos, PortId};

use super::{Loop, monotonic};

/// The last of the time before a departure is spent awake: a timer and the way out of the processor's sleep cost more than
/// that, and guests are not kept waiting by it for longer.
const AWAKE: Duration = Duration::from_micros(30);
/// The same where departures follow one another so closely: being woken so often would cost as much as staying awake, and each
/// time is a chance for the machine to be late.
const AWAKE_DENSE: Duration = Duration::from_micros(200);
/// Work between two looks at the clock, in the bytes of frames: a frame costs what copying so many more would.
const FRAME_COST: usize = 2048;
const LOOK_COST: usize = 16 << 10;

impl Loop {
    /// Waits from `now` until a device, a command or a timer wants something.
    pub(super) fn wait(&mut self, now: Nanos) -> io::Result<()> {
        let timer = self.router.next_timeout();
        let departure = self.router.next_departure().filter(|at| timer.is_none_or(|timer| *at <= timer));
        let Some(at) = departure else {
            if self.pause.rest(&mut self.poller, self.joined)? {
                return Ok(());
            }
            if self.packets && self.spin.look(&mut self.poller, now, timer)? {
                return Ok(());
            }
            return self.poller.wait(timer.map(|at| at.since(now)));
        };
        let left = at.since(now);
        let is_dense = self.spin.is_on() && at.since(self.departure) <= AWAKE_DENSE;
        let awake = if is_dense { AWAKE_DENSE } else { AWAKE };
        self.departure = at;
        if left > awake {
            self.poller.wait(Some(left - awake))?;
            if self.poller.ready_len() > 0 {
                return Ok(());
            }
        }
        loop {
            self.poller.wait(Some(Duration::ZERO))?;
            if self.poller.ready_len() > 0 || monotonic() >= at {
                return Ok(());
            }
        }
    }

    /// Routes one frame of a device. Where packets wait for their departure, those whose time has come meanwhile leave
    /// before the next frame, which has a time of its own then.
    #[inline]
    pub(super) fn route(&mut self, port: PortId, length: usize) {
        self.router.input(port, &mut self.frame[..length], self.now, &mut self.ports);
        if self.router.is_timing() {
            self.worked += FRAME_COST + length;
            if self.worked >= LOOK_COST {
                self.look_at_the_clock();
            }
        }
    }

    #[cold]
    fn look_at_the_clock(&mut self) {
        self.worked = 0;
        self.now = monotonic();
        self.router.depart(self.now, &mut self.ports);
    }
}
