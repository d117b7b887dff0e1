//! NAT rules of VPN gateways: which hold at which end of a tunnel.

use ipnet::IpNet;
use vnet_config::model::{Connection, GatewayNatRule, NatMapping, NatType};

use super::Builder;
use super::tunnels::{PlannedEnd, PlannedSide};
use crate::azure_rule::AzureRule;
use crate::snapshot::FunctionKind;
use crate::snapshot::nat::{NatKind, NatPair, NatPool, NatRange, NatRule, TunnelNat};

/// The lowest port that a dynamic rule uses where it names none.
const FIRST_PORT: u16 = 1_024;

impl Builder<'_> {
    /// The rules of a tunnel's gateway, at either end: a site's device has to know what its packets are called there.
    pub(super) fn tunnel_nat(&mut self, planned: &PlannedEnd<'_>, connection: &Connection) -> TunnelNat {
        if connection.egress_nat_rules.is_empty() && connection.ingress_nat_rules.is_empty() {
            return TunnelNat::default();
        }
        let instance = match planned.end {
            PlannedSide::Gateway { instance, .. } => instance,
            // The tunnels of a connection to a site are numbered by the gateway's instances.
            PlannedSide::Site(_) => usize::from(planned.index),
        };
        TunnelNat {
            egress: self.nat_rules(connection, &connection.egress_nat_rules, instance),
            ingress: self.nat_rules(connection, &connection.ingress_nat_rules, instance),
        }
    }

    fn nat_rules(&mut self, connection: &Connection, names: &[String], instance: usize) -> Vec<NatRule> {
        let topology = self.topology;
        let name = &connection.virtual_network_gateway1;
        let Some(gateway) = topology.virtual_network_gateways.get(name) else { return Vec::new() };
        let used = names.iter().filter_map(|rule| gateway.nat_rule(rule));
        let holds = |rule: &&GatewayNatRule| {
            let of = rule.ip_configuration_id.as_deref().map(|id| gateway.instance_of(topology, id));
            of.is_none_or(|of| of == Some(instance))
        };
        used.filter(holds).map(|rule| self.nat_rule(name, rule)).collect()
    }

    fn nat_rule(&mut self, gateway: &str, rule: &GatewayNatRule) -> NatRule {
        let azure = match rule.nat_type {
            NatType::Static => AzureRule::VpnNatStatic,
            NatType::Dynamic => AzureRule::VpnNatDynamic,
        };
        let id = self.rule(gateway, &format!("NAT rule {gateway}/{}", rule.name), azure, None);
        let kind = match rule.nat_type {
            NatType::Static => {
                let pairs = rule.internal_mappings.iter().zip(&rule.external_mappings);
                let pair =
                    |(internal, external)| NatPair { internal: range(internal), external: range(external) };
                NatKind::Static(pairs.map(pair).collect())
            }
            NatType::Dynamic => NatKind::Dynamic {
                function: self.translation(&format!("gateway/{gateway}/nat/{}", rule.name)),
                internal: rule.internal_mappings.iter().map(range).collect(),
                pools: rule.external_mappings.iter().map(pool).collect(),
            },
        };
        NatRule { rule: id, kind }
    }

    /// The function of this name; both ends of all tunnels of a connection share it.
    fn translation(&mut self, name: &str) -> vnet_dataplane::FunctionId {
        match self.snapshot.functions.iter().find(|function| &*function.name == name) {
            Some(known) => known.id,
            None => self.add_function(name.to_owned(), FunctionKind::Translation),
        }
    }
}

fn range(mapping: &NatMapping) -> NatRange {
    let ports = mapping.port_range.map(|ports| (ports.from, ports.to));
    NatRange { net: mapping.address_space.trunc(), ports }
}

fn pool(mapping: &NatMapping) -> NatPool {
    let NatRange { net, ports } = range(mapping);
    let (first_port, last_port) = ports.unwrap_or((FIRST_PORT, u16::MAX));
    // A /26 holds 64; of a larger IPv6 range the first addresses are more ports than sessions.
    let addresses = match net {
        IpNet::V4(net) => {
            let first = net.network().to_bits();
            let count = 1_u32 << (32 - net.prefix_len()).min(6);
            (0..count).map(|step| std::net::Ipv4Addr::from_bits(first + step).into()).collect()
        }
        IpNet::V6(net) => {
            let first = net.network().to_bits();
            let count = 1_u128 << (128 - net.prefix_len()).min(6);
            (0..count).map(|step| std::net::Ipv6Addr::from_bits(first + step).into()).collect()
        }
    };
    NatPool { net, addresses, first_port, last_port }
}
