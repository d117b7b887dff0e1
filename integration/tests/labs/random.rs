//! Prediction equals packet: random small topologies, in which every pair's predicted verdict is held against a real
//! packet.

use std::fmt::Write;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use vnet_integration::Scene;
use vnet_integration::process;
use vnet_integration::suite::Lab;

pub(crate) const LABS: &[Lab] = &[Lab::new("random::predictions_agree_with_packets", predictions_agree)];

const NETWORKS: usize = 4;
const SERVICES: [&str; 3] = ["icmp", "tcp/443", "udp/53"];

/// A seed replays a failure: VNET_SEED=N.
fn first_seed() -> Result<u64> {
    match std::env::var("VNET_SEED") {
        Ok(text) => text.parse().context("VNET_SEED is a number"),
        Err(_) => Ok(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs()),
    }
}

fn predictions_agree(scene: &Scene) -> Result<()> {
    let wanted = if std::env::var_os("VNET_NIGHTLY").is_some() { 100 } else { 4 };
    let daemon = scene.daemon()?;
    let (mut proved, mut allowed, mut denied) = (0, 0, 0);
    for seed in first_seed()?.. {
        let topology = Random::new(seed).topology();
        let file = scene.folder().join("candidate.yaml");
        std::fs::write(&file, &topology)?;
        let mut validate = daemon.ctl();
        validate.arg("validate").arg(&file);
        let verdict = process::output(&mut validate, vnet_integration::lab::COMMAND_LIMIT)?;
        // What Azure would refuse is no topology to predict in.
        if !verdict.success() {
            ensure!(verdict.code == 1, "VNET_SEED={seed}: {verdict:?}");
            continue;
        }
        let lab = scene
            .up_on(daemon.clone(), &topology)
            .with_context(|| format!("VNET_SEED={seed}\n{topology}"))?;
        for from in 0..NETWORKS {
            for to in (0..NETWORKS).filter(|to| *to != from) {
                for service in SERVICES {
                    let (from, to) = (format!("vm{from}"), format!("vm{to}"));
                    let output = lab.ctl(&["path", &from, &to, service, "--probe", "-o", "json"])?;
                    let report = output.json()?;
                    let agrees = report.pointer("/probe/agrees").and_then(Value::as_bool);
                    ensure!(
                        agrees == Some(true),
                        "VNET_SEED={seed}: {from} to {to} {service}\n{}\n{topology}",
                        output.stdout
                    );
                    match report.pointer("/probe/result/outcome").and_then(Value::as_str) {
                        Some("answered") => allowed += 1,
                        _ => denied += 1,
                    }
                }
            }
        }
        proved += 1;
        if proved == wanted {
            break;
        }
    }
    ensure!(allowed > 0 && denied > 0, "{allowed} allowed and {denied} denied: the topologies prove little");
    Ok(())
}

