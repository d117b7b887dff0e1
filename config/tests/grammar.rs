//! Short forms, defaults and names that give way to what they stand for.

use std::{fs, net::IpAddr, path::PathBuf};

use vnet_config::{
    Attachments, ChangeKind, Finding, Loaded, Severity, diff, load, load_with,
    model::{
        DefaultOutbound, DisablePeeringRoute, InternetEgress, NatGatewaySku, NextHopType,
        PrivateEndpointNetworkPolicies, PublicIpSku, RegionLatency, ServiceEndpoint, TagDefaultRoute,
        Topology,
    },
};

fn loaded(text: &str) -> Loaded {
    load(text, "test.yaml", None).unwrap_or_else(|found| panic!("{found}"))
}

fn topology(text: &str) -> Topology {
    loaded(text).topology
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

const EGRESS: &str = "
name: lab
virtualNetworks:
  hub:
    addressSpace: [10.0.0.0/16]
    flowTimeoutInMinutes: 10
    subnets:
      a: {addressPrefix: 10.0.0.0/24, natGateway: nat, serviceEndpoints: [Microsoft.Storage, {service: Microsoft.Sql, locations: [westeurope, francecentral]}]}
      b: {addressPrefix: 10.0.1.0/24, defaultOutboundAccess: false, privateEndpointNetworkPolicies: RouteTableEnabled}
      AzureFirewallSubnet: 10.0.2.0/26
      GatewaySubnet: 10.0.3.0/27
publicIPAddresses:
  web: 203.0.113.10
  fw: {ipAddress: 203.0.113.20, sku: {name: Standard, tier: Regional}}
  gw: {ipAddress: 203.0.113.30, tags: {team: network}}
  out: {ipAddress: 203.0.113.40, sku: StandardV2}
virtualMachines:
  web: {subnet: hub/a, publicIPAddress: web}
  plain: {subnet: hub/a, publicIPAddresses: [203.0.113.11], enableAcceleratedNetworking: false, disableTcpStateTracking: true}
azureFirewalls: {fw: {virtualNetwork: hub, publicIPAddresses: [fw, 203.0.113.21]}}
virtualNetworkGateways: {gw: {virtualNetwork: hub, sku: VpnGw1AZ, publicIPAddress: gw}}
natGateways: {nat: {sku: StandardV2, publicIPAddresses: [out]}}
privateEndpoints: {store: {subnet: hub/b, privateIPAddress: 10.0.1.9, privateLinkServiceConnection: a storage account}}
routeTables:
  t:
    disablePeeringRoute: All
    routes:
      - {name: several, addressPrefix: 10.9.0.0/16, nextHopType: VirtualApplianceEcmp, nextHop: {nextHopIpAddresses: [10.0.1.4, 10.0.1.5]}}
      - {name: one, addressPrefix: Storage, nextHopType: VirtualAppliance, nextHopIpAddress: 10.0.1.4}
serviceTags: {Storage: 20.60.0.0/16, Sql.WestEurope: [40.68.37.158/32, 20.60.0.0/24], sql.centralfrance: [40.79.137.0/27]}
internet: {egress: host}
semantics: {virtualNetworkTagDefaultRoute: exclude, defaultOutbound: disabled}
";

#[test]
fn names_of_public_addresses_become_addresses() {
    let topology = topology(EGRESS);
    let nic = |machine: &str| &topology.virtual_machines[machine].network_interfaces[0];
    assert_eq!(nic("web").public_ip_addresses, [address("203.0.113.10")]);
    assert_eq!(nic("plain").public_ip_addresses, [address("203.0.113.11")]);
    assert_eq!(
        topology.azure_firewalls["fw"].public_ip_addresses,
        [address("203.0.113.20"), address("203.0.113.21")]
    );
    assert_eq!(topology.virtual_network_gateways["gw"].public_ip_addresses, [address("203.0.113.30")]);
    assert_eq!(topology.nat_gateways["nat"].public_ip_addresses, [address("203.0.113.40")]);
    assert_eq!(topology.public_ip_sku(address("203.0.113.40")), PublicIpSku::StandardV2);
    assert_eq!(topology.public_ip_sku(address("203.0.113.11")), PublicIpSku::Standard);
}

#[test]
fn the_ways_out_have_their_properties_and_defaults() {
    let written = topology(EGRESS);
    let hub = &written.virtual_networks["hub"];
    let nic = |machine: &str| &written.virtual_machines[machine].network_interfaces[0];
    assert_eq!(hub.flow_timeout_in_minutes, Some(10));
    assert_eq!(hub.subnets["a"].nat_gateway.as_deref(), Some("nat"));
    let (web, plain) = (nic("web"), nic("plain"));
    assert!(web.enable_accelerated_networking && !web.disable_tcp_state_tracking);
    assert!(!plain.enable_accelerated_networking && plain.disable_tcp_state_tracking);
    let nat = &written.nat_gateways["nat"];
    assert_eq!((nat.sku, nat.idle_timeout_in_minutes), (NatGatewaySku::StandardV2, 4));
    let endpoint = &written.private_endpoints["store"];
    assert_eq!(endpoint.private_ip_address, Some(address("10.0.1.9")));
    assert_eq!(endpoint.private_link_service_connection.as_deref(), Some("a storage account"));
    let policies = hub.subnets["b"].private_endpoint_network_policies;
    assert_eq!(policies, PrivateEndpointNetworkPolicies::RouteTableEnabled);
    assert!(policies.applies_routes() && !policies.applies_nsg());
    assert_eq!(written.internet.egress, InternetEgress::Host);
    assert_eq!(written.semantics.virtual_network_tag_default_route, TagDefaultRoute::Exclude);
    assert!(!written.default_outbound_access(&hub.subnets["a"]));

    let plain =
        topology("name: lab\nvirtualNetworks: {v: {addressSpace: [10.0.0.0/16], subnets: {a: 10.0.0.0/24}}}");
    let subnet = &plain.virtual_networks["v"].subnets["a"];
    assert_eq!(subnet.private_endpoint_network_policies, PrivateEndpointNetworkPolicies::Disabled);
    assert!(plain.default_outbound_access(subnet));
    assert_eq!(plain.internet.egress, InternetEgress::None);
    assert_eq!(plain.semantics.virtual_network_tag_default_route, TagDefaultRoute::Include);
    assert_eq!(plain.semantics.default_outbound, DefaultOutbound::Enabled);
}

#[test]
fn regions_have_one_spelling() {
    let topology = topology(
        "
name: lab
location: East US
virtualNetworks: {v: {addressSpace: [10.0.0.0/16], location: WestUS2, subnets: {a: {addressPrefix: 10.0.0.0/24, routeTable: t}}}}
routeTables: {t: {location: West US 2}}
regions: {latency: {East US: {westus2: 70}}}
",
    );
    assert_eq!(topology.location, "eastus");
    assert_eq!(topology.virtual_networks["v"].location.as_deref(), Some("westus2"));
    assert_eq!(topology.route_tables["t"].location.as_deref(), Some("westus2"));
    let RegionLatency::Table(table) = &topology.regions.latency else { panic!("no table") };
    assert_eq!(table["eastus"]["westus2"], 70.0);
}

#[test]
fn references_are_taken_as_rest_writes_them() {
    let id = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Network";
    let text = format!(
        "
name: lab
virtualNetworks:
  v:
    addressSpace: {{addressPrefixes: [10.0.0.0/16]}}
    subnets:
      a: {{addressPrefix: 10.0.0.0/24, routeTable: {{id: {id}/routeTables/t}}, networkSecurityGroup: {{id: n}}, natGateway: {{id: {id}/natGateways/g}}}}
virtualMachines: {{m: {{subnet: v/a, networkSecurityGroup: {{id: {id}/networkSecurityGroups/n}}}}}}
routeTables: {{t: {{}}}}
networkSecurityGroups: {{n: {{}}}}
natGateways: {{g: {{publicIPAddress: 203.0.113.10}}}}
"
    );
    let topology = topology(&text);
    let subnet = &topology.virtual_networks["v"].subnets["a"];
    assert_eq!(subnet.route_table.as_deref(), Some("t"));
    assert_eq!(subnet.network_security_group.as_deref(), Some("n"));
    assert_eq!(subnet.nat_gateway.as_deref(), Some("g"));
    let nic = &topology.virtual_machines["m"].network_interfaces[0];
    assert_eq!(nic.network_security_group.as_deref(), Some("n"));
}

#[test]
fn a_route_names_its_appliances_by_its_type() {
    let topology = topology(EGRESS);
    let table = &topology.route_tables["t"];
    assert_eq!(table.disable_peering_route, DisablePeeringRoute::All);
    assert_eq!(table.routes[0].next_hop_type, NextHopType::VirtualApplianceEcmp);
    assert_eq!(table.routes[0].appliances(), [address("10.0.1.4"), address("10.0.1.5")]);
    assert_eq!(table.routes[1].appliances(), [address("10.0.1.4")]);
}

#[test]
fn endpoints_have_the_prefixes_of_their_tags() {
    let topology = topology(EGRESS);
    let endpoints = &topology.virtual_networks["hub"].subnets["a"].service_endpoints;
    assert_eq!(
        endpoints[0],
        ServiceEndpoint { service: "Microsoft.Storage".to_owned(), locations: Vec::new() }
    );
    let prefixes = |endpoint: &ServiceEndpoint| -> Vec<String> {
        topology.endpoint_prefixes(endpoint).iter().map(ToString::to_string).collect()
    };
    assert_eq!(prefixes(&endpoints[0]), ["20.60.0.0/16"]);
    // The tag of francecentral is called Sql.CentralFrance.
    assert_eq!(prefixes(&endpoints[1]), ["20.60.0.0/24", "40.68.37.158/32", "40.79.137.0/27"]);
    assert_eq!(endpoints[1].tags(), ["Sql.westeurope", "Sql.francecentral"]);
    let vault = ServiceEndpoint { service: "Microsoft.KeyVault".to_owned(), locations: Vec::new() };
    assert_eq!(vault.tags(), ["AzureKeyVault"]);
    assert_eq!(topology.service_tag_prefixes("STORAGE").map(<[_]>::len), Some(1));
    assert_eq!(topology.service_tag_prefixes("Storage.EastUS"), None);
}

/// A folder of its own, gone when the test is over.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("vnet-config-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const PUBLISHED: &str = r#"{"changeNumber": 1, "cloud": "Public", "values": [
    {"name": "Storage", "id": "Storage", "properties": {"region": "", "addressPrefixes": ["20.60.0.0/16", "2603:1000::1/40"]}},
    {"name": "Storage.EastUS", "id": "Storage.EastUS", "properties": {"region": "eastus", "addressPrefixes": ["20.60.1.0/24"]}},
    {"name": "AzureCloud", "id": "AzureCloud", "properties": {"addressPrefixes": ["20.0.0.0/8"]}},
    {"name": "Sql", "id": "Sql", "properties": {"addressPrefixes": ["40.68.0.0/16"]}}]}"#;

