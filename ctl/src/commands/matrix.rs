//! `matrix`: who reaches whom, and by which way.

use std::path::PathBuf;

use vnet_api::{MatrixAnswer, MatrixGroups, Service};
use vnet_fabric::path::PathVerdict;

use crate::client::query;
use crate::context::Context;
use crate::offline;
use crate::output::columns;

#[derive(Debug, clap::Args)]
pub(crate) struct Matrix {
    /// tcp/PORT, udp/PORT or icmp.
    #[arg(default_value = "icmp")]
    service: Service,
    /// Answer for this file, without a daemon.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

impl Matrix {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<u8> {
        let groups: MatrixGroups = match &self.file {
            Some(file) => {
                let threads = std::thread::available_parallelism().map_or(1, usize::from);
                MatrixGroups::of(&offline::converge(file, context)?, self.service, threads)
            }
            None => {
                let query = query([("service", Some(self.service.to_string()))]);
                context.client.get(&context.lab_path(&format!("/matrix/groups{query}")).await?).await?
            }
        };
        context.print(&groups.report(), |_| table(&groups))?;
        Ok(0)
    }
}

fn way(appliances: &[String]) -> String {
    if appliances.is_empty() { "direct".to_owned() } else { appliances.join(", ") }
}

/// Verdict, way and rule of an answer, as a table shows them.
fn cells(answer: &MatrixAnswer) -> [String; 3] {
    let (mut verdict, way) = match (answer.verdict, answer.asymmetric) {
        (PathVerdict::Allow, false) => ("Allow".to_owned(), way(&answer.via)),
        (PathVerdict::Allow, true) => {
            ("Allow".to_owned(), format!("{}; back {}", way(&answer.via), way(&answer.via_reverse)))
        }
        (PathVerdict::Deny, _) => {
            let reason = answer.reason.as_deref().unwrap_or("Deny");
            (reason.to_owned(), if answer.via.is_empty() { "-".to_owned() } else { way(&answer.via) })
        }
    };
    if let (PathVerdict::Allow, Some(other)) = (answer.verdict, &answer.delivered_to) {
        verdict = format!("Allow, but {other} gets it");
    }
    [verdict, way, answer.rule.clone().unwrap_or_else(|| "-".to_owned())]
}

fn table(groups: &MatrixGroups) -> String {
    let shown: Vec<[String; 3]> = groups.answers.iter().map(cells).collect();
    let (mut total, mut reached) = (0_usize, 0_usize);
    let mut rows = Vec::new();
    for (from, row) in groups.machines.iter().zip(&groups.rows) {
        let answers = row.iter().flat_map(|run| std::iter::repeat_n(run.answer, run.count));
        for (to, answer) in groups.machines.iter().zip(answers) {
            let Some((answer, [verdict, way, rule])) =
                answer.and_then(|answer| Some((groups.answers.get(answer)?, shown.get(answer)?)))
            else {
                continue;
            };
            total += 1;
            reached += usize::from(answer.verdict == PathVerdict::Allow && answer.delivered_to.is_none());
            rows.push([from.as_str(), to, verdict, way, rule]);
        }
    }
    if total == 0 {
        return "The lab has no two machines.".to_owned();
    }
    let text = columns(["From", "To", "Verdict", "Way", "Decided By"], &rows);
    format!("{text}\n\n{reached} of {total} pairs reach each other by {}.", groups.service)
}
