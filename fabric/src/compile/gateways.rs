//! Gateways, the tunnels of their connections, and which network uses which gateway.

use std::collections::HashSet;
use std::net::IpAddr;

use ipnet::IpNet;
use vnet_config::model::{Connection, ConnectionType, GatewayType};
use vnet_config::sku::TunnelAlgorithms;

use super::bgp::is_spoken;
use super::routes::default_route;
use super::tunnels::{PlannedEnd, PlannedPeer, PlannedSide, Proposal, plan};
use super::{Builder, TUNNEL_MTU};
use crate::azure_rule::AzureRule;
use crate::control::{Outage, PeeringState};
use crate::snapshot::lpm::{Lpm, covers};
use crate::snapshot::nat::{self, NatRule, TunnelNat};
use crate::snapshot::network::{
    EffectiveGateway, Gateway, GatewayInstance, GatewayPath, Location, Owner, PathTunnel, SelectorPair,
    Selectors, Tunnel, TunnelEnd, TunnelLimiters,
};
use crate::snapshot::{
    ApplianceKind, CounterKind, PortKind, SharedKey, TunnelDirection, TunnelPeer, TunnelSpec, TunnelStatus,
};

/// Seconds of silence after which a peer counts as dead, where the connection does not say.
pub(super) const DEAD_PEER_S: u16 = 45;

/// What an end of a tunnel knows of prefixes.
struct TunnelPrefixes {
    /// Behind the other end, as this side calls them.
    behind: Vec<IpNet>,
    /// Where packets out of the tunnel may come from.
    sources: Vec<IpNet>,
    /// What the other end reaches through this one.
    announced: Vec<IpNet>,
}

/// What is behind a connection, as Azure's side calls it and as it is called inside the tunnel.
struct KnownPrefixes {
    in_azure: Vec<IpNet>,
    on_the_wire: Vec<IpNet>,
}

/// A device of a site has Azure's default whatever the gateway's side says.
fn dead_peer_s(planned: &PlannedEnd<'_>, connection: &Connection) -> u16 {
    let given = match planned.end {
        PlannedSide::Gateway { .. } => connection.dpd_timeout_seconds,
        PlannedSide::Site(_) => None,
    };
    given.and_then(|seconds| u16::try_from(seconds).ok()).unwrap_or(DEAD_PEER_S)
}

impl<'a> Builder<'a> {
    pub(super) fn gateways(&mut self) {
        let topology = self.topology;
        for (name, gateway) in &topology.virtual_network_gateways {
            if gateway.gateway_type != GatewayType::Vpn {
                continue;
            }
            let Some((network, subnet)) = self.find_subnet(&gateway.virtual_network, "GatewaySubnet") else {
                continue;
            };
            let index = self.snapshot.gateways.len();
            let count = if gateway.active_active { 2 } else { 1 };
            let instances = (0..count)
                .filter_map(|instance| self.gateway_instance(name, network, index, instance))
                .collect();
            let rate = gateway.aggregate_mbps();
            let gateway = Gateway {
                name: name.as_str().into(),
                network,
                subnet,
                instances,
                table: Lpm::default(),
                taken: self.add_counter(
                    &format!("gateway/{name}"),
                    CounterKind::Gateway { gateway: name.as_str().into() },
                ),
                egress: self.add_limiter(format!("gateway/{name}/egress"), Some(name), rate),
                ingress: self.add_limiter(format!("gateway/{name}/ingress"), Some(name), rate),
                location: self.network_location(network, None),
                public: super::tunnels::carrying(gateway).to_vec(),
                client_pools: gateway
                    .vpn_client_configuration
                    .as_ref()
                    .map(|clients| clients.vpn_client_address_pool.clone())
                    .unwrap_or_default(),
            };
            self.gateways.insert(name.clone(), index);
            self.snapshot.gateways.push(gateway);
        }
    }

    fn gateway_instance(
        &mut self,
        name: &str,
        network: usize,
        gateway: usize,
        instance: usize,
    ) -> Option<GatewayInstance> {
        let port_name = format!("{name}/{instance}");
        let addresses: Vec<IpAddr> = self.state.addresses.of(&port_name).to_vec();
        let address = *addresses.iter().find(|address| address.is_ipv4()).or(addresses.first())?;
        let nets =
            addresses.iter().map(|address| self.with_prefix("GatewaySubnet", network, *address)).collect();
        let number = u16::try_from(instance).unwrap_or(u16::MAX);
        let kind = PortKind::Appliance { kind: ApplianceKind::Gateway, name: name.into(), instance: number };
        let port = self
            .add_port(&port_name, kind, Owner::Gateway { gateway, instance }, |port| port.addresses = nets);
        for address in &addresses {
            self.snapshot.networks[network].owners.insert(*address, port);
        }
        Some(GatewayInstance { port, address })
    }

