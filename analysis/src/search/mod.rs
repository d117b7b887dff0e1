//! Who can reach an end, by which packets: answered for every header by equivalence classes.
//!
//! A decision looks at a header in three ways only: whether an address lies in a prefix (of a rule, a route, a range, a
//! tunnel), which single address it is (holders, translations), and whether a port lies in a rule's range. So two headers
//! whose addresses lie in the same prefixes and whose ports lie in the same ranges are the same to every step, and one of
//! them stands for all: [`vnet_fabric::path::judge`] gives its verdict, and that of its answer. The classes are the cells
//! between all places where such a prefix or range begins or ends ([`Snapshot::address_boundaries`],
//! [`Snapshot::port_boundaries`]). Their number, not that of headers, is what an answer costs.
//!
//! Two things are told apart by neither. Flows that are spread over equal paths by a hash of their ports: several members of
//! a class are judged then, and a set of which only some pass says so. And what sessions have used up, as ports for
//! translation: a prediction is about a lab without traffic.

mod classes;
pub(crate) mod engine;
pub(crate) mod sources;

use std::net::IpAddr;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use vnet_config::model::PortRange;
use vnet_dataplane::{PortId, Protocol};
use vnet_fabric::Snapshot;
use vnet_fabric::effective::QuestionError;
use vnet_fabric::path::{Endpoint, PathVerdict};
use vnet_fabric::snapshot::PortKind;

use engine::{Engine, Side};
use sources::{INTERNET, Source};

/// From whom.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Senders {
    /// Every machine, site and the Internet.
    #[default]
    Any,
    /// The Internet: its simulated hosts, and every other public address.
    Internet,
    /// One machine, host or site.
    Name(String),
}

/// A protocol that packets are asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SearchProtocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP echo, of the family that the addresses have.
    Icmp,
    /// ESP.
    Esp,
    /// AH.
    Ah,
}

impl SearchProtocol {
    /// All that the fabric carries.
    pub const ALL: [SearchProtocol; 5] = [
        SearchProtocol::Tcp,
        SearchProtocol::Udp,
        SearchProtocol::Icmp,
        SearchProtocol::Esp,
        SearchProtocol::Ah,
    ];

    /// As users write it.
    pub fn name(self) -> &'static str {
        match self {
            SearchProtocol::Tcp => "tcp",
            SearchProtocol::Udp => "udp",
            SearchProtocol::Icmp => "icmp",
            SearchProtocol::Esp => "esp",
            SearchProtocol::Ah => "ah",
        }
    }

    pub(crate) fn number(self, v4: bool) -> Protocol {
        match self {
            SearchProtocol::Tcp => Protocol::TCP,
            SearchProtocol::Udp => Protocol::UDP,
            SearchProtocol::Icmp if v4 => Protocol::ICMP,
            SearchProtocol::Icmp => Protocol::ICMPV6,
            SearchProtocol::Esp => Protocol::ESP,
            SearchProtocol::Ah => Protocol::AH,
        }
    }

    pub(crate) fn has_ports(self) -> bool {
        matches!(self, SearchProtocol::Tcp | SearchProtocol::Udp)
    }
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// A machine, host, firewall, gateway or address, also one of the Internet; `internet` for every public address that
    /// nobody in the lab has.
    pub to: String,
    /// From whom.
    pub from: Senders,
    /// By which protocols; every one where none is named.
    pub protocols: Vec<SearchProtocol>,
    /// To which port; every one where none is given. With it, TCP is meant where no protocol is named.
    pub port: Option<u16>,
}

/// Packets of which all have the same verdict, by the same rule and way: every source address with every source port and
/// every destination port that is listed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Reach {
    /// Who sends: a machine, `VM/NIC` where it has several, a host, a site whose device is the user's, or `internet`.
    pub from: String,
    /// Its addresses.
    #[schemars(with = "Vec<String>")]
    pub source_addresses: Vec<IpNet>,
    /// The address that they are sent to.
    pub destination: IpAddr,
    /// All addresses for which the same holds, where it is one of several: of `internet`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<String>")]
    pub destination_addresses: Vec<IpNet>,
    /// The protocol.
    pub protocol: SearchProtocol,
    /// Source ports; empty where the protocol has none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<String>")]
    pub source_ports: Vec<PortRange>,
    /// Destination ports; empty where the protocol has none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<String>")]
    pub destination_ports: Vec<PortRange>,
    /// Verdict and way.
    #[serde(flatten)]
    pub verdict: Verdict,
}

/// What becomes of a packet and its answer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// Whether they get their answer.
    pub allowed: bool,
    /// Why not: a drop's reason, or who holds the address instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What decided: of a drop its cause, else the rule of a firewall or security group that let them pass, else the first
    /// route of a user that steered them, else the last route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// The first route of a user that steers them, else the last route that they take; none of a drop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// The source address that the receiver sees, where it is not the sender's own. Where addresses of a pool share the work
    /// it is one of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_seen_as: Option<IpAddr>,
    /// True where they leave by the internet edge for an address that no simulated host has: somebody is taken to answer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leaves: bool,
    /// Appliances on the way out.
    pub via: Vec<String>,
    /// Appliances on the way back.
    pub via_reverse: Vec<String>,
    /// True where this holds for some of the packets, by the hash that spreads flows over equal paths.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub some_flows: bool,
}

/// What a search found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SearchReport {
    /// Whom they reach.
    pub to: String,
    /// Sets of packets that get their answer.
    pub allowed: Vec<Reach>,
    /// The rest, with what drops it.
    pub denied: Vec<Reach>,
    /// How many classes of headers were judged.
    pub classes: usize,
}

