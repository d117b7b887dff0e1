//! Clients of point-to-site VPN: each is a host of its own with a tunnel to its gateway.

use std::net::IpAddr;

use ipnet::IpNet;
use vnet_config::model::{GatewayType, Topology, VirtualNetworkGateway, VpnClient, VpnDeviceKind};

use super::gateways::DEAD_PEER_S;
use super::{Builder, TUNNEL_MTU};
use crate::azure_rule::AzureRule;
use crate::control::client_owner;
use crate::snapshot::lpm::Lpm;
use crate::snapshot::nat::TunnelNat;
use crate::snapshot::network::{Owner, Site, Tunnel, TunnelEnd};
use crate::snapshot::{
    CounterKind, PortKind, SharedKey, TunnelDirection, TunnelPeer, TunnelSpec, TunnelStatus,
};

/// Why a revoked client's tunnel stays down.
const REVOKED: &str = "the gateway has revoked the client";

/// A client whose gateway takes clients.
#[derive(Clone, Copy)]
pub(super) struct PlannedClient<'a> {
    pub(super) name: &'a str,
    pub(super) client: &'a VpnClient,
    pub(super) gateway: &'a VirtualNetworkGateway,
}

impl PlannedClient<'_> {
    /// The name of the gateway's end; a revoked client has none.
    pub(super) fn gateway_end(&self) -> Option<String> {
        (!self.client.revoked).then(|| format!("vpnClients/{}", self.name))
    }

    /// The name of the client's own end, where the daemon plays it.
    pub(super) fn own_end(&self) -> Option<String> {
        (self.client.kind == VpnDeviceKind::Builtin).then(|| format!("{0}/vpnClients/{0}", self.name))
    }
}

/// The clients that the file asks for, in its order.
pub(super) fn plan(topology: &Topology) -> Vec<PlannedClient<'_>> {
    let planned = topology.vpn_clients.iter().filter_map(|(name, client)| {
        let gateway = topology.virtual_network_gateways.get(&client.gateway)?;
        let takes_clients =
            gateway.gateway_type == GatewayType::Vpn && gateway.vpn_client_configuration.is_some();
        takes_clients.then_some(PlannedClient { name, client, gateway })
    });
    planned.collect()
}

/// One end of a client's tunnel.
struct End<'a> {
    name: String,
    owner: &'a str,
    end: TunnelEnd,
    at_site: bool,
    local: IpAddr,
    remote: IpAddr,
    peer: TunnelPeer,
    allowed: Vec<IpNet>,
    announced: Vec<IpNet>,
    is_revoked: bool,
}

impl<'a> Builder<'a> {
    pub(super) fn clients(&mut self) {
        let public = self.client_addresses();
        for planned in plan(self.topology) {
            if let Some(address) = public.get(planned.name) {
                self.snapshot.clients.insert(planned.name.into(), *address);
                self.snapshot.internet_addresses.insert(*address);
                self.client(planned, *address);
            }
        }
    }

    fn client(&mut self, planned: PlannedClient<'a>, remote: IpAddr) {
        let name = planned.name;
        let own: Vec<IpNet> = self
            .state
            .addresses
            .of(&client_owner(name))
            .iter()
            .map(|address| IpNet::from(*address))
            .collect();
        let gateway = self.gateways.get(&planned.client.gateway).copied();
        let (Some(gateway), Some(local)) = (gateway, planned.gateway.public_ip_addresses.first()) else {
            return;
        };
        let pushed = self.pushed(&planned.client.gateway);
        let gateway_end = planned.gateway_end();
        let own_end = planned.own_end();
        if let Some(own_end) = &own_end {
            let site = self.client_site(planned, &own);
            let peer = match &gateway_end {
                Some(end) => TunnelPeer::Tunnel(self.ids.tunnel(end)),
                None => TunnelPeer::Missing,
            };
            self.client_tunnel(
                planned,
                End {
                    name: own_end.clone(),
                    owner: name,
                    end: TunnelEnd::Site(site),
                    at_site: true,
                    local: remote,
                    remote: *local,
                    peer,
                    allowed: pushed.clone(),
                    announced: own.clone(),
                    is_revoked: planned.client.revoked,
                },
            );
        }
        let Some(gateway_end) = gateway_end else { return };
        let peer = match &own_end {
            Some(end) => TunnelPeer::Tunnel(self.ids.tunnel(end)),
            None => TunnelPeer::External(name.into()),
        };
        self.client_tunnel(
            planned,
            End {
                name: gateway_end,
                owner: &planned.client.gateway,
                end: TunnelEnd::Gateway { gateway, instance: 0 },
                at_site: false,
                local: *local,
                remote,
                peer,
                allowed: own,
                announced: pushed,
                is_revoked: false,
            },
        );
    }

