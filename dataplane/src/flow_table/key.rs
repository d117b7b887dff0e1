//! What a flow is found by.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::hash::{TupleHash, kind_of};
use crate::port::PortId;
use crate::tuple::{FiveTuple, Protocol};

/// The part of a key that lies in an entry's first cache line: all of an IPv4 flow's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub(super) struct Near {
    /// The last 32 bits of each address.
    source: u32,
    destination: u32,
    ports: u32,
    ingress: u32,
    /// Protocol, and family in bit 8.
    kind: u32,
}

/// The first 96 bits of both addresses; zero for IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub(super) struct Far([u32; 6]);

/// What a flow is found by: the port at which its packets enter, and their tuple there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey {
    pub(super) near: Near,
    pub(super) far: Far,
}

const V6: u32 = 0x100;

impl Near {
    pub(super) fn is_v4(&self) -> bool {
        self.kind & V6 == 0
    }

    pub(super) fn protocol(&self) -> Protocol {
        Protocol(self.kind as u8)
    }
}

impl FlowKey {
    /// The key of packets with this tuple that enter by `ingress`.
    pub fn new(ingress: PortId, tuple: &FiveTuple) -> FlowKey {
        let mut far = [0; 6];
        let (source, destination) = match (tuple.source, tuple.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => (source.to_bits(), destination.to_bits()),
            (source, destination) => {
                let (first, source) = split(source);
                let (second, destination) = split(destination);
                far[..3].copy_from_slice(&first);
                far[3..].copy_from_slice(&second);
                (source, destination)
            }
        };
        let near = Near {
            source,
            destination,
            ports: u32::from(tuple.source_port) << 16 | u32::from(tuple.destination_port),
            ingress: ingress.0,
            kind: kind_of(tuple),
        };
        FlowKey { near, far: Far(far) }
    }

    /// Where its packets enter.
    pub fn ingress(&self) -> PortId {
        PortId(self.near.ingress)
    }

    /// Protocol of its packets.
    pub fn protocol(&self) -> Protocol {
        self.near.protocol()
    }

    /// The tuple that its packets have when they enter.
    pub fn tuple(&self) -> FiveTuple {
        let address = |far: &[u32], near: u32| {
            if self.near.is_v4() {
                IpAddr::V4(Ipv4Addr::from_bits(near))
            } else {
                let bits = far.iter().fold(0u128, |bits, word| bits << 32 | u128::from(*word));
                IpAddr::V6(Ipv6Addr::from_bits(bits << 32 | u128::from(near)))
            }
        };
        FiveTuple {
            protocol: self.protocol(),
            source: address(&self.far.0[..3], self.near.source),
            destination: address(&self.far.0[3..], self.near.destination),
            source_port: (self.near.ports >> 16) as u16,
            destination_port: self.near.ports as u16,
        }
    }

    pub(super) fn hash(&self, hash: &TupleHash) -> u64 {
        let pair = |high: u32, low: u32| u64::from(high) << 32 | u64::from(low);
        let Near { source, destination, ports, ingress, kind } = self.near;
        if self.near.is_v4() {
            return hash.words(&[pair(source, destination), pair(ports, ingress), u64::from(kind)]);
        }
        let [a, b, c, d, e, f] = self.far.0;
        hash.words(&[
            pair(source, destination),
            pair(ports, ingress),
            pair(a, b),
            pair(c, d),
            pair(e, f),
            u64::from(kind),
        ])
    }
}

/// The first 96 bits and the last 32.
fn split(address: IpAddr) -> ([u32; 3], u32) {
    let bits = match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    };
    ([(bits >> 96) as u32, (bits >> 64) as u32, (bits >> 32) as u32], bits as u32)
}
