//! The command line as a user and a script meet it, without a daemon.
//!
//! `UPDATE_GOLDEN=1 cargo test -p vnetctl --test cli` writes the golden files anew.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
const EXAMPLE: &str = "examples/hub-spoke.yaml";

fn vnetctl(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vnetctl"));
    command.args(arguments).current_dir(ROOT).env_clear();
    command.env("VNETD_SOCKET", "/nonexistent/vnetd.sock");
    command
}

fn run(arguments: &[&str]) -> Output {
    vnetctl(arguments).output().expect("vnetctl runs")
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

/// A topology in a folder of its own.
fn file(text: &str) -> (tempfile::TempDir, String) {
    let directory = tempfile::tempdir().expect("a directory for the file");
    let path = directory.path().join("lab.yaml");
    std::fs::write(&path, text).expect("the file is written");
    let path = path.display().to_string();
    (directory, path)
}

#[track_caller]
fn golden(name: &str, arguments: &[&str]) {
    let output = run(arguments);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.txt"));
    let text = stdout(&output);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &text).expect("golden files can be written");
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(text == expected, "{name} is not as it was:\n{text}\nUPDATE_GOLDEN=1 takes it over");
}

#[test]
fn answers_from_a_file_are_as_they_were() {
    golden("path-firewall", &["path", "web", "db", "tcp/443", "--short", "--file", EXAMPLE]);
    golden("path-not-transitive", &["path", "batch", "web", "icmp", "--file", EXAMPLE]);
    golden("path-vpn", &["path", "pc", "web", "tcp/443", "--file", EXAMPLE]);
    golden("path-rejected", &["path", "web", "db", "tcp/443", "--file", EXAMPLE]);
    golden("effective-routes", &["effective-routes", "web", "--file", EXAMPLE]);
    golden("effective-nsg", &["effective-nsg", "web", "--file", EXAMPLE]);
    golden(
        "ip-flow-verify",
        &[
            "ip-flow-verify",
            "--vm",
            "web",
            "--direction",
            "inbound",
            "--protocol",
            "TCP",
            "--local",
            "10.1.0.4:22",
            "--remote",
            "192.168.1.10:50000",
            "--file",
            EXAMPLE,
        ],
    );
    golden(
        "nsg-diagnostics",
        &[
            "nsg-diagnostics",
            "--vm",
            "web",
            "--direction",
            "Inbound",
            "--protocol",
            "TCP",
            "--source",
            "192.168.0.0/16",
            "--destination",
            "10.1.0.4",
            "--port",
            "22-443",
            "--file",
            EXAMPLE,
        ],
    );
    golden("next-hop", &["next-hop", "--vm", "web", "--dest-ip", "10.2.0.4", "--file", EXAMPLE]);
    golden("matrix", &["matrix", "icmp", "--file", EXAMPLE]);
    golden("plan", &["plan", EXAMPLE]);
    golden("peering-list", &["peering", "list", "--file", EXAMPLE]);
    golden("peering-list-subnets", &["peering", "list", "--file", "examples/subnet-peering.yaml"]);
    golden("peering-show", &["peering", "show", "spoke1/hub", "--file", EXAMPLE]);
    golden("help", &["--help"]);
}

#[test]
fn a_next_hop_from_anothers_address_is_refused() {
    let ask = |source| {
        run(&["next-hop", "--vm", "web", "--dest-ip", "10.2.0.4", "--source-ip", source, "--file", EXAMPLE])
    };
    assert_eq!(code(&ask("10.1.0.4")), 0);
    let refused = ask("10.2.0.4");
    assert_eq!((code(&refused), stdout(&refused)), (1, String::new()));
    assert!(stderr(&refused).contains("SourceIpDoesNotMatchNicIp"), "{}", stderr(&refused));
}

#[test]
fn an_answer_from_a_file_says_what_it_holds_for() {
    let output = run(&["matrix", "--file", EXAMPLE]);
    assert!(stderr(&output).contains("for the state that a fresh up converges to"), "{}", stderr(&output));
    let output = run(&["matrix", "--file", EXAMPLE, "-o", "json"]);
    assert_eq!(stderr(&output), "");
}

#[test]
fn json_is_azures_and_alone() {
    let routes = json(&run(&["effective-routes", "web", "--file", EXAMPLE, "-o", "json"]));
    let user = routes["value"].as_array().and_then(|all| all.iter().find(|route| route["source"] == "User"));
    let expected = serde_json::json!({
        "addressPrefix": ["10.0.0.0/8"], "disableBgpRoutePropagation": false, "name": "private",
        "nextHopIpAddress": ["10.0.1.4"], "nextHopType": "VirtualAppliance", "source": "User", "state": "Active"
    });
    assert_eq!(user, Some(&expected));
    let path = json(&run(&["path", "web", "db", "tcp/443", "--file", EXAMPLE, "-o", "json"]));
    assert_eq!((&path["verdict"], &path["via"]), (&"allow".into(), &serde_json::json!(["fw"])));
    let yaml = stdout(&run(&["path", "web", "db", "tcp/443", "--file", EXAMPLE, "-o", "yaml"]));
    assert!(yaml.contains("verdict: allow"), "{yaml}");
}

#[test]
fn every_flag_has_its_variable() {
    let output = vnetctl(&["path", "web", "db", "tcp/443"])
        .env("VNETCTL_FILE", EXAMPLE)
        .env("VNETCTL_OUTPUT", "json")
        .output()
        .expect("vnetctl runs");
    assert_eq!(json(&output)["verdict"], "allow");
}