const USES_PUBLISHED: &str = "
name: lab
routeTables: {t: {routes: [{name: a, addressPrefix: storage.eastus, nextHopType: Internet}]}}
networkSecurityGroups: {n: {securityRules: [{name: a, priority: 100, direction: Outbound, access: Allow, protocol: Tcp, sourceAddressPrefix: '*', destinationAddressPrefix: Storage}]}}
virtualNetworks: {v: {addressSpace: [10.0.0.0/16], subnets: {a: {addressPrefix: 10.0.0.0/24, serviceEndpoints: [Microsoft.Sql]}}}}
serviceTags: {file: tags.json, Sql: [203.0.113.0/24]}
";

#[test]
fn the_published_list_is_read_as_far_as_it_is_used() {
    let folder = Folder::new("tags");
    fs::write(folder.0.join("tags.json"), PUBLISHED).expect("a file");
    let here = load(USES_PUBLISHED, "test.yaml", Some(&folder.0)).expect("it loads");
    assert!(here.warnings.is_empty(), "{:?}", here.warnings);
    let tags = &here.topology.service_tags;
    let names: Vec<&str> = tags.tags().map(|(name, _)| name).collect();
    assert_eq!(names, ["Sql", "Storage", "Storage.EastUS"]);
    let storage: Vec<String> =
        tags.prefixes("Storage").expect("prefixes").iter().map(ToString::to_string).collect();
    assert_eq!(storage, ["20.60.0.0/16", "2603:1000::/40"]);
    // What the topology writes itself stands before the list.
    assert_eq!(
        tags.prefixes("Sql").map(|prefixes| prefixes[0].to_string()).as_deref(),
        Some("203.0.113.0/24")
    );

    let attachments = here.topology.attachments();
    assert!(attachments.files["tags.json"].len() < PUBLISHED.len());
    let there = load_with(USES_PUBLISHED, "test.yaml", &attachments).expect("it loads").topology;
    assert_eq!(here.topology, there);

    let changed = PUBLISHED.replace("20.60.1.0/24", "20.60.2.0/24");
    fs::write(folder.0.join("tags.json"), changed).expect("a file");
    let after = load(USES_PUBLISHED, "test.yaml", Some(&folder.0)).expect("it loads").topology;
    let changes: Vec<String> = diff(&here.topology, &after).iter().map(ToString::to_string).collect();
    assert_eq!(changes, ["~ serviceTags.file: (content) -> (content)"]);
}

