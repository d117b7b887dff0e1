//! The explanation of a decision: each step with the rule that made it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Names a rule, a route or a built-in check in this lab; stable over snapshots, so that counters can hang on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct RuleId(pub u32);

/// How sure we are that Azure does the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Certainty {
    /// Stated by Microsoft.
    #[default]
    Documented,
    /// Seen in captures of real Azure.
    Observed,
    /// Follows from what is documented.
    Inferred,
    /// Sources disagree; a switch in `semantics:` chooses.
    Disputed,
}

/// What stands behind a [`RuleId`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RuleRef {
    /// The rule in the user's words: `east-west/web/https`, `app/securityRules/allow-web`,
    /// `app/defaultSecurityRules/DenyAllInBound`, `route private (10.0.0.0/8 -> VirtualAppliance 10.0.1.4)`, `peering spoke1 -> hub`.
    pub name: String,
    /// The rule's id in docs/AZURE-RULES.md, as `ROUTE-LPM`.
    pub azure_rule: String,
    /// How sure we are of that rule.
    pub certainty: Certainty,
}

/// Whether a user who writes `asked` means the rule of this name: a security group's rule is known by its name with its
/// group's, `app/allow-web`, and by that without, `securityRules/allow-web`, too.
pub fn is_called(name: &str, asked: &str) -> bool {
    let of_group = name.split_once('/').and_then(|(group, rest)| Some((group, rest.split_once('/')?)));
    match of_group {
        Some((group, (kind @ ("securityRules" | "defaultSecurityRules"), rule))) => {
            asked == name
                || asked
                    .split_once('/')
                    .is_some_and(|(first, last)| last == rule && (first == group || first == kind))
        }
        _ => asked == name,
    }
}

/// An appliance that forwards a packet, by its place in the snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hop {
    /// A firewall.
    Firewall(usize),
    /// A virtual network gateway.
    Gateway(usize),
    /// A NIC of a machine that is to forward.
    Nic(usize),
}

/// A route that contains the destination, or would, and was not taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RejectedRoute {
    /// Its destinations.
    pub address_prefix: String,
    /// `Default`, `VirtualNetworkGateway` or `User`.
    pub source: String,
    /// `VnetLocal`, `VNetPeering`, `VirtualAppliance`, ...
    pub next_hop_type: String,
    /// The appliance's or the gateway's addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub next_hop_ip_address: Vec<String>,
    /// Its name in the route table, for a user's route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// `Active`: in force, but another is preferred; `Invalid`: overridden; `Absent`: not listed at all.
    pub state: RejectedState,
    /// Why it was not taken, in a few words.
    pub why: String,
}

/// What effective routes show of a route that was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RejectedState {
    /// Listed as in force.
    Active,
    /// Listed as overridden.
    Invalid,
    /// Not listed.
    Absent,
}

impl std::fmt::Display for RejectedRoute {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({}", self.address_prefix, self.source)?;
        if let Some(name) = &self.name {
            write!(f, " {name}")?;
        }
        write!(f, ") -> {}", self.next_hop_type)?;
        for address in &self.next_hop_ip_address {
            write!(f, " {address}")?;
        }
        write!(f, ": {}", self.why)
    }
}

/// A border between regions or zones that a packet crosses.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Crossing {
    /// Region, and zone where one is named: `eastus`, `eastus zone 1`.
    pub from: String,
    /// The same of the other side.
    pub to: String,
    /// What the way there takes, in milliseconds; absent where the topology has no latency for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub one_way_ms: Option<f64>,
}

/// What one step of a decision did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum StepKind {
    /// The NIC sent it; the source was checked.
    Origin,
    /// An NSG judged it on the way out.
    NsgOutbound,
    /// A route was selected.
    Route,
    /// A peering was crossed.
    Peering,
    /// A firewall judged it.
    Firewall,
    /// A gateway took it.
    Gateway,
    /// It was sealed into a tunnel.
    Tunnel,
    /// A virtual machine that forwards got it, and is assumed to send it on.
    Appliance,
    /// An on-premises site's router took it.
    Site,
    /// The internet edge took it.
    Internet,
    /// Virtual network encryption looked at it.
    Encryption,
    /// An address was translated.
    Translate,
    /// An NSG judged it on the way in.
    NsgInbound,
    /// It was delivered.
    Deliver,
    /// It was dropped.
    Drop,
    /// It went to another region or zone.
    Crossing,
}

/// One step of a decision.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// What happened.
    pub kind: StepKind,
    /// Where: `web/eth0`, `spoke1/app`, `fw`, `hub-vpn`.
    pub at: String,
    /// In one sentence.
    pub text: String,
    /// The rule that made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<RuleRef>,
    /// For a route: the candidates that lost, each with why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rejected: Vec<RejectedRoute>,
    /// For a crossing: from where to where.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crossing: Option<Crossing>,
}

impl Step {
    /// A step that is neither a route nor a crossing.
    pub fn new(
        kind: StepKind,
        at: impl Into<String>,
        text: impl Into<String>,
        rule: Option<RuleRef>,
    ) -> Step {
        Step { kind, at: at.into(), text: text.into(), rule, rejected: Vec::new(), crossing: None }
    }
}

/// Takes the steps of a decision. The packet's way passes [`NoTrace`], which costs nothing: the closure that
/// would build the step is not called.
pub trait Trace {
    /// Records the step that `build` makes, or ignores it.
    fn step(&mut self, build: impl FnOnce() -> Step);

    /// Whether anything is made of what it is told.
    fn listens(&self) -> bool {
        true
    }

    /// An appliance forwards the packet.
    fn pass(&mut self, _hop: Hop) {}

    /// An appliance has the packet and is to forward it; it drops it where no [`pass`](Self::pass) follows.
    fn reach(&mut self, _hop: Hop) {}

    /// The way rests on a rule.
    fn rests_on(&mut self, _rule: RuleId) {}

    /// A subnet's route takes the packet; `by_user` tells those of route tables from the others.
    fn steered(&mut self, _route: RuleId, _by_user: bool) {}

    /// Whether the question is about all of the Internet: somebody is taken to be at every public address, whether or not
    /// the lab simulates a host there. Never so for a packet that is real.
    fn whole_internet(&self) -> bool {
        false
    }
}

/// Records nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoTrace;

impl Trace for NoTrace {
    fn step(&mut self, _build: impl FnOnce() -> Step) {}

    fn listens(&self) -> bool {
        false
    }
}

impl Trace for Vec<Step> {
    fn step(&mut self, build: impl FnOnce() -> Step) {
        self.push(build());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_of_security_groups_have_shorter_names() {
        let denied = "app/defaultSecurityRules/DenyAllInBound";
        for asked in [denied, "defaultSecurityRules/DenyAllInBound", "app/DenyAllInBound"] {
            assert!(is_called(denied, asked), "{asked}");
        }
        for asked in ["db/DenyAllInBound", "DenyAllInBound", "app/securityRules/DenyAllInBound"] {
            assert!(!is_called(denied, asked), "{asked}");
        }
        assert!(is_called("app/securityRules/web", "app/web"));
        assert!(is_called("east-west/web/https", "east-west/web/https"));
        assert!(!is_called("east-west/web/https", "east-west/https"));
    }
}
