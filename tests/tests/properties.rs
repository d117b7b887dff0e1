//! Random topologies: the fabric's prediction for every pair of machines and hosts is the reference model's.
//!
//! `VNET_CASES` sets the number of topologies; 2,000 without it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::IpAddr;

use proptest::test_runner::{Config, TestCaseError, TestRunner};
use vnet_config::model::ProbeProtocol;
use vnet_dataplane::Reason;
use vnet_tests::fabric::{Fabric, Travel};
use vnet_tests::generate::sketch;
use vnet_tests::model::walk::{Ending, Way, walk, walk_back};
use vnet_tests::model::{Endpoint, Lab};
use vnet_tests::subject::{Line, Probe, Subject};

fn cases() -> u32 {
    std::env::var("VNET_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(2_000)
}

fn probes() -> Vec<Probe> {
    let probe = |protocol: &str, port, mid_stream| Probe { protocol: protocol.to_owned(), port, mid_stream };
    vec![probe("icmp", 0, false), probe("tcp", 22, false), probe("udp", 443, false), probe("tcp", 80, true)]
}

fn endpoints(lab: &Lab) -> Vec<Endpoint> {
    let machines = lab.virtual_machines.keys();
    let hosts = lab.on_premises_sites.values().flat_map(|site| site.hosts.keys());
    machines.chain(hosts).map(|name| lab.endpoint(name).expect("the name is in the topology")).collect()
}

/// What came out how often: a generator that makes dull topologies proves nothing.
#[derive(Debug, Default)]
struct Tally(BTreeMap<String, u32>);

impl Tally {
    fn note(&mut self, way: &Way) {
        let key = match &way.ending {
            Ending::Drop(reason) => reason.name().to_owned(),
            Ending::Deliver(_) => format!("Deliver via {}", way.via.len().min(3)),
        };
        *self.0.entry(key).or_default() += 1;
    }

    fn is_rich(&self) {
        let wanted = [
            "Deliver via 0",
            "Deliver via 1",
            "Deliver via 2",
            "RouteNone",
            "NoRoute",
            "NextHopUnreachable",
            "PeeringNotConnected",
            "PeeringAccessDenied",
            "ForwardedTrafficDenied",
            "NsgDeny",
            "FirewallDeny",
            "FirewallNoSession",
            "NotForwarding",
            "NoEffectiveGateway",
            "TunnelDown",
            "RoutingLoop",
            "NoListener",
        ];
        for outcome in wanted {
            assert!(self.0.contains_key(outcome), "no topology shows {outcome}: {self:#?}");
        }
    }
}

fn agree(fabric: &Fabric, way: &Way, travel: &Travel) -> Result<(), String> {
    match (&way.ending, &travel.end) {
        (Ending::Drop(expected), Err(got)) if expected == got => Ok(()),
        // Nobody has a public address in these topologies, and that is where the fabric stops.
        (Ending::Drop(Reason::NoListener), Err(Reason::NoRoute)) if way.outside => Ok(()),
        (Ending::Drop(Reason::ProtocolNotSupported), Err(Reason::NoRoute)) => Ok(()),
        (Ending::Deliver(expected), Ok(port))
            if fabric.port_of(expected.name()) == *port && way.via == travel.via =>
        {
            Ok(())
        }
        _ => Err(format!(
            "the model says {:?} via {:?} by {:?}, the fabric {travel:#?}",
            way.ending, way.via, way.rule
        )),
    }
}

fn compare(
    tally: &mut Tally,
    (fabric, lab): (&Fabric, &Lab),
    from: &Endpoint,
    pair: (IpAddr, IpAddr),
    probe: &Probe,
) -> Result<(), String> {
    let packet = Lab::question(pair.0, pair.1, probe);
    let way = walk(lab, from, packet, &[]);
    tally.note(&way);
    let (forward, back) = fabric.travel_both(fabric.port_of(from.name()), fabric.tuple(packet), packet.opens);
    agree(fabric, &way, &forward)?;
    match (walk_back(lab, &way), back) {
        (Some(expected), Some(got)) => {
            agree(fabric, &expected, &got).map_err(|wrong| format!("the answer: {wrong}"))
        }
        (None, None) => Ok(()),
        (expected, got) => Err(format!("an answer: the model says {expected:?}, the fabric {got:?}")),
    }
}

/// The tables of every subnet list the same rows.
fn compare_tables(fabric: &Fabric, lab: &Lab) -> Result<(), String> {
    for (vnet, network) in &lab.virtual_networks {
        for subnet in network.subnets.keys() {
            let name = format!("{vnet}/{subnet}");
            let sorted = |lines: Option<Vec<Line>>| {
                let mut lines = lines.expect("both tell");
                lines.sort();
                lines
            };
            let (expected, got) = (sorted(lab.routes(&name)), sorted(fabric.routes(&name)));
            if expected != got {
                return Err(format!("{name}: the model lists {expected:#?}, the fabric {got:#?}"));
            }
        }
    }
    Ok(())
}

/// What `path` prints is what a packet driven from port to port meets.
fn compare_path(fabric: &Fabric, from: &Endpoint, to: &Endpoint) -> Result<(), String> {
    let probe = Probe { protocol: "tcp".to_owned(), port: 443, mid_stream: false };
    let report =
        match vnet_fabric::path(&fabric.snapshot, from.name(), to.name(), ProbeProtocol::Tcp, Some(443)) {
            Ok(report) => report,
            Err(error) => return Err(error.to_string()),
        };
    // The fabric picks the pair of addresses; the same pair is asked of the driver.
    let driven = fabric.path(from.name(), to.name(), &probe);
    let reason = driven.reason.clone().or(driven.reply_reason.clone());
    let arrives = driven.reason.is_none();
    let same = report.reason == reason
        && report.forward.arrives == arrives
        && (!arrives || report.via == driven.via)
        && (reason.is_some() || report.via_reverse == driven.via_reverse);
    if same { Ok(()) } else { Err(format!("path says {report:#?}, a driven packet {driven:?}")) }
}

#[test]
fn predictions_are_the_models() {
    let config = Config {
        cases: cases(),
        max_global_rejects: 4 * cases(),
        failure_persistence: None,
        ..Config::default()
    };
    let mut runner = TestRunner::new(config);
    let tally = RefCell::new(Tally::default());
    let result = runner.run(&sketch(), |sketch| {
        let topology = sketch.topology();
        let fabric = match Fabric::build(&topology) {
            Ok(fabric) => fabric,
            Err(refused) => return Err(TestCaseError::reject(refused)),
        };
        let lab = Lab::read(&topology).map_err(TestCaseError::fail)?;
        compare_tables(&fabric, &lab)
            .map_err(|wrong| TestCaseError::fail(format!("{wrong}\n{topology:#}")))?;
        for from in endpoints(&lab) {
            for to in endpoints(&lab).into_iter().filter(|to| *to != from) {
                let shared = lab
                    .addresses(&from)
                    .iter()
                    .any(|a| lab.addresses(&to).iter().any(|b| a.is_ipv4() == b.is_ipv4()));
                if shared {
                    compare_path(&fabric, &from, &to)
                        .map_err(|wrong| TestCaseError::fail(format!("{wrong}\n{topology:#}")))?;
                }
                for source in lab.addresses(&from) {
                    let same = lab.addresses(&to).into_iter().filter(|to| to.is_ipv4() == source.is_ipv4());
                    for destination in same {
                        for probe in probes() {
                            compare(
                                &mut tally.borrow_mut(),
                                (&fabric, &lab),
                                &from,
                                (source, destination),
                                &probe,
                            )
                            .map_err(|wrong| {
                                let question = format!("{} to {}: {probe:?}", from.name(), to.name());
                                TestCaseError::fail(format!("{question}: {wrong}\n{topology:#}"))
                            })?;
                        }
                    }
                }
            }
        }
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
    println!("{:#?}", tally.borrow());
    tally.borrow().is_rich();
}
