//! The reference of the topology file, written from the schema of the model.

use std::fmt::Write as _;

use serde_json::{Map, Value as Json};

use crate::{pending, structure::raw_schema};

const INTRODUCTION: &str = "\
# The topology file

<!-- Generated from the model in config/src/model by a test of vnet-config; UPDATE_GOLDEN=1 cargo test -p vnet-config writes it. -->

A topology is one YAML 1.2 document; the same structure as JSON is accepted. Names and properties are those of Azure's
REST API (`Microsoft.Network`), in its spelling. `vnetctl schema` prints the JSON Schema, `vnetctl validate FILE` checks a
file and reports every error with line, column and remedy.

Short forms hold everywhere:

- A single value may stand where a list is expected.
- A number may stand where text is expected, as in `destinationPortRange: 443`.
- The values of an enum are matched without regard to case.
- Where a section says \"short form\", the value of the named property may stand in place of the object.
- Where a property says \"also as\", REST's object form is accepted beside the plain value.
- A property with two names takes either, not both.

Limits: 8 MiB of text, 400,000 values (those that YAML aliases repeat included), 48 levels.

";

/// The reference of the topology file in Markdown: `docs/TOPOLOGY.md`.
#[must_use]
pub fn topology_markdown() -> String {
    let root = raw_schema();
    let mut out = INTRODUCTION.to_owned();
    section(&mut out, "Topology", root);
    let definitions = root.get("$defs").and_then(Json::as_object);
    for (name, schema) in definitions.into_iter().flatten() {
        section(&mut out, name, schema);
    }
    out
}

fn section(out: &mut String, name: &str, schema: &Json) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "## {name}\n");
    if let Some(description) = description(schema) {
        let _ = writeln!(out, "{description}\n");
    }
    if let Some(property) = schema.get("x-short").and_then(Json::as_str) {
        let _ = writeln!(out, "Short form: the value of `{property}`.\n");
    }
    if let Some(property) = schema.get("x-inline").and_then(Json::as_str) {
        let item = schema["properties"][property]["items"]["$ref"].as_str().map_or("item", last_name);
        let _ = writeln!(
            out,
            "Properties of one [{item}](#{}) may stand here in place of `{property}`.\n",
            anchor(item)
        );
    }
    if let Some(properties) = schema.get("properties").and_then(Json::as_object) {
        table(out, schema, properties);
        if let Some(inner) = schema.get("additionalProperties").filter(|inner| inner.is_object()) {
            let _ = writeln!(out, "Any other name: {}.\n", kind(inner));
        }
    } else if let Some(alternatives) =
        schema.get("oneOf").or_else(|| schema.get("anyOf")).and_then(Json::as_array)
    {
        alternatives_of(out, schema, alternatives);
    }
}

fn alternatives_of(out: &mut String, schema: &Json, alternatives: &[Json]) {
    let others = schema.get("x-values").and_then(Json::as_object);
    for alternative in alternatives {
        let text = description(alternative).unwrap_or_default();
        let words = alternative.get("enum").and_then(Json::as_array).into_iter().flatten();
        for word in words.chain(alternative.get("const")).filter_map(Json::as_str) {
            let other = others.into_iter().flatten().find(|(_, value)| value.as_str() == Some(word));
            let other = other.map_or(String::new(), |(other, _)| format!(" or `{other}`"));
            let separator = if text.is_empty() { "" } else { ": " };
            let _ = writeln!(out, "- `{word}`{other}{separator}{text}");
        }
        let properties = alternative.get("properties").and_then(Json::as_object);
        let tag = properties.and_then(|properties| {
            properties.iter().find_map(|(name, inner)| Some((name, inner.get("const")?.as_str()?)))
        });
        match (properties, tag) {
            (Some(properties), Some((tag, word))) => {
                let _ = writeln!(out, "With `{tag}: {word}`: {text}\n");
                table(out, alternative, properties);
            }
            (Some(properties), None) => {
                for (name, inner) in properties {
                    let _ =
                        writeln!(out, "- `{name}`: {}", description(inner).unwrap_or_else(|| text.clone()));
                }
            }
            (None, _) if alternative.get("const").is_none() && alternative.get("enum").is_none() => {
                let _ = writeln!(out, "- {}: {text}", kind(alternative));
            }
            _ => {}
        }
    }
    out.push('\n');
}

