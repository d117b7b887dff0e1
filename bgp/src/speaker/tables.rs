//! What a user sees of a speaker: the tables of `az network vnet-gateway list-bgp-peer-status`, `list-learned-routes`
//! and `list-advertised-routes`.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use vnet_dataplane::Nanos;

use super::Speaker;
use crate::session::SessionState;
use crate::types::{Attributes, Origin};

/// Weight of the speaker's own and its learned routes, as Azure prints it.
const WEIGHT: u32 = 32_768;

/// State of a peer in Azure's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PeerState {
    /// The session stands.
    Connected,
    /// It is being set up, or waits to be.
    Connecting,
    /// It was stopped or never started.
    Idle,
}

/// One row of `list-bgp-peer-status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerStatus {
    /// The speaker's address on the session.
    pub local_address: IpAddr,
    /// The peer's address.
    pub neighbor: IpAddr,
    /// The peer's AS number.
    pub asn: u32,
    /// Azure's word for the state.
    pub state: PeerState,
    /// The state of RFC 4271.
    pub session_state: SessionState,
    /// How long the session has stood; zero if it does not.
    pub connected_duration: Duration,
    /// Prefixes that the peer has announced.
    pub routes_received: usize,
    /// Messages sent.
    pub messages_sent: u64,
    /// Messages received.
    pub messages_received: u64,
    /// Broken attributes in UPDATEs that did not end the session (RFC 7606).
    pub attribute_faults: u64,
    /// Why the last session or attempt ended.
    pub last_error: Option<String>,
}

/// One row of `list-learned-routes` or `list-advertised-routes`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteRow {
    /// AS numbers with `-` between them; empty for the speaker's own.
    pub as_path: String,
    /// The speaker's address.
    pub local_address: IpAddr,
    /// The prefix.
    pub network: IpNet,
    /// None for the speaker's own routes.
    pub next_hop: Option<IpAddr>,
    /// `Network`, `EBgp` or `IBgp` for learned routes, ORIGIN for advertised ones.
    pub origin: String,
    /// The peer that it came from, the speaker's address for its own; none for advertised routes.
    pub source_peer: Option<IpAddr>,
    /// 32768 for learned routes, 0 for advertised ones.
    pub weight: u32,
}

impl Speaker {
    /// All peers by address.
    pub fn peer_status(&self, now: Nanos) -> Vec<PeerStatus> {
        let status = |peer: &super::peer::Peer| {
            let session_state = peer.session.state();
            let (messages_sent, messages_received) = peer.session.messages();
            let connected = session_state == SessionState::Established;
            PeerStatus {
                local_address: peer.config.local_address,
                neighbor: peer.config.address,
                asn: peer.config.asn,
                state: match session_state {
                    SessionState::Established => PeerState::Connected,
                    SessionState::Idle => PeerState::Idle,
                    _ => PeerState::Connecting,
                },
                session_state,
                connected_duration: if connected { now.since(peer.session.since()) } else { Duration::ZERO },
                routes_received: peer.inbound.len(),
                messages_sent,
                messages_received,
                attribute_faults: peer.faults,
                last_error: peer.session.last_error().map(ToString::to_string),
            }
        };
        self.peers.values().map(status).collect()
    }

    /// All chosen paths, the speaker's own with `local_address`.
    pub fn learned_routes(&self, local_address: IpAddr) -> Vec<RouteRow> {
        let row =
            |network: &IpNet, path: &crate::rib::Path| match path.peer.and_then(|peer| self.peers.get(&peer))
            {
                Some(peer) => RouteRow {
                    as_path: path.attributes.as_path.to_string(),
                    local_address: peer.config.local_address,
                    network: *network,
                    next_hop: Some(path.attributes.next_hop),
                    origin: if path.internal { "IBgp" } else { "EBgp" }.to_owned(),
                    source_peer: path.peer,
                    weight: WEIGHT,
                },
                None => RouteRow {
                    as_path: String::new(),
                    local_address,
                    network: *network,
                    next_hop: None,
                    origin: "Network".to_owned(),
                    source_peer: Some(local_address),
                    weight: WEIGHT,
                },
            };
        self.routes().flat_map(|(network, paths)| paths.iter().map(move |path| row(network, path))).collect()
    }

    /// What a peer has been told.
    pub fn advertised_routes(&self, address: IpAddr) -> Vec<RouteRow> {
        let Some(peer) = self.peers.get(&address) else { return Vec::new() };
        let row = |(network, attributes): (&IpNet, &std::sync::Arc<Attributes>)| RouteRow {
            as_path: attributes.as_path.to_string(),
            local_address: peer.config.local_address,
            network: *network,
            next_hop: Some(attributes.next_hop),
            origin: match attributes.origin {
                Origin::Igp => "Igp",
                Origin::Egp => "Egp",
                Origin::Incomplete => "Incomplete",
            }
            .to_owned(),
            source_peer: None,
            weight: 0,
        };
        peer.outbound.iter().map(row).collect()
    }

    /// What a peer has announced, accepted or not.
    pub fn received(&self, address: IpAddr) -> Vec<(IpNet, Attributes)> {
        let Some(peer) = self.peers.get(&address) else { return Vec::new() };
        peer.inbound.iter().map(|(prefix, attributes)| (*prefix, (**attributes).clone())).collect()
    }
}
