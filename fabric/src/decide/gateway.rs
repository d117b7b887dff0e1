//! Gateways, tunnels and the sites behind them.

use std::net::IpAddr;

use vnet_dataplane::{Action, FiveTuple, PortId, Reason};

use super::{Next, Sender, Walk};
use crate::azure_rule::AzureRule;
use crate::compile::TUNNEL_MTU;
use crate::decision::{SessionView, Verdict};
use crate::snapshot::TunnelStatus;
use crate::snapshot::network::{GatewayPath, Tunnel, TunnelEnd};
use crate::trace::{Hop, RuleId, StepKind, Trace};

/// Largest TCP segment over a tunnel, IPv4 and IPv6.
const CLAMP: Action = Action::ClampMss { ipv4: 1360, ipv6: 1340 };

impl<'a, S: SessionView, T: Trace> Walk<'a, S, T> {
    /// A packet of the network that a gateway is to forward: to a tunnel, or back into the network or a peer.
    pub(super) fn gateway(&mut self, index: usize, by_user_route: bool) -> Next {
        let gateway = &self.snapshot.gateways[index];
        if let Some(end) = self.hop(&gateway.name) {
            return end;
        }
        self.travel(gateway.location);
        let rule =
            if self.snapshot.gateway_hop_visible { AzureRule::VpnHop } else { AzureRule::NextHopGateway };
        let rule = self.snapshot.check(rule);
        self.trace.pass(Hop::Gateway(index));
        self.act(Action::Count(gateway.taken));
        self.note(StepKind::Gateway, Some(rule), &gateway.name, || {
            let how = if by_user_route { "a user's route" } else { "the network's routes" };
            format!("{} takes it by {how}", gateway.name)
        });
        self.gateway_hop(gateway.instances.first().map(|instance| instance.address));
        Next::Route { subnet: gateway.subnet, sender: Sender::Gateway(index) }
    }

    fn gateway_hop(&mut self, answer_from: Option<IpAddr>) {
        if self.snapshot.gateway_hop_visible {
            self.act(Action::DecrementTtl { answer_from });
        }
    }

    /// By the gateway's own prefix table.
    pub(super) fn take_tunnel(&mut self, gateway: usize) -> Next {
        let snapshot = self.snapshot;
        let gateway = &snapshot.gateways[gateway];
        let destination = self.tuple.destination;
        match gateway.table.longest(destination) {
            Some((_, path)) => self.seal(path, &gateway.name, Some(gateway.egress)),
            None => {
                let rule = snapshot.check(AzureRule::VpnTable);
                self.drop(Reason::NoRoute, rule, &gateway.name, || {
                    format!("no connection of {} leads to {destination}", gateway.name)
                })
            }
        }
    }

    fn seal(
        &mut self,
        path: &'a GatewayPath,
        at: &'a str,
        aggregate: Option<vnet_dataplane::LimiterId>,
    ) -> Next {
        let Some((tunnel, rule)) = self.choose(path) else {
            let rule = self.snapshot.check(AzureRule::VpnStatus);
            let first = path.tunnels.first().map(|way| &self.snapshot.tunnels[way.tunnel].spec);
            return self.drop(Reason::TunnelDown, rule, at, || match first {
                Some(spec) => match &spec.status {
                    TunnelStatus::NotConnected(why) => {
                        format!("connection {} is not connected: {why}", spec.connection)
                    }
                    status => format!("connection {} is {status:?}", spec.connection),
                },
                None => "the connection has no tunnel".to_owned(),
            });
        };
        self.act(Action::Count(tunnel.egress));
        self.act(CLAMP);
        self.act(Action::LimitMtu { mtu: TUNNEL_MTU, answer_from: self.tunnel_address(tunnel) });
        if let Some(end) = self.check_selectors(tunnel, at, (self.tuple.source, self.tuple.destination)) {
            return end;
        }
        // Behind the limit of size, so that its error quotes the packet as its sender knows it.
        let nat = &tunnel.nat;
        if let Some(end) = self.nat_destination(&nat.ingress, at).or_else(|| self.nat_source(&nat.egress, at))
        {
            return end;
        }
        for limiter in aggregate.into_iter().chain(tunnel.limiters.map(|limiters| limiters.egress)) {
            self.act(Action::Shape(limiter));
        }
        if let TunnelEnd::Gateway { gateway, .. } = tunnel.end {
            self.trace.pass(Hop::Gateway(gateway));
        }
        let spec = &tunnel.spec;
        self.note(StepKind::Tunnel, Some(rule), at, || {
            format!("sealed into tunnel {} towards {}", spec.name, spec.remote)
        });
        self.travel(tunnel.remote_location);
        Next::End(Verdict::Seal(spec.id), Some(rule))
    }

