//! `cargo xtask micro`: what single mechanisms cost, as counts of instructions that repeat on a noisy machine.
//!
//! The bodies are those of the crates' criterion benchmarks (`cargo bench --bench micro`). Here each runs under
//! callgrind, which counts what happens inside the harness's `counted` and nothing of its set-up; caches are simulated
//! with fixed sizes, so that their misses do not depend on the machine either.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use comfy_table::Table;
use serde::{Deserialize, Serialize};
use vnet_integration::{binaries, process};

use crate::command::cargo;
use crate::packages;

const CRATES: &[&str] = &["vnet-dataplane", "vnet-fabric", "vnet-router"];
/// A count that moves by no more than this is the same: what the allocator and hash seeds make of it.
const TOLERANCE: f64 = 0.02;
const BUILD_LIMIT: Duration = Duration::from_secs(1_800);
const RUN_LIMIT: Duration = Duration::from_secs(600);

/// Count the instructions and cache misses of the mechanisms that packets meet.
#[derive(clap::Args)]
pub(crate) struct MicroArguments {
    /// Compare with the committed counts, and fail where one differs by more than 2 %
    #[arg(long)]
    check: bool,
    /// Write the counts to the committed file
    #[arg(long, conflicts_with = "check")]
    update: bool,
    /// Only bodies whose name contains this, as `flow` or `router/`
    filter: Option<String>,
}

/// What one round of a body costs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Cost {
    /// Instructions.
    instructions: f64,
    /// Misses of a first-level data cache of 32 KiB.
    d1_misses: f64,
    /// Misses of a last-level cache of 8 MiB.
    ll_misses: f64,
}

type Costs = BTreeMap<String, Cost>;

/// Counts, prints, and compares or writes where asked. False where the comparison failed.
///
/// # Errors
/// Something could not be built, run or read.
pub(crate) fn run(arguments: &MicroArguments) -> Result<bool> {
    packages::install_missing()?;
    let committed = read(&committed_path())?;
    let mut counted = Costs::new();
    for (group, executable) in build()? {
        for body in bodies(&executable)? {
            let name = format!("{group}/{body}");
            if arguments.filter.as_ref().is_none_or(|filter| name.contains(filter)) {
                counted.insert(name, count(&executable, &body)?);
            }
        }
    }
    println!("{}", table(&counted, &committed));
    if arguments.update {
        let mut all = if arguments.filter.is_some() { committed } else { Costs::new() };
        all.extend(counted);
        write(&committed_path(), &all)?;
        return Ok(true);
    }
    if !arguments.check {
        return Ok(true);
    }
    let wrong = differences(&counted, &committed, arguments.filter.is_none());
    for line in &wrong {
        eprintln!("{line}");
    }
    Ok(wrong.is_empty())
}

fn committed_path() -> PathBuf {
    binaries::workspace().join("xtask/src/micro.json")
}

fn read(path: &Path) -> Result<Costs> {
    if !path.exists() {
        return Ok(Costs::new());
    }
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is no list of counts", path.display()))
}

