//! How often a sketch has what.

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::sketch::*;

fn hop() -> impl Strategy<Value = HopSketch> {
    prop_oneof![
        4 => (any::<u8>(), any::<bool>()).prop_map(|(network, second)| HopSketch::Machine(network, second)),
        5 => any::<u8>().prop_map(HopSketch::Firewall),
        1 => prop::collection::vec((any::<u8>(), any::<bool>()), 2..4).prop_map(HopSketch::Several),
        1 => any::<u8>().prop_map(HopSketch::Nobody),
        2 => Just(HopSketch::Gateway),
        1 => Just(HopSketch::Local),
        1 => Just(HopSketch::Internet),
        1 => Just(HopSketch::None),
    ]
}

fn route() -> impl Strategy<Value = RouteSketch> {
    let prefix = prop_oneof![
        4 => any::<u8>().prop_map(PrefixSketch::Network),
        2 => (any::<u8>(), any::<bool>()).prop_map(|(network, second)| PrefixSketch::Subnet(network, second)),
        1 => any::<u8>().prop_map(PrefixSketch::Machine),
        2 => any::<u8>().prop_map(PrefixSketch::Site),
        3 => Just(PrefixSketch::All),
        1 => Just(PrefixSketch::Ten),
        1 => any::<u8>().prop_map(PrefixSketch::Wide),
        2 => any::<u8>().prop_map(PrefixSketch::Tag),
        1 => Just(PrefixSketch::Extra),
    ];
    (prefix, prop::bool::weighted(0.2), hop()).prop_map(|(prefix, six, hop)| RouteSketch { prefix, six, hop })
}

fn side() -> impl Strategy<Value = SideSketch> {
    prop_oneof![
        3 => Just(SideSketch::Any),
        2 => Just(SideSketch::VirtualNetwork),
        1 => Just(SideSketch::Internet),
        3 => any::<u8>().prop_map(SideSketch::Network),
        2 => any::<u8>().prop_map(SideSketch::Machine),
        1 => any::<u8>().prop_map(SideSketch::Site),
        1 => any::<u8>().prop_map(SideSketch::Tag),
        2 => any::<u8>().prop_map(SideSketch::Label),
        1 => (any::<u8>(), any::<u8>()).prop_map(|(network, machine)| SideSketch::Several(network, machine)),
    ]
}

fn rule() -> impl Strategy<Value = RuleSketch> {
    (any::<bool>(), any::<bool>(), 0..4u8, side(), side(), 0..6u8).prop_map(
        |(inbound, allow, protocol, source, destination, port)| RuleSketch {
            inbound,
            allow,
            protocol,
            source,
            destination,
            port,
        },
    )
}

fn subnet() -> impl Strategy<Value = SubnetSketch> {
    (
        prop::option::weighted(0.6, any::<u8>()),
        prop::option::weighted(0.3, any::<u8>()),
        prop::option::weighted(0.2, any::<bool>()),
        prop::option::weighted(0.3, any::<bool>()),
        prop::collection::vec(any::<u8>(), 0..2),
    )
        .prop_map(|(table, group, nat, outbound, services)| SubnetSketch {
            table,
            group,
            nat,
            outbound,
            services,
        })
}

fn machine() -> impl Strategy<Value = MachineSketch> {
    let flag = prop::bool::weighted;
    (flag(0.6), flag(0.8), flag(0.1), flag(0.5), flag(0.3)).prop_map(
        |(forwarding, accelerated, untracked, labelled, public)| MachineSketch {
            forwarding,
            accelerated,
            untracked,
            labelled,
            public,
        },
    )
}

fn network() -> impl Strategy<Value = NetworkSketch> {
    let shape = (0..4u8, prop::bool::weighted(0.4), prop::bool::weighted(0.2), prop::option::of(any::<u8>()));
    let gateways =
        (prop::bool::weighted(0.4), prop::option::weighted(0.7, any::<u8>()), prop::bool::weighted(0.1));
    let inside = (
        [subnet(), subnet()],
        [machine(), machine()],
        any::<bool>(),
        prop::option::weighted(0.2, any::<u8>()),
    );
    let rare = (
        prop::bool::weighted(0.2),
        prop::option::weighted(0.2, prop::bool::weighted(0.6)),
        prop::option::weighted(0.2, any::<bool>()),
    );
    let routes = || prop::collection::vec((any::<u8>(), hop()), 0..3);
    (shape, gateways, inside, rare, routes(), routes()).prop_map(
        |(shape, gateways, inside, rare, firewall_routes, gateway_routes)| {
            let (range, dual, far, firewall) = shape;
            let (gateway, uses, express) = gateways;
            let (subnets, machines, second, nic_group) = inside;
            let (extra, encryption, endpoint) = rare;
            NetworkSketch {
                range,
                dual,
                far,
                firewall,
                gateway,
                uses,
                subnets,
                machines,
                second,
                nic_group,
                extra,
                encryption,
                endpoint,
                express,
                firewall_routes,
                gateway_routes,
            }
        },
    )
}

