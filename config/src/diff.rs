//! What changes between two topologies, for `plan` and `apply`.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use crate::{model::Topology, reload::ChangedEntry, structure::raw_schema};

/// What happens to a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ChangeKind {
    /// It is made.
    Add,
    /// It is removed.
    Remove,
    /// One of its properties changes.
    Update,
}

/// One difference. A resource that comes or goes is one; a changed one gives one for each property.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    /// What happens.
    pub kind: ChangeKind,
    /// The section of the file: `virtualMachines`, `routeTables`, ...
    pub resource: String,
    /// The resource's name; empty for properties of the topology itself.
    pub name: String,
    /// The property inside the resource, such as `peerings.hub.useRemoteGateways`; empty where all of it comes or goes.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub property: String,
    /// What was; secrets are not shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old: Option<String>,
    /// What will be; secrets are not shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new: Option<String>,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self.kind {
            ChangeKind::Add => '+',
            ChangeKind::Remove => '-',
            ChangeKind::Update => '~',
        };
        write!(f, "{sign} {}", self.resource)?;
        for part in [&self.name, &self.property].into_iter().filter(|part| !part.is_empty()) {
            write!(f, ".{part}")?;
        }
        match (&self.old, &self.new) {
            (Some(old), Some(new)) => write!(f, ": {old} -> {new}"),
            (None, Some(new)) => write!(f, ": {new}"),
            (Some(old), None) => write!(f, ": {old}"),
            (None, None) => Ok(()),
        }
    }
}

/// Longest value that is shown.
const SHOWN_CHARS_MAX: usize = 120;
/// What stands for a value that is not shown.
const HIDDEN: &str = "(secret)";

/// The differences from `old` to `new`, in the order of the sections of a topology and of the new file.
#[must_use]
pub fn diff(old: &Topology, new: &Topology) -> Vec<Change> {
    let mut out = Vec::new();
    let (Json::Object(old_json), Json::Object(new_json)) = (to_json(old), to_json(new)) else { return out };
    let properties = raw_schema().get("properties").and_then(Json::as_object);
    for (section, schema) in properties.into_iter().flatten() {
        let (before, after) = (old_json.get(section), new_json.get(section));
        let is_section = schema.get("additionalProperties").is_some_and(Json::is_object);
        match (is_section, before, after) {
            (true, Some(Json::Object(before)), Some(Json::Object(after))) => {
                resources(&mut out, section, before, after)
            }
            _ => property(&mut out, section, "", "", before, after),
        }
    }
    hidden(&mut out, old, new);
    out
}

/// The differences of two topologies that differ in this entry alone: what [`diff`] gives, in the time that the entry takes.
#[must_use]
pub fn diff_entry(old: &Topology, new: &Topology, entry: &ChangedEntry) -> Vec<Change> {
    let mut out = Vec::new();
    let section = entry.section.name();
    let (before, after) = (entry.json(old), entry.json(new));
    property(&mut out, section, &entry.name, "", before.as_ref(), after.as_ref());
    out
}

fn to_json(topology: &Topology) -> Json {
    // Serialising a model of plain types has nothing that could fail; an empty object would show as no change at all.
    serde_json::to_value(topology).unwrap_or_default()
}

fn resources(out: &mut Vec<Change>, section: &str, before: &Map<String, Json>, after: &Map<String, Json>) {
    let whole = |kind, name: &str| Change {
        kind,
        resource: section.to_owned(),
        name: name.to_owned(),
        property: String::new(),
        old: None,
        new: None,
    };
    out.extend(
        before.keys().filter(|name| !after.contains_key(*name)).map(|name| whole(ChangeKind::Remove, name)),
    );
    for (name, value) in after {
        match before.get(name) {
            None => out.push(whole(ChangeKind::Add, name)),
            Some(old) => property(out, section, name, "", Some(old), Some(value)),
        }
    }
}

