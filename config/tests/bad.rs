//! Files that are wrong: what is said about each is kept beside it as `.stderr`, letter by letter.
//! `UPDATE_GOLDEN=1 cargo test` writes what is said now.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use vnet_config::{Diagnostic, Severity};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bad")
}

fn cases() -> Vec<PathBuf> {
    let entries = fs::read_dir(folder()).expect("the folder of bad files");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    paths.sort();
    paths
}

fn findings(path: &Path) -> Vec<Diagnostic> {
    let text = fs::read_to_string(path).expect("a bad file");
    let origin = path.file_name().expect("a name").to_string_lossy();
    match vnet_config::load(&text, &origin, path.parent()) {
        Ok(loaded) => loaded.warnings,
        Err(found) => {
            assert!(found.has_errors(), "{} is refused without an error", path.display());
            assert_eq!(found.left_out, 0);
            found.list
        }
    }
}

#[test]
fn what_is_said_about_bad_files_is_as_kept() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut wrong = Vec::new();
    for path in cases() {
        let list = findings(&path);
        assert!(!list.is_empty(), "{}: nothing is found", path.display());
        let said: Vec<_> = list.iter().map(ToString::to_string).collect();
        let said = said.join("\n\n") + "\n";
        let golden = path.with_extension("stderr");
        if update {
            fs::write(&golden, &said).expect("a golden file");
        } else if fs::read_to_string(&golden).ok().as_deref() != Some(said.as_str()) {
            wrong.push(format!("{}:\n{said}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Ids of rules in the sources of the crate: each names its finding in a literal.
fn rules_in_sources(folder: &Path, into: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).expect("sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            rules_in_sources(&path, into);
            continue;
        }
        let text = fs::read_to_string(&path).expect("a source");
        for marker in ["Finding::error(", "Finding::warning(", "limit("] {
            for (at, _) in text.match_indices(marker) {
                let rest = text[at + marker.len()..].trim_start();
                if let Some(id) = rest.strip_prefix('"').and_then(|rest| rest.split('"').next()) {
                    into.insert(id.to_owned());
                }
            }
        }
    }
}

#[test]
fn every_rule_is_broken_by_a_file() {
    let mut known = BTreeSet::new();
    rules_in_sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut known);
    assert!(known.len() > 80, "only {} rules found in the sources", known.len());
    // Shown by tests of their own.
    for elsewhere in ["file-too-large", "file", "decode"] {
        assert!(known.remove(elsewhere), "{elsewhere} is no rule");
    }
    let mut found: BTreeSet<String> = cases()
        .iter()
        .flat_map(|path| findings(path))
        .map(|diagnostic| diagnostic.rule.into_owned())
        .collect();
    let tests = folder().join("..");
    let table = fs::read_to_string(tests.join("refusals.txt")).expect("the table of refusals");
    let is_finding = |line: &&str| line.starts_with("error ") || line.starts_with("warning ");
    found
        .extend(table.lines().filter(is_finding).filter_map(|line| Some(line.split(' ').nth(2)?.to_owned())));
    for file in ["limits.rs", "change.rs"] {
        let text = fs::read_to_string(tests.join(file)).expect("a test of its own");
        found.extend(text.split(['"', ' ']).map(str::to_owned));
    }
    let missing: Vec<_> = known.difference(&found).collect();
    assert!(missing.is_empty(), "no bad file breaks {missing:?}");
}

#[test]
fn every_error_says_where() {
    let whole_file = ["empty-file"];
    for path in cases() {
        for diagnostic in findings(&path) {
            let is_whole = whole_file.contains(&diagnostic.rule.as_ref());
            assert!(is_whole || (diagnostic.line > 0 && diagnostic.column > 0), "{diagnostic}");
            let has_remedy = diagnostic.remedy.as_ref().is_some_and(|remedy| !remedy.is_empty());
            let says_itself = [
                "wrong-type",
                "out-of-range",
                "bad-value",
                "unknown-value",
                "empty-list",
                "missing-property",
                "external",
                "empty-secret",
                "unknown-reference",
            ];
            assert!(has_remedy || says_itself.contains(&diagnostic.rule.as_ref()), "no remedy: {diagnostic}");
        }
    }
}

#[test]
fn warnings_do_not_refuse() {
    let path = folder().join("warnings.yaml");
    assert!(findings(&path).iter().all(|diagnostic| diagnostic.severity == Severity::Warning));
}