/// Searches the whole header space.
///
/// # Errors
/// A name is not known.
pub fn search(snapshot: &Snapshot, query: &Query) -> Result<SearchReport, QuestionError> {
    let target = Target::resolve(snapshot, &query.to)?;
    let sources = sources::sources(snapshot, &query.from, &target)?;
    let protocols: Vec<SearchProtocol> = match (&query.protocols[..], query.port) {
        ([], Some(_)) => vec![SearchProtocol::Tcp],
        ([], None) => SearchProtocol::ALL.to_vec(),
        (named, _) => named.to_vec(),
    };
    let (name, ports) = (target.name.clone(), target.ports.clone());
    let side = Side { snapshot, target: name, ports, outward: target.outward };
    let mut engine = Engine::new(vec![side], query.port);
    let internet = engine.destinations(&target.internet);
    let mut report =
        SearchReport { to: query.to.clone(), allowed: Vec::new(), denied: Vec::new(), classes: 0 };
    for source in &sources {
        let own = target.addresses_for(source).into_iter().map(|ip| (ip, &[][..]));
        for (destination, all) in own.chain(internet.iter().map(|class| (class.first, &class.prefixes[..]))) {
            for protocol in &protocols {
                for set in engine.sets(&[source.port], &source.addresses, destination, *protocol) {
                    for verdict in set.verdicts.iter().flatten() {
                        let list = if verdict.allowed { &mut report.allowed } else { &mut report.denied };
                        add(list, set.reach(&source.name, (destination, all), *protocol, verdict));
                    }
                }
            }
        }
    }
    report.classes = engine.classes();
    Ok(report)
}

/// Adds a set; to one that differs in the destination of the Internet alone that is added.
fn add(list: &mut Vec<Reach>, reach: Reach) {
    let same = |known: &&mut Reach| {
        let other = Reach {
            destination: known.destination,
            destination_addresses: known.destination_addresses.clone(),
            ..reach.clone()
        };
        !reach.destination_addresses.is_empty()
            && known.destination.is_ipv4() == reach.destination.is_ipv4()
            && **known == other
    };
    match list.iter_mut().rev().take_while(|known| known.from == reach.from).find(same) {
        Some(known) => {
            known.destination_addresses.extend(reach.destination_addresses);
            known.destination_addresses = IpNet::aggregate(&known.destination_addresses);
        }
        None => list.push(reach),
    }
}

/// Whom packets are to reach.
struct Target {
    name: String,
    ports: Vec<PortId>,
    private: Vec<IpAddr>,
    public: Vec<IpAddr>,
    /// Every public address that nobody in the lab has, where the Internet is meant.
    internet: Vec<IpNet>,
    /// Whether it is on the Internet.
    outward: bool,
}

impl Target {
    fn resolve(snapshot: &Snapshot, name: &str) -> Result<Target, QuestionError> {
        let edge = snapshot.internet_edge();
        let rest = edge.and_then(|edge| sources::outside(snapshot, edge).pop());
        let internet = rest.map(|rest| rest.addresses).unwrap_or_default();
        let is_machine = |kind: &PortKind| matches!(kind, PortKind::Nic { vm, .. } if **vm == *name);
        let nics: Vec<_> = snapshot.ports().filter(|port| is_machine(&port.kind)).collect();
        if name == INTERNET {
            let edge = edge.ok_or_else(|| QuestionError::NoNic(name.to_owned()))?;
            let (private, public) = (Vec::new(), Vec::new());
            return Ok(Target {
                name: name.to_owned(),
                ports: vec![edge],
                private,
                public,
                internet,
                outward: true,
            });
        }
        let (ports, private): (Vec<PortId>, Vec<IpAddr>) = if nics.is_empty() {
            let end = Endpoint::resolve(snapshot, name)?;
            (end.port.into_iter().collect(), end.addresses)
        } else {
            let addresses = nics.iter().flat_map(|port| port.addresses.iter().map(IpNet::addr));
            (nics.iter().map(|port| port.id).collect(), addresses.collect())
        };
        let public = ports.iter().flat_map(|port| snapshot.public_addresses(*port)).collect();
        let simulated = snapshot.internet_hosts().filter_map(|host| Endpoint::resolve(snapshot, host).ok());
        let hosts: Vec<IpAddr> = simulated.flat_map(|host| host.addresses).collect();
        let outside = |ip: &IpAddr| hosts.contains(ip) || internet.iter().any(|net| net.contains(ip));
        let outward = ports.iter().all(|port| Some(*port) == edge) && private.iter().all(outside);
        Ok(Target { name: name.to_owned(), ports, private, public, internet: Vec::new(), outward })
    }

    /// The addresses by which a source may try: from the Internet the public ones only.
    fn addresses_for(&self, source: &Source) -> Vec<IpAddr> {
        let private = if source.outside { &[][..] } else { &self.private[..] };
        private.iter().chain(&self.public).copied().collect()
    }
}

impl SearchReport {
    /// The verdict that the report has of one packet; none where the report does not speak of it.
    pub fn verdict_of(
        &self,
        protocol: SearchProtocol,
        (source, source_port): (IpAddr, u16),
        (destination, destination_port): (IpAddr, u16),
    ) -> Option<PathVerdict> {
        let holds = |ports: &[PortRange], port: u16| {
            ports.is_empty() || ports.iter().any(|range| range.contains(port))
        };
        let found = self.allowed.iter().chain(&self.denied).find(|reach| {
            reach.protocol == protocol
                && (reach.destination == destination
                    || reach.destination_addresses.iter().any(|net| net.contains(&destination)))
                && reach.source_addresses.iter().any(|net| net.contains(&source))
                && holds(&reach.source_ports, source_port)
                && holds(&reach.destination_ports, destination_port)
        })?;
        Some(if found.verdict.allowed { PathVerdict::Allow } else { PathVerdict::Deny })
    }
}
