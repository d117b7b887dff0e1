//! What stateful functions remember of the flows that they let pass or translate.

use std::net::IpAddr;

use super::nsg::Direction;

/// Addresses and ports of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple {
    /// Source address.
    pub source: IpAddr,
    /// Source port, or an echo's identifier; zero without either.
    pub source_port: u16,
    /// Destination address.
    pub destination: IpAddr,
    /// Destination port; zero without ports.
    pub destination_port: u16,
}

impl Tuple {
    /// The other direction's.
    pub fn reversed(self) -> Tuple {
        Tuple {
            source: self.destination,
            source_port: self.destination_port,
            destination: self.source,
            destination_port: self.source_port,
        }
    }
}

/// Who remembers flows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Function {
    /// The groups at a NIC, of flows that began in this direction.
    Nsg(String, usize, Direction),
    /// A firewall.
    Firewall(String),
    /// A NIC's public address or service endpoint.
    Edge(String, usize),
    /// A network's translation by ports: a NAT gateway's, or default outbound access.
    Ports(String, String),
}

/// One flow as a function remembers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Whose it is.
    pub function: Function,
    /// The flow's first packet as it came to the function.
    pub first: Tuple,
    /// Its answers as they come to the function.
    pub reply: Tuple,
}

impl Session {
    /// Whether the function gave the flow another address or port.
    pub fn translates(&self) -> bool {
        self.reply != self.first.reversed()
    }
}

/// Of which direction of a session a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The first packet's.
    First,
    /// The answers'.
    Reply,
}

/// The session of a function that a packet with this tuple belongs to.
pub fn find<'s>(
    mut sessions: impl Iterator<Item = &'s Session>,
    function: &Function,
    tuple: Tuple,
) -> Option<(Side, Session)> {
    sessions.find_map(|session| match session {
        session if session.function != *function => None,
        session if session.first == tuple => Some((Side::First, session.clone())),
        session if session.reply == tuple => Some((Side::Reply, session.clone())),
        _ => None,
    })
}
