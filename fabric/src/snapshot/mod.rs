//! The immutable compiled form of a topology and its state. A worker looks at one snapshot per batch.

pub mod bgp;
pub(crate) mod egress;
pub mod lpm;
pub(crate) mod nat;
pub(crate) mod network;
pub mod ports;
pub mod routes;
pub mod rules;
pub(crate) mod tags;

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use vnet_config::model::PeeringFlags;
use vnet_dataplane::{CounterId, DelayId, FunctionId, LimiterId, PortId, TunnelId};

pub use bgp::{BgpPeer, BgpPrefix, BgpSpeaker, BgpWay};
pub use ports::{
    ApplianceKind, CounterKind, CounterSpec, DelaySpec, FunctionInfo, FunctionKind, HitKind, LimiterSpec,
    PortInfo, PortKind, SharedKey, TunnelDirection, TunnelPeer, TunnelSpec, TunnelStatus,
};

use crate::azure_rule::AzureRule;
use crate::trace::{Hop, RuleId, RuleRef};
use egress::{EdgeAddress, NatGateway};
use network::{Firewall, Gateway, Location, Network, Nic, Owner, PeeringHalf, Site, Subnet, Tunnel};

/// Azure's platform address: DNS, DHCP, health probes.
pub const PLATFORM_ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(168, 63, 129, 16));
/// The metadata service's address.
pub const METADATA_ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(169, 254, 169, 254));

/// What is behind a rule handle.
#[derive(Clone, Debug)]
pub struct RuleInfo {
    /// The rule in the user's words, with the Azure rule that it rests on.
    pub reference: RuleRef,
    /// The labels of its hit counter, for rules of security groups and firewalls.
    pub hits: Option<HitKind>,
}

/// Everything that decisions are made from, and that the daemon builds namespaces from.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    pub(crate) epoch: u64,
    pub(crate) lab: Arc<str>,
    pub(crate) ports: Vec<Option<PortInfo>>,
    pub(crate) owners: Vec<Option<Owner>>,
    pub(crate) tunnel_by_id: Vec<Option<usize>>,
    pub(crate) limiters: Vec<LimiterSpec>,
    pub(crate) delays: Vec<DelaySpec>,
    pub(crate) counters: Vec<CounterSpec>,
    pub(crate) functions: Vec<FunctionInfo>,
    pub(crate) rules: Vec<Option<RuleInfo>>,
    /// Rules of built-in checks, by `AzureRule as usize`.
    pub(crate) checks: Vec<RuleId>,
    pub(crate) networks: Vec<Network>,
    pub(crate) subnets: Vec<Subnet>,
    pub(crate) peerings: Vec<PeeringHalf>,
    pub(crate) nics: Vec<Nic>,
    pub(crate) firewalls: Vec<Firewall>,
    pub(crate) gateways: Vec<Gateway>,
    pub(crate) tunnels: Vec<Tunnel>,
    pub(crate) speakers: Vec<BgpSpeaker>,
    pub(crate) sites: Vec<Site>,
    /// Public addresses of the clients of point-to-site VPN, by their names.
    pub(crate) clients: indexmap::IndexMap<Arc<str>, IpAddr>,
    pub(crate) nat_gateways: Vec<NatGateway>,
    /// Public addresses that the internet edge takes.
    pub(crate) edge_owners: HashMap<IpAddr, EdgeAddress>,
    /// The same as prefixes, with the private ranges that service endpoints answer to.
    pub(crate) edge_prefixes: Vec<IpNet>,
    /// Addresses that something in the `internet` namespace or behind it holds.
    pub(crate) internet_addresses: HashSet<IpAddr>,
    /// Whether packets for other addresses leave by the host's own network.
    pub(crate) host_egress: bool,
    pub(crate) platform: Option<PortId>,
    pub(crate) edge: Option<PortId>,
    /// NICs by private address, over all networks: whom the platform may answer.
    pub(crate) nics_by_address: HashMap<IpAddr, Vec<usize>>,
    pub(crate) delay_of: HashMap<(Location, Location), DelayId>,
    /// Names of regions, by the number that a location has.
    pub(crate) regions: Vec<Arc<str>>,
    pub(crate) peering_flags: PeeringFlags,
    pub(crate) gateway_hop_visible: bool,
    pub(crate) names: Names,
}

/// Targets by the names that users give.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names {
    /// Virtual machines: their NICs, the primary first.
    pub(crate) machines: indexmap::IndexMap<Arc<str>, Vec<usize>>,
    /// Hosts of sites and of the Internet, with their addresses.
    pub(crate) site_hosts: indexmap::IndexMap<Arc<str>, PortId>,
    pub(crate) internet_hosts: indexmap::IndexMap<Arc<str>, Vec<IpAddr>>,
    pub(crate) subnets: HashMap<String, usize>,
}

