//! `validate`: check a file; no daemon is needed.

use std::path::PathBuf;

use serde::Serialize;
use vnet_config::{Diagnostic, Severity};

use crate::context::Context;
use crate::failure::Refused;
use crate::output::{Format, count};
use crate::topology;

#[derive(Debug, clap::Args)]
pub(crate) struct Validate {
    /// The topology file; - for standard input; topology.yaml in the working directory if none is named.
    file: Option<PathBuf>,
    /// Take every warning for an error.
    #[arg(long)]
    strict: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    valid: bool,
    diagnostics: &'a [Diagnostic],
}

impl Validate {
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<u8> {
        let path = topology::find(self.file.as_deref())?;
        let source = match topology::read_quietly(&path) {
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
        let mut found = source.findings();
        if self.strict {
            found.iter_mut().for_each(|finding| finding.severity = Severity::Error);
        }
        topology::print(&found);
        let valid = !self.strict || found.is_empty();
        context.print(&Report { valid, diagnostics: &found }, |report| {
            let path = path.display();
            match (report.diagnostics.len(), valid) {
                (0, _) => format!("{path} is valid."),
                (found, true) => format!("{path} is valid, with {}.", count(found, "warning")),
                (found, false) => format!("{path} is not valid: {}.", count(found, "error")),
            }
        })?;
        Ok(u8::from(!valid))
    }
}
