//! Routes, sites and connections of a sketch.

use serde_json::{Value, json};

use super::render::Rendering;
use super::sketch::{HopSketch, PrefixSketch, SiteSketch, TableSketch};

impl Rendering<'_> {
    fn hop(&self, hop: &HopSketch, six: bool) -> Option<Value> {
        let appliance =
            |address: String| json!({"nextHopType": "VirtualAppliance", "nextHopIpAddress": address});
        Some(match hop {
            HopSketch::Machine(network, second) if six => {
                let network = self.pick(*network);
                let part = u8::from(*second && self.networks[network].second);
                return self.networks[network]
                    .dual
                    .then(|| appliance(format!("{}4", self.six(network, part))));
            }
            HopSketch::Firewall(_) | HopSketch::Nobody(_) | HopSketch::Several(_) if six => return None,
            HopSketch::Several(machines) => {
                let address = |(network, second): &(u8, bool)| self.machine(self.pick(*network), *second);
                let mut addresses: Vec<String> = machines.iter().map(address).collect();
                addresses.sort();
                addresses.dedup();
                if addresses.len() < 2 || !self.features.several_hops {
                    return Some(appliance(addresses.swap_remove(0)));
                }
                json!({"nextHopType": "VirtualApplianceEcmp", "nextHop": {"nextHopIpAddresses": addresses}})
            }
            HopSketch::Machine(network, second) => appliance(self.machine(self.pick(*network), *second)),
            HopSketch::Firewall(network) => {
                let network = self.pick(*network);
                let holder = (0..self.networks.len()).map(|step| (network + step) % self.networks.len());
                let firewall = holder
                    .filter(|holder| self.has_firewall(*holder))
                    .map(|holder| format!("{}.4", self.part(holder, 2)));
                appliance(firewall.into_iter().next().unwrap_or_else(|| self.machine(network, false)))
            }
            HopSketch::Nobody(network) => appliance(format!("{}.77", self.part(self.pick(*network), 0))),
            HopSketch::Gateway => json!({"nextHopType": "VirtualNetworkGateway"}),
            HopSketch::Local => json!({"nextHopType": "VnetLocal"}),
            HopSketch::Internet => json!({"nextHopType": "Internet"}),
            HopSketch::None => json!({"nextHopType": "None"}),
        })
    }

    fn prefix(&self, prefix: &PrefixSketch, six: bool) -> Option<String> {
        if six {
            let of = |network: &u8| self.networks[self.pick(*network)].dual.then(|| self.pick(*network));
            return match prefix {
                PrefixSketch::Network(network) => {
                    of(network).map(|network| format!("fd00:{}::/48", network + 1))
                }
                PrefixSketch::Subnet(network, second) => {
                    of(network).map(|network| format!("{}/64", self.six(network, u8::from(*second))))
                }
                PrefixSketch::Machine(network) => {
                    of(network).map(|network| format!("{}4/128", self.six(network, 0)))
                }
                PrefixSketch::All => Some("::/0".to_owned()),
                _ => None,
            };
        }
        Some(match prefix {
            PrefixSketch::Network(network) => self.range(self.pick(*network)),
            PrefixSketch::Subnet(network, second) => {
                format!("{}.0/24", self.part(self.pick(*network), u8::from(*second)))
            }
            PrefixSketch::Machine(network) => format!("{}/32", self.machine(self.pick(*network), false)),
            PrefixSketch::Site(site) => format!("10.{}.0.0/16", 200 + usize::from(*site) % 3),
            PrefixSketch::All => "0.0.0.0/0".to_owned(),
            PrefixSketch::Ten => "10.0.0.0/8".to_owned(),
            PrefixSketch::Extra => "10.100.0.0/16".to_owned(),
            PrefixSketch::Tag(tag) if self.features.route_tags => super::tag(*tag).0.to_owned(),
            PrefixSketch::Tag(_) => return None,
            PrefixSketch::Wide(network) => match self.networks[self.pick(*network)].range {
                0 => "10.0.0.0/12".to_owned(),
                1 => "172.16.0.0/12".to_owned(),
                2 => "192.168.0.0/16".to_owned(),
                _ => "20.0.0.0/12".to_owned(),
            },
        })
    }

    pub(super) fn route_table(&self, table: &TableSketch) -> Value {
        let mut list: Vec<Value> = Vec::new();
        for route in &table.routes {
            let (Some(prefix), Some(mut value)) =
                (self.prefix(&route.prefix, route.six), self.hop(&route.hop, route.six))
            else {
                continue;
            };
            if list.iter().any(|known| known["addressPrefix"] == json!(prefix)) {
                continue;
            }
            value["name"] = json!(format!("r{}", list.len()));
            value["addressPrefix"] = json!(prefix);
            list.push(value);
        }
        let mut value = json!({"disableBgpRoutePropagation": table.propagation_off, "routes": list});
        if table.peering_off && self.features.peering_route_switch {
            value["disablePeeringRoute"] = json!("All");
        }
        value
    }

    /// Tables of the reserved subnets lead only to other networks' exact ranges.
    pub(super) fn reserved_table(&self, own: usize, routes: &[(u8, HopSketch)], internet: bool) -> Value {
        let mut list: Vec<Value> = Vec::new();
        if internet {
            list.push(json!({"name": "out", "addressPrefix": "0.0.0.0/0", "nextHopType": "Internet"}));
        }
        for (network, hop) in routes {
            let network = self.pick(*network);
            let Some(mut value) = self.hop(hop, false) else { continue };
            let prefix = json!(self.range(network));
            let appliance =
                value["nextHopType"].as_str().is_some_and(|kind| kind.starts_with("VirtualAppliance"));
            // Two firewalls that both translate one flow, back and forth, are left out.
            let twice = internet && self.networks[network].range == 3;
            if network == own
                || twice
                || !appliance
                || list.iter().any(|known| known["addressPrefix"] == prefix)
            {
                continue;
            }
            value["name"] = json!(format!("r{}", list.len()));
            value["addressPrefix"] = prefix;
            list.push(value);
        }
        json!({"routes": list})
    }

    /// Sites with the gateway that they are connected to.
    fn sites(&self) -> Vec<(usize, &SiteSketch, usize)> {
        let with_gateway = |site: &SiteSketch| {
            let first = self.pick(site.network);
            let mut around = (0..self.networks.len()).map(|step| (first + step) % self.networks.len());
            around.find(|network| self.networks[*network].gateway)
        };
        self.sites
            .iter()
            .enumerate()
            .filter_map(|(index, site)| Some((index, site, with_gateway(site)?)))
            .collect()
    }

    pub(super) fn connections(&self, topology: &mut Value) {
        for (index, site, network) in self.sites() {
            let mut known = vec![if site.known == 1 {
                format!("10.{}.9.0/24", 200 + index)
            } else {
                format!("10.{}.0.0/16", 200 + index)
            }];
            let also = self.pick(site.also);
            // Where two connections lead to one prefix, a hash chooses; that is left out.
            if index == 0 && site.known == 2 && also != network && !self.networks[also].gateway {
                known.push(self.range(also));
            }
            let device = format!("198.51.100.{}", 100 + index);
            topology["localNetworkGateways"][format!("s{index}")] =
                json!({"gatewayIpAddress": device, "localNetworkAddressSpace": known});
            topology["connections"][format!("c{index}")] = json!({
                "connectionType": "IPsec", "virtualNetworkGateway1": format!("gw{network}"), "localNetworkGateway2": format!("s{index}"), "sharedKey": "k",
            });
            let mut site_value = json!({
                "addressSpace": [format!("10.{}.0.0/16", 200 + index)],
                "hosts": {format!("h{index}"): format!("10.{}.1.10", 200 + index)},
                "vpnDevice": {"publicIPAddress": device},
            });
            if site.wrong_key {
                site_value["vpnDevice"]["sharedKey"] = json!("other");
            }
            topology["onPremisesSites"][format!("s{index}")] = site_value;
        }
        let mut linked: Vec<(usize, usize)> = Vec::new();
        for (index, link) in self.links.iter().enumerate() {
            let (a, b) = (self.pick(link.between.0), self.pick(link.between.1));
            let pair = (a.min(b), a.max(b));
            if a == b || !self.networks[a].gateway || !self.networks[b].gateway || linked.contains(&pair) {
                continue;
            }
            linked.push(pair);
            let connection = |from: usize, to: usize, key: &str| {
                json!({
                    "connectionType": "Vnet2Vnet", "virtualNetworkGateway1": format!("gw{from}"),
                    "virtualNetworkGateway2": format!("gw{to}"), "sharedKey": key,
                })
            };
            topology["connections"][format!("l{index}")] = connection(a, b, "k");
            if link.state != 0 {
                topology["connections"][format!("l{index}back")] =
                    connection(b, a, if link.state == 1 { "other" } else { "k" });
            }
        }
    }
}
