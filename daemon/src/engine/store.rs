//! What of a lab lies on disk: the accepted file, the control state, the keys.

use serde::{Deserialize, Serialize};
use vnet_api::TopologyFile;
use vnet_fabric::control::State;
use vnet_router::SessionMemory;

use super::keys::Keys;
use super::records::{RECORD_BYTES, Records};
use crate::host::error::HostError;
use crate::host::state_dir::StateDir;
use crate::host::twin::Twin;

/// Version of the contents.
const VERSION: u32 = 2;
const ACCEPTED: &str = "accepted";
const SESSIONS: &str = "sessions";

/// A lab as the next daemon finds it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Accepted {
    /// The topology file with everything that it refers to.
    pub file: TopologyFile,
    /// What is in force beyond the file.
    pub state: State,
    /// The tunnels' private keys.
    pub keys: Keys,
}

/// What is to be stored, as [`Accepted`] reads it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Accepting<'a> {
    file: &'a TopologyFile,
    state: &'a State,
    keys: &'a Keys,
}

/// Where what is accepted is stored.
#[derive(Debug)]
pub(super) struct Store(Twin);

impl Store {
    /// A lab's own, with what was accepted last; `None` for a lab whose first `up` did not get that far.
    pub(super) fn open(dir: &StateDir) -> Result<(Store, Option<Accepted>), HostError> {
        let (twin, accepted) = Twin::open(dir, ACCEPTED, VERSION)?;
        Ok((Store(twin), accepted))
    }

    /// Stores what is accepted, for good: a crash or a power failure leaves the former or this.
    pub(super) fn save(&mut self, file: &TopologyFile, state: &State, keys: &Keys) -> Result<(), HostError> {
        self.0.save(&Accepting { file, state, keys })
    }
}

/// Records of `count` sessions in memory that outlives the daemon.
pub(super) fn sessions(dir: &StateDir, count: usize) -> Result<SessionMemory, HostError> {
    let region = dir.region(SESSIONS, count * RECORD_BYTES)?;
    let is_unused = region.is_fresh();
    let records = Records::new(region);
    Ok(if is_unused { SessionMemory::unused(records) } else { SessionMemory::new(records) })
}
