//! Gateways, circuits, route servers and clients as a file writes them: what is read, and what is refused until it runs.

use std::net::IpAddr;

use vnet_config::{
    Attachments, PENDING, Topology, load_ahead, load_with,
    model::{
        CircuitTier, ConnectionProtocol, DhGroup, HubRoutingPreference, IpsecEncryption, NatMode, NatType,
        PfsGroup, PortRange, VpnClientProtocol,
    },
    refused_changes,
};

const ALL: &str = "
name: lab
virtualNetworks:
  hub:
    addressSpace: [10.0.0.0/16]
    subnets: {GatewaySubnet: 10.0.255.0/26, RouteServerSubnet: 10.0.254.0/26, s: 10.0.1.0/24}
    summarizedGatewayPrefixes: [10.0.0.0/15]
    enableDdosProtection: true
    ddosProtectionPlan: {id: /subscriptions/0/plans/plan}
  far: {addressSpace: [10.9.0.0/16], subnets: {GatewaySubnet: 10.9.255.0/27}}
ddosProtectionPlans: {plan: {}}
publicIPAddresses: {first: 198.51.100.10}
virtualNetworkGateways:
  vpn:
    virtualNetwork: hub
    sku: VpnGw2AZ
    activeActive: true
    publicIPAddresses: [first, 198.51.100.11]
    enableBgp: true
    bgpSettings:
      asn: 65515
      bgpPeeringAddresses:
        - {ipconfigurationId: first, customBgpIpAddresses: [169.254.21.1, 169.254.21.5]}
        - {customBgpIpAddresses: [169.254.22.255]}
    natRules:
      - {name: hub, internalMappings: [10.0.1.0/24], externalMappings: [192.168.1.0/24]}
      - {name: one, mode: IngressSnat, internalMappings: [10.0.1.0/24], externalMappings: [192.168.2.0/24]}
      - {name: two, mode: IngressSnat, internalMappings: {addressSpace: 10.0.1.0/24}, externalMappings: {addressSpace: 192.168.3.0/24}}
      - {name: many, type: Dynamic, internalMappings: [10.0.0.0/16], externalMappings: [{addressSpace: 192.168.4.0/26, portRange: 1024-2047}], ipConfigurationId: first}
    enableBgpRouteTranslationForNat: true
    gatewayDefaultSite: one
    vpnClientConfiguration: {vpnClientAddressPool: [172.16.0.0/24], vpnClientProtocols: [openvpn, ikev2]}
  er: {virtualNetwork: hub, gatewayType: ExpressRoute, sku: ErGw3AZ, allowRemoteVnetTraffic: true, allowVirtualWanTraffic: true}
  far: {virtualNetwork: far, sku: VpnGw1AZ, publicIPAddress: 198.51.100.12, enableBgp: true, bgpSettings: {asn: 65010}}
localNetworkGateways:
  one: {gatewayIpAddress: 198.51.100.201, localNetworkAddressSpace: [10.0.1.0/24]}
  two: {gatewayIpAddress: 198.51.100.202, localNetworkAddressSpace: [10.0.1.0/24]}
  three: {gatewayIpAddress: 198.51.100.203, bgpSettings: {asn: 4200000000, bgpPeeringAddress: 169.254.21.2}}
