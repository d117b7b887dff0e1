//! The counters of one lab as the engine sums them for a scrape.

use vnet_dataplane::Reason;
use vnet_router::Balance;

/// Which way, as seen from the counted object: a NIC, a tunnel end, an NSG.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Into it.
    Inbound,
    /// Out of it.
    Outbound,
}

impl Direction {
    /// As the metrics' label.
    pub fn label(self) -> &'static str {
        match self {
            Direction::Inbound => "inbound",
            Direction::Outbound => "outbound",
        }
    }
}

/// IP packets after segmentation, and their bytes with headers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// What passed a NIC.
#[derive(Clone, Debug)]
pub struct NicCounter {
    /// The machine.
    pub vm: String,
    /// The NIC, `eth0`.
    pub nic: String,
    /// As seen from the machine.
    pub direction: Direction,
    /// How much.
    pub traffic: Traffic,
}

/// What crossed a peering one way.
#[derive(Clone, Debug)]
pub struct PeeringCounter {
    /// The network that sent it.
    pub from: String,
    /// The network that received it.
    pub to: String,
    /// How much.
    pub traffic: Traffic,
}

/// Packets of one machine dropped for one reason.
#[derive(Clone, Debug)]
pub struct DropCounter {
    /// The machine or port that sent them.
    pub vm: String,
    /// Why.
    pub reason: Reason,
    /// Packets.
    pub packets: u64,
}

/// Hits of one rule of a firewall's policy, its default included.
#[derive(Clone, Debug)]
pub struct FirewallRuleCounter {
    /// The firewall.
    pub firewall: String,
    /// Rule collection group.
    pub group: String,
    /// Rule collection.
    pub collection: String,
    /// Rule.
    pub rule: String,
    /// `Allow` or `Deny`.
    pub action: String,
    /// First packets of flows that met it.
    pub hits: u64,
}

/// Hits of one rule of a network security group, the default rules included.
#[derive(Clone, Debug)]
pub struct NsgRuleCounter {
    /// The group.
    pub nsg: String,
    /// Rule.
    pub rule: String,
    /// The rule's direction.
    pub direction: Direction,
    /// `Allow` or `Deny`.
    pub action: String,
    /// First packets of flows that met it.
    pub hits: u64,
}

/// One end of one tunnel.
#[derive(Clone, Debug)]
pub struct TunnelCounter {
    /// The gateway, or the site whose device this is.
    pub gateway: String,
    /// The connection.
    pub connection: String,
    /// Number of the tunnel in the connection.
    pub tunnel: String,
    /// Opened.
    pub inbound: Traffic,
    /// Sealed.
    pub outbound: Traffic,
    /// Completed handshakes.
    pub handshakes: u64,
    /// Whether a session is up.
    pub up: bool,
    /// What waits for its rate and the gateway's.
    pub shaper: ShaperQueue,
}

/// A BGP session of a gateway's instance.
#[derive(Clone, Debug)]
pub struct BgpCounter {
    /// The gateway.
    pub gateway: String,
    /// The instance's address.
    pub local: String,
    /// The peer's address.
    pub neighbor: String,
    /// Whether routes are exchanged.
    pub up: bool,
    /// Prefixes that the peer has announced.
    pub routes_received: u64,
    /// Messages to the peer.
    pub messages_sent: u64,
    /// Messages from the peer.
    pub messages_received: u64,
}

/// What waits for a rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShaperQueue {
    /// Bytes of IP packets.
    pub bytes: u64,
    /// How long a packet that comes now waits, in nanoseconds.
    pub delay_ns: u64,
}

/// Source ports in use for translation.
#[derive(Clone, Debug)]
pub struct SnatPorts {
    /// The firewall or NAT gateway.
    pub translator: String,
    /// Ports.
    pub used: u64,
}

/// What one worker thread did for this lab.
#[derive(Clone, Copy, Debug, Default)]
pub struct WorkerCounter {
    /// Its number.
    pub worker: usize,
    /// Time spent on packets, in nanoseconds.
    pub busy_ns: u64,
    /// Batches of packets.
    pub batches: u64,
}

/// All counters of a lab at one moment.
#[derive(Clone, Debug, Default)]
pub struct LabCounters {
    /// The lab.
    pub lab: String,
    /// Over all ports.
    pub balance: Balance,
    /// Per NIC and direction.
    pub nics: Vec<NicCounter>,
    /// Per peering and direction.
    pub peerings: Vec<PeeringCounter>,
    /// Per machine and reason.
    pub drops: Vec<DropCounter>,
    /// Per firewall rule.
    pub firewall_rules: Vec<FirewallRuleCounter>,
    /// Per NSG rule.
    pub nsg_rules: Vec<NsgRuleCounter>,
    /// Per gateway: what it took from virtual networks.
    pub gateways: Vec<(String, Traffic)>,
    /// Per tunnel end.
    pub tunnels: Vec<TunnelCounter>,
    /// Per BGP session.
    pub bgp: Vec<BgpCounter>,
    /// Per machine whose bandwidth is limited: what it sends.
    pub machine_shapers: Vec<(String, ShaperQueue)>,
    /// Live flow entries by state.
    pub flows: Vec<(String, u64)>,
    /// Those of them that the kernel carries.
    pub offloaded_flows: u64,
    /// What the kernel carried by itself; the other counters have it too.
    pub offloaded: Traffic,
    /// Per firewall.
    pub firewall_snat_ports: Vec<SnatPorts>,
    /// Per NAT gateway.
    pub nat_gateway_snat_ports: Vec<SnatPorts>,
    /// Per worker.
    pub workers: Vec<WorkerCounter>,
    /// When the policy in force was published, in nanoseconds since 1970.
    pub policy_since_ns: u64,
}
