//! `cargo xtask test`: the one answer to whether the tree is good.

use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;
use vnet_integration::process;

use crate::command::{cargo, is_present, run};
use crate::conformance::{self, ConformanceArguments};
use crate::packages;

/// What `cargo xtask test` takes.
#[derive(Args)]
pub(crate) struct TestArguments {
    /// Run the long forms of the tests too (VNET_NIGHTLY=1)
    #[arg(long)]
    nightly: bool,
    /// Install nothing; a missing program then shows as a skipped test, and that as a failure
    #[arg(long)]
    no_install: bool,
}

const CHECK_LIMIT: Duration = Duration::from_secs(20 * 60);
const TESTS_LIMIT: Duration = Duration::from_secs(40 * 60);
/// The package whose long form is many random cases and no lab.
const MANY_CASES: &str = "vnet-tests";
const NIGHTLY_LIMIT: Duration = Duration::from_secs(6 * 60 * 60);

/// Runs everything and prints a summary; whether all of it is good.
///
/// # Errors
/// Packages are missing and could not be installed, or a step could not be run to its end.
pub(crate) fn run_all(arguments: &TestArguments) -> Result<bool> {
    let started = Instant::now();
    if !arguments.no_install {
        packages::install_missing()?;
        packages::install_tools()?;
    }
    let mut failed: Vec<String> = Vec::new();
    for (name, step) in checks() {
        println!("==> {name}");
        let mut command = cargo();
        command.args(step);
        match run(&mut command, CHECK_LIMIT) {
            Ok(true) => {}
            Ok(false) => failed.push(name.to_owned()),
            Err(error) => failed.push(format!("{name}: {error:#}")),
        }
    }
    println!("==> conformance");
    match conformance::run(&ConformanceArguments::default()) {
        Ok(true) => {}
        Ok(false) => failed.push("conformance".to_owned()),
        Err(error) => failed.push(format!("conformance: {error:#}")),
    }
    println!("==> tests");
    let tally = tests(arguments)?;
    println!();
    for skipped in &tally.skipped {
        println!("skipped: {skipped}");
    }
    if !tally.skipped.is_empty() {
        failed.push(format!("{} skipped tests", tally.skipped.len()));
    }
    if tally.failed > 0 || !tally.succeeded {
        failed.push("tests".to_owned());
    }
    for name in &failed {
        println!("FAILED: {name}");
    }
    println!("took {} s", started.elapsed().as_secs());
    println!("{} passed, {} failed", tally.passed, tally.failed);
    Ok(failed.is_empty())
}

fn checks() -> Vec<(&'static str, Vec<&'static str>)> {
    let mut checks = vec![
        ("formatting", vec!["fmt", "--all", "--check"]),
        (
            "clippy",
            vec!["clippy", "--quiet", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"],
        ),
    ];
    // In the workspace the clock of a dependency would stand still for everything.
    let simulated = ["test", "--quiet", "--locked", "--manifest-path", "gateway/simulated/Cargo.toml"];
    checks.push(("tunnels in simulated time", simulated.to_vec()));
    if is_present("cargo-deny") {
        // Advisories need a database from the network; what the tree itself says needs none.
        checks.push(("licences", vec!["deny", "--offline", "check", "licenses", "bans", "sources"]));
    } else {
        println!("==> cargo-deny is not installed: licences of dependencies are not checked");
    }
    checks
}

/// What the test programs said, in sum.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: u64,
    failed: u64,
    ignored: u64,
    skipped: Vec<String>,
    succeeded: bool,
}

impl Tally {
    /// Takes one line of a test program's output.
    fn line(&mut self, line: &str) {
        if let Some(summary) = line.strip_prefix("test result: ") {
            self.passed += count(summary, "passed");
            self.failed += count(summary, "failed");
            self.ignored += count(summary, "ignored");
        } else if let Some((name, outcome)) =
            line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... "))
            && outcome.starts_with("ignored")
        {
            self.skipped.push(format!("{} ({outcome})", name.trim()));
        }
    }

    /// Skips that a summary counts and no line named are still skips.
    fn close(&mut self, succeeded: bool) {
        let named = self.skipped.len() as u64;
        if self.ignored > named {
            self.skipped.push(format!("{} more that gave no name", self.ignored - named));
        }
        // A build that breaks, or a test program that dies, has no summary of its own.
        if !succeeded && self.failed == 0 {
            self.failed = 1;
        }
        self.succeeded = succeeded;
    }
}

/// The number that stands before `word` in `ok. 3 passed; 0 failed; ...`.
fn count(summary: &str, word: &str) -> u64 {
    let words: Vec<&str> = summary.split([' ', ';', '.']).filter(|part| !part.is_empty()).collect();
    words.windows(2).find(|pair| pair[1] == word).and_then(|pair| pair[0].parse().ok()).unwrap_or(0)
}

fn run_tests(arguments: &[&str], nightly: bool, limit: Duration, tally: &mut Tally) -> Result<bool> {
    let mut command = cargo();
    command.args(arguments);
    if nightly {
        command.env("VNET_NIGHTLY", "1");
    }
    let status = process::lines(&mut command, limit, |line| {
        println!("{line}");
        tally.line(line);
    })?;
    Ok(status.success())
}

fn tests(arguments: &TestArguments) -> Result<Tally> {
    let all = ["test", "--workspace", "--locked", "--no-fail-fast"];
    let mut tally = Tally::default();
    let succeeded = if arguments.nightly {
        // A hundred thousand topologies are worth a build with optimisation.
        let others = [&all[..], &["--exclude", MANY_CASES]].concat();
        let many = ["test", "--release", "--package", MANY_CASES, "--locked", "--no-fail-fast"];
        let others = run_tests(&others, true, NIGHTLY_LIMIT, &mut tally)?;
        run_tests(&many, true, NIGHTLY_LIMIT, &mut tally)? && others
    } else {
        run_tests(&all, false, TESTS_LIMIT, &mut tally)?
    };
    tally.close(succeeded);
    Ok(tally)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_over_test_programs_and_names_skips() {
        let mut tally = Tally::default();
        for line in [
            "running 3 tests",
            "test a::b ... ok",
            "test a::c ... ignored, needs root",
            "test a::d ... FAILED",
            "test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            "test result: ok. 7 passed; 0 failed; 0 ignored; 0 measured; 2 filtered out; finished in 0.31s",
        ] {
            tally.line(line);
        }
        tally.close(false);
        assert_eq!(
            tally,
            Tally {
                passed: 8,
                failed: 1,
                ignored: 1,
                skipped: vec!["a::c (ignored, needs root)".to_owned()],
                succeeded: false,
            }
        );
    }

    #[test]
    fn a_broken_build_counts_as_a_failure() {
        let mut tally = Tally::default();
        tally.close(false);
        assert_eq!(tally.failed, 1);
    }

    #[test]
    fn an_unnamed_skip_is_a_skip() {
        let mut tally = Tally::default();
        tally.line("test result: ok. 0 passed; 0 failed; 2 ignored; 0 measured; 0 filtered out");
        tally.close(true);
        assert_eq!(tally.skipped.len(), 1);
    }
}
