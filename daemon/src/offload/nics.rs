//! Which NICs there are and how far each is equipped, to be looked at by workers without a lock.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use vnet_dataplane::PortId;

use crate::host::netns::Netns;

/// Ports of a piece of the table.
const PIECE: usize = 1024;
/// Pieces: 65,536 ports. The flows of others stay in userspace.
const PIECES: usize = 64;
/// What could not be equipped is tried again after this long, at first and at most.
const FIRST_WAIT: Duration = Duration::from_secs(2);
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// How far a NIC is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Stage {
    /// No NIC has this port.
    Absent = 0,
    /// It is there, without a cable.
    Bare = 1,
    /// Its cable is asked for.
    Asked = 2,
    /// Its flows can be carried.
    Ready = 3,
    /// It could not be equipped.
    Failed = 4,
}

impl Stage {
    fn of(number: u8) -> Stage {
        [Stage::Absent, Stage::Bare, Stage::Asked, Stage::Ready, Stage::Failed]
            .into_iter()
            .find(|stage| *stage as u8 == number)
            .unwrap_or(Stage::Absent)
    }
}

/// Where a NIC is.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) ns: Arc<Netns>,
    pub(super) device: String,
    /// Tells it from others that have had the port.
    generation: u64,
}

#[derive(Debug)]
struct Known {
    place: Place,
    /// Why it could not be equipped, how often in a row, and when it may be tried again.
    failure: Option<String>,
    attempts: u32,
    again_at: Option<Instant>,
}

/// Twice as long after each failure.
fn wait_after(attempts: u32) -> Duration {
    (FIRST_WAIT * 2u32.saturating_pow(attempts.saturating_sub(1).min(16))).min(LONGEST_WAIT)
}

/// The NICs of a lab.
#[derive(Debug)]
pub(super) struct Nics {
    stages: [OnceLock<Box<[AtomicU8; PIECE]>>; PIECES],
    places: Mutex<HashMap<PortId, Known>>,
    generations: AtomicU64,
}

impl Nics {
    pub(super) fn new() -> Nics {
        Nics {
            stages: [const { OnceLock::new() }; PIECES],
            places: Mutex::default(),
            generations: AtomicU64::new(0),
        }
    }

