//! The verbs that look at a whole design, from files alone.

use std::path::PathBuf;
use std::process::{Command, Output};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
const EXAMPLE: &str = "examples/hub-spoke.yaml";

fn run(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vnetctl"));
    command.args(arguments).current_dir(ROOT).env_clear();
    command.env("VNETD_SOCKET", "/nonexistent/vnetd.sock");
    command.output().expect("vnetctl runs")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("output is text")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("messages are text")
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or_else(|| panic!("ended by {:?}", output.status))
}

fn json(output: &Output) -> serde_json::Value {
    let text = stdout(output);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}"))
}

/// Files in a folder of their own.
fn files(all: &[(&str, &str)]) -> (tempfile::TempDir, Vec<String>) {
    let directory = tempfile::tempdir().expect("a directory for the files");
    let paths = all.iter().map(|(name, text)| {
        let path: PathBuf = directory.path().join(name);
        std::fs::write(&path, text).expect("the file is written");
        path.display().to_string()
    });
    let paths = paths.collect();
    (directory, paths)
}

#[test]
fn compare_tells_agreement_difference_and_what_is_unreadable_apart() {
    for (kind, target) in [("effective-routes", "web"), ("effective-nsg", "web")] {
        let own = stdout(&run(&[kind, target, "--file", EXAMPLE, "-o", "json"]));
        let (_directory, paths) =
            files(&[("same.json", &own), ("none.json", "{}"), ("text.json", "nothing")]);
        let same = run(&["compare", kind, target, &paths[0], "--file", EXAMPLE]);
        assert_eq!(code(&same), 0, "{}{}", stdout(&same), stderr(&same));
        assert!(stdout(&same).contains("as in Azure."), "{}", stdout(&same));
        for path in &paths[1..] {
            let output = run(&["compare", kind, target, path, "--file", EXAMPLE]);
            assert_eq!((code(&output), stdout(&output)), (2, String::new()), "{}", stderr(&output));
        }
        let unknown = run(&["compare", kind, "nobody", &paths[0], "--file", EXAMPLE]);
        assert_eq!(code(&unknown), 2, "{}", stderr(&unknown));
    }
    let own = stdout(&run(&["effective-routes", "web", "--file", EXAMPLE, "-o", "json"]));
    let (_directory, paths) = files(&[("other.json", &own.replace("VirtualAppliance", "VnetLocal"))]);
    let other = run(&["compare", "effective-routes", "web", &paths[0], "--file", EXAMPLE, "-o", "json"]);
    let report = json(&other);
    assert_eq!((code(&other), &report["agrees"]), (1, &false.into()));
    assert_eq!(report["differences"][0]["property"], "nextHopType", "{report}");
}
