use super::*;
use crate::testing::Rng;

fn tuple(protocol: Protocol, source: &str, destination: &str, ports: (u16, u16)) -> FiveTuple {
    FiveTuple {
        protocol,
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
        source_port: ports.0,
        destination_port: ports.1,
    }
}

fn linear(rules: &[RuleSpec], tuple: &FiveTuple) -> Option<usize> {
    rules.iter().position(|rule| rule.matches(tuple))
}

fn random_net(rng: &mut Rng) -> IpNet {
    // A small universe, so that prefixes nest and packets hit them.
    if rng.chance(70) {
        let len = [0, 8, 16, 24, 30, 32][rng.below(6)];
        let bits = 0x0a00_0000 | (rng.below(4) << 16 | rng.below(4) << 8 | rng.below(8)) as u32;
        IpNet::new(IpAddr::V4(bits.into()), len).unwrap().trunc()
    } else {
        let len = [0, 32, 64, 128][rng.below(4)];
        let bits = 0xfd00u128 << 112 | (rng.below(3) as u128) << 80 | rng.below(4) as u128;
        IpNet::new(IpAddr::V6(bits.into()), len).unwrap().trunc()
    }
}

fn random_field<T>(rng: &mut Rng, any_percent: usize, mut value: impl FnMut(&mut Rng) -> T) -> Field<T> {
    if rng.chance(any_percent) {
        return Field::Any;
    }
    let count = rng.below(4);
    Field::OneOf((0..count).map(|_| value(rng)).collect())
}

fn random_range(rng: &mut Rng) -> RangeInclusive<u16> {
    match rng.below(10) {
        0 => 0..=u16::MAX,
        1..=4 => {
            let port = rng.below(12) as u16;
            port..=port
        }
        _ => {
            let start = rng.below(12) as u16;
            start..=start + rng.below(5) as u16
        }
    }
}

fn random_protocol(rng: &mut Rng) -> Protocol {
    [Protocol::TCP, Protocol::UDP, Protocol::ICMP, Protocol::ESP][rng.below(4)]
}

fn random_rule(rng: &mut Rng) -> RuleSpec {
    RuleSpec {
        sources: random_field(rng, 30, random_net),
        destinations: random_field(rng, 30, random_net),
        protocols: random_field(rng, 50, random_protocol),
        source_ports: random_field(rng, 70, random_range),
        destination_ports: random_field(rng, 40, random_range),
    }
}

fn random_tuple(rng: &mut Rng) -> FiveTuple {
    let v6 = rng.chance(30);
    let mut address = || {
        loop {
            let net = random_net(rng);
            if net.addr().is_ipv6() == v6 {
                return net.addr();
            }
        }
    };
    let (source, destination) = (address(), address());
    FiveTuple {
        protocol: random_protocol(rng),
        source,
        destination,
        source_port: rng.below(18) as u16,
        destination_port: rng.below(18) as u16,
    }
}

/// The values of a range's ends and their neighbours: where a classifier errs, it errs there.
fn edges<T: Copy>(first: T, last: T, before: Option<T>, after: Option<T>) -> impl Iterator<Item = T> {
    [Some(first), Some(last), before, after].into_iter().flatten()
}