#[test]
fn a_file_that_is_no_published_list_is_refused_where_it_is_named() {
    for (content, wanted) in [
        ("[]", "not Microsoft's list"),
        (
            r#"{"values": [{"name": "Storage", "properties": {"addressPrefixes": ["10.0.0.0/33"]}}]}"#,
            "which is no prefix",
        ),
    ] {
        let mut attachments = Attachments::default();
        attachments.files.insert("tags.json".to_owned(), content.as_bytes().to_vec());
        let found = load_with(USES_PUBLISHED, "test.yaml", &attachments).expect_err("it is refused");
        let error = found.list.iter().find(|found| found.rule == "external").expect("a finding");
        assert!(error.message.contains(wanted), "{error}");
        assert_eq!((error.path.as_str(), error.line), ("serviceTags.file", 6));
    }
}

#[test]
fn changes_of_the_ways_out_are_named() {
    let before = topology(EGRESS);
    let cases = [
        (
            "web: 203.0.113.10",
            "web: 203.0.113.12",
            vec![
                "~ virtualMachines.web.networkInterfaces.eth0.publicIPAddresses: [\"203.0.113.10\"] -> [\"203.0.113.12\"]",
                "~ publicIPAddresses.web.ipAddress: 203.0.113.10 -> 203.0.113.12",
            ],
        ),
        (
            "natGateways: {nat: {sku",
            "natGateways: {nat: {idleTimeoutInMinutes: 30, sku",
            vec!["~ natGateways.nat.idleTimeoutInMinutes: 4 -> 30"],
        ),
        (
            "Storage: 20.60.0.0/16",
            "Storage: 20.61.0.0/16",
            vec!["~ serviceTags.Storage: [\"20.60.0.0/16\"] -> [\"20.61.0.0/16\"]"],
        ),
        ("egress: host", "egress: none", vec!["~ internet.egress: host -> none"]),
        ("10.0.1.9", "10.0.1.10", vec!["~ privateEndpoints.store.privateIPAddress: 10.0.1.9 -> 10.0.1.10"]),
        (
            "[10.0.1.4, 10.0.1.5]",
            "[10.0.1.4, 10.0.1.6]",
            vec![
                "~ routeTables.t.routes.several.nextHop.nextHopIpAddresses: [\"10.0.1.4\",\"10.0.1.5\"] -> [\"10.0.1.4\",\"10.0.1.6\"]",
            ],
        ),
    ];
    for (from, to, expected) in cases {
        assert!(EGRESS.contains(from), "{from}");
        let changes = diff(&before, &topology(&EGRESS.replacen(from, to, 1)));
        assert!(changes.iter().all(|change| change.kind == ChangeKind::Update));
        let said: Vec<String> = changes.iter().map(ToString::to_string).collect();
        assert_eq!(said, expected);
    }
}

