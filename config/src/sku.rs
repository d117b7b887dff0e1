//! What Azure publishes about gateway SKUs, as data.

use crate::ipsec::QuickMode;
use crate::model::{
    CircuitTier, ExpressRouteCircuit, GatewayGeneration, GatewayNatRule, GatewaySku, GatewayType,
    IpsecEncryption, Topology, VirtualNetworkGateway,
};

/// Figures of a gateway SKU in one generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SkuFigures {
    /// The SKU.
    pub sku: GatewaySku,
    /// The generation; `None` for ExpressRoute, which has none.
    pub generation: Option<GatewayGeneration>,
    /// Site-to-site and VNet-to-VNet connections, or circuits of an ExpressRoute gateway.
    pub tunnels_max: usize,
    /// Aggregate throughput, in Mb/s.
    pub throughput_mbps: u32,
    /// Throughput of one tunnel with GCMAES256, in Mb/s.
    pub tunnel_mbps: u32,
    /// Packets per second of one tunnel with GCMAES256; `None` where Azure publishes none.
    pub tunnel_pps: Option<u32>,
    /// Whether it speaks BGP.
    pub bgp: bool,
    /// Whether peered networks may use it.
    pub transit: bool,
    /// Whether both instances may be active.
    pub active_active: bool,
    /// Whether it has NAT rules.
    pub nat_rules: bool,
    /// Point-to-site connections by IKEv2 and OpenVPN.
    pub p2s_connections_max: u32,
    /// Virtual machines and the like in the gateway's network and those peered with it.
    pub vms_max: u32,
    /// Flows of an ExpressRoute gateway; `None` where Azure publishes none.
    pub flows_max: Option<u32>,
    /// Routes that an ExpressRoute gateway learns; `None` where Azure publishes none.
    pub routes_max: Option<u32>,
    /// Whether packets from on-premises may go past the gateway.
    pub fast_path: bool,
}

/// Point-to-site connections by SSTP, with every SKU.
pub const SSTP_CONNECTIONS_MAX: u32 = 128;

/// Speeds of ExpressRoute circuits, in Mb/s.
pub const CIRCUITS_MBPS: &[u32] = &[50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000];

/// Virtual networks of a Premium circuit, by its speed in Mb/s.
const PREMIUM_NETWORKS: &[(u32, usize)] =
    &[(50, 20), (100, 25), (200, 25), (500, 40), (1_000, 50), (2_000, 60), (5_000, 75), (10_000, 100)];

/// The families of algorithms that Azure measured tunnels with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TunnelAlgorithms {
    /// GCMAES256.
    GcmAes256,
    /// AES256 with SHA256.
    Aes256Sha256,
    /// DES3 with SHA256.
    Des3Sha256,
}

impl TunnelAlgorithms {
    /// The family whose figures hold for what two sides have agreed on: what was not measured counts as its nearest.
    #[must_use]
    pub fn of(quick_mode: &QuickMode) -> TunnelAlgorithms {
        use IpsecEncryption as Esp;
        match quick_mode.encryption {
            Esp::GcmAes256 | Esp::GcmAes192 | Esp::GcmAes128 => TunnelAlgorithms::GcmAes256,
            Esp::Aes256 | Esp::Aes192 | Esp::Aes128 | Esp::None => TunnelAlgorithms::Aes256Sha256,
            Esp::Des3 | Esp::Des => TunnelAlgorithms::Des3Sha256,
        }
    }
}

/// What one tunnel carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TunnelRate {
    /// Megabits of IP packets per second.
    pub mbps: u32,
    /// IP packets per second; `None` where Azure publishes no figure.
    pub packets_per_second: Option<u32>,
}

use GatewayGeneration::{Generation1, Generation2};
use GatewaySku as Sku;

const BASIC: SkuFigures = SkuFigures {
    sku: Sku::Basic,
    generation: Some(Generation1),
    tunnels_max: 10,
    throughput_mbps: 100,
    tunnel_mbps: 100,
    tunnel_pps: None,
    bgp: false,
    transit: false,
    active_active: false,
    nat_rules: false,
    p2s_connections_max: 0,
    vms_max: 200,
    flows_max: None,
    routes_max: None,
    fast_path: false,
};

