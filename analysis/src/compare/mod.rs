//! Effective routes and rules of this program against those that Azure printed for the real thing.

mod azure;
mod nsg;
mod routes;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use nsg::compare_nsg;
pub use routes::compare_routes;

/// Why Azure's answer cannot be compared.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// It is not JSON.
    #[error("it is not JSON: {0}")]
    Json(String),
    /// It is JSON of another shape.
    #[error("it is not what `{command}` prints: {what}")]
    Shape {
        /// The command whose answer was expected.
        command: &'static str,
        /// What is there instead.
        what: String,
    },
}

/// How a row differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum DifferenceKind {
    /// Azure has it, and this program does not.
    Missing,
    /// This program has it, and Azure does not.
    Unexpected,
    /// Both have it, with another value of one property.
    Changed,
}

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Difference {
    /// Whose row: a prefix, or group, direction and name of a rule.
    pub row: String,
    /// How it differs.
    pub kind: DifferenceKind,
    /// The property with another value: `source`, `state`, `nextHopType`, `nextHopIpAddress`, `priority`, ...
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub property: Option<String>,
    /// What Azure has; empty where it has no such row.
    pub azure: String,
    /// What this program has; empty where it has no such row.
    pub here: String,
}

/// What a comparison found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Comparison {
    /// Rows that are the same.
    pub equal: usize,
    /// Rows of Azure, and rows that only this program has.
    pub total: usize,
    /// By row; none where the two agree.
    pub differences: Vec<Difference>,
}

impl Comparison {
    /// Whether the two agree in every row.
    pub fn agrees(&self) -> bool {
        self.differences.is_empty()
    }

    fn same(&mut self) {
        self.equal += 1;
        self.total += 1;
    }

    fn missing(&mut self, row: &str, azure: String) {
        self.total += 1;
        let (row, kind) = (row.to_owned(), DifferenceKind::Missing);
        self.differences.push(Difference { row, kind, property: None, azure, here: String::new() });
    }

    fn unexpected(&mut self, row: &str, here: String) {
        self.total += 1;
        let (row, kind) = (row.to_owned(), DifferenceKind::Unexpected);
        self.differences.push(Difference { row, kind, property: None, azure: String::new(), here });
    }

    /// A row that both have: equal where no property differs.
    fn both(&mut self, row: &str, properties: Vec<(&'static str, String, String)>) {
        let changed: Vec<_> = properties.into_iter().filter(|(_, azure, here)| azure != here).collect();
        if changed.is_empty() {
            return self.same();
        }
        self.total += 1;
        for (property, azure, here) in changed {
            self.differences.push(Difference {
                row: row.to_owned(),
                kind: DifferenceKind::Changed,
                property: Some(property.to_owned()),
                azure,
                here,
            });
        }
    }
}
