//! What the service tags VirtualNetwork and Internet hold in a subnet.

use std::collections::HashMap;
use std::sync::Arc;

use ipnet::IpNet;
use vnet_config::model::{AddressSpec, FirewallRule, RoutePrefix, RouteTable, TagDefaultRoute, Topology};

use super::Builder;
use super::routes::reserved_prefixes;
use crate::snapshot::PLATFORM_ADDRESS;
use crate::snapshot::lpm::{covers, subtract};
use crate::snapshot::network::Subnet;
use crate::snapshot::tags::Tags;

/// Ranges beside the private ones that are no part of the Internet.
const NOT_PUBLIC: [&str; 6] =
    ["0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "168.63.129.16/32", "224.0.0.0/3", "ff00::/8"];

/// What tags depend on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct TagPlace {
    network: usize,
    route_table: Option<Arc<str>>,
    /// Whether the subnet takes part in the network's effective gateway.
    uses_gateway: bool,
}

/// Tags that were worked out already.
#[derive(Debug, Default)]
pub(super) struct KnownTags {
    by_place: HashMap<TagPlace, Arc<Tags>>,
    internet: HashMap<usize, Arc<[IpNet]>>,
    /// Public addresses, whoever has them.
    public: Option<Arc<[IpNet]>>,
    published: Option<Arc<HashMap<String, Vec<IpNet>>>>,
}

impl Builder<'_> {
    /// The tags as a subnet sees them. Azure does not say whose user routes count: here those of the subnet's own table.
    pub(super) fn tags(&mut self, subnet: usize) -> Arc<Tags> {
        let place = self.tag_place(subnet);
        if let Some(known) = self.tags.by_place.get(&place) {
            return known.clone();
        }
        let table = place.route_table.as_deref().and_then(|name| self.topology.route_tables.get(name));
        let network = place.network;
        let without_routes = self.without_routes(network, place.uses_gateway);
        let mut virtual_network = without_routes.clone();
        virtual_network.extend(table.into_iter().flat_map(|table| self.user_prefixes(table)));
        let tags = Arc::new(Tags {
            virtual_network: unique(virtual_network),
            without_routes: unique(without_routes),
            internet: self.internet_tag(network),
            published: self.published_tags(),
        });
        self.tags.by_place.insert(place, tags.clone());
        tags
    }

    pub(super) fn tag_place(&self, subnet: usize) -> TagPlace {
        let Subnet { network, route_table, .. } = &self.snapshot.subnets[subnet];
        TagPlace {
            network: *network,
            route_table: route_table.clone(),
            uses_gateway: self.uses_gateway(subnet),
        }
    }

    /// The network's own ranges and those of connected peers that this half gives access to.
    fn inside(&self, network: usize) -> Vec<IpNet> {
        let mut inside = self.snapshot.networks[network].ranges.clone();
        for half in self.connected(network) {
            let half = &self.snapshot.peerings[half];
            if half.allow_access {
                inside.extend(self.ranges_in_force(half));
            }
        }
        inside
    }

    /// What is inside, what the effective gateway leads to, and the platform's address. What a gateway knows counts whether
    /// or not the subnet's table keeps its routes out: the tag is the network's.
    fn without_routes(&self, network: usize, uses_gateway: bool) -> Vec<IpNet> {
        let mut prefixes = self.inside(network);
        prefixes.push(PLATFORM_ADDRESS.into());
        let gateway = self.snapshot.networks[network].gateway.index().filter(|_| uses_gateway);
        if let Some(gateway) = gateway {
            prefixes.extend(self.snapshot.gateways[gateway].prefixes());
        }
        prefixes
    }

    /// The prefixes of a route table, with those that its service tags stand for.
    pub(super) fn user_prefixes(&self, table: &RouteTable) -> Vec<IpNet> {
        let with_default =
            self.topology.semantics.virtual_network_tag_default_route == TagDefaultRoute::Include;
        let mut prefixes = Vec::new();
        for route in &table.routes {
            match &route.address_prefix {
                RoutePrefix::Prefix(prefix) => {
                    prefixes.extend(Some(*prefix).filter(|prefix| prefix.prefix_len() > 0 || with_default));
                }
                RoutePrefix::Tag(tag) => {
                    prefixes.extend(self.topology.service_tag_prefixes(tag).unwrap_or_default());
                }
            }
        }
        prefixes
    }

    /// Public addresses outside the network and its peers.
    fn internet_tag(&mut self, network: usize) -> Arc<[IpNet]> {
        if let Some(known) = self.tags.internet.get(&network) {
            return known.clone();
        }
        let public = self.tags.public.get_or_insert_with(public).clone();
        let inside = self.inside(network);
        let takes_part = |range: &IpNet| public.iter().any(|net| covers(net, range) || covers(range, net));
        let internet = if inside.iter().any(takes_part) { subtract(&public, &inside).into() } else { public };
        self.tags.internet.insert(network, internet.clone());
        internet
    }

    /// The tags of the file that rules name.
    fn published_tags(&mut self) -> Arc<HashMap<String, Vec<IpNet>>> {
        if let Some(known) = &self.tags.published {
            return known.clone();
        }
        let topology = self.topology;
        let mut published = HashMap::new();
        for (tag, prefixes) in topology.service_tags.tags() {
            published.insert(tag.to_ascii_lowercase(), prefixes.to_vec());
        }
        // A regional tag may go by the region's usual name, which the file's list does not use.
        for spec in security_specs(topology).chain(firewall_specs(topology)) {
            if let AddressSpec::Tag(tag) = spec
                && let Some(prefixes) = topology.service_tag_prefixes(tag)
            {
                published.entry(tag.to_ascii_lowercase()).or_insert_with(|| prefixes.to_vec());
            }
        }
        let published = Arc::new(published);
        self.tags.published = Some(published.clone());
        published
    }
}

/// Every public address.
fn public() -> Arc<[IpNet]> {
    let special = NOT_PUBLIC
        .iter()
        .map(|text| text.parse::<IpNet>().expect("the special ranges are well-formed prefixes"));
    let excluded: Vec<IpNet> = reserved_prefixes().chain(special).collect();
    let everything = [
        IpNet::V4(Default::default()),
        "2000::/3".parse().expect("the global unicast range is a well-formed prefix"),
    ];
    subtract(&everything, &excluded).into()
}

fn security_specs(topology: &Topology) -> impl Iterator<Item = &AddressSpec> {
    let rules = topology.network_security_groups.values().flat_map(|group| &group.security_rules);
    rules.flat_map(|rule| rule.source_address_prefixes.iter().chain(&rule.destination_address_prefixes))
}

fn firewall_specs(topology: &Topology) -> impl Iterator<Item = &AddressSpec> {
    let groups = topology.firewall_policies.values().flat_map(|policy| &policy.rule_collection_groups);
    let rules = groups.flat_map(|group| &group.rule_collections).flat_map(|collection| &collection.rules);
    let rules = rules.filter_map(|rule| match rule {
        FirewallRule::NetworkRule(rule) => Some(rule),
        _ => None,
    });
    rules.flat_map(|rule| rule.source_addresses.iter().chain(&rule.destination_addresses))
}

pub(super) fn unique(mut prefixes: Vec<IpNet>) -> Arc<[IpNet]> {
    prefixes.sort();
    prefixes.dedup();
    prefixes.into()
}
