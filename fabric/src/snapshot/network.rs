//! Compiled networks, subnets, peerings, NICs and appliances: what a decision walks over.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use smallvec::SmallVec;
use vnet_config::model::EncryptionEnforcement;
use vnet_dataplane::{CounterId, FiveTuple, FunctionId, LimiterId, PortId, Protocol};

use super::egress::{DefaultOutbound, FirewallSnat};
use super::lpm::{Lpm, contains};
use super::nat::TunnelNat;
use super::ports::TunnelSpec;
use super::routes::SubnetRoutes;
use super::rules::{Rule, RuleSet};
use super::tags::Tags;
use super::{METADATA_ADDRESS, PLATFORM_ADDRESS};
use crate::control::PeeringState;
use crate::trace::RuleId;

/// Region and zone, for latency.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Location {
    pub(crate) region: u16,
    /// 0: none named, near everything in its region.
    pub(crate) zone: u8,
}

/// A map that every decision looks into. Its keys are the design's own, so that nobody can aim at one bucket.
pub(crate) type AddressMap<T> = HashMap<IpAddr, T, foldhash::fast::FixedState>;

/// A virtual network.
#[derive(Clone, Debug)]
pub(crate) struct Network {
    pub(crate) name: Arc<str>,
    pub(crate) ranges: Vec<IpNet>,
    /// Ports by the private addresses that they hold.
    pub(crate) owners: AddressMap<PortId>,
    /// This network's halves of its peerings.
    pub(crate) peerings: Vec<usize>,
    /// The same by the remote network's ranges, whatever their state.
    pub(crate) peering_ranges: Lpm<usize>,
    pub(crate) gateway: EffectiveGateway,
    /// None where every subnet is private.
    pub(crate) outbound: Option<DefaultOutbound>,
    /// The ExpressRoute gateway, own or by transit, that stands before it: a user's route leads to neither.
    pub(crate) express_route: Option<Arc<str>>,
    /// What becomes of traffic that cannot be encrypted; `None` without virtual network encryption.
    pub(crate) encryption: Option<EncryptionEnforcement>,
    /// Minutes after which an idle flow of its machines is forgotten; 0 where the usual time holds.
    pub(crate) flow_timeout_minutes: u8,
}

/// The gateway that routes to VirtualNetworkGateway lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EffectiveGateway {
    None,
    Own(usize),
    /// By gateway transit over this half of a peering.
    Remote {
        gateway: usize,
        peering: usize,
    },
}

