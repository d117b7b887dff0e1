//! Prometheus' text format, read: enough for assertions on single samples.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::wait::PATIENCE;

/// One sample.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The metric's name.
    pub name: String,
    /// Its labels, in the order of the text.
    pub labels: Vec<(String, String)>,
    /// Its value.
    pub value: f64,
}

impl Sample {
    /// Whether the labels include all of these.
    pub fn has(&self, labels: &[(&str, &str)]) -> bool {
        labels.iter().all(|(name, value)| self.labels.iter().any(|(n, v)| n == name && v == value))
    }
}

/// All samples of a scrape.
#[derive(Clone, Debug, Default)]
pub struct Scrape(pub Vec<Sample>);

impl Scrape {
    /// The sum of the samples of `name` that carry all of `labels`; 0 where there is none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.0
            .iter()
            .filter(|sample| sample.name == name && sample.has(labels))
            .map(|sample| sample.value)
            .sum()
    }

    /// Whether there is a sample of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.0.iter().any(|sample| sample.name == name)
    }
}

/// Reads the text format.
///
/// # Errors
/// A line is neither comment nor sample.
pub fn parse(text: &str) -> Result<Scrape> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(sample).collect::<Result<_>>().map(Scrape)
}

fn sample(line: &str) -> Result<Sample> {
    let bad = || format!("no sample: {line}");
    let (head, value) = line.rsplit_once(' ').with_context(bad)?;
    let value = value.parse().with_context(bad)?;
    let Some((name, rest)) = head.split_once('{') else {
        return Ok(Sample { name: head.to_owned(), labels: Vec::new(), value });
    };
    let mut rest = rest.strip_suffix('}').with_context(bad)?;
    let mut labels = Vec::new();
    while !rest.is_empty() {
        let (label, after) = rest.split_once("=\"").with_context(bad)?;
        let (text, length) = quoted(after).with_context(bad)?;
        labels.push((label.trim_start_matches(',').to_owned(), text));
        rest = &after[length..];
    }
    Ok(Sample { name: name.to_owned(), labels, value })
}

/// The text up to the closing quote, unescaped, and how many bytes it took with the quote.
fn quoted(text: &str) -> Option<(String, usize)> {
    let mut value = String::new();
    let mut escaped = false;
    for (at, letter) in text.char_indices() {
        match (escaped, letter) {
            (true, 'n') => value.push('\n'),
            (true, other) => value.push(other),
            (false, '"') => return Some((value, at + 1)),
            (false, '\\') => {
                escaped = true;
                continue;
            }
            (false, other) => value.push(other),
        }
        escaped = false;
    }
    None
}

/// The body of `GET path` over a Unix socket.
///
/// # Errors
/// Nothing answers, or not with status 200.
pub fn get(socket: &Path, path: &str) -> Result<String> {
    let mut stream =
        UnixStream::connect(socket).with_context(|| format!("cannot connect to {}", socket.display()))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    if head.split(' ').nth(1) != Some("200") {
        bail!("GET {path}: {head}\n{body}");
    }
    Ok(body.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_labels_and_values() {
        let scrape = parse("# HELP a b\na_total{lab=\"x\",rule=\"a \\\"b\\\", {c}\"} 3\nup 1e3\n").unwrap();
        assert_eq!(scrape.sum("a_total", &[("lab", "x")]), 3.0);
        assert_eq!(scrape.sum("a_total", &[("rule", "a \"b\", {c}")]), 3.0);
        assert_eq!(scrape.sum("up", &[]), 1000.0);
        assert_eq!(scrape.sum("a_total", &[("lab", "y")]), 0.0);
        assert!(parse("nonsense").is_err());
    }
}
