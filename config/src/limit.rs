//! How many of everything Azure takes.
//!
//! Sources: learn.microsoft.com, "Azure subscription and service limits", networking limits, 12/05/2022; "Virtual network
//! traffic routing" (routes for service tags), 10/30/2024; "How to configure subnet peering", 12/09/2025; "What is Azure NAT
//! Gateway".

/// How many of something Azure takes. More are refused; nine tenths and more are warned of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// The id that a refusal carries, such as `too-many-routes`.
    pub rule: &'static str,
    /// What has them, such as `a route table`.
    pub owner: &'static str,
    /// What is counted, in the plural.
    pub what: &'static str,
    /// The most that Azure takes.
    pub max: usize,
    /// The code that Azure refuses more with, where it is known.
    pub code: Option<&'static str>,
    pub(crate) help: &'static str,
}

const fn limit(
    rule: &'static str,
    owner: &'static str,
    (max, what): (usize, &'static str),
    help: &'static str,
) -> Limit {
    Limit { rule, owner, what, max, code: None, help }
}

const fn coded(code: &'static str, limit: Limit) -> Limit {
    Limit { code: Some(code), ..limit }
}

/// What owns a limit of a region.
const REGION: &str = "a region of a subscription";

pub(crate) const NETWORKS: Limit = coded(
    "VnetCountLimitReached",
    limit(
        "too-many-networks",
        REGION,
        (1_000, "virtual networks"),
        "use another subscription for some of them",
    ),
);
pub(crate) const ROUTE_TABLES: Limit = coded(
    "QuotaExceeded",
    limit(
        "too-many-route-tables",
        REGION,
        (200, "route tables"),
        "let subnets share tables, or use another subscription",
    ),
);
pub(crate) const SECURITY_GROUPS: Limit = coded(
    "QuotaExceeded",
    limit(
        "too-many-security-groups",
        REGION,
        (5_000, "network security groups"),
        "let subnets share groups, or use another subscription",
    ),
);
pub(crate) const NICS: Limit =
    coded("QuotaExceeded", limit("too-many-nics", REGION, (65_536, "NICs"), "use another subscription"));
pub(crate) const APPLICATION_GROUPS: Limit = coded(
    "QuotaExceeded",
    limit(
        "too-many-application-groups",
        "a subscription",
        (3_000, "application security groups"),
        "let machines share groups, or use another subscription",
    ),
);
pub(crate) const SUBNETS: Limit = limit(
    "too-many-subnets",
    "a virtual network",
    (3_000, "subnets"),
    "use another virtual network for some of them",
);
pub(crate) const DNS_SERVERS: Limit =
    limit("too-many-dns-servers", "a virtual network", (20, "DNS servers"), "keep 20 of them");
pub(crate) const PRIVATE_ADDRESSES: Limit = limit(
    "too-many-private-addresses",
    "a virtual network",
    (65_536, "private addresses"),
    "use another virtual network for some machines",
);
pub(crate) const PEERED_ADDRESSES: Limit = limit(
    "too-many-peered-addresses",
    "a virtual network with those peered with it",
    (128_000, "private addresses in it and the networks peered with it"),
    "peer fewer or smaller networks with it",
);
pub(crate) const PEERINGS: Limit = limit(
    "too-many-peerings",
    "a virtual network",
    (500, "peerings"),
    "use another hub for some of them; a network manager may make 1,000, but 500 in a network with an ExpressRoute gateway",
);
pub(crate) const SUBNETS_PER_SIDE: Limit = limit(
    "too-many-peered-subnets",
    "a side of a subnet peering",
    (200, "subnets on one side of the peering"),
    "peer the networks as a whole, or fewer subnets",
);
pub(crate) const SUBNETS_IN_PEERINGS: Limit = limit(
    "too-many-subnets-in-peerings",
    "a virtual network",
    (1_000, "subnets in all its subnet peerings"),
    "peer some of the networks as a whole",
);
pub(crate) const ROUTES: Limit = limit(
    "too-many-routes",
    "a route table",
    (400, "routes"),
    "summarise prefixes; 1,000 are for tables that a network manager keeps",
);
pub(crate) const TAG_ROUTES: Limit = limit(
    "too-many-tag-routes",
    "a route table",
    (25, "routes for service tags"),
    "write the prefixes that some of the tags stand for",
);
pub(crate) const RULES: Limit = limit(
    "too-many-rules",
    "a network security group",
    (1_000, "rules"),
    "merge rules: each takes lists of prefixes and ports",
);
pub(crate) const PREFIXES: Limit = limit(
    "too-many-prefixes",
    "a network security group",
    (4_000, "prefixes on one side of its rules"),
    "summarise prefixes, or use application security groups",
);
pub(crate) const GROUPS_PER_SIDE: Limit = coded(
    "NumberOfApplicationSecurityGroupsReferencedInSecurityRuleLimitReached",
    limit(
        "too-many-groups",
        "a side of a security rule",
        (10, "application security groups on one side"),
        "use several rules",
    ),
);
pub(crate) const GROUPS_PER_NSG: Limit = limit(
    "too-many-groups-in-nsg",
    "a network security group",
    (100, "application security groups in its rules"),
    "use another network security group for some rules",
);
pub(crate) const GROUPS_PER_NIC: Limit = limit(
    "too-many-groups-of-nic",
    "a NIC",
    (20, "application security groups"),
    "a NIC belongs to 20 groups at most",
);
pub(crate) const NICS_PER_GROUP: Limit = limit(
    "too-many-members",
    "an application security group",
    (4_000, "NICs"),
    "use a second application security group for some of them",
);
pub(crate) const ADDRESSES_PER_NIC: Limit =
    limit("too-many-addresses", "a NIC", (256, "private addresses on one NIC"), "use a second NIC");
pub(crate) const NAT_ADDRESSES: Limit = limit(
    "too-many-nat-addresses",
    "a NAT gateway",
    (16, "public addresses"),
    "use a second NAT gateway for some subnets",
);

pub(crate) const NAT_RULES: Limit =
    limit("too-many-nat-rules", "a VPN gateway", (500, "NAT rules"), "merge ranges that lie side by side");
pub(crate) const ROUTE_SERVER_PEERS: Limit = limit(
    "too-many-route-server-peers",
    "a route server",
    (8, "BGP connections"),
    "let one appliance gather the routes of others",
);
pub(crate) const CIRCUITS_OF_A_LOCATION: Limit = limit(
    "too-many-circuits-of-location",
    "a virtual network",
    (4, "circuits from one peering location"),
    "use circuits from another peering location",
);

/// The virtual networks of a circuit; how many hangs on its tier and its speed.
pub(crate) const fn networks_of_a_circuit(max: usize) -> Limit {
    limit(
        "too-many-networks-of-circuit",
        "an ExpressRoute circuit",
        (max, "virtual networks"),
        "choose skuTier: Premium or a faster circuit, or let networks share a gateway by transit",
    )
}

/// A gateway's point-to-site clients; how many hangs on its SKU and their protocols.
pub(crate) const fn clients(max: usize) -> Limit {
    limit("too-many-clients", "a VPN gateway", (max, "clients"), "choose a larger SKU, or revoke some")
}

/// A gateway's connections; how many hangs on its SKU.
pub(crate) const fn tunnels(max: usize) -> Limit {
    limit(
        "too-many-tunnels",
        "a VPN gateway",
        (max, "connections"),
        "choose a larger SKU, or a virtual WAN above 100",
    )
}

/// Every limit with a figure of its own. What a gateway's SKU takes is in [`crate::sku::SKUS`].
pub const LIMITS: &[Limit] = &[
    NETWORKS,
    NICS,
    ROUTE_TABLES,
    SECURITY_GROUPS,
    APPLICATION_GROUPS,
    SUBNETS,
    DNS_SERVERS,
    PRIVATE_ADDRESSES,
    PEERED_ADDRESSES,
    PEERINGS,
    SUBNETS_PER_SIDE,
    SUBNETS_IN_PEERINGS,
    ROUTES,
    TAG_ROUTES,
    RULES,
    PREFIXES,
    GROUPS_PER_SIDE,
    GROUPS_PER_NSG,
    GROUPS_PER_NIC,
    NICS_PER_GROUP,
    ADDRESSES_PER_NIC,
    NAT_ADDRESSES,
    NAT_RULES,
    ROUTE_SERVER_PEERS,
    CIRCUITS_OF_A_LOCATION,
];
