//! The rules of Azure that the code implements, by their ids in docs/AZURE-RULES.md.

use vnet_dataplane::Reason;

use crate::trace::Certainty;

macro_rules! azure_rules {
    ($($name:ident = $id:literal, $certainty:ident, $text:literal;)+) => {
        /// A rule of Azure. Its statement, source and tests are in docs/AZURE-RULES.md under [`AzureRule::id`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[allow(missing_docs, reason = "each variant's text is what `text` returns")]
        pub enum AzureRule {
            $($name),+
        }

        impl AzureRule {
            /// Every rule, in declaration order: `ALL[rule as usize] == rule`.
            pub const ALL: &'static [AzureRule] = &[$(AzureRule::$name),+];

            /// The id in docs/AZURE-RULES.md.
            pub fn id(self) -> &'static str {
                match self { $(AzureRule::$name => $id),+ }
            }

            /// How sure we are of it.
            pub fn certainty(self) -> Certainty {
                match self { $(AzureRule::$name => Certainty::$certainty),+ }
            }

            /// The rule in a few words, as a built-in check shows it.
            pub fn text(self) -> &'static str {
                match self { $(AzureRule::$name => $text),+ }
            }
        }
    };
}

azure_rules! {
    FabricSpoof = "FABRIC-SPOOF", Documented, "a NIC sends from its own addresses only, unless IP forwarding is on";
    FabricUnicast = "FABRIC-UNICAST", Documented, "the fabric carries unicast only";
    FabricProtocols = "FABRIC-PROTOCOLS", Documented, "the fabric carries TCP, UDP, ICMP, ESP and AH";
    FabricReservedPorts = "FABRIC-RESERVED-PORTS", Documented, "UDP to ports 4791 and 65330 is the host's own, DHCP from port 68 to 67 the host's to answer";
    FabricForwarding = "FABRIC-FORWARDING", Documented, "a NIC receives packets for its own addresses only, unless IP forwarding is on";
    FabricPlatform = "FABRIC-PLATFORM", Documented, "the platform's addresses bypass routes and security groups";
    FabricNoListener = "FABRIC-NO-LISTENER", Inferred, "nothing holds the destination address";
    FabricMtu = "FABRIC-MTU", Documented, "more than 1500 bytes pass inside a network and over peerings of one region only";
    FabricFragments = "FABRIC-FRAGMENTS", Documented, "a fragment that comes before the first one of its packet is dropped";
    FabricFlows = "FABRIC-FLOWS", Documented, "a NIC has 500,000 flows at most";
    FabricFlowTimeout = "FABRIC-FLOW-TIMEOUT", Documented, "flowTimeoutInMinutes forgets the idle flows of a network's machines";
    FabricTtl = "FABRIC-TTL", Observed, "the fabric decrements no TTL, appliances do";
    FabricLoop = "FABRIC-LOOP", Inferred, "a packet that goes in a circle dies";
    AddressDynamic = "ADDRESS-DYNAMIC", Inferred, "dynamic allocation takes the lowest free address";
    AddressFirewall = "ADDRESS-FIREWALL", Observed, "a firewall has the first usable address of its subnet";
    AddressGateway = "ADDRESS-GATEWAY", Observed, "a single gateway instance has the last usable address of GatewaySubnet";
    ChangeSubnetInUse = "CHANGE-SUBNET-IN-USE", Documented, "a subnet keeps its range while something is deployed in it";
    ChangeRegion = "CHANGE-REGION", Inferred, "a resource stays in its region";
    ChangeSubscription = "CHANGE-SUBSCRIPTION", Documented, "a network stays in its subscription while it is peered";
    RouteLpm = "ROUTE-LPM", Documented, "the longest prefix wins, then user before gateway before system";
    RouteVnetLocal = "ROUTE-VNET-LOCAL", Documented, "one system route for each range of the network";
    RoutePeering = "ROUTE-PEERING", Documented, "one system route for each range of a connected peer";
    RouteInternet = "ROUTE-INTERNET", Documented, "the system default route leads to the Internet";
    RouteReserved = "ROUTE-RESERVED-NONE", Documented, "unused private ranges lead nowhere";
    RouteReservedPeer = "ROUTE-RESERVED-PEER", Inferred, "a peer's range that holds a reserved one leaves its None route";
    RouteReservedReplaced = "ROUTE-RESERVED-REPLACED", Observed, "a default route of a user or gateway removes the private ranges' None routes";
    RouteUser = "ROUTE-USER", Documented, "a user's route beats a gateway's and a system route of the same prefix";
    RouteGateway = "ROUTE-GATEWAY", Documented, "the effective gateway's prefixes are routes of every subnet that takes them";
    RouteExceptionA = "ROUTE-SYSTEM-OVER-GATEWAY", Observed, "ranges of the network and its peers beat gateway routes equal to or inside them";
    RouteUncovered = "ROUTE-GATEWAY-UNCOVERED", Inferred, "a gateway route inside a peer's range counts where a user's route overrides that range";
    RoutePropagation = "ROUTE-PROPAGATION", Documented, "disableBgpRoutePropagation keeps every gateway route out of a subnet";
    RoutePeeringDisabled = "ROUTE-PEERING-DISABLED", Inferred, "disablePeeringRoute keeps the routes of peerings out of a subnet";
    RouteServiceTag = "ROUTE-SERVICE-TAG", Documented, "a service tag stands for its prefixes, behind an explicit prefix";
    RouteServiceEndpoint = "ROUTE-SERVICE-ENDPOINT", Documented, "nothing overrides the route of a service endpoint";
    RoutePrivateEndpoint = "ROUTE-PRIVATE-ENDPOINT", Observed, "each private endpoint is a route of one address in its network and in direct peers";
    RouteEndpointPolicy = "ROUTE-PRIVATE-ENDPOINT-POLICY", Documented, "user routes reach private endpoints where their subnet's policies say so";
    RouteGatewaySubnet = "ROUTE-GATEWAY-SUBNET", Observed, "a gateway sends on by the routes of GatewaySubnet";
    RouteListing = "ROUTE-LISTING", Observed, "which overridden routes stay listed as Invalid";
    NextHopNone = "NEXTHOP-NONE", Documented, "a route with next hop None drops silently";
    NextHopReachable = "NEXTHOP-REACHABLE", Documented, "an appliance must be in the network or in a directly peered one";
    NextHopGateway = "NEXTHOP-GATEWAY", Documented, "a network has one effective gateway, its own or its peer's by transit";
    NextHopEcmp = "NEXTHOP-ECMP", Inferred, "several appliances share flows by their addresses and ports";
    NextHopOwnSubnet = "NEXTHOP-OWN-SUBNET", Documented, "an appliance must not be in the subnet whose route table leads to it";
    PeeringState = "PEERING-STATE", Documented, "only a connected peering carries packets";
    PeeringAccess = "PEERING-ACCESS", Disputed, "allowVirtualNetworkAccess must be true on both halves";
    PeeringForwarded = "PEERING-FORWARDED", Disputed, "the receiving half must allow forwarded traffic";
    PeeringGatewayExempt = "PEERING-GATEWAY-EXEMPT", Documented, "what Azure's own gateways send needs no allowForwardedTraffic";
    PeeringTransit = "PEERING-TRANSIT", Documented, "gateway transit needs allowGatewayTransit and useRemoteGateways";
    PeeringOverlap = "PEERING-OVERLAP", Documented, "what is peered, with one another or with the same network, has ranges of its own";
    PeeringSync = "PEERING-SYNC", Documented, "a peering holds the ranges of its last sync";
    PeeringSyncBoth = "PEERING-SYNC-BOTH", Inferred, "one sync brings both halves up to date";
    PeeringSubnets = "PEERING-SUBNETS", Documented, "of a subnet peering the listed subnets alone send and receive";
    PeeringSubnetRoutes = "PEERING-SUBNET-ROUTES", Documented, "every subnet has routes to the remote subnets that are listed";
    PeeringSubnetFamily = "PEERING-SUBNET-FAMILY", Inferred, "a subnet peering is of IPv4 prefixes, or of IPv6 ones alone";
    PeeringSubnetGateway = "PEERING-SUBNET-GATEWAY", Inferred, "the listed subnets alone use the remote gateway and are advertised by it";
    PeeringSubnetType = "PEERING-SUBNET-TYPE", Documented, "a peering of networks never becomes one of subnets, nor the other way round";
    EncryptionPair = "ENCRYPTION-PAIR", Documented, "traffic between virtual machines is encrypted where both networks and both NICs can";
    EncryptionDrop = "ENCRYPTION-DROP", Inferred, "DropUnencrypted of either network drops what is between virtual machines and not encrypted";
    NsgFirstMatch = "NSG-FIRST-MATCH", Documented, "the rule with the smallest priority that matches decides";
    NsgDefault = "NSG-DEFAULT", Documented, "six default rules stand behind the user's";
    NsgOrder = "NSG-ORDER", Documented, "outbound NIC then subnet, inbound subnet then NIC; both must allow";
    NsgStateful = "NSG-STATEFUL", Documented, "replies pass, and a change meets new flows only";
    NsgFlush = "NSG-FLUSH-CONNECTION", Inferred, "with flushConnection, live flows pass only as long as the present rules allow them";
    NsgUntracked = "NSG-UNTRACKED-TCP", Inferred, "without TCP state tracking each TCP packet is judged by itself";
    NsgPlatformTag = "NSG-PLATFORM-TAG", Documented, "rules that name a platform tag judge packets for the platform";
    NsgProbe = "NSG-PROBE", Documented, "health probes from 168.63.129.16 are judged as any packet";
    NsgAsg = "NSG-APPLICATION-GROUP", Documented, "an application security group stands for the addresses of its NICs";
    NsgServiceTag = "NSG-SERVICE-TAG", Documented, "a service tag stands for its published prefixes";
    NsgTagVnet = "NSG-TAG-VIRTUALNETWORK", Documented, "VirtualNetwork holds own, peered and gateway ranges and 168.63.129.16";
    NsgTagUserRoute = "NSG-TAG-USER-ROUTES", Inferred, "VirtualNetwork holds the prefixes of the subnet's user routes, 0.0.0.0/0 too";
    NsgTagInternet = "NSG-TAG-INTERNET", Documented, "Internet holds public addresses outside the network";
    NsgPublicNeedsNsg = "NSG-PUBLIC-NEEDS-NSG", Documented, "a Standard public address receives nothing without a security group";
    FirewallOrder = "FIREWALL-ORDER", Documented, "parent first, groups and collections by priority, rules as written";
    FirewallDefault = "FIREWALL-DEFAULT-DENY", Documented, "what no rule allows is denied";
    FirewallStateful = "FIREWALL-STATEFUL", Documented, "replies of an allowed flow pass";
    FirewallReevaluate = "FIREWALL-REEVALUATE", Documented, "a change to deny ends live sessions";
    FirewallNoSession = "FIREWALL-NO-SESSION", Documented, "a firewall must see both directions of a TCP flow";
    FirewallSnat = "FIREWALL-SNAT", Documented, "towards addresses that are not private a firewall translates the source to its own";
    FirewallSnatPorts = "FIREWALL-SNAT-PORTS", Documented, "2,496 ports for each public address and instance, towards each destination";
    FirewallSnatProtocols = "FIREWALL-SNAT-PROTOCOLS", Documented, "only TCP and UDP leave a firewall to the Internet";
    FirewallForcedTunnel = "FIREWALL-FORCED-TUNNEL", Documented, "a firewall without a public address has no way to the Internet of its own";
    VpnTable = "VPN-TABLE", Documented, "a gateway routes by its connections' prefixes";
    VpnStatic = "VPN-STATIC", Documented, "without BGP a Vnet2Vnet connection knows the other network's own ranges only";
    VpnRefused = "VPN-REFUSED", Documented, "a gateway refuses to learn ranges of its own side";
    VpnSource = "VPN-SOURCE", Inferred, "a tunnel's end takes sources of its connection's prefixes only";
    VpnClient = "VPN-CLIENT", Documented, "a client of point-to-site VPN has an address of the gateway's pool, and reaches the gateway's networks";
    VpnStatus = "VPN-STATUS", Documented, "packets pass a connected tunnel only";
    VpnMss = "VPN-MSS", Documented, "the gateway clamps MSS to 1360 and 1340";
    VpnMtu = "VPN-MTU", Documented, "the tunnel takes packets of 1400 bytes";
    VpnSku = "VPN-SKU", Documented, "the SKU bounds throughput, in sum and for each tunnel";
    VpnPolicy = "VPN-IPSEC-POLICY", Documented, "two sides connect where their IPsec and IKE proposals have one in common";
    VpnSelectors = "VPN-SELECTORS", Documented, "the side that starts proposes what a tunnel carries, and a gateway takes any";
    VpnFailover = "VPN-FAILOVER", Documented, "a gateway is two instances; one that fails interrupts its own tunnels";
    VpnEcmp = "VPN-ECMP", Documented, "tunnels to the same prefix share the flows, each of which keeps to one";
    VpnDefaultSite = "VPN-DEFAULT-SITE", Documented, "gatewayDefaultSite sends what no other route takes to a site";
    VpnNatStatic = "VPN-NAT-STATIC", Documented, "a static NAT rule translates address by address, whoever begins";
    VpnNatDynamic = "VPN-NAT-DYNAMIC", Documented, "a dynamic NAT rule translates by ports, for sessions from its internal side";
    VpnHop = "VPN-HOP", Disputed, "whether a gateway shows as a hop";
    SiteRoute = "SITE-ROUTE", Inferred, "a built-in device routes into the tunnel what the gateway would advertise";
    EgressPublicAddress = "EGRESS-PUBLIC-ADDRESS", Documented, "a public address of a NIC stands for its private one";
    EgressOrder = "EGRESS-ORDER", Documented, "NAT gateway, then public address, then default outbound access; a flow keeps its way";
    EgressNatGateway = "EGRESS-NAT-GATEWAY", Documented, "a NAT gateway translates what its subnets send to the Internet";
    EgressNatProtocols = "EGRESS-NAT-PROTOCOLS", Documented, "a Standard NAT gateway takes TCP and UDP, StandardV2 ICMP too";
    EgressPortReuse = "EGRESS-PORT-REUSE", Documented, "64,512 ports of each address, each used once towards a destination";
    EgressNoInbound = "EGRESS-NO-INBOUND", Documented, "translation by ports takes answers only";
    EgressDefaultOutbound = "EGRESS-DEFAULT-OUTBOUND", Documented, "default outbound access takes whole TCP and UDP packets over IPv4";
    EgressPrivateSubnet = "EGRESS-PRIVATE-SUBNET", Documented, "a private subnet has no default outbound access";
    EgressOwnSource = "EGRESS-OWN-SOURCE", Inferred, "the Internet is reached from a NIC's own addresses only";
    EgressHairpin = "EGRESS-HAIRPIN", Inferred, "a packet for a public address of the same lab turns round at the internet edge";
    EgressServiceEndpoint = "EGRESS-SERVICE-ENDPOINT", Documented, "by a service endpoint the service sees the private source";
    LatencyRegion = "LATENCY-REGION", Documented, "latency between regions is the published median";
    LatencyZone = "LATENCY-ZONE", Inferred, "0.3 ms inside a zone, 1 ms between zones";
}

