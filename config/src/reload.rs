//! A text that differs from an accepted one inside one entry of one section, such as a route table, is read in the time
//! that the entry takes. What comes out is what [`load_with`] would give: where that is not certain, it is what loads the
//! text.

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value as Json;

use crate::{
    diagnostic::{Diagnostics, Reporter},
    load::{Externals, Loaded, load_with, name_regions},
    model::Topology,
    positions::{Patch, Positions},
    source::{self, Key, NODES_MAX, Node, Parsed, TEXT_BYTES_MAX, Value},
    source_map::SourceMap,
    structure, validate,
};

/// An entry of a section of the topology.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangedEntry {
    /// The section: `routeTables`.
    pub section: Section,
    /// The entry's name.
    pub name: String,
}

impl ChangedEntry {
    /// The entry as the topology has it.
    pub(crate) fn json(&self, topology: &Topology) -> Option<Json> {
        let name = self.name.as_str();
        match self.section {
            Section::RouteTables => json(topology.route_tables.get(name)),
            Section::NetworkSecurityGroups => json(topology.network_security_groups.get(name)),
            Section::FirewallPolicies => json(topology.firewall_policies.get(name)),
            Section::VirtualNetworks => json(topology.virtual_networks.get(name)),
        }
    }
}

fn json<T: Serialize>(entry: Option<&T>) -> Option<Json> {
    serde_json::to_value(entry?).ok()
}

/// Sections whose entries are read apart. None of them refers to anything outside the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// `routeTables`
    RouteTables,
    /// `networkSecurityGroups`
    NetworkSecurityGroups,
    /// `firewallPolicies`
    FirewallPolicies,
    /// `virtualNetworks`
    VirtualNetworks,
}

impl Section {
    const ALL: [Section; 4] = [
        Section::RouteTables,
        Section::NetworkSecurityGroups,
        Section::FirewallPolicies,
        Section::VirtualNetworks,
    ];

    /// Its name in the file.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Section::RouteTables => "routeTables",
            Section::NetworkSecurityGroups => "networkSecurityGroups",
            Section::FirewallPolicies => "firewallPolicies",
            Section::VirtualNetworks => "virtualNetworks",
        }
    }

    /// Puts `json` in place of the entry; false where it does not fit or there is no such entry.
    fn replace(self, topology: &mut Topology, name: &str, json: Json) -> bool {
        fn put<T: DeserializeOwned>(place: Option<&mut T>, json: Json) -> bool {
            let Some((place, new)) = place.zip(serde_json::from_value(json).ok()) else { return false };
            *place = new;
            true
        }
        match self {
            Section::RouteTables => put(topology.route_tables.get_mut(name), json),
            Section::NetworkSecurityGroups => put(topology.network_security_groups.get_mut(name), json),
            Section::FirewallPolicies => put(topology.firewall_policies.get_mut(name), json),
            Section::VirtualNetworks => put(topology.virtual_networks.get_mut(name), json),
        }
    }
}

/// As [`load_with`], in less time where the text differs little from that of an accepted topology: `former`, whose text and
/// positions are in `source`.
///
/// # Errors
/// Everything that is wrong with the text, in its order.
pub fn load_after(
    former: &Topology,
    source: &SourceMap,
    text: &str,
    origin: &str,
    externals: &dyn Externals,
) -> Result<Loaded, Diagnostics> {
    match reload(former, source, text, origin) {
        Some(loaded) => Ok(loaded),
        None => load_with(text, origin, externals),
    }
}

fn reload(former: &Topology, source: &SourceMap, text: &str, origin: &str) -> Option<Loaded> {
    if text.len() > TEXT_BYTES_MAX || source.has_anchors || !stands_alone(former) {
        return None;
    }
    let difference = Difference::find(&source.text, text)?;
    let (section, name) = (difference.section, difference.name);
    let path = format!("{}.{name}", section.name());
    // What looks like the section and the entry must be that, and not a part of a longer text.
    let first_line = line_number(text, difference.entry);
    let is_key = |path: &str, line: u32, column: u32| {
        source.positions.name_at(path).is_some_and(|span| (span.line, span.column) == (line, column))
    };
    if !is_key(section.name(), line_number(text, difference.header), 1) || !is_key(&path, first_line, 3) {
        return None;
    }
    let old = entry(section, name, &source.text[difference.entry..difference.old_end])?;
    let new = entry(section, name, &text[difference.entry..difference.new_end])?;
    let nodes = (source.nodes + new.nodes).checked_sub(old.nodes).filter(|nodes| *nodes <= NODES_MAX)?;
    // The entry was parsed on line 2, behind its section's.
    let lines = first_line.checked_sub(2)?;
    let (key, node) = (moved(new.key, lines), new.node.moved(lines));

    let mut reporter = Reporter::new(origin, text);
    let (json, positions) = structure::check_entry(section.name(), &key, &node, &mut reporter)?;
    let old_lines = lines_in(&source.text[difference.entry..difference.old_end]);
    let new_lines = lines_in(&text[difference.entry..difference.new_end]);
    let patch = Patch {
        path,
        positions,
        last_line: first_line + old_lines - 1,
        moved_lines: i64::from(new_lines) - i64::from(old_lines),
    };
    let positions: Positions = source.positions.patched(patch)?;
    let mut topology = former.clone();
    if !reporter.found.list.is_empty() || !section.replace(&mut topology, name, json) {
        return None;
    }
    name_regions(&mut topology);
    validate::validate(&topology, &positions, false, &mut reporter);
    let mut found = reporter.found;
    if found.has_errors() {
        return None;
    }
    found.sort_and_cap();
    let source = SourceMap::new(origin, text, positions, nodes, false);
    let changed = ChangedEntry { section, name: name.to_owned() };
    Some(Loaded { topology, warnings: found.list, source, changed: Some(changed) })
}