fn write(path: &Path, costs: &Costs) -> Result<()> {
    let text = serde_json::to_string_pretty(costs)? + "\n";
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// The benchmarks' executables by the name of their group.
fn build() -> Result<Vec<(String, PathBuf)>> {
    let mut command = cargo();
    command.args(["bench", "--no-run", "--quiet", "--bench", "micro", "--message-format", "json"]);
    command.args(CRATES.iter().flat_map(|name| ["--package", name]));
    let mut found = BTreeMap::new();
    for line in process::output(&mut command, BUILD_LIMIT)?.ok()?.stdout.lines() {
        let Ok(message) = serde_json::from_str::<serde_json::Value>(line) else { continue };
        if let (true, Some(executable)) =
            (message["target"]["name"] == "micro", message["executable"].as_str())
        {
            let package = message["manifest_path"].as_str().map(Path::new).and_then(Path::parent);
            let group = package.and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
            found.insert(group.unwrap_or_default(), PathBuf::from(executable));
        }
    }
    if found.len() != CRATES.len() {
        bail!("cargo named {} of {} benchmarks", found.len(), CRATES.len());
    }
    Ok(found.into_iter().collect())
}

fn bodies(executable: &Path) -> Result<Vec<String>> {
    let mut command = Command::new(executable);
    let listed = process::output(command.env("VNET_COUNT", "list"), RUN_LIMIT)?.ok()?.stdout;
    Ok(listed.lines().map(str::to_owned).collect())
}

/// Runs one body under callgrind.
fn count(executable: &Path, body: &str) -> Result<Cost> {
    let mut command = Command::new("valgrind");
    command.args([
        "--tool=callgrind",
        "--collect-atstart=no",
        "--toggle-collect=*harness::counted*",
        "--callgrind-out-file=/dev/null",
        "--cache-sim=yes",
        "--I1=32768,8,64",
        "--D1=32768,8,64",
        "--LL=8388608,16,64",
        "--log-fd=1",
    ]);
    command.arg(executable).env("VNET_COUNT", body);
    let said = process::output(&mut command, RUN_LIMIT)?.ok()?.stdout;
    parse(&said).with_context(|| format!("{body}: valgrind said\n{said}"))
}

/// Reads the rounds that the body reports and callgrind's sums:
/// `Events    : Ir Dr Dw I1mr D1mr D1mw ILmr DLmr DLmw` and `Collected : 1 2 3 ...`.
fn parse(said: &str) -> Result<Cost> {
    let after = |label: &str| {
        let line = said.lines().find(|line| line.contains(label))?;
        line.split_once(label).map(|(_, rest)| rest.split_whitespace().collect::<Vec<_>>())
    };
    let rounds: f64 = said.lines().find_map(|line| line.parse().ok()).context("no number of rounds")?;
    let events = after("Events    :").context("no events")?;
    let sums = after("Collected :").filter(|sums| !sums.is_empty()).context("no sums")?;
    let sum = |name: &str| -> Result<f64> {
        let at = events.iter().position(|event| *event == name).with_context(|| format!("no {name}"))?;
        // Zeroes at the end of the line are left out.
        sums.get(at).map_or(Ok(0.0), |sum| sum.parse().with_context(|| format!("{name} is {sum}")))
    };
    let per_round = |total: f64| (total / rounds * 100.0).round() / 100.0;
    Ok(Cost {
        instructions: per_round(sum("Ir")?),
        d1_misses: per_round(sum("D1mr")? + sum("D1mw")?),
        ll_misses: per_round(sum("DLmr")? + sum("DLmw")?),
    })
}

fn table(counted: &Costs, committed: &Costs) -> Table {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(["body", "instructions", "committed", "D1 misses", "LL misses"]);
    for (name, cost) in counted {
        let before = committed.get(name).map_or("-".to_owned(), |cost| format!("{:.0}", cost.instructions));
        table.add_row([
            name.clone(),
            format!("{:.0}", cost.instructions),
            before,
            format!("{:.2}", cost.d1_misses),
            format!("{:.2}", cost.ll_misses),
        ]);
    }
    table
}

/// What differs from the committed counts, in words.
fn differences(counted: &Costs, committed: &Costs, whole: bool) -> Vec<String> {
    let mut wrong = Vec::new();
    for (name, cost) in counted {
        let Some(before) = committed.get(name) else {
            wrong.push(format!("{name} has no committed count: cargo xtask micro --update"));
            continue;
        };
        let change = cost.instructions / before.instructions - 1.0;
        if change.abs() > TOLERANCE {
            wrong.push(format!(
                "{name}: {:.0} instructions, {:+.1} % of the committed {:.0}",
                cost.instructions,
                100.0 * change,
                before.instructions
            ));
        }
    }
    if whole {
        let gone = committed.keys().filter(|name| !counted.contains_key(*name));
        wrong.extend(gone.map(|name| format!("{name} is committed, and there is no such body")));
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callgrinds_sums_are_read() {
        let said = [
            "==7== Callgrind, a call-graph generating cache profiler",
            "1000",
            "==7== Events    : Ir Dr Dw I1mr D1mr D1mw ILmr DLmr DLmw",
            "==7== Collected : 123456 50 60 1 2500 500 0 10 20",
        ];
        let cost = parse(&said.join("\n")).unwrap();
        assert_eq!(cost, Cost { instructions: 123.46, d1_misses: 3.0, ll_misses: 0.03 });
        assert!(parse("").is_err());
        let hot = [said[1], said[2], "==7== Collected : 123456 50 60 1"].join("\n");
        assert_eq!(parse(&hot).unwrap(), Cost { instructions: 123.46, d1_misses: 0.0, ll_misses: 0.0 });
        assert!(parse(&[said[1], said[2], "==7== Collected :"].join("\n")).is_err());
    }

    #[test]
    fn two_in_a_hundred_are_the_same() {
        let costs = |instructions| {
            let cost = Cost { instructions, d1_misses: 1.0, ll_misses: 0.0 };
            Costs::from([("a/b".to_owned(), cost)])
        };
        assert!(differences(&costs(101.9), &costs(100.0), true).is_empty());
        assert_eq!(differences(&costs(102.1), &costs(100.0), true).len(), 1);
        assert_eq!(differences(&costs(97.9), &costs(100.0), true).len(), 1);
        assert_eq!(differences(&costs(100.0), &Costs::new(), true).len(), 1);
        assert_eq!(differences(&Costs::new(), &costs(100.0), true).len(), 1);
        assert!(differences(&Costs::new(), &costs(100.0), false).is_empty());
    }
}