    /// One of the tunnels that carry packets: the same for all packets of a flow. One that still shakes hands is for want of a
    /// connected one.
    fn choose(&self, path: &GatewayPath) -> Option<(&'a Tunnel, RuleId)> {
        let snapshot = self.snapshot;
        let ways = || path.tunnels.iter().map(|way| (&snapshot.tunnels[way.tunnel], way.rule));
        let any_connected = ways().any(|(tunnel, _)| tunnel.spec.status == TunnelStatus::Connected);
        let up = || {
            ways().filter(move |(tunnel, _)| match tunnel.spec.status {
                TunnelStatus::Connected => true,
                TunnelStatus::Connecting => !any_connected,
                TunnelStatus::NotConnected(_) => false,
            })
        };
        let count = up().count();
        if count == 0 {
            return None;
        }
        up().nth(spread(&self.tuple) % count)
    }

    /// The private address of the gateway instance, or the device's public one: who complains of a packet that is too big.
    fn tunnel_address(&self, tunnel: &Tunnel) -> IpAddr {
        let address = match tunnel.end {
            TunnelEnd::Gateway { gateway, instance } => self.snapshot.gateways[gateway]
                .instances
                .get(instance)
                .map_or(tunnel.spec.local, |instance| instance.address),
            TunnelEnd::Site(_) => tunnel.spec.local,
        };
        match (address, self.tuple.destination) {
            // Gateways have IPv4 addresses only; without an answer IPv6 would find no path MTU. The prefix is that of
            // local translation (RFC 8215).
            (IpAddr::V4(own), IpAddr::V6(_)) => {
                let [a, b, c, d] = own.octets().map(u16::from);
                IpAddr::from([0x64, 0xff9b, 1, 0, 0, 0, a << 8 | b, c << 8 | d])
            }
            (address, _) => address,
        }
    }

    /// A packet that a tunnel's end has opened.
    pub(super) fn open(&mut self, index: usize) -> Next {
        let snapshot = self.snapshot;
        let tunnel = &snapshot.tunnels[index];
        let at = &*tunnel.spec.gateway;
        self.act(Action::Count(tunnel.ingress));
        if let Some(end) = self.check_carried(at) {
            return end;
        }
        let source = self.tuple.source;
        if tunnel.accepts.longest(source).is_none() {
            let rule =
                snapshot.check(if tunnel.spec.at_site { AzureRule::SiteRoute } else { AzureRule::VpnSource });
            return self.drop(Reason::PrefixNotAllowed, rule, at, || {
                format!("{source} is not behind connection {}, as {at} knows it", tunnel.spec.connection)
            });
        }
        if let Some(end) = self.check_selectors(tunnel, at, (self.tuple.destination, source)) {
            return end;
        }
        self.note(StepKind::Tunnel, Some(tunnel.rule), at, || {
            format!("{at} opens it from tunnel {}", tunnel.spec.name)
        });
        let nat = &tunnel.nat;
        if let Some(end) = self.nat_destination(&nat.egress, at).or_else(|| self.nat_source(&nat.ingress, at))
        {
            return end;
        }
        match tunnel.end {
            TunnelEnd::Gateway { gateway, .. } => {
                let compiled = &snapshot.gateways[gateway];
                self.trace.pass(Hop::Gateway(gateway));
                self.place = Some(compiled.location);
                for limiter in
                    tunnel.limiters.map(|limiters| limiters.ingress).into_iter().chain([compiled.ingress])
                {
                    self.act(Action::Shape(limiter));
                }
                // Behind a tunnel a gateway decrements and stays silent.
                self.gateway_hop(None);
                self.hops += 1;
                Next::Route { subnet: compiled.subnet, sender: Sender::Gateway(gateway) }
            }
            TunnelEnd::Site(site) => self.at_site(site),
        }
    }

