//! What the BGP speakers of gateways must know, and the rules by which they take and tell routes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;
use vnet_dataplane::PortId;

use super::lpm::covers;

/// The BGP speaker of one instance of a gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BgpSpeaker {
    /// Name of the gateway.
    pub gateway: Arc<str>,
    /// Number of the instance, from 0.
    pub instance: u16,
    /// The port of the instance's namespace.
    pub port: PortId,
    /// The gateway's AS number.
    pub asn: u32,
    /// The instance's address, which is its BGP identifier too.
    pub address: Ipv4Addr,
    /// The next hop of IPv6 routes, where the instance has an address of that family.
    pub address_v6: Option<Ipv6Addr>,
    /// What it tells of its own.
    pub originated: Vec<BgpPrefix>,
    /// Ranges of its own side: they and what is inside them are not learned, and what overlaps them is not passed on.
    pub own_side: Vec<IpNet>,
    /// With whom it speaks, each address once.
    pub peers: Vec<BgpPeer>,
}

/// A prefix that a speaker tells of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BgpPrefix {
    /// The prefix.
    pub prefix: IpNet,
    /// The connection whose local network gateway has it: its other side is not told.
    pub connection: Option<Arc<str>>,
}

/// One whom a speaker speaks with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BgpPeer {
    /// Its address.
    pub address: IpAddr,
    /// Its AS number.
    pub asn: u32,
    /// The speaker's address on the session.
    pub local: IpAddr,
    /// Waits for the peer to connect: between two speakers of the lab the one with the higher address does. A device is always
    /// connected to.
    pub passive: bool,
    /// The tunnel to it; none for the gateway's other instance.
    pub way: Option<BgpWay>,
}

/// The tunnel that a session runs through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BgpWay {
    /// Name of the connection.
    pub connection: Arc<str>,
    /// Name of the tunnel end.
    pub tunnel: Arc<str>,
    /// Whether it carries packets.
    pub carries: bool,
}

impl BgpSpeaker {
    /// The peer of this address.
    pub fn peer(&self, address: IpAddr) -> Option<&BgpPeer> {
        self.peers.iter().find(|peer| peer.address == address)
    }

    /// Whether a route to `prefix` is taken: not to ranges of the own side, nor inside them.
    pub fn takes(&self, prefix: &IpNet) -> bool {
        !self.own_side.iter().any(|range| covers(range, prefix))
    }

    /// Whether `peer` is told of `prefix`, which the gateway originates. The other instance knows it itself.
    pub fn tells_own(&self, peer: &BgpPeer, prefix: &IpNet) -> bool {
        let Some(way) = &peer.way else { return false };
        let mut all = self.originated.iter().filter(|own| own.prefix == *prefix);
        all.any(|own| own.connection.as_ref() != Some(&way.connection))
    }

    /// Whether `peer` is told of `prefix`, which another peer has told: the other instance of all, others neither of the default
    /// route nor of what overlaps the own side.
    pub fn passes_on(&self, peer: &BgpPeer, prefix: &IpNet) -> bool {
        let overlaps = |range: &IpNet| covers(range, prefix) || covers(prefix, range);
        peer.way.is_none() || prefix.prefix_len() != 0 && !self.own_side.iter().any(overlaps)
    }
}
