//! Text to a tree in which every value knows its place.

use std::collections::{HashMap, HashSet};

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span as ParserSpan, Tag};

use crate::diagnostic::{Finding, Span};

/// Longest text that is read, in bytes.
pub const TEXT_BYTES_MAX: usize = 8 << 20;
/// Most values that a file may hold, those that aliases repeat included.
pub const NODES_MAX: usize = 400_000;
/// Deepest nesting.
pub const DEPTH_MAX: usize = 48;

/// A value and its place.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) span: Span,
    pub(crate) value: Value,
}

#[derive(Clone, Debug)]
pub(crate) enum Value {
    Null,
    /// `plain`: without quotes, so that it may be a number or a truth value.
    Scalar {
        text: String,
        plain: bool,
    },
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

/// A key of a mapping and its place.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    pub(crate) text: String,
    pub(crate) span: Span,
}

impl Node {
    /// The same on later lines.
    pub(crate) fn moved(mut self, lines: u32) -> Node {
        self.span.line += lines;
        self.value = match self.value {
            Value::List(items) => Value::List(items.into_iter().map(|item| item.moved(lines)).collect()),
            Value::Map(entries) => {
                let moved = |(key, node): (Key, Node)| {
                    let span = Span { line: key.span.line + lines, ..key.span };
                    (Key { span, ..key }, node.moved(lines))
                };
                Value::Map(entries.into_iter().map(moved).collect())
            }
            scalar => scalar,
        };
        self
    }

    /// What a person would call it.
    pub(crate) fn describe(&self) -> &'static str {
        match &self.value {
            Value::Null => "nothing",
            Value::Scalar { text, plain: true } if text.parse::<f64>().is_ok() => "a number",
            Value::Scalar { text, plain: true } if text == "true" || text == "false" => "a truth value",
            Value::Scalar { .. } => "text",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }
}

/// Why a text is no tree.
pub(crate) struct Refusal {
    pub(crate) span: Span,
    pub(crate) finding: Finding,
}

fn refuse<T>(span: Span, finding: Finding) -> Result<T, Refusal> {
    Err(Refusal { span, finding })
}

fn place(span: ParserSpan) -> Span {
    let narrow = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let one_line = span.start.line() == span.end.line();
    Span {
        line: narrow(span.start.line()),
        column: narrow(span.start.col() + 1),
        length: if one_line { narrow(span.end.col().saturating_sub(span.start.col())) } else { 1 },
    }
}

fn scan_error(error: &ScanError) -> Refusal {
    let at = place(ParserSpan::empty(*error.marker()));
    let finding = Finding::error("yaml-syntax", format!("this is not valid YAML: {}", error.info()));
    Refusal {
        span: at,
        finding: finding.help("check indentation, quotes and brackets here and on the line before"),
    }
}

/// What a value costs, its parts included.
#[derive(Clone, Copy)]
struct Weight {
    /// Values, and long text as several.
    nodes: usize,
    /// Levels of nesting.
    depth: usize,
}

/// Text of this many bytes weighs as much as a value, so that aliases of a long text are bounded too.
const BYTES_PER_NODE: usize = 32;

/// A list or mapping that is not closed yet.
struct Open {
    node: Node,
    anchor: usize,
    weight: Weight,
    /// The key that waits for its value.
    key: Option<Key>,
    keys: HashSet<String>,
}

struct Builder {
    stack: Vec<Open>,
    anchors: HashMap<usize, (Node, Weight)>,
    nodes: usize,
    root: Option<Node>,
    has_anchors: bool,
}

/// A text that is a tree.
#[derive(Debug)]
pub(crate) struct Parsed {
    pub(crate) root: Node,
    /// What it weighs against [`NODES_MAX`].
    pub(crate) nodes: usize,
    /// Whether some of it may be repeated elsewhere by an alias.
    pub(crate) has_anchors: bool,
}

/// Parses one YAML document (JSON is YAML) into a tree.
///
/// # Errors
/// The first offence against YAML's syntax or against a limit.
pub(crate) fn parse(text: &str) -> Result<Parsed, Refusal> {
    if text.len() > TEXT_BYTES_MAX {
        let finding = Finding::error(
            "file-too-large",
            format!(
                "the file has {} bytes, more than the {} MiB that a topology may have",
                text.len(),
                TEXT_BYTES_MAX >> 20
            ),
        );
        return refuse(Span::default(), finding.help("split the topology into several labs"));
    }
    let mut builder =
        Builder { stack: Vec::new(), anchors: HashMap::new(), nodes: 0, root: None, has_anchors: false };
    let mut parser = Parser::new_from_str(text);
    while let Some(event) = parser.next_event() {
        let (event, span) = event.map_err(|error| scan_error(&error))?;
        builder.event(event, place(span))?;
    }
    match builder.root {
        Some(Node { value: Value::Null, .. }) | None => {
            let finding = Finding::error("empty-file", "the file holds no topology");
            refuse(
                Span::default(),
                finding.help("a topology has a name and virtual networks; see docs/TOPOLOGY.md"),
            )
        }
        Some(root) => Ok(Parsed { root, nodes: builder.nodes, has_anchors: builder.has_anchors }),
    }
}