const fn vpn(
    sku: Sku,
    generation: GatewayGeneration,
    tunnels_max: usize,
    throughput_mbps: u32,
    (tunnel_mbps, tunnel_pps): (u32, u32),
    p2s_connections_max: u32,
    vms_max: u32,
) -> SkuFigures {
    SkuFigures {
        sku,
        generation: Some(generation),
        tunnels_max,
        throughput_mbps,
        tunnel_mbps,
        tunnel_pps: Some(tunnel_pps),
        bgp: true,
        transit: true,
        active_active: true,
        nat_rules: !matches!(sku, Sku::VpnGw1 | Sku::VpnGw1AZ),
        p2s_connections_max,
        vms_max,
        flows_max: None,
        routes_max: None,
        fast_path: false,
    }
}

const fn express_route(
    sku: Sku,
    tunnels_max: usize,
    throughput_mbps: u32,
    packets_per_second: u32,
    (vms_max, flows_max, routes_max): (u32, u32, u32),
) -> SkuFigures {
    SkuFigures {
        sku,
        generation: None,
        tunnels_max,
        throughput_mbps,
        tunnel_mbps: throughput_mbps,
        tunnel_pps: Some(packets_per_second),
        bgp: true,
        transit: true,
        active_active: false,
        nat_rules: false,
        p2s_connections_max: 0,
        vms_max,
        flows_max: Some(flows_max),
        routes_max: Some(routes_max),
        fast_path: matches!(sku, Sku::UltraPerformance | Sku::ErGw3AZ),
    }
}

/// Source: Microsoft's gateway SKU tables (learn.microsoft.com, "About VPN Gateway SKUs", 06/2026, and "About
/// ExpressRoute virtual network gateways").
pub const SKUS: &[SkuFigures] = &[
    BASIC,
    vpn(Sku::VpnGw1, Generation1, 30, 650, (650, 62_000), 250, 450),
    vpn(Sku::VpnGw2, Generation1, 30, 1_000, (1_200, 100_000), 500, 1_300),
    vpn(Sku::VpnGw3, Generation1, 30, 1_250, (1_250, 120_000), 1_000, 4_000),
    vpn(Sku::VpnGw2, Generation2, 30, 1_250, (1_250, 120_000), 500, 685),
    vpn(Sku::VpnGw3, Generation2, 30, 2_500, (1_500, 140_000), 1_000, 2_240),
    vpn(Sku::VpnGw4, Generation2, 100, 5_000, (2_300, 220_000), 5_000, 5_300),
    vpn(Sku::VpnGw5, Generation2, 100, 10_000, (2_300, 220_000), 10_000, 6_700),
    vpn(Sku::VpnGw1AZ, Generation1, 30, 650, (650, 62_000), 250, 1_000),
    vpn(Sku::VpnGw2AZ, Generation1, 30, 1_000, (1_200, 110_000), 500, 2_000),
    vpn(Sku::VpnGw3AZ, Generation1, 30, 1_250, (1_250, 120_000), 1_000, 5_000),
    vpn(Sku::VpnGw2AZ, Generation2, 30, 1_250, (1_250, 120_000), 500, 2_000),
    vpn(Sku::VpnGw3AZ, Generation2, 30, 2_500, (1_500, 140_000), 1_000, 3_300),
    vpn(Sku::VpnGw4AZ, Generation2, 100, 5_000, (2_300, 220_000), 5_000, 4_400),
    vpn(Sku::VpnGw5AZ, Generation2, 100, 10_000, (2_300, 220_000), 10_000, 9_000),
    express_route(Sku::Standard, 4, 1_000, 100_000, (2_000, 200_000, 4_000)),
    express_route(Sku::HighPerformance, 8, 2_000, 200_000, (4_500, 400_000, 9_500)),
    express_route(Sku::UltraPerformance, 16, 10_000, 1_000_000, (11_000, 1_000_000, 9_500)),
    express_route(Sku::ErGw1AZ, 4, 1_000, 100_000, (2_000, 200_000, 4_000)),
    express_route(Sku::ErGw2AZ, 8, 2_000, 200_000, (4_500, 400_000, 9_500)),
    express_route(Sku::ErGw3AZ, 16, 10_000, 1_000_000, (11_000, 1_000_000, 9_500)),
    express_route(Sku::ErGwScale, 4, 1_000, 100_000, (2_000, 100_000, 60_000)),
];

