//! Prediction equals packet: random small topologies, in which every pair's predicted path is held against a real
//! packet, each way.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use vnet_integration::lab::Lab as RunningLab;
use vnet_integration::suite::Lab;
use vnet_integration::wait_until;
use vnet_integration::{PATIENCE, Scene};
use vnet_tests::accept;
use vnet_tests::generate::{Features, draw, seed};

pub(crate) const LABS: &[Lab] = &[Lab::new("random::predictions_agree_with_packets", predictions_agree)];

const SERVICES: [&str; 3] = ["icmp", "tcp/443", "udp/53"];

/// How much one run proves.
struct Size {
    labs: usize,
    machines_max: usize,
    /// Every service between every pair; otherwise each pair has one, in turn.
    all_services: bool,
}

const USUAL: Size = Size { labs: 3, machines_max: 5, all_services: false };
const NIGHTLY: Size = Size { labs: 100, machines_max: 10, all_services: true };

/// Which of several machines gets a flow depends on its source port, of which a prediction does not know.
const FEATURES: Features = Features { several_hops: false, ..Features::BUILT };

fn predictions_agree(scene: &Scene) -> Result<()> {
    let size = if std::env::var_os("VNET_NIGHTLY").is_some() { NIGHTLY } else { USUAL };
    let first = seed();
    println!("VNET_SEED={first}");
    let daemon = scene.daemon()?;
    let mut tally = Tally::default();
    let mut proved = 0;
    for seed in first.. {
        let topology = draw(seed).topology(FEATURES);
        // What Azure would refuse is no topology to predict in.
        if names(&topology, "/virtualMachines").len() > size.machines_max || accept::load(&topology).is_err()
        {
            continue;
        }
        let text = file(&topology);
        let mut prove = || -> Result<()> {
            let lab = scene.up_on(daemon.clone(), &text)?;
            let disagreements = compare(&lab, &topology, seed, size.all_services, &mut tally)?;
            ensure!(disagreements.is_empty(), "{}", disagreements.join("\n\n"));
            lab.expect_balance()
        };
        prove().with_context(|| format!("VNET_SEED={seed}\n{text}"))?;
        proved += 1;
        if proved == size.labs {
            break;
        }
    }
    let Tally { allowed, denied } = tally;
    println!("{proved} labs, {allowed} probes answered, {denied} not");
    ensure!(allowed > 0 && denied > 0, "{allowed} allowed and {denied} denied: the topologies prove little");
    Ok(())
}

#[derive(Default)]
struct Tally {
    allowed: usize,
    denied: usize,
}

/// A line for each part of the topology: JSON is YAML.
fn file(topology: &Value) -> String {
    let parts = topology.as_object().into_iter().flatten();
    let line = |(key, value): (&String, &Value)| match value {
        Value::String(text) => format!("{key}: {text}\n"),
        _ => format!("{key}: {value}\n"),
    };
    parts.map(line).collect()
}

fn names(topology: &Value, pointer: &str) -> Vec<String> {
    topology
        .pointer(pointer)
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(name, _)| name.clone())
        .collect()
}

/// A property of a machine's NIC.
fn nic<'a>(topology: &'a Value, machine: &str, property: &str) -> Option<&'a Value> {
    topology.pointer(&format!("/virtualMachines/{machine}/networkInterfaces/0/{property}"))
}

/// Addresses at which the Internet finds nobody: of no lab, of a documentation range, and the platform's own.
const NOBODYS: [&str; 3] = ["203.0.113.99", "198.51.100.77", "168.63.129.16"];

/// Who sends and who is sent to: a private endpoint opens nothing by itself.
fn pairs(topology: &Value) -> Vec<(String, String)> {
    let inside: Vec<String> = names(topology, "/onPremisesSites")
        .iter()
        .flat_map(|site| names(topology, &format!("/onPremisesSites/{site}/hosts")))
        .chain(names(topology, "/virtualMachines"))
        .collect();
    let internet = names(topology, "/internet/hosts");
    let endpoints = names(topology, "/privateEndpoints");
    let mut pairs = Vec::new();
    for from in &inside {
        let others = inside.iter().chain(&internet).chain(&endpoints).filter(|to| *to != from);
        pairs.extend(others.map(|to| (from.clone(), to.clone())));
        // A machine that talks to itself, and the Internet to machines with a public address and to those without.
        pairs.push((from.clone(), from.clone()));
        pairs.extend(internet.iter().map(|host| (host.clone(), from.clone())));
    }
    for host in &internet {
        pairs.extend(NOBODYS.map(|address| (host.clone(), address.to_owned())));
    }
    for (from, to) in pairs.clone() {
        let six = |machine: &str| {
            nic(topology, machine, "privateIPAddresses/1").and_then(Value::as_str).map(str::to_owned)
        };
        if let (Some(_), Some(address)) = (six(&from), six(&to)) {
            pairs.push((from, address));
        }
    }
    pairs
}

/// Every pair in which prediction and packet differ, with both answers.
fn compare(
    lab: &RunningLab,
    topology: &Value,
    seed: u64,
    all: bool,
    tally: &mut Tally,
) -> Result<Vec<String>> {
    let_machines_forward(lab, topology)?;
    settle_tunnels(lab)?;
    let mut disagreements = Vec::new();
    for (number, (from, to)) in pairs(topology).into_iter().enumerate() {
        let turn = (number + seed as usize) % SERVICES.len();
        for service in if all { &SERVICES[..] } else { &SERVICES[turn..=turn] } {
            let output = lab.ctl(&["path", &from, &to, service, "--probe", "--short", "-o", "json"])?;
            let report = output.json().with_context(|| format!("{from} to {to} {service}: {output:?}"))?;
            let agrees = report.pointer("/probe/agrees").and_then(Value::as_bool) == Some(true);
            if !agrees && !rests_on_translation(&report) {
                disagreements.push(format!("{from} to {to} {service}\n{report:#}"));
            }
            match report.pointer("/probe/result/outcome").and_then(Value::as_str) {
                Some("answered") => tally.allowed += 1,
                _ => tally.denied += 1,
            }
        }
    }
    Ok(disagreements)
}

/// Whether the prediction takes for granted that a machine translates what it forwards to the Internet. A file says
/// nothing of that, and the machines of these labs do not.
fn rests_on_translation(report: &Value) -> bool {
    let assumptions = report["assumptions"].as_array().into_iter().flatten();
    assumptions.filter_map(Value::as_str).any(|text| text.contains("assumed to translate"))
}

/// The fabric lets these machines forward; that their kernels do is for the machine's owner to see to.
fn let_machines_forward(lab: &RunningLab, topology: &Value) -> Result<()> {
    let command = "echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding";
    for name in names(topology, "/virtualMachines") {
        let flag = nic(topology, &name, "enableIPForwarding");
        if flag.and_then(Value::as_bool) == Some(true) {
            lab.exec(&name, &["sh", "-c", command])?.ok()?;
        }
    }
    Ok(())
}

/// Each tunnel is up, or says why it is not.
fn settle_tunnels(lab: &RunningLab) -> Result<()> {
    wait_until("every tunnel is up or says why not", PATIENCE, || {
        let report = lab.json(&["gateway", "status"])?;
        let tunnels = report["value"].as_array().context("no list of tunnels")?;
        Ok(tunnels.iter().all(|tunnel| tunnel["state"] == "Connected" || tunnel["why"].is_string()))
    })
}
