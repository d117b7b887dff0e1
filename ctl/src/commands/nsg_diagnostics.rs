//! `nsg-diagnostics`: as `az network watcher run-configuration-diagnostic`.

use std::path::PathBuf;

use vnet_config::model::{AddressSpec, PortRange, SecurityProtocol};
use vnet_fabric::effective::{self, DiagnosticQuery, EvaluatedNetworkSecurityGroup, RuleEvaluation};

use super::ip_flow_verify::Direction;
use crate::client::query;
use crate::context::Context;
use crate::offline;
use crate::output::Table;

#[derive(Debug, clap::Args)]
pub(crate) struct NsgDiagnostics {
    /// The VM; of its NICs the one that has the asked address, else the primary one.
    #[arg(long, required_unless_present = "nic")]
    vm: Option<String>,
    /// Its NIC, or VM/NIC.
    #[arg(long)]
    nic: Option<String>,
    /// Towards the VM, or from it.
    #[arg(long, value_enum, ignore_case = true)]
    direction: Direction,
    /// TCP, UDP, ICMP, ESP, AH or *.
    #[arg(long, value_parser = protocol)]
    protocol: SecurityProtocol,
    /// An address, a prefix, a service tag or *.
    #[arg(long)]
    source: AddressSpec,
    /// An address, a prefix, a service tag or *.
    #[arg(long)]
    destination: AddressSpec,
    /// Destination port, a range of them or *.
    #[arg(long, default_value = "*")]
    port: PortRange,
    /// Answer for this file, without a daemon.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

fn protocol(text: &str) -> Result<SecurityProtocol, String> {
    match text.to_ascii_lowercase().as_str() {
        "tcp" => Ok(SecurityProtocol::Tcp),
        "udp" => Ok(SecurityProtocol::Udp),
        "icmp" => Ok(SecurityProtocol::Icmp),
        "esp" => Ok(SecurityProtocol::Esp),
        "ah" => Ok(SecurityProtocol::Ah),
        "*" | "any" => Ok(SecurityProtocol::Any),
        _ => Err(format!("'{text}' is no protocol of security rules: write TCP, UDP, ICMP, ESP, AH or *")),
    }
}

impl NsgDiagnostics {
    /// `VM` or `VM/NIC`.
    fn target(&self) -> String {
        match (&self.vm, &self.nic) {
            (Some(vm), Some(nic)) => format!("{vm}/{nic}"),
            (Some(name), None) | (None, Some(name)) => name.clone(),
            (None, None) => String::new(),
        }
    }

    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<u8> {
        let target = self.target();
        let report: effective::NsgDiagnostics = match &self.file {
            Some(file) => {
                let question = DiagnosticQuery {
                    direction: self.direction.into(),
                    protocol: self.protocol,
                    source: self.source,
                    destination: self.destination,
                    destination_port: self.port,
                };
                effective::nsg_diagnostics(&offline::converge(file, context)?, &target, &question)?
            }
            None => {
                let protocol = serde_json::to_value(self.protocol)?;
                let query = query([
                    ("target", Some(target)),
                    ("direction", Some(self.direction.name().to_owned())),
                    ("protocol", protocol.as_str().map(str::to_owned)),
                    ("source", Some(self.source.to_string())),
                    ("destination", Some(self.destination.to_string())),
                    ("port", Some(self.port.to_string())),
                ]);
                context.client.get(&context.lab_path(&format!("/nsg-diagnostics{query}")).await?).await?
            }
        };
        context.print(&report, text)?;
        Ok(0)
    }
}

/// One block for each group with every rule that was evaluated, and the verdict.
fn text(report: &effective::NsgDiagnostics) -> String {
    let mut blocks = Vec::new();
    for answer in &report.results {
        let result = &answer.network_security_group_result;
        blocks.extend(result.evaluated_network_security_groups.iter().map(group));
        let profile = &answer.profile;
        blocks.push(format!(
            "{} {} {} -> {} port {}: {}",
            profile.direction_name(),
            profile.protocol,
            profile.source,
            profile.destination,
            profile.destination_port,
            result.security_rule_access_result,
        ));
        blocks.extend(result.note.iter().map(|note| format!("note: {note}")));
    }
    blocks.join("\n\n")
}

fn group(group: &EvaluatedNetworkSecurityGroup) -> String {
    let mut table = Table::new(&[
        "Rule Name",
        "Protocol",
        "Source",
        "Source Port",
        "Destination",
        "Destination Port",
        "Access",
    ]);
    let last = group.rules_evaluation_result.len().saturating_sub(1);
    for (index, rule) in group.rules_evaluation_result.iter().enumerate() {
        let decides = group.matched_rule.as_ref().filter(|_| index == last);
        table.row(row(rule, decides.map_or("", |rule| &rule.action)));
    }
    let id = &group.network_security_group_id;
    let mut text = format!("{} at {}\n", if id.is_empty() { "no group" } else { id }, group.applied_to);
    text.push_str(&table.render("no rule names the service of the platform"));
    if !group.partly_matched_rules.is_empty() {
        let names: Vec<String> = group.partly_matched_rules.iter().map(|name| shown(name)).collect();
        text.push_str(&format!("\nnote: a part of these packets is decided by {}", names.join(", ")));
    }
    text
}

fn row(rule: &RuleEvaluation, access: &str) -> [String; 7] {
    let mark = |matched: bool| if matched { "yes" } else { "no" }.to_owned();
    [
        shown(&rule.name),
        mark(rule.protocol_matched),
        mark(rule.source_matched),
        mark(rule.source_port_matched),
        mark(rule.destination_matched),
        mark(rule.destination_port_matched),
        access.to_owned(),
    ]
}

/// The rule as the other verbs print it.
fn shown(name: &str) -> String {
    match (name.strip_prefix("UserRule_"), name.strip_prefix("DefaultRule_")) {
        (Some(name), _) => format!("securityRules/{name}"),
        (_, Some(name)) => format!("defaultSecurityRules/{name}"),
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_in_any_spelling() {
        assert_eq!(protocol("tcp"), Ok(SecurityProtocol::Tcp));
        assert_eq!(protocol("ESP"), Ok(SecurityProtocol::Esp));
        assert_eq!(protocol("Any"), Ok(SecurityProtocol::Any));
        assert!(protocol("gre").is_err());
    }

    #[test]
    fn rules_are_named_as_elsewhere() {
        assert_eq!(shown("UserRule_web"), "securityRules/web");
        assert_eq!(shown("DefaultRule_DenyAllInBound"), "defaultSecurityRules/DenyAllInBound");
    }
}
