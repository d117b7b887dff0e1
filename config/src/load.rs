//! Text to a checked topology: parse, structure, decode, resolve what lies outside the file, validate.

use std::{
    collections::BTreeMap,
    fmt, fs,
    io::Read,
    path::{Path, PathBuf},
};

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use crate::{
    diagnostic::{Diagnostic, Diagnostics, Finding, Reporter, Span},
    model::{RegionLatency, Secret, SecretSource, Topology},
    positions::Positions,
    public_ip,
    regions::region,
    reload::ChangedEntry,
    source::{self, TEXT_BYTES_MAX},
    source_map::SourceMap,
    structure, validate,
};

/// Largest file that a topology may put into a virtual machine, in bytes.
pub const ATTACHED_BYTES_MAX: usize = 1 << 20;
/// Largest published list of service tags that is read, in bytes; Microsoft's has about 4 MiB.
pub const SERVICE_TAGS_BYTES_MAX: usize = 16 << 20;

/// A topology that was accepted, and what is still to be said about it.
#[derive(Debug)]
pub struct Loaded {
    /// The topology, complete: short forms expanded, secrets and files read.
    pub topology: Topology,
    /// Findings that do not stop it.
    pub warnings: Vec<Diagnostic>,
    /// Where each value stands in the text, for findings of others.
    pub source: SourceMap,
    /// The one entry in which the topology differs from the accepted one that it was loaded after, where that is known.
    pub changed: Option<ChangedEntry>,
}

impl Loaded {
    /// `finding` about the value at `path`, with its place in the text and the line. Paths are written as in
    /// [`Diagnostic::path`]; for one that the text does not have, the nearest thing around it is marked.
    #[must_use]
    pub fn finding_at(&self, path: &str, finding: Finding) -> Diagnostic {
        self.source.finding_at(path, finding)
    }
}

/// Where the parts of a topology come from that lie outside its text.
pub trait Externals {
    /// The environment variable `name`.
    ///
    /// # Errors
    /// Why it cannot be had, for a person.
    fn env(&self, name: &str) -> Result<String, String>;

    /// The file at `path`, relative to the topology file.
    ///
    /// # Errors
    /// Why it cannot be had, for a person; also where it has more than `bytes_max` bytes.
    fn file(&self, path: &str, bytes_max: usize) -> Result<Vec<u8>, String>;
}

/// This machine: its environment and its files. The one place where this crate touches either.
#[derive(Clone, Debug)]
pub struct Disk {
    base: Option<PathBuf>,
}

impl Disk {
    /// Relative paths start at `base`; without one there are no files.
    #[must_use]
    pub fn new(base: Option<&Path>) -> Self {
        Self { base: base.map(Path::to_path_buf) }
    }
}

impl Externals for Disk {
    fn env(&self, name: &str) -> Result<String, String> {
        // A name with these would make the lookup panic on some systems.
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(format!("'{name}' cannot be the name of an environment variable"));
        }
        std::env::var(name).map_err(|_| format!("the environment variable '{name}' is not set"))
    }

    fn file(&self, path: &str, bytes_max: usize) -> Result<Vec<u8>, String> {
        let base =
            self.base.as_ref().ok_or_else(|| format!("there is no folder in which '{path}' could be"))?;
        read_bounded(&base.join(path), bytes_max)
            .map_err(|error| format!("the file '{path}' cannot be read: {error}"))
    }
}

/// Parts of a topology that lie outside its text, carried along with it.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attachments {
    /// Environment variables by name.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Files by path as the topology writes it.
    #[serde(default)]
    pub files: BTreeMap<String, Vec<u8>>,
}

impl fmt::Debug for Attachments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Attachments({} variables, {} files)", self.env.len(), self.files.len())
    }
}

impl Externals for Attachments {
    fn env(&self, name: &str) -> Result<String, String> {
        self.env
            .get(name)
            .cloned()
            .ok_or_else(|| format!("the environment variable '{name}' did not come with the file"))
    }

