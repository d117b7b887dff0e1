//! `validate`: check a file; no daemon is needed.

use std::path::PathBuf;

use serde::Serialize;
use vnet_config::Diagnostic;

use crate::context::Context;
use crate::failure::Refused;
use crate::output::{Format, count};
use crate::topology;

#[derive(Debug, clap::Args)]
pub(crate) struct Validate {
    /// The topology file; - for standard input; topology.yaml in the working directory if none is named.
    file: Option<PathBuf>,
}

#[derive(Serialize)]
struct Report<'a> {
    valid: bool,
    diagnostics: &'a [Diagnostic],
}

impl Validate {
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<u8> {
        let path = topology::find(self.file.as_deref())?;
        let source = match topology::read(&path) {
            Ok(source) => source,
            Err(error) => {
                if let (Some(Refused(found)), Format::Json | Format::Yaml) =
                    (error.downcast_ref(), context.format)
                {
                    context.print(&Report { valid: false, diagnostics: &found.list }, |_| String::new())?;
                    return Ok(1);
                }
                return Err(error);
            }
        };
        let warnings = &source.loaded.warnings;
        context.print(&Report { valid: true, diagnostics: warnings }, |report| {
            match report.diagnostics.len() {
                0 => format!("{} is valid.", path.display()),
                found => format!("{} is valid, with {}.", path.display(), count(found, "warning")),
            }
        })?;
        Ok(0)
    }
}
