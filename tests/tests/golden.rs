//! The worked examples, each asked of everybody who must know the answer.

use std::path::Path;

use vnet_tests::fabric::Fabric;
use vnet_tests::golden::{check, discover};
use vnet_tests::model::Lab;
use vnet_tests::subject::Subject;

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/golden"))
}

fn run<S: Subject>(is_model: bool) {
    let mut failures = Vec::new();
    let mut checked = 0;
    for (path, example) in discover(folder()) {
        for case in &example.cases {
            if case.model_only.is_some() && !is_model {
                continue;
            }
            checked += 1;
            for wrong in check::<S>(&example.topology, case) {
                failures.push(format!("{} ({}): {}: {wrong}", example.example, path.display(), case.name));
            }
        }
    }
    assert!(checked > 50, "only {checked} cases were found below {}", folder().display());
    assert!(failures.is_empty(), "{} of {checked} cases fail:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn the_model_gives_the_worked_examples() {
    run::<Lab>(true);
}

#[test]
fn the_fabric_gives_the_worked_examples() {
    run::<Fabric>(false);
}

#[test]
fn validation_accepts_and_refuses_the_worked_examples() {
    let mut failures = Vec::new();
    for (path, example) in discover(folder()) {
        for case in &example.cases {
            for wrong in vnet_tests::accept::check(&example.topology, case) {
                failures.push(format!("{} ({}): {}: {wrong}", example.example, path.display(), case.name));
            }
        }
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

/// The index names every example that there is data for, and nothing else.
#[test]
fn every_example_of_the_index_has_its_data() {
    let index = std::fs::read_to_string(folder().join("index.txt")).expect("the index can be read");
    let listed: Vec<&str> = index
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| line.split_whitespace().next().expect("a line has a word"))
        .collect();
    let examples = discover(folder());
    let has = |number: &str| examples.iter().any(|(_, example)| example.example == number);
    let lacking: Vec<_> = listed.iter().filter(|number| !has(number)).collect();
    assert!(lacking.is_empty(), "no data for {lacking:?}");
    let unlisted: Vec<_> = examples
        .iter()
        .map(|(_, example)| example.example.as_str())
        .filter(|number| {
            (number.starts_with("EX-") || number.starts_with("OBS-")) && !listed.contains(number)
        })
        .collect();
    assert!(unlisted.is_empty(), "the index lacks {unlisted:?}");
    for (path, example) in &examples {
        assert!(!example.cases.is_empty(), "{} has no cases", path.display());
    }
}
