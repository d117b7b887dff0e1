//! A search speaks of every header once, and each member of a class has the verdict of the class.

use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError};
use vnet_analysis::search::{Query, Reach, SearchProtocol, Senders, search};
use vnet_config::model::PortRange;
use vnet_dataplane::{PortId, Protocol};
use vnet_fabric::path::{Endpoint, first_packet, judge};
use vnet_fabric::snapshot::Snapshot;
use vnet_tests::fabric::Fabric;
use vnet_tests::generate::{Features, seed, seeded, sketch};
use vnet_tests::golden::{PathCheck, Verdict, discover, patched};
use vnet_tests::subject::Subject;

/// Everything that tells headers apart and does not spread flows over equal paths.
const FEATURES: Features = Features { several_hops: false, ..Features::BUILT };

/// Numbers by which one header is chosen: the set, the address in it, source port and destination port.
type Choice = (usize, u128, u16, u16);

fn cases() -> u32 {
    if std::env::var_os("VNET_NIGHTLY").is_some() { 5_000 } else { 200 }
}

/// An address of the prefix.
fn member(net: &IpNet, choice: u128) -> IpAddr {
    match net {
        IpNet::V4(net) => {
            let size = 1u64 << (32 - u32::from(net.prefix_len()));
            let offset = (choice % u128::from(size)) as u32;
            IpAddr::V4((u32::from(net.network()) + offset).into())
        }
        IpNet::V6(net) => {
            let host =
                if net.prefix_len() == 0 { u128::MAX } else { (1u128 << (128 - net.prefix_len())) - 1 };
            IpAddr::V6((u128::from(net.network()) | (choice & host)).into())
        }
    }
}

fn ingress(snapshot: &Snapshot, from: &str) -> Option<PortId> {
    if from == "internet" {
        return snapshot.internet_edge();
    }
    let port = snapshot.port_by_name(from).map(|port| port.id);
    port.or_else(|| Endpoint::resolve(snapshot, from).ok()?.port)
}

fn number(protocol: SearchProtocol, v4: bool) -> Protocol {
    match protocol {
        SearchProtocol::Tcp => Protocol::TCP,
        SearchProtocol::Udp => Protocol::UDP,
        SearchProtocol::Icmp if v4 => Protocol::ICMP,
        SearchProtocol::Icmp => Protocol::ICMPV6,
        SearchProtocol::Esp => Protocol::ESP,
        SearchProtocol::Ah => Protocol::AH,
    }
}

/// No range stands for every port.
fn has(ranges: &[PortRange], port: u16) -> bool {
    ranges.is_empty() || ranges.iter().any(|range| range.contains(port))
}

fn holds(reach: &Reach, from: &Reach, source: IpAddr, ports: (u16, u16)) -> bool {
    (&reach.from, reach.protocol, reach.destination) == (&from.from, from.protocol, from.destination)
        && reach.source_addresses.iter().any(|net| net.contains(&source))
        && has(&reach.source_ports, ports.0)
        && has(&reach.destination_ports, ports.1)
}

fn check(fabric: &Fabric, to: &str, choices: &[Choice]) -> Result<usize, TestCaseError> {
    let snapshot = &fabric.snapshot;
    let query = Query { to: to.to_owned(), from: Senders::Any, protocols: Vec::new(), port: None };
    let report = search(snapshot, &query).map_err(|error| TestCaseError::fail(error.to_string()))?;
    let sets: Vec<&Reach> = report.allowed.iter().chain(&report.denied).collect();
    let target =
        |port: PortId| snapshot.port(port).is_some_and(|info| info.name.split('/').next() == Some(to));
    let mut judged = 0;
    for (set, address, source_port, destination_port) in choices {
        let Some(from) = sets.get(set % sets.len().max(1)) else { continue };
        let net = &from.source_addresses[(*address as usize) % from.source_addresses.len()];
        let source = member(net, *address);
        let Some(port) = ingress(snapshot, &from.from) else { continue };
        let v4 = source.is_ipv4();
        let packet = first_packet(
            number(from.protocol, v4),
            (source, *source_port),
            (from.destination, *destination_port),
        );
        let outcome = judge(snapshot, port, &packet);
        let arrived = outcome.arrived.is_some_and(|(port, _)| target(port));
        let passes = arrived && outcome.reason.is_none();
        let ports = (*source_port, *destination_port);
        let saying: Vec<&&Reach> = sets.iter().filter(|reach| holds(reach, from, source, ports)).collect();
        prop_assert_eq!(saying.len(), 1, "{} {} {:?} is in {:?}", from.from, source, ports, saying);
        prop_assert!(!saying[0].verdict.some_flows || snapshot.spreads_flows());
        if !saying[0].verdict.some_flows {
            prop_assert_eq!(saying[0].verdict.allowed, passes, "{:?} {:?}", packet.tuple, outcome);
        }
        judged += 1;
    }
    Ok(judged)
}