fn table(out: &mut String, schema: &Json, properties: &Map<String, Json>) {
    let required: Vec<&str> = schema
        .get("required")
        .and_then(Json::as_array)
        .into_iter()
        .flatten()
        .filter_map(Json::as_str)
        .collect();
    out.push_str("| property | type | default | meaning |\n| --- | --- | --- | --- |\n");
    for (name, property) in properties {
        let alias = property
            .get("x-alias")
            .and_then(Json::as_str)
            .map_or(String::new(), |alias| format!(", `{alias}`"));
        let default = match property.get("default") {
            _ if required.contains(&name.as_str()) => "required".to_owned(),
            None | Some(Json::Null) => String::new(),
            Some(Json::Object(_)) => String::new(),
            Some(Json::Array(items)) if items.is_empty() => String::new(),
            Some(Json::String(text)) => format!("`{text}`"),
            Some(other) => format!("`{other}`"),
        };
        let mut meaning = description(property).unwrap_or_default();
        if let Some(names) = property.get("x-object").and_then(Json::as_array) {
            let names: Vec<&str> = names.iter().filter_map(Json::as_str).collect();
            let _ = write!(meaning, " Also as `{{{}: ...}}`.", names.join(", "));
        }
        if let Some(remark) = property.as_object().and_then(pending::remark) {
            let _ = write!(meaning, " {remark}");
        }
        let _ = writeln!(
            out,
            "| `{name}`{alias} | {} | {default} | {} |",
            kind(property),
            meaning.replace('|', "\\|")
        );
    }
    out.push('\n');
}

fn description(schema: &Json) -> Option<String> {
    // Links between items of the source mean nothing outside it.
    schema
        .get("description")
        .and_then(Json::as_str)
        .map(|text| text.replace('\n', " ").replace("[`crate::", "[`"))
}

fn kind(schema: &Json) -> String {
    if let Some(reference) = schema.get("$ref").and_then(Json::as_str) {
        let name = last_name(reference);
        return format!("[{name}](#{})", anchor(name));
    }
    if let Some([first, _]) = schema.get("anyOf").and_then(Json::as_array).map(Vec::as_slice) {
        return kind(first);
    }
    let name = match schema.get("type") {
        Some(Json::String(name)) => name.as_str(),
        Some(Json::Array(names)) => {
            names.iter().filter_map(Json::as_str).find(|name| *name != "null").unwrap_or_default()
        }
        _ => "",
    };
    match (name, schema.get("format").and_then(Json::as_str)) {
        ("string", Some("cidr")) => "prefix".to_owned(),
        ("string", Some("ip")) => "address".to_owned(),
        ("string", Some("public-ip")) => "address or name".to_owned(),
        ("string", Some("port-range")) => "port or range".to_owned(),
        ("string", Some("address-spec")) => "prefix, address, range or tag".to_owned(),
        ("string", Some("route-prefix")) => "prefix".to_owned(),
        ("string", Some("subnet-ref")) => "network/subnet".to_owned(),
        ("string", Some("path")) => "path".to_owned(),
        ("string", _) => "text".to_owned(),
        ("integer", _) => "whole number".to_owned(),
        ("number", _) => "number".to_owned(),
        ("boolean", _) => "true or false".to_owned(),
        ("array", _) => {
            schema.get("items").map_or("list".to_owned(), |items| format!("list of {}", kind(items)))
        }
        ("object", _) => match schema.get("additionalProperties").filter(|inner| inner.is_object()) {
            Some(inner) => format!("{} by name", kind(inner)),
            None => "mapping".to_owned(),
        },
        (other, _) => other.to_owned(),
    }
}

fn last_name(reference: &str) -> &str {
    reference.rsplit('/').next().unwrap_or(reference)
}

fn anchor(name: &str) -> String {
    name.to_lowercase()
}
