//! `search`: who can reach a machine, by which packets.

use std::collections::BTreeMap;
use std::path::PathBuf;

use vnet_analysis::search::{Query, Reach, SearchProtocol, SearchReport, Senders, Verdict, search};
use vnet_config::model::PortRange;

use crate::client::query;
use crate::context::Context;
use crate::failure::{COULD_NOT_RUN, Failure};
use crate::offline;
use crate::output::{Table, count};

/// Prefixes of one set beyond this number are counted, not printed.
const PREFIXES_MAX: usize = 4;
/// Senders of one row beyond this number are counted, not printed.
const SENDERS_MAX: usize = 8;

#[derive(Debug, clap::Args)]
pub(crate) struct Search {
    /// A machine, host, firewall, gateway or address, also one of the Internet; or internet: every public address that
    /// nobody in the lab has. Where no simulated host has the address it is judged as far as the internet edge.
    #[arg(long, value_name = "NAME")]
    to: String,
    /// any, internet, or the name of one machine, host or site.
    #[arg(long, value_name = "NAME", default_value = "any")]
    from: String,
    /// The destination port; every port if none is given.
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// tcp, udp, icmp, esp or ah; every one if neither it nor a port is given, tcp with a port.
    #[arg(long, value_name = "PROTOCOL", value_parser = protocol)]
    protocol: Option<SearchProtocol>,
    /// Show the packets that do not get through too, and what drops them.
    #[arg(long)]
    explain: bool,
    /// Answer for this file, without a daemon.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

fn protocol(text: &str) -> Result<SearchProtocol, String> {
    let found = SearchProtocol::ALL.into_iter().find(|known| known.name().eq_ignore_ascii_case(text));
    found.ok_or_else(|| {
        format!("'{text}' is not a protocol that the fabric carries: write tcp, udp, icmp, esp or ah")
    })
}

impl Search {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<u8> {
        if let (Some(port), Some(protocol)) = (self.port, self.protocol)
            && !matches!(protocol, SearchProtocol::Tcp | SearchProtocol::Udp)
        {
            return Err(Failure::usage(format!("{} has no ports: leave out --port {port}", protocol.name())));
        }
        // 1 means that nobody gets through: what could not be answered has another code.
        let mut report = self.ask(context).await.map_err(|error| Failure::with_code(COULD_NOT_RUN, error))?;
        let nobody = report.allowed.is_empty();
        if !self.explain {
            report.denied.clear();
        }
        context.print(&report, table)?;
        Ok(u8::from(nobody))
    }

    async fn ask(&self, context: &Context) -> anyhow::Result<SearchReport> {
        if let Some(file) = &self.file {
            let from = match self.from.as_str() {
                "any" => Senders::Any,
                "internet" => Senders::Internet,
                name => Senders::Name(name.to_owned()),
            };
            let protocols = self.protocol.into_iter().collect();
            let question = Query { to: self.to.clone(), from, protocols, port: self.port };
            return Ok(search(&offline::converge(file, context)?, &question)?);
        }
        let query = query([
            ("to", Some(self.to.clone())),
            ("from", Some(self.from.clone())),
            ("port", self.port.map(|port| port.to_string())),
            ("protocol", self.protocol.map(|protocol| protocol.name().to_owned())),
        ]);
        context.client.get(&context.lab_path(&format!("/search{query}")).await?).await
    }
}

/// Rows that say the same of several senders.
fn grouped(reaches: &[Reach]) -> Vec<(Vec<&Reach>, String)> {
    let mut order: Vec<(Vec<&Reach>, String)> = Vec::new();
    let mut index: BTreeMap<(&Verdict, String, String), usize> = BTreeMap::new();
    for reach in reaches {
        let service = service(reach);
        // A set of addresses is named where it is not all of the sender's.
        let sources = if reach.source_addresses.iter().all(|net| net.prefix_len() == net.max_prefix_len()) {
            String::new()
        } else {
            prefixes(reach)
        };
        match index.get(&(&reach.verdict, service.clone(), sources.clone())) {
            Some(at) => order[*at].0.push(reach),
            None => {
                index.insert((&reach.verdict, service.clone(), sources.clone()), order.len());
                order.push((vec![reach], sources));
            }
        }
    }
    order
}

fn prefixes(reach: &Reach) -> String {
    let shown: Vec<String> =
        reach.source_addresses.iter().take(PREFIXES_MAX).map(ToString::to_string).collect();
    match reach.source_addresses.len().checked_sub(PREFIXES_MAX) {
        None | Some(0) => shown.join(", "),
        Some(more) => format!("{} and {more} more", shown.join(", ")),
    }
}

fn ports(ranges: &[PortRange]) -> String {
    ranges.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

fn service(reach: &Reach) -> String {
    let name = reach.protocol.name();
    let to = match reach.destination_addresses.len() {
        0 => reach.destination.to_string(),
        1 => format!("internet ({})", reach.destination_addresses[0]),
        more => format!("internet ({more} prefixes)"),
    };
    if reach.destination_ports.is_empty() {
        return format!("{name} to {to}");
    }
    let every = reach.source_ports.first().is_some_and(|range| range.is_any());
    let from = if every { String::new() } else { format!(" from {}", ports(&reach.source_ports)) };
    format!("{name}/{}{from} to {to}", ports(&reach.destination_ports))
}

fn way(names: &[String]) -> String {
    if names.is_empty() { "direct".to_owned() } else { names.join(", ") }
}

fn table(report: &SearchReport) -> String {
    let leaves = report.allowed.iter().any(|reach| reach.verdict.leaves);
    let mut table = Table::new(&["From", "Packets", "Verdict", "Way", "Decided By"]);
    for (reaches, sources) in grouped(&report.allowed).into_iter().chain(grouped(&report.denied)) {
        let Some(first) = reaches.first() else { continue };
        let names: Vec<&str> = reaches.iter().take(SENDERS_MAX).map(|reach| reach.from.as_str()).collect();
        let mut from = names.join(", ");
        if reaches.len() > SENDERS_MAX {
            from.push_str(&format!(" and {} more", reaches.len() - SENDERS_MAX));
        }
        if !sources.is_empty() {
            from.push_str(&format!(" ({sources})"));
        }
        let verdict = &first.verdict;
        let word = verdict.reason.as_deref().unwrap_or("Allow");
        let word = if verdict.some_flows { format!("{word} (some flows)") } else { word.to_owned() };
        let word = if verdict.leaves { format!("{word} (leaves)") } else { word };
        let mirrored = verdict.via.iter().eq(verdict.via_reverse.iter().rev());
        let way = match (verdict.allowed, mirrored) {
            (false, _) if verdict.via.is_empty() => "-".to_owned(),
            (false, _) | (true, true) => way(&verdict.via),
            (true, false) => format!("{}; back {}", way(&verdict.via), way(&verdict.via_reverse)),
        };
        table.row([from, service(first), word, way, verdict.rule.clone().unwrap_or_else(|| "-".to_owned())]);
    }
    let senders = |reaches: &[Reach]| {
        let mut names: Vec<&str> = reaches.iter().map(|reach| reach.from.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        names.len()
    };
    let sum = format!(
        "{} can reach {}; {} of headers were judged.",
        count(senders(&report.allowed), "sender"),
        report.to,
        count(report.classes, "class").replace("classs", "classes")
    );
    let sum = if leaves {
        format!("{sum}\nWhat leaves goes by the internet edge; no simulated host has the address.")
    } else {
        sum
    };
    let text = table.render("");
    if text.is_empty() { sum } else { format!("{text}\n\n{sum}") }
}
