//! The structural check: walks a tree along the schema of the model, reports every offence with its place, and rewrites
//! short forms into the one shape that the model decodes.

use std::{collections::HashSet, net::IpAddr, sync::OnceLock};

use serde_json::{Map, Number, Value as Json};

use crate::{
    diagnostic::{Finding, Reporter, Span, nearest},
    model::{AddressSpec, FileSource, PortRange, RoutePrefix, SubnetRef, Topology, parse_cidr},
    pending,
    positions::Positions,
    source::{Key, Node, Value},
};

/// Names that later work will give a meaning to.
const RESERVED: &[&str] = &[
    "loadBalancers",
    "privateDnsZones",
    "networkManagers",
    "virtualWans",
    "virtualHubs",
    "hubVirtualNetworkConnections",
    "hubRouteTables",
    "routingIntents",
    "flowLogs",
    "impairments",
    "faults",
    "prices",
    "experiments",
];

/// Properties that Azure has and the model has not.
const UNSUPPORTED: &[&str] = &[
    "delegations",
    "customRoutes",
    "expressRouteGatewayBypass",
    "threatIntelWhitelist",
    "intrusionDetection",
    "dnsSettings",
    "transportSecurity",
    "loadBalancerBackendAddressPools",
];

/// The schema that the model generates, with its extensions.
pub(crate) fn raw_schema() -> &'static Json {
    static SCHEMA: OnceLock<Json> = OnceLock::new();
    SCHEMA.get_or_init(|| {
        let mut schema = schemars::schema_for!(Topology).to_value();
        pending::mark(&mut schema);
        schema
    })
}

/// Checks `root` and gives the topology in the model's JSON form. `None`: too much is wrong for that. With `ahead` what
/// nothing runs yet is taken too.
pub(crate) fn check(root: &Node, ahead: bool, reporter: &mut Reporter<'_>) -> (Option<Json>, Positions) {
    let mut walker = Walker { schema: raw_schema(), ahead, reporter, positions: Positions::default() };
    let mut path = String::new();
    let json = walker.value(root, walker.schema, &mut path);
    (json, walker.positions)
}

/// Checks one entry of a section whose entries have names, and gives it in the model's JSON form, with its places. `None`:
/// something is wrong with it, or there is no such section.
pub(crate) fn check_entry(
    section: &str,
    name: &Key,
    node: &Node,
    reporter: &mut Reporter<'_>,
) -> Option<(Json, Positions)> {
    let schema = raw_schema();
    let mut walker = Walker { schema, ahead: false, reporter, positions: Positions::default() };
    let entries = walker.resolve(schema.get("properties")?.get(section)?);
    let inner = entries.get("additionalProperties").filter(|inner| inner.is_object())?;
    let mut path = format!("{section}.{}", name.text);
    walker.note(&path, Some(name.span), node);
    let json = walker.value(node, inner, &mut path)?;
    Some((json, walker.positions))
}

struct Walker<'a, 'r> {
    schema: &'static Json,
    /// Whether what nothing runs yet is taken.
    ahead: bool,
    reporter: &'a mut Reporter<'r>,
    positions: Positions,
}

/// Runs `inner` with `segment` added to the path.
macro_rules! within {
    ($path:ident, $segment:expr, $inner:expr) => {{
        let length = $path.len();
        if !$segment.starts_with('[') && !$path.is_empty() {
            $path.push('.');
        }
        $path.push_str(&$segment);
        let result = $inner;
        $path.truncate(length);
        result
    }};
}

impl Walker<'_, '_> {
    fn error(&mut self, span: Span, path: &str, finding: Finding) {
        self.positions.touch(path);
        self.reporter.report(span, path, finding);
    }

    fn note(&mut self, path: &str, key: Option<Span>, node: &Node) {
        let is_scalar = matches!(node.value, Value::Scalar { .. } | Value::Null);
        self.positions.note(path, key, node.span, is_scalar);
    }