#[test]
fn a_valid_file_is_said_to_be_so() {
    let output = run(&["validate", "examples/two-peered.yaml"]);
    assert_eq!((code(&output), stdout(&output).trim()), (0, "examples/two-peered.yaml is valid."));
    assert_eq!(json(&run(&["validate", "examples/two-peered.yaml", "-o", "json"]))["valid"], true);
    let text =
        std::fs::read(PathBuf::from(ROOT).join("examples/two-peered.yaml")).expect("the example is there");
    let mut child = vnetctl(&["validate", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("vnetctl runs");
    child.stdin.take().expect("piped").write_all(&text).expect("vnetctl reads");
    assert_eq!(code(&child.wait_with_output().expect("vnetctl ends")), 0);
}

#[test]
fn a_refused_file_names_line_column_and_remedy() {
    let (_directory, path) = file("name: lab\nvirtualNetwork:\n  hub:\n    addressSpace: [10.0.0.0/16]\n");
    for verb in ["validate", "plan", "up"] {
        let output = run(&[verb, &path]);
        let message = stderr(&output);
        assert_eq!(code(&output), 1, "{verb}: {message}");
        assert_eq!(stdout(&output), "");
        assert!(message.contains(&format!("{path}:2:1")), "{message}");
        assert!(message.contains("virtualNetworks"), "the nearest name is suggested: {message}");
    }
    let output = run(&["validate", &path, "-o", "json"]);
    let report = json(&output);
    assert_eq!((code(&output), &report["valid"]), (1, &false.into()));
    assert_eq!(report["diagnostics"][0]["line"], 2);
}

#[test]
fn wrong_command_lines_exit_64() {
    let wrong: [&[&str]; 9] = [
        &[],
        &["nothing"],
        &["path", "web"],
        &["path", "web", "db", "tcp"],
        &["path", "web", "db", "--probe", "--file", EXAMPLE],
        &["traffic", "web", "db", "udp/5001"],
        &["ip-flow-verify", "--vm", "web"],
        &["peering", "sync", "hub"],
        &["--lab", "other", "plan", EXAMPLE],
    ];
    for arguments in wrong {
        let output = run(arguments);
        assert_eq!(code(&output), 64, "{arguments:?}: {}", stderr(&output));
        assert_eq!(stdout(&output), "", "{arguments:?}");
    }
    for arguments in [&["--help"][..], &["--version"], &["path", "--help"], &["help", "gateway", "config"]] {
        let output = run(arguments);
        assert_eq!((code(&output), stderr(&output)), (0, String::new()), "{arguments:?}");
    }
}

#[test]
fn without_a_daemon_each_verb_fails_in_its_own_way() {
    let cases: [(&[&str], i32); 6] = [
        (&["drops"], 1),
        (&["test"], 2),
        (&["exec", "web", "--", "true"], 125),
        (&["--lab", "hub", "gateway", "status"], 1),
        (&["ping", "web", "db"], 1),
        (&["--lab", "hub", "peering", "sync", "hub/spoke1"], 1),
    ];
    for (arguments, expected) in cases {
        let output = run(arguments);
        assert_eq!(code(&output), expected, "{arguments:?}");
        let message = stderr(&output);
        assert!(message.contains("no vnetd listens on /nonexistent/vnetd.sock"), "{arguments:?}: {message}");
    }
    let output = run(&["labs", "-o", "json"]);
    assert_eq!((code(&output), json(&output)), (0, serde_json::json!({ "value": [] })));
}

#[test]
fn an_unknown_name_is_refused_with_those_that_are_known() {
    let output = run(&["path", "web", "nobody", "--file", EXAMPLE]);
    let message = stderr(&output);
    assert_eq!(code(&output), 1);
    assert!(message.contains("nobody") && message.contains("batch"), "{message}");
    let output = run(&["peering", "show", "spoke1/spoke2", "--file", EXAMPLE]);
    let message = stderr(&output);
    assert_eq!(code(&output), 1);
    assert!(message.contains("spoke1/hub"), "{message}");
}

#[test]
fn schema_and_completions_are_complete() {
    let schema = json(&run(&["schema"]));
    assert!(schema["properties"]["virtualNetworks"].is_object(), "{schema}");
    // Editors refuse short forms that the schema does not write out.
    assert!(schema["$defs"]["Subnet"]["anyOf"].is_array(), "{schema}");
    for shell in ["bash", "zsh", "fish"] {
        let script = stdout(&run(&["completions", shell]));
        assert!(script.contains("effective-routes") && script.contains("ip-flow-verify"), "{shell}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let mut child =
        vnetctl(&["schema"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("vnetctl runs");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("vnetctl ends");
    assert_eq!((code(&output), stderr(&output)), (0, String::new()));
}

#[test]
fn nobody_at_standard_error_is_no_error() {
    let (_directory, path) = file(
        "name: one\nvirtualNetworks: {a: {addressSpace: [10.0.0.0/16], peerings: {b: {}}}, b: {addressSpace: [10.1.0.0/16]}}\n",
    );
    let told = run(&["validate", &path]);
    assert!(!stderr(&told).is_empty(), "a finding is told on standard error");
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut command = vnetctl(&["validate", &path]);
    let output =
        command.stdout(Stdio::piped()).stderr(writer).spawn().and_then(std::process::Child::wait_with_output);
    let output = output.expect("vnetctl runs");
    assert_eq!((code(&output), stdout(&output)), (code(&told), stdout(&told)));
}
