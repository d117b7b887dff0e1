//! What is wrong with a file, where, and what to do about it.

use std::{borrow::Cow, cell::OnceCell, fmt};

use serde::{Deserialize, Serialize};

/// Diagnostics beyond this number are counted, not kept.
pub const DIAGNOSTICS_MAX: usize = 100;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Severity {
    /// The file is refused.
    Error,
    /// The file is taken, but likely not what was meant.
    Warning,
}

/// One finding, with its place in the source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// Azure's error code, where Azure has one for this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<Cow<'static, str>>,
    /// The rule that found it, such as `subnet-outside-network`.
    pub rule: Cow<'static, str>,
    /// The rule of Azure that it rests on: an id of docs/AZURE-RULES.md, such as `PEERING-TRANSIT`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub azure_rule: Option<Cow<'static, str>>,
    /// The place in the topology, such as `virtualNetworks.hub.peerings.spoke1`.
    pub path: String,
    /// The file's name as the user gave it.
    pub origin: String,
    /// Line in the file, from 1; 0 where the finding is about the file as a whole.
    pub line: u32,
    /// Column in characters, from 1; 0 where the finding is about the file as a whole.
    pub column: u32,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// The line of the file, cut to a width that a terminal can show.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_line: Option<String>,
    /// How many characters are meant.
    #[serde(default)]
    pub length: u32,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        write!(f, "{severity}[{}]: {}", self.code.as_ref().unwrap_or(&self.rule), self.message)?;
        let number = self.line.to_string();
        let margin = " ".repeat(number.len());
        if self.line == 0 {
            write!(f, "\n --> {}", self.origin)?;
        } else {
            write!(f, "\n{margin}--> {}:{}:{}", self.origin, self.line, self.column)?;
        }
        if let Some(source) = &self.source_line {
            let indent = " ".repeat(self.column.saturating_sub(1) as usize);
            let carets = "^".repeat(self.length.max(1) as usize);
            write!(f, "\n{margin} |\n{number} | {source}\n{margin} | {indent}{carets}")?;
        }
        if let Some(remedy) = &self.remedy {
            write!(f, "\n{margin} = help: {remedy}")?;
        }
        Ok(())
    }
}

/// All findings about one file, in the order of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Diagnostics {
    /// The findings, at most [`DIAGNOSTICS_MAX`].
    pub list: Vec<Diagnostic>,
    /// How many more there were.
    #[serde(default)]
    pub left_out: usize,
}

impl Diagnostics {
    /// Whether the file is refused.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.list.iter().any(|diagnostic| diagnostic.severity == Severity::Error)
    }

    /// Brings the findings into the order of the file, each once, and keeps [`DIAGNOSTICS_MAX`] of them.
    pub fn sort_and_cap(&mut self) {
        self.list.sort_by(|a, b| (a.line, a.column, &a.message).cmp(&(b.line, b.column, &b.message)));
        self.list.dedup();
        if self.list.len() > DIAGNOSTICS_MAX {
            // Warnings give way first: an error must never be crowded out.
            self.list.sort_by_key(|diagnostic| diagnostic.severity);
            self.left_out += self.list.len() - DIAGNOSTICS_MAX;
            self.list.truncate(DIAGNOSTICS_MAX);
            self.list.sort_by_key(|diagnostic| (diagnostic.line, diagnostic.column));
        }
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.list.iter().enumerate() {
            if index > 0 {
                f.write_str("\n\n")?;
            }
            diagnostic.fmt(f)?;
        }
        if self.left_out > 0 {
            write!(f, "\n\nand {} more", self.left_out)?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

/// Makes diagnostics of one file: knows its name and its lines.
#[derive(Debug)]
pub(crate) struct Reporter<'a> {
    origin: &'a str,
    lines: Lines<'a>,
    pub(crate) found: Diagnostics,
}

/// The lines of a text, looked for when the first is asked for: most texts have nothing to find.
#[derive(Debug)]
pub(crate) struct Lines<'a> {
    text: &'a str,
    lines: OnceCell<Vec<&'a str>>,
}

/// The lines of a text as YAML counts them: a lone carriage return ends one too.
fn lines_of(text: &str) -> Vec<&str> {
    if !text.contains('\r') {
        return text.split('\n').collect();
    }
    let mut lines: Vec<&str> = Vec::new();
    for line in text.split('\n') {
        lines.extend(line.strip_suffix('\r').unwrap_or(line).split('\r'));
    }
    lines
}

/// A place in the text. Line and column count from 1; line 0 is the file as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) line: u32,
    pub(crate) column: u32,
    pub(crate) length: u32,
}

/// A finding before it has a place.
#[derive(Clone, Debug)]
pub struct Finding {
    pub(crate) severity: Severity,
    pub(crate) code: Option<&'static str>,
    pub(crate) azure_rule: Option<&'static str>,
    pub(crate) rule: &'static str,
    pub(crate) message: String,
    pub(crate) remedy: Option<String>,
}