    /// A site of one host, which is the client.
    fn client_site(&mut self, planned: PlannedClient<'_>, own: &[IpNet]) -> usize {
        let index = self.snapshot.sites.len();
        let name = planned.name;
        let kind = PortKind::SiteHost { site: name.into(), host: name.into() };
        let port = self.add_port(&client_owner(name), kind, Owner::SiteHost(index), |port| {
            port.addresses = own.to_vec();
            port.mtu = TUNNEL_MTU;
        });
        self.snapshot.names.site_hosts.insert(name.into(), port);
        let location = self.location(planned.client.location.as_deref(), None);
        self.snapshot.sites.push(Site {
            name: name.into(),
            ranges: own.to_vec(),
            hosts: own.iter().map(|address| (address.addr(), port)).collect(),
            table: Lpm::default(),
            location,
        });
        index
    }

    /// What a gateway tells its clients to send it: the ranges of its network and of those that use it, and what it has
    /// learned by BGP. Prefixes of local network gateways are not among it.
    fn pushed(&self, gateway: &str) -> Vec<IpNet> {
        let mut prefixes = self.own_side(gateway);
        let learned = self.state.learned.get(gateway).into_iter().flat_map(|routes| routes.iter());
        prefixes.extend(learned.map(|route| route.prefix));
        prefixes.sort();
        prefixes.dedup();
        prefixes
    }

    fn client_tunnel(&mut self, planned: PlannedClient<'_>, end: End<'_>) {
        let index = self.snapshot.tunnels.len();
        let id = self.ids.tunnel(&end.name);
        let ingress = self.add_port(
            &format!("tunnel/{}", end.name),
            PortKind::Tunnel(id),
            Owner::Tunnel(index),
            |port| port.mtu = TUNNEL_MTU,
        );
        if self.snapshot.tunnel_by_id.len() <= id.index() {
            self.snapshot.tunnel_by_id.resize(id.index() + 1, None);
        }
        self.snapshot.tunnel_by_id[id.index()] = Some(index);
        let mut accepts = Lpm::default();
        for prefix in &end.allowed {
            accepts.insert(*prefix, ());
        }
        let counter = |direction| CounterKind::Tunnel {
            gateway: end.owner.into(),
            connection: planned.name.into(),
            tunnel: 0,
            direction,
        };
        let egress =
            self.add_counter(&format!("tunnel/{}/egress", end.name), counter(TunnelDirection::Egress));
        let ingress_counter =
            self.add_counter(&format!("tunnel/{}/ingress", end.name), counter(TunnelDirection::Ingress));
        let remote_location = if end.at_site {
            self.gateway_location(&planned.client.gateway)
        } else {
            self.location(planned.client.location.as_deref(), None)
        };
        let rule = self.rule("", &format!("client {}", planned.name), AzureRule::VpnClient, None);
        let outage = (!end.at_site).then(|| self.state.outage(end.owner, 0)).flatten();
        let held = match outage {
            Some(outage) => Some(outage.reason()),
            None => end.is_revoked.then(|| REVOKED.to_owned()),
        };
        let is_held = held.is_some();
        let known = || self.state.tunnels.get(&end.name).cloned().unwrap_or_default();
        let status = held.map_or_else(known, TunnelStatus::NotConnected);
        let spec = TunnelSpec {
            id,
            name: end.name.as_str().into(),
            ingress,
            gateway: end.owner.into(),
            at_site: end.at_site,
            connection: planned.name.into(),
            index: 0,
            local: end.local,
            remote: end.remote,
            peer: end.peer,
            shared_key: SharedKey(None),
            initiates: end.at_site,
            roaming: !end.at_site,
            allowed_ips: end.allowed.clone(),
            announced: end.announced,
            status,
            is_held,
            dead_peer_s: DEAD_PEER_S,
        };
        self.snapshot.tunnels.push(Tunnel {
            spec,
            end: end.end,
            accepts,
            egress,
            ingress: ingress_counter,
            limiters: None,
            selectors: None,
            nat: TunnelNat::default(),
            remote_location,
            rule,
        });
        self.add_paths(end.end, index, &end.allowed, planned.name);
    }
}