impl EffectiveGateway {
    pub(crate) fn index(self) -> Option<usize> {
        match self {
            EffectiveGateway::None => None,
            EffectiveGateway::Own(gateway) | EffectiveGateway::Remote { gateway, .. } => Some(gateway),
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Subnet {
    /// `spoke1/app`.
    pub(crate) name: Arc<str>,
    pub(crate) network: usize,
    pub(crate) routes: SubnetRoutes,
    pub(crate) route_table: Option<Arc<str>>,
    pub(crate) nat_gateway: Option<usize>,
    /// Whether machines without another way to the Internet have Azure's.
    pub(crate) default_outbound: bool,
}

/// One half of a peering.
#[derive(Clone, Debug)]
pub(crate) struct PeeringHalf {
    pub(crate) local: usize,
    pub(crate) remote: usize,
    /// The remote network's half towards this one.
    pub(crate) reverse: Option<usize>,
    pub(crate) state: PeeringState,
    pub(crate) allow_access: bool,
    pub(crate) allow_forwarded: bool,
    pub(crate) global: bool,
    /// Of a subnet peering: what takes part.
    pub(crate) subnets: Option<PeeredSubnets>,
    pub(crate) counter: CounterId,
    pub(crate) rules: PeeringRules,
}

/// The subnets that take part in a subnet peering, as one half has them.
#[derive(Clone, Debug)]
pub(crate) struct PeeredSubnets {
    /// Of the local network, by index into the snapshot's table.
    pub(crate) local: Vec<usize>,
    /// The same of the remote network.
    pub(crate) remote: Vec<usize>,
    /// The local ones' prefixes that are peered.
    pub(crate) local_prefixes: Vec<IpNet>,
    /// The remote ones'.
    pub(crate) remote_prefixes: Vec<IpNet>,
    pub(crate) rule: RuleId,
}

/// The rules that a peering's verdicts name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PeeringRules {
    pub(crate) connected: RuleId,
    pub(crate) not_connected: RuleId,
    pub(crate) access: RuleId,
    pub(crate) forwarded: RuleId,
}

/// A security group as one NIC or subnet has it: tags depend on where it hangs.
#[derive(Debug)]
pub(crate) struct Nsg {
    pub(crate) name: Arc<str>,
    pub(crate) inbound: RuleSet,
    pub(crate) outbound: RuleSet,
    /// Outbound rules that name a tag of the platform: they alone judge packets for the platform's addresses.
    pub(crate) platform: RuleSet,
    /// Whether flows pass only as long as the present rules allow their first packet.
    pub(crate) flush: bool,
    pub(crate) tags: Arc<Tags>,
}

/// What a group says about a packet.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Judgement<'a> {
    /// This rule decides.
    By(&'a Rule),
    /// The packet is for the platform, and no rule names the service.
    Exempt,
    /// No rule matches. The default rules match every packet, so that this is a fault.
    Unmatched,
}

impl Nsg {
    /// The rules that judge packets of one direction, as far as they are not for the platform.
    pub(crate) fn rules(&self, inbound: bool) -> &RuleSet {
        if inbound { &self.inbound } else { &self.outbound }
    }

    /// What the group says about the first packet of a flow.
    pub(crate) fn judge(&self, inbound: bool, tuple: &FiveTuple) -> Judgement<'_> {
        let for_platform = !inbound && is_platform(tuple.destination);
        let rules = if for_platform { &self.platform } else { self.rules(inbound) };
        match rules.first_match(tuple) {
            Some(rule) => Judgement::By(rule),
            None if for_platform => Judgement::Exempt,
            None => Judgement::Unmatched,
        }
    }
}

/// Whether the address is the platform's own.
pub(crate) fn is_platform(address: IpAddr) -> bool {
    address == PLATFORM_ADDRESS || address == METADATA_ADDRESS
}

#[derive(Clone, Debug)]
pub(crate) struct Nic {
    pub(crate) port: PortId,
    pub(crate) subnet: usize,
    pub(crate) forwarding: bool,
    /// Whether it can take part in virtual network encryption; `None` for what is no virtual machine's.
    pub(crate) accelerated: Option<bool>,
    /// Sessions of flows that began towards the NIC.
    pub(crate) inbound: FunctionId,
    /// Sessions of flows that began at the NIC.
    pub(crate) outbound: FunctionId,
    /// Whether the groups keep no state of TCP flows.
    pub(crate) untracked_tcp: bool,
    pub(crate) nic_nsg: Option<Arc<Nsg>>,
    pub(crate) subnet_nsg: Option<Arc<Nsg>>,
    /// Sessions of flows by its public addresses and by service endpoints.
    pub(crate) edge: FunctionId,
    /// Private addresses, each with the public one that stands for it.
    pub(crate) public: SmallVec<[(IpAddr, IpAddr); 2]>,
    pub(crate) location: Location,
    pub(crate) limiter: Option<LimiterId>,
}

impl Nic {
    /// Whether a group judges its packets.
    pub(crate) fn guarded(&self) -> bool {
        self.nic_nsg.is_some() || self.subnet_nsg.is_some()
    }

    /// The groups that judge packets of one direction, in their order: inbound the subnet's first, outbound the NIC's.
    pub(crate) fn groups(&self, inbound: bool) -> impl Iterator<Item = &Nsg> {
        let (first, second) =
            if inbound { (&self.subnet_nsg, &self.nic_nsg) } else { (&self.nic_nsg, &self.subnet_nsg) };
        [first, second].into_iter().filter_map(|group| group.as_deref())
    }

    /// Whether the groups know a flow of this protocol again.
    pub(crate) fn tracks(&self, protocol: Protocol) -> bool {
        !(self.untracked_tcp && self.guarded() && protocol == Protocol::TCP)
    }

