//! From the file and the state to a snapshot. Every name gets the handle that the state holds for it.

mod bgp;
mod clients;
mod egress;
mod endpoints;
mod firewall;
mod gateways;
mod latency;
mod nat;
mod peering;
mod reroute;
mod routes;
mod security;
mod sites;
mod tags;
mod tunnels;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use vnet_config::model::{NetworkInterface, PublicIpSku, Topology, VirtualMachine, VpnGatewayHop};
use vnet_config::sku::TunnelRate;
use vnet_dataplane::PortId;

use crate::azure_rule::AzureRule;
use crate::control::{Ids, State};
use crate::snapshot::egress::{EdgeAddress, FirewallSnat};
use crate::snapshot::network::{
    AddressMap, EffectiveGateway, Firewall, Location, Network, Nic, Owner, Subnet,
};
use crate::snapshot::routes::SubnetRoutes;
use crate::snapshot::rules::RuleSet;
use crate::snapshot::{
    ApplianceKind, CounterKind, CounterSpec, FunctionInfo, FunctionKind, HitKind, LimiterSpec,
    METADATA_ADDRESS, PLATFORM_ADDRESS, PortInfo, PortKind, RuleInfo, Snapshot,
};
use crate::trace::{RuleId, RuleRef};

pub(crate) use reroute::with_routes;
pub(crate) use routes::{describe as describe_next_hop, next_hop_type};
pub(crate) use tunnels::{tunnel_names, tunnels_of};

/// Largest packet that NICs and appliances take.
pub(crate) const NIC_MTU: u16 = 1500;
/// Largest packet that a VPN tunnel takes.
pub(crate) const TUNNEL_MTU: u16 = 1400;

/// Compiles what is in force. The state has taken the topology by an apply; names that it lacks get handles of this snapshot only.
pub fn compile(topology: &Topology, state: &State) -> Snapshot {
    compile_with(topology, state, &mut state.ids.clone())
}

/// The state and snapshot that a fresh `up` of this topology converges to: every peering pair connected, dynamic addresses
/// given, tunnels whose two ends fit together carrying packets, and what the lab's gateways learn of each other learned.
pub fn converge(topology: &Topology) -> (State, Snapshot) {
    let mut state = State::default();
    state.step(crate::control::Event::Apply(Arc::new(topology.clone())), vnet_dataplane::Nanos::ZERO);
    while let Some(due) = state.next_timeout() {
        state.step(crate::control::Event::Timer, due);
    }
    state.settle_routes();
    let snapshot = state.take_snapshot();
    (state, snapshot)
}

pub(crate) fn compile_with(topology: &Topology, state: &State, ids: &mut Ids) -> Snapshot {
    let mut builder = Builder::new(topology, state, ids);
    builder.checks();
    builder.networks();
    builder.machines();
    builder.private_endpoints();
    builder.firewalls();
    builder.platform_and_edge();
    builder.egress();
    builder.peerings();
    builder.gateways();
    builder.sites();
    builder.tunnels();
    builder.speakers();
    builder.clients();
    builder.effective_gateways();
    builder.routes();
    builder.security_groups();
    builder.firewall_rules();
    builder.delays();
    builder.snapshot.regions = builder.regions.iter().map(|region| region.as_str().into()).collect();
    builder.snapshot
}

/// A snapshot in the making.
struct Builder<'a> {
    topology: &'a Topology,
    state: &'a State,
    ids: &'a mut Ids,
    snapshot: Snapshot,
    regions: indexmap::IndexSet<String>,
    /// Subnets by network and name.
    subnets: HashMap<(usize, String), usize>,
    gateways: HashMap<String, usize>,
    sites: HashMap<String, usize>,
    /// Halves of peerings by local and remote network.
    halves: HashMap<(usize, usize), usize>,
    /// Subnets without their route table, by the subnet that they stand for.
    stand_ins: HashMap<usize, usize>,
    /// Addresses of application security groups, by group and network.
    asg_members: HashMap<(String, usize), Vec<IpNet>>,
    tags: tags::KnownTags,
}

