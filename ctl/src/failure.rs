//! Errors as the user reads them, with their exit codes.

use std::fmt;
use std::io;

use vnet_api::{Diagnostic, ErrorBody, Severity};

/// Exit code of a wrong command line (sysexits.h, EX_USAGE).
pub(crate) const USAGE: u8 = 64;
/// Exit code of a test that could not run.
pub(crate) const COULD_NOT_RUN: u8 = 2;
/// Exit code of `exec` for vnetctl's own failure.
pub(crate) const EXEC_FAILED: u8 = 125;

/// An error whose exit code is not 1.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: u8,
    source: anyhow::Error,
}

impl Failure {
    /// A command line that clap cannot see to be wrong.
    pub(crate) fn usage(message: impl fmt::Display) -> anyhow::Error {
        Failure::with_code(USAGE, anyhow::anyhow!("{message}"))
    }

    /// The same error with another exit code; one that has a code of its own keeps it.
    pub(crate) fn with_code(code: u8, source: anyhow::Error) -> anyhow::Error {
        if source.is::<Failure>() { source } else { anyhow::Error::new(Failure { code, source }) }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.source, f)
    }
}

impl std::error::Error for Failure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.source()
    }
}

/// Whether the reader of standard output has gone, as `head` does.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    })
}

/// A diagnostic in the form that the file's own checker prints.
pub(crate) fn render(diagnostic: &Diagnostic) -> String {
    vnet_config::Diagnostic {
        severity: match diagnostic.severity {
            Severity::Error => vnet_config::Severity::Error,
            Severity::Warning => vnet_config::Severity::Warning,
        },
        code: None,
        rule: diagnostic.code.clone().into(),
        azure_rule: None,
        path: diagnostic.path.clone(),
        origin: diagnostic.file.clone(),
        line: diagnostic.line,
        column: diagnostic.column,
        message: diagnostic.message.clone(),
        remedy: diagnostic.remedy.clone(),
        source_line: diagnostic.source_line.clone(),
        length: diagnostic.length,
    }
    .to_string()
}

/// Writes the error to standard error.
pub(crate) fn print(error: &anyhow::Error) {
    let inner = error.downcast_ref::<Failure>().map_or(error, |failure| &failure.source);
    if let Some(diagnostics) = inner.downcast_ref::<Refused>() {
        crate::output::tell(format_args!("{}", diagnostics.0));
        return;
    }
    if let Some(body) = inner.downcast_ref::<ErrorBody>().filter(|body| !body.diagnostics.is_empty()) {
        for diagnostic in &body.diagnostics {
            crate::output::tell(format_args!("{}\n", render(diagnostic)));
        }
    }
    crate::output::tell(format_args!("vnetctl: {inner:#}"));
}

/// A topology file that was refused here, before any daemon saw it.
#[derive(Debug)]
pub(crate) struct Refused(pub(crate) vnet_config::Diagnostics);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl std::error::Error for Refused {}
