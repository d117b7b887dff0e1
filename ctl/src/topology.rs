//! Reading the topology file, and packing what it refers to for the daemon.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use vnet_api::{ApplyRequest, TopologyFile};
use vnet_config::{Diagnostic, Diagnostics, Loaded};

use crate::failure::Refused;

/// A file that was accepted here, with its text.
pub(crate) struct Source {
    pub(crate) loaded: Loaded,
    origin: String,
    text: String,
}

/// What standard input is called in messages.
const STDIN: &str = "<stdin>";
/// Looked for in the working directory where no file is named.
const DEFAULT_FILES: [&str; 3] = ["topology.yaml", "topology.yml", "topology.json"];

/// The file that was named, or the topology in the working directory.
pub(crate) fn find(named: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(path) = named {
        return Ok(path.to_owned());
    }
    DEFAULT_FILES
        .iter()
        .map(PathBuf::from)
        .find(|path| path.is_file())
        .ok_or_else(|| crate::failure::Failure::usage("name a topology file; there is no topology.yaml here"))
}

/// Reads and checks a file; `-` is standard input, relative to whose paths the working directory is.
///
/// Prints warnings to standard error.
pub(crate) fn read(path: &Path) -> anyhow::Result<Source> {
    let source = read_quietly(path)?;
    print(&source.loaded.warnings);
    Ok(source)
}

/// The same, with what is doubtful in the design among the warnings, as far as an apply has the time for it.
pub(crate) fn read_and_lint(path: &Path) -> anyhow::Result<Source> {
    let source = read_quietly(path)?;
    let loaded = &source.loaded;
    print(&source.with_warnings(vnet_analysis::lint::lint_quickly(&loaded.topology, &loaded.source)));
    Ok(source)
}

/// Writes findings to standard error.
pub(crate) fn print(findings: &[Diagnostic]) {
    for finding in findings {
        eprintln!("{finding}\n");
    }
}

/// The same without a word of the warnings.
pub(crate) fn read_quietly(path: &Path) -> anyhow::Result<Source> {
    if path == Path::new("-") {
        let mut bytes = Vec::new();
        let limit = vnet_config::TEXT_BYTES_MAX as u64 + 1;
        std::io::stdin().lock().take(limit).read_to_end(&mut bytes).context("cannot read standard input")?;
        let text = String::from_utf8(bytes).context("standard input is not UTF-8 text")?;
        load(text, STDIN.to_owned(), Some(Path::new(".")))
    } else {
        let text = vnet_config::read_text(path).map_err(Refused)?;
        load(text, path.display().to_string(), path.parent())
    }
}

fn load(text: String, origin: String, base: Option<&Path>) -> anyhow::Result<Source> {
    let loaded = vnet_config::load(&text, &origin, base).map_err(Refused)?;
    Ok(Source { loaded, origin, text })
}

impl Source {
    /// The lab's name.
    pub(crate) fn lab(&self) -> &str {
        &self.loaded.topology.name
    }

    /// What was found in the file, and what is doubtful in the design, in the order of the file.
    pub(crate) fn findings(&self) -> Vec<Diagnostic> {
        self.with_warnings(vnet_analysis::lint::lint_file(&self.loaded))
    }

    fn with_warnings(&self, lints: Vec<Diagnostic>) -> Vec<Diagnostic> {
        let mut all = Diagnostics { list: self.loaded.warnings.clone(), left_out: 0 };
        all.list.extend(lints);
        all.sort_and_cap();
        all.list
    }

    /// The file with everything that the daemon needs of this side: it opens no file for a client.
    pub(crate) fn request(&self) -> ApplyRequest {
        let attachments = self.loaded.topology.attachments();
        let files =
            attachments.files.into_iter().map(|(path, content)| (path, STANDARD.encode(content))).collect();
        let topology = TopologyFile {
            origin: self.origin.clone(),
            text: self.text.clone(),
            files,
            environment: attachments.env,
        };
        ApplyRequest { topology, as_azure: false }
    }
}
