//! The command line: global flags and verbs.

use std::path::PathBuf;

use clap::{CommandFactory, Parser, Subcommand};

use crate::commands::{
    apply, capture, compare, completions, doctor, down, drops, effective_nsg, effective_routes, exec,
    flow_log, flows, gateway, ip_flow_verify, labs, logs, matrix, next_hop, nsg_diagnostics, path, peering,
    ping, plan, schema, search, show, test, traffic, validate,
};
use crate::context::Context;
use crate::output::Format;

/// Runs Azure network designs on this host, with real packets.
#[derive(Debug, Parser)]
#[command(name = "vnetctl", version, max_term_width = 100)]
#[command(after_help = "Every flag can also be given as an environment variable: --lab as VNETCTL_LAB.\n\n\
    Exit codes: 0 done; 1 refused or failed; 64 wrong command line; test: 1 failed, 2 could not run; \
    search: 1 nobody gets through, 2 no answer; compare: 1 they differ, 2 could not compare; \
    exec: the program's own, 125 for a failure of vnetctl, 126 and 127 as shells count.")]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags of every verb.
#[derive(Debug, clap::Args)]
pub(crate) struct Global {
    /// The lab; the only one there is, if none is named.
    #[arg(long, global = true, value_name = "LAB")]
    pub(crate) lab: Option<String>,
    /// The daemon's socket (also VNETD_SOCKET).
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// How data is printed.
    #[arg(long, short, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) output: Format,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Bring a lab to what the file says; starts a daemon where none runs.
    ///
    /// Waits for the run: commands that it started and that are not to be restarted, at most 2 seconds for all machines together;
    /// what takes longer, as a server, goes on beside.
    #[command(after_help = "Example:\n  vnetctl up examples/hub-spoke.yaml")]
    Up(apply::Apply),
    /// The same as up.
    #[command(
        after_help = "Examples:\n  vnetctl apply examples/hub-spoke.yaml\n  vnetctl apply examples/hub-spoke.yaml --as-azure"
    )]
    Apply(apply::Apply),
    /// Print what up would change, and touch nothing.
    #[command(after_help = "Examples:\n  vnetctl plan examples/hub-spoke.yaml\n  \
        vnetctl plan examples/hub-spoke.yaml --impact")]
    Plan(plan::Plan),
    /// Remove a lab, and nothing else.
    #[command(after_help = "Examples:\n  vnetctl down\n  vnetctl down --all")]
    Down(down::Down),
    /// Check a file without touching anything.
    #[command(after_help = "Examples:\n  vnetctl validate examples/hub-spoke.yaml\n  \
        vnetctl validate --strict examples/hub-spoke.yaml")]
    Validate(validate::Validate),
    /// Halves of peerings: their state, and the sync of changed ranges.
    #[command(after_help = "Examples:\n  vnetctl peering list\n  vnetctl peering show hub/spoke1\n  \
        vnetctl peering sync hub/spoke1")]
    Peering(peering::Peering),
    /// Print the topology file's JSON Schema.
    #[command(after_help = "Example:\n  vnetctl schema > topology.schema.json")]
    Schema(schema::Schema),
    /// Show resources and their state.
    #[command(after_help = "Examples:\n  vnetctl show\n  vnetctl show peerings hub/spoke1 -o json")]
    Show(show::Show),
    /// List the labs that run.
    #[command(after_help = "Example:\n  vnetctl labs")]
    Labs(labs::Labs),
    /// Run a program inside a machine; its exit code is passed on.
    #[command(after_help = "Example:\n  vnetctl exec web -- ping -c1 10.0.2.4")]
    Exec(exec::Exec),
    /// Open a shell inside a machine.
    #[command(after_help = "Example:\n  vnetctl shell web")]
    Shell(exec::Shell),
    /// Print what a machine's run: commands printed.
    #[command(after_help = "Example:\n  vnetctl logs nva")]
    Logs(logs::Logs),
    /// The routes in force at a VM, NIC, subnet, firewall or gateway.
    #[command(after_help = "Examples:\n  vnetctl effective-routes web\n  \
        vnetctl effective-routes spoke1/app --file examples/hub-spoke.yaml -o json")]
    EffectiveRoutes(effective_routes::EffectiveRoutes),
    /// The security rules in force at a VM.
    #[command(after_help = "Example:\n  vnetctl effective-nsg web")]
    EffectiveNsg(effective_nsg::EffectiveNsg),
    /// Where a VM sends packets for an address next.
    #[command(after_help = "Example:\n  vnetctl next-hop --vm web --dest-ip 10.2.0.4")]
    NextHop(next_hop::NextHop),
    /// Whether a VM's security rules allow a packet, and by which rule.
    #[command(after_help = "Example:\n  vnetctl ip-flow-verify --vm web --direction Inbound --protocol TCP \
        --local 10.1.0.4:443 --remote 10.2.0.4:50000")]
    IpFlowVerify(ip_flow_verify::IpFlowVerify),
    /// Every security rule that judges a kind of packet, field by field.
    #[command(
        after_help = "Example:\n  vnetctl nsg-diagnostics --vm web --direction Inbound --protocol TCP \
        --source 10.2.0.4 --destination 10.1.0.4 --port 443"
    )]
    NsgDiagnostics(nsg_diagnostics::NsgDiagnostics),
    /// Each step that a packet takes, there and back, with the rule that makes it.
    #[command(
        after_help = "Examples:\n  vnetctl path web db tcp/443\n  vnetctl path batch web icmp --probe\n  \
        vnetctl path web db tcp/443 --file examples/hub-spoke.yaml"
    )]
    Path(path::Path),
    /// Who reaches whom, and by which way.
    #[command(
        after_help = "Examples:\n  vnetctl matrix\n  vnetctl matrix tcp/443 --file examples/hub-spoke.yaml"
    )]
    Matrix(matrix::Matrix),
    /// Who can reach a machine, by which packets: over every header, not by samples.
    #[command(after_help = "Examples:\n  vnetctl search --to db --port 22\n  \
        vnetctl search --to db --from internet --explain --file examples/hub-spoke.yaml")]
    Search(search::Search),
    /// Compare effective routes or rules with what Azure printed.
    #[command(after_help = "Examples:\n  vnetctl compare effective-routes web az.json\n  \
        vnetctl compare effective-nsg web az.json --file examples/hub-spoke.yaml")]
    Compare(compare::Compare),
    /// Sum up Azure's virtual network flow logs, by rule and flow.
    #[command(after_help = "Example:\n  vnetctl flow-log PT1H.json")]
    FlowLog(flow_log::FlowLog),
    /// Prove the file's expect list with real packets.
    #[command(
        after_help = "Examples:\n  vnetctl test\n  vnetctl test examples/hub-spoke.yaml --junit report.xml"
    )]
    Test(test::Test),
    /// Send probes from inside a machine; no program is needed there.
    #[command(after_help = "Examples:\n  vnetctl ping web db\n  vnetctl ping web db tcp/443 --count 10")]
    Ping(ping::Ping),
    /// Measure throughput and latency between two machines.
    #[command(after_help = "Examples:\n  vnetctl traffic web db\n  \
        vnetctl traffic web db udp/5001 --rate-mbps 100 --duration 10")]
    Traffic(traffic::Traffic),
    /// The live flows.
    #[command(after_help = "Example:\n  vnetctl flows --limit 20")]
    Flows(flows::Flows),
    #[command(after_help = "Examples:\n  vnetctl capture web -w web.pcapng\n  \
        vnetctl capture hub/spoke1 -w - | wireshark -k -i -")]
    Capture(capture::Capture),
    /// What was dropped, and why.
    #[command(after_help = "Example:\n  vnetctl drops")]
    Drops(drops::Drops),
    /// Tunnels, and the configuration of their peers.
    #[command(
        after_help = "Examples:\n  vnetctl gateway status\n  vnetctl gateway config hub-to-hq --format wg-quick"
    )]
    Gateway(gateway::Gateway),
    /// The same as gateway config.
    #[command(after_help = "Example:\n  vnetctl vpn-config hub-to-hq > wg0.conf")]
    VpnConfig(gateway::Config),
    /// What this host lacks, and how to mend it.
    #[command(after_help = "Example:\n  vnetctl doctor")]
    Doctor(doctor::Doctor),
    /// Print a shell's completion script.
    #[command(after_help = "Example:\n  vnetctl completions bash > /etc/bash_completion.d/vnetctl")]
    Completions(completions::Completions),
}

