//! What of a lab has to exist on the host: namespaces, devices, cables, addresses and routes. A pure function of a
//! topology and its snapshot; [`build`](super::build) brings the host there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use indexmap::IndexMap;
use ipnet::IpNet;
use vnet_config::model::{Topology, VpnDeviceKind};
use vnet_dataplane::PortId;
use vnet_fabric::snapshot::{ApplianceKind, PortInfo, PortKind, Snapshot};

use crate::host::link::{LinkSpec, RouteSpec};

/// The namespace of Azure's platform addresses.
pub(super) const PLATFORM: &str = "platform";
/// The namespace that stands for the Internet.
pub(super) const INTERNET: &str = "internet";
/// The device by which the Internet's namespace reaches the daemon.
pub(super) const EDGE_DEVICE: &str = "edge0";
/// The router's end of a cable, for either family: what the far end has as its gateway.
const CABLE_GATEWAYS: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(169, 254, 0, 1)), IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1))];

/// Bytes of a device's name.
const DEVICE_NAME_MAX: usize = 15;

/// What a namespace stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// A virtual machine.
    VirtualMachine,
    /// A private endpoint, in which the service behind it runs.
    PrivateEndpoint,
    /// A host of an on-premises site.
    SiteHost,
    /// A VPN device that the user runs.
    ExternalDevice,
    /// A client of point-to-site VPN that the user runs.
    VpnClient,
    /// A simulated host of the Internet.
    InternetHost,
    /// A firewall's or gateway's own address.
    Appliance(ApplianceKind),
    /// Azure's platform addresses.
    Platform,
    /// The Internet.
    Internet,
}

impl Role {
    /// The word for it in progress lines, before the name.
    pub(super) fn word(self) -> &'static str {
        match self {
            Role::VirtualMachine => "virtualMachine",
            Role::PrivateEndpoint => "privateEndpoint",
            Role::SiteHost => "host",
            Role::ExternalDevice => "vpnDevice",
            Role::VpnClient => "vpnClient",
            Role::InternetHost => "internetHost",
            Role::Appliance(ApplianceKind::Firewall) => "azureFirewall",
            Role::Appliance(ApplianceKind::Gateway) => "virtualNetworkGateway",
            Role::Platform => "platform",
            Role::Internet => "internet",
        }
    }

    /// Whether users run programs inside.
    pub(super) fn is_machine(self) -> bool {
        matches!(
            self,
            Role::VirtualMachine
                | Role::PrivateEndpoint
                | Role::SiteHost
                | Role::ExternalDevice
                | Role::VpnClient
                | Role::InternetHost
        )
    }
}

/// One namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Namespace {
    /// What it stands for.
    pub role: Role,
    /// Devices whose packets the daemon takes: name, port.
    pub devices: Vec<(String, PortId)>,
    /// Addresses and routes of every device in it.
    pub links: Vec<LinkSpec>,
    /// Whether its kernel routes.
    pub forwarding: bool,
}

/// A veth pair.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Cable {
    /// Namespace and device of one end.
    pub near: (String, String),
    /// Namespace and device of the other end.
    pub far: (String, String),
}

/// Everything that a lab needs on the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Blueprint {
    /// Namespaces by the last part of their names.
    pub namespaces: IndexMap<String, Namespace>,
    /// Cables between them.
    pub cables: Vec<Cable>,
    /// Whether the Internet's namespace has a way out by the host's own network.
    pub uplink: bool,
}

impl Blueprint {
    /// What `snapshot`, compiled from `topology`, needs.
    pub(super) fn new(topology: &Topology, snapshot: &Snapshot) -> Blueprint {
        let mut blueprint = Blueprint { uplink: snapshot.host_egress(), ..Blueprint::default() };
        for port in snapshot.ports() {
            blueprint.add_port(port, snapshot);
        }
        blueprint.add_public_addresses(snapshot);
        for (name, host) in &topology.internet.hosts {
            blueprint.add_behind_cable(name, Role::InternetHost, &host.addresses, INTERNET);
        }
        for (client, address) in snapshot.clients() {
            if topology.vpn_clients.get(client).is_some_and(|spec| spec.kind == VpnDeviceKind::External) {
                blueprint.add_behind_cable(client, Role::VpnClient, &[address], INTERNET);
            }
        }
        for (site, spec) in &topology.on_premises_sites {
            let Some(device) =
                spec.vpn_device.as_ref().filter(|device| device.kind == VpnDeviceKind::External)
            else {
                continue;
            };
            blueprint.add_behind_cable(site, Role::ExternalDevice, &[device.public_ip_address], INTERNET);
            for (name, host) in &spec.hosts {
                blueprint.add_behind_cable(name, Role::SiteHost, &host.addresses, site);
            }
        }
        blueprint
    }