connections:
  one: {connectionType: IPsec, virtualNetworkGateway1: vpn, localNetworkGateway2: one, sharedKey: k, egressNatRules: [hub], ingressNatRules: [one], connectionProtocol: IKEv1, dpdTimeoutSeconds: 9}
  two: {connectionType: IPsec, virtualNetworkGateway1: vpn, localNetworkGateway2: two, sharedKey: k, egressNatRules: [HUB], ingressNatRules: [two], connectionMode: ResponderOnly}
  three:
    connectionType: IPsec
    virtualNetworkGateway1: vpn
    localNetworkGateway2: three
    sharedKey: k
    enableBgp: true
    gatewayCustomBgpIpAddresses: [{customBgpIpAddress: 169.254.21.1, ipConfigurationId: first}, 169.254.22.255]
    ipsecPolicies: {ikeEncryption: gcmaes256, ikeIntegrity: SHA384, dhGroup: DHGroup2048, ipsecEncryption: GCMAES192, ipsecIntegrity: GCMAES192, pfsGroup: PFS2048}
    trafficSelectorPolicies: [{localAddressRanges: 10.0.0.0/16, remoteAddressRanges: [192.168.9.0/24]}]
  there: {connectionType: Vnet2Vnet, virtualNetworkGateway1: vpn, virtualNetworkGateway2: far, sharedKey: k, enableBgp: true}
  back: {connectionType: Vnet2Vnet, virtualNetworkGateway1: far, virtualNetworkGateway2: vpn, sharedKey: k, enableBgp: true}
  private: {connectionType: ExpressRoute, virtualNetworkGateway1: er, peer: {id: /subscriptions/0/circuits/c}, routingWeight: 32000}
expressRouteCircuits:
  c:
    skuTier: Premium
    peeringLocation: Amsterdam
    bandwidthInMbps: 500
    peerings:
      AzurePrivatePeering:
        peerASN: 65020
        primaryPeerAddressPrefix: 172.30.0.0/30
        secondaryPeerAddressPrefix: 172.30.0.4/30
        vlanId: 100
        ipv6PeeringConfig: {primaryPeerAddressPrefix: fd00::/126, secondaryPeerAddressPrefix: fd00::4/126}
routeServers:
  rs: {virtualNetwork: hub, publicIPAddress: 198.51.100.20, allowBranchToBranchTraffic: true, hubRoutingPreference: ASPath, bgpConnections: {nva: {peerIp: 10.0.1.4, peerAsn: 65030}}}
vpnClients:
  laptop: {gateway: vpn, location: West Europe, publicIPAddress: 203.0.113.9, tags: {team: road}}
  lost: {gateway: vpn, revoked: true}
virtualMachines: {nva: {subnet: hub/s}}
onPremisesSites:
  one: {addressSpace: [10.0.1.0/24], vpnDevice: {publicIPAddress: 198.51.100.201}, expressRoute: [{circuit: c}]}
  two: {addressSpace: [10.0.1.0/24], vpnDevice: {publicIPAddress: 198.51.100.202}}
  three: {addressSpace: [192.168.9.0/24], vpnDevice: {publicIPAddress: 198.51.100.203, bgp: {asn: 4200000000, address: 169.254.21.2}}}
expect: [{from: laptop, to: nva, verdict: allow}, {from: tag:road, to: nva, verdict: allow}]
";

