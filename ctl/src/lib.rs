//! vnetctl as a library: its command line for man pages and completions, and its entry point.
#![forbid(unsafe_code)]

mod cli;
mod client;
mod commands;
mod context;
mod daemon;
mod events;
mod failure;
mod offline;
mod output;
mod terminal;
mod topology;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::FromArgMatches;

use crate::cli::Cli;
use crate::context::Context;
use crate::failure::{Failure, USAGE};

/// The whole command line, as for man pages.
pub fn command() -> clap::Command {
    cli::command()
}

/// Runs one command line and answers its exit code: 64 for a usage error, else what the verb says.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli =
        match command().try_get_matches_from(arguments).and_then(|matches| Cli::from_arg_matches(&matches)) {
            Ok(cli) => cli,
            Err(error) => {
                let code = if error.use_stderr() { USAGE } else { 0 };
                // Nothing is left to be done where even the message cannot be written.
                let _ = error.print();
                return ExitCode::from(code);
            }
        };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            crate::output::tell(format_args!("vnetctl: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let context = Context::new(cli.global);
    match runtime.block_on(cli.command.run(&context)) {
        Ok(code) => ExitCode::from(code),
        Err(error) if failure::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            failure::print(&error);
            ExitCode::from(error.downcast_ref::<Failure>().map_or(1, |failure| failure.code))
        }
    }
}
