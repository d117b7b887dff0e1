//! What the daemon makes and the router knows by handles: ports, tunnels, limiters, delays, counters, functions.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use vnet_dataplane::{CounterId, DelayId, FunctionId, LimiterId, PortId, TunnelId};

/// A port of the router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortInfo {
    /// Its handle, stable for the lab's life.
    pub id: PortId,
    /// `web/eth0`, `hq/pc`, `fw`, `hub-vpn/0`, `platform`, `internet`, `tunnel/hub-to-hq/0`.
    pub name: Arc<str>,
    /// What is behind it.
    pub kind: PortKind,
    /// Its addresses with the length of the subnet's prefix, of either family. Empty for the internet edge and tunnels.
    pub addresses: Vec<IpNet>,
    /// Largest IP packet that it takes, in bytes.
    pub mtu: u16,
    /// Whether its namespace's default route leads here: a machine's primary NIC, and everything that has one port only.
    pub default_route: bool,
    /// Whether it may send and receive packets that are not of its own addresses.
    pub ip_forwarding: bool,
}

impl PortInfo {
    /// Whether the address is one of the port's own.
    pub fn has_address(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|own| own.addr() == address)
    }
}

/// What is behind a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PortKind {
    /// A NIC of a virtual machine.
    Nic {
        /// Name of the virtual machine.
        vm: Arc<str>,
        /// Name of the NIC inside it.
        nic: Arc<str>,
    },
    /// A private endpoint: the service behind it.
    PrivateEndpoint {
        /// Its name.
        name: Arc<str>,
    },
    /// A host of an on-premises site with a built-in device.
    SiteHost {
        /// Name of the site.
        site: Arc<str>,
        /// Name of the host.
        host: Arc<str>,
    },
    /// A firewall or a gateway instance: the daemon's own namespace that holds its private address.
    Appliance {
        /// What it is.
        kind: ApplianceKind,
        /// Name of the firewall or gateway.
        name: Arc<str>,
        /// Number of the instance, from 0.
        instance: u16,
    },
    /// Azure's platform: DNS, DHCP, health probes, metadata.
    Platform,
    /// The way to the `internet` namespace.
    InternetEdge,
    /// The end of a tunnel: what it opened enters here. It has no device.
    Tunnel(TunnelId),
}

/// What an appliance namespace stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ApplianceKind {
    /// An Azure Firewall.
    Firewall,
    /// An instance of a virtual network gateway.
    Gateway,
}

/// One end of a tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelSpec {
    /// Its handle, stable for the lab's life.
    pub id: TunnelId,
    /// `hub-to-hq/0` at the gateway, `hq/hub-to-hq/0` at the site; `vpnClients/laptop` at the gateway of a client,
    /// `laptop/vpnClients/laptop` at the client.
    pub name: Arc<str>,
    /// The port by which opened packets enter.
    pub ingress: PortId,
    /// Name of the gateway, or of the site at whose device this end is.
    pub gateway: Arc<str>,
    /// Whether this end is a site's device.
    pub at_site: bool,
    /// Name of the connection, or of the client.
    pub connection: Arc<str>,
    /// Number of the tunnel in its connection, from 0.
    pub index: u16,
    /// Public address of this end.
    pub local: IpAddr,
    /// Public address of the other end.
    pub remote: IpAddr,
    /// The other end.
    pub peer: TunnelPeer,
    /// The connection's key, as this end has it; resolved when the topology was loaded. Never to be printed.
    pub shared_key: SharedKey,
    /// Whether this end starts the handshake.
    pub initiates: bool,
    /// Whether the other end may come from any address, as clients do.
    pub roaming: bool,
    /// Prefixes that this end knows to be behind the other. It accepts no other sources, unless the connection speaks BGP.
    pub allowed_ips: Vec<IpNet>,
    /// Prefixes that the other end should accept, the peer's AllowedIPs there: the ranges reached through this one, and
    /// everything where routes come by BGP.
    pub announced: Vec<IpNet>,
    /// In force: what the state machine knows of it.
    pub status: TunnelStatus,
    /// Whether this end must not even try, whatever its handshake would come to: `status` says why.
    pub is_held: bool,
    /// Seconds of silence after which the other end counts as dead (`dpdTimeoutSeconds`).
    pub dead_peer_s: u16,
}

/// A key that `Debug` does not print.
#[derive(Clone, PartialEq, Eq)]
pub struct SharedKey(pub Option<Arc<str>>);

impl std::fmt::Debug for SharedKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "SharedKey(…)" } else { "SharedKey(none)" })
    }
}

/// The other end of a tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TunnelPeer {
    /// An end in this lab.
    Tunnel(TunnelId),
    /// A device that the user runs, at this site.
    External(Arc<str>),
    /// Nothing in the lab answers at the remote address, or the other side has no connection back.
    Missing,
}

