//! Whole paths side by side: the kernel's router, peering, firewall, security groups, tunnels.

use anyhow::{Result, ensure};
use vnet_integration::{Running, tools};

use super::without_idle_offload;
use crate::bench::lab::{BenchLab, Offload};
use crate::bench::measure::{self, Measure};
use crate::bench::namespace::KernelRouter;
use crate::bench::path::{Path, ensure_alike};
use crate::bench::samples::Samples;
use crate::bench::section::{Aim, Bound, Section};
use crate::bench::tool::connect;
use crate::bench::wireguard::WireGuardPair;
use crate::bench::{Bench, topology};

use Bound::{AtLeast, AtMost};
use Measure::{RoundTrip, SmallPackets, Tcp1, Tcp4, Tcp16};

/// Plain delivery against the kernel's own router.
pub(crate) const PEERING: Section = Section {
    name: "peering",
    title: "Peering beside the kernel's router",
    figures: measure::FIGURES,
    pairs: &[("peering", "kernel"), ("peering-offload", "kernel"), ("peering", "peering-before")],
    aims: &[
        Aim::ratio("tcp1_gbps", "peering", "kernel", AtLeast(0.9)),
        Aim::ratio("tcp4_gbps", "peering", "kernel", AtLeast(0.65)),
        Aim::ratio("tcp16_gbps", "peering", "kernel", AtLeast(0.65)),
        Aim::ratio("udp64_kpps", "peering", "kernel", AtLeast(0.9)),
        Aim::ratio("rtt_us", "peering", "kernel", AtMost(1.3)),
        Aim::ratio("rtt_p99_us", "peering", "kernel", AtMost(1.6)),
        Aim::ratio("tcp1_gbps", "peering-offload", "kernel", AtLeast(1.0)),
        Aim::ratio("tcp4_gbps", "peering-offload", "kernel", AtLeast(1.0)),
        Aim::ratio("tcp16_gbps", "peering-offload", "kernel", AtLeast(1.0)),
        Aim::ratio("udp64_kpps", "peering-offload", "kernel", AtLeast(1.05)),
        Aim::ratio("rtt_us", "peering-offload", "kernel", AtMost(1.0)),
        Aim::ratio("rtt_p99_us", "peering-offload", "kernel", AtMost(1.1)),
    ],
    is_quick: true,
    measure: peering,
};

/// A firewall that is full against plain peering.
pub(crate) const FIREWALL: Section = Section {
    name: "firewall",
    title: "Firewall with 10,000 rules and 100,000 open flows beside peering",
    figures: measure::FIGURES,
    pairs: &[("firewall", "peering"), ("firewall-offload", "peering-offload")],
    aims: &[
        Aim::ratio("tcp1_gbps", "firewall", "peering", AtLeast(0.97)),
        Aim::ratio("tcp1_gbps", "firewall-offload", "peering-offload", AtLeast(0.97)),
    ],
    is_quick: false,
    measure: firewall,
};

/// Security groups against none.
pub(crate) const NSG: Section = Section {
    name: "nsg",
    title: "Security groups of 1,000 rules at both ends beside none",
    figures: measure::FIGURES,
    pairs: &[("nsg", "peering"), ("nsg-offload", "peering-offload")],
    aims: &[
        Aim::ratio("tcp1_gbps", "nsg", "peering", AtLeast(0.97)),
        Aim::ratio("tcp1_gbps", "nsg-offload", "peering-offload", AtLeast(0.97)),
    ],
    is_quick: false,
    measure: security_groups,
};

/// Tunnels against other WireGuards in userspace.
pub(crate) const VPN: Section = Section {
    name: "vpn",
    title: "VPN, both ends here, beside other WireGuards in userspace",
    figures: measure::FIGURES,
    pairs: &[("vpn", "boringtun-cli"), ("vpn", "wireguard-go")],
    aims: &[Aim::ratio("tcp1_gbps", "vpn", "boringtun-cli", AtLeast(2.0))],
    is_quick: false,
    measure: vpn,
};

/// How many flows are open while the firewall is measured.
const OPEN_FLOWS: usize = 100_000;

