//! A run held against committed ratios: what was reached stays reached.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::report::{Finding, Report};
use super::section::Better;

const COMMITTED: &str = include_str!("ratios.json");

/// A ratio, or a figure by itself, as it was when it was committed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Committed {
    section: String,
    figure: String,
    path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    against: Option<String>,
    value: f64,
    /// How much worse it may be, as a part of the value: what runs of the same programs differ by.
    tolerance: f64,
}

impl Committed {
    fn is_of(&self, section: &str, finding: &Finding) -> bool {
        self.section == section
            && self.figure == finding.figure
            && self.path == finding.path
            && self.against.as_deref() == finding.against
    }

    fn is_kept_by(&self, value: f64, better: Better) -> bool {
        match better {
            Better::More => value >= self.value * (1.0 - self.tolerance),
            Better::Less => value <= self.value * (1.0 + self.tolerance),
            Better::Neither => true,
        }
    }
}

/// Prints what is worse than committed; whether nothing is.
///
/// # Errors
/// The committed ratios cannot be read, or none of them was measured.
pub(crate) fn against_committed(report: &Report) -> Result<bool> {
    let committed: Vec<Committed> = serde_json::from_str(COMMITTED).context("ratios.json")?;
    let mut compared = 0;
    let mut worse = 0;
    for section in &report.sections {
        for finding in &section.findings {
            let Some(known) = committed.iter().find(|known| known.is_of(section.name, finding)) else {
                continue;
            };
            compared += 1;
            if !known.is_kept_by(finding.value.median, finding.better) {
                worse += 1;
                let against = finding.against.map_or_else(String::new, |against| format!(" : {against}"));
                println!(
                    "worse: {} {}{against}, {}: {:.3}, committed {:.3} with a tolerance of {:.0} %",
                    section.name,
                    finding.path,
                    finding.title,
                    finding.value.median,
                    known.value,
                    known.tolerance * 100.0
                );
            }
        }
    }
    anyhow::ensure!(compared > 0, "nothing was measured that is committed");
    println!("{compared} figures held against the committed ones, {worse} worse");
    Ok(worse == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_ratios_can_be_read() {
        let committed: Vec<Committed> = serde_json::from_str(COMMITTED).expect("ratios.json is a list");
        assert!(committed.iter().all(|known| known.value > 0.0 && (0.0..1.0).contains(&known.tolerance)));
    }

    #[test]
    fn only_what_is_worse_fails() {
        let known = Committed {
            section: "peering".to_owned(),
            figure: "tcp1_gbps".to_owned(),
            path: "peering".to_owned(),
            against: Some("kernel".to_owned()),
            value: 0.9,
            tolerance: 0.1,
        };
        assert!(known.is_kept_by(0.82, Better::More));
        assert!(!known.is_kept_by(0.80, Better::More));
        assert!(known.is_kept_by(5.0, Better::More));
        assert!(known.is_kept_by(0.98, Better::Less));
        assert!(!known.is_kept_by(1.0, Better::Less));
    }
}
