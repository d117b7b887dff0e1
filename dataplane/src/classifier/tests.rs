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

#[test]
fn equals_a_linear_scan() {
    let mut rng = Rng::new(21);
    for set in 0..10_000 {
        let count = if set % 100 == 0 { rng.below(400) } else { rng.below(12) };
        let rules: Vec<_> = (0..count).map(|_| random_rule(&mut rng)).collect();
        let classifier = Classifier::new(&rules);
        for _ in 0..20 {
            let tuple = random_tuple(&mut rng);
            assert_eq!(
                classifier.classify(&tuple),
                linear(&rules, &tuple),
                "set {set}: {tuple} in {rules:#?}"
            );
        }
    }
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