    fn file(&self, path: &str, bytes_max: usize) -> Result<Vec<u8>, String> {
        self.files
            .get(path)
            .filter(|content| content.len() <= bytes_max)
            .cloned()
            .ok_or_else(|| format!("the file '{path}' did not come with the topology"))
    }
}

impl Topology {
    /// What whoever loads the text elsewhere needs beside it. Holds secrets in clear.
    #[must_use]
    pub fn attachments(&self) -> Attachments {
        let mut out = Attachments::default();
        let connections = self.connections.values().filter_map(|connection| connection.shared_key.as_ref());
        let devices =
            self.on_premises_sites.values().filter_map(|site| site.vpn_device.as_ref()?.shared_key.as_ref());
        for secret in connections.chain(devices) {
            match secret.source() {
                SecretSource::Inline => {}
                SecretSource::Env(name) => drop(out.env.insert(name.clone(), secret.expose().to_owned())),
                SecretSource::File(path) => {
                    drop(out.files.insert(path.clone(), secret.expose().as_bytes().to_vec()))
                }
            }
        }
        for file in self.virtual_machines.values().flat_map(|machine| machine.files.values()) {
            out.files.insert(file.path().to_owned(), file.content().to_vec());
        }
        if let Some(file) = self.service_tags.file() {
            out.files.insert(file.path().to_owned(), self.service_tags.published_json());
        }
        out
    }
}

/// Loads a topology from text. `origin` names it in messages; relative paths in it start at `base_dir`.
///
/// # Errors
/// Everything that is wrong with the text, in its order. Never panics, whatever the text.
pub fn load(text: &str, origin: &str, base_dir: Option<&Path>) -> Result<Loaded, Diagnostics> {
    load_with(text, origin, &Disk::new(base_dir))
}

/// As [`load`], with what lies outside the text from `externals`.
///
/// # Errors
/// Everything that is wrong with the text, in its order.
pub fn load_with(text: &str, origin: &str, externals: &dyn Externals) -> Result<Loaded, Diagnostics> {
    load_as(text, origin, externals, Reading::default())
}

/// As [`load_with`], and takes what nothing runs yet: the properties of [`crate::PENDING`]. For those who make them run,
/// and for tests.
///
/// # Errors
/// Everything else that is wrong with the text, in its order.
pub fn load_ahead(text: &str, origin: &str, externals: &dyn Externals) -> Result<Loaded, Diagnostics> {
    load_as(text, origin, externals, Reading { ahead: true, ..Reading::default() })
}

/// As [`load_with`], for a change that is made request by request: a peering may stand whose remote network is gone. That it was
/// there is for the caller to know.
///
/// # Errors
/// Everything else that is wrong with the text, in its order.
pub fn load_in_place(text: &str, origin: &str, externals: &dyn Externals) -> Result<Loaded, Diagnostics> {
    load_as(text, origin, externals, Reading { orphans: true, ..Reading::default() })
}

/// What is taken that a file of its own may not say.
#[derive(Clone, Copy, Default)]
struct Reading {
    /// What nothing runs yet.
    ahead: bool,
    /// Peerings whose remote network is gone.
    orphans: bool,
}

fn load_as(
    text: &str,
    origin: &str,
    externals: &dyn Externals,
    reading: Reading,
) -> Result<Loaded, Diagnostics> {
    // The lines of an oversized text are not worth an index.
    let mut reporter = Reporter::new(origin, if text.len() > TEXT_BYTES_MAX { "" } else { text });
    let built = build(text, externals, reading, &mut reporter);
    let mut found = reporter.found;
    found.sort_and_cap();
    match built {
        Some(Built { topology, positions, nodes, has_anchors }) if !found.has_errors() => {
            let source = SourceMap::new(origin, text, positions, nodes, has_anchors);
            Ok(Loaded { topology, warnings: found.list, source, changed: None })
        }
        _ => Err(found),
    }
}

