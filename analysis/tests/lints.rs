//! Each lint: a file that shows it, with its finding as users see it, and one that does not.
//!
//! `UPDATE_GOLDEN=1 cargo test -p vnet-analysis --test lints` writes the findings anew.

use std::path::PathBuf;

use vnet_analysis::lint::{ALL, lint_file};
use vnet_config::{Diagnostic, Severity};

fn folder(lint: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/lints").join(lint)
}

fn findings(lint: &str, name: &str) -> Vec<Diagnostic> {
    let text = std::fs::read_to_string(folder(lint).join(name)).unwrap();
    let loaded =
        vnet_config::load(&text, name, None).unwrap_or_else(|error| panic!("{lint}/{name}:\n{error}"));
    lint_file(&loaded)
}

#[test]
fn every_lint_finds_its_example_and_nothing_in_its_counterpart() {
    for lint in ALL {
        let shown = findings(lint.id, "shows.yaml");
        let own: Vec<&Diagnostic> = shown.iter().filter(|found| found.rule == lint.id).collect();
        assert!(!own.is_empty(), "{} does not find its own example", lint.id);
        for found in &own {
            assert_eq!(found.severity, Severity::Warning);
            assert!(found.line > 0 && found.remedy.is_some(), "{found}");
            assert_eq!(found.azure_rule.as_deref(), Some(lint.azure_rules[0].id()));
        }
        let text: String = own.iter().map(|found| format!("{found}\n\n")).collect();
        let path = folder(lint.id).join("shows.txt");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        let expected = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(text == expected, "{} is not as it was:\n{text}", lint.id);
        let quiet: Vec<Diagnostic> =
            findings(lint.id, "quiet.yaml").into_iter().filter(|found| found.rule == lint.id).collect();
        assert!(quiet.is_empty(), "{} finds {quiet:?}", lint.id);
    }
}

#[test]
fn every_lint_is_in_the_documentation_and_the_other_way_round() {
    let text = include_str!("../../docs/LINTS.md");
    let own = text.split("## Found with the file alone").next().unwrap();
    let documented: Vec<&str> =
        own.lines().filter_map(|line| line.strip_prefix("### ")).map(str::trim).collect();
    let coded: Vec<&str> = ALL.iter().map(|lint| lint.id).collect();
    assert_eq!(documented, coded);
    for lint in ALL {
        let section = own.split("### ").find(|section| section.starts_with(lint.id)).unwrap();
        assert!(section.contains(lint.summary), "{}: the summary is '{}'", lint.id, lint.summary);
        let rules: Vec<String> = lint.azure_rules.iter().map(|rule| format!("`{}`", rule.id())).collect();
        assert!(section.contains(&format!("Rules: {}", rules.join(", "))), "{}: {rules:?}", lint.id);
    }
}