impl<'a> Builder<'a> {
    fn new(topology: &'a Topology, state: &'a State, ids: &'a mut Ids) -> Builder<'a> {
        let snapshot = Snapshot {
            epoch: state.epoch,
            lab: topology.name.as_str().into(),
            peering_flags: topology.semantics.peering_flags,
            gateway_hop_visible: topology.semantics.vpn_gateway_hop == VpnGatewayHop::Visible,
            ..Snapshot::default()
        };
        Builder {
            topology,
            state,
            ids,
            snapshot,
            regions: indexmap::IndexSet::new(),
            subnets: HashMap::new(),
            gateways: HashMap::new(),
            sites: HashMap::new(),
            halves: HashMap::new(),
            stand_ins: HashMap::new(),
            asg_members: HashMap::new(),
            tags: tags::KnownTags::default(),
        }
    }

    /// The handle of a rule, and what is behind it. `scope` keeps rules apart that read the same.
    fn rule(&mut self, scope: &str, name: &str, azure: AzureRule, hits: Option<HitKind>) -> RuleId {
        let id = self.ids.rule(&format!("{}|{scope}|{name}", azure.id()));
        let index = id.0 as usize;
        if self.snapshot.rules.len() <= index {
            self.snapshot.rules.resize(index + 1, None);
        }
        self.snapshot.rules[index].get_or_insert_with(|| RuleInfo {
            reference: RuleRef {
                name: name.to_owned(),
                azure_rule: azure.id().to_owned(),
                certainty: azure.certainty(),
            },
            hits,
        });
        id
    }

    fn checks(&mut self) {
        self.snapshot.checks =
            AzureRule::ALL.iter().map(|rule| self.rule("check", rule.text(), *rule, None)).collect();
    }

    fn location(&mut self, region: Option<&str>, zone: Option<u8>) -> Location {
        let name = region.unwrap_or(&self.topology.location).to_owned();
        let (index, _) = self.regions.insert_full(name);
        Location { region: u16::try_from(index).unwrap_or(u16::MAX), zone: zone.unwrap_or(0) }
    }

    fn network_location(&mut self, network: usize, zone: Option<u8>) -> Location {
        let region = self.topology.virtual_networks[network].location.as_deref();
        self.location(region, zone)
    }

    fn add_port(
        &mut self,
        name: &str,
        kind: PortKind,
        owner: Owner,
        fill: impl FnOnce(&mut PortInfo),
    ) -> PortId {
        let id = self.ids.port(name);
        let mut port = PortInfo {
            id,
            name: name.into(),
            kind,
            addresses: Vec::new(),
            mtu: NIC_MTU,
            default_route: true,
            ip_forwarding: false,
        };
        fill(&mut port);
        let index = id.index();
        if self.snapshot.ports.len() <= index {
            self.snapshot.ports.resize(index + 1, None);
            self.snapshot.owners.resize(index + 1, None);
        }
        self.snapshot.ports[index] = Some(port);
        self.snapshot.owners[index] = Some(owner);
        id
    }

    fn add_function(&mut self, name: String, kind: FunctionKind) -> vnet_dataplane::FunctionId {
        let id = self.ids.function(&name);
        self.snapshot.functions.push(FunctionInfo { id, name: name.into(), kind });
        id
    }

    fn add_limiter(
        &mut self,
        name: String,
        gateway: Option<&str>,
        megabits_per_second: u32,
    ) -> vnet_dataplane::LimiterId {
        self.add_limiter_of(name, gateway, TunnelRate { mbps: megabits_per_second, packets_per_second: None })
    }

    fn add_limiter_of(
        &mut self,
        name: String,
        gateway: Option<&str>,
        rate: TunnelRate,
    ) -> vnet_dataplane::LimiterId {
        let id = self.ids.limiter(&name);
        let bits_per_second = u64::from(rate.mbps) * 1_000_000;
        let packets_per_second = rate.packets_per_second.map(u64::from);
        // The NICs of a machine, which come one after the other, share its limiter.
        if self.snapshot.limiters.last().is_none_or(|last| last.id != id) {
            let gateway = gateway.map(Into::into);
            let name = name.into();
            self.snapshot.limiters.push(LimiterSpec {
                id,
                name,
                gateway,
                bits_per_second,
                packets_per_second,
            });
        }
        id
    }

    fn add_counter(&mut self, name: &str, kind: CounterKind) -> vnet_dataplane::CounterId {
        let id = self.ids.counter(name);
        self.snapshot.counters.push(CounterSpec { id, kind });
        id
    }

    fn networks(&mut self) {
        for (name, network) in &self.topology.virtual_networks {
            let index = self.snapshot.networks.len();
            for (subnet_name, subnet) in &network.subnets {
                let full = format!("{name}/{subnet_name}");
                self.subnets.insert((index, subnet_name.clone()), self.snapshot.subnets.len());
                self.snapshot.names.subnets.insert(full.clone(), self.snapshot.subnets.len());
                self.snapshot.subnets.push(Subnet {
                    name: full.into(),
                    network: index,
                    routes: SubnetRoutes::default(),
                    route_table: subnet.route_table.as_deref().map(Into::into),
                    nat_gateway: None,
                    default_outbound: false,
                });
            }
            self.snapshot.networks.push(Network {
                name: name.as_str().into(),
                ranges: network.address_space.clone(),
                owners: AddressMap::default(),
                peerings: Vec::new(),
                peering_ranges: Default::default(),
                gateway: EffectiveGateway::None,
                outbound: None,
                express_route: None,
                encryption: network.encryption.as_ref().filter(|own| own.enabled).map(|own| own.enforcement),
                flow_timeout_minutes: network.flow_timeout_in_minutes.unwrap_or(0),
            });
        }
    }

    fn find_subnet(&self, network: &str, subnet: &str) -> Option<(usize, usize)> {
        let network = self.topology.virtual_networks.get_index_of(network)?;
        Some((network, *self.subnets.get(&(network, subnet.to_owned()))?))
    }

    /// An address with the length of the prefix of its subnet.
    fn with_prefix(&self, subnet: &str, network: usize, address: IpAddr) -> IpNet {
        let prefixes = self.topology.virtual_networks[network]
            .subnets
            .get(subnet)
            .map(|subnet| subnet.address_prefixes.as_slice());
        prefix_of(prefixes.unwrap_or_default(), address)
    }

    fn machines(&mut self) {
        let topology = self.topology;
        for (name, machine) in &topology.virtual_machines {
            for (index, nic) in machine.network_interfaces.iter().enumerate() {
                self.nic(name, machine, index, nic);
            }
        }
    }

    fn nic(&mut self, vm: &str, machine: &VirtualMachine, position: usize, nic: &NetworkInterface) {
        let Some((network, subnet)) = self.find_subnet(&nic.subnet.virtual_network, &nic.subnet.subnet)
        else {
            return;
        };
        let name = format!("{vm}/{}", nic.name);
        let mut addresses = nic.private_ip_addresses.clone();
        addresses.extend(self.state.addresses.of(&name));
        let index = self.snapshot.nics.len();
        let nets: Vec<IpNet> =
            addresses.iter().map(|address| self.with_prefix(&nic.subnet.subnet, network, *address)).collect();
        let kind = PortKind::Nic { vm: vm.into(), nic: nic.name.as_str().into() };
        let port = self.add_port(&name, kind, Owner::Nic(index), |port| {
            port.addresses = nets;
            port.default_route = position == 0;
            port.ip_forwarding = nic.enable_ip_forwarding;
        });
        for address in &addresses {
            self.snapshot.networks[network].owners.insert(*address, port);
            self.snapshot.nics_by_address.entry(*address).or_default().push(index);
        }
        let mut public = smallvec::SmallVec::new();
        for outside in &nic.public_ip_addresses {
            if let Some(inside) = addresses.iter().find(|inside| inside.is_ipv4() == outside.is_ipv4()) {
                public.push((*inside, *outside));
                let open = self.topology.public_ip_sku(*outside) == PublicIpSku::Basic;
                self.own_edge_address(*outside, EdgeAddress::Nic { nic: index, private: *inside, open });
            }
        }
        for group in &nic.application_security_groups {
            self.asg_members
                .entry((group.clone(), network))
                .or_default()
                .extend(addresses.iter().map(|address| IpNet::from(*address)));
        }
        let limiter =
            machine.bandwidth_mbps.map(|rate| self.add_limiter(format!("vm/{vm}/egress"), None, rate));
        let nic = Nic {
            port,
            subnet,
            forwarding: nic.enable_ip_forwarding,
            accelerated: Some(nic.enable_accelerated_networking),
            inbound: self.add_function(format!("nsg/{name}/inbound"), FunctionKind::SecurityGroup),
            outbound: self.add_function(format!("nsg/{name}/outbound"), FunctionKind::SecurityGroup),
            edge: self.add_function(format!("edge/{name}"), FunctionKind::Translation),
            untracked_tcp: nic.disable_tcp_state_tracking,
            nic_nsg: None,
            subnet_nsg: None,
            public,
            location: self.network_location(network, machine.zone),
            limiter,
        };
        self.snapshot.nics.push(nic);
        self.snapshot.names.machines.entry(vm.into()).or_default().push(index);
    }

    fn firewalls(&mut self) {
        let topology = self.topology;
        for (name, firewall) in &topology.azure_firewalls {
            let Some((network, subnet)) = self.find_subnet(&firewall.virtual_network, "AzureFirewallSubnet")
            else {
                continue;
            };
            let index = self.snapshot.firewalls.len();
            let addresses: Vec<IpAddr> = self.state.addresses.of(name).to_vec();
            let nets = addresses
                .iter()
                .map(|address| self.with_prefix("AzureFirewallSubnet", network, *address))
                .collect();
            let kind = PortKind::Appliance {
                kind: ApplianceKind::Firewall,
                name: name.as_str().into(),
                instance: 0,
            };
            let port = self.add_port(name, kind, Owner::Firewall(index), |port| port.addresses = nets);
            for address in &addresses {
                self.snapshot.networks[network].owners.insert(*address, port);
            }
            let hits = HitKind::Firewall {
                firewall: name.as_str().into(),
                group: "".into(),
                collection: "".into(),
                rule: "default".into(),
                allow: false,
            };
            let default_deny =
                self.rule(name, &format!("{name}/default"), AzureRule::FirewallDefault, Some(hits));
            let firewall = Firewall {
                name: name.as_str().into(),
                port,
                subnet,
                function: self.add_function(format!("firewall/{name}"), FunctionKind::Firewall),
                rules: RuleSet::default(),
                default_deny,
                snat: FirewallSnat::default(),
                location: self.network_location(network, None),
            };
            self.snapshot.firewalls.push(firewall);
        }
    }

    fn platform_and_edge(&mut self) {
        let platform = self.add_port("platform", PortKind::Platform, Owner::Platform, |port| {
            port.addresses = vec![PLATFORM_ADDRESS.into(), METADATA_ADDRESS.into()];
        });
        let edge = self.add_port("internet", PortKind::InternetEdge, Owner::InternetEdge, |port| {
            port.default_route = false
        });
        self.snapshot.platform = Some(platform);
        self.snapshot.edge = Some(edge);
        for (name, host) in &self.topology.internet.hosts {
            self.snapshot.names.internet_hosts.insert(name.as_str().into(), host.addresses.clone());
        }
    }
}

/// The address with the length of the prefix that contains it.
fn prefix_of(prefixes: &[IpNet], address: IpAddr) -> IpNet {
    let length = prefixes.iter().find(|prefix| prefix.contains(&address)).map(IpNet::prefix_len);
    let own = IpNet::from(address);
    length.and_then(|length| IpNet::new(address, length).ok()).unwrap_or(own)
}
