//! `compare`: effective routes and rules against those that Azure printed.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Subcommand;
use serde::Serialize;
use vnet_analysis::compare::{Comparison, Difference, DifferenceKind, compare_nsg, compare_routes};
use vnet_fabric::effective::{self, EffectiveNsgList, EffectiveRoutes};

use crate::client::query;
use crate::context::Context;
use crate::failure::{COULD_NOT_RUN, Failure};
use crate::offline;
use crate::output::{Table, count};

/// Largest answer of Azure that is read, in bytes.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

#[derive(Debug, clap::Args)]
pub(crate) struct Compare {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// With what `az network nic show-effective-route-table -o json` printed.
    #[command(after_help = "Example:\n  vnetctl compare effective-routes web az.json")]
    EffectiveRoutes(Answer),
    /// With what `az network nic list-effective-nsg -o json` printed.
    #[command(after_help = "Example:\n  vnetctl compare effective-nsg web az.json")]
    EffectiveNsg(Answer),
}

#[derive(Debug, clap::Args)]
struct Answer {
    /// VM, VM/NIC or VNET/SUBNET; for rules VM or VM/NIC.
    target: String,
    /// Azure's answer as JSON; - for standard input.
    azure: PathBuf,
    /// Answer for this file, without a daemon.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

#[derive(Serialize)]
struct Report<'a> {
    target: &'a str,
    agrees: bool,
    #[serde(flatten)]
    comparison: &'a Comparison,
}

impl Compare {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<u8> {
        match self.compare(context).await {
            Ok(code) => Ok(code),
            // 1 means that they differ: what could not be compared has another code.
            Err(error) => Err(Failure::with_code(COULD_NOT_RUN, error)),
        }
    }

    async fn compare(self, context: &Context) -> anyhow::Result<u8> {
        let (answer, rules) = match &self.what {
            What::EffectiveRoutes(answer) => (answer, false),
            What::EffectiveNsg(answer) => (answer, true),
        };
        let azure = read(&answer.azure)?;
        let comparison = if rules {
            compare_nsg(&azure, &answer.nsg(context).await?)
        } else {
            compare_routes(&azure, &answer.routes(context).await?)
        }
        .with_context(|| format!("{} cannot be compared", answer.azure.display()))?;
        let report = Report { target: &answer.target, agrees: comparison.agrees(), comparison: &comparison };
        context.print(&report, table)?;
        Ok(u8::from(!comparison.agrees()))
    }
}

impl Answer {
    async fn routes(&self, context: &Context) -> anyhow::Result<EffectiveRoutes> {
        match &self.file {
            Some(file) => Ok(effective::effective_routes(&offline::converge(file, context)?, &self.target)?),
            None => self.ask(context, "effective-routes").await,
        }
    }

    async fn nsg(&self, context: &Context) -> anyhow::Result<EffectiveNsgList> {
        match &self.file {
            Some(file) => Ok(effective::effective_nsg(&offline::converge(file, context)?, &self.target)?),
            None => self.ask(context, "effective-nsg").await,
        }
    }

    async fn ask<T: serde::de::DeserializeOwned>(&self, context: &Context, what: &str) -> anyhow::Result<T> {
        let query = query([("target", Some(self.target.clone()))]);
        context.client.get(&context.lab_path(&format!("/{what}{query}")).await?).await
    }
}

pub(super) fn read(path: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    let cannot = || format!("{} cannot be read", path.display());
    let source: Box<dyn Read> = if path == Path::new("-") {
        Box::new(std::io::stdin().lock())
    } else {
        Box::new(std::fs::File::open(path).with_context(cannot)?)
    };
    source.take(ANSWER_BYTES_MAX).read_to_string(&mut text).with_context(cannot)?;
    Ok(text)
}

fn table(report: &Report<'_>) -> String {
    let found = report.comparison;
    let mut table = Table::new(&["Row", "Property", "Azure", "Here"]);
    for Difference { row, kind, property, azure, here } in &found.differences {
        let cell = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
        let property = match kind {
            DifferenceKind::Missing => "missing here",
            DifferenceKind::Unexpected => "not in Azure",
            DifferenceKind::Changed => property.as_deref().unwrap_or_default(),
        };
        table.row([row.clone(), property.to_owned(), cell(azure), cell(here)]);
    }
    let sum = format!("{} of {} are as in Azure.", found.equal, count(found.total, "row"));
    if found.agrees() { sum } else { format!("{}\n\n{sum}", table.render("")) }
}