fn peering(bench: &Bench) -> Result<Samples> {
    let router = KernelRouter::start(&bench.prefix, "router")?;
    let mut paths = vec![router.path("kernel")];
    let mut labs = Vec::new();
    for (name, role, offload) in bench.kinds("peering", "peering-offload") {
        let lab = BenchLab::start(bench, &format!("p{role}"), topology::PEERING, offload)?;
        paths.push(lab.path(name, "client", "server", "10.2.0.4")?);
        labs.push((name, lab));
    }
    if let Some(programs) = &bench.before {
        let lab = BenchLab::of(programs, bench, "before", topology::PEERING, Offload::Off, &[])?;
        paths.push(lab.path("peering-before", "client", "server", "10.2.0.4")?);
        labs.push(("peering-before", lab));
    }
    let measures: &[Measure] = if bench.plan.is_quick {
        &[Tcp1, Tcp4, SmallPackets, RoundTrip]
    } else {
        &[Tcp1, Tcp4, Tcp16, SmallPackets, RoundTrip]
    };
    without_idle_offload(interleaved(bench, &paths, measures)?, &labs)
}

fn firewall(bench: &Bench) -> Result<Samples> {
    let full = topology::firewall(10_000);
    let mut paths = Vec::new();
    let mut labs = Vec::new();
    let mut open = Vec::new();
    for ((plain, role, offload), (guarded, _, _)) in
        bench.kinds("peering", "peering-offload").into_iter().zip(bench.kinds("firewall", "firewall-offload"))
    {
        let lab = BenchLab::start(bench, &format!("p{role}"), topology::PEERING, offload)?;
        paths.push(lab.path(plain, "client", "server", "10.2.0.4")?);
        labs.push((plain, lab));
        let lab = BenchLab::start(bench, &format!("f{role}"), &full, offload)?;
        let path = lab.path(guarded, "client", "server", "10.2.0.4")?;
        open.push(hold_open(&lab, &path)?);
        paths.push(path);
        labs.push((guarded, lab));
    }
    without_idle_offload(interleaved(bench, &paths, &[Tcp1, SmallPackets, RoundTrip])?, &labs)
}

/// Opens connections that stay open as long as what is returned lives.
fn hold_open(lab: &BenchLab, path: &Path) -> Result<Vec<Running>> {
    let held = connect::hold(path, OPEN_FLOWS)?;
    let flows = lab.lab().metric("vnet_flows", &[])?;
    ensure!(flows >= 2.0 * OPEN_FLOWS as f64, "the flow table holds {flows} flows only");
    Ok(held)
}

fn security_groups(bench: &Bench) -> Result<Samples> {
    let topology = topology::security_groups(1000);
    let mut paths = Vec::new();
    let mut labs = Vec::new();
    for ((plain, role, offload), (guarded, _, _)) in
        bench.kinds("peering", "peering-offload").into_iter().zip(bench.kinds("nsg", "nsg-offload"))
    {
        let lab = BenchLab::start(bench, &format!("n{role}"), &topology, offload)?;
        paths.push(lab.path(plain, "client", "server", "10.2.0.4")?);
        paths.push(lab.path(guarded, "guarded-client", "guarded-server", "10.2.1.4")?);
        labs.push((guarded, lab));
    }
    without_idle_offload(interleaved(bench, &paths, &[Tcp1, SmallPackets, RoundTrip])?, &labs)
}

fn vpn(bench: &Bench) -> Result<Samples> {
    let boringtun = tools::BORINGTUN.install()?;
    let lab = BenchLab::start(bench, "vpn", topology::VPN, Offload::Off)?;
    lab.lab().wait_tunnels()?;
    let go = WireGuardPair::start(&bench.prefix, "wireguard-go", "wireguard-go", &["-f"])?;
    let boringtun = WireGuardPair::start(
        &bench.prefix,
        "boringtun-cli",
        &boringtun.to_string_lossy(),
        &["-f", "--disable-drop-privileges"],
    )?;
    let paths = [lab.path("vpn", "client", "server", "10.50.0.4")?, go.path(), boringtun.path()];
    // Their devices have the MTU that each program gives them, as whoever runs it would find them.
    take_turns(bench, &paths, &[Tcp1, Tcp4, SmallPackets, RoundTrip])
}

/// Every measure of every path once in each round, on equal conditions; the order turns from round to round.
fn interleaved(bench: &Bench, paths: &[Path], measures: &[Measure]) -> Result<Samples> {
    ensure_alike(paths)?;
    take_turns(bench, paths, measures)
}

pub(super) fn take_turns(bench: &Bench, paths: &[Path], measures: &[Measure]) -> Result<Samples> {
    let mut servers = Vec::new();
    for path in paths {
        servers.extend(path.serve()?);
    }
    let mut samples = Samples::default();
    for round in 0..bench.plan.rounds {
        for measure in measures {
            for turn in 0..paths.len() {
                let path = &paths[(turn + round) % paths.len()];
                samples.extend(path.name, measure.take(path, &bench.plan)?);
            }
            println!("round {} of {}: {}", round + 1, bench.plan.rounds, measure.title());
        }
    }
    Ok(samples.in_order(paths.iter().map(|path| path.name)))
}
