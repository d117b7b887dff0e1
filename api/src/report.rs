//! Answers that are made of the fabric's own reports.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use vnet_config::model::ProbeProtocol;
use vnet_fabric::PathReport;

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