    pub(super) fn tunnels(&mut self) {
        let planned = plan(self.topology);
        let ends: Vec<Option<(TunnelEnd, usize)>> = planned.iter().map(|end| self.tunnel(end)).collect();
        // A route that was configured stands before one to the same prefix that was learned.
        let configured: Vec<HashSet<IpNet>> = (self.snapshot.gateways.iter())
            .map(|gateway| gateway.table.iter().map(|(prefix, _)| prefix).collect())
            .collect();
        for (end, (side, tunnel)) in planned.iter().zip(ends).filter_map(|(end, made)| Some((end, made?))) {
            let TunnelEnd::Gateway { gateway, .. } = side else { continue };
            let mut learned = self.learned_prefixes(end);
            learned.retain(|prefix| !configured[gateway].contains(prefix));
            self.add_paths(side, tunnel, &learned, end.connection);
        }
    }

    fn tunnel(&mut self, planned: &PlannedEnd<'_>) -> Option<(TunnelEnd, usize)> {
        let end = self.tunnel_end(planned)?;
        let connection = self.topology.connections.get(planned.connection)?;
        let index = self.snapshot.tunnels.len();
        let (owner, at_site) = match planned.end {
            PlannedSide::Gateway { gateway, .. } => (gateway, false),
            PlannedSide::Site(site) => (site, true),
        };
        let id = self.ids.tunnel(&planned.name);
        let port_name = format!("tunnel/{}", planned.name);
        let ingress = self
            .add_port(&port_name, PortKind::Tunnel(id), Owner::Tunnel(index), |port| port.mtu = TUNNEL_MTU);
        if self.snapshot.tunnel_by_id.len() <= id.index() {
            self.snapshot.tunnel_by_id.resize(id.index() + 1, None);
        }
        self.snapshot.tunnel_by_id[id.index()] = Some(index);
        let nat = self.tunnel_nat(planned, connection);
        let TunnelPrefixes { behind, sources, announced } = self.tunnel_prefixes(planned, connection, &nat);
        let mut accepts = Lpm::default();
        let anything = [default_route(true), default_route(false)];
        let speaks = !at_site && is_spoken(self.topology, connection);
        for prefix in if speaks { anything.as_slice() } else { &sources } {
            accepts.insert(*prefix, ());
        }
        let rule = self.rule("", &format!("connection {}", planned.connection), AzureRule::VpnTable, None);
        let spec = TunnelSpec {
            id,
            name: planned.name.as_str().into(),
            ingress,
            gateway: owner.into(),
            at_site,
            connection: planned.connection.into(),
            index: planned.index,
            local: planned.local,
            remote: planned.remote,
            peer: self.tunnel_peer(&planned.peer),
            shared_key: SharedKey(planned.key.map(Into::into)),
            initiates: planned.initiates,
            allowed_ips: self.known_behind(planned, sources),
            announced: if speaks { anything.to_vec() } else { announced },
            is_held: self.is_held(planned),
            roaming: false,
            status: self.tunnel_status(planned),
            dead_peer_s: dead_peer_s(planned, connection),
        };
        let limiters = (!at_site).then(|| self.tunnel_limiters(owner, planned));
        let counter = |direction| CounterKind::Tunnel {
            gateway: owner.into(),
            connection: planned.connection.into(),
            tunnel: planned.index,
            direction,
        };
        let tunnel = Tunnel {
            spec,
            end,
            accepts,
            egress: self
                .add_counter(&format!("tunnel/{}/egress", planned.name), counter(TunnelDirection::Egress)),
            ingress: self
                .add_counter(&format!("tunnel/{}/ingress", planned.name), counter(TunnelDirection::Ingress)),
            limiters,
            selectors: self.selectors(planned),
            nat: if at_site { TunnelNat::default() } else { nat },
            remote_location: self.remote_location(planned, connection),
            rule,
        };
        self.snapshot.tunnels.push(tunnel);
        self.add_paths(end, index, &behind, planned.connection);
        Some((end, index))
    }

    /// What is configured, and what was learned through the tunnel.
    fn known_behind(&self, planned: &PlannedEnd<'_>, configured: Vec<IpNet>) -> Vec<IpNet> {
        let mut known = configured;
        known.extend(self.learned_prefixes(planned));
        known.sort();
        known.dedup();
        known
    }