    fn namespace(&mut self, name: &str, role: Role) -> &mut Namespace {
        self.namespaces.entry(name.to_owned()).or_insert_with(|| Namespace {
            role,
            devices: Vec::new(),
            links: Vec::new(),
            forwarding: role == Role::Internet,
        })
    }

    fn add_port(&mut self, port: &PortInfo, snapshot: &Snapshot) {
        let Some((name, role, device)) = placement(&port.kind) else { return };
        let routes = match port.kind {
            // What nobody on the Internet has goes to the daemon as well, which drops it and says so; by the host's own
            // network it goes there.
            PortKind::InternetEdge => {
                let own = snapshot.edge_prefixes().iter().map(|prefix| RouteSpec::on_link(*prefix));
                let rest = RouteSpec::defaults().into_iter().filter(|_| !snapshot.host_egress());
                own.chain(rest).collect()
            }
            _ if port.default_route => default_routes(&port.addresses),
            _ => Vec::new(),
        };
        let namespace = self.namespace(&name, role);
        namespace.devices.push((device.clone(), port.id));
        namespace.links.push(LinkSpec {
            name: device,
            mtu: Some(u32::from(port.mtu)),
            addresses: port.addresses.clone(),
            routes,
        });
    }

    /// Public addresses of tunnel ends are the Internet's own, so that tunnels run over its loopback.
    fn add_public_addresses(&mut self, snapshot: &Snapshot) {
        let mut addresses: Vec<IpNet> = snapshot.tunnels().map(|tunnel| IpNet::from(tunnel.local)).collect();
        addresses.sort();
        addresses.dedup();
        let internet = self.namespace(INTERNET, Role::Internet);
        internet.links.push(LinkSpec { name: "lo".into(), mtu: None, addresses, routes: Vec::new() });
    }

    fn add_behind_cable(&mut self, name: &str, role: Role, addresses: &[IpAddr], router: &str) {
        let router_device = cable_device(name);
        let addresses: Vec<IpNet> = addresses.iter().map(|address| IpNet::from(*address)).collect();
        let namespace = self.namespace(name, role);
        // An external device routes between its hosts, its tunnel and the Internet.
        namespace.forwarding = role == Role::ExternalDevice;
        namespace.links.push(LinkSpec {
            name: "eth0".into(),
            mtu: Some(1500),
            addresses: addresses.clone(),
            routes: cable_routes(&addresses),
        });
        let routes = addresses.iter().map(|address| RouteSpec::on_link(*address)).collect();
        self.namespace(router, Role::Internet).links.push(LinkSpec {
            name: router_device.clone(),
            mtu: Some(1500),
            addresses: CABLE_GATEWAYS.map(IpNet::from).to_vec(),
            routes,
        });
        self.cables.push(Cable {
            near: (router.to_owned(), router_device),
            far: (name.to_owned(), "eth0".to_owned()),
        });
    }
}

/// Namespace, role and device of a port; `None` for a port without a device.
fn placement(kind: &PortKind) -> Option<(String, Role, String)> {
    let eth0 = || "eth0".to_owned();
    Some(match kind {
        PortKind::Nic { vm, nic } => (vm.to_string(), Role::VirtualMachine, nic.to_string()),
        PortKind::PrivateEndpoint { name } => (name.to_string(), Role::PrivateEndpoint, eth0()),
        PortKind::SiteHost { host, .. } => (host.to_string(), Role::SiteHost, eth0()),
        PortKind::Appliance { kind, name, instance: 0 } => (name.to_string(), Role::Appliance(*kind), eth0()),
        PortKind::Appliance { kind, name, instance } => {
            (format!("{name}.{instance}"), Role::Appliance(*kind), eth0())
        }
        PortKind::Platform => (PLATFORM.to_owned(), Role::Platform, eth0()),
        PortKind::InternetEdge => (INTERNET.to_owned(), Role::Internet, EDGE_DEVICE.to_owned()),
        PortKind::Tunnel(_) => return None,
    })
}

/// The name of a cable's end at the router, by who is at the other end: it stays the same whatever other cables come
/// and go. The kernel takes 15 bytes at most, so a longer name is told by its hash (FNV-1a).
fn cable_device(name: &str) -> String {
    let plain = format!("c-{name}");
    if plain.len() <= DEVICE_NAME_MAX {
        return plain;
    }
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("h-{:013x}", hash >> 12)
}