/// A small generator of random numbers (xorshift64*), good enough to choose among topologies.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % below
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.next(100) < percent
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.next(of.len() as u64) as usize]
    }

    /// Networks 10.N.0.0/16 with a machine each; network 0 has a firewall.
    fn topology(&mut self) -> String {
        let mut text = String::from("name: random\nvirtualNetworks:\n");
        let mut halves = vec![Vec::new(); NETWORKS];
        for one in 0..NETWORKS {
            for other in one + 1..NETWORKS {
                // Hub and spoke more often than a mesh.
                if self.chance(if one == 0 { 85 } else { 25 }) {
                    halves[one].push(other);
                    if self.chance(90) {
                        halves[other].push(one);
                    }
                }
            }
        }
        for (network, peers) in halves.iter().enumerate() {
            let _ = writeln!(text, "  net{network}:\n    addressSpace: [10.{network}.0.0/16]\n    subnets:");
            let _ = writeln!(
                text,
                "      app: {{addressPrefix: 10.{network}.1.0/24{}{}}}",
                if self.chance(60) { format!(", routeTable: rt{network}") } else { String::new() },
                if self.chance(40) { format!(", networkSecurityGroup: nsg{network}") } else { String::new() },
            );
            if network == 0 {
                text.push_str("      AzureFirewallSubnet: 10.0.2.0/26\n");
            }
            if !peers.is_empty() {
                text.push_str("    peerings:\n");
            }
            for peer in peers {
                let _ = writeln!(
                    text,
                    "      net{peer}: {{allowVirtualNetworkAccess: {}, allowForwardedTraffic: {}}}",
                    self.chance(90),
                    self.chance(70)
                );
            }
        }
        self.rest(&mut text);
        text
    }

    fn rest(&mut self, text: &mut String) {
        text.push_str("virtualMachines:\n");
        for network in 0..NETWORKS {
            let _ = writeln!(
                text,
                "  vm{network}: {{subnet: net{network}/app, privateIPAddress: 10.{network}.1.4}}"
            );
        }
        text.push_str("routeTables:\n");
        for network in 0..NETWORKS {
            let _ = writeln!(text, "  rt{network}:\n    routes:");
            let prefixes = ["10.0.0.0/8", "10.1.0.0/16", "10.2.1.0/24", "10.3.1.4/32"];
            for (number, prefix) in prefixes.into_iter().enumerate() {
                if number == 0 || self.chance(50) {
                    let hop = self.one(&[
                        "VirtualAppliance, nextHopIpAddress: 10.0.2.4",
                        "VirtualAppliance, nextHopIpAddress: 10.0.2.4",
                        "VirtualAppliance, nextHopIpAddress: 10.0.1.99",
                        "None",
                        "VnetLocal",
                    ]);
                    let _ = writeln!(
                        text,
                        "      - {{name: r{number}, addressPrefix: {prefix}, nextHopType: {hop}}}"
                    );
                }
            }
        }
        text.push_str("networkSecurityGroups:\n");
        for network in 0..NETWORKS {
            let _ = writeln!(text, "  nsg{network}:\n    securityRules:");
            for number in 0..3 {
                let _ = writeln!(
                    text,
                    "      - {{name: r{number}, priority: {}, direction: {}, access: {}, protocol: {}, \
                     sourceAddressPrefix: {}, sourcePortRange: '*', destinationAddressPrefix: {}, \
                     destinationPortRange: '{}'}}",
                    100 + number,
                    self.one(&["Inbound", "Outbound"]),
                    self.one(&["Allow", "Deny"]),
                    self.one(&["Tcp", "Udp", "Icmp", "'*'"]),
                    self.one(&["'*'", "VirtualNetwork", "10.1.0.0/16", "10.2.0.0/15"]),
                    self.one(&["'*'", "VirtualNetwork", "10.0.0.0/14"]),
                    self.one(&["*", "443", "1-100"]),
                );
            }
        }
        text.push_str(
            "azureFirewalls: {fw: {virtualNetwork: net0, firewallPolicy: base, publicIPAddresses: [203.0.113.20]}}\n\
             firewallPolicies:\n  base:\n    ruleCollectionGroups:\n      - name: g\n        priority: 200\n        \
             ruleCollections:\n",
        );
        for number in 0..3 {
            let _ = writeln!(
                text,
                "          - {{name: c{number}, priority: {}, ruleCollectionType: \
                 FirewallPolicyFilterRuleCollection, action: {}, rules: [{{name: r, ruleType: NetworkRule, \
                 ipProtocols: [{}], sourceAddresses: ['{}'], destinationAddresses: ['{}'], destinationPorts: \
                 ['{}']}}]}}",
                100 + number,
                self.one(&["Allow", "Allow", "Deny"]),
                self.one(&["TCP", "UDP", "TCP, UDP", "Any"]),
                self.one(&["*", "10.1.0.0/16", "10.2.0.0/15"]),
                self.one(&["*", "10.0.0.0/15", "10.3.1.4"]),
                self.one(&["*", "443", "53"]),
            );
        }
    }
}
