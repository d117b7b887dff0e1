//! NAT rules of VPN gateways, compiled: what a tunnel's end makes of addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use vnet_dataplane::{FunctionId, PortPool};

use crate::trace::RuleId;

/// The rules that hold at one end of a tunnel, each list in the connection's order. A rule translates sources of packets of its own
/// direction from internal to external addresses, and destinations of packets against it back.
#[derive(Clone, Debug, Default)]
pub(crate) struct TunnelNat {
    /// For packets out of Azure.
    pub(crate) egress: Vec<NatRule>,
    /// For packets into Azure.
    pub(crate) ingress: Vec<NatRule>,
}

impl TunnelNat {
    pub(crate) fn rules(&self) -> impl Iterator<Item = &NatRule> {
        self.egress.iter().chain(&self.ingress)
    }
}

/// A rule.
#[derive(Clone, Debug)]
pub(crate) struct NatRule {
    pub(crate) rule: RuleId,
    pub(crate) kind: NatKind,
}

/// How it translates.
#[derive(Clone, Debug)]
pub(crate) enum NatKind {
    /// Address by address, whoever begins.
    Static(Vec<NatPair>),
    /// Many to few, by ports: sessions begin on the internal side.
    Dynamic { function: FunctionId, internal: Vec<NatRange>, pools: Vec<NatPool> },
}

/// Addresses of a rule, and the ports that it holds for: all of them where none are named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NatRange {
    pub(crate) net: IpNet,
    pub(crate) ports: Option<(u16, u16)>,
}

impl NatRange {
    pub(crate) fn holds(&self, address: IpAddr, port: u16) -> bool {
        self.net.contains(&address) && self.ports.is_none_or(|(from, to)| (from..=to).contains(&port))
    }
}

/// Two ranges of one size that stand opposite each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NatPair {
    pub(crate) internal: NatRange,
    pub(crate) external: NatRange,
}

/// External addresses with the ports that a dynamic rule may use of them.
#[derive(Clone, Debug)]
pub(crate) struct NatPool {
    pub(crate) net: IpNet,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) first_port: u16,
    pub(crate) last_port: u16,
}

impl NatPool {
    pub(crate) fn ports(&self) -> PortPool<'_> {
        PortPool { addresses: &self.addresses, first_port: self.first_port, last_port: self.last_port }
    }
}

/// What stands at the same place in another range as an address and port in this one.
pub(crate) fn image(from: &NatRange, to: &NatRange, address: IpAddr, port: u16) -> (IpAddr, u16) {
    let port = match (from.ports, to.ports) {
        (Some((from, _)), Some((to, _))) => to.wrapping_add(port.wrapping_sub(from)),
        _ => port,
    };
    (moved(&from.net, &to.net, address), port)
}

/// The address at the same place in another range of the same size.
fn moved(from: &IpNet, to: &IpNet, address: IpAddr) -> IpAddr {
    match (from, to, address) {
        (IpNet::V4(from), IpNet::V4(to), IpAddr::V4(address)) => {
            let offset = address.to_bits().wrapping_sub(from.network().to_bits());
            IpAddr::V4(Ipv4Addr::from_bits(to.network().to_bits().wrapping_add(offset)))
        }
        (IpNet::V6(from), IpNet::V6(to), IpAddr::V6(address)) => {
            let offset = address.to_bits().wrapping_sub(from.network().to_bits());
            IpAddr::V6(Ipv6Addr::from_bits(to.network().to_bits().wrapping_add(offset)))
        }
        (_, _, address) => address,
    }
}

/// The part of `to` that a part of `from` becomes; none where `part` lies elsewhere.
pub(crate) fn image_of_prefix(from: &IpNet, to: &IpNet, part: &IpNet) -> Option<IpNet> {
    let address = from.contains(part).then(|| moved(from, to, part.network()))?;
    IpNet::new(address, part.prefix_len()).ok()
}

impl NatRule {
    pub(crate) fn internal(&self) -> impl Iterator<Item = IpNet> {
        let (pairs, ranges) = match &self.kind {
            NatKind::Static(pairs) => (pairs.as_slice(), &[][..]),
            NatKind::Dynamic { internal, .. } => (&[][..], internal.as_slice()),
        };
        pairs.iter().map(|pair| pair.internal.net).chain(ranges.iter().map(|range| range.net))
    }