/// A text that has become a topology.
struct Built {
    topology: Topology,
    positions: Positions,
    nodes: usize,
    has_anchors: bool,
}

fn build(
    text: &str,
    externals: &dyn Externals,
    reading: Reading,
    reporter: &mut Reporter<'_>,
) -> Option<Built> {
    let source::Parsed { root, nodes, has_anchors } = match source::parse(text) {
        Ok(parsed) => parsed,
        Err(refusal) => {
            reporter.report(refusal.span, "", refusal.finding);
            return None;
        }
    };
    let (json, mut positions) = structure::check(&root, reading.ahead, reporter);
    let mut json = json?;
    public_ip::resolve(&mut json, &mut positions, reporter);
    let mut topology: Topology = match serde_json::from_value(json) {
        Ok(topology) => topology,
        Err(error) => {
            // Reached only where the model refuses what its own schema allows.
            if !reporter.found.has_errors() {
                reporter.report(
                    Span::default(),
                    "",
                    Finding::error("decode", format!("the file cannot be decoded: {error}")),
                );
            }
            return None;
        }
    };
    name_interfaces(&mut topology, &positions);
    name_regions(&mut topology);
    resolve(&mut topology, externals, &positions, reporter);
    service_tags(&mut topology, externals, &positions, reporter);
    validate::validate(&topology, &positions, reading.orphans, reporter);
    Some(Built { topology, positions, nodes, has_anchors })
}

/// Reads the published list of service tags, as far as the topology uses it.
fn service_tags(
    topology: &mut Topology,
    externals: &dyn Externals,
    positions: &Positions,
    reporter: &mut Reporter<'_>,
) {
    let Some(file) = topology.service_tags.file() else { return };
    let used = topology.used_tags();
    let name = file.path().to_owned();
    let read = externals.file(&name, SERVICE_TAGS_BYTES_MAX).and_then(|bytes| {
        let read = topology.service_tags.read(&bytes, |tag| used.contains(&tag.to_lowercase()));
        read.map_err(|error| format!("the file '{name}' cannot be used: {error}"))
    });
    if let Err(message) = read {
        let path = "serviceTags.file";
        reporter.report(positions.find(path), path, Finding::error("external", message));
    }
}

fn name_interfaces(topology: &mut Topology, positions: &Positions) {
    for (name, machine) in &mut topology.virtual_machines {
        for (index, nic) in machine.network_interfaces.iter_mut().enumerate() {
            if nic.name.is_empty() {
                let list = format!("virtualMachines.{name}.networkInterfaces");
                let index = positions.index_in_file(&list, index);
                nic.name = format!("eth{index}");
            }
        }
    }
}

/// Regions have one spelling after loading: `eastus`, where the file writes `East US`.
pub(crate) fn name_regions(topology: &mut Topology) {
    let name = |location: &mut String| {
        if let Some(region) = region(location).filter(|region| region.name != *location) {
            region.name.clone_into(location);
        }
    };
    name(&mut topology.location);
    macro_rules! located {
        ($($entries:expr),* $(,)?) => {
            $($entries.values_mut().filter_map(|entry| entry.location.as_mut()).for_each(name);)*
        };
    }
    located!(
        topology.virtual_networks,
        topology.network_security_groups,
        topology.application_security_groups,
        topology.route_tables,
        topology.public_ip_addresses,
        topology.nat_gateways,
        topology.firewall_policies,
        topology.ip_groups,
        topology.local_network_gateways,
        topology.vpn_clients,
        topology.express_route_circuits,
        topology.ddos_protection_plans,
        topology.on_premises_sites,
        topology.internet.hosts,
    );
    let subnets = topology.virtual_networks.values_mut().flat_map(|network| network.subnets.values_mut());
    let endpoints = subnets.flat_map(|subnet| &mut subnet.service_endpoints);
    endpoints.flat_map(|endpoint| &mut endpoint.locations).for_each(name);
    if let RegionLatency::Table(table) = &mut topology.regions.latency {
        let named = |text: String| region(&text).map_or(text, |region| region.name.to_owned());
        let row =
            |row: IndexMap<String, f64>| row.into_iter().map(|(to, value)| (named(to), value)).collect();
        *table = std::mem::take(table).into_iter().map(|(from, values)| (named(from), row(values))).collect();
    }
}

