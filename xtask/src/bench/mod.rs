//! `cargo xtask bench`: vnetd's paths against the kernel's own router and against other WireGuards in userspace, all in
//! one run, interleaved, so that what the machine does meanwhile meets all alike.

mod measure;
mod paths;
mod report;

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;
use nix::unistd::Uid;
use vnet_integration::binaries;

use crate::packages;
use measure::{MEASURES, Samples};
use paths::{KernelRouter, LabPaths, Path, WireGuardPair, tools};

/// What `cargo xtask bench` takes.
#[derive(Args)]
pub(crate) struct BenchArguments {
    /// Three rounds of one second instead of five of three
    #[arg(long)]
    quick: bool,
    /// Write every sample, the ratios and what they were measured on to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// How long and how often.
#[derive(Clone, Copy)]
pub(crate) struct Plan {
    rounds: usize,
    seconds: u32,
}

/// Measures everything and prints the tables.
///
/// # Errors
/// Not root, a peer cannot be built or started, or a measurement fails.
pub(crate) fn run(arguments: &BenchArguments) -> Result<bool> {
    ensure!(Uid::effective().is_root(), "the benchmark makes namespaces: run it as root");
    packages::install_missing()?;
    let plan = if arguments.quick { Plan { rounds: 3, seconds: 1 } } else { Plan { rounds: 5, seconds: 3 } };
    println!("==> building vnetd in release mode, and boringtun-cli to compare with");
    let programs = binaries::build(true)?;
    let boringtun = tools::boringtun_cli()?;

    println!("==> preparing six paths");
    let folder = tempfile::tempdir()?;
    let lab = LabPaths::start(&programs, folder.path())?;
    let router = KernelRouter::start()?;
    let wireguard_go = WireGuardPair::start("wireguard-go", "wireguard-go", &["-f"])?;
    let boringtun_cli = WireGuardPair::start(
        "boringtun-cli",
        &boringtun.to_string_lossy(),
        &["-f", "--disable-drop-privileges"],
    )?;
    let mut paths: Vec<Path> = lab.paths();
    paths.push(router.path());
    paths.push(wireguard_go.path());
    paths.push(boringtun_cli.path());

    let samples = interleaved(&paths, plan)?;
    let report = report::Report::new(plan, arguments.quick, &paths, samples)?;
    report.print();
    if let Some(file) = &arguments.json {
        let text = serde_json::to_string_pretty(&report)? + "\n";
        std::fs::write(file, text).with_context(|| file.display().to_string())?;
        println!("written: {}", file.display());
    }
    Ok(true)
}

/// Every measure of every path once in each round; the order turns from round to round.
fn interleaved(paths: &[Path], plan: Plan) -> Result<Samples> {
    let mut servers = Vec::new();
    for path in paths {
        servers.extend(path.serve().with_context(|| format!("servers of {}", path.name))?);
    }
    let mut samples = Samples::default();
    for round in 0..plan.rounds {
        for measure in MEASURES {
            for turn in 0..paths.len() {
                let path = &paths[(turn + round) % paths.len()];
                let value = measure
                    .take(path, plan.seconds)
                    .with_context(|| format!("{} of {}", measure.name, path.name))?;
                samples.add(path.name, measure.name, value);
            }
            println!("round {} of {}: {}", round + 1, plan.rounds, measure.title);
        }
    }
    Ok(samples)
}