impl SkuFigures {
    /// Throughput of one tunnel in Mb/s and its packets per second, with the given algorithms. `None`: Azure publishes none.
    #[must_use]
    pub fn tunnel(&self, algorithms: TunnelAlgorithms) -> Option<(u32, u32)> {
        let generation = self.generation?;
        let (aes, des) = match self.sku {
            Sku::VpnGw1 | Sku::VpnGw1AZ => ((500, 47_000), (130, 12_000)),
            Sku::VpnGw2 | Sku::VpnGw2AZ if generation == Generation1 => ((650, 61_000), (140, 13_000)),
            Sku::VpnGw2 | Sku::VpnGw2AZ => ((550, 52_000), (130, 12_000)),
            Sku::Basic => return None,
            _ => ((700, 66_000), (140, 13_000)),
        };
        Some(match algorithms {
            TunnelAlgorithms::GcmAes256 => (self.tunnel_mbps, self.tunnel_pps?),
            TunnelAlgorithms::Aes256Sha256 => aes,
            TunnelAlgorithms::Des3Sha256 => des,
        })
    }
}

impl ExpressRouteCircuit {
    /// How many virtual networks may be connected to the circuit. `None`: its speed is none of Azure's.
    #[must_use]
    pub fn networks_max(&self) -> Option<usize> {
        match self.sku_tier {
            CircuitTier::Local | CircuitTier::Standard => Some(10),
            CircuitTier::Premium => {
                let mut rows = PREMIUM_NETWORKS.iter();
                rows.find(|(mbps, _)| *mbps == self.bandwidth_in_mbps).map(|(_, networks)| *networks)
            }
        }
    }

    /// How many IPv4 prefixes Azure takes from the site before it drops the session.
    #[must_use]
    pub fn prefixes_max(&self) -> u32 {
        match self.sku_tier {
            CircuitTier::Local | CircuitTier::Standard => 4_000,
            CircuitTier::Premium => 10_000,
        }
    }
}

impl GatewaySku {
    /// What a gateway of this SKU connects by.
    #[must_use]
    pub fn gateway_type(self) -> GatewayType {
        match self {
            Self::Basic
            | Self::VpnGw1
            | Self::VpnGw2
            | Self::VpnGw3
            | Self::VpnGw4
            | Self::VpnGw5
            | Self::VpnGw1AZ
            | Self::VpnGw2AZ
            | Self::VpnGw3AZ
            | Self::VpnGw4AZ
            | Self::VpnGw5AZ => GatewayType::Vpn,
            _ => GatewayType::ExpressRoute,
        }
    }

    /// Figures of the SKU: of the given generation, or of the first that has the SKU. `None`: no such combination.
    #[must_use]
    pub fn figures(self, generation: Option<GatewayGeneration>) -> Option<&'static SkuFigures> {
        SKUS.iter().find(|row| row.sku == self && (generation.is_none() || row.generation == generation))
    }
}

impl VirtualNetworkGateway {
    /// Figures of the gateway's SKU. `None` only where SKU and generation do not go together, which validation refuses.
    #[must_use]
    pub fn figures(&self) -> Option<&'static SkuFigures> {
        self.sku.figures(self.vpn_gateway_generation)
    }

    /// Aggregate throughput in Mb/s: `throughputMbps`, or the SKU's figure.
    #[must_use]
    pub fn aggregate_mbps(&self) -> u32 {
        self.throughput_mbps
            .or_else(|| Some(self.figures()?.throughput_mbps))
            .unwrap_or(BASIC.throughput_mbps)
    }

    /// What one tunnel carries with the given algorithms. `throughputMbps` takes the place of the SKU's figures here too, and
    /// no figure then bounds packets.
    #[must_use]
    pub fn tunnel_rate(&self, algorithms: TunnelAlgorithms) -> TunnelRate {
        if let Some(mbps) = self.throughput_mbps {
            return TunnelRate { mbps, packets_per_second: None };
        }
        let figures = self.figures();
        let mbps = figures.map_or(BASIC.tunnel_mbps, |figures| figures.tunnel_mbps);
        match figures.and_then(|figures| figures.tunnel(algorithms)) {
            Some((mbps, packets)) => TunnelRate { mbps, packets_per_second: Some(packets) },
            None => TunnelRate { mbps, packets_per_second: None },
        }
    }

    /// The index of the instance that has a public address: given as a literal, or as the name of one of
    /// `publicIPAddresses`.
    #[must_use]
    pub fn instance_of(&self, topology: &Topology, id: &str) -> Option<usize> {
        let named = topology.public_ip_addresses.get(id).map(|public| public.ip_address);
        let address = named.or_else(|| id.parse().ok())?;
        self.public_ip_addresses.iter().position(|own| *own == address)
    }

    /// The NAT rule of a name, which Azure matches without regard to case.
    #[must_use]
    pub fn nat_rule(&self, name: &str) -> Option<&GatewayNatRule> {
        self.nat_rules.iter().find(|rule| rule.name.eq_ignore_ascii_case(name))
    }
}
