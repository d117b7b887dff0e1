//! Longest-prefix match over both families.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixMap;

/// A map from prefixes of both families to values.
#[derive(Clone, Debug)]
pub struct Lpm<T> {
    v4: PrefixMap<Ipv4Net, T>,
    v6: PrefixMap<Ipv6Net, T>,
}

impl<T> Default for Lpm<T> {
    fn default() -> Self {
        Lpm { v4: PrefixMap::new(), v6: PrefixMap::new() }
    }
}

impl<T> Lpm<T> {
    /// Sets the value of exactly this prefix and gives back the one that it replaces.
    pub fn insert(&mut self, prefix: IpNet, value: T) -> Option<T> {
        match prefix {
            IpNet::V4(net) => self.v4.insert(net, value),
            IpNet::V6(net) => self.v6.insert(net, value),
        }
    }

    /// The value of exactly this prefix.
    pub fn get(&self, prefix: &IpNet) -> Option<&T> {
        match prefix {
            IpNet::V4(net) => self.v4.get(net),
            IpNet::V6(net) => self.v6.get(net),
        }
    }

    /// The value of exactly this prefix, to be changed.
    pub fn get_mut(&mut self, prefix: &IpNet) -> Option<&mut T> {
        match prefix {
            IpNet::V4(net) => self.v4.get_mut(net),
            IpNet::V6(net) => self.v6.get_mut(net),
        }
    }

    /// Takes the value of exactly this prefix out.
    pub fn remove(&mut self, prefix: &IpNet) -> Option<T> {
        match prefix {
            IpNet::V4(net) => self.v4.remove(net),
            IpNet::V6(net) => self.v6.remove(net),
        }
    }

    /// The longest prefix that contains the address, with its value.
    pub fn longest(&self, address: IpAddr) -> Option<(IpNet, &T)> {
        match address {
            IpAddr::V4(v4) => self.v4.get_lpm(&Ipv4Net::from(v4)).map(|(net, value)| (IpNet::V4(net), value)),
            IpAddr::V6(v6) => self.v6.get_lpm(&Ipv6Net::from(v6)).map(|(net, value)| (IpNet::V6(net), value)),
        }
    }

    /// Every prefix that contains the address, the shortest first.
    pub fn covering(&self, address: IpAddr) -> Vec<(IpNet, &T)> {
        match address {
            IpAddr::V4(v4) => {
                self.v4.cover(&Ipv4Net::from(v4)).map(|(net, value)| (IpNet::V4(net), value)).collect()
            }
            IpAddr::V6(v6) => {
                self.v6.cover(&Ipv6Net::from(v6)).map(|(net, value)| (IpNet::V6(net), value)).collect()
            }
        }
    }

    /// All prefixes with their values, IPv4 first, each family in the order of its addresses.
    pub fn iter(&self) -> impl Iterator<Item = (IpNet, &T)> {
        let v4 = self.v4.iter().map(|(net, value)| (IpNet::V4(net), value));
        v4.chain(self.v6.iter().map(|(net, value)| (IpNet::V6(net), value)))
    }

    /// Number of prefixes.
    pub fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Whether `inner` is `outer` or lies inside it.
pub fn covers(outer: &IpNet, inner: &IpNet) -> bool {
    match (outer, inner) {
        (IpNet::V4(outer), IpNet::V4(inner)) => outer.contains(inner),
        (IpNet::V6(outer), IpNet::V6(inner)) => outer.contains(inner),
        _ => false,
    }
}

/// Whether one of the prefixes contains the address.
pub fn contains(prefixes: &[IpNet], address: IpAddr) -> bool {
    prefixes.iter().any(|prefix| prefix.contains(&address))
}

/// The prefixes that together hold every address of `from` that none of `excluded` holds.
pub fn subtract(from: &[IpNet], excluded: &[IpNet]) -> Vec<IpNet> {
    let mut rest = Vec::new();
    let mut open: Vec<IpNet> = from.to_vec();
    while let Some(net) = open.pop() {
        if excluded.iter().any(|out| covers(out, &net)) {
            continue;
        }
        if !excluded.iter().any(|out| covers(&net, out)) {
            rest.push(net);
            continue;
        }
        open.extend(halves(net));
    }
    rest.sort();
    rest
}

/// The two halves of a prefix; none where it is a single address.
fn halves(net: IpNet) -> Vec<IpNet> {
    if net.prefix_len() == net.max_prefix_len() {
        return Vec::new();
    }
    net.subnets(net.prefix_len() + 1).map(Iterator::collect).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn longest_prefix_wins_in_each_family() {
        let mut map = Lpm::default();
        map.insert(net("0.0.0.0/0"), 0);
        map.insert(net("10.0.0.0/8"), 8);
        map.insert(net("10.1.0.0/16"), 16);
        map.insert(net("fd00::/8"), 60);
        assert_eq!(map.longest("10.1.2.3".parse().unwrap()), Some((net("10.1.0.0/16"), &16)));
        assert_eq!(map.longest("10.2.2.3".parse().unwrap()), Some((net("10.0.0.0/8"), &8)));
        assert_eq!(map.longest("fd00::1".parse().unwrap()), Some((net("fd00::/8"), &60)));
        assert_eq!(map.longest("2001:db8::1".parse().unwrap()), None);
        assert_eq!(map.covering("10.1.2.3".parse().unwrap()).len(), 3);
    }

    #[test]
    fn subtraction_leaves_what_is_not_excluded() {
        let rest = subtract(&[net("10.0.0.0/8")], &[net("10.0.0.0/9"), net("10.192.0.0/10")]);
        assert_eq!(rest, vec![net("10.128.0.0/10")]);
        assert!(subtract(&[net("10.0.0.0/8")], &[net("0.0.0.0/0")]).is_empty());
    }
}
