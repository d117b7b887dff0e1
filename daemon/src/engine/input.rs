//! A topology file as a client sends it: its text, and the files and variables that it refers to.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use vnet_api::{ApplyRequest, Diagnostic, Severity, TopologyFile};
use vnet_config::model::Topology;
use vnet_config::{Attachments, ChangedEntry, Diagnostics, SourceMap};
use vnet_fabric::control::{Event, State};

use crate::api::topology::diagnostic;
use crate::host::backing::MachineFile;

/// A file that was accepted.
#[derive(Clone, Debug)]
pub(super) struct Input {
    /// As it was sent.
    pub file: TopologyFile,
    /// What it says.
    pub topology: Arc<Topology>,
    /// What is worth saying about the file itself.
    warnings: Vec<vnet_config::Diagnostic>,
    /// Only its own changes are made, as Azure takes them.
    pub as_azure: bool,
    /// Where each value stands in the text.
    pub source: Arc<SourceMap>,
    /// The topology that it differs from in one entry alone, and that entry.
    pub changed: Option<(Arc<Topology>, ChangedEntry)>,
}

/// A file that was accepted earlier.
#[derive(Clone, Copy, Debug)]
pub(super) struct Former<'a> {
    /// What it says.
    pub topology: &'a Arc<Topology>,
    /// Where each value stands in its text.
    pub source: &'a SourceMap,
}

impl Input {
    /// Reads and checks a file as a client sent it.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub(super) fn load(request: &ApplyRequest) -> Result<Input, Vec<Diagnostic>> {
        Input::load_after(request, None)
    }

    /// The same in less time, where the file differs little from `former`.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub(super) fn load_after(
        request: &ApplyRequest,
        former: Option<Former<'_>>,
    ) -> Result<Input, Vec<Diagnostic>> {
        let file = &request.topology;
        let files = file.files.iter().map(|(path, text)| match STANDARD.decode(text) {
            Ok(content) => Ok((path.clone(), content)),
            Err(error) => Err(unreadable(file, path, &error.to_string())),
        });
        let attachments =
            Attachments { env: file.environment.clone(), files: files.collect::<Result<_, _>>()? };
        let loaded = match former {
            _ if request.as_azure => vnet_config::load_in_place(&file.text, &file.origin, &attachments),
            Some(Former { topology, source }) => {
                vnet_config::load_after(topology, source, &file.text, &file.origin, &attachments)
            }
            None => vnet_config::load_with(&file.text, &file.origin, &attachments),
        };
        match loaded {
            Ok(loaded) => Ok(Input {
                file: file.clone(),
                topology: Arc::new(loaded.topology),
                warnings: loaded.warnings,
                as_azure: request.as_azure,
                source: Arc::new(loaded.source),
                changed: former
                    .zip(loaded.changed)
                    .map(|(former, entry)| (Arc::clone(former.topology), entry)),
            }),
            Err(refused) => Err(wire(refused.list)),
        }
    }

    /// What is worth saying about the file and the design in it.
    pub(super) fn findings(&self) -> Vec<Diagnostic> {
        self.with_warnings(vnet_analysis::lint::place(&self.topology, &self.source))
    }

    /// The same as far as an apply has the time for it.
    pub(super) fn findings_quickly(&self) -> Vec<Diagnostic> {
        self.with_warnings(vnet_analysis::lint::lint_quickly(&self.topology, &self.source))
    }

    fn with_warnings(&self, lints: Vec<vnet_config::Diagnostic>) -> Vec<Diagnostic> {
        let mut found = Diagnostics { list: lints, left_out: 0 };
        found.list.extend(self.warnings.iter().cloned());
        found.sort_and_cap();
        wire(found.list)
    }

    /// What changes the state to this file.
    pub(super) fn event(&self) -> Event {
        let topology = Arc::clone(&self.topology);
        match &self.changed {
            _ if self.as_azure => Event::ApplyAsAzure(topology),
            Some((former, entry)) => {
                Event::ApplyEntry { topology, former: Arc::clone(former), entry: entry.clone() }
            }
            None => Event::Apply(topology),
        }
    }

    /// What Azure would refuse of the change from `state`, if it is asked.
    pub(super) fn refusals(&self, state: &State) -> Vec<Diagnostic> {
        if !self.as_azure {
            return Vec::new();
        }
        self.source.findings(state.refusals(&self.topology)).list.into_iter().map(diagnostic).collect()
    }
}

fn wire(list: Vec<vnet_config::Diagnostic>) -> Vec<Diagnostic> {
    list.into_iter().map(diagnostic).collect()
}

/// Files of a machine, as they are seen inside.
pub(super) fn machine_files(topology: &Topology, machine: &str) -> Vec<MachineFile> {
    let Some(machine) = topology.virtual_machines.get(machine) else { return Vec::new() };
    machine
        .files
        .iter()
        .map(|(path, source)| MachineFile {
            path: path.into(),
            contents: source.content().to_vec(),
            // A script can be run by its name.
            mode: if source.content().starts_with(b"#!") { 0o755 } else { 0o644 },
        })
        .collect()
}

fn unreadable(file: &TopologyFile, path: &str, why: &str) -> Vec<Diagnostic> {
    vec![Diagnostic {
        severity: Severity::Error,
        code: "attachment".to_owned(),
        path: String::new(),
        file: file.origin.clone(),
        line: 0,
        column: 0,
        message: format!("the content of '{path}' did not arrive as base64: {why}"),
        remedy: None,
        source_line: None,
        length: 0,
    }]
}