impl Snapshot {
    /// The clients of point-to-site VPN with their public addresses.
    pub fn clients(&self) -> impl Iterator<Item = (&str, IpAddr)> {
        self.clients.iter().map(|(name, address)| (&**name, *address))
    }

    /// Number of this snapshot: larger than that of any earlier one of the lab.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Name of the lab.
    pub fn lab(&self) -> &str {
        &self.lab
    }

    /// All ports, in the order of their handles.
    pub fn ports(&self) -> impl Iterator<Item = &PortInfo> {
        self.ports.iter().flatten()
    }

    /// The port, if this snapshot has it.
    pub fn port(&self, id: PortId) -> Option<&PortInfo> {
        self.ports.get(id.index())?.as_ref()
    }

    /// The machine whose packets enter here: a virtual machine or a host of a site.
    pub fn machine_at(&self, port: PortId) -> Option<&str> {
        match &self.port(port)?.kind {
            PortKind::Nic { vm, .. } => Some(vm),
            PortKind::SiteHost { host, .. } => Some(host),
            _ => None,
        }
    }

    /// The port of this name, as `web/eth0`.
    pub fn port_by_name(&self, name: &str) -> Option<&PortInfo> {
        self.ports().find(|port| &*port.name == name)
    }

    /// The port of Azure's platform addresses.
    pub fn platform_port(&self) -> Option<PortId> {
        self.platform
    }

    /// The port towards the `internet` namespace.
    pub fn internet_edge(&self) -> Option<PortId> {
        self.edge
    }

    /// What the `internet` namespace routes to the edge's device: public addresses of virtual machines, NAT gateways,
    /// firewalls and of default outbound access, and private ranges with service endpoints.
    pub fn edge_prefixes(&self) -> &[IpNet] {
        &self.edge_prefixes
    }

    /// Whether packets for public addresses that nothing in the lab holds leave by the host's own network.
    pub fn host_egress(&self) -> bool {
        self.host_egress
    }

    /// The public address that stands for a private one at this port, if there is one.
    pub fn public_address(&self, port: PortId, private: IpAddr) -> Option<IpAddr> {
        let Some(Owner::Nic(nic)) = self.owner(port) else { return None };
        self.nics[nic].public.iter().find(|(own, _)| *own == private).map(|(_, public)| *public)
    }

    /// The port of the NIC that has this public address.
    pub fn holder_of_public(&self, address: IpAddr) -> Option<PortId> {
        match self.edge_owners.get(&address)? {
            EdgeAddress::Nic { nic, .. } => Some(self.nics[*nic].port),
            _ => None,
        }
    }

    /// NAT gateways by name, with the function whose sessions hold their ports.
    pub fn nat_gateways(&self) -> impl Iterator<Item = (&str, FunctionId)> {
        self.nat_gateways.iter().map(|gateway| (&*gateway.name, gateway.function))
    }

    /// Firewalls by name, with the function whose sessions hold their ports.
    pub fn firewalls(&self) -> impl Iterator<Item = (&str, FunctionId)> {
        self.firewalls.iter().map(|firewall| (&*firewall.name, firewall.function))
    }

    /// The addresses with which a flow may leave just as well as with this one, itself among them, where a hash chooses
    /// one for each flow: a NAT gateway's, a firewall's public ones, those of a firewall's instances, or those of a VPN gateway's
    /// dynamic NAT rule.
    pub fn chosen_among(&self, address: IpAddr) -> Vec<IpAddr> {
        let firewalls = self.firewalls.iter().flat_map(|one| [&one.snat.public, &one.snat.instances]);
        let pools = firewalls.chain(self.nat_gateways.iter().map(|gateway| &gateway.addresses));
        let rules = self.tunnels.iter().flat_map(|tunnel| tunnel.nat.rules());
        let mut pools = pools.chain(rules.flat_map(nat::NatRule::pools).map(|pool| &pool.addresses));
        let pool = pools.find(|pool| pool.contains(&address));
        let same_family = |one: &&IpAddr| one.is_ipv4() == address.is_ipv4();
        pool.map_or_else(|| vec![address], |pool| pool.iter().filter(same_family).copied().collect())
    }

    /// The address of default outbound access of each network that has it.
    pub fn default_outbound_addresses(&self) -> impl Iterator<Item = (&str, IpAddr)> {
        self.networks.iter().filter_map(|network| Some((&*network.name, network.outbound.as_ref()?.address)))
    }

    /// All tunnel ends.
    pub fn tunnels(&self) -> impl Iterator<Item = &TunnelSpec> {
        self.tunnels.iter().map(|tunnel| &tunnel.spec)
    }

