//! What service tags stand for, as the security groups of one subnet see them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use vnet_config::model::AddressSpec;
use vnet_dataplane::Protocol;

use super::lpm::contains;
use super::rules::AddressSet;
use super::{METADATA_ADDRESS, PLATFORM_ADDRESS};

/// The tag of health probes.
pub(crate) const LOAD_BALANCER: &str = "AzureLoadBalancer";

/// A service of the platform that security groups judge by its own tag only.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PlatformService {
    pub(crate) tag: &'static str,
    pub(crate) address: IpAddr,
    pub(crate) port: u16,
    pub(crate) protocols: &'static [Protocol],
}

/// The services of the platform that have a tag.
pub(crate) const PLATFORM_SERVICES: [PlatformService; 3] = [
    PlatformService {
        tag: "AzurePlatformDNS",
        address: PLATFORM_ADDRESS,
        port: 53,
        protocols: &[Protocol::UDP, Protocol::TCP],
    },
    PlatformService {
        tag: "AzurePlatformIMDS",
        address: METADATA_ADDRESS,
        port: 80,
        protocols: &[Protocol::TCP],
    },
    PlatformService {
        tag: "AzurePlatformLKM",
        address: PLATFORM_ADDRESS,
        port: 1688,
        protocols: &[Protocol::TCP],
    },
];

/// What service tags stand for in the subnets of one network that use one route table.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tags {
    pub(crate) virtual_network: Arc<[IpNet]>,
    /// The part of VirtualNetwork that user routes have not added.
    pub(crate) without_routes: Arc<[IpNet]>,
    pub(crate) internet: Arc<[IpNet]>,
    /// Tags of the file by their names in small letters.
    pub(crate) published: Arc<HashMap<String, Vec<IpNet>>>,
}

impl Tags {
    /// Whether VirtualNetwork holds the address by a user route only.
    pub(crate) fn by_user_route(&self, address: IpAddr) -> bool {
        !contains(&self.without_routes, address) && contains(&self.virtual_network, address)
    }

    /// The prefixes of a tag, whose case does not count; none where nothing says what it stands for.
    pub(crate) fn prefixes(&self, tag: &str) -> Vec<IpNet> {
        if tag.eq_ignore_ascii_case("VirtualNetwork") {
            return self.virtual_network.to_vec();
        }
        if tag.eq_ignore_ascii_case("Internet") {
            return self.internet.to_vec();
        }
        if tag.eq_ignore_ascii_case(LOAD_BALANCER) {
            return vec![PLATFORM_ADDRESS.into()];
        }
        if let Some(service) = platform_service(tag) {
            return vec![service.address.into()];
        }
        self.published.get(&tag.to_ascii_lowercase()).cloned().unwrap_or_default()
    }

    /// The addresses that a list of prefixes, ranges and tags stands for.
    pub(crate) fn addresses(&self, specs: &[AddressSpec]) -> AddressSet {
        let mut prefixes = Vec::new();
        for spec in specs {
            match spec {
                AddressSpec::Any => return AddressSet::Any,
                // 0.0.0.0/0 means any address; ::/0 every address of its own family.
                AddressSpec::Prefix(IpNet::V4(prefix)) if prefix.prefix_len() == 0 => return AddressSet::Any,
                AddressSpec::Prefix(prefix) => prefixes.push(*prefix),
                AddressSpec::Range(from, to) => prefixes.extend(range(*from, *to)),
                AddressSpec::Tag(tag) => prefixes.extend(self.prefixes(tag)),
            }
        }
        prefixes.sort();
        prefixes.dedup();
        AddressSet::Prefixes(prefixes)
    }
}

/// The service of the platform that a tag means.
pub(crate) fn platform_service(tag: &str) -> Option<&'static PlatformService> {
    PLATFORM_SERVICES.iter().find(|service| service.tag.eq_ignore_ascii_case(tag))
}

fn range(from: IpAddr, to: IpAddr) -> Vec<IpNet> {
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => ipnet::Ipv4Subnets::new(from, to, 0).map(IpNet::V4).collect(),
        (IpAddr::V6(from), IpAddr::V6(to)) => ipnet::Ipv6Subnets::new(from, to, 0).map(IpNet::V6).collect(),
        _ => Vec::new(),
    }
}
