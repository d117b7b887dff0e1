//! A lab's life: apply, plan, down, and what exists.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Diagnostic, ErrorBody};

/// A topology file with what it refers to on the client's side. The daemon opens no file and reads no environment
/// on behalf of a client.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TopologyFile {
    /// Name for messages: the path as the user wrote it, `<stdin>` for standard input.
    pub origin: String,
    /// The file's text, YAML or JSON.
    pub text: String,
    /// Contents, in base64, of files that the topology names (`files:` of a VM, `sharedKey: {file: …}`), by the path
    /// as written there.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, String>,
    /// Values of the environment variables that the topology names (`sharedKey: {env: …}`).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub environment: BTreeMap<String, String>,
}

/// Shows names and sizes, never contents: keys are among them.
impl std::fmt::Debug for TopologyFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TopologyFile")
            .field("origin", &self.origin)
            .field("bytes", &self.text.len())
            .field("files", &self.files.keys())
            .field("environment", &self.environment.keys())
            .finish()
    }
}

/// Body of PUT on a lab.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApplyRequest {
    /// What the lab shall be.
    pub topology: TopologyFile,
    /// Make the file's own changes as Azure takes them, and no more: what Azure would refuse in the present state is
    /// refused with its code, Disconnected peerings stay so, changed ranges wait for a sync.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub as_azure: bool,
}

/// What a step of long work has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum ProgressState {
    /// Begun.
    Started,
    /// Made.
    Created,
    /// Changed in place.
    Updated,
    /// Removed.
    Removed,
    /// Left as it was.
    Unchanged,
    /// Failed; what was made is taken back.
    Failed,
    /// Taken back after a failure.
    RolledBack,
}

/// One step of long work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// What it is about: `virtualMachine web`, `peering spoke1 -> hub`.
    pub object: String,
    /// What became of it.
    pub state: ProgressState,
    /// How long it took, in milliseconds; zero for `started`.
    pub ms: u64,
    /// More, where there is more to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// One line of the stream that PUT and DELETE answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "event", rename_all = "camelCase")]
pub enum ApplyEvent {
    /// A step.
    Progress(Progress),
    /// The end of an apply.
    Applied(ApplyReport),
    /// The end of a removal.
    Removed(DownReport),
    /// The end, when it failed after the first step; the lab is as it was before.
    Error(ErrorBody),
}

/// What an apply did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApplyReport {
    /// The lab.
    pub lab: String,
    /// Whether the lab was made by this apply.
    pub created: bool,
    /// What was changed, in the order in which it was done.
    pub changes: Vec<Change>,
    /// Warnings of the file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<Diagnostic>,
    /// How long it took, in milliseconds.
    pub ms: u64,
}

/// What an apply would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlanReport {
    /// The lab.
    pub lab: String,
    /// Whether the lab would be made.
    pub creates: bool,
    /// What would be changed.
    pub changes: Vec<Change>,
    /// What Azure would refuse in the present state although the file is valid; asked with `asAzure`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<Diagnostic>,
    /// Warnings of the file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<Diagnostic>,
}

/// What happens to a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum ChangeKind {
    /// Made.
    Create,
    /// Changed in place.
    Update,
    /// Removed and made anew.
    Replace,
    /// Removed.
    Delete,
}

/// One difference between what is and what shall be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    /// What happens.
    pub kind: ChangeKind,
    /// Path in the file: `virtualNetworks.hub.peerings.spoke1`.
    pub path: String,
    /// The properties that differ, `allowForwardedTraffic: true -> false`; never a secret's value.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<String>,
}

/// What a removal did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DownReport {
    /// The labs that were removed.
    pub labs: Vec<String>,
    /// What else was found and removed: leftovers of a crash that carry our name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leftovers: Vec<String>,
    /// How long it took, in milliseconds.
    pub ms: u64,
}

/// One lab in a list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LabSummary {
    /// Its name.
    pub name: String,
    /// `Succeeded`, `Updating`, `Deleting`, `Failed`: Azure's provisioning states.
    pub provisioning_state: String,
    /// The file that it was last applied from.
    pub origin: String,
    /// Number of virtual networks.
    pub virtual_networks: usize,
    /// Number of namespaces that stand for machines: VMs, on-premises hosts, internet hosts.
    pub machines: usize,
    /// Number of the snapshot in force; rises by one with every change.
    pub epoch: u64,
}

/// What [`Resource::kind`] can be: the file's sections whose entries have a name, and what a lab has besides.
pub const RESOURCE_KINDS: &[&str] = &[
    "virtualNetworks",
    "peerings",
    "virtualMachines",
    "networkSecurityGroups",
    "applicationSecurityGroups",
    "routeTables",
    "azureFirewalls",
    "firewallPolicies",
    "ipGroups",
    "virtualNetworkGateways",
    "localNetworkGateways",
    "connections",
    "vpnClients",
    "onPremisesSites",
    "natGateways",
    "privateEndpoints",
    "publicIPAddresses",
    "offload",
];

/// One resource of a lab.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Resource {
    /// The file's section: `virtualNetworks`, `virtualMachines`, `peerings`, …
    pub kind: String,
    /// Its name; `hub/spoke1` for a peering.
    pub name: String,
    /// Region, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// What is in force: `Succeeded`, `Connected`, `Initiated`, `Running`, …
    pub state: String,
    /// What a table shows beside the name: addresses, networks, SKU.
    pub summary: String,
    /// Its properties as in force, in REST spelling, secrets left out.
    pub properties: Value,
}

/// Answer to a validation of a file that is not refused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ValidateReport {
    /// The lab's name.
    pub lab: String,
    /// Warnings.
    pub warnings: Vec<Diagnostic>,
}

/// What a check of the host found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum CheckStatus {
    /// All that is needed.
    Ok,
    /// Works, but something is slower or missing.
    Warning,
    /// Labs cannot run.
    Failed,
}

/// One thing that a lab needs of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Check {
    /// What was looked at.
    pub name: String,
    /// How it stands.
    pub status: CheckStatus,
    /// What was found.
    pub found: String,
    /// How to mend it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

/// All checks of the host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DoctorReport {
    /// In the order in which to mend them.
    pub checks: Vec<Check>,
}

impl DoctorReport {
    /// Whether a lab can run here.
    pub fn can_run(&self) -> bool {
        self.checks.iter().all(|check| check.status != CheckStatus::Failed)
    }
}

/// Answer of `/healthz`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Health {
    /// The daemon's version.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// Labs that run.
    pub labs: usize,
}