    /// Follows references, and looks through "this or null".
    fn resolve(&self, schema: &'static Json) -> &'static Json {
        let mut schema = schema;
        // References of generated schemas are not circular; the bound is for the reader's peace of mind.
        for _ in 0..8 {
            if let Some(reference) = schema.get("$ref").and_then(Json::as_str) {
                let target = reference.strip_prefix('#').and_then(|pointer| self.schema.pointer(pointer));
                let Some(target) = target else { return schema };
                schema = target;
            } else if let Some([first, second]) =
                schema.get("anyOf").and_then(Json::as_array).map(Vec::as_slice)
                && second.get("type").and_then(Json::as_str) == Some("null")
            {
                schema = first;
            } else {
                break;
            }
        }
        schema
    }

    fn value(&mut self, node: &Node, schema: &'static Json, path: &mut String) -> Option<Json> {
        let resolved = self.resolve(schema);
        if let (Some(names), Value::Map(entries)) =
            (schema.get("x-object").and_then(Json::as_array), &node.value)
        {
            return self.object_form(node, entries, names, schema, path);
        }
        if let Some(property) = resolved.get("x-short").and_then(Json::as_str)
            && !matches!(node.value, Value::Map(_))
        {
            let inner = resolved.pointer(&format!("/properties/{property}"))?;
            let value = within!(path, property, {
                self.note(path, None, node);
                self.value(node, inner, path)
            })?;
            return Some(Json::Object(Map::from_iter([(property.to_owned(), value)])));
        }
        self.typed(node, resolved, path)
    }

    fn typed(&mut self, node: &Node, schema: &'static Json, path: &mut String) -> Option<Json> {
        if let Some(words) = enum_words(schema) {
            return self.word(node, schema, &words, path);
        }
        if let Some(alternatives) =
            schema.get("oneOf").or_else(|| schema.get("anyOf")).and_then(Json::as_array)
        {
            return self.alternative(node, alternatives, path);
        }
        match type_of(schema) {
            "object" => self.object(node, schema, path),
            "array" => self.list(node, schema, path),
            "string" => self.text(node, schema, path),
            "integer" | "number" => self.number(node, schema, path),
            "boolean" => self.truth(node, path),
            _ => None,
        }
    }

    fn mismatch(&mut self, node: &Node, expected: &str, path: &str) -> Option<Json> {
        let finding =
            Finding::error("wrong-type", format!("{} is expected here, not {}", expected, node.describe()));
        self.error(node.span, path, finding);
        None
    }

    /// Something else where properties or named entries are expected.
    fn no_mapping(&mut self, node: &Node, schema: &'static Json, path: &str) -> Option<Json> {
        let message = format!("a mapping is expected here, not {}", node.describe());
        let properties = schema.get("properties").and_then(Json::as_object);
        let has_names = schema.get("additionalProperties").is_some_and(Json::is_object);
        let help = match properties {
            _ if has_names => "write a name and a colon before each entry".to_owned(),
            Some(properties) => {
                let known: Vec<&str> = names_of(properties).collect();
                format!("write {{PROPERTY: VALUE, ...}}; known here: {}", known.join(", "))
            }
            None => "write {NAME: VALUE, ...}".to_owned(),
        };
        self.error(node.span, path, Finding::error("wrong-type", message).help(help));
        None
    }

    /// `{name: X, tier: X}` in place of `X`: REST's object form.
    fn object_form(
        &mut self,
        node: &Node,
        entries: &[(Key, Node)],
        names: &'static [Json],
        schema: &'static Json,
        path: &mut String,
    ) -> Option<Json> {
        let names: Vec<&str> = names.iter().filter_map(Json::as_str).collect();
        for (key, _) in entries.iter().filter(|(key, _)| !names.contains(&key.text.as_str())) {
            self.unknown(key, &names, path);
        }
        let chosen = names.iter().find_map(|name| entries.iter().find(|(key, _)| key.text == *name));
        let Some((_, inner)) = chosen else {
            let finding = Finding::error("missing-property", format!("'{}' is missing here", names[0]));
            self.error(node.span, path, finding);
            return None;
        };
        let resolved = self.resolve(schema);
        if let (true, Value::Scalar { text, plain }) = (names.contains(&"id"), &inner.value) {
            // A resource's id ends with its name.
            let text = text.rsplit('/').next().unwrap_or(text).to_owned();
            let inner = Node { span: inner.span, value: Value::Scalar { text, plain: *plain } };
            return self.typed(&inner, resolved, path);
        }
        self.typed(inner, resolved, path)
    }

    fn word(&mut self, node: &Node, schema: &Json, words: &[&'static str], path: &str) -> Option<Json> {
        let Value::Scalar { text, .. } = &node.value else {
            return self.mismatch(node, &format!("one of {}", words.join(", ")), path);
        };
        if let Some(word) = words.iter().find(|word| word.eq_ignore_ascii_case(text)) {
            return Some(Json::from(*word));
        }
        let others = schema.get("x-values").and_then(Json::as_object);
        if let Some((_, word)) =
            others.into_iter().flatten().find(|(other, _)| other.eq_ignore_ascii_case(text))
        {
            return Some(word.clone());
        }
        let finding = Finding::error("unknown-value", format!("'{text}' is not one of {}", words.join(", ")));
        let help = nearest(text, words.iter().copied()).map(|word| format!("did you mean '{word}'?"));
        self.error(node.span, path, finding.maybe_help(help));
        None
    }

    fn alternative(&mut self, node: &Node, alternatives: &'static [Json], path: &mut String) -> Option<Json> {
        let resolved: Vec<&'static Json> =
            alternatives.iter().map(|alternative| self.resolve(alternative)).collect();
        let Value::Map(entries) = &node.value else {
            // A word that no alternative knows is reported by the first one that takes words.
            return match resolved.iter().find(|schema| !is_object(schema)) {
                Some(schema) => self.typed(node, schema, path),
                None => self.mismatch(node, "a mapping", path),
            };
        };
        let objects: Vec<&'static Json> = resolved
            .iter()
            .flat_map(|schema| match schema.get("oneOf").and_then(Json::as_array) {
                Some(inner) => inner.iter().collect(),
                None => vec![*schema],
            })
            .filter(|schema| is_object(schema))
            .collect();
        if let Some((tag, words)) = discriminator(&objects) {
            return self.tagged(node, entries, &objects, tag, &words, path);
        }
        let by_key = |schema: &&&Json| {
            let first = entries.first().map_or("", |(key, _)| key.text.as_str());
            schema.get("properties").is_some_and(|properties| properties.get(first).is_some())
        };
        match objects.iter().find(by_key).or_else(|| objects.first()) {
            Some(schema) => self.typed(node, schema, path),
            None => self.mismatch(node, "text", path),
        }
    }

    fn tagged(
        &mut self,
        node: &Node,
        entries: &[(Key, Node)],
        objects: &[&'static Json],
        tag: &'static str,
        words: &[&'static str],
        path: &mut String,
    ) -> Option<Json> {
        let Some((_, value)) = entries.iter().find(|(key, _)| key.text == tag) else {
            let finding = Finding::error("missing-property", format!("'{tag}' is missing here"));
            self.error(
                node.span,
                path,
                finding.help(format!("write {tag}: and one of {}", words.join(", "))),
            );
            return None;
        };
        let word = within!(path, tag, self.word(value, &Json::Null, words, path))?;
        let position = words.iter().position(|other| word.as_str() == Some(*other))?;
        self.object(node, objects[position], path)
    }

    fn object(&mut self, node: &Node, schema: &'static Json, path: &mut String) -> Option<Json> {
        let entries = match &node.value {
            Value::Map(entries) => entries.as_slice(),
            Value::Null => &[],
            _ => return self.no_mapping(node, schema, path),
        };
        if let Some(inner) = schema.get("additionalProperties").filter(|inner| inner.is_object()) {
            let fixed = schema.get("properties").and_then(Json::as_object);
            return self.named_entries(entries, fixed, inner, path);
        }
        let properties = schema.get("properties").and_then(Json::as_object)?;
        let required: Vec<&'static str> = schema
            .get("required")
            .and_then(Json::as_array)
            .into_iter()
            .flatten()
            .filter_map(Json::as_str)
            .collect();
        let mut out = Map::new();
        let mut given = HashSet::new();
        let mut complete = true;
        let mut inline: Vec<&(Key, Node)> = Vec::new();
        for entry in entries {
            let (key, value) = entry;
            let Some((name, inner)) = property(properties, &key.text) else {
                if self
                    .inline_item(schema, properties)
                    .is_some_and(|(_, item)| property(item, &key.text).is_some())
                {
                    inline.push(entry);
                } else {
                    self.unknown_property(key, schema, properties, path);
                }
                continue;
            };
            if pending::is_reserved(inner) && !self.ahead {
                self.reserved(key, path);
                continue;
            }
            let is_required = required.contains(&name);
            if matches!(value.value, Value::Null) && !is_required {
                continue;
            }
            if !given.insert(name) {
                let finding = Finding::error(
                    "given-twice",
                    format!("'{}' says the same as another property here", key.text),
                );
                self.reporter.report(
                    key.span,
                    path,
                    finding.help(format!("keep one of '{name}' and its short form")),
                );
                continue;
            }
            let result = within!(path, name, {
                self.note(path, Some(key.span), value);
                let json = self.value(value, inner, path);
                self.unsupported(inner, json.as_ref(), path);
                json
            });
            match result {
                Some(json) => drop(out.insert(name.to_owned(), json)),
                None => complete &= !is_required,
            }
        }
        complete &= self.inlined(node, schema, properties, &inline, &mut given, &mut out, path);
        complete &= self.all_given(node, schema, &required, &given, path);
        complete.then_some(Json::Object(out))
    }

    /// The list whose one item's properties may stand beside the object's own, and the schema of those.
    fn inline_item(
        &self,
        schema: &'static Json,
        properties: &'static Map<String, Json>,
    ) -> Option<(&'static str, &'static Map<String, Json>)> {
        let name = schema.get("x-inline").and_then(Json::as_str)?;
        let item = self.resolve(properties.get(name)?.get("items")?);
        Some((name, item.get("properties")?.as_object()?))
    }

    #[allow(clippy::too_many_arguments, reason = "the state of one object's walk")]
    fn inlined(
        &mut self,
        node: &Node,
        schema: &'static Json,
        properties: &'static Map<String, Json>,
        inline: &[&(Key, Node)],
        given: &mut HashSet<&'static str>,
        out: &mut Map<String, Json>,
        path: &mut String,
    ) -> bool {
        let Some((name, _)) = self.inline_item(schema, properties) else { return true };
        let Some((first, _)) = inline.first() else { return true };
        if !given.insert(name) {
            let finding = Finding::error("given-twice", format!("'{}' stands beside '{name}'", first.text));
            self.error(
                first.span,
                path,
                finding.help(format!("move it into the entry of '{name}' that it is for")),
            );
            return true;
        }
        let Some(item) =
            properties.get(name).and_then(|list| list.get("items")).map(|item| self.resolve(item))
        else {
            return false;
        };
        let entries = inline.iter().map(|entry| (*entry).clone()).collect();
        let part = Node { span: node.span, value: Value::Map(entries) };
        let segment = format!("{name}[0]");
        match within!(path, segment, self.object(&part, item, path)) {
            Some(json) => {
                out.insert(name.to_owned(), Json::Array(vec![json]));
                true
            }
            None => false,
        }
    }

    fn all_given(
        &mut self,
        node: &Node,
        schema: &'static Json,
        required: &[&'static str],
        given: &HashSet<&'static str>,
        path: &str,
    ) -> bool {
        let mut complete = true;
        for name in required.iter().filter(|name| !given.contains(*name)) {
            let span = if path.is_empty() {
                Span { length: 1, ..node.span }
            } else {
                self.positions.find_name(path)
            };
            let is_inline = schema.get("x-inline").and_then(Json::as_str) == Some(*name);
            let finding = Finding::error(
                "missing-property",
                format!("'{}' is missing here", if is_inline { "subnet" } else { name }),
            );
            self.error(span, path, finding.help(missing_help(schema, name, is_inline)));
            complete = false;
        }
        complete
    }

    fn named_entries(
        &mut self,
        entries: &[(Key, Node)],
        fixed: Option<&'static Map<String, Json>>,
        inner: &'static Json,
        path: &mut String,
    ) -> Option<Json> {
        let mut out = Map::new();
        for (key, value) in entries {
            let inner = fixed.and_then(|fixed| fixed.get(&key.text)).unwrap_or(inner);
            let result = within!(path, key.text, {
                self.note(path, Some(key.span), value);
                let result = self.value(value, inner, path);
                if result.is_none() {
                    self.positions.touch(path);
                }
                result
            });
            if let Some(json) = result {
                out.insert(key.text.clone(), json);
            }
        }
        Some(Json::Object(out))
    }

    fn unknown_property(
        &mut self,
        key: &Key,
        schema: &'static Json,
        properties: &'static Map<String, Json>,
        path: &str,
    ) {
        let mut known: Vec<&str> = names_of(properties).collect();
        if let Some((_, item)) = self.inline_item(schema, properties) {
            known.extend(names_of(item));
        }
        let is_reserved = (path.is_empty() && RESERVED.contains(&key.text.as_str()))
            || UNSUPPORTED.contains(&key.text.as_str());
        if is_reserved {
            self.reserved(key, path);
            return;
        }
        self.unknown(key, &known, path);
    }

    fn reserved(&mut self, key: &Key, path: &str) {
        let finding = Finding::error("reserved-name", format!("'{}' is not supported yet", key.text));
        self.reporter.report(
            key.span,
            path,
            finding.help("the name is kept for a later version; remove it here"),
        );
    }

    /// Reports a value that nothing acts on yet; it stays, so that what else is wrong with it is told too.
    fn unsupported(&mut self, property: &'static Json, given: Option<&Json>, path: &str) {
        let what = given.and_then(|given| pending::unsupported_by(property, given));
        if let Some(what) = what.filter(|_| !self.ahead && !self.positions.is_touched(path)) {
            let finding = Finding::error("not-supported-yet", format!("{what} is not supported yet"));
            let help = "remove it here; a later version will take it";
            self.reporter.report(self.positions.find(path), path, finding.help(help));
        }
    }

    fn unknown(&mut self, key: &Key, known: &[&str], path: &str) {
        let finding = Finding::error("unknown-property", format!("'{}' is not a property here", key.text));
        let help = match nearest(&key.text, known.iter().copied()) {
            Some(name) => format!("did you mean '{name}'?"),
            None => format!("known here: {}", known.join(", ")),
        };
        // What holds it stays: a name too many takes nothing away. It may be what another property was meant to be.
        self.positions.touch_around(path);
        self.reporter.report(key.span, path, finding.help(help));
    }

    fn list(&mut self, node: &Node, schema: &'static Json, path: &mut String) -> Option<Json> {
        let items = schema.get("items")?;
        let nodes = match &node.value {
            Value::List(nodes) => nodes.as_slice(),
            Value::Null => &[],
            // One value stands for a list of one.
            _ => std::slice::from_ref(node),
        };
        let mut out = Vec::with_capacity(nodes.len());
        let mut kept = Vec::with_capacity(nodes.len());
        for (index, item) in nodes.iter().enumerate() {
            let segment = format!("[{index}]");
            let result = within!(path, segment, {
                self.note(path, None, item);
                let result = self.value(item, items, path);
                if result.is_none() {
                    self.positions.touch(path);
                }
                result
            });
            if let Some(json) = result {
                out.push(json);
                kept.push(index);
            }
        }
        let least = schema.get("minItems").and_then(Json::as_u64).unwrap_or(0);
        if (nodes.len() as u64) < least {
            let finding = Finding::error("empty-list", "at least one entry is needed here");
            self.error(node.span, path, finding);
            return None;
        }
        if kept.len() < nodes.len() {
            if !is_judged_by_entry(self.resolve(items)) || (kept.len() as u64) < least {
                return None;
            }
            self.positions.keep(path, kept);
        }
        Some(Json::Array(out))
    }

    fn text(&mut self, node: &Node, schema: &Json, path: &str) -> Option<Json> {
        let expected = format_name(schema);
        let Value::Scalar { text, plain } = &node.value else { return self.mismatch(node, expected, path) };
        if *plain && (text == "true" || text == "false") {
            return self.mismatch(node, &format!("{expected} (in quotes, if that is meant)"), path);
        }
        let format = schema.get("format").and_then(Json::as_str).unwrap_or_default();
        if let Err(message) = check_format(format, text) {
            let corrected = corrected_prefix(text);
            let mut finding = Finding::error("bad-value", message);
            if let Some(net) = corrected {
                finding = Finding::error("host-bits", finding.message)
                    .code("InvalidCIDRNotation")
                    .help(format!("write {net}"));
            }
            self.error(node.span, path, finding);
            return None;
        }
        if let Some(words) = schema.get("enum").and_then(Json::as_array) {
            let words: Vec<&str> = words.iter().filter_map(Json::as_str).collect();
            if !words.contains(&text.as_str()) {
                let finding = Finding::error("unknown-value", format!("'{text}' is not known here"));
                let help = match nearest(text, words.iter().copied()) {
                    Some(word) => format!("did you mean '{word}'?"),
                    None => format!("one of {}", words.join(", ")),
                };
                self.error(node.span, path, finding.help(help));
                return None;
            }
        }
        Some(Json::from(text.as_str()))
    }

    fn number(&mut self, node: &Node, schema: &Json, path: &str) -> Option<Json> {
        let is_integer = type_of(schema) == "integer";
        let expected = if is_integer { "a whole number" } else { "a number" };
        let Value::Scalar { text, .. } = &node.value else { return self.mismatch(node, expected, path) };
        let parsed = if is_integer {
            text.parse::<i64>().ok().map(|number| (number as f64, Number::from(number)))
        } else {
            text.parse::<f64>().ok().and_then(|number| Some((number, Number::from_f64(number)?)))
        };
        let Some((number, json)) = parsed else {
            let finding = Finding::error("wrong-type", format!("{expected} is expected here, not '{text}'"));
            self.error(node.span, path, finding);
            return None;
        };
        let bound = |name: &str| schema.get(name).and_then(Json::as_f64);
        let top =
            bound("maximum").or_else(|| (schema.get("format")? == "uint32").then_some(f64::from(u32::MAX)));
        let (least, most) = (bound("minimum").unwrap_or(f64::MIN), top.unwrap_or(f64::MAX));
        if !(least..=most).contains(&number) {
            let range =
                if most == f64::MAX { format!("{least} or more") } else { format!("{least} to {most}") };
            self.error(node.span, path, Finding::error("out-of-range", format!("{text} is outside {range}")));
            return None;
        }
        Some(Json::Number(json))
    }

    fn truth(&mut self, node: &Node, path: &str) -> Option<Json> {
        match &node.value {
            Value::Scalar { text, plain: true } if matches!(text.as_str(), "true" | "True" | "TRUE") => {
                Some(Json::Bool(true))
            }
            Value::Scalar { text, plain: true } if matches!(text.as_str(), "false" | "False" | "FALSE") => {
                Some(Json::Bool(false))
            }
            Value::Scalar { text, .. } => {
                let finding =
                    Finding::error("wrong-type", format!("true or false is expected here, not '{text}'"));
                self.error(node.span, path, finding);
                None
            }
            _ => self.mismatch(node, "true or false", path),
        }
    }
}

fn type_of(schema: &Json) -> &str {
    match schema.get("type") {
        Some(Json::String(name)) => name,
        Some(Json::Array(names)) => {
            names.iter().filter_map(Json::as_str).find(|name| *name != "null").unwrap_or_default()
        }
        _ => "",
    }
}

fn is_object(schema: &Json) -> bool {
    let inner_objects = || {
        let alternatives = schema.get("oneOf").and_then(Json::as_array);
        alternatives.is_some_and(|list| list.iter().all(|inner| type_of(inner) == "object"))
    };
    type_of(schema) == "object" || inner_objects()
}

/// Whether the entries of a list are judged one by one, so that the others stay where one is wrong. Other values are one
/// statement together: ranges of which one is missing hold less than is meant, and what follows from that misleads.
fn is_judged_by_entry(items: &Json) -> bool {
    is_object(items) || items.get("format").and_then(Json::as_str) == Some("address-spec")
}

/// The words of an enum without data.
fn enum_words(schema: &'static Json) -> Option<Vec<&'static str>> {
    if let Some(words) = schema.get("enum").and_then(Json::as_array)
        && type_of(schema) == "string"
        && schema.get("description").is_none()
    {
        return words.iter().map(Json::as_str).collect();
    }
    let alternatives = schema.get("oneOf").and_then(Json::as_array)?;
    let mut words = Vec::new();
    for alternative in alternatives {
        if let Some(word) = alternative.get("const").and_then(Json::as_str) {
            words.push(word);
        } else {
            words.extend(alternative.get("enum").and_then(Json::as_array)?.iter().filter_map(Json::as_str));
        }
    }
    Some(words)
}

/// The property whose fixed value tells alternatives apart, and its value in each.
fn discriminator(objects: &[&'static Json]) -> Option<(&'static str, Vec<&'static str>)> {
    let properties = objects.first()?.get("properties")?.as_object()?;
    let (tag, _) = properties.iter().find(|(_, property)| property.get("const").is_some())?;
    let words = objects.iter().map(|object| object.pointer(&format!("/properties/{tag}/const"))?.as_str());
    Some((tag, words.collect::<Option<Vec<_>>>()?))
}

/// The property that `key` names, by its own name or the other one that it has.
fn property(properties: &'static Map<String, Json>, key: &str) -> Option<(&'static str, &'static Json)> {
    let by_name = properties.get_key_value(key);
    let found = by_name.or_else(|| {
        properties.iter().find(|(_, schema)| schema.get("x-alias").and_then(Json::as_str) == Some(key))
    });
    found.map(|(name, schema)| (name.as_str(), schema))
}

fn names_of(properties: &'static Map<String, Json>) -> impl Iterator<Item = &'static str> {
    let alias = |schema: &'static Json| schema.get("x-alias").and_then(Json::as_str);
    let known = properties.iter().filter(|(_, schema)| !pending::is_reserved(schema));
    known.flat_map(move |(name, schema)| alias(schema).into_iter().chain([name.as_str()]))
}

fn missing_help(schema: &Json, name: &str, is_inline: bool) -> String {
    if is_inline {
        return format!("write subnet: VIRTUALNETWORK/SUBNET, or {name} with an entry for each NIC");
    }
    let property = &schema["properties"][name];
    let alias = property.get("x-alias").and_then(Json::as_str);
    match alias {
        Some(alias) => format!("add {alias} or {name}"),
        None if property.get("format").is_some() => format!("add {name}: {}", format_name(property)),
        None => format!("add {name}"),
    }
}

fn format_name(schema: &Json) -> &'static str {
    match schema.get("format").and_then(Json::as_str) {
        Some("cidr") => "a prefix such as 10.0.0.0/16",
        Some("ip") => "an address",
        Some("public-ip") => "an address, or the name of one of publicIPAddresses",
        Some("port-range") => "a port or a range of ports",
        Some("subnet-ref") => "VIRTUALNETWORK/SUBNET",
        _ => "text",
    }
}

fn check_format(format: &str, text: &str) -> Result<(), String> {
    match format {
        "cidr" => parse_cidr(text).map(drop),
        "ip" => {
            text.parse::<IpAddr>().map(drop).map_err(|_| format!("'{text}' is not an IPv4 or IPv6 address"))
        }
        "port-range" => text.parse::<PortRange>().map(drop),
        "address-spec" => text.parse::<AddressSpec>().map(drop),
        "public-ip" => {
            if text.parse::<IpAddr>().is_ok() || is_resource_name(text) {
                return Ok(());
            }
            Err(format!("'{text}' is neither an address nor a name of publicIPAddresses"))
        }
        "route-prefix" => text.parse::<RoutePrefix>().map(drop),
        "subnet-ref" => text.parse::<SubnetRef>().map(drop),
        "path" => text.parse::<FileSource>().map(drop),
        _ => Ok(()),
    }
}

/// Whether `text` can be the name of a public address; what is meant as an address begins with its digits.
fn is_resource_name(text: &str) -> bool {
    let is_number = text.split('.').all(|part| part.parse::<u32>().is_ok());
    !is_number && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

/// The network that a prefix with host bits lies in.
fn corrected_prefix(text: &str) -> Option<String> {
    let net: ipnet::IpNet = text.parse().ok()?;
    (net.trunc() != net).then(|| net.trunc().to_string())
}
