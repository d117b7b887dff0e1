//! What the BGP speakers of a gateway know, in the words of Azure's `GatewayRoute` and `BgpPeerStatus`.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The state of a session, in Azure's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum BgpPeerState {
    /// Routes are exchanged.
    Connected,
    /// It is being set up, or is tried again soon.
    Connecting,
    /// Nothing is tried: the tunnel to the peer is down.
    Idle,
}

/// A peer of a gateway, and how the session with it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BgpPeerStatus {
    /// The peer's AS number.
    pub asn: u32,
    /// How long the session has stood, as `00:12:34.5670000`, with days before it as `1.` where there are any.
    pub connected_duration: String,
    /// The address of the gateway's instance.
    pub local_address: IpAddr,
    /// Messages from the peer.
    pub messages_received: u64,
    /// Messages to the peer.
    pub messages_sent: u64,
    /// The peer's address.
    pub neighbor: IpAddr,
    /// Prefixes that the peer has announced.
    pub routes_received: u64,
    /// How the session stands.
    pub state: BgpPeerState,
    /// Why the last session or attempt ended. Azure does not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

/// All peers of a gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BgpPeerReport {
    /// By instance and address.
    pub value: Vec<BgpPeerStatus>,
}

/// A route that a gateway has learned or advertised.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GatewayRoute {
    /// AS numbers on the way, the nearest first, with `-` between them.
    pub as_path: String,
    /// The address of the gateway's instance.
    pub local_address: IpAddr,
    /// The prefix.
    pub network: String,
    /// Where packets go; none for the gateway's own.
    pub next_hop: Option<IpAddr>,
    /// `Network`, `EBgp` or `IBgp` for learned routes; `Igp`, `Egp` or `Incomplete` for advertised ones.
    pub origin: String,
    /// Who told it, or, of an advertised route, whom it was told.
    pub source_peer: Option<IpAddr>,
    /// 32768 for learned routes, 0 for advertised ones.
    pub weight: u32,
}

/// Routes of a gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GatewayRouteReport {
    /// By instance, peer and prefix.
    pub value: Vec<GatewayRoute>,
}