impl Command {
    /// Does it; answers the exit code.
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<u8> {
        match self {
            Command::Up(verb) | Command::Apply(verb) => verb.run(context).await,
            Command::Plan(verb) => verb.run(context).await,
            Command::Down(verb) => verb.run(context).await,
            Command::Validate(verb) => verb.run(context),
            Command::Peering(verb) => verb.run(context).await,
            Command::Schema(verb) => verb.run(context),
            Command::Show(verb) => verb.run(context).await,
            Command::Labs(verb) => verb.run(context).await,
            Command::Exec(verb) => verb.run(context).await,
            Command::Shell(verb) => verb.run(context).await,
            Command::Logs(verb) => verb.run(context).await,
            Command::EffectiveRoutes(verb) => verb.run(context).await,
            Command::EffectiveNsg(verb) => verb.run(context).await,
            Command::NextHop(verb) => verb.run(context).await,
            Command::IpFlowVerify(verb) => verb.run(context).await,
            Command::NsgDiagnostics(verb) => verb.run(context).await,
            Command::Path(verb) => verb.run(context).await,
            Command::Matrix(verb) => verb.run(context).await,
            Command::Search(verb) => verb.run(context).await,
            Command::Compare(verb) => verb.run(context).await,
            Command::FlowLog(verb) => verb.run(context),
            Command::Test(verb) => verb.run(context).await,
            Command::Ping(verb) => verb.run(context).await,
            Command::Traffic(verb) => verb.run(context).await,
            Command::Flows(verb) => verb.run(context).await,
            Command::Capture(verb) => verb.run(context).await,
            Command::Drops(verb) => verb.run(context).await,
            Command::Gateway(verb) => verb.run(context).await,
            Command::VpnConfig(verb) => verb.run(context).await,
            Command::Doctor(verb) => verb.run(context).await,
            Command::Completions(verb) => verb.run(),
        }
    }
}

