//! What of a lab lies on disk: the accepted file, the control state, the keys.

use serde::{Deserialize, Serialize};
use vnet_api::TopologyFile;
use vnet_fabric::control::State;

use super::keys::Keys;
use crate::host::error::HostError;
use crate::host::state_dir::StateDir;

/// Version of the files' contents.
const VERSION: u32 = 1;
const ACCEPTED: &str = "accepted.json";
const SESSIONS: &str = "sessions";

/// A lab as the next daemon finds it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Accepted {
    /// The topology file with everything that it refers to.
    pub file: TopologyFile,
    /// What is in force beyond the file.
    pub state: State,
    /// The tunnels' private keys.
    pub keys: Keys,
}

/// The accepted state, all of it replaced at once: a crash leaves the former one or this one.
pub(super) fn save(dir: &StateDir, accepted: &Accepted) -> Result<(), HostError> {
    dir.save(ACCEPTED, VERSION, accepted)
}

/// What was accepted last; `None` for a lab whose first `up` did not get that far.
pub(super) fn load(dir: &StateDir) -> Result<Option<Accepted>, HostError> {
    dir.load(ACCEPTED, VERSION)
}

/// Records of `count` sessions in memory that outlives the daemon.
pub(super) fn sessions(dir: &StateDir, count: usize) -> Result<super::records::Records, HostError> {
    let region = dir.region(SESSIONS, count * super::records::RECORD_BYTES)?;
    Ok(super::records::Records::new(region))
}