/// A default route of each family that has an address.
fn default_routes(addresses: &[IpNet]) -> Vec<RouteSpec> {
    let has = |v4: bool| addresses.iter().any(|address| address.addr().is_ipv4() == v4);
    RouteSpec::defaults().into_iter().filter(|route| has(route.destination.addr().is_ipv4())).collect()
}

/// A default route of each family over the cable's other end.
fn cable_routes(addresses: &[IpNet]) -> Vec<RouteSpec> {
    let mut routes = default_routes(addresses);
    for route in &mut routes {
        route.gateway = CABLE_GATEWAYS
            .into_iter()
            .find(|gateway| gateway.is_ipv4() == route.destination.addr().is_ipv4());
    }
    routes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blueprint(text: &str) -> Blueprint {
        let loaded = vnet_config::load_with(text, "test.yaml", &vnet_config::Attachments::default())
            .expect("the file is accepted");
        Blueprint::new(&loaded.topology, &vnet_fabric::converge(&loaded.topology).1)
    }

    const HUB_SPOKE: &str = include_str!("../../../examples/hub-spoke.yaml");

    const HOSTS: &str = "\
name: hosts
internet:
  hosts:
    first: 203.0.113.80
    second: 203.0.113.81
    a-host-with-a-long-name: 203.0.113.82
";

    #[test]
    fn the_worked_example_has_its_namespaces() {
        let blueprint = blueprint(HUB_SPOKE);
        let role = |name: &str| blueprint.namespaces.get(name).map(|namespace| namespace.role);
        assert_eq!(role("web"), Some(Role::VirtualMachine));
        assert_eq!(role("pc"), Some(Role::SiteHost));
        assert_eq!(role("fw"), Some(Role::Appliance(ApplianceKind::Firewall)));
        assert_eq!(role(PLATFORM), Some(Role::Platform));
        let internet = &blueprint.namespaces[INTERNET];
        assert!(internet.forwarding);
        let lo =
            internet.links.iter().find(|link| link.name == "lo").expect("lo holds the tunnels' addresses");
        assert!(!lo.addresses.is_empty());
        let web = &blueprint.namespaces["web"];
        assert_eq!(web.links[0].addresses, ["10.1.0.4/24".parse::<IpNet>().unwrap()]);
        assert_eq!(web.links[0].routes.len(), 1, "a default route of the one family that it has");
    }

    #[test]
    fn the_daemon_gets_what_nobody_on_the_internet_has() {
        let edge_routes = |text: &str| {
            let blueprint = blueprint(text);
            let links = &blueprint.namespaces[INTERNET].links;
            links.iter().find(|link| link.name == EDGE_DEVICE).expect("the edge has a device").routes.clone()
        };
        let defaults =
            |routes: &[RouteSpec]| routes.iter().filter(|route| route.destination.prefix_len() == 0).count();
        assert_eq!(defaults(&edge_routes(HOSTS)), 2);
        // There the host's own network is the rest of the Internet.
        assert_eq!(defaults(&edge_routes(&HOSTS.replace("internet:", "internet:\n  egress: host"))), 0);
    }

    #[test]
    fn a_private_endpoint_is_a_namespace() {
        let blueprint = blueprint(
            "name: endpoint
virtualNetworks: {v: {addressSpace: [10.0.0.0/16], subnets: {s: 10.0.0.0/24}}}
privateEndpoints: {store: {subnet: v/s}}
",
        );
        let store = &blueprint.namespaces["store"];
        assert_eq!(store.role, Role::PrivateEndpoint);
        assert!(store.role.is_machine());
        assert_eq!(store.links[0].addresses, ["10.0.0.4/24".parse::<IpNet>().unwrap()]);
    }

    #[test]
    fn a_cable_keeps_its_name_when_another_goes() {
        let all = blueprint(HOSTS);
        let fewer = blueprint(&HOSTS.replace("    first: 203.0.113.80\n", ""));
        assert_eq!(all.cables.len(), 3);
        assert!(fewer.cables.iter().all(|cable| all.cables.contains(cable)));
        assert_eq!(all.namespaces["second"], fewer.namespaces["second"]);
    }

    #[test]
    fn names_of_cables_fit_the_kernel_and_differ() {
        let names =
            ["a", "0123456789abc", "0123456789abcd", "a-host-with-a-long-name", "a-host-with-a-long-namf"];
        let devices: std::collections::BTreeSet<String> =
            names.iter().map(|name| cable_device(name)).collect();
        assert_eq!(devices.len(), names.len());
        assert!(devices.iter().all(|device| device.len() <= DEVICE_NAME_MAX), "{devices:?}");
    }
}
