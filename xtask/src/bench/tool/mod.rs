//! What no program that everybody has measures: this program run anew inside a namespace.

pub(crate) mod connect;
mod spray;

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Subcommand;
use serde_json::Value;
use vnet_integration::Running;
use vnet_integration::process::{self, Output};

use super::namespace::{LIMIT, inside};

/// One of the tools.
#[derive(Subcommand)]
pub(crate) enum Tool {
    /// Accept TCP connections and close each when its other end does
    Accept(connect::AcceptArguments),
    /// Open and close TCP connections, and count them
    Connect(connect::ConnectArguments),
    /// Open TCP connections and keep them
    Hold(connect::HoldArguments),
    /// Send one datagram for each of many flows
    Spray(spray::SprayArguments),
}

/// Runs a tool to its end.
///
/// # Errors
/// Of the tool.
pub(crate) fn run(tool: &Tool) -> Result<bool> {
    match tool {
        Tool::Accept(arguments) => connect::accept(arguments),
        Tool::Connect(arguments) => connect::connect(arguments),
        Tool::Hold(arguments) => connect::hold_open(arguments),
        Tool::Spray(arguments) => spray::spray(arguments),
    }?;
    Ok(true)
}

/// A tool's command line inside a namespace.
fn command(namespace: &str, arguments: &[&str]) -> Result<Command> {
    let program = std::env::current_exe()?;
    let mut all = vec![program.to_str().context("this program's path is no UTF-8")?, "bench-tool"];
    all.extend(arguments);
    Ok(inside(namespace, &all))
}

/// Runs a tool inside a namespace to its end.
pub(crate) fn output(namespace: &str, arguments: &[&str], limit: Duration) -> Result<Output> {
    process::output(&mut command(namespace, arguments)?, limit)?.ok()
}

/// Starts a tool and waits until it says that it is ready.
pub(crate) fn start(namespace: &str, arguments: &[&str]) -> Result<Running> {
    let mut running = Running::start(&mut command(namespace, arguments)?)?;
    running.wait_for("ready", LIMIT)?;
    Ok(running)
}

/// The number of this name in what a tool printed.
pub(crate) fn number(output: &Output, name: &str) -> Result<f64> {
    let line = output.stdout.lines().last().unwrap_or_default();
    let value: Value = serde_json::from_str(line)
        .with_context(|| format!("{}: {}{}", output.command, output.stdout, output.stderr))?;
    value[name].as_f64().with_context(|| format!("{}: no {name} in {line}", output.command))
}