fn resolve(
    topology: &mut Topology,
    externals: &dyn Externals,
    positions: &Positions,
    reporter: &mut Reporter<'_>,
) {
    let mut secret = |secret: &mut Secret, path: String| {
        let value = match secret.source() {
            SecretSource::Inline => Ok(secret.expose().to_owned()),
            SecretSource::Env(name) => externals.env(name),
            SecretSource::File(file) => externals.file(file, ATTACHED_BYTES_MAX).and_then(|bytes| {
                let text = String::from_utf8(bytes).map_err(|_| format!("the file '{file}' is not text"))?;
                Ok(text.trim_end_matches(['\r', '\n']).to_owned())
            }),
        };
        match value {
            Ok(value) if value.is_empty() => {
                reporter.report(
                    positions.find(&path),
                    &path,
                    Finding::error("empty-secret", "the shared key is empty"),
                );
            }
            Ok(value) => secret.resolve(value),
            Err(message) => {
                reporter.report(positions.find(&path), &path, Finding::error("external", message))
            }
        }
    };
    for (name, connection) in &mut topology.connections {
        if let Some(key) = &mut connection.shared_key {
            secret(key, format!("connections.{name}.sharedKey"));
        }
    }
    for (name, site) in &mut topology.on_premises_sites {
        if let Some(key) = site.vpn_device.as_mut().and_then(|device| device.shared_key.as_mut()) {
            secret(key, format!("onPremisesSites.{name}.vpnDevice.sharedKey"));
        }
    }
    for (name, machine) in &mut topology.virtual_machines {
        for (inside, file) in &mut machine.files {
            match externals.file(file.path(), ATTACHED_BYTES_MAX) {
                Ok(content) => file.resolve(content),
                Err(message) => {
                    let path = format!("virtualMachines.{name}.files.{inside}");
                    reporter.report(positions.find(&path), &path, Finding::error("external", message));
                }
            }
        }
    }
}

fn read_bounded(path: &Path, bytes_max: usize) -> Result<Vec<u8>, String> {
    let file = fs::File::open(path).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    // One byte more than allowed tells a full file from one that is too large, without trusting its stated size.
    file.take(bytes_max as u64 + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() > bytes_max {
        return Err(format!("it has more than {} MiB", bytes_max >> 20));
    }
    Ok(bytes)
}

fn file_trouble(origin: &str, message: String, remedy: &str) -> Diagnostics {
    let mut reporter = Reporter::new(origin, "");
    reporter.report(Span::default(), "", Finding::error("file", message).help(remedy));
    reporter.found
}

/// Text of a topology file, refused where it is too large or not UTF-8.
///
/// # Errors
/// One finding that says what is wrong with the file.
pub fn read_text(path: &Path) -> Result<String, Diagnostics> {
    let origin = path.display().to_string();
    let bytes = read_bounded(path, TEXT_BYTES_MAX).map_err(|error| {
        file_trouble(
            &origin,
            format!("the topology file cannot be read: {error}"),
            "name a file that you may read, of 8 MiB at most",
        )
    })?;
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        file_trouble(
            &origin,
            format!("the file is not UTF-8 text: byte {at} is the first wrong one"),
            "save it as UTF-8",
        )
    })
}

/// Loads a topology file from disk; see [`load`].
///
/// # Errors
/// Everything that is wrong with the file.
pub fn load_file(path: &Path) -> Result<Loaded, Diagnostics> {
    let text = read_text(path)?;
    load(&text, &path.display().to_string(), path.parent())
}