impl Finding {
    /// A finding that refuses the file. `rule` is its id, in kebab case.
    pub fn error(rule: &'static str, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            code: None,
            azure_rule: None,
            rule,
            message: message.into(),
            remedy: None,
        }
    }

    /// A finding about a file that is taken. `rule` is its id, in kebab case.
    pub fn warning(rule: &'static str, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(rule, message) }
    }

    /// With the error code that Azure answers with.
    #[must_use]
    pub fn code(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }

    /// With the rule of Azure that it rests on: an id of docs/AZURE-RULES.md.
    #[must_use]
    pub fn azure_rule(mut self, id: &'static str) -> Self {
        self.azure_rule = Some(id);
        self
    }

    /// With what to do about it.
    #[must_use]
    pub fn help(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    pub(crate) fn maybe_help(mut self, remedy: Option<String>) -> Self {
        self.remedy = remedy;
        self
    }
}

/// The line with a star for each character of a shared key that it writes out.
fn without_keys(line: &str) -> Cow<'_, str> {
    const KEY: &str = "sharedKey";
    if !line.contains(KEY) {
        return Cow::Borrowed(line);
    }
    // On a line of its own a value without quotes may hold commas.
    let is_alone = line.trim_start_matches([' ', '-', '"', '\'']).starts_with(KEY);
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find(KEY) {
        let (before, after) = rest.split_at(at + KEY.len());
        out.push_str(before);
        let value = after.trim_start_matches(['"', '\'']).trim_start();
        let Some(value) = value.strip_prefix(':').map(str::trim_start) else {
            rest = after;
            continue;
        };
        let quote = value.chars().next().filter(|first| matches!(first, '"' | '\''));
        let value = quote.map_or(value, |_| &value[1..]);
        out.push_str(&after[..after.len() - value.len()]);
        let length = match quote {
            Some(quote) => value.find(quote),
            // A mapping says where the key is, and is no secret.
            None if value.starts_with('{') => Some(0),
            None if is_alone => None,
            None => value.find([',', '}']),
        };
        let length = length.unwrap_or(value.len());
        out.extend(value[..length].chars().map(|_| '*'));
        rest = &value[length..];
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// Longest part of a source line that is shown.
const WIDTH_MAX: usize = 160;

impl<'a> Reporter<'a> {
    pub(crate) fn new(origin: &'a str, text: &'a str) -> Self {
        Self { origin, lines: Lines::new(text), found: Diagnostics::default() }
    }

    pub(crate) fn report(&mut self, span: Span, path: &str, finding: Finding) {
        self.found.list.push(self.lines.place(self.origin, span, path, finding));
    }
}

impl<'a> Lines<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self { text, lines: OnceCell::new() }
    }

    fn all(&self) -> &[&'a str] {
        self.lines.get_or_init(|| lines_of(self.text))
    }

    /// The scanner places what is missing at the end on a line behind the last: that is the end of the last one.
    fn clamp(&self, span: Span) -> Span {
        let count = u32::try_from(self.all().len()).unwrap_or(u32::MAX);
        if span.line <= count {
            return span;
        }
        let last = self.all().last().map_or(0, |line| line.chars().count() as u32);
        Span { line: count, column: last + 1, length: 1 }
    }

    /// The finding with its place, and the line that it is about.
    pub(crate) fn place(&self, origin: &str, span: Span, path: &str, finding: Finding) -> Diagnostic {
        let span = self.clamp(span);
        let source = (span.line as usize).checked_sub(1).and_then(|index| self.all().get(index));
        let fits = (span.column as usize) < WIDTH_MAX;
        let source_line = source.filter(|_| fits).map(|line| {
            let line = without_keys(line);
            line.chars().take(WIDTH_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect::<String>()
        });
        let rest = source_line
            .as_ref()
            .map_or(0, |line| (line.trim_end().chars().count() as u32 + 1).saturating_sub(span.column));
        Diagnostic {
            severity: finding.severity,
            code: finding.code.map(Cow::Borrowed),
            rule: Cow::Borrowed(finding.rule),
            azure_rule: finding.azure_rule.map(Cow::Borrowed),
            path: path.to_owned(),
            origin: origin.to_owned(),
            line: span.line,
            column: span.column,
            message: finding.message,
            remedy: finding.remedy,
            source_line,
            length: span.length.min(rest).max(1),
        }
    }
}

/// The name of `known` that `wrong` most likely means.
pub(crate) fn nearest<'k>(wrong: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let lower = wrong.to_lowercase();
    // Comparing is quadratic in the length, and no name is this long.
    if lower.len() > 100 {
        return None;
    }
    known
        .into_iter()
        .filter(|name| name.len() <= 100)
        .map(|name| (strsim::damerau_levenshtein(&lower, &name.to_lowercase()), name))
        .filter(|(distance, name)| *distance <= (name.len().max(lower.len()) / 3).max(1))
        .min()
        .map(|(_, name)| name)
}