/// Nothing of the topology lies outside its text.
fn stands_alone(topology: &Topology) -> bool {
    let attachments = topology.attachments();
    attachments.env.is_empty() && attachments.files.is_empty() && topology.service_tags.file().is_none()
}

/// Where two texts differ: all of it lies inside one entry.
struct Difference<'t> {
    section: Section,
    name: &'t str,
    /// Where the section's line begins, in both texts.
    header: usize,
    /// Where the entry's first line begins, in both texts.
    entry: usize,
    old_end: usize,
    new_end: usize,
}

impl<'t> Difference<'t> {
    fn find(old: &str, new: &'t str) -> Option<Difference<'t>> {
        // Other ends of lines, and what only looks like indentation, are not for this reader.
        if [old, new].iter().any(|text| text.contains(['\r', '\t'])) {
            return None;
        }
        let common = common_bytes(old, new);
        let mut line = new[..common].rfind('\n').map_or(0, |end| end + 1);
        let (name, entry) = loop {
            let name = entry_name(&new[line..]).filter(|name| entry_name(&old[line..]) == Some(name));
            if let Some(name) = name {
                break (name, line);
            }
            line = line_before(new, line)?;
        };
        let mut header = entry;
        let section = loop {
            header = line_before(new, header)?;
            let text = line_at(&new[header..]);
            if !text.starts_with([' ', '#']) && !text.is_empty() {
                let name = text.strip_suffix(':')?;
                break Section::ALL.into_iter().find(|section| section.name() == name)?;
            }
        };
        let (old_end, new_end) = (entry + entry_bytes(&old[entry..]), entry + entry_bytes(&new[entry..]));
        let is_all = old[old_end..] == new[new_end..] && begins_anew(&new[new_end..]);
        is_all.then_some(Difference { section, name, header, entry, old_end, new_end })
    }
}

/// How many bytes two texts have in common from their beginning, in whole characters.
fn common_bytes(old: &str, new: &str) -> usize {
    const PIECE: usize = 4096;
    let pieces = old.as_bytes().chunks(PIECE).zip(new.as_bytes().chunks(PIECE));
    let equal = pieces.take_while(|(a, b)| a == b && a.len() == PIECE).count() * PIECE;
    let rest = old.as_bytes()[equal..].iter().zip(&new.as_bytes()[equal..]);
    let mut common = equal + rest.take_while(|(a, b)| a == b).count();
    while !(old.is_char_boundary(common) && new.is_char_boundary(common)) {
        common -= 1;
    }
    common
}

/// Whether what follows an entry cannot be a part of it: a list may stand below its name without being deeper.
fn begins_anew(text: &str) -> bool {
    let next = text.split('\n').map(str::trim_start).find(|line| !line.is_empty() && !line.starts_with('#'));
    next.is_none_or(|line| line.starts_with(|first: char| first.is_ascii_alphanumeric()))
}

/// The text up to the end of its first line.
fn line_at(text: &str) -> &str {
    text.split('\n').next().unwrap_or_default()
}

/// The beginning of the line before the one that begins at `line`.
fn line_before(text: &str, line: usize) -> Option<usize> {
    let end = line.checked_sub(1)?;
    Some(text[..end].rfind('\n').map_or(0, |end| end + 1))
}

/// The name of the entry that begins here: two blanks, a plain word and a colon.
fn entry_name(text: &str) -> Option<&str> {
    let (name, rest) = line_at(text).strip_prefix("  ")?.split_once(':')?;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let is_name = name.bytes().all(is_plain) && name.starts_with(|first: char| first.is_ascii_alphabetic());
    (is_name && (rest.is_empty() || rest.starts_with(' '))).then_some(name)
}

/// How long the entry is that begins here: up to the next line that is not deeper than its name.
fn entry_bytes(text: &str) -> usize {
    let mut end = line_at(text).len() + 1;
    while end < text.len() {
        let line = line_at(&text[end..]);
        if !line.trim_start_matches(' ').is_empty() && !line.starts_with("   ") {
            return end;
        }
        end += line.len() + 1;
    }
    text.len()
}

/// The number of the line that begins at `at`.
fn line_number(text: &str, at: usize) -> u32 {
    lines_in(&text[..at]) + 1
}

fn lines_in(text: &str) -> u32 {
    // A text has 8 MiB at most.
    text.bytes().filter(|byte| *byte == b'\n').count() as u32
}

fn moved(key: Key, lines: u32) -> Key {
    let mut span = key.span;
    span.line += lines;
    Key { span, ..key }
}

/// One entry, parsed for itself.
struct Entry {
    key: Key,
    node: Node,
    /// What it weighs, with the section around it.
    nodes: usize,
}

/// Parses an entry's lines below the name of its section; none where they are not one entry of this name.
fn entry(section: Section, name: &str, text: &str) -> Option<Entry> {
    let Parsed { root, nodes, has_anchors } = source::parse(&format!("{}:\n{text}", section.name())).ok()?;
    let (_, section) = only_entry(root)?;
    let (key, node) = only_entry(section)?;
    (!has_anchors && key.text == name).then_some(Entry { key, node, nodes })
}

fn only_entry(node: Node) -> Option<(Key, Node)> {
    match node.value {
        Value::Map(entries) if entries.len() == 1 => entries.into_iter().next(),
        _ => None,
    }
}
