//! What a refused request answers.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Body of every answer whose status is not 2xx, and of an `error` event in a stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ErrorBody {
    /// Machine-readable: Azure's code where Azure has one, else of this API, as `LabNotFound`.
    pub code: String,
    /// One sentence.
    pub message: String,
    /// What is wrong with the topology file, if that is what the error is about.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub diagnostics: Vec<Diagnostic>,
}

impl ErrorBody {
    /// An error without diagnostics.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> ErrorBody {
        ErrorBody { code: code.into(), message: message.into(), diagnostics: Vec::new() }
    }
}

impl fmt::Display for ErrorBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ErrorBody {}

/// Weight of a diagnostic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Severity {
    /// The file is refused.
    Error,
    /// The file is taken.
    Warning,
}

/// One finding in a topology file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Diagnostic {
    /// Error or warning.
    pub severity: Severity,
    /// Azure's error code where it has one.
    pub code: String,
    /// The place in the topology: `virtualNetworks.hub.peerings.spoke1`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// As the client named it.
    pub file: String,
    /// From 1; 0 where the finding is about the whole file.
    pub line: u32,
    /// From 1, in characters; 0 where the finding is about the whole file.
    pub column: u32,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// The line of the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_line: Option<String>,
    /// How many characters are meant.
    #[serde(default)]
    pub length: u32,
}
