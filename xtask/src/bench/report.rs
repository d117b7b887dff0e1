//! What was measured, as tables and as JSON.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use comfy_table::presets::ASCII_MARKDOWN;
use comfy_table::{CellAlignment, Table};
use serde::Serialize;
use vnet_integration::process;

use super::Plan;
use super::measure::{MEASURES, Samples, Summary};
use super::paths::Path;
use crate::command::cargo;

/// Path, what it is held against, and the least ratio that the project aims at, with one TCP stream.
const RATIOS: &[(&str, &str, Option<f64>)] = &[
    ("peering", "kernel", Some(0.75)),
    ("firewall", "peering", Some(0.95)),
    ("vpn", "boringtun-cli", Some(2.0)),
    ("vpn", "wireguard-go", None),
];

/// One run.
#[derive(Serialize)]
pub(crate) struct Report {
    machine: Machine,
    versions: BTreeMap<&'static str, String>,
    commit: String,
    quick: bool,
    rounds: usize,
    seconds: u32,
    paths: BTreeMap<String, BTreeMap<String, Summary>>,
    ratios: Vec<Ratio>,
    samples: Samples,
    #[serde(skip)]
    titles: Vec<(String, String)>,
}

#[derive(Serialize)]
struct Machine {
    processor: String,
    processors: usize,
    memory_kib: u64,
    kernel: String,
    system: String,
}

#[derive(Serialize)]
struct Ratio {
    path: &'static str,
    against: &'static str,
    measure: &'static str,
    /// Of medians; above 1 the first is the better one, for times too.
    ratio: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    aim: Option<f64>,
}

impl Report {
    /// Sums the samples up.
    pub(crate) fn new(plan: Plan, quick: bool, paths: &[Path], samples: Samples) -> Result<Report> {
        let mut summaries: BTreeMap<String, BTreeMap<String, Summary>> = BTreeMap::new();
        for path in paths {
            for measure in MEASURES {
                if let Some(summary) = samples.summary(path.name, measure.name) {
                    summaries
                        .entry(path.name.to_owned())
                        .or_default()
                        .insert(measure.name.to_owned(), summary);
                }
            }
        }
        Ok(Report {
            machine: machine()?,
            versions: versions(),
            commit: first_line(Command::new("git").args(["describe", "--always", "--dirty", "--abbrev=12"])),
            quick,
            rounds: plan.rounds,
            seconds: plan.seconds,
            ratios: ratios(&samples),
            paths: summaries,
            samples,
            titles: paths.iter().map(|path| (path.name.to_owned(), path.title.to_owned())).collect(),
        })
    }

    /// Prints both tables.
    pub(crate) fn print(&self) {
        println!(
            "\n{}, {} processors, Linux {}",
            self.machine.processor, self.machine.processors, self.machine.kernel
        );
        println!("medians of {} interleaved rounds of {} s (least to most)\n", self.rounds, self.seconds);
        let mut table = headed(std::iter::once("path").chain(MEASURES.iter().map(|measure| measure.title)));
        for (name, title) in &self.titles {
            let mut row = vec![title.clone()];
            for measure in MEASURES {
                row.push(
                    self.paths
                        .get(name)
                        .and_then(|path| path.get(measure.name))
                        .map_or_else(String::new, shown),
                );
            }
            table.add_row(row);
        }
        println!("{}\n", aligned(table));
        let mut table = headed(
            ["ratio (above 1: better)"].into_iter().chain(MEASURES.iter().map(|m| m.title)).chain(["aim"]),
        );
        for (path, against, aim) in RATIOS {
            let mut row = vec![format!("{path} : {against}")];
            for measure in MEASURES {
                let found = self.ratios.iter().find(|ratio| {
                    ratio.path == *path && ratio.against == *against && ratio.measure == measure.name
                });
                row.push(found.map_or_else(String::new, |ratio| format!("{:.2}", ratio.ratio)));
            }
            row.push(aim.map_or_else(String::new, |aim| format!(">= {aim} with 1 stream")));
            table.add_row(row);
        }
        println!("{}", aligned(table));
    }
}

fn headed<'a>(header: impl Iterator<Item = &'a str>) -> Table {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN).set_header(header);
    table
}

fn aligned(mut table: Table) -> Table {
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn shown(summary: &Summary) -> String {
    let digits = if summary.median >= 100.0 { 0 } else { 2 };
    format!("{:.digits$} ({:.digits$} - {:.digits$})", summary.median, summary.min, summary.max)
}

fn ratios(samples: &Samples) -> Vec<Ratio> {
    let mut ratios = Vec::new();
    for (path, against, aim) in RATIOS {
        for measure in MEASURES {
            let (Some(own), Some(other)) =
                (samples.summary(path, measure.name), samples.summary(against, measure.name))
            else {
                continue;
            };
            let ratio = if measure.is_time { other.median / own.median } else { own.median / other.median };
            let aim = if measure.name == "tcp1_gbps" { *aim } else { None };
            ratios.push(Ratio { path, against, measure: measure.name, ratio, aim });
        }
    }
    ratios
}

fn machine() -> Result<Machine> {
    let field = |file: &str, name: &str| -> Result<String> {
        let text = fs::read_to_string(file)?;
        let line = text.lines().find(|line| line.starts_with(name));
        Ok(line
            .and_then(|line| line.split_once([':', '=']))
            .map_or_else(String::new, |(_, value)| value.trim().trim_matches('"').to_owned()))
    };
    Ok(Machine {
        processor: field("/proc/cpuinfo", "model name")?,
        processors: std::thread::available_parallelism().map_or(1, usize::from),
        memory_kib: field("/proc/meminfo", "MemTotal")?.trim_end_matches(" kB").parse().unwrap_or(0),
        kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
        system: field("/etc/os-release", "PRETTY_NAME")?,
    })
}

fn versions() -> BTreeMap<&'static str, String> {
    let mut rustc = cargo();
    rustc.arg("--version");
    BTreeMap::from([
        ("cargo", first_line(&mut rustc)),
        ("iperf3", first_line(Command::new("iperf3").arg("--version"))),
        ("sockperf", first_line(Command::new("sockperf").arg("--version"))),
        ("wireguard-go", first_line(Command::new("wireguard-go").arg("--version"))),
        ("boringtun-cli", super::paths::tools::VERSION.to_owned()),
        ("vnetd", env!("CARGO_PKG_VERSION").to_owned()),
    ])
}

/// The first line that a program says of itself; empty where it does not.
fn first_line(command: &mut Command) -> String {
    process::output(command, Duration::from_secs(20))
        .map(|output| format!("{}{}", output.stdout, output.stderr))
        .ok()
        .and_then(|text| text.lines().find(|line| !line.trim().is_empty()).map(|line| line.trim().to_owned()))
        .unwrap_or_default()
}