/// Whether a tunnel carries packets.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "camelCase", tag = "state", content = "reason")]
pub enum TunnelStatus {
    /// No handshake yet; packets are taken and wait for it.
    #[default]
    Connecting,
    /// It has a session.
    Connected,
    /// It cannot get one, and why.
    NotConnected(String),
}

impl TunnelStatus {
    /// Whether packets are sealed into it.
    pub fn carries(&self) -> bool {
        !matches!(self, TunnelStatus::NotConnected(_))
    }

    /// Why it cannot get a session.
    pub fn reason(&self) -> Option<&str> {
        match self {
            TunnelStatus::NotConnected(reason) => Some(reason),
            TunnelStatus::Connecting | TunnelStatus::Connected => None,
        }
    }
}

/// A rate limiter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimiterSpec {
    /// Its handle, stable for the lab's life.
    pub id: LimiterId,
    /// `gateway/hub-vpn/egress`, `tunnel/hub-to-hq/0/egress`, `vm/web/egress`.
    pub name: Arc<str>,
    /// Name of the gateway that it belongs to.
    pub gateway: Option<Arc<str>>,
    /// Bits of IP packets per second.
    pub bits_per_second: u64,
    /// IP packets per second, where they are bounded too.
    pub packets_per_second: Option<u64>,
}

impl LimiterSpec {
    /// The machine whose bandwidth it is.
    pub fn machine(&self) -> Option<&str> {
        self.name.strip_prefix("vm/")?.strip_suffix("/egress")
    }
}

/// A constant-delay line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DelaySpec {
    /// Its handle, stable for the lab's life.
    pub id: DelayId,
    /// `eastus -> westeurope`.
    pub name: Arc<str>,
    /// One way, in nanoseconds.
    pub delay_ns: u64,
}

/// A pair of counters with its labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CounterSpec {
    /// Its handle, stable for the lab's life.
    pub id: CounterId,
    /// What it counts.
    pub kind: CounterKind,
}

/// What a counter counts: the labels of its metric.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum CounterKind {
    /// `vnet_peering_*_total{from,to}`.
    Peering {
        /// The network that the packet leaves.
        from: Arc<str>,
        /// The network that it enters.
        to: Arc<str>,
    },
    /// `vnet_gateway_*_total{gateway}`.
    Gateway {
        /// The gateway that takes packets from virtual networks: for a tunnel, or for a network again.
        gateway: Arc<str>,
    },
    /// `vnet_gateway_tunnel_*_total{gateway,connection,tunnel,direction}`.
    Tunnel {
        /// The gateway, or the site of the device.
        gateway: Arc<str>,
        /// The connection.
        connection: Arc<str>,
        /// Number of the tunnel in its connection.
        tunnel: u16,
        /// Into the tunnel, or out of it.
        direction: TunnelDirection,
    },
}

/// Which way packets pass a tunnel's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TunnelDirection {
    /// Opened here.
    Ingress,
    /// Sealed here.
    Egress,
}

impl TunnelDirection {
    /// The label's value.
    pub fn label(self) -> &'static str {
        match self {
            TunnelDirection::Ingress => "ingress",
            TunnelDirection::Egress => "egress",
        }
    }
}

/// A stateful function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionInfo {
    /// Its handle, stable for the lab's life.
    pub id: FunctionId,
    /// `nsg/web/eth0/outbound`, `firewall/fw`, `edge/web/eth0`, `nat/out`, `outbound/hub`.
    pub name: Arc<str>,
    /// What kind of sessions it keeps.
    pub kind: FunctionKind,
}

/// What kind of sessions a function keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FunctionKind {
    /// The security groups of a NIC, for flows that begin in one direction. A verdict holds for the life of the flow.
    SecurityGroup,
    /// A firewall. Rules are evaluated again when the policy changes. A session that it translates holds a port.
    Firewall,
    /// The way out to the Internet: of a NIC by its public address, of a NAT gateway, or of default outbound access. A
    /// flow keeps the way that it began with.
    Translation,
}

/// A rule whose hits are counted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HitKind {
    /// `vnet_nsg_rule_hits_total{nsg,rule,direction,action}`.
    Nsg {
        /// Name of the group.
        nsg: Arc<str>,
        /// `securityRules/NAME` or `defaultSecurityRules/NAME`.
        rule: Arc<str>,
        /// Whether the rule is for packets towards the NIC.
        inbound: bool,
        /// Whether it allows.
        allow: bool,
    },
    /// `vnet_firewall_rule_hits_total{firewall,group,collection,rule,action}`.
    Firewall {
        /// Name of the firewall.
        firewall: Arc<str>,
        /// Rule collection group; empty for the default.
        group: Arc<str>,
        /// Rule collection; empty for the default.
        collection: Arc<str>,
        /// Rule.
        rule: Arc<str>,
        /// Whether it allows.
        allow: bool,
    },
}
