//! Which NICs there are and how far each is equipped, to be looked at by workers without a lock.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use vnet_dataplane::PortId;

use crate::host::netns::Netns;

/// Ports of a piece of the table.
const PIECE: usize = 1024;
/// Pieces: 65,536 ports. The flows of others stay in userspace.
const PIECES: usize = 64;

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
}

/// The NICs of a lab.
#[derive(Debug)]
pub(super) struct Nics {
    stages: [OnceLock<Box<[AtomicU8; PIECE]>>; PIECES],
    places: Mutex<HashMap<PortId, Place>>,
}

impl Nics {
    pub(super) fn new() -> Nics {
        Nics { stages: [const { OnceLock::new() }; PIECES], places: Mutex::new(HashMap::new()) }
    }

    fn places(&self) -> std::sync::MutexGuard<'_, HashMap<PortId, Place>> {
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
    pub(super) fn add(&self, port: PortId, place: Place) {
        let Some(piece) = self.stages.get(port.index() / PIECE) else { return };
        let piece = piece.get_or_init(|| Box::new([const { AtomicU8::new(Stage::Absent as u8) }; PIECE]));
        self.places().insert(port, place);
        piece[port.index() % PIECE].store(Stage::Bare as u8, Ordering::Release);
    }

    /// A NIC goes; how far it was.
    pub(super) fn take(&self, port: PortId) -> Stage {
        self.places().remove(&port);
        let stage = self.at(port).map(|stage| stage.swap(Stage::Absent as u8, Ordering::AcqRel));
        stage.map_or(Stage::Absent, Stage::of)
    }

    pub(super) fn place(&self, port: PortId) -> Option<Place> {
        self.places().get(&port).cloned()
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
        nics.add(port, Place { ns, device: "eth0".into() });
        assert!(nics.advance(port, Stage::Bare, Stage::Asked));
        assert!(!nics.advance(port, Stage::Bare, Stage::Asked), "it is asked for once");
        assert!(nics.advance(port, Stage::Asked, Stage::Ready));
        assert_eq!((nics.ready(), nics.place(port).unwrap().device.as_str()), (1, "eth0"));
        assert_eq!((nics.take(port), nics.stage(port)), (Stage::Ready, Stage::Absent));
        assert!(nics.place(port).is_none());
    }

    #[test]
    fn ports_beyond_the_table_stay_absent() {
        let nics = Nics::new();
        let port = PortId(70_000);
        nics.add(port, Place { ns: Arc::new(Netns::current().unwrap()), device: "eth0".into() });
        assert_eq!(nics.stage(port), Stage::Absent);
    }
}