/// The key under which an entry of a list is found again: its name, where it has one.
fn entry_name(value: &Json) -> Option<&str> {
    value.get("name").and_then(Json::as_str)
}

fn named(list: &[Json]) -> Option<Map<String, Json>> {
    let named: Option<Map<String, Json>> =
        list.iter().map(|value| Some((entry_name(value)?.to_owned(), value.clone()))).collect();
    named.filter(|map| map.len() == list.len() && !list.is_empty())
}

fn property(
    out: &mut Vec<Change>,
    section: &str,
    name: &str,
    path: &str,
    old: Option<&Json>,
    new: Option<&Json>,
) {
    if old == new {
        return;
    }
    let inner = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    let mut entries = |before: &Map<String, Json>, after: &Map<String, Json>| {
        for key in before.keys().filter(|key| !after.contains_key(*key)) {
            property(out, section, name, &inner(key), before.get(key), None);
        }
        for (key, value) in after {
            property(out, section, name, &inner(key), before.get(key), Some(value));
        }
    };
    match (old, new) {
        (Some(Json::Object(before)), Some(Json::Object(after))) => return entries(before, after),
        (Some(Json::Array(before)), Some(Json::Array(after))) => {
            if let (Some(before), Some(after)) = (named(before), named(after)) {
                let count = |map: &Map<String, Json>| map.keys().cloned().collect::<Vec<_>>();
                // A new order of the same entries is a change of the list itself.
                if before != after || count(&before) == count(&after) {
                    return entries(&before, &after);
                }
            }
        }
        _ => {}
    }
    let kind = match (old, new) {
        (None, _) => ChangeKind::Add,
        (_, None) => ChangeKind::Remove,
        _ => ChangeKind::Update,
    };
    out.push(Change {
        // The resource itself stays: a property that comes or goes updates it.
        kind: if name.is_empty() && path.is_empty() { kind } else { ChangeKind::Update },
        resource: section.to_owned(),
        name: name.to_owned(),
        property: path.to_owned(),
        old: old.map(shown),
        new: new.map(shown),
    });
}

fn shown(value: &Json) -> String {
    let text = match value {
        Json::String(text) => text.clone(),
        other => other.to_string(),
    };
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// Changes that JSON does not show: the values of secrets and the content of files.
fn hidden(out: &mut Vec<Change>, old: &Topology, new: &Topology) {
    let mut push = |resource: &str, name: &str, property: String, shown: &str| {
        let has = out
            .iter()
            .any(|change| change.resource == resource && change.name == name && change.property == property);
        if !has {
            let shown = Some(shown.to_owned());
            out.push(Change {
                kind: ChangeKind::Update,
                resource: resource.to_owned(),
                name: name.to_owned(),
                property,
                old: shown.clone(),
                new: shown,
            });
        }
    };
    for (name, connection) in &new.connections {
        if let Some(before) = old.connections.get(name)
            && before.shared_key != connection.shared_key
        {
            push("connections", name, "sharedKey".to_owned(), HIDDEN);
        }
    }
    for (name, site) in &new.on_premises_sites {
        if let (Some(before), Some(after)) = (
            old.on_premises_sites.get(name).and_then(|site| site.vpn_device.as_ref()),
            site.vpn_device.as_ref(),
        ) && before.shared_key != after.shared_key
        {
            push("onPremisesSites", name, "vpnDevice.sharedKey".to_owned(), HIDDEN);
        }
    }
    let (old_tags, new_tags) = (&old.service_tags, &new.service_tags);
    if old_tags.file() == new_tags.file() && !old_tags.has_same_published(new_tags) {
        push("serviceTags", "", "file".to_owned(), "(content)");
    }
    for (name, machine) in &new.virtual_machines {
        let Some(before) = old.virtual_machines.get(name) else { continue };
        for (inside, file) in &machine.files {
            if before.files.get(inside).is_some_and(|other| other.content() != file.content()) {
                push("virtualMachines", name, format!("files.{inside}"), "(content)");
            }
        }
    }
}