#[test]
fn others_add_findings_with_places() {
    let loaded = loaded(EGRESS);
    let finding = Finding::warning("dead-next-hop", "nothing is at 10.0.1.5")
        .azure_rule("NEXTHOP-REACHABLE")
        .help("name an appliance");
    let path = "routeTables.t.routes[0].nextHop.nextHopIpAddresses[1]";
    let found = loaded.finding_at(path, finding.clone());
    let line = EGRESS.lines().position(|line| line.contains("name: several")).expect("the line") + 1;
    let column = EGRESS.lines().nth(line - 1).and_then(|line| line.find("10.0.1.5")).expect("the column") + 1;
    assert_eq!((found.line as usize, found.column as usize, found.length), (line, column, 8));
    assert_eq!(loaded.source.place(path), (found.line, found.column));
    assert_eq!((found.path.as_str(), found.origin.as_str()), (path, "test.yaml"));
    assert_eq!(found.azure_rule.as_deref(), Some("NEXTHOP-REACHABLE"));
    assert_eq!(found.severity, Severity::Warning);
    assert!(found.to_string().starts_with("warning[dead-next-hop]: nothing is at 10.0.1.5"), "{found}");

    // A path that the text does not have is placed at what is around it.
    let nowhere = loaded.finding_at("routeTables.t.routes[9].name", finding.clone());
    assert!(nowhere.line > 0 && nowhere.line < found.line, "{nowhere}");
    let all = loaded.source.findings([
        (path.to_owned(), finding.clone()),
        ("virtualNetworks.hub".to_owned(), finding.clone()),
        (path.to_owned(), finding),
    ]);
    let lines: Vec<u32> = all.list.iter().map(|found| found.line).collect();
    assert_eq!(lines, [4, found.line]);
}

