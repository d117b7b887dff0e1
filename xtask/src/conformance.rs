//! `cargo xtask conformance`: effective routes and rules against Azure's own answers, as a score.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use vnet_analysis::compare::{Comparison, DifferenceKind};
use vnet_analysis::conformance::{Case, score};
use vnet_fabric::Snapshot;
use vnet_integration::binaries;

/// What `cargo xtask conformance` takes.
#[derive(Args, Default)]
pub(crate) struct ConformanceArguments {
    /// The folder of the cases, one folder each; the workspace's own if none is named
    directory: Option<PathBuf>,
}

/// Scores every case of a folder; whether all rows are as in Azure.
///
/// # Errors
/// The folder has no case, or one that cannot be read.
pub(crate) fn run(arguments: &ConformanceArguments) -> Result<bool> {
    let directory = arguments.directory.clone().unwrap_or_else(|| binaries::workspace().join("conformance"));
    let mut cases: Vec<PathBuf> = std::fs::read_dir(&directory)
        .with_context(|| format!("no folder {}", directory.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.join("case.json").is_file())
        .collect();
    cases.sort();
    ensure!(!cases.is_empty(), "{} holds no case: a folder with case.json", directory.display());
    let (mut equal, mut total) = (0, 0);
    for folder in &cases {
        let (right, rows) =
            run_case(folder).with_context(|| format!("case {} cannot be scored", folder.display()))?;
        equal += right;
        total += rows;
    }
    let percent = 100.0 * equal as f64 / total.max(1) as f64;
    println!("{} cases, {equal} of {total} rows as in Azure: {percent:.1} %", cases.len());
    Ok(equal == total)
}

fn run_case(folder: &Path) -> Result<(usize, usize)> {
    let read = |name: &str| {
        std::fs::read_to_string(folder.join(name)).with_context(|| format!("{name} cannot be read"))
    };
    let case: Case = serde_json::from_str(&read("case.json")?).context("case.json")?;
    ensure!(!case.tables.is_empty(), "case.json names no table");
    let snapshot = compile(folder, &case)?;
    let mut whole = Comparison::default();
    let mut lines = Vec::new();
    for table in &case.tables {
        let found = match score(&snapshot, table, &read(&table.file)?) {
            Ok(found) => found,
            Err(message) => bail!(message),
        };
        whole.equal += found.equal;
        whole.total += found.total;
        lines.extend(found.differences.iter().map(|difference| {
            let what = match difference.kind {
                DifferenceKind::Missing => "missing here",
                DifferenceKind::Unexpected => "not in Azure",
                DifferenceKind::Changed => difference.property.as_deref().unwrap_or_default(),
            };
            let (row, azure, here) = (&difference.row, &difference.azure, &difference.here);
            format!("      {} {row}: {what}: azure '{azure}', here '{here}'", table.target)
        }));
    }
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let certainty = format!("{:?}", case.certainty).to_lowercase();
    println!("{:>4}/{:<4} {name} ({certainty}): {}", whole.equal, whole.total, case.title);
    lines.iter().for_each(|line| println!("{line}"));
    Ok((whole.equal, whole.total))
}

/// What is in force after all of the case's topologies.
fn compile(folder: &Path, case: &Case) -> Result<Snapshot> {
    let mut topologies = Vec::new();
    for name in &case.topologies {
        match vnet_config::load_file(&folder.join(name)) {
            Ok(loaded) => topologies.push(loaded.topology),
            Err(refused) => bail!("{name} is refused:\n{refused}"),
        }
    }
    vnet_analysis::conformance::compile(topologies, case.as_azure).context("case.json names no topology")
}
