//! Who sends packets, and from which addresses: those that pass the check of sources.

use std::net::IpAddr;

use ipnet::IpNet;
use vnet_dataplane::PortId;
use vnet_fabric::Snapshot;
use vnet_fabric::effective::QuestionError;
use vnet_fabric::path::Endpoint;
use vnet_fabric::snapshot::lpm::subtract;
use vnet_fabric::snapshot::{PortKind, TunnelPeer};

use super::{Senders, Target};

/// The name of every public address that nobody in the lab has.
pub(crate) const INTERNET: &str = "internet";
/// Not carried over the Internet (RFC 6890), or not unicast.
const NOT_PUBLIC: [&str; 12] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "168.63.129.16/32",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "224.0.0.0/3",
    "2001:db8::/32",
    "::/3",
    "4000::/2",
];
/// Everything; of IPv6 the rest beyond global unicast (RFC 4291) goes with the list above.
const EVERYTHING: [&str; 2] = ["0.0.0.0/0", "::/1"];

/// One sender.
pub(crate) struct Source {
    pub(crate) name: String,
    /// Where its packets enter the router.
    pub(crate) port: PortId,
    pub(crate) addresses: Vec<IpNet>,
    /// Whether it is on the Internet: it reaches public addresses only.
    pub(crate) outside: bool,
}

/// The senders that are asked for. A machine that forwards counts with its own addresses: what it sends on is its sender's.
pub(super) fn sources(
    snapshot: &Snapshot,
    from: &Senders,
    target: &Target,
) -> Result<Vec<Source>, QuestionError> {
    let mut all = inside(snapshot);
    all.retain(|source| !target.ports.contains(&source.port));
    let edge = snapshot.internet_edge().filter(|edge| !target.ports.contains(edge));
    let outside = edge.map(|edge| outside(snapshot, edge)).unwrap_or_default();
    match from {
        Senders::Any => {
            all.extend(outside);
            Ok(all)
        }
        Senders::Internet => Ok(outside),
        Senders::Name(name) => {
            all.extend(outside);
            let is_named = |source: &Source| {
                source.name == *name || source.name.split_once('/').is_some_and(|(vm, _)| vm == name)
            };
            let named: Vec<Source> = all.into_iter().filter(is_named).collect();
            if named.is_empty() { one(snapshot, name).map(|source| vec![source]) } else { Ok(named) }
        }
    }
}

/// An appliance or an address by its name.
fn one(snapshot: &Snapshot, name: &str) -> Result<Source, QuestionError> {
    let end = Endpoint::resolve(snapshot, name)?;
    let port = end.port.ok_or_else(|| QuestionError::NoNic(name.to_owned()))?;
    let addresses = end.addresses.into_iter().map(IpNet::from).collect();
    Ok(Source { name: end.name, port, addresses, outside: Some(port) == snapshot.internet_edge() })
}

/// Machines and hosts, and sites whose device is the user's.
fn inside(snapshot: &Snapshot) -> Vec<Source> {
    let several = |vm: &str| {
        let own = |kind: &PortKind| matches!(kind, PortKind::Nic { vm: other, .. } if **other == *vm);
        snapshot.ports().filter(|port| own(&port.kind)).count() > 1
    };
    let mut all: Vec<Source> = Vec::new();
    for port in snapshot.ports() {
        let name = match &port.kind {
            PortKind::Nic { vm, .. } if several(vm) => port.name.to_string(),
            PortKind::Nic { vm, .. } => vm.to_string(),
            PortKind::SiteHost { host, .. } => host.to_string(),
            _ => continue,
        };
        let addresses = port.addresses.iter().map(|net| IpNet::from(net.addr())).collect();
        all.push(Source { name, port: port.id, addresses, outside: false });
    }
    for tunnel in snapshot.tunnels().filter(|tunnel| tunnel.status.carries()) {
        let TunnelPeer::External(site) = &tunnel.peer else { continue };
        if !all.iter().any(|known| *known.name == **site) {
            let addresses = tunnel.allowed_ips.clone();
            all.push(Source { name: site.to_string(), port: tunnel.ingress, addresses, outside: false });
        }
    }
    all
}

/// Simulated hosts of the Internet, and every public address that is neither theirs nor the lab's.
pub(crate) fn outside(snapshot: &Snapshot, edge: PortId) -> Vec<Source> {
    let mut all: Vec<Source> = Vec::new();
    let mut taken: Vec<IpNet> = Vec::new();
    for name in snapshot.internet_hosts() {
        let Ok(end) = Endpoint::resolve(snapshot, name) else { continue };
        let addresses: Vec<IpNet> = end.addresses.into_iter().map(IpNet::from).collect();
        taken.extend(addresses.iter().copied());
        all.push(Source { name: name.to_owned(), port: edge, addresses, outside: true });
    }
    let parsed =
        |texts: &[&str]| -> Vec<IpNet> { texts.iter().filter_map(|text| text.parse().ok()).collect() };
    taken.extend(parsed(&NOT_PUBLIC));
    taken.extend(snapshot.edge_prefixes().iter().copied());
    taken.extend(snapshot.ranges());
    let tunnels = snapshot.tunnels().flat_map(|tunnel| [tunnel.local, tunnel.remote]);
    taken.extend(tunnels.map(|ip: IpAddr| IpNet::from(ip)));
    let addresses = subtract(&parsed(&EVERYTHING), &taken);
    all.push(Source { name: INTERNET.to_owned(), port: edge, addresses, outside: true });
    all
}