    fn places(&self) -> std::sync::MutexGuard<'_, HashMap<PortId, Known>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn at(&self, port: PortId) -> Option<&AtomicU8> {
        self.stages.get(port.index() / PIECE)?.get()?.get(port.index() % PIECE)
    }

    pub(super) fn stage(&self, port: PortId) -> Stage {
        self.at(port).map_or(Stage::Absent, |stage| Stage::of(stage.load(Ordering::Acquire)))
    }

    /// Moves a NIC on; false where it is not at `from`.
    pub(super) fn advance(&self, port: PortId, from: Stage, to: Stage) -> bool {
        self.at(port).is_some_and(|stage| {
            stage.compare_exchange(from as u8, to as u8, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        })
    }

    /// A NIC is there.
    pub(super) fn add(&self, port: PortId, ns: Arc<Netns>, device: String) {
        let Some(piece) = self.stages.get(port.index() / PIECE) else { return };
        let piece = piece.get_or_init(|| Box::new([const { AtomicU8::new(Stage::Absent as u8) }; PIECE]));
        // Under the lock, so that nobody settles a former NIC's stage in between.
        let mut places = self.places();
        let generation = self.generations.fetch_add(1, Ordering::Relaxed);
        let place = Place { ns, device, generation };
        places.insert(port, Known { place, failure: None, attempts: 0, again_at: None });
        piece[port.index() % PIECE].store(Stage::Bare as u8, Ordering::Release);
    }

    /// A NIC goes; how far it was.
    pub(super) fn take(&self, port: PortId) -> Stage {
        let mut places = self.places();
        places.remove(&port);
        let stage = self.at(port).map(|stage| stage.swap(Stage::Absent as u8, Ordering::AcqRel));
        stage.map_or(Stage::Absent, Stage::of)
    }

    pub(super) fn place(&self, port: PortId) -> Option<Place> {
        self.places().get(&port).map(|known| known.place.clone())
    }

    /// What became of equipping the NIC at `place`, begun for whoever had the port then; nothing, if another NIC has it now.
    pub(super) fn settle(&self, port: PortId, place: &Place, failure: Option<String>, now: Instant) {
        let mut places = self.places();
        let Some(known) = places.get_mut(&port).filter(|known| known.place.generation == place.generation)
        else {
            return;
        };
        let to = if failure.is_some() { Stage::Failed } else { Stage::Ready };
        known.attempts = if failure.is_some() { known.attempts.saturating_add(1) } else { 0 };
        known.again_at = failure.is_some().then(|| now + wait_after(known.attempts));
        known.failure = failure;
        if let Some(stage) =
            self.at(port).filter(|stage| Stage::of(stage.load(Ordering::Acquire)) != Stage::Absent)
        {
            stage.store(to as u8, Ordering::Release);
        }
    }

    /// Whether a NIC that could not be equipped may be tried again.
    pub(super) fn may_try_again(&self, port: PortId, now: Instant) -> bool {
        self.places().get(&port).and_then(|known| known.again_at).is_some_and(|at| at <= now)
    }

    /// Why the flows of a NIC stay in userspace, the lowest port's first.
    pub(super) fn failure(&self) -> Option<String> {
        let places = self.places();
        let failed = places.iter().filter_map(|(port, known)| Some((port.0, known.failure.clone()?)));
        failed.min_by_key(|(port, _)| *port).map(|(_, failure)| failure)
    }

    /// Every NIC goes.
    pub(super) fn clear(&self) {
        let ports: Vec<PortId> = self.places().keys().copied().collect();
        for port in ports {
            self.take(port);
        }
    }

    /// How many can have their flows carried.
    pub(super) fn ready(&self) -> usize {
        let pieces = self.stages.iter().filter_map(OnceLock::get).flat_map(|piece| piece.iter());
        pieces.filter(|stage| stage.load(Ordering::Relaxed) == Stage::Ready as u8).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nic_moves_on_by_stages_and_is_gone_when_taken() {
        let nics = Nics::new();
        let port = PortId(1030);
        assert_eq!(nics.stage(port), Stage::Absent);
        assert!(!nics.advance(port, Stage::Bare, Stage::Asked));
        let ns = Arc::new(Netns::current().unwrap());
        nics.add(port, ns, "eth0".into());
        assert!(nics.advance(port, Stage::Bare, Stage::Asked));
        assert!(!nics.advance(port, Stage::Bare, Stage::Asked), "it is asked for once");
        assert!(nics.advance(port, Stage::Asked, Stage::Ready));
        assert_eq!((nics.ready(), nics.place(port).unwrap().device.as_str()), (1, "eth0"));
        assert_eq!((nics.take(port), nics.stage(port)), (Stage::Ready, Stage::Absent));
        assert!(nics.place(port).is_none());
    }

    #[test]
    fn a_cable_of_the_nic_before_is_not_the_next_one_s() {
        let nics = Nics::new();
        let port = PortId(3);
        let (ns, now) = (Arc::new(Netns::current().unwrap()), Instant::now());
        nics.add(port, Arc::clone(&ns), "eth0".into());
        let former = nics.place(port).unwrap();
        assert!(nics.advance(port, Stage::Bare, Stage::Asked));
        // It goes while it is being equipped, and another one is asked for at once.
        nics.take(port);
        nics.settle(port, &former, None, now);
        assert_eq!(nics.stage(port), Stage::Absent);
        nics.add(port, ns, "eth0".into());
        let next = nics.place(port).unwrap();
        assert!(nics.advance(port, Stage::Bare, Stage::Asked));
        nics.settle(port, &former, None, now);
        assert_eq!(nics.stage(port), Stage::Asked, "the former one's cable was made");
        nics.settle(port, &next, None, now);
        assert_eq!(nics.stage(port), Stage::Ready);
    }

    #[test]
    fn what_failed_is_tried_again_after_a_wait() {
        let nics = Nics::new();
        let port = PortId(3);
        let now = Instant::now();
        nics.add(port, Arc::new(Netns::current().unwrap()), "eth0".into());
        let place = nics.place(port).unwrap();
        nics.settle(port, &place, Some("refused".into()), now);
        assert_eq!((nics.stage(port), nics.failure().as_deref()), (Stage::Failed, Some("refused")));
        assert!(!nics.may_try_again(port, now) && nics.may_try_again(port, now + FIRST_WAIT));
        nics.settle(port, &place, Some("refused".into()), now);
        assert!(!nics.may_try_again(port, now + FIRST_WAIT), "it waits longer the second time");
        assert_eq!(wait_after(u32::MAX), LONGEST_WAIT);
        nics.settle(port, &place, None, now);
        assert_eq!((nics.stage(port), nics.failure()), (Stage::Ready, None));
    }

    #[test]
    fn ports_beyond_the_table_stay_absent() {
        let nics = Nics::new();
        let port = PortId(70_000);
        nics.add(port, Arc::new(Netns::current().unwrap()), "eth0".into());
        assert_eq!(nics.stage(port), Stage::Absent);
    }
}
