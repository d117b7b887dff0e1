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
    /// The rule in the user's words: `east-west/web/https`, `app/allow-web`, `defaultSecurityRules/DenyAllInBound`,
    /// `route private (10.0.0.0/8 -> VirtualAppliance 10.0.1.4)`, `peering spoke1 -> hub`.
    pub name: String,
    /// The rule's id in docs/AZURE-RULES.md, as `ROUTE-LPM`.
    pub azure_rule: String,
    /// How sure we are of that rule.
    pub certainty: Certainty,
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
    /// An address was translated.
    Translate,
    /// An NSG judged it on the way in.
    NsgInbound,
    /// It was delivered.
    Deliver,
    /// It was dropped.
    Drop,
}

/// One step of a decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
    pub rejected: Vec<String>,
}

/// Takes the steps of a decision. The packet's way passes [`NoTrace`], which costs nothing: the closure that
/// would build the step is not called.
pub trait Trace {
    /// Records the step of this kind at this place that `build` makes, or ignores it. The kind and the place are known
    /// without building it.
    fn step(&mut self, kind: StepKind, at: &str, build: impl FnOnce() -> Step);
}

/// Records nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoTrace;

impl Trace for NoTrace {
    fn step(&mut self, _kind: StepKind, _at: &str, _build: impl FnOnce() -> Step) {}
}

impl Trace for Vec<Step> {
    fn step(&mut self, _kind: StepKind, _at: &str, build: impl FnOnce() -> Step) {
        self.push(build());
    }
}

/// What is told of a way without its text.
pub(crate) trait Recorder: Trace + Default {
    /// The kind and place of each step that was recorded, in order.
    fn places(&self) -> impl Iterator<Item = (StepKind, &str)>;
}

impl Recorder for Vec<Step> {
    fn places(&self) -> impl Iterator<Item = (StepKind, &str)> {
        self.iter().map(|step| (step.kind, step.at.as_str()))
    }
}

/// Records the appliances and tunnels on a way, and no text.
#[derive(Clone, Debug, Default)]
pub(crate) struct Places(Vec<(StepKind, String)>);

impl Trace for Places {
    fn step(&mut self, kind: StepKind, at: &str, _build: impl FnOnce() -> Step) {
        if matches!(kind, StepKind::Firewall | StepKind::Gateway | StepKind::Appliance | StepKind::Tunnel) {
            self.0.push((kind, at.to_owned()));
        }
    }
}

impl Recorder for Places {
    fn places(&self) -> impl Iterator<Item = (StepKind, &str)> {
        self.0.iter().map(|(kind, at)| (*kind, at.as_str()))
    }
}