#[test]
fn every_member_of_a_class_has_the_verdict_of_the_class() {
    let judged = std::cell::Cell::new(0usize);
    let choices = proptest::collection::vec((any::<usize>(), any::<u128>(), port(), port()), 60);
    let config = Config {
        cases: cases(),
        max_global_rejects: 4 * cases(),
        failure_persistence: None,
        ..Config::default()
    };
    let seed = seed();
    println!("VNET_SEED={seed}");
    let result = seeded(seed, config).run(&(sketch(), any::<usize>(), choices), |(sketch, to, choices)| {
        let topology = sketch.topology(FEATURES);
        let fabric = Fabric::build(&topology).map_err(TestCaseError::reject)?;
        let machines: Vec<String> = fabric.snapshot.machines().map(str::to_owned).collect();
        let Some(to) = machines.get(to % machines.len().max(1)) else {
            return Err(TestCaseError::reject("no machine"));
        };
        judged.set(judged.get() + check(&fabric, to, &choices)?);
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
    assert!(judged.get() > 1_000, "{} headers were judged", judged.get());
}

/// The verdict that a search to the machine `path.to` has for the packet of a worked example: of the one set that holds
/// it; none where it depends on more than the header.
fn found(fabric: &Fabric, path: &PathCheck) -> Result<Option<bool>, String> {
    let snapshot = &fabric.snapshot;
    let (_, packet) = fabric.names.asked(&path.from, &path.to, &path.probe());
    let query = Query { to: path.to.clone(), from: Senders::Any, protocols: Vec::new(), port: None };
    let report = search(snapshot, &query).map_err(|error| error.to_string())?;
    let from = Endpoint::resolve(snapshot, &path.from).map_err(|error| error.to_string())?.port;
    let holds = |reach: &&Reach| {
        number(reach.protocol, packet.source.is_ipv4()) == packet.protocol
            && reach.destination == packet.destination
            && ingress(snapshot, &reach.from) == from
            && reach.source_addresses.iter().any(|net| net.contains(&packet.source))
            && has(&reach.source_ports, packet.source_port)
            && has(&reach.destination_ports, packet.destination_port)
    };
    let sets: Vec<&Reach> = report.allowed.iter().chain(&report.denied).filter(holds).collect();
    match sets[..] {
        [reach] => Ok((!reach.verdict.some_flows).then_some(reach.verdict.allowed)),
        _ => Err(format!("it is in {sets:?}")),
    }
}

/// Both ends are machines: the Internet's senders and addresses are sets of their own.
fn is_inside(fabric: &Fabric, path: &PathCheck) -> bool {
    let is_machine = |name: &String| fabric.topology.virtual_machines.contains_key(name.as_str());
    is_machine(&path.from) && is_machine(&path.to) && !path.mid_stream
}

#[test]
fn a_search_has_the_verdicts_of_the_worked_examples() {
    let (mut failures, mut compared) = (Vec::new(), 0);
    for (file, example) in discover(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/golden"))) {
        for case in &example.cases {
            if case.rejects.is_some() || case.model_only.is_some() || case.paths.is_empty() {
                continue;
            }
            let fabric =
                Fabric::build(&patched(&example.topology, &case.patch)).expect("golden tests build it");
            for path in case.paths.iter().filter(|path| is_inside(&fabric, path)) {
                match found(&fabric, path) {
                    Ok(None) => continue,
                    Ok(Some(allowed)) if allowed == (path.verdict == Verdict::Allow) => {}
                    other => failures.push(format!("{}: {}: {path:?}: {other:?}", file.display(), case.name)),
                }
                compared += 1;
            }
        }
    }
    assert!(failures.is_empty(), "{} of {compared}:\n{}", failures.len(), failures.join("\n"));
    assert!(compared > 100, "only {compared} paths were compared");
}

/// Ports that rules name or hosts keep for themselves, their neighbours, and any other.
fn port() -> impl Strategy<Value = u16> {
    prop_oneof![
        Just(0),
        Just(22),
        Just(67),
        Just(68),
        Just(4791),
        Just(65_330),
        Just(79),
        Just(80),
        Just(81),
        Just(443),
        Just(444),
        Just(u16::MAX),
        any::<u16>()
    ]
}
