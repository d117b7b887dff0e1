//! What was measured, as tables and as JSON.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use comfy_table::presets::ASCII_MARKDOWN;
use comfy_table::{CellAlignment, Table};
use indexmap::IndexMap;
use serde::Serialize;
use vnet_integration::{process, tools};

use super::Plan;
use super::samples::{Samples, Summary};
use super::section::{Aim, Better, Bound, Figure, Section};
use crate::command::cargo;

/// One run.
#[derive(Serialize)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    versions: BTreeMap<&'static str, String>,
    pub(crate) commit: String,
    pub(crate) rounds: usize,
    pub(crate) seconds: u32,
    /// TCP's congestion control.
    pub(crate) congestion: String,
    pub(crate) sections: Vec<SectionReport>,
}

#[derive(Serialize)]
pub(crate) struct Machine {
    pub(crate) processor: String,
    pub(crate) processors: usize,
    memory_kib: u64,
    pub(crate) kernel: String,
    system: String,
}

/// One section of a run.
#[derive(Serialize)]
pub(crate) struct SectionReport {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    /// By path and figure.
    paths: IndexMap<String, IndexMap<&'static str, Summary>>,
    /// One path by another, and figures that have an aim by themselves.
    pub(crate) findings: Vec<Finding>,
    samples: Samples,
    #[serde(skip)]
    figures: &'static [Figure],
}

/// A figure that is held against another path's, or against an aim.
#[derive(Serialize)]
pub(crate) struct Finding {
    pub(crate) figure: &'static str,
    #[serde(skip)]
    pub(crate) title: &'static str,
    pub(crate) path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) against: Option<&'static str>,
    /// The quotient of medians where it is held against another path, with the least and the most of single rounds; else
    /// the figure itself.
    #[serde(flatten)]
    pub(crate) value: Summary,
    #[serde(skip)]
    pub(crate) better: Better,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) aim: Option<Bound>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) is_met: Option<bool>,
}

impl Report {
    /// Sums the samples up.
    pub(crate) fn new(plan: &Plan, taken: Vec<(&'static Section, Samples)>) -> Result<Report> {
        Ok(Report {
            machine: machine()?,
            versions: versions(),
            commit: first_line(Command::new("git").args(["describe", "--always", "--dirty", "--abbrev=12"])),
            rounds: plan.rounds,
            seconds: plan.seconds,
            congestion: plan.congestion.clone(),
            sections: taken
                .into_iter()
                .map(|(section, samples)| SectionReport::new(section, samples))
                .collect(),
        })
    }

    /// Prints each section's tables.
    pub(crate) fn print(&self) {
        println!(
            "\n{}, {} processors, Linux {}; {}",
            self.machine.processor, self.machine.processors, self.machine.kernel, self.commit
        );
        println!(
            "medians of {} interleaved rounds (least to most); TCP's congestion control: {}",
            self.rounds, self.congestion
        );
        for section in &self.sections {
            println!("\n## {}\n", section.title);
            section.print();
        }
    }
}

impl SectionReport {
    fn new(section: &'static Section, samples: Samples) -> SectionReport {
        let mut paths: IndexMap<String, IndexMap<&'static str, Summary>> = IndexMap::new();
        for path in samples.paths() {
            let figures = section.figures.iter();
            let summaries =
                figures.filter_map(|figure| Some((figure.name, samples.summary(path, figure.name)?)));
            paths.insert(path.to_owned(), summaries.collect());
        }
        SectionReport {
            name: section.name,
            title: section.title,
            findings: findings(section, &samples),
            paths,
            samples,
            figures: section.figures,
        }
    }

    fn print(&self) {
        for is_cost in [false, true] {
            let figures: Vec<&Figure> =
                self.figures.iter().filter(|figure| figure.is_cost == is_cost).collect();
            if let Some(table) = self.figures_table(&figures) {
                println!("{table}\n");
            }
        }
        if !self.findings.is_empty() {
            println!("{}", self.findings_table());
        }
    }

    /// None where nothing was measured.
    fn figures_table(&self, figures: &[&Figure]) -> Option<Table> {
        let measured = |figure: &Figure| self.paths.values().any(|path| path.contains_key(figure.name));
        let figures: Vec<&Figure> = figures.iter().copied().filter(|figure| measured(figure)).collect();
        if figures.is_empty() {
            return None;
        }
        let mut table = headed(std::iter::once("path").chain(figures.iter().map(|figure| figure.title)));
        for (name, path) in &self.paths {
            let cells = figures.iter().map(|figure| path.get(figure.name).map_or_else(String::new, shown));
            table.add_row(std::iter::once(name.clone()).chain(cells));
        }
        Some(aligned(table))
    }

    fn findings_table(&self) -> Table {
        let mut table = headed(["", "figure", "comes to", "aim", ""].into_iter());
        for finding in &self.findings {
            let against = finding.against.map_or_else(String::new, |against| format!(" : {against}"));
            let verdict = match finding.is_met {
                Some(true) => "reached",
                Some(false) => "not reached",
                None => "",
            };
            table.add_row([
                format!("{}{against}", finding.path),
                finding.title.to_owned(),
                shown(&finding.value),
                finding.aim.map_or_else(String::new, |aim| aim.to_string()),
                verdict.to_owned(),
            ]);
        }
        table
    }
}

/// Every figure of every pair, and the aims of paths by themselves.
fn findings(section: &Section, samples: &Samples) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, against) in section.pairs {
        for figure in section.figures.iter().filter(|figure| !figure.is_cost) {
            if let Some(value) = samples.ratio(figure.name, path, against) {
                let aim = section.aims.iter().find(|aim| {
                    aim.figure == figure.name && aim.path == Some(path) && aim.against == Some(against)
                });
                findings.push(finding(figure, path, Some(against), value, aim));
            }
        }
    }
    for aim in section.aims.iter().filter(|aim| aim.against.is_none()) {
        for path in samples.paths().filter(|path| aim.path.is_none_or(|wanted| wanted == *path)) {
            let figure = section.figures.iter().find(|figure| figure.name == aim.figure);
            if let (Some(figure), Some(value)) = (figure, samples.summary(path, aim.figure)) {
                findings.push(finding(figure, path, None, value, Some(aim)));
            }
        }
    }
    findings
}

fn finding(
    figure: &Figure,
    path: &str,
    against: Option<&'static str>,
    value: Summary,
    aim: Option<&Aim>,
) -> Finding {
    Finding {
        figure: figure.name,
        title: figure.title,
        path: path.to_owned(),
        against,
        value,
        better: figure.better,
        aim: aim.map(|aim| aim.bound),
        is_met: aim.map(|aim| aim.bound.is_met(value.median)),
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
    let digits = if summary.median.abs() >= 100.0 { 0 } else { 2 };
    if summary.min == summary.max {
        return format!("{:.digits$}", summary.median);
    }
    format!("{:.digits$} ({:.digits$} - {:.digits$})", summary.median, summary.min, summary.max)
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
        ("boringtun-cli", tools::BORINGTUN.version.to_owned()),
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