impl Builder {
    fn event(&mut self, event: Event<'_>, span: Span) -> Result<(), Refusal> {
        match event {
            Event::DocumentStart(_) if self.root.is_some() => {
                let finding = Finding::error(
                    "second-document",
                    "a second YAML document starts here; a topology is one document",
                );
                refuse(span, finding.help("put it into a file of its own, or remove the '---'"))
            }
            Event::Scalar(text, style, anchor, tag) => {
                let is_text =
                    tag.as_deref().is_some_and(|tag| tag.is_yaml_core_schema() && tag.suffix == "str");
                check_tag(tag.as_deref(), span)?;
                let plain = style == ScalarStyle::Plain && !is_text;
                let text_bytes = text.len();
                let value = match &*text {
                    "" | "~" | "null" | "Null" | "NULL" if plain => Value::Null,
                    _ => Value::Scalar { text: text.into_owned(), plain },
                };
                let weight = Weight { nodes: 1 + text_bytes / BYTES_PER_NODE, depth: 0 };
                self.count(weight.nodes, span)?;
                let node = Node { span, value };
                self.remember(anchor, &node, weight);
                self.place(node, weight)
            }
            Event::SequenceStart(anchor, tag) => {
                check_tag(tag.as_deref(), span)?;
                self.open(Node { span, value: Value::List(Vec::new()) }, anchor)
            }
            Event::MappingStart(anchor, tag) => {
                check_tag(tag.as_deref(), span)?;
                self.open(Node { span, value: Value::Map(Vec::new()) }, anchor)
            }
            Event::SequenceEnd | Event::MappingEnd => match self.stack.pop() {
                Some(open) => {
                    let weight = Weight { depth: open.weight.depth + 1, ..open.weight };
                    self.remember(open.anchor, &open.node, weight);
                    self.place(open.node, weight)
                }
                None => Ok(()),
            },
            Event::Alias(id) => {
                self.has_anchors = true;
                let Some((node, weight)) = self.anchors.get(&id) else {
                    let finding =
                        Finding::error("yaml-alias", "this alias repeats a value that is not complete here");
                    return refuse(
                        span,
                        finding.help("an alias cannot stand inside the value that it repeats"),
                    );
                };
                let weight = *weight;
                // The limits must hold before the copy is made: that is what a YAML bomb is about.
                let total = self.nodes + weight.nodes;
                if total > NODES_MAX {
                    return refuse(span, too_many_nodes());
                }
                if self.stack.len() + weight.depth > DEPTH_MAX {
                    return refuse(span, too_deep());
                }
                self.nodes = total;
                let node = node.clone();
                self.place(node, weight)
            }
            _ => Ok(()),
        }
    }

    fn count(&mut self, nodes: usize, span: Span) -> Result<(), Refusal> {
        self.nodes += nodes;
        if self.nodes > NODES_MAX { refuse(span, too_many_nodes()) } else { Ok(()) }
    }

    fn open(&mut self, node: Node, anchor: usize) -> Result<(), Refusal> {
        self.count(1, node.span)?;
        if self.stack.len() >= DEPTH_MAX {
            return refuse(node.span, too_deep());
        }
        self.stack.push(Open {
            node,
            anchor,
            weight: Weight { nodes: 1, depth: 0 },
            key: None,
            keys: HashSet::new(),
        });
        Ok(())
    }

    fn remember(&mut self, anchor: usize, node: &Node, weight: Weight) {
        if anchor != 0 {
            self.has_anchors = true;
            self.anchors.insert(anchor, (node.clone(), weight));
        }
    }

    fn place(&mut self, node: Node, weight: Weight) -> Result<(), Refusal> {
        let outer_key = self.stack.iter().rev().nth(1).and_then(|outer| outer.key.as_ref());
        let is_in_peerings = outer_key.is_some_and(|key| key.text == "peerings");
        let Some(open) = self.stack.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        open.weight.nodes += weight.nodes;
        open.weight.depth = open.weight.depth.max(weight.depth);
        match &mut open.node.value {
            Value::List(items) => items.push(node),
            Value::Map(entries) => match open.key.take() {
                Some(key) => entries.push((key, node)),
                None => {
                    let key = key_of(node)?;
                    if !open.keys.insert(key.text.clone()) {
                        let first = entries
                            .iter()
                            .find(|(other, _)| other.text == key.text)
                            .map_or(0, |(other, _)| other.span.line);
                        let mut finding = Finding::error(
                            "duplicate-key",
                            format!(
                                "'{}' is here for the second time; the first is on line {first}",
                                key.text
                            ),
                        );
                        if is_in_peerings {
                            finding = finding.code("AnotherPeeringAlreadyReferencesRemoteVnet");
                        }
                        return refuse(
                            key.span,
                            finding
                                .help("a name can stand once in a mapping: rename or merge one of the two"),
                        );
                    }
                    open.key = Some(key);
                }
            },
            Value::Null | Value::Scalar { .. } => {}
        }
        Ok(())
    }
}

fn too_many_nodes() -> Finding {
    Finding::error(
        "too-many-values",
        format!("the file holds more than {NODES_MAX} values, those that aliases repeat included"),
    )
    .help("write fewer values, or fewer aliases of large ones")
}

fn too_deep() -> Finding {
    Finding::error("nesting-too-deep", format!("values are nested more than {DEPTH_MAX} deep here"))
        .help("a topology needs ten levels at most")
}

fn check_tag(tag: Option<&Tag>, span: Span) -> Result<(), Refusal> {
    match tag {
        Some(tag) if !tag.is_yaml_core_schema() => refuse(
            span,
            Finding::error("yaml-tag", format!("the tag '{tag}' means nothing here")).help("remove the tag"),
        ),
        _ => Ok(()),
    }
}

fn key_of(node: Node) -> Result<Key, Refusal> {
    let span = node.span;
    match node.value {
        Value::Scalar { text, .. } => Ok(Key { text, span }),
        Value::Null => Ok(Key { text: "null".to_owned(), span }),
        Value::List(_) | Value::Map(_) => {
            let finding = Finding::error("yaml-key", "a list or a mapping cannot be a name");
            refuse(span, finding.help("did you mean to quote it?"))
        }
    }
}
