//! `peering list`, `peering show`, `peering sync`: halves of peerings, their state and ranges.

use std::path::PathBuf;

use anyhow::anyhow;
use clap::Subcommand;
use hyper::Method;
use vnet_fabric::effective::EffectivePeering;

use crate::client::segment;
use crate::context::{Context, List};
use crate::failure::Failure;
use crate::output::Table;
use crate::{offline, output};

#[derive(Debug, clap::Args)]
pub(crate) struct Peering {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// All halves of peerings: state, sync level, flags.
    List(Source),
    /// One half in full, with the ranges that are in force and those that the networks have now.
    Show {
        /// Whose half it is, and the network that it leads to.
        #[arg(value_name = "VNET/REMOTE")]
        name: String,
        #[command(flatten)]
        source: Source,
    },
    /// Bring both halves of a connected peering to the ranges that their networks have now.
    Sync {
        /// One network and the other.
        #[arg(value_name = "VNET/REMOTE")]
        name: String,
    },
}

#[derive(Debug, clap::Args)]
struct Source {
    /// Answer for this file, without a daemon.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

impl Peering {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<u8> {
        match self.verb {
            Verb::List(source) => {
                let all = source.read(context).await?;
                context.print(&all, |all| table(&all.value))?;
            }
            Verb::Show { name, source } => {
                split(&name)?;
                let all = source.read(context).await?.value;
                let known: Vec<String> = all.iter().map(|half| half.name.clone()).collect();
                let half = all.into_iter().find(|half| half.name == name);
                let half = half
                    .ok_or_else(|| anyhow!("there is no peering '{name}'; there are {}", known.join(", ")))?;
                context.print(&half, details)?;
            }
            Verb::Sync { name } => {
                let (network, remote) = split(&name)?;
                let rest = format!("/peerings/{}/{}/sync", segment(network), segment(remote));
                let path = context.lab_path(&rest).await?;
                let half: EffectivePeering =
                    context.client.send(Method::POST, &path, &serde_json::json!({})).await?;
                context.print(&half, |half| {
                    let ranges = half.remote_address_space.address_prefixes.join(", ");
                    format!(
                        "{} is {:?}; in force towards {remote}: {ranges}",
                        half.name, half.peering_sync_level
                    )
                })?;
            }
        }
        Ok(0)
    }
}

impl Source {
    async fn read(&self, context: &Context) -> anyhow::Result<List<EffectivePeering>> {
        match &self.file {
            Some(file) => Ok(List { value: offline::peerings(file, context)? }),
            None => context.client.get(&context.lab_path("/peerings").await?).await,
        }
    }
}

/// The two networks of a peering's name.
fn split(name: &str) -> anyhow::Result<(&str, &str)> {
    let parts = name.split_once('/').filter(|(network, remote)| !network.is_empty() && !remote.is_empty());
    parts.ok_or_else(|| Failure::usage(format!("'{name}' is no VNET/REMOTE")))
}

fn table(halves: &[EffectivePeering]) -> String {
    let mut table = Table::new(&["Name", "State", "Sync Level", "Remote Ranges", "Flags"]);
    for half in halves {
        table.row([
            half.name.clone(),
            format!("{:?}", half.peering_state),
            format!("{:?}", half.peering_sync_level),
            half.remote_address_space.address_prefixes.join(", "),
            half.summary(),
        ]);
    }
    table.render("The lab has no peerings.")
}

fn details(half: &EffectivePeering) -> String {
    let properties = output::to_yaml(half).unwrap_or_default();
    format!("{}\n\n{}", table(std::slice::from_ref(half)), properties.trim_end())
}