    pub(crate) fn external(&self) -> impl Iterator<Item = IpNet> {
        let (pairs, pools) = match &self.kind {
            NatKind::Static(pairs) => (pairs.as_slice(), &[][..]),
            NatKind::Dynamic { pools, .. } => (&[][..], pools.as_slice()),
        };
        pairs.iter().map(|pair| pair.external.net).chain(pools.iter().map(|pool| pool.net))
    }
}

impl NatRule {
    /// What a dynamic rule chooses from.
    pub(crate) fn pools(&self) -> &[NatPool] {
        match &self.kind {
            NatKind::Static(_) => &[],
            NatKind::Dynamic { pools, .. } => pools,
        }
    }

    /// Ranges of ports that the rule tells apart.
    pub(crate) fn ports(&self) -> Vec<(u16, u16)> {
        match &self.kind {
            NatKind::Static(pairs) => {
                pairs.iter().flat_map(|pair| [pair.internal.ports, pair.external.ports]).flatten().collect()
            }
            NatKind::Dynamic { internal, pools, .. } => {
                let own = internal.iter().filter_map(|range| range.ports);
                own.chain(pools.iter().map(|pool| (pool.first_port, pool.last_port))).collect()
            }
        }
    }
}

/// What prefixes on the internal side of rules are called on the external one: a prefix inside a rule's range becomes its
/// image, and beside a wider one the rule's external range is known too.
pub(crate) fn translated(prefixes: &[IpNet], rules: &[NatRule]) -> Vec<IpNet> {
    let mut out = Vec::new();
    for prefix in prefixes {
        let inside: Vec<IpNet> = rules.iter().flat_map(|rule| images(rule, prefix)).collect();
        if inside.is_empty() {
            out.push(*prefix);
            for rule in rules.iter().filter(|rule| rule.internal().any(|range| prefix.contains(&range))) {
                out.extend(rule.external());
            }
        }
        out.extend(inside);
    }
    out.sort();
    out.dedup();
    out
}

fn images(rule: &NatRule, prefix: &IpNet) -> Vec<IpNet> {
    match &rule.kind {
        NatKind::Static(pairs) => (pairs.iter())
            .filter_map(|pair| image_of_prefix(&pair.internal.net, &pair.external.net, prefix))
            .collect(),
        NatKind::Dynamic { internal, pools, .. } => {
            let covered = internal.iter().any(|range| range.net.contains(prefix));
            pools.iter().filter(|_| covered).map(|pool| pool.net).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn range(text: &str) -> NatRange {
        NatRange { net: net(text), ports: None }
    }

    fn one_to_one(internal: &str, external: &str) -> NatRule {
        let pair = NatPair { internal: range(internal), external: range(external) };
        NatRule { rule: RuleId(0), kind: NatKind::Static(vec![pair]) }
    }

    #[test]
    fn an_address_keeps_its_place() {
        let (from, to) = (range("10.0.1.0/24"), range("192.168.2.0/24"));
        let got = image(&from, &to, "10.0.1.21".parse().unwrap(), 80);
        assert_eq!(got, ("192.168.2.21".parse().unwrap(), 80));
        let (from, to) = (range("fd00:1::/64"), range("fd00:2::/64"));
        let got = image(&from, &to, "fd00:1::15".parse().unwrap(), 80);
        assert_eq!(got, ("fd00:2::15".parse().unwrap(), 80));
        let ports = |net: &str, ports| NatRange { ports: Some(ports), ..range(net) };
        let got = image(
            &ports("10.0.1.4/32", (8000, 8009)),
            &ports("192.168.2.4/32", (80, 89)),
            "10.0.1.4".parse().unwrap(),
            8003,
        );
        assert_eq!(got, ("192.168.2.4".parse().unwrap(), 83));
    }

    #[test]
    fn a_prefix_becomes_its_image() {
        let rules = [one_to_one("10.0.1.0/24", "192.168.2.0/24")];
        assert_eq!(translated(&[net("10.0.1.0/24")], &rules), [net("192.168.2.0/24")]);
        assert_eq!(translated(&[net("10.0.1.128/25")], &rules), [net("192.168.2.128/25")]);
        assert_eq!(translated(&[net("10.0.0.0/16")], &rules), [net("10.0.0.0/16"), net("192.168.2.0/24")]);
        assert_eq!(translated(&[net("192.168.2.0/24")], &rules), [net("192.168.2.0/24")]);
        assert_eq!(translated(&[net("172.16.0.0/12")], &rules), [net("172.16.0.0/12")]);
    }
}