    /// What was learned through the tunnel, without ranges of the gateway's own side.
    fn learned_prefixes(&self, planned: &PlannedEnd<'_>) -> Vec<IpNet> {
        let PlannedSide::Gateway { gateway, .. } = planned.end else { return Vec::new() };
        let Some(learned) = self.state.learned.get(gateway) else { return Vec::new() };
        let refused = self.own_side(gateway);
        let taken = |prefix: &IpNet| !refused.iter().any(|range| covers(range, prefix));
        let learned = learned.iter().filter(|route| route.tunnel == planned.name).map(|route| route.prefix);
        learned.filter(taken).collect()
    }

    fn tunnel_end(&self, planned: &PlannedEnd<'_>) -> Option<TunnelEnd> {
        match planned.end {
            PlannedSide::Gateway { gateway, instance } => {
                let gateway = *self.gateways.get(gateway)?;
                let instances = self.snapshot.gateways[gateway].instances.len();
                (instance < instances).then_some(TunnelEnd::Gateway { gateway, instance })
            }
            PlannedSide::Site(site) => self.sites.get(site).map(|site| TunnelEnd::Site(*site)),
        }
    }

    fn tunnel_peer(&mut self, peer: &PlannedPeer<'_>) -> TunnelPeer {
        match peer {
            PlannedPeer::Tunnel(name) => TunnelPeer::Tunnel(self.ids.tunnel(name)),
            PlannedPeer::External(site) => TunnelPeer::External((*site).into()),
            PlannedPeer::Missing => TunnelPeer::Missing,
        }
    }

    pub(super) fn tunnel_status(&self, planned: &PlannedEnd<'_>) -> TunnelStatus {
        match (self.outage(planned), &planned.problem) {
            (Some(outage), _) => TunnelStatus::NotConnected(outage.reason()),
            (None, Some(problem)) => TunnelStatus::NotConnected(problem.why.clone()),
            (None, None) => self.state.tunnels.get(&planned.name).cloned().unwrap_or_default(),
        }
    }

    fn is_held(&self, planned: &PlannedEnd<'_>) -> bool {
        self.outage(planned).is_some() || planned.problem.as_ref().is_some_and(|problem| problem.is_held)
    }

