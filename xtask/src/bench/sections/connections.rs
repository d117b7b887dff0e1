//! New TCP connections per second, opened and closed for real.

use std::fmt::Write;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use vnet_integration::Running;

use super::without_idle_offload;
use crate::bench::cpu::Usage;
use crate::bench::lab::{BenchLab, Offload};
use crate::bench::measure::Taken;
use crate::bench::namespace::{KernelRouter, sysctl};
use crate::bench::path::{Path, ensure_alike};
use crate::bench::samples::Samples;
use crate::bench::section::{Aim, Bound, Figure, Section};
use crate::bench::tool::{self, connect};
use crate::bench::{Bench, topology};

/// A firewall with many rules against the kernel's router with as many.
pub(crate) const CONNECTIONS: Section = Section {
    name: "connections",
    title: "New TCP connections, through 10,000 rules and beside a set of 10,000 elements",
    figures: &[
        Figure::more("connections_kps", "connections (1000/s)"),
        Figure::cost("connection_machine_us", "machine (us/connection)"),
        Figure::cost("connection_carrier_us", "carrier (us/connection)"),
    ],
    pairs: &[
        ("firewall", "kernel-nftables"),
        ("firewall-offload", "kernel-nftables"),
        ("peering", "kernel"),
        ("nsg", "kernel-nftables"),
    ],
    aims: &[
        Aim::ratio("connections_kps", "firewall", "kernel-nftables", Bound::AtLeast(1.0)),
        Aim::ratio("connections_kps", "firewall-offload", "kernel-nftables", Bound::AtLeast(1.0)),
    ],
    is_quick: true,
    measure,
};

const TOGETHER: &str = "64";
const RULES: usize = 10_000;

fn measure(bench: &Bench) -> Result<Samples> {
    let plain = KernelRouter::start(&bench.prefix, "plain")?;
    let filtered = KernelRouter::start(&bench.prefix, "filter")?;
    filtered.filter(&stateful_rules(RULES))?;
    // A closed connection is remembered for a short time, as by the firewall: the table must not fill up.
    sysctl(filtered.forwarder(), "netfilter/nf_conntrack_tcp_timeout_time_wait", "5")?;
    let mut labs = Vec::new();
    let mut paths = vec![plain.path("kernel"), filtered.path("kernel-nftables")];
    let full = topology::firewall(RULES);
    let groups = topology::security_groups(1000);
    for (name, role, offload) in bench.kinds("firewall", "firewall-offload") {
        let lab = BenchLab::start(bench, &format!("c{role}"), &full, offload)?;
        paths.push(lab.path(name, "client", "server", "10.2.0.4")?);
        labs.push((name, lab));
    }
    if !bench.plan.is_quick {
        let lab = BenchLab::start(bench, "cn", &groups, Offload::Off)?;
        paths.push(lab.path("peering", "client", "server", "10.2.0.4")?);
        paths.push(lab.path("nsg", "guarded-client", "guarded-server", "10.2.1.4")?);
        labs.push(("nsg", lab));
    }
    ensure_alike(&paths)?;
    let servers = paths.iter().map(serve).collect::<Result<Vec<Running>>>()?;
    let mut samples = Samples::default();
    for round in 0..bench.plan.rounds {
        for turn in 0..paths.len() {
            let path = &paths[(turn + round) % paths.len()];
            samples.extend(path.name, take(path, bench.plan.seconds)?);
        }
        println!("round {} of {}", round + 1, bench.plan.rounds);
    }
    drop(servers);
    let samples = samples.in_order(paths.iter().map(|path| path.name));
    without_idle_offload(samples, &labs)
}

fn serve(path: &Path) -> Result<Running> {
    connect::prepare(&path.client)?;
    connect::prepare(&path.server)?;
    let server = tool::start(&path.server, &["accept", "--address", &path.address])?;
    path.wait_open(connect::FIRST_PORT)?;
    Ok(server)
}

fn take(path: &Path, seconds: u32) -> Result<Taken> {
    let before = Usage::read(&path.carriers)?;
    let seconds_text = seconds.to_string();
    let arguments =
        ["connect", "--address", &path.address, "--seconds", &seconds_text, "--together", TOGETHER];
    let limit = Duration::from_secs(u64::from(seconds) + 30);
    let output = tool::output(&path.client, &arguments, limit)
        .with_context(|| format!("connections of {}", path.name))?;
    let spent = Usage::read(&path.carriers)? - before;
    let (closed, failed) = (tool::number(&output, "connections")?, tool::number(&output, "failed")?);
    ensure!(failed == 0.0, "{failed} connections of {} failed, {closed} did not", path.name);
    let mut taken = vec![
        ("connections_kps", closed / tool::number(&output, "seconds")? / 1e3),
        ("connection_machine_us", spent.machine_ns as f64 / 1e3 / closed),
    ];
    if !path.carriers.is_empty() {
        taken.push(("connection_carrier_us", spent.carriers_ns as f64 / 1e3 / closed));
    }
    Ok(taken)
}

/// What a careful person writes for the same policy: replies of known flows pass, a new flow passes if its pair of
/// addresses is in a set.
fn stateful_rules(elements: usize) -> String {
    let mut set = String::from("10.1.0.4 . 10.2.0.4");
    for number in 1..elements {
        let (high, low) = (number / 250, number % 250 + 1);
        let _ = write!(set, ", 10.{}.{high}.{low} . 10.200.{high}.{low}", 100 + number % 50);
    }
    format!(
        "table inet bench {{
  set pairs {{ type ipv4_addr . ipv4_addr; elements = {{ {set} }} }}
  chain forward {{
    type filter hook forward priority 0; policy drop;
    ct state established,related accept
    ct state new ip saddr . ip daddr @pairs accept
  }}
}}
"
    )
}