    /// Whether flows leave sessions here: where nothing filters, none is needed.
    pub(crate) fn stateful(&self) -> bool {
        self.guarded() || !self.public.is_empty()
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Firewall {
    pub(crate) name: Arc<str>,
    pub(crate) port: PortId,
    pub(crate) subnet: usize,
    pub(crate) function: FunctionId,
    pub(crate) rules: RuleSet,
    pub(crate) default_deny: RuleId,
    pub(crate) snat: FirewallSnat,
    pub(crate) location: Location,
}

#[derive(Clone, Debug)]
pub(crate) struct Gateway {
    pub(crate) name: Arc<str>,
    pub(crate) network: usize,
    pub(crate) subnet: usize,
    pub(crate) instances: Vec<GatewayInstance>,
    /// Tunnels by the prefixes that they lead to; several of equal rank share the flows.
    pub(crate) table: Lpm<GatewayPath>,
    /// What it takes from virtual networks.
    pub(crate) taken: CounterId,
    /// Ranges of its clients' addresses: the network knows these, the table each client.
    pub(crate) client_pools: Vec<IpNet>,
    pub(crate) egress: LimiterId,
    pub(crate) ingress: LimiterId,
    pub(crate) location: Location,
    pub(crate) public: Vec<IpAddr>,
}

impl Gateway {
    /// The prefixes that networks know to be behind it.
    pub(crate) fn prefixes(&self) -> impl Iterator<Item = IpNet> {
        let is_client = |prefix: &IpNet| self.client_pools.iter().any(|pool| pool.contains(prefix));
        let of_connections =
            self.table.iter().map(|(prefix, _)| prefix).filter(move |prefix| !is_client(prefix));
        of_connections.chain(self.client_pools.iter().copied())
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct GatewayInstance {
    pub(crate) port: PortId,
    pub(crate) address: IpAddr,
}

/// Tunnels that lead to one prefix.
#[derive(Clone, Debug)]
pub(crate) struct GatewayPath {
    pub(crate) tunnels: SmallVec<[PathTunnel; 4]>,
}

/// A tunnel that leads to a prefix.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PathTunnel {
    pub(crate) tunnel: usize,
    /// Names the prefix and the tunnel's own connection.
    pub(crate) rule: RuleId,
}

/// One end of a tunnel.
#[derive(Clone, Debug)]
pub(crate) struct Tunnel {
    pub(crate) spec: TunnelSpec,
    pub(crate) end: TunnelEnd,
    /// Prefixes that packets out of it may come from.
    pub(crate) accepts: Lpm<()>,
    pub(crate) egress: CounterId,
    pub(crate) ingress: CounterId,
    pub(crate) limiters: Option<TunnelLimiters>,
    /// Which packets it carries, where the two sides have agreed on some.
    pub(crate) selectors: Option<Selectors>,
    /// What it makes of addresses, at a gateway.
    pub(crate) nat: TunnelNat,
    /// Where the other end is.
    pub(crate) remote_location: Location,
    pub(crate) rule: RuleId,
}

/// Pairs of ranges between which a tunnel carries packets, as this end sees them.
#[derive(Clone, Debug)]
pub(crate) struct Selectors(pub(crate) Vec<SelectorPair>);

/// Every range of this side goes with every one of the other.
#[derive(Clone, Debug)]
pub(crate) struct SelectorPair {
    pub(crate) local: Vec<IpNet>,
    pub(crate) remote: Vec<IpNet>,
}

impl Selectors {
    pub(crate) fn carry(&self, local: IpAddr, remote: IpAddr) -> bool {
        self.0.iter().any(|pair| contains(&pair.local, local) && contains(&pair.remote, remote))
    }
}

/// A tunnel's own limiters, at a gateway.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TunnelLimiters {
    pub(crate) egress: LimiterId,
    pub(crate) ingress: LimiterId,
}

/// Whose end it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TunnelEnd {
    Gateway { gateway: usize, instance: usize },
    Site(usize),
}

/// A site with a built-in VPN device.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    pub(crate) name: Arc<str>,
    pub(crate) ranges: Vec<IpNet>,
    pub(crate) hosts: HashMap<IpAddr, PortId>,
    pub(crate) table: Lpm<GatewayPath>,
    pub(crate) location: Location,
}

/// Who is behind a port, by index into the snapshot's tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    Nic(usize),
    Firewall(usize),
    Gateway { gateway: usize, instance: usize },
    SiteHost(usize),
    Platform,
    InternetEdge,
    Tunnel(usize),
}