fn peering() -> impl Strategy<Value = PeeringSketch> {
    let flag = |weight| prop::array::uniform2(prop::bool::weighted(weight));
    let list = ([1..8u8, 1..8u8], prop::bool::weighted(0.3))
        .prop_map(|(subnets, only_v6)| ListSketch { subnets, only_v6 });
    (0..10u8, flag(0.95), flag(0.7), prop::option::weighted(0.25, list))
        .prop_map(|(halves, access, forwarded, list)| PeeringSketch { halves, access, forwarded, list })
}

fn policy() -> impl Strategy<Value = PolicySketch> {
    let rule = ((0..2u8, 0..2u8), 0..4u8, side(), side(), 0..4u8).prop_map(
        |(place, protocol, source, destination, port)| FirewallRuleSketch {
            place,
            protocol,
            source,
            destination,
            port,
        },
    );
    let rules = prop::collection::vec(rule, 0..6);
    let snat = prop_oneof![4 => Just(0u8), 1 => 1..4u8];
    (prop::array::uniform4(prop::bool::weighted(0.75)), rules, snat, any::<bool>())
        .prop_map(|(allow, rules, snat, child)| PolicySketch { allow, rules, snat, child })
}

/// Topologies of two to five networks.
pub fn sketch() -> impl Strategy<Value = Sketch> {
    let site = (any::<u8>(), 0..6u8, any::<u8>(), prop::bool::weighted(0.1))
        .prop_map(|(network, known, also, wrong_key)| SiteSketch { network, known, also, wrong_key });
    let link =
        ((any::<u8>(), any::<u8>()), 0..8u8).prop_map(|(between, state)| LinkSketch { between, state });
    let table = (prop::bool::weighted(0.3), prop::bool::weighted(0.08), prop::collection::vec(route(), 0..5))
        .prop_map(|(propagation_off, peering_off, routes)| TableSketch {
            propagation_off,
            peering_off,
            routes,
        });
    (
        prop::collection::vec(network(), 2..=NETWORKS_MAX),
        prop::collection::vec(peering(), NETWORKS_MAX * (NETWORKS_MAX - 1) / 2),
        prop::collection::vec(table, 1..4),
        prop::collection::vec(prop::collection::vec(rule(), 0..4), 1..4),
        prop::collection::vec(policy(), 1..3),
        prop::collection::vec(site, 0..3),
        prop::collection::vec(link, 0..3),
        prop::array::uniform3(prop::bool::weighted(0.15)),
    )
        .prop_map(|(networks, peerings, tables, groups, policies, sites, links, readings)| Sketch {
            networks,
            peerings,
            tables,
            groups,
            policies,
            sites,
            links,
            readings,
        })
}

/// A runner whose draws are those of a seed.
pub fn seeded(seed: u64, config: Config) -> TestRunner {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes))
}

/// The seed of a run: `VNET_SEED` replays one. The usual run is always the same, so that it fails for a change and not by
/// chance; the long one (`VNET_NIGHTLY`) draws anew.
///
/// # Panics
/// `VNET_SEED` is no number.
pub fn seed() -> u64 {
    if let Ok(text) = std::env::var("VNET_SEED") {
        return text.parse().unwrap_or_else(|_| panic!("VNET_SEED is a number, not {text}"));
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    match std::env::var_os("VNET_NIGHTLY") {
        Some(_) => now.expect("it is later than 1970").as_nanos() as u64,
        None => 1,
    }
}

/// The one topology of a seed.
pub fn draw(seed: u64) -> Sketch {
    let mut runner = seeded(seed, Config::default());
    sketch().new_tree(&mut runner).expect("the strategy filters nothing").current()
}
