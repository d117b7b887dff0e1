//! The JSON Schema of topology files, for editors and for `vnetctl schema`.

use serde_json::{Map, Value as Json, json};

use crate::{pending, structure::raw_schema};

/// The JSON Schema (2020-12) of a topology file, short forms included.
#[must_use]
pub fn schema() -> Json {
    let mut schema = raw_schema().clone();
    let definitions = schema.get("$defs").cloned().unwrap_or_default();
    expand(&mut schema, &definitions);
    if let Some(root) = schema.as_object_mut() {
        root.insert("title".to_owned(), json!("vnetd topology"));
    }
    schema
}

/// Writes out what the extensions of the model's schema mean, innermost first.
fn expand(schema: &mut Json, definitions: &Json) {
    match schema {
        Json::Array(items) => items.iter_mut().for_each(|item| expand(item, definitions)),
        Json::Object(map) => {
            map.values_mut().for_each(|value| expand(value, definitions));
            inline(map, definitions);
            aliases(map);
            values(map);
            unsupported(map);
            if let Some(property) = map.remove("x-short") {
                short(schema, &property);
            } else {
                list_or_one(schema);
            }
            object_form(schema);
        }
        _ => {}
    }
}

/// Properties of a list's one item stand beside the object's own.
fn inline(map: &mut Map<String, Json>, definitions: &Json) {
    let Some(Json::String(name)) = map.remove("x-inline") else { return };
    let item = map
        .get("properties")
        .and_then(|properties| find_items(properties.get(&name)?))
        .and_then(|items| items.get("$ref")?.as_str()?.strip_prefix("#/$defs/"))
        .and_then(|definition| definitions.get(definition)?.get("properties")?.as_object());
    let mut added = item.cloned().unwrap_or_default();
    for schema in added.values_mut() {
        expand(schema, definitions);
    }
    alias_properties(&mut added);
    if let Some(Json::Object(properties)) = map.get_mut("properties") {
        for (key, schema) in added {
            properties.entry(key).or_insert(schema);
        }
    }
    if let Some(Json::Array(required)) = map.get_mut("required") {
        required.retain(|required| required != &Json::String(name.clone()));
    }
}

/// `items` of a list, which may be written as "a list, or one of it" already.
fn find_items(schema: &Json) -> Option<&Json> {
    schema
        .get("items")
        .or_else(|| schema.get("anyOf")?.as_array()?.iter().find_map(|inner| inner.get("items")))
}

/// A property with another name is listed under that one too.
fn aliases(map: &mut Map<String, Json>) {
    let Some(Json::Object(properties)) = map.get_mut("properties") else { return };
    let renamed: Vec<String> = alias_properties(properties);
    if let Some(Json::Array(required)) = map.get_mut("required") {
        // Either name will do, which `required` cannot say.
        required.retain(|name| !renamed.iter().any(|renamed| name == renamed));
    }
}

/// Gives the properties that got a second name.
fn alias_properties(properties: &mut Map<String, Json>) -> Vec<String> {
    let mut renamed = Vec::new();
    let mut added = Vec::new();
    for (name, schema) in properties.iter_mut() {
        if let Some(Json::String(alias)) = schema.as_object_mut().and_then(|schema| schema.remove("x-alias"))
        {
            added.push((alias, schema.clone()));
            renamed.push(name.clone());
        }
    }
    properties.extend(added);
    renamed
}

/// Other spellings of an enum's values.
fn values(map: &mut Map<String, Json>) {
    let Some(Json::Object(others)) = map.remove("x-values") else { return };
    if let Some(Json::Array(alternatives)) = map.get_mut("oneOf") {
        for (other, value) in &others {
            let description = format!("Another spelling of {}.", value.as_str().unwrap_or_default());
            alternatives.push(json!({"type": "string", "const": other, "description": description}));
        }
    }
}

/// A property that nothing acts on yet says so.
fn unsupported(map: &mut Map<String, Json>) {
    let Some(remark) = pending::remark(map) else { return };
    map.remove("x-pending");
    map.remove("x-pending-value");
    let description = map.get("description").and_then(Json::as_str).unwrap_or_default();
    let text = format!("{description} {remark}").trim_start().to_owned();
    map.insert("description".to_owned(), Json::String(text));
}

/// An object that one of its values may stand for.
fn short(schema: &mut Json, property: &Json) {
    let object = schema.take();
    let name = property.as_str().unwrap_or_default();
    let value = object.pointer(&format!("/properties/{name}")).cloned().unwrap_or_default();
    let mut out = Map::new();
    if let Some(description) = object.get("description") {
        out.insert("description".to_owned(), description.clone());
    }
    out.insert("anyOf".to_owned(), json!([value, object]));
    *schema = Json::Object(out);
}

/// A list that a single value may stand for; text that a number may stand for.
fn list_or_one(schema: &mut Json) {
    let Some(map) = schema.as_object_mut() else { return };
    let is_list = matches!(map.get("type"), Some(Json::String(kind)) if kind == "array");
    if is_list && let Some(items) = map.get("items").cloned() {
        let mut list = std::mem::take(map);
        for key in ["description", "default", "x-alias", "x-object"] {
            if let Some(value) = list.remove(key) {
                map.insert(key.to_owned(), value);
            }
        }
        map.insert("anyOf".to_owned(), json!([list, items]));
        return;
    }
    let takes_numbers = map.get("format").and_then(Json::as_str) == Some("port-range");
    if takes_numbers {
        map.insert("type".to_owned(), json!(["string", "integer"]));
    }
}

/// REST's object form of a value.
fn object_form(schema: &mut Json) {
    let Some(names) = schema.as_object_mut().and_then(|map| map.remove("x-object")) else { return };
    let mut value = schema.take();
    let mut out = Map::new();
    for key in ["description", "default", "x-alias"] {
        if let Some(found) = value.as_object_mut().and_then(|map| map.remove(key)) {
            out.insert(key.to_owned(), found);
        }
    }
    let names: Vec<&str> = names.as_array().into_iter().flatten().filter_map(Json::as_str).collect();
    // The loader takes the first name that is there; what REST writes beside it, as `tier: Regional`, is not read.
    let beside = |index: usize| if index == 0 { value.clone() } else { json!({"type": "string"}) };
    let properties: Map<String, Json> =
        names.iter().enumerate().map(|(index, name)| ((*name).to_owned(), beside(index))).collect();
    let object = json!({"type": "object", "properties": properties, "additionalProperties": false});
    out.insert("anyOf".to_owned(), json!([value, object]));
    *schema = Json::Object(out);
}