impl AzureRule {
    /// What stands behind a drop that no decision made but the packet's way: for its size, its fragments or its flow.
    pub fn of_drop(reason: Reason) -> Option<AzureRule> {
        match reason {
            Reason::PacketTooBig => Some(AzureRule::FabricMtu),
            Reason::FragmentOutOfOrder => Some(AzureRule::FabricFragments),
            Reason::FlowLimit => Some(AzureRule::FabricFlows),
            Reason::TtlExceeded => Some(AzureRule::FabricTtl),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn documented_ids() -> Vec<String> {
        let text = include_str!("../../docs/AZURE-RULES.md");
        text.lines().filter_map(|line| line.strip_prefix("### ")).map(|id| id.trim().to_owned()).collect()
    }

    #[test]
    fn every_rule_is_documented_and_every_documented_rule_exists() {
        let mut documented = documented_ids();
        let mut coded: Vec<String> = AzureRule::ALL.iter().map(|rule| rule.id().to_owned()).collect();
        documented.sort();
        coded.sort();
        assert_eq!(documented, coded);
    }

    #[test]
    fn the_documented_certainty_is_the_coded_one() {
        let text = include_str!("../../docs/AZURE-RULES.md");
        for rule in AzureRule::ALL {
            let section = text
                .split("### ")
                .find(|section| section.lines().next().map(str::trim) == Some(rule.id()))
                .unwrap();
            let line = section.lines().find_map(|line| line.strip_prefix("- Certainty: ")).unwrap();
            assert_eq!(
                line.trim().to_lowercase(),
                format!("{:?}", rule.certainty()).to_lowercase(),
                "{}",
                rule.id()
            );
        }
    }

    #[test]
    fn all_is_indexed_by_discriminant() {
        for (index, rule) in AzureRule::ALL.iter().enumerate() {
            assert_eq!(*rule as usize, index);
        }
    }

    /// The text of every source and test file of this package.
    fn sources(folder: &std::path::Path, text: &mut String) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, text);
            } else {
                text.push_str(&std::fs::read_to_string(&path).unwrap());
            }
        }
    }

    #[test]
    fn every_documented_test_exists() {
        let own = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut code = String::new();
        for folder in ["src", "tests", "../dataplane/src", "../router/tests"] {
            sources(&own.join(folder), &mut code);
        }
        let text = include_str!("../../docs/AZURE-RULES.md");
        let tests =
            text.lines().filter_map(|line| line.strip_prefix("- Test: ")).flat_map(|line| line.split(", "));
        for test in tests {
            let name = test.trim_matches('`');
            assert!(code.contains(&format!("fn {name}()")), "no test is called {name}");
        }
    }
}
