//! Azure's rules, broken one by one: which code, which rule, and where. The table is `refusals.txt`.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path};

use vnet_config::{Attachments, Diagnostic, LIMITS, Severity, load_ahead, load_with};

struct Case {
    title: String,
    text: String,
    expected: Vec<String>,
}

fn table() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/refusals.txt")
}

/// The introduction, and the cases.
fn read() -> (String, Vec<Case>) {
    let text = fs::read_to_string(table()).expect("the table");
    let mut parts = text.split("\n## ");
    let introduction = parts.next().expect("an introduction").to_owned();
    let cases = parts.map(|part| {
        let (title, rest) = part.split_once('\n').expect("a title");
        let (text, expected) = rest.split_once("--\n").or_else(|| rest.split_once("--")).expect("a line --");
        Case {
            title: title.to_owned(),
            text: format!("name: lab\n{text}"),
            expected: expected.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect(),
        }
    });
    (introduction, cases.collect())
}

/// A case of what nothing runs yet begins with this line, and is judged as if it ran.
const AHEAD: &str = "name: lab\n# ahead\n";

fn findings(text: &str) -> Vec<Diagnostic> {
    let load = if text.starts_with(AHEAD) { load_ahead } else { load_with };
    match load(text, "case.yaml", &Attachments::default()) {
        Ok(loaded) => loaded.warnings,
        Err(found) => {
            assert_eq!(found.left_out, 0);
            found.list
        }
    }
}

fn line(found: &Diagnostic) -> String {
    let severity = match found.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    };
    let code = found.code.as_deref().unwrap_or("-");
    format!("{severity} {code} {} {}:{}", found.rule, found.line, found.column)
}

#[test]
fn each_rule_is_kept_with_its_code_and_place() {
    let (introduction, cases) = read();
    assert!(cases.len() > 60, "only {} cases", cases.len());
    let mut written = introduction;
    let mut wrong = Vec::new();
    for case in cases {
        let found = findings(&case.text);
        let lines: Vec<String> = found.iter().map(line).collect();
        if lines != case.expected {
            let said: Vec<String> = found.iter().map(ToString::to_string).collect();
            wrong.push(format!(
                "{}: expected {:#?}, found {lines:#?}\n{}",
                case.title,
                case.expected,
                said.join("\n")
            ));
        }
        let body = case.text.strip_prefix("name: lab\n").expect("the first line");
        written.push_str(&format!("\n## {}\n{body}--", case.title));
        lines.iter().for_each(|line| written.push_str(&format!("\n{line}")));
    }
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(table(), written + "\n").expect("the table");
        fs::write(document_path(), document(&read().1)).expect("the document");
        return;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

const INTRODUCTION: &str = "\
# What is refused

<!-- Generated from config/tests/refusals.txt and config/src/limit.rs by a test of vnet-config; UPDATE_GOLDEN=1 cargo test -p vnet-config writes it. -->

`vnetctl validate FILE` refuses what Azure would refuse, with Azure's error code where one is known, and the place in the file. All that is
wrong with a file is told at once. Warnings refuse nothing; what needs the compiled design is in [LINTS.md](LINTS.md). Rules of what
[TOPOLOGY.md](TOPOLOGY.md) calls not supported yet hold from the day that it is.

## Limits

One more than the figure is refused; nine tenths of it and more are warned of (`limit-near`). How many connections a VPN gateway takes hangs
on its SKU (`too-many-tunnels`), as does how many clients (`too-many-clients`); how many networks a circuit takes, on its tier and its speed
(`too-many-networks-of-circuit`).

| of | at most | Azure's code | rule |
| --- | --- | --- | --- |
";

/// The document of all rules, by the cases that show them.
fn document(cases: &[Case]) -> String {
    let mut out = INTRODUCTION.to_owned();
    let code = |code: Option<&str>| code.map_or(String::new(), |code| format!("`{code}`"));
    for limit in LIMITS {
        let (max, what) = (limit.max, limit.what);
        let _ = writeln!(out, "| {} | {max} {what} | {} | `{}` |", limit.owner, code(limit.code), limit.rule);
    }
    let mut rules: BTreeMap<String, (Diagnostic, Vec<&str>)> = BTreeMap::new();
    for case in cases {
        for found in findings(&case.text) {
            let entry = rules.entry(found.rule.to_string()).or_insert_with(|| (found, Vec::new()));
            if entry.1.last() != Some(&case.title.as_str()) {
                entry.1.push(&case.title);
            }
        }
    }
    for (severity, title) in [(Severity::Error, "Refusals"), (Severity::Warning, "Warnings")] {
        let _ = writeln!(
            out,
            "\n## {title}\n\n| rule | Azure's code | as in | what to do |\n| --- | --- | --- | --- |"
        );
        for (rule, (found, titles)) in rules.iter().filter(|(_, (found, _))| found.severity == severity) {
            let remedy = found.remedy.as_deref().unwrap_or_default().replace('|', "\\|");
            let codes = code(found.code.as_deref());
            let _ = writeln!(out, "| `{rule}` | {codes} | {} | {remedy} |", titles.join("; "));
        }
    }
    out
}

fn document_path() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/REFUSALS.md")
}

#[test]
fn the_document_is_current() {
    // The test above writes both files then.
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        return;
    }
    let committed = fs::read_to_string(document_path()).unwrap_or_default();
    assert!(
        committed == document(&read().1),
        "docs/REFUSALS.md is not current: UPDATE_GOLDEN=1 cargo test -p vnet-config"
    );
}

#[test]
fn each_finding_says_what_to_do() {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        return;
    }
    for case in read().1 {
        for found in findings(&case.text) {
            let says_itself =
                ["out-of-range", "external", "empty-list", "bad-value", "unknown-value", "wrong-type"];
            let has_remedy = found.remedy.as_ref().is_some_and(|remedy| !remedy.is_empty());
            assert!(has_remedy || says_itself.contains(&found.rule.as_ref()), "{}: {found}", case.title);
        }
    }
}
