//! Answers that are made of the fabric's own reports.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use vnet_config::model::ProbeProtocol;
use vnet_fabric::path::{PairReport, PathVerdict};
use vnet_fabric::trace::Hop;
use vnet_fabric::{PathReport, Snapshot};

use crate::probe::ProbeComparison;
use crate::service::{Protocol, Service};

impl From<Protocol> for ProbeProtocol {
    fn from(protocol: Protocol) -> ProbeProtocol {
        match protocol {
            Protocol::Tcp => ProbeProtocol::Tcp,
            Protocol::Udp => ProbeProtocol::Udp,
            Protocol::Icmp => ProbeProtocol::Icmp,
        }
    }
}

impl From<ProbeProtocol> for Protocol {
    fn from(protocol: ProbeProtocol) -> Protocol {
        match protocol {
            ProbeProtocol::Tcp => Protocol::Tcp,
            ProbeProtocol::Udp => Protocol::Udp,
            ProbeProtocol::Icmp => Protocol::Icmp,
        }
    }
}

impl Service {
    /// As the fabric asks: protocol, and the port of those that have ports.
    pub fn asked(self) -> (ProbeProtocol, Option<u16>) {
        (self.protocol.into(), (self.protocol != Protocol::Icmp).then_some(self.port))
    }
}

/// A prediction, and the packet that was held against it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PathAnswer {
    /// What the packet would meet.
    #[serde(flatten)]
    pub prediction: PathReport,
    /// What a packet met, if one was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<ProbeComparison>,
}

/// One pair of a matrix.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MatrixEntry {
    /// Who sends.
    pub from: String,
    /// Who answers.
    pub to: String,
    /// Whether the probe gets its answer.
    pub verdict: PathVerdict,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The rule that decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Appliances on the way out.
    pub via: Vec<String>,
    /// Appliances on the way back.
    pub via_reverse: Vec<String>,
    /// Whether the answer takes another way.
    pub asymmetric: bool,
}

impl MatrixReport {
    /// Every pair of the snapshot's machines.
    pub fn of(snapshot: &Snapshot, service: Service) -> MatrixReport {
        let (protocol, port) = service.asked();
        let pairs = vnet_fabric::matrix(snapshot, protocol, port);
        MatrixReport {
            service,
            value: pairs.into_iter().map(|pair| MatrixEntry::new(snapshot, pair)).collect(),
        }
    }
}

impl MatrixEntry {
    fn new(snapshot: &Snapshot, pair: PairReport) -> MatrixEntry {
        let outcome = pair.outcome;
        let names = |hops: &[Hop]| hops.iter().map(|hop| snapshot.hop_name(*hop).to_owned()).collect();
        MatrixEntry {
            from: pair.from,
            to: pair.to,
            verdict: if outcome.reason.is_some() { PathVerdict::Deny } else { PathVerdict::Allow },
            reason: outcome.reason.map(|reason| reason.name().to_owned()),
            rule: outcome.rule.and_then(|rule| snapshot.rule(rule)).map(|rule| rule.reference.name.clone()),
            via: names(&outcome.via),
            via_reverse: names(&outcome.via_reverse),
            asymmetric: outcome.asymmetric,
        }
    }
}

/// All pairs of machines.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MatrixReport {
    /// What was asked for.
    pub service: Service,
    /// In the order of the file.
    pub value: Vec<MatrixEntry>,
}
