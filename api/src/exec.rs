//! Running a program inside a machine of the lab.
//!
//! The client asks with `Upgrade: vnetd-exec`; after the 101 answer the daemon writes the line `ready`, and the
//! client answers with one byte that carries three descriptors (SCM_RIGHTS): the program's standard input, output
//! and error. From there on both sides write one JSON object a line: [`ExecInput`] one way, [`ExecEvent`] the other.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Token of the HTTP upgrade.
pub const UPGRADE: &str = "vnetd-exec";

/// The line that the daemon writes when it is ready for the descriptors.
pub const READY: &str = "ready\n";

/// A program to run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExecRequest {
    /// Program and arguments; the program is looked up in PATH. Empty for the user's shell.
    pub command: Vec<String>,
    /// Environment of the program, complete.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// Working directory; `/` if it is missing inside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<String>,
    /// Standard input is a terminal that becomes the controlling terminal of a new session.
    #[serde(default)]
    pub terminal: bool,
}

/// What the client says while the program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum ExecInput {
    /// Send this signal to the program's process group.
    Signal(i32),
}

/// What the daemon says while the program runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum ExecEvent {
    /// It runs.
    Started {
        /// Process id, as seen on the host.
        pid: u32,
    },
    /// It ended.
    Exited {
        /// Exit code; 128 and the signal's number if a signal ended it, as shells count.
        code: i32,
    },
    /// It could not be started.
    Failed {
        /// 127 if it was not found, 126 if it cannot be run, 125 for any other failure.
        code: i32,
        /// In one sentence.
        message: String,
    },
}
