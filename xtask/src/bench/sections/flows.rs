//! A million flows: what they take, and what forwarding beside them costs.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::paths::take_turns;
use crate::bench::cpu::resident_bytes;
use crate::bench::lab::{BenchLab, Offload};
use crate::bench::measure::{FIGURES, Measure};
use crate::bench::namespace::nft;
use crate::bench::samples::Samples;
use crate::bench::section::{Aim, Bound, Figure, Section};
use crate::bench::{Bench, tool, topology};

/// A full flow table beside an empty one.
pub(crate) const FLOWS: Section = Section {
    name: "flows",
    title: "Flow table: 1,000,000 flows, one for each direction, held while forwarding",
    figures: &[
        Figure::less("bytes_per_flow", "memory (bytes/flow)"),
        Figure::more("flows_held", "flows after all measures"),
        FIGURES[0],
        FIGURES[3],
        FIGURES[4],
        FIGURES[5],
    ],
    pairs: &[("full", "empty")],
    aims: &[
        Aim::one("bytes_per_flow", "full", Bound::AtMost(256.0)),
        Aim::one("flows_held", "full", Bound::AtLeast(1_000_000.0)),
        Aim::ratio("tcp1_gbps", "full", "empty", Bound::AtLeast(0.97)),
    ],
    is_quick: false,
    measure,
};

const WANTED: f64 = 1_000_000.0;
/// What is sprayed: some more than is wanted.
const SOURCES: &str = "1010";
const DESTINATIONS: &str = "1000";
const FLOWS_MAX: &str = "1100000";
const TRIES: usize = 4;
const DEAF: &str = "table inet bench {
  chain input {
    type filter hook prerouting priority -300
    udp dport 20000-21999 drop
  }
}
";

fn measure(bench: &Bench) -> Result<Samples> {
    // One machine has them all, more than Azure lets a NIC have.
    let environment = [("VNETD_FLOWS_MAX", FLOWS_MAX), ("VNETD_NIC_FLOWS_MAX", FLOWS_MAX)];
    let empty = BenchLab::start_with(bench, "empty", topology::PEERING, Offload::Off, &environment)?;
    let full = BenchLab::start_with(bench, "full", topology::PEERING, Offload::Off, &environment)?;
    let paths = [
        empty.path("empty", "client", "server", "10.2.0.4")?,
        full.path("full", "client", "server", "10.2.0.4")?,
    ];
    // Nobody answers, so that each datagram is one flow.
    nft(&paths[1].server, DEAF)?;
    let pid = full.lab().daemon().pid()?;
    let before = resident_bytes(pid)?;
    let flows = fill(&full, &paths[1].client)?;
    let grown = resident_bytes(pid)?.saturating_sub(before);
    let mut samples = take_turns(bench, &paths, &[Measure::Tcp1, Measure::SmallPackets, Measure::RoundTrip])?;
    samples.add("full", "bytes_per_flow", grown as f64 / flows);
    samples.add("full", "flows_held", full.lab().metric("vnet_flows", &[])?);
    Ok(samples)
}

/// Sprays until the table holds what is wanted.
fn fill(lab: &BenchLab, client: &str) -> Result<f64> {
    let mut flows = 0.0;
    for _ in 0..TRIES {
        let arguments = [
            "spray",
            "--to",
            "10.2.0.4",
            "--sources",
            SOURCES,
            "--destinations",
            DESTINATIONS,
            "--per-second",
            "150000",
        ];
        tool::output(client, &arguments, Duration::from_secs(60)).context("the flows' datagrams")?;
        flows = lab.lab().metric("vnet_flows", &[])?;
        if flows >= WANTED {
            return Ok(flows);
        }
    }
    ensure!(flows >= WANTED, "the flow table holds {flows} flows only");
    Ok(flows)
}
