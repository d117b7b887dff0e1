//! `ip-flow-verify`: as `az network watcher test-ip-flow`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use vnet_api::Protocol;
use vnet_fabric::effective::{self, FlowDirection, FlowQuery, FlowVerdict};

use crate::client::query;
use crate::context::Context;
use crate::offline;
use crate::output::Table;

#[derive(Debug, clap::Args)]
pub(crate) struct IpFlowVerify {
    /// The VM.
    #[arg(long)]
    vm: String,
    /// Its NIC; the one that holds the local address if none is named.
    #[arg(long)]
    nic: Option<String>,
    /// Towards the VM, or from it.
    #[arg(long, value_enum, ignore_case = true)]
    direction: Direction,
    /// TCP, UDP or ICMP.
    #[arg(long)]
    protocol: Protocol,
    /// The VM's address and port; the port may be * outbound.
    #[arg(long, value_name = "IP:PORT")]
    local: Side,
    /// The other side's address and port.
    #[arg(long, value_name = "IP:PORT")]
    remote: Side,
    /// Answer for this file, without a daemon.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

/// Which way packets pass the NIC.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(super) enum Direction {
    #[value(name = "Inbound")]
    Inbound,
    #[value(name = "Outbound")]
    Outbound,
}

impl Direction {
    pub(super) fn name(self) -> &'static str {
        match self {
            Direction::Inbound => "Inbound",
            Direction::Outbound => "Outbound",
        }
    }
}

impl From<Direction> for FlowDirection {
    fn from(direction: Direction) -> FlowDirection {
        match direction {
            Direction::Inbound => FlowDirection::Inbound,
            Direction::Outbound => FlowDirection::Outbound,
        }
    }
}

/// An address and a port, `*` for any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Side(SocketAddr);

/// Stands for any port: an ephemeral one, as a system would choose.
const ANY_PORT: u16 = 50_000;

impl FromStr for Side {
    type Err = String;

    fn from_str(text: &str) -> Result<Side, String> {
        let wrong = || format!("'{text}' is no IP:PORT; write 10.1.0.4:443 or [2001:db8::4]:443");
        let (address, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
        let address: IpAddr = bare.parse().map_err(|_| wrong())?;
        let port = if port == "*" { ANY_PORT } else { port.parse().map_err(|_| wrong())? };
        Ok(Side(SocketAddr::new(address, port)))
    }
}

impl IpFlowVerify {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<u8> {
        let verdict: FlowVerdict = match &self.file {
            Some(file) => {
                let question =
                    FlowQuery::new(self.direction.into(), self.protocol.into(), self.local.0, self.remote.0)?;
                let target =
                    self.nic.as_ref().map_or_else(|| self.vm.clone(), |nic| format!("{}/{nic}", self.vm));
                effective::ip_flow_verify(&offline::converge(file, context)?, &target, &question)?
            }
            None => {
                let query = query([
                    ("vm", Some(self.vm)),
                    ("nic", self.nic),
                    ("direction", Some(self.direction.name().to_owned())),
                    ("protocol", Some(self.protocol.to_string())),
                    ("local", Some(self.local.0.to_string())),
                    ("remote", Some(self.remote.0.to_string())),
                ]);
                context.client.get(&context.lab_path(&format!("/ip-flow-verify{query}")).await?).await?
            }
        };
        context.print(&verdict, table)?;
        Ok(0)
    }
}

fn table(verdict: &FlowVerdict) -> String {
    let Some(note) = &verdict.note else {
        let mut table = Table::new(&["Access", "RuleName"]);
        table.row([&verdict.access, &verdict.rule_name]);
        return table.render("");
    };
    let mut table = Table::new(&["Access", "RuleName", "Note"]);
    table.row([&verdict.access, &verdict.rule_name, note]);
    table.render("")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_has_a_column_of_its_own() {
        let mut verdict = FlowVerdict {
            access: "Deny".into(),
            rule_name: "NSG-PUBLIC-NEEDS-NSG".into(),
            network_security_group: None,
            note: None,
        };
        assert!(!table(&verdict).contains("Note") && table(&verdict).contains("NSG-PUBLIC-NEEDS-NSG"));
        verdict.note = Some("no public address leads there".into());
        assert!(table(&verdict).contains("Note") && table(&verdict).contains("leads there"));
    }

    #[test]
    fn sides_of_both_families_and_any_port() {
        let side = |text: &str| text.parse::<Side>().map(|side| side.0.to_string());
        assert_eq!(side("10.1.0.4:443"), Ok("10.1.0.4:443".to_owned()));
        assert_eq!(side("[2001:db8::4]:443"), Ok("[2001:db8::4]:443".to_owned()));
        assert_eq!(side("10.1.0.4:*"), Ok("10.1.0.4:50000".to_owned()));
        assert!(side("10.1.0.4").is_err());
        assert!(side("web:443").is_err());
        assert!(side("10.1.0.4:70000").is_err());
    }
}
