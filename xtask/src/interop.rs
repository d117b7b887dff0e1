//! `cargo xtask interop`: what was exercised with other implementations, by labs that really run.
//!
//! A lab belongs here by its name: it names one of the [`PROGRAMS`], and the rest of its last part is what it shows.
//! `peers::wireguard_go_follows_a_change_of_port` is the cell of wireguard-go in the row "follows a change of port".

use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Args;
use comfy_table::presets::ASCII_MARKDOWN;
use comfy_table::{CellAlignment, Table};
use indexmap::IndexMap;
use vnet_integration::process;

use crate::command::cargo;
use crate::packages;

/// What `cargo xtask interop` takes.
#[derive(Args)]
pub(crate) struct InteropArguments {
    /// Run the long forms of the labs too (VNET_NIGHTLY=1)
    #[arg(long)]
    nightly: bool,
    /// Install nothing; a missing program then shows in its column
    #[arg(long)]
    no_install: bool,
}

/// Another implementation: how its column is headed, and how names of labs call it.
struct Program {
    title: &'static str,
    name: &'static str,
}

const PROGRAMS: [Program; 6] = [
    Program { title: "wireguard-go", name: "wireguard_go" },
    Program { title: "boringtun-cli", name: "boringtun" },
    Program { title: "gotatun", name: "gotatun" },
    Program { title: "BIRD", name: "bird" },
    Program { title: "FRR", name: "frr" },
    Program { title: "GoBGP", name: "gobgp" },
];

const LIMIT: Duration = Duration::from_secs(60 * 60);

/// Runs the labs of every program and prints the matrix; whether all of them passed and each program has some.
///
/// # Errors
/// The programs cannot be installed, or the labs not be run.
pub(crate) fn run(arguments: &InteropArguments) -> Result<bool> {
    if !arguments.no_install {
        packages::install_missing()?;
        packages::install_tools()?;
    }
    let mut matrix = Matrix::default();
    for program in &PROGRAMS {
        let mut command = cargo();
        command.args(["test", "--quiet", "--locked", "--workspace", "--test", "labs"]);
        command.args(["--", "--format", "pretty", program.name]);
        if arguments.nightly {
            command.env("VNET_NIGHTLY", "1");
        }
        println!("==> {}", program.title);
        process::lines(&mut command, LIMIT, |line| {
            println!("{line}");
            matrix.line(line);
        })?;
    }
    ensure!(!matrix.rows.is_empty(), "no lab was run: does the workspace build?");
    println!("\n{}", matrix.table());
    Ok(matrix.is_good())
}

/// A line of a lab's outcome, as the test harness prints it.
fn outcome(line: &str) -> Option<(&str, &str)> {
    line.strip_prefix("test ")?.split_once(" ... ").map(|(name, outcome)| (name.trim(), outcome.trim()))
}

/// Column and row of a lab; `None` for one that names no program.
fn place(lab: &str) -> Option<(usize, String)> {
    let words: Vec<&str> = lab.split("::").flat_map(|part| part.split('_')).collect();
    let named = |program: &Program| {
        let name: Vec<&str> = program.name.split('_').collect();
        words.windows(name.len()).any(|part| part == name)
    };
    let column = PROGRAMS.iter().position(named)?;
    let last = lab.rsplit("::").next().unwrap_or(lab);
    let shown = format!("_{last}_").replacen(&format!("_{}_", PROGRAMS[column].name), "_", 1);
    Some((column, shown.trim_matches('_').replace('_', " ")))
}

/// What was exercised, by program.
#[derive(Default)]
struct Matrix {
    rows: IndexMap<String, [Option<String>; PROGRAMS.len()]>,
}

impl Matrix {
    fn line(&mut self, line: &str) {
        let Some((name, outcome)) = outcome(line) else { return };
        let Some((column, row)) = place(name) else { return };
        let cell = match outcome.split([',', ' ']).next() {
            Some("ok") => "yes".to_owned(),
            Some("ignored") => "not run".to_owned(),
            _ => "FAILED".to_owned(),
        };
        self.rows.entry(row).or_default()[column] = Some(cell);
    }

    fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(ASCII_MARKDOWN);
        table.set_header(["exercised"].into_iter().chain(PROGRAMS.iter().map(|program| program.title)));
        for (row, cells) in &self.rows {
            let cells = cells.iter().map(|cell| cell.as_deref().unwrap_or("-").to_owned());
            table.add_row([row.clone()].into_iter().chain(cells));
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Center);
        }
        table
    }

    /// Every lab passed, and no program was left out.
    fn is_good(&self) -> bool {
        let column = |index: usize| self.rows.values().filter_map(move |cells| cells[index].as_deref());
        (0..PROGRAMS.len())
            .all(|index| column(index).next().is_some() && column(index).all(|cell| cell == "yes"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lab_is_placed_by_its_name() {
        let placed = |lab| place(lab).map(|(column, row)| (PROGRAMS[column].title, row));
        let expected = |title, row: &str| Some((title, row.to_owned()));
        assert_eq!(
            placed("peers::wireguard_go_follows_a_change_of_port"),
            expected("wireguard-go", "follows a change of port")
        );
        assert_eq!(placed("bgp::learns_from_bird"), expected("BIRD", "learns from"));
        assert_eq!(placed("interop::frr::withdraws_routes"), expected("FRR", "withdraws routes"));
        assert_eq!(placed("vpn::carries_both_families"), None);
        assert_eq!(placed("nsg::thirdbird_is_no_bird"), expected("BIRD", "thirdbird is no"));
    }

    #[test]
    fn the_matrix_says_what_was_not_run_and_what_failed() {
        let mut matrix = Matrix::default();
        for line in [
            "running 4 tests",
            "test peers::gotatun_connects ... ok",
            "test peers::boringtun_connects ... FAILED",
            "test bgp::bird_announces ... ignored, needs the programs bird",
            "test result: FAILED. 1 passed; 1 failed; 1 ignored",
        ] {
            matrix.line(line);
        }
        assert_eq!(matrix.rows.len(), 2);
        assert_eq!(matrix.rows["connects"][1].as_deref(), Some("FAILED"));
        assert_eq!(matrix.rows["connects"][2].as_deref(), Some("yes"));
        assert_eq!(matrix.rows["announces"][3].as_deref(), Some("not run"));
        assert!(!matrix.is_good());
        assert!(matrix.table().to_string().contains("| connects"));
    }
}