#[test]
fn a_finding_shows_no_shared_key() {
    let text = "
name: lab
virtualNetworks: {hub: {addressSpace: [10.0.0.0/16], subnets: {GatewaySubnet: 10.0.1.0/27}}}
virtualNetworkGateways: {gw: {virtualNetwork: hub, sku: VpnGw1AZ, publicIPAddress: 198.51.100.10}}
localNetworkGateways: {hq: {gatewayIpAddress: 198.51.100.200}}
onPremisesSites: {hq: {addressSpace: [192.168.0.0/16], vpnDevice: {publicIPAddress: 198.51.100.200, sharedKey: 'hidden, too'}}}
connections:
  a: {connectionType: IPsec, virtualNetworkGateway1: gw, localNetworkGateway2: hq, sharedKey: hidden-value}
  b: {connectionType: IPsec, virtualNetworkGateway1: gw, localNetworkGateway2: hq, sharedKey: {env: VNET_TEST_KEY}}
";
    let mut attachments = Attachments::default();
    attachments.env.insert("VNET_TEST_KEY".to_owned(), "hidden in the environment".to_owned());
    let found = load_with(text, "test.yaml", &attachments).expect_err("a pair is connected twice");
    assert_eq!(found.list[0].rule, "connection-twice");
    let one = text
        .replace("localNetworkGateway2: hq, sharedKey: {env", "localNetworkGateway2: hr, sharedKey: {env");
    let one = one.replace(
        "{hq: {gatewayIpAddress: 198.51.100.200}}",
        "{hq: {gatewayIpAddress: 198.51.100.200}, hr: {gatewayIpAddress: 198.51.100.201}}",
    );
    let loaded = load_with(&one, "test.yaml", &attachments).expect("it loads");
    let finding = || Finding::warning("some-lint", "something").help("do something");
    for path in ["connections.a", "connections.a.sharedKey", "onPremisesSites.hq", "connections.b"] {
        let shown = loaded.finding_at(path, finding()).to_string();
        assert!(shown.contains("sharedKey") && !shown.contains("hidden"), "{shown}");
        // What marks the place stays where it was.
        let found = loaded.finding_at("connections.a.localNetworkGateway2", finding());
        let line = found.source_line.expect("the line");
        assert_eq!(&line[found.column as usize - 1..][..2], "hq");
    }
    assert!(!format!("{loaded:?}").contains("hidden"));
    let block = "
name: lab
connections:
  a:
    connectionType: IPsec
    virtualNetworkGateway1: gw
    sharedKey: hidden, with a comma
    \"sharedKey\": hidden
";
    let found = load_with(block, "test.yaml", &attachments).expect_err("a key stands twice");
    assert!(!found.to_string().contains("hidden"), "{found}");
}
