//! The text of a topology that was accepted, so that others can add findings to it.

use std::fmt;

use crate::{
    diagnostic::{Diagnostic, Finding, Lines, Span},
    positions::Positions,
};

/// Where each value of a topology stands in its text.
pub struct SourceMap {
    origin: String,
    pub(crate) text: String,
    pub(crate) positions: Positions,
    /// What the text weighs against [`crate::NODES_MAX`].
    pub(crate) nodes: usize,
    pub(crate) has_anchors: bool,
}

/// The text may hold secrets.
impl fmt::Debug for SourceMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SourceMap({}, {} bytes)", self.origin, self.text.len())
    }
}

impl SourceMap {
    pub(crate) fn new(
        origin: &str,
        text: &str,
        positions: Positions,
        nodes: usize,
        has_anchors: bool,
    ) -> Self {
        Self { origin: origin.to_owned(), text: text.to_owned(), positions, nodes, has_anchors }
    }

    /// Line and column, from 1, of the value at `path`, or of the nearest thing around it that the text has. A path is
    /// written as in [`Diagnostic::path`]: `virtualNetworks.hub.subnets.app.addressPrefixes[0]`.
    #[must_use]
    pub fn place(&self, path: &str) -> (u32, u32) {
        let span = self.positions.find(path);
        (span.line, span.column)
    }

    /// `finding` about the value at `path`.
    #[must_use]
    pub fn finding_at(&self, path: &str, finding: Finding) -> Diagnostic {
        self.place_finding(self.positions.find(path), path, finding)
    }

    /// `finding` about the thing at `path` as a whole: its name is marked.
    #[must_use]
    pub fn finding_at_name(&self, path: &str, finding: Finding) -> Diagnostic {
        self.place_finding(self.positions.find_name(path), path, finding)
    }

    /// The findings as diagnostics, in the order of the text, at most [`crate::DIAGNOSTICS_MAX`]. A path whose last
    /// part is a name marks the value, as [`Self::finding_at`].
    #[must_use]
    pub fn findings(&self, findings: impl IntoIterator<Item = (String, Finding)>) -> crate::Diagnostics {
        let lines = Lines::new(&self.text);
        let list = findings
            .into_iter()
            .map(|(path, finding)| lines.place(&self.origin, self.positions.find(&path), &path, finding))
            .collect();
        let mut found = crate::Diagnostics { list, left_out: 0 };
        found.sort_and_cap();
        found
    }

    fn place_finding(&self, span: Span, path: &str, finding: Finding) -> Diagnostic {
        Lines::new(&self.text).place(&self.origin, span, path, finding)
    }
}
