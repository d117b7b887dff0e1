//! `cargo xtask bench`: vnetd's paths against the kernel's own router and against other programs, all in one run,
//! interleaved, so that what the machine does meanwhile meets all alike.

mod chart;
mod check;
mod cpu;
pub(crate) mod guard;
mod lab;
mod measure;
mod namespace;
mod path;
mod report;
mod samples;
mod section;
mod sections;
pub(crate) mod tool;
mod topology;
mod wireguard;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;
use clap::builder::PossibleValuesParser;
use nix::unistd::Uid;
use tempfile::TempDir;
use vnet_integration::binaries::{self, Binaries};
use vnet_integration::process;

use crate::packages;
use guard::Guard;
use lab::Offload;
use report::Report;
use samples::Samples;
use section::Section;
use sections::SECTIONS;

/// What `cargo xtask bench` takes.
#[derive(Args)]
pub(crate) struct BenchArguments {
    /// The sections that matter most, three rounds of one second, in less than two minutes
    #[arg(long)]
    quick: bool,
    /// Only these sections, separated by commas
    #[arg(long, value_name = "SECTION", value_delimiter = ',', value_parser = PossibleValuesParser::new(SECTIONS.iter().map(|section| section.name)))]
    only: Vec<String>,
    /// How often each measure is taken
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
    /// How long each transfer lasts, in seconds
    #[arg(long, value_name = "N")]
    seconds: Option<u32>,
    /// TCP's congestion control in every transfer, instead of the host's own default
    #[arg(long, value_name = "NAME")]
    congestion: Option<String>,
    /// Write every sample, the ratios and what they were measured on to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw the ratios to this file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Fail where a ratio is worse than the committed one by more than the noise
    #[arg(long)]
    check: bool,
    /// Measure the programs in this folder, without building any
    #[arg(long, value_name = "FOLDER")]
    programs: Option<PathBuf>,
    /// Measure the peering of the programs in this folder beside
    #[arg(long, value_name = "FOLDER")]
    before: Option<PathBuf>,
}

/// How long and how often, and how the senders of transfers hold back.
pub(crate) struct Plan {
    rounds: usize,
    seconds: u32,
    is_quick: bool,
    congestion: String,
}

/// What every section needs.
pub(crate) struct Bench {
    plan: Plan,
    programs: Binaries,
    /// Programs to measure beside, if any.
    before: Option<Binaries>,
    /// What every name that this run makes begins with.
    prefix: String,
    /// Whether the daemon can leave flows to the kernel.
    has_offload: bool,
    // The guard looks after what is left once everything else is gone, and before the folder goes.
    _guard: Guard,
    folder: TempDir,
}

impl Bench {
    fn new(plan: Plan, programs: Binaries, before: Option<Binaries>) -> Result<Bench> {
        let prefix = format!("bench-{}-", std::process::id());
        let folder = tempfile::Builder::new().prefix(&prefix).tempdir()?;
        let guard = Guard::start(&prefix, folder.path(), &programs.vnetctl)?;
        let mut help = std::process::Command::new(&programs.vnetd);
        let help = process::output(help.arg("--help"), namespace::LIMIT)?.ok()?;
        let has_offload = help.stdout.contains("--offload ");
        Ok(Bench { plan, programs, before, prefix, has_offload, _guard: guard, folder })
    }

    /// Where daemons have their files.
    fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The name, a letter for the lab, and where plain flows run: in the daemon, and in the kernel if it can.
    fn kinds(&self, userspace: &'static str, kernel: &'static str) -> Vec<(&'static str, char, Offload)> {
        let mut kinds = vec![(userspace, 'u', Offload::Off)];
        if self.has_offload {
            kinds.push((kernel, 'k', Offload::Kernel));
        }
        kinds
    }
}

/// Measures what is asked for and prints the tables.
///
/// # Errors
/// Not root, a peer cannot be built or started, or a measurement fails.
pub(crate) fn run(arguments: &BenchArguments) -> Result<bool> {
    ensure!(Uid::effective().is_root(), "the benchmark makes namespaces: run it as root");
    packages::install_missing()?;
    let (rounds, seconds) = if arguments.quick { (3, 1) } else { (5, 2) };
    let plan = Plan {
        rounds: arguments.rounds.unwrap_or(rounds).max(1),
        seconds: arguments.seconds.unwrap_or(seconds).max(1),
        is_quick: arguments.quick,
        congestion: congestion(arguments)?,
    };
    let programs = match &arguments.programs {
        Some(folder) => programs_in(folder)?,
        None => {
            println!("==> building vnetd in release mode");
            binaries::build(true)?
        }
    };
    let before = arguments.before.as_deref().map(programs_in).transpose()?;
    let bench = Bench::new(plan, programs, before)?;
    let mut taken: Vec<(&'static Section, Samples)> = Vec::new();
    for section in SECTIONS.iter().filter(|section| is_wanted(arguments, section)) {
        println!("==> {}", section.title);
        let samples = (section.measure)(&bench).with_context(|| format!("section {}", section.name))?;
        taken.push((section, samples));
    }
    let report = Report::new(&bench.plan, taken)?;
    drop(bench);
    report.print();
    write_files(arguments, &report)?;
    if arguments.check { check::against_committed(&report) } else { Ok(true) }
}

/// The congestion control that is asked for, or the one that new namespaces take over from the host.
fn congestion(arguments: &BenchArguments) -> Result<String> {
    const DEFAULT: &str = "/proc/sys/net/ipv4/tcp_congestion_control";
    match &arguments.congestion {
        Some(name) => Ok(name.clone()),
        None => Ok(std::fs::read_to_string(DEFAULT).context(DEFAULT)?.trim().to_owned()),
    }
}

fn is_wanted(arguments: &BenchArguments, section: &Section) -> bool {
    if arguments.only.is_empty() {
        return section.is_quick || !arguments.quick;
    }
    arguments.only.iter().any(|name| name == section.name)
}

fn write_files(arguments: &BenchArguments, report: &Report) -> Result<()> {
    if let Some(file) = &arguments.json {
        let text = serde_json::to_string_pretty(report)? + "\n";
        std::fs::write(file, text).with_context(|| file.display().to_string())?;
        println!("written: {}", file.display());
    }
    if let Some(file) = &arguments.svg {
        std::fs::write(file, chart::draw(report)).with_context(|| file.display().to_string())?;
        println!("written: {}", file.display());
    }
    Ok(())
}

fn programs_in(folder: &Path) -> Result<Binaries> {
    let programs = Binaries { vnetd: folder.join("vnetd"), vnetctl: folder.join("vnetctl") };
    for program in [&programs.vnetd, &programs.vnetctl] {
        ensure!(program.is_file(), "{} is not there", program.display());
    }
    Ok(programs)
}