fn ahead(text: &str) -> (Topology, Vec<String>) {
    let loaded = load_ahead(text, "ahead.yaml", &Attachments::default());
    let loaded = loaded.unwrap_or_else(|found| panic!("{found}"));
    let rules = loaded.warnings.iter().map(|found| found.rule.to_string());
    (loaded.topology, rules.collect())
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

#[test]
fn all_of_it_is_read() {
    let (topology, mut warnings) = ahead(ALL);
    warnings.sort();
    warnings.dedup();
    assert_eq!(warnings, ["express-route-gateway", "selectors-without-effect"]);
    let vpn = &topology.virtual_network_gateways["vpn"];
    assert_eq!(
        (vpn.instance_of(&topology, "first"), vpn.instance_of(&topology, "198.51.100.11")),
        (Some(0), Some(1))
    );
    assert_eq!(vpn.instance_of(&topology, "198.51.100.12"), None);
    let settings = vpn.bgp_settings.as_ref().expect("a BGP speaker");
    assert_eq!(settings.bgp_peering_addresses[1].custom_bgp_ip_addresses, [address("169.254.22.255")]);
    let many = vpn.nat_rule("MANY").expect("a rule");
    assert_eq!((many.nat_type, many.mode), (NatType::Dynamic, NatMode::EgressSnat));
    assert_eq!(many.external_mappings[0].port_range, Some(PortRange { from: 1024, to: 2047 }));
    assert_eq!(vpn.gateway_default_site.as_deref(), Some("one"));
    let clients = vpn.vpn_client_configuration.as_ref().expect("clients");
    assert_eq!(clients.vpn_client_protocols, [VpnClientProtocol::OpenVpn, VpnClientProtocol::IkeV2]);

    let three = &topology.connections["three"];
    let policy = three.ipsec_policies[0];
    assert_eq!((policy.dh_group, policy.pfs_group), (DhGroup::Group14, PfsGroup::Pfs14));
    assert_eq!(policy.ipsec_encryption, IpsecEncryption::GcmAes192);
    assert_eq!((policy.sa_lifetime_seconds, policy.sa_data_size_kilobytes), (27_000, 102_400_000));
    assert_eq!(three.gateway_custom_bgp_ip_addresses[1].custom_bgp_ip_address, address("169.254.22.255"));
    assert_eq!(three.traffic_selector_policies[0].local_address_ranges.len(), 1);
    let one = &topology.connections["one"];
    assert_eq!(
        (one.connection_protocol, one.dpd_timeout_seconds),
        (Some(ConnectionProtocol::IkeV1), Some(9))
    );
    assert_eq!(topology.connections["private"].peer.as_deref(), Some("c"));

    let circuit = &topology.express_route_circuits["c"];
    assert_eq!(
        (circuit.sku_tier, circuit.networks_max(), circuit.prefixes_max()),
        (CircuitTier::Premium, Some(40), 10_000)
    );
    let server = &topology.route_servers["rs"];
    assert_eq!(server.hub_routing_preference, HubRoutingPreference::AsPath);
    assert_eq!(server.bgp_connections["nva"].peer_asn, 65_030);
    assert_eq!(topology.vpn_clients["laptop"].location.as_deref(), Some("westeurope"));
    assert!(topology.vpn_clients["lost"].revoked);
    let hub = &topology.virtual_networks["hub"];
    assert_eq!((hub.ddos_protection_plan.as_deref(), hub.enable_ddos_protection), (Some("plan"), true));
    assert_eq!(hub.summarized_gateway_prefixes.len(), 1);
}

#[test]
fn what_is_read_is_written_as_it_was() {
    let (mut topology, _) = ahead(ALL);
    // Secrets are not written.
    topology.connections.values_mut().for_each(|connection| connection.shared_key = None);
    let json = serde_json::to_string(&topology).expect("JSON");
    let again: Topology = serde_json::from_str(&json).expect("the topology");
    assert_eq!(again, topology);
}

#[test]
fn until_it_runs_each_part_is_refused_where_it_stands() {
    let found = load_with(ALL, "ahead.yaml", &Attachments::default()).expect_err("nothing runs it yet");
    let said = found.to_string();
    let pending = |rule: &str| ["reserved-name", "not-supported-yet"].contains(&rule);
    let lines: Vec<&str> = ALL.lines().collect();
    for row in
        PENDING.iter().filter(|row| row.value.is_none() && row.property != "usePolicyBasedTrafficSelectors")
    {
        let is_told = found.list.iter().filter(|found| pending(&found.rule)).any(|found| {
            let line = lines[found.line as usize - 1];
            line.chars().skip(found.column as usize - 1).collect::<String>().starts_with(row.property)
                || found.path.ends_with(row.property)
        });
        assert!(is_told, "{row:?}\n{said}");
    }
}

#[test]
fn a_route_server_holds_its_subnet() {
    let (before, _) = ahead(ALL);
    let (after, _) = ahead(&ALL.replace("10.0.254.0/26", "10.0.253.0/26"));
    let found = refused_changes(&before, &after);
    let paths: Vec<&str> = found.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(paths, ["virtualNetworks.hub.subnets.RouteServerSubnet.addressPrefixes"]);
}