    /// The tunnel end, if this snapshot has it.
    pub fn tunnel(&self, id: TunnelId) -> Option<&TunnelSpec> {
        let index = (*self.tunnel_by_id.get(id.index())?)?;
        Some(&self.tunnels[index].spec)
    }

    /// The BGP speakers of gateways' instances, in the file's order.
    pub fn bgp_speakers(&self) -> impl Iterator<Item = &BgpSpeaker> {
        self.speakers.iter()
    }

    /// All rate limiters.
    pub fn limiters(&self) -> &[LimiterSpec] {
        &self.limiters
    }

    /// All delay lines.
    pub fn delays(&self) -> &[DelaySpec] {
        &self.delays
    }

    /// All counters.
    pub fn counters(&self) -> &[CounterSpec] {
        &self.counters
    }

    /// All stateful functions.
    pub fn functions(&self) -> &[FunctionInfo] {
        &self.functions
    }

    /// All rules, routes and checks, with their handles.
    pub fn rules(&self) -> impl Iterator<Item = (RuleId, &RuleInfo)> {
        self.rules
            .iter()
            .enumerate()
            .filter_map(|(index, rule)| Some((RuleId(u32::try_from(index).ok()?), rule.as_ref()?)))
    }

    /// What is behind a rule handle.
    pub fn rule(&self, id: RuleId) -> Option<&RuleInfo> {
        self.rules.get(id.0 as usize)?.as_ref()
    }

    /// A delay line's constant, in milliseconds.
    pub(crate) fn delay_ms(&self, id: DelayId) -> Option<f64> {
        self.delays.iter().find(|delay| delay.id == id).map(|delay| delay.delay_ns as f64 / 1e6)
    }

    /// A region, with the zone where one is named.
    pub(crate) fn place_name(&self, place: Location) -> String {
        let region = self.regions.get(usize::from(place.region)).map_or("", |region| &**region);
        if place.zone == 0 { region.to_owned() } else { format!("{region} zone {}", place.zone) }
    }

    /// The name of an appliance: a firewall, a gateway, or the machine of a NIC that forwards.
    pub fn hop_name(&self, hop: Hop) -> &str {
        match hop {
            Hop::Firewall(index) => self.firewalls.get(index).map_or("", |firewall| &firewall.name),
            Hop::Gateway(index) => self.gateways.get(index).map_or("", |gateway| &gateway.name),
            Hop::Nic(index) => {
                let port = self.nics.get(index).and_then(|nic| self.port(nic.port));
                port.map_or("", |port| port.name.split_once('/').map_or(&*port.name, |(machine, _)| machine))
            }
        }
    }

    /// The reference of a rule, for an explanation.
    pub(crate) fn rule_ref(&self, id: RuleId) -> Option<RuleRef> {
        self.rule(id).map(|rule| rule.reference.clone())
    }

    /// The handle of a built-in check.
    pub(crate) fn check(&self, rule: AzureRule) -> RuleId {
        self.checks[rule as usize]
    }

    /// Who is behind a port.
    pub(crate) fn owner(&self, port: PortId) -> Option<Owner> {
        *self.owners.get(port.index())?
    }

    /// Names of the virtual machines.
    pub fn machines(&self) -> impl Iterator<Item = &str> {
        self.names.machines.keys().map(|name| &**name)
    }

    /// Names of hosts at sites with a built-in device.
    pub fn site_hosts(&self) -> impl Iterator<Item = &str> {
        self.names.site_hosts.keys().map(|name| &**name)
    }

    /// Names of the simulated hosts of the Internet.
    pub fn internet_hosts(&self) -> impl Iterator<Item = &str> {
        self.names.internet_hosts.keys().map(|name| &**name)
    }

    /// The handles in this snapshot that name a limiter of this gateway.
    pub fn gateway_limiters<'a>(&'a self, gateway: &'a str) -> impl Iterator<Item = &'a LimiterSpec> {
        self.limiters.iter().filter(move |limiter| limiter.gateway.as_deref() == Some(gateway))
    }

    /// The name of a function.
    pub fn function(&self, id: FunctionId) -> Option<&FunctionInfo> {
        self.functions.iter().find(|function| function.id == id)
    }

    /// The rate limiter, if this snapshot has it.
    pub fn limiter(&self, id: LimiterId) -> Option<&LimiterSpec> {
        self.limiters.iter().find(|limiter| limiter.id == id)
    }

    /// The counter, if this snapshot has it.
    pub fn counter(&self, id: CounterId) -> Option<&CounterSpec> {
        self.counters.iter().find(|counter| counter.id == id)
    }
}
