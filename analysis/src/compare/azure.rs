//! Reading what Azure's tools print, in each of the shapes that they have printed it.

use serde_json::Value;

use super::ReadError;

/// The rows of an answer: `{"value": [...]}`, the bare list, or one row alone.
pub(super) fn rows(text: &str, command: &'static str) -> Result<Vec<Value>, ReadError> {
    let value: Value = serde_json::from_str(text).map_err(|error| ReadError::Json(error.to_string()))?;
    let list = match value {
        Value::Array(rows) => rows,
        Value::Object(mut object) => match object.get_mut("value").map(Value::take) {
            Some(Value::Array(rows)) => rows,
            _ => {
                let what = "an object without a list named value".to_owned();
                return Err(ReadError::Shape { command, what });
            }
        },
        other => return Err(ReadError::Shape { command, what: format!("{} alone", kind(&other)) }),
    };
    match list.iter().find(|row| !row.is_object()) {
        Some(other) => Err(ReadError::Shape { command, what: format!("{} as a row", kind(other)) }),
        None => Ok(list),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// A text; empty where there is none.
pub(super) fn text(row: &Value, property: &str) -> String {
    match row.get(property) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        _ => String::new(),
    }
}

/// The texts of a list, of a single value, or of the property's plural: older and newer tools differ.
pub(super) fn texts(row: &Value, singular: &str, plural: &str) -> Vec<String> {
    let of = |property: &str| -> Vec<String> {
        let word = |value: &Value| match value {
            Value::String(text) if !text.is_empty() => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        };
        match row.get(property) {
            Some(Value::Array(list)) => list.iter().filter_map(word).collect(),
            Some(value) => word(value).into_iter().collect(),
            None => Vec::new(),
        }
    };
    let many = of(plural);
    if many.is_empty() { of(singular) } else { many }
}

/// The last word of a resource's id, in lower case: Azure's names are compared without regard to case.
pub(super) fn resource_name(id: &str) -> String {
    id.rsplit('/').next().unwrap_or(id).to_ascii_lowercase()
}
