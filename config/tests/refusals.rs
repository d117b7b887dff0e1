//! Azure's rules, broken one by one: which code, which rule, and where. The table is `refusals.txt`.

use std::{fs, path::Path};

use vnet_config::{Attachments, Diagnostic, Severity, load_with};

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

fn findings(text: &str) -> Vec<Diagnostic> {
    match load_with(text, "case.yaml", &Attachments::default()) {
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
        return;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn each_finding_says_what_to_do() {
    for case in read().1 {
        for found in findings(&case.text) {
            let says_itself = ["out-of-range", "external", "empty-list"];
            let has_remedy = found.remedy.as_ref().is_some_and(|remedy| !remedy.is_empty());
            assert!(has_remedy || says_itself.contains(&found.rule.as_ref()), "{}: {found}", case.title);
        }
    }
}