    /// A packet of a site's host: to a neighbour, or into a tunnel.
    pub(super) fn leave_site(&mut self, index: usize, ingress: PortId) -> Next {
        let snapshot = self.snapshot;
        let site = &snapshot.sites[index];
        let name = snapshot.port(ingress).map_or("", |port| &port.name);
        let tuple = self.tuple;
        self.place = Some(site.location);
        if let Some(end) = self.check_source(ingress, false).or_else(|| self.check_carried(name)) {
            return end;
        }
        self.note(StepKind::Origin, None, name, || format!("{tuple} leaves {name}"));
        if crate::snapshot::lpm::contains(&site.ranges, tuple.destination) {
            return self.at_site(index);
        }
        let rule = snapshot.check(AzureRule::SiteRoute);
        match site.table.longest(tuple.destination) {
            Some((prefix, path)) => {
                self.note(StepKind::Site, Some(rule), &site.name, || {
                    format!("the device routes {prefix} into its tunnel")
                });
                self.seal(path, &site.name, None)
            }
            None => self.drop(Reason::NoRoute, rule, &site.name, || {
                format!(
                    "the device of {} routes {} into no tunnel: no gateway advertises it",
                    site.name, tuple.destination
                )
            }),
        }
    }

    fn at_site(&mut self, index: usize) -> Next {
        let snapshot = self.snapshot;
        let site = &snapshot.sites[index];
        let destination = self.tuple.destination;
        if let Some(port) = site.hosts.get(&destination) {
            return self.deliver(*port);
        }
        let rule = snapshot.check(AzureRule::FabricNoListener);
        self.drop(Reason::NoListener, rule, &site.name, || {
            format!("no host of {} has the address {destination}", site.name)
        })
    }

    /// What an appliance itself sends.
    pub(super) fn leave_appliance(&mut self, ingress: PortId, sender: Sender) -> Next {
        let snapshot = self.snapshot;
        let name = snapshot.port(ingress).map_or("", |port| &port.name);
        let tuple = self.tuple;
        if let Some(end) = self.check_source(ingress, false).or_else(|| self.check_carried(name)) {
            return end;
        }
        self.note(StepKind::Origin, None, name, || format!("{tuple} leaves {name}"));
        let (subnet, location) = match sender {
            Sender::Nic(nic) => (snapshot.nics[nic].subnet, snapshot.nics[nic].location),
            Sender::Firewall(firewall) => {
                (snapshot.firewalls[firewall].subnet, snapshot.firewalls[firewall].location)
            }
            Sender::Gateway(gateway) => {
                (snapshot.gateways[gateway].subnet, snapshot.gateways[gateway].location)
            }
        };
        self.place = Some(location);
        Next::Route { subnet, sender }
    }
}

/// Spreads flows over equal paths: FNV-1a over the tuple, its bits mixed once more, since of neighbouring ports its upper
/// half knows nothing.
pub(super) fn spread(tuple: &FiveTuple) -> usize {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let mut add = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    for address in [tuple.source, tuple.destination] {
        match address {
            IpAddr::V4(v4) => add(&v4.octets()),
            IpAddr::V6(v6) => add(&v6.octets()),
        }
    }
    add(&tuple.source_port.to_be_bytes());
    add(&tuple.destination_port.to_be_bytes());
    add(&[tuple.protocol.0]);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    usize::try_from(hash >> 33).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use vnet_dataplane::Protocol;

    #[test]
    fn flows_of_neighbouring_ports_are_spread_evenly() {
        let of_port = |source_port| FiveTuple {
            protocol: Protocol::TCP,
            source: IpAddr::from([10, 0, 0, 4]),
            destination: IpAddr::from([10, 1, 0, 4]),
            source_port,
            destination_port: 443,
        };
        for ways in [2, 3, 4] {
            let mut counts = vec![0; ways];
            for port in 40_000..41_200 {
                counts[spread(&of_port(port)) % ways] += 1;
            }
            let fair = 1200 / ways;
            assert!(counts.iter().all(|count| (fair * 4 / 5..fair * 6 / 5).contains(count)), "{counts:?}");
        }
    }
}
