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

/// The same without a word of the warnings.
pub(crate) fn read_quietly(path: &Path) -> anyhow::Result<Source> {
    Unread::open(path)?.read()
}

/// Writes findings to standard error.
pub(crate) fn print(findings: &[Diagnostic]) {
    for finding in findings {
        crate::output::tell(format_args!("{finding}\n"));
    }
}

/// The text of a file that has not been looked into.
pub(crate) struct Unread {
    origin: String,
    text: String,
    base: Option<PathBuf>,
}

/// Names of properties that may have their values outside the file.
const OUTSIDE: [&str; 3] = ["sharedKey", "files", "serviceTags"];

impl Unread {
    /// Reads the text of a file, or of standard input.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Unread> {
        if path != Path::new("-") {
            let text = vnet_config::read_text(path).map_err(Refused)?;
            let base = path.parent().map(Path::to_owned);
            return Ok(Unread { origin: path.display().to_string(), text, base });
        }
        let mut bytes = Vec::new();
        let limit = vnet_config::TEXT_BYTES_MAX as u64 + 1;
        std::io::stdin().lock().take(limit).read_to_end(&mut bytes).context("cannot read standard input")?;
        let text = String::from_utf8(bytes).context("standard input is not UTF-8 text")?;
        Ok(Unread { origin: STDIN.to_owned(), text, base: Some(PathBuf::from(".")) })
    }

    /// Checks it.
    pub(crate) fn read(self) -> anyhow::Result<Source> {
        let loaded = vnet_config::load(&self.text, &self.origin, self.base.as_deref()).map_err(Refused)?;
        Ok(Source { loaded, origin: self.origin, text: self.text })
    }

    /// Checks it, and prints warnings, with what is doubtful in the design as far as an apply has the time for it.
    pub(crate) fn read_and_lint(self) -> anyhow::Result<Source> {
        let source = self.read()?;
        let loaded = &source.loaded;
        let lints = vnet_analysis::lint::lint_quickly(&loaded.topology, &loaded.source);
        print(&source.with_warnings(lints));
        Ok(source)
    }

    /// What the text seems to call its lab, where a line says so plainly.
    pub(crate) fn likely_lab(&self) -> Option<&str> {
        let name = self.text.lines().find_map(|line| line.strip_prefix("name:"))?.trim();
        let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        (!name.is_empty() && name.bytes().all(is_plain)).then_some(name)
    }

    /// The file for a daemon that is to check it by itself; none where it may refer to something outside its text.
    pub(crate) fn unchecked(&self) -> Option<TopologyFile> {
        let is_whole = OUTSIDE.iter().all(|word| !self.text.contains(word));
        is_whole.then(|| TopologyFile {
            origin: self.origin.clone(),
            text: self.text.clone(),
            ..TopologyFile::default()
        })
    }
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