/// The command line, with an environment variable for every flag.
pub(crate) fn command() -> clap::Command {
    with_environment(Cli::command())
}

fn with_environment(command: clap::Command) -> clap::Command {
    command
        .mut_args(|argument| match argument.get_long() {
            Some(name) if !matches!(name, "help" | "version") => {
                let variable = format!("VNETCTL_{}", name.to_ascii_uppercase().replace('-', "_"));
                argument.env(variable).hide_env(true)
            }
            _ => argument,
        })
        .mut_subcommands(with_environment)
}

#[cfg(test)]
mod tests {
    use clap::{ArgAction, FromArgMatches};

    use super::*;

    fn leaves(command: &clap::Command, path: &str, found: &mut Vec<(String, clap::Command)>) {
        for child in command.get_subcommands() {
            let path = format!("{path} {}", child.get_name());
            leaves(child, &path, found);
            found.push((path, child.clone()));
        }
    }

    fn verbs() -> Vec<(String, clap::Command)> {
        let mut found = Vec::new();
        leaves(&command(), "vnetctl", &mut found);
        found
    }

    #[test]
    fn the_command_line_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn every_verb_shows_an_example_of_itself_that_parses() {
        for (path, verb) in verbs().into_iter().filter(|(path, _)| path.split(' ').count() == 2) {
            let help = verb.get_after_help().map(ToString::to_string).unwrap_or_default();
            let examples: Vec<&str> =
                help.lines().map(str::trim).filter(|line| line.starts_with(&path)).collect();
            assert!(!examples.is_empty(), "{path} has no example:\n{help}");
            for example in examples {
                let example = example.split(['>', '|']).next().unwrap_or_default();
                let matches = command().try_get_matches_from(example.split_whitespace());
                let parsed = matches.and_then(|matches| Cli::from_arg_matches(&matches));
                parsed.unwrap_or_else(|error| panic!("{example}: {error}"));
            }
        }
    }

    #[test]
    fn every_flag_has_its_variable() {
        let mut checked = 0;
        for (path, verb) in verbs() {
            for flag in verb.get_arguments().filter(|flag| !matches!(flag.get_action(), ArgAction::Help)) {
                let Some(long) = flag.get_long() else { continue };
                let expected = format!("VNETCTL_{}", long.to_ascii_uppercase().replace('-', "_"));
                assert_eq!(
                    flag.get_env().and_then(|name| name.to_str()),
                    Some(expected.as_str()),
                    "{path} --{long}"
                );
                checked += 1;
            }
        }
        assert!(checked > 20);
    }
}