    fn outage(&self, planned: &PlannedEnd<'_>) -> Option<&'a Outage> {
        match planned.end {
            PlannedSide::Gateway { gateway, instance } => self.state.outage(gateway, instance),
            PlannedSide::Site(_) => None,
        }
    }

    fn tunnel_limiters(&mut self, gateway: &str, planned: &PlannedEnd<'_>) -> TunnelLimiters {
        let model = &self.topology.virtual_network_gateways[gateway];
        let agreed = planned.agreed.as_ref().map(|agreed| TunnelAlgorithms::of(&agreed.quick_mode));
        let rate = model.tunnel_rate(agreed.unwrap_or(TunnelAlgorithms::GcmAes256));
        let tunnel = &planned.name;
        TunnelLimiters {
            egress: self.add_limiter_of(format!("tunnel/{tunnel}/egress"), Some(gateway), rate),
            ingress: self.add_limiter_of(format!("tunnel/{tunnel}/ingress"), Some(gateway), rate),
        }
    }

    fn tunnel_prefixes(
        &self,
        planned: &PlannedEnd<'_>,
        connection: &Connection,
        nat: &TunnelNat,
    ) -> TunnelPrefixes {
        let known = self.connection_prefixes(connection, nat);
        match planned.end {
            PlannedSide::Gateway { gateway, .. } => {
                let announced = match connection.connection_type {
                    ConnectionType::Vnet2Vnet => self.own_ranges(gateway),
                    _ => self.announced_to_site(gateway, planned, nat),
                };
                TunnelPrefixes { behind: known.in_azure, sources: known.on_the_wire, announced }
            }
            PlannedSide::Site(site) => {
                let gateway = &connection.virtual_network_gateway1;
                let behind = self.announced_to_site(gateway, planned, nat);
                let ranges = self.topology.on_premises_sites.get(site).map(|site| site.address_space.clone());
                TunnelPrefixes { sources: behind.clone(), behind, announced: ranges.unwrap_or_default() }
            }
        }
    }

    /// Whether everything goes over this connection that no other route takes.
    fn is_default_site(&self, connection: &Connection) -> bool {
        let gateway = self.topology.virtual_network_gateways.get(&connection.virtual_network_gateway1);
        let site = gateway.and_then(|gateway| gateway.gateway_default_site.as_ref());
        site.is_some() && connection.local_network_gateway2.as_ref() == site
    }

    /// The pairs that the starting side proposes: its own, or its side's ranges with those behind the connection.
    fn selectors(&self, planned: &PlannedEnd<'_>) -> Option<Selectors> {
        let Proposal { connection, is_theirs } = planned.selectors?;
        let gateway = &connection.virtual_network_gateway1;
        let mut pairs: Vec<SelectorPair> = (connection.traffic_selector_policies.iter())
            .map(|policy| SelectorPair {
                local: policy.local_address_ranges.clone(),
                remote: policy.remote_address_ranges.clone(),
            })
            .collect();
        if pairs.is_empty() {
            let local = match connection.connection_type {
                ConnectionType::Vnet2Vnet => self.own_ranges(gateway),
                _ => self.own_side(gateway),
            };
            pairs.push(SelectorPair { local, remote: self.written_prefixes(connection) });
        }
        if is_theirs {
            pairs.iter_mut().for_each(|pair| std::mem::swap(&mut pair.local, &mut pair.remote));
        }
        Some(Selectors(pairs))
    }

    /// Prefixes of the local network gateway, or the other network's own ranges where no BGP tells them.
    fn written_prefixes(&self, connection: &Connection) -> Vec<IpNet> {
        match connection.connection_type {
            ConnectionType::Vnet2Vnet if is_spoken(self.topology, connection) => None,
            ConnectionType::Vnet2Vnet => {
                connection.virtual_network_gateway2.as_deref().map(|gateway| self.own_ranges(gateway))
            }
            _ => connection
                .local_network_gateway2
                .as_ref()
                .and_then(|gateway| self.topology.local_network_gateways.get(gateway))
                .map(|gateway| gateway.local_network_address_space.clone()),
        }
        .unwrap_or_default()
    }

    /// What a gateway is told by the file to be behind a connection, and the addresses of the speakers there.
    fn connection_prefixes(&self, connection: &Connection, nat: &TunnelNat) -> KnownPrefixes {
        let written = self.written_prefixes(connection);
        let mut in_azure = nat::translated(&written, &nat.ingress);
        let mut on_the_wire = written;
        on_the_wire.extend(nat.ingress.iter().flat_map(NatRule::internal));
        if self.is_default_site(connection) {
            in_azure.push(default_route(true));
            on_the_wire.push(default_route(true));
        }
        for prefixes in [&mut in_azure, &mut on_the_wire] {
            if is_spoken(self.topology, connection) {
                prefixes.extend(self.peer_addresses(connection));
            }
            prefixes.sort();
            prefixes.dedup();
        }
        KnownPrefixes { in_azure, on_the_wire }
    }

    pub(super) fn own_ranges(&self, gateway: &str) -> Vec<IpNet> {
        let network = self
            .topology
            .virtual_network_gateways
            .get(gateway)
            .map(|gateway| gateway.virtual_network.as_str());
        network
            .and_then(|network| self.topology.virtual_networks.get(network))
            .map(|network| network.address_space.clone())
            .unwrap_or_default()
    }

    /// What a built-in device routes into the tunnel: its own list, or what the gateway would advertise, its network's ranges
    /// and those of the networks that use it, as NAT rules call them.
    fn announced_to_site(&self, gateway: &str, planned: &PlannedEnd<'_>, nat: &TunnelNat) -> Vec<IpNet> {
        let device_address = match planned.end {
            PlannedSide::Site(_) => planned.local,
            PlannedSide::Gateway { .. } => planned.remote,
        };
        let devices = self.topology.on_premises_sites.values().filter_map(|site| site.vpn_device.as_ref());
        let listed = devices
            .into_iter()
            .find(|device| device.public_ip_address == device_address)
            .map(|device| &device.remote_address_space);
        if let Some(listed) = listed.filter(|listed| !listed.is_empty()) {
            return listed.clone();
        }
        nat::translated(&self.own_side(gateway), &nat.egress)
    }

    /// The ranges of a gateway's network and of those that use it.
    pub(super) fn own_side(&self, gateway: &str) -> Vec<IpNet> {
        let mut prefixes = self.own_ranges(gateway);
        let Some(network) = self.gateways.get(gateway).map(|index| self.snapshot.gateways[*index].network)
        else {
            return prefixes;
        };
        for half in self.connected(network) {
            let half = &self.snapshot.peerings[half];
            if self.transit(half.remote, network) {
                prefixes.extend(self.ranges_in_force(half));
            }
        }
        prefixes
    }

    /// Whether `user` uses the gateways of `owner`: both flags are set and the peering is connected.
    fn transit(&self, user: usize, owner: usize) -> bool {
        let (Some(half), true) = (self.halves.get(&(user, owner)), self.halves.contains_key(&(owner, user)))
        else {
            return false;
        };
        let networks = &self.topology.virtual_networks;
        let (user_name, owner_name) =
            (&*self.snapshot.networks[user].name, &*self.snapshot.networks[owner].name);
        let uses = networks[user].peerings.get(owner_name).is_some_and(|peering| peering.use_remote_gateways);
        let allows =
            networks[owner].peerings.get(user_name).is_some_and(|peering| peering.allow_gateway_transit);
        uses && allows && self.snapshot.peerings[*half].state == PeeringState::Connected
    }

    fn remote_location(&mut self, planned: &PlannedEnd<'_>, connection: &Connection) -> Location {
        let topology = self.topology;
        match (planned.end, connection.connection_type) {
            (PlannedSide::Site(_), _) => self.gateway_location(&connection.virtual_network_gateway1),
            (PlannedSide::Gateway { .. }, ConnectionType::Vnet2Vnet) => {
                self.gateway_location(connection.virtual_network_gateway2.as_deref().unwrap_or_default())
            }
            (PlannedSide::Gateway { .. }, _) => {
                let mut sites = topology.on_premises_sites.values();
                let site = sites.find(|site| {
                    site.vpn_device.as_ref().is_some_and(|device| device.public_ip_address == planned.remote)
                });
                self.location(site.and_then(|site| site.location.as_deref()), None)
            }
        }
    }

    pub(super) fn gateway_location(&self, name: &str) -> Location {
        self.gateways.get(name).map(|index| self.snapshot.gateways[*index].location).unwrap_or_default()
    }

    pub(super) fn add_paths(&mut self, end: TunnelEnd, tunnel: usize, prefixes: &[IpNet], connection: &str) {
        for prefix in prefixes {
            let rule = match end {
                TunnelEnd::Gateway { .. } => AzureRule::VpnTable,
                TunnelEnd::Site(_) => AzureRule::SiteRoute,
            };
            let rule = self.rule(connection, &format!("{prefix} behind connection {connection}"), rule, None);
            let table = match end {
                TunnelEnd::Gateway { gateway, .. } => &mut self.snapshot.gateways[gateway].table,
                TunnelEnd::Site(site) => &mut self.snapshot.sites[site].table,
            };
            let tunnel = PathTunnel { tunnel, rule };
            match table.get_mut(prefix) {
                Some(path) => path.tunnels.push(tunnel),
                None => {
                    table.insert(*prefix, GatewayPath { tunnels: smallvec::smallvec![tunnel] });
                }
            }
        }
    }

    /// A network's own gateways stand before those that it uses by transit, an ExpressRoute gateway before a VPN gateway.
    pub(super) fn effective_gateways(&mut self) {
        let count = self.snapshot.networks.len();
        let vpn: Vec<Option<usize>> = (0..count)
            .map(|network| self.snapshot.gateways.iter().position(|gateway| gateway.network == network))
            .collect();
        let express_route: Vec<Option<&str>> =
            (0..count).map(|network| self.express_route_gateway(network)).collect();
        for network in 0..count {
            let remote = self.connected(network).into_iter().find(|peering| {
                let remote = self.snapshot.peerings[*peering].remote;
                (vpn[remote].is_some() || express_route[remote].is_some()) && self.transit(network, remote)
            });
            let own = vpn[network].is_some() || express_route[network].is_some();
            let (gateway, before) = match remote {
                _ if own => {
                    let gateway = vpn[network].map_or(EffectiveGateway::None, EffectiveGateway::Own);
                    (gateway, express_route[network])
                }
                Some(peering) => {
                    let remote = self.snapshot.peerings[peering].remote;
                    let gateway = vpn[remote].map_or(EffectiveGateway::None, |gateway| {
                        EffectiveGateway::Remote { gateway, peering }
                    });
                    (gateway, express_route[remote])
                }
                None => (EffectiveGateway::None, None),
            };
            self.snapshot.networks[network].gateway = gateway;
            self.snapshot.networks[network].express_route = before.map(Into::into);
        }
    }

    fn express_route_gateway(&self, network: usize) -> Option<&'a str> {
        let topology = self.topology;
        let name = &*self.snapshot.networks[network].name;
        let mut all = topology.virtual_network_gateways.iter();
        all.find(|(_, gateway)| {
            gateway.gateway_type == GatewayType::ExpressRoute && gateway.virtual_network == name
        })
        .map(|(name, _)| name.as_str())
    }
}
