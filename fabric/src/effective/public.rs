//! The way from the Internet to a NIC that no security group guards.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::snapshot::Snapshot;
use crate::snapshot::egress::{self, EdgeAddress};
use crate::snapshot::network::{Nic, is_platform};
use crate::snapshot::routes::NextHop;

/// What a private address of a NIC without groups takes from the Internet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PublicWay {
    /// Everything: its public address is a Basic one.
    Open,
    /// Nothing: its public address is a Standard one.
    NeedsGroup,
    /// Nothing can come: no public address stands for it.
    None,
}

impl PublicWay {
    pub(super) fn to(snapshot: &Snapshot, nic: &Nic, private: IpAddr) -> PublicWay {
        let Some((_, public)) = nic.public.iter().find(|(own, _)| *own == private) else {
            return PublicWay::None;
        };
        match snapshot.edge_owners.get(public) {
            Some(EdgeAddress::Nic { open: true, .. }) => PublicWay::Open,
            Some(_) => PublicWay::NeedsGroup,
            None => PublicWay::None,
        }
    }

    /// [`PublicWay::None`] in words.
    pub(super) fn no_address(snapshot: &Snapshot, nic: &Nic) -> String {
        let name = snapshot.port(nic.port).map_or("", |port| &port.name);
        format!("no public address leads to {name}: nothing on the Internet can begin a flow to it")
    }
}

/// Whether what comes from this address comes from the Internet: a public address that neither the NIC's network nor its
/// peers or gateway hold. A default route by the gateway makes no address private.
pub(super) fn is_public(snapshot: &Snapshot, nic: &Nic, remote: IpAddr) -> bool {
    let global = match remote {
        IpAddr::V4(_) => egress::is_public(remote),
        IpAddr::V6(address) => address.segments()[0] & 0xe000 == 0x2000,
    };
    let routes = &snapshot.subnets[nic.subnet].routes;
    let leads_there = |prefix: IpNet, hop: &NextHop| prefix.prefix_len() > 0 && *hop != NextHop::Internet;
    let mut layers =
        [Some(&routes.own), Some(&routes.peerings), routes.gateway.as_ref()].into_iter().flatten();
    let inside = layers.any(|layer| {
        layer.longest(remote).is_some_and(|(prefix, route)| leads_there(prefix, &route.next_hop))
    });
    global && !is_platform(remote) && !inside
}
