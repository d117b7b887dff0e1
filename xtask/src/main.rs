//! The project's own chores: `cargo xtask test`, and what else a maintainer does by one command.
#![forbid(unsafe_code)]

mod bench;
mod command;
mod conformance;
mod demo;
mod interop;
mod man;
mod micro;
mod packages;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Chores of the project.
#[derive(Parser)]
#[command(name = "cargo xtask", version)]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Install what the tests need, then check formatting and lints and run every test; no test may be skipped
    Test(test::TestArguments),
    /// Bring the hub-and-spoke example up, prove it with real packets, show it, take it down
    Demo(demo::DemoArguments),
    /// Measure vnetd's paths against the kernel's router and other WireGuards in userspace
    Bench(bench::BenchArguments),
    /// What a run of the benchmark has left is taken away when it ends
    #[command(hide = true)]
    BenchGuard(bench::guard::GuardArguments),
    /// What the benchmark runs inside a namespace
    #[command(hide = true, subcommand)]
    BenchTool(bench::tool::Tool),
    /// Count the instructions of single mechanisms under valgrind, from parsing to a whole new connection
    Micro(micro::MicroArguments),
    /// Compare effective routes and rules with Azure's own answers, and print a score
    Conformance(conformance::ConformanceArguments),
    /// Run the labs with other implementations of WireGuard and BGP, and print what was exercised with each
    Interop(interop::InteropArguments),
    /// Write the man pages of vnetd and vnetctl, made out of their command lines
    Man(man::ManArguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match arguments.chore {
        Chore::Test(arguments) => test::run_all(&arguments),
        Chore::Demo(arguments) => demo::show(&arguments),
        Chore::Bench(arguments) => bench::run(&arguments),
        Chore::BenchGuard(arguments) => bench::guard::run(&arguments),
        Chore::BenchTool(tool) => bench::tool::run(&tool),
        Chore::Micro(arguments) => micro::run(&arguments),
        Chore::Conformance(arguments) => conformance::run(&arguments),
        Chore::Interop(arguments) => interop::run(&arguments),
        Chore::Man(arguments) => man::write(&arguments),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
