//! What users may ask of the BGP speakers of a lab's gateways.

use std::net::IpAddr;
use std::time::Duration;

use vnet_api::{BgpPeerReport, BgpPeerState, BgpPeerStatus, GatewayRoute, GatewayRouteReport};
use vnet_bgp::speaker::PeerState;
use vnet_bgp::{PeerStatus, RouteRow, SessionState};

use super::lab::Lab;
use crate::api::{Answer, ApiError};
use crate::bgp::SpeakerView;
use crate::metrics::BgpCounter;

/// The peers of a gateway.
pub(super) fn peers(lab: &Lab, gateway: &str) -> Answer<BgpPeerReport> {
    let views = views(lab, gateway, false)?;
    Ok(BgpPeerReport { value: views.iter().flat_map(|view| view.peers.iter().map(peer)).collect() })
}

/// What a gateway knows, its own among it.
pub(super) fn learned(lab: &Lab, gateway: &str) -> Answer<GatewayRouteReport> {
    let views = views(lab, gateway, true)?;
    let rows = views.into_iter().flat_map(|view| view.learned).map(|row| route(row, None));
    Ok(GatewayRouteReport { value: rows.collect() })
}

/// What a gateway has told its peers, or one of them.
pub(super) fn advertised(lab: &Lab, gateway: &str, peer: Option<IpAddr>) -> Answer<GatewayRouteReport> {
    let views = views(lab, gateway, true)?;
    let known: Vec<IpAddr> =
        views.iter().flat_map(|view| view.peers.iter().map(|peer| peer.neighbor)).collect();
    if let Some(peer) = peer.filter(|peer| !known.contains(peer)) {
        let known: Vec<String> = known.iter().map(ToString::to_string).collect();
        return Err(ApiError::not_among("BGP peer", &peer.to_string(), known.iter()));
    }
    let all = views.into_iter().flat_map(|view| view.advertised);
    let wanted = all.filter(|(to, _)| peer.is_none_or(|peer| peer == *to));
    let rows = wanted.flat_map(|(to, rows)| rows.into_iter().map(move |row| route(row, Some(to))));
    Ok(GatewayRouteReport { value: rows.collect() })
}

/// Sessions and messages of all speakers.
pub(super) fn counters(lab: &Lab) -> Vec<BgpCounter> {
    if lab.snapshot().bgp_speakers().next().is_none() {
        return Vec::new();
    }
    let of = |view: SpeakerView| {
        let gateway = view.gateway;
        view.peers.into_iter().map(move |peer| BgpCounter {
            gateway: gateway.clone(),
            local: peer.local_address.to_string(),
            neighbor: peer.neighbor.to_string(),
            up: peer.session_state == SessionState::Established,
            routes_received: peer.routes_received as u64,
            messages_sent: peer.messages_sent,
            messages_received: peer.messages_received,
        })
    };
    lab.bgp.view(&lab.name, false).into_iter().flat_map(of).collect()
}

fn views(lab: &Lab, gateway: &str, routes: bool) -> Answer<Vec<SpeakerView>> {
    let view = lab.view();
    let gateways = &view.topology.virtual_network_gateways;
    let Some(found) = gateways.get(gateway) else {
        return Err(ApiError::not_among("virtual network gateway", gateway, gateways.keys()));
    };
    if !found.enable_bgp {
        return Err(ApiError::conflict(format!(
            "The gateway '{gateway}' does not speak BGP: set enableBgp: true."
        )));
    }
    let mut views = lab.bgp.view(&lab.name, routes);
    views.retain(|view| view.gateway == gateway);
    Ok(views)
}

fn peer(status: &PeerStatus) -> BgpPeerStatus {
    BgpPeerStatus {
        asn: status.asn,
        connected_duration: duration(status.connected_duration),
        local_address: status.local_address,
        messages_received: status.messages_received,
        messages_sent: status.messages_sent,
        neighbor: status.neighbor,
        routes_received: status.routes_received as u64,
        state: match status.state {
            PeerState::Connected => BgpPeerState::Connected,
            PeerState::Connecting => BgpPeerState::Connecting,
            PeerState::Idle => BgpPeerState::Idle,
        },
        last_error: status.last_error.clone().filter(|_| status.state != PeerState::Connected),
    }
}

fn route(row: RouteRow, told: Option<IpAddr>) -> GatewayRoute {
    GatewayRoute {
        as_path: row.as_path,
        local_address: row.local_address,
        network: row.network.to_string(),
        next_hop: row.next_hop,
        origin: row.origin,
        source_peer: told.or(row.source_peer),
        weight: row.weight,
    }
}

/// A time span as .NET writes it.
fn duration(span: Duration) -> String {
    let seconds = span.as_secs();
    let (days, hours) = (seconds / 86_400, seconds / 3_600 % 24);
    let days = if days > 0 { format!("{days}.") } else { String::new() };
    let ticks = span.subsec_nanos() / 100;
    format!("{days}{hours:02}:{:02}:{:02}.{ticks:07}", seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_written_as_azure_writes_it() {
        assert_eq!(duration(Duration::from_millis(754_567)), "00:12:34.5670000");
        assert_eq!(duration(Duration::from_secs(86_400 + 3_661)), "1.01:01:01.0000000");
    }
}