fn address_edges(rules: &[RuleSpec], of: fn(&RuleSpec) -> &Field<IpNet>) -> Vec<IpAddr> {
    let nets = rules.iter().filter_map(|rule| of(rule).values()).flatten();
    let mut all: Vec<IpAddr> = nets
        .flat_map(|net| {
            let ends: Vec<IpAddr> = match net {
                IpNet::V4(net) => {
                    let (first, last) = (net.network().to_bits(), net.broadcast().to_bits());
                    edges(first, last, first.checked_sub(1), last.checked_add(1))
                        .map(|bits| IpAddr::V4(bits.into()))
                        .collect()
                }
                IpNet::V6(net) => {
                    let (first, last) = (net.network().to_bits(), net.broadcast().to_bits());
                    edges(first, last, first.checked_sub(1), last.checked_add(1))
                        .map(|bits| IpAddr::V6(bits.into()))
                        .collect()
                }
            };
            ends
        })
        .collect();
    all.extend(
        ["0.0.0.0", "255.255.255.255", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"]
            .map(|text| -> IpAddr { text.parse().unwrap() }),
    );
    all
}

fn port_edges(rules: &[RuleSpec], of: fn(&RuleSpec) -> &Field<RangeInclusive<u16>>) -> Vec<u16> {
    let ranges = rules.iter().filter_map(|rule| of(rule).values()).flatten();
    let mut all: Vec<u16> = ranges
        .flat_map(|range| {
            edges(*range.start(), *range.end(), range.start().checked_sub(1), range.end().checked_add(1))
        })
        .collect();
    all.extend([0, u16::MAX]);
    all
}

/// A packet whose every field lies at an end of some rule's range, or beside it.
fn edge_tuple(rng: &mut Rng, values: &Edges) -> FiveTuple {
    let source = values.sources[rng.below(values.sources.len())];
    let same: Vec<IpAddr> =
        values.destinations.iter().copied().filter(|address| address.is_ipv4() == source.is_ipv4()).collect();
    let others = [Protocol::ICMPV6, Protocol::AH, Protocol(0), Protocol(u8::MAX)];
    FiveTuple {
        protocol: if rng.chance(80) { random_protocol(rng) } else { others[rng.below(others.len())] },
        source,
        destination: same[rng.below(same.len())],
        source_port: values.source_ports[rng.below(values.source_ports.len())],
        destination_port: values.destination_ports[rng.below(values.destination_ports.len())],
    }
}

struct Edges {
    sources: Vec<IpAddr>,
    destinations: Vec<IpAddr>,
    source_ports: Vec<u16>,
    destination_ports: Vec<u16>,
}

impl Edges {
    fn of(rules: &[RuleSpec]) -> Edges {
        Edges {
            sources: address_edges(rules, |rule| &rule.sources),
            destinations: address_edges(rules, |rule| &rule.destinations),
            source_ports: port_edges(rules, |rule| &rule.source_ports),
            destination_ports: port_edges(rules, |rule| &rule.destination_ports),
        }
    }
}

#[test]
fn equals_a_linear_scan_of_ten_thousand_sets() {
    let mut rng = Rng::new(21);
    let (mut matched, mut missed) = (0u32, 0u32);
    for set in 0..10_000 {
        let count = if set % 100 == 0 { rng.below(400) } else { rng.below(12) };
        let rules: Vec<_> = (0..count).map(|_| random_rule(&mut rng)).collect();
        let classifier = Classifier::new(&rules);
        let edges = Edges::of(&rules);
        for probe in 0..30 {
            let tuple = if probe % 3 == 0 { random_tuple(&mut rng) } else { edge_tuple(&mut rng, &edges) };
            let expected = linear(&rules, &tuple);
            if expected.is_some() {
                matched += 1
            } else {
                missed += 1
            }
            assert_eq!(classifier.classify(&tuple), expected, "set {set}: {tuple} in {rules:#?}");
        }
    }
    // Neither answer is rare, so that both are tried.
    assert!(matched > 50_000 && missed > 50_000, "{matched} matched, {missed} did not");
}

#[test]
fn ten_thousand_rules() {
    let mut rng = Rng::new(22);
    let rules: Vec<_> = (0..10_000u32)
        .map(|number| RuleSpec {
            sources: Field::OneOf(vec![
                IpNet::new(IpAddr::V4((0x0a00_0000 + number * 16).into()), 28).unwrap(),
            ]),
            destinations: if number % 3 == 0 {
                Field::Any
            } else {
                Field::OneOf(vec!["10.128.0.0/9".parse().unwrap()])
            },
            protocols: Field::OneOf(vec![Protocol::TCP]),
            source_ports: Field::Any,
            destination_ports: Field::OneOf(vec![443..=443, 8_000..=8_000 + (number % 50) as u16]),
        })
        .collect();
    let classifier = Classifier::new(&rules);
    assert_eq!(classifier.len(), 10_000);
    for _ in 0..3_000 {
        let tuple = FiveTuple {
            protocol: Protocol::TCP,
            source: IpAddr::V4((0x0a00_0000 + rng.below(170_000) as u32).into()),
            destination: IpAddr::V4((0x0a80_0000 + rng.below(1 << 24) as u32).into()),
            source_port: 1,
            destination_port: 8_000 + rng.below(60) as u16,
        };
        assert_eq!(classifier.classify(&tuple), linear(&rules, &tuple));
    }
}

#[test]
fn rules_with_ports_are_for_tcp_and_udp() {
    let rules = [
        RuleSpec { destination_ports: Field::OneOf(vec![80..=80]), ..RuleSpec::ANY },
        RuleSpec { destination_ports: Field::OneOf(vec![0..=65_535]), ..RuleSpec::ANY },
    ];
    let classifier = Classifier::new(&rules);
    let classify = |protocol| classifier.classify(&tuple(protocol, "10.0.0.1", "10.0.0.2", (80, 80)));
    assert_eq!(classify(Protocol::TCP), Some(0));
    assert_eq!(classify(Protocol::UDP), Some(0));
    // The ports of ICMP are its identifier, and mean nothing to a rule.
    assert_eq!(classify(Protocol::ICMP), Some(1));
    assert_eq!(classify(Protocol::ESP), Some(1));
}

#[test]
fn a_field_of_nothing_matches_nothing() {
    let rules = [RuleSpec { sources: Field::OneOf(vec![]), ..RuleSpec::ANY }];
    let packet = tuple(Protocol::TCP, "10.0.0.1", "10.0.0.2", (1, 2));
    assert_eq!(Classifier::new(&rules).classify(&packet), None);
    assert_eq!(Classifier::new(&[]).classify(&packet), None);
    assert_eq!(Classifier::new(&[RuleSpec::ANY]).classify(&packet), Some(0));
}

#[test]
fn a_default_route_of_one_family_is_not_the_others() {
    let rules = [RuleSpec { sources: Field::OneOf(vec!["0.0.0.0/0".parse().unwrap()]), ..RuleSpec::ANY }];
    let classifier = Classifier::new(&rules);
    assert_eq!(classifier.classify(&tuple(Protocol::TCP, "255.255.255.254", "10.0.0.2", (1, 2))), Some(0));
    assert_eq!(classifier.classify(&tuple(Protocol::TCP, "fd00::1", "fd00::2", (1, 2))), None);
}
