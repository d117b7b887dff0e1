//! What can be asked of a topology, whoever answers: the reference model or the fabric.

use std::fmt;
use std::net::IpAddr;

use serde_json::Value;

use crate::golden::{Capacity, FlowCheck, Request, SessionCheck};

/// One line of an effective route table, in Azure's words.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Line {
    /// `Default`, `User`, `VirtualNetworkGateway`.
    pub source: String,
    /// `Active` or `Invalid`.
    pub state: String,
    /// Destinations.
    pub prefix: String,
    /// Next hop type.
    pub kind: String,
    /// Next hop addresses.
    pub addresses: Vec<String>,
}

impl Line {
    /// Without the state, which is Active for a route that was selected.
    pub fn selected(&self) -> String {
        format!("{} {} {} {}", self.source, self.prefix, self.kind, self.addresses.join(","))
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Line { source, state, prefix, kind, addresses } = self;
        write!(f, "{source} {state} {prefix} {kind} {}", addresses.join(","))
    }
}

/// A packet to ask about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// `icmp`, `tcp`, `udp`.
    pub protocol: String,
    /// Destination port.
    pub port: u16,
    /// Source port.
    pub source_port: u16,
    /// A segment from the middle of a connection that nobody remembers.
    pub mid_stream: bool,
}

/// What becomes of a packet and its answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Why it is dropped.
    pub reason: Option<String>,
    /// Appliances on the way out.
    pub via: Vec<String>,
    /// Why the answer is dropped.
    pub reply_reason: Option<String>,
    /// Appliances on the way back.
    pub via_reverse: Vec<String>,
    /// The NSG or firewall rule that decided on the way out; only where there is one.
    pub rule: Option<String>,
    /// The source address that the receiver sees.
    pub source_seen_as: Option<IpAddr>,
}

/// Whoever answers.
pub trait Subject: Sized {
    /// Takes a topology.
    ///
    /// # Errors
    /// Why it is not accepted.
    fn build(topology: &Value) -> Result<Self, String>;
    /// The effective routes of `VNET/SUBNET`; none where the subject doesn't tell.
    fn routes(&self, subnet: &str) -> Option<Vec<Line>>;
    /// The route that a packet from `VNET/SUBNET` takes; none where the subject doesn't tell.
    fn next_hop(&self, subnet: &str, to: IpAddr) -> Option<Option<Line>>;
    /// The identifier of the route table that decides there, or `System Route`; none where the subject doesn't tell.
    fn route_table(&self, subnet: &str, to: IpAddr) -> Option<String>;
    /// What traceroute prints between two ends.
    fn hops(&self, from: &str, to: &str, probe: &Probe) -> Vec<String>;
    /// How many working peerings a topology has.
    ///
    /// # Errors
    /// Why the topology is not accepted.
    fn links(topology: &Value) -> Result<usize, String>;
    /// The way of a packet between machines, hosts or addresses, and of its answer.
    fn path(&self, from: &str, to: &str, probe: &Probe) -> Outcome;
    /// What the groups at a NIC say: allowed, and by which rule; none where the subject doesn't tell.
    fn flow(&self, flow: &FlowCheck) -> Option<(bool, String)>;
    /// A policy's collections in the order of processing; none where the subject doesn't tell.
    fn order(&self, policy: &str) -> Option<Vec<String>>;
    /// What is wrong about a subnet's capacity.
    fn capacity(capacity: &Capacity) -> Vec<String>;
    /// What is wrong about a sequence of peering requests.
    fn requests(topology: &Value, requests: &[Request]) -> Vec<String>;
    /// What is wrong about a session that outlives a change.
    fn session(&self, topology: &Value, session: &SessionCheck) -> Vec<String>;
}
