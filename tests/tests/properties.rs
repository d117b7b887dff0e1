//! Model and fabric agree about random topologies; and the comparison can fail.

use std::cell::RefCell;

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use serde_json::{Value, json};
use vnet_tests::agreement::{Tally, compare};
use vnet_tests::fabric::Fabric;
use vnet_tests::generate::{Features, seed, seeded, sketch};
use vnet_tests::model::Lab;
use vnet_tests::mutants::mutants;
use vnet_tests::subject::Subject;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// `VNET_CASES`, or many in the long form of the tests.
fn cases() -> u32 {
    let usual = if std::env::var_os("VNET_NIGHTLY").is_some() { 100_000 } else { 2_000 };
    number("VNET_CASES").map_or(usual, |cases| cases as u32)
}

fn runner(seed: u64, cases: u32) -> TestRunner {
    let config =
        Config { cases, max_global_rejects: 4 * cases, failure_persistence: None, ..Config::default() };
    seeded(seed, config)
}

/// Outcomes that a run which proves anything has met.
fn wanted() -> Vec<&'static str> {
    let features = Features::BUILT;
    let mut wanted = vec![
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
    let rest = [
        (features.subnet_peering, "SubnetNotPeered"),
        (features.encryption, "EncryptionRequired"),
        (features.egress, "Deliver to the internet"),
        (features.egress, "ProtocolNotSupported"),
    ];
    wanted.extend(rest.into_iter().filter(|(built, _)| *built).map(|(_, outcome)| outcome));
    wanted
}

/// Runs at a time, each with a seed of its own: as many on every machine, so that a seed is the same cases everywhere.
const RUNS: u32 = 4;

/// What the topologies of one seed have shown.
fn agree(seed: u64, cases: u32) -> Tally {
    let tally = RefCell::new(Tally::default());
    let result = runner(seed, cases).run(&sketch(), |sketch| {
        let topology = sketch.topology(Features::BUILT);
        let fabric = Fabric::build(&topology).map_err(TestCaseError::reject)?;
        let lab = Lab::read(&topology).map_err(TestCaseError::fail)?;
        compare(&mut tally.borrow_mut(), &fabric, &lab)
            .map_err(|wrong| TestCaseError::fail(format!("{wrong}\n{topology:#}")))
    });
    if let Err(error) = result {
        panic!("VNET_SEED={seed} replays this: {error}");
    }
    tally.into_inner()
}

#[test]
fn predictions_are_the_models() {
    let seed = seed();
    println!("VNET_SEED={seed}");
    let tally = std::thread::scope(|scope| {
        let run = |number| scope.spawn(move || agree(seed + number, cases().div_ceil(RUNS)));
        let runs: Vec<_> = (0..u64::from(RUNS)).map(run).collect();
        let mut all = Tally::default();
        for run in runs {
            match run.join() {
                Ok(tally) => all.add(tally),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        all
    });
    for outcome in wanted() {
        assert!(tally.0.contains_key(outcome), "VNET_SEED={seed}: no topology shows {outcome}: {tally:#?}");
    }
}

fn flip(value: &mut Value) -> bool {
    let flag = value.as_bool();
    if let Some(flag) = flag {
        *value = json!(!flag);
    }
    flag.is_some()
}

/// The name of a kind of mistake, and what it changes.
type Mistake = (&'static str, fn(&str, &mut Value) -> bool);

const MISTAKES: [Mistake; 8] = [
    ("a rule or collection acts the other way", |key, value| {
        let other = match (key, value.as_str()) {
            ("access" | "action", Some("Allow")) => "Deny",
            ("access" | "action", Some("Deny")) => "Allow",
            _ => return false,
        };
        *value = json!(other);
        true
    }),
    ("a rule is of the other direction", |key, value| {
        let other = match (key, value.as_str()) {
            ("direction", Some("Inbound")) => "Outbound",
            ("direction", Some("Outbound")) => "Inbound",
            _ => return false,
        };
        *value = json!(other);
        true
    }),
    ("forwarded traffic is judged the other way", |key, value| key == "allowForwardedTraffic" && flip(value)),
    ("access is judged the other way", |key, value| key == "allowVirtualNetworkAccess" && flip(value)),
    ("propagation is judged the other way", |key, value| key == "disableBgpRoutePropagation" && flip(value)),
    ("a NIC forwards the other way", |key, value| key == "enableIPForwarding" && flip(value)),
    ("a route is forgotten", |key, value| {
        let routes = value.as_array_mut().filter(|_| key == "routes");
        routes.is_some_and(|routes| routes.pop().is_some())
    }),
    ("a peering is forgotten", |key, value| {
        let peerings = value.as_object_mut().filter(|_| key == "peerings");
        let first = peerings.as_ref().and_then(|peerings| peerings.keys().next().cloned());
        first.is_some_and(|first| peerings.is_some_and(|peerings| peerings.remove(&first).is_some()))
    }),
];

/// A fabric that makes one mistake is caught: for each kind of mistake in some of a few topologies.
#[test]
fn a_wrong_fabric_is_caught() {
    let mut runner = runner(3, 1);
    let mut caught = [0; MISTAKES.len()];
    for _ in 0..200 {
        let sketch = sketch().new_tree(&mut runner).expect("a sketch can be made").current();
        let topology = sketch.topology(Features::BUILT);
        let Ok(lab) = Lab::read(&topology) else { continue };
        for ((_, change), caught) in MISTAKES.iter().zip(&mut caught).filter(|(_, caught)| **caught < 3) {
            let wrong = mutants(&topology, *change).into_iter().take(6);
            let fabrics = wrong.filter_map(|mutant| Fabric::build(&mutant).ok());
            let differs = |fabric: &Fabric| compare(&mut Tally::default(), fabric, &lab).is_err();
            *caught += fabrics.filter(differs).count();
        }
    }
    for ((name, _), caught) in MISTAKES.iter().zip(caught) {
        assert!(caught >= 3, "{name}: caught {caught} times");
    }
}
