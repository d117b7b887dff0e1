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

/// The name of a rule without that of its group.
fn last(rule: &serde_json::Value) -> String {
    rule.as_str().and_then(|rule| rule.rsplit('/').next()).expect("a rule").to_owned()
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

#[test]
fn strict_makes_errors_of_warnings() {
    let doubtful = "name: lab\nvirtualNetworks:\n  a: {addressSpace: [10.0.0.0/16], tags: {env: dev}, peerings: {b: {}}}\n  \
        b: {addressSpace: [10.1.0.0/16], tags: {env: prod}, peerings: {a: {}}}\n";
    let (_directory, paths) = files(&[("lab.yaml", doubtful)]);
    let path = paths[0].as_str();
    let taken = run(&["validate", path]);
    assert_eq!((code(&taken), stdout(&taken).trim()), (0, &*format!("{path} is valid, with 1 warning.")));
    assert!(stderr(&taken).contains("warning[dev-prod-connected]"), "{}", stderr(&taken));
    assert!(stderr(&taken).contains(&format!("{path}:3:")), "{}", stderr(&taken));
    let refused = run(&["validate", "--strict", path]);
    assert_eq!((code(&refused), stdout(&refused).trim()), (1, &*format!("{path} is not valid: 1 error.")));
    assert!(stderr(&refused).contains("error[dev-prod-connected]"), "{}", stderr(&refused));
    let output = run(&["validate", "--strict", path, "-o", "json"]);
    let report = json(&output);
    assert_eq!((code(&output), &report["valid"]), (1, &false.into()));
    let found = &report["diagnostics"][0];
    assert_eq!(
        (&found["rule"], &found["azureRule"]),
        (&"dev-prod-connected".into(), &"PEERING-STATE".into())
    );
    assert_eq!((&found["severity"], &found["line"]), (&"error".into(), &3.into()));
    let fine = run(&["validate", "--strict", "examples/two-peered.yaml"]);
    assert_eq!(code(&fine), 0, "{}", stderr(&fine));
}

#[test]
fn search_answers_over_every_header_and_says_by_what() {
    let output = run(&["search", "--to", "web", "--protocol", "tcp", "--file", EXAMPLE, "-o", "json"]);
    let report = json(&output);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let by = |from: &str, port: u64| -> Vec<String> {
        let all = report["allowed"].as_array().expect("a list");
        let holds = |range: &serde_json::Value| {
            let text = range.as_str().expect("a range");
            let (low, high) = text.split_once('-').unwrap_or((text, text));
            (low.parse::<u64>().expect("a port")..=high.parse().expect("a port")).contains(&port)
        };
        let rows = all.iter().filter(|row| {
            row["from"] == from && row["destinationPorts"].as_array().expect("ports").iter().any(holds)
        });
        rows.map(|row| last(&row["rule"])).collect()
    };
    assert_eq!(by("pc", 443), ["allow-https"]);
    assert_eq!(by("pc", 442), ["AllowVnetInBound"]);
    assert_eq!(by("pc", 22), Vec::<String>::new());
    assert_eq!(by("db", 443), ["https"]);
    assert_eq!(by("db", 444), Vec::<String>::new());
    assert_eq!(report["denied"], serde_json::json!([]));
    let explained = stdout(&run(&["search", "--to", "web", "--port", "22", "--explain", "--file", EXAMPLE]));
    assert!(explained.contains("deny-ssh-from-hq") && explained.contains("FirewallDeny"), "{explained}");
    let nobody = run(&["search", "--to", "web", "--from", "batch", "--file", EXAMPLE]);
    assert_eq!(code(&nobody), 1, "{}", stdout(&nobody));
    let unknown = run(&["search", "--to", "nobody", "--file", EXAMPLE]);
    assert_eq!(code(&unknown), 2, "{}", stderr(&unknown));
    let wrong = run(&["search", "--to", "web", "--protocol", "icmp", "--port", "22", "--file", EXAMPLE]);
    assert_eq!(code(&wrong), 64, "{}", stderr(&wrong));
}

#[test]
fn search_knows_the_internet_as_a_set_of_addresses() {
    let lab = "name: lab\nvirtualNetworks:\n  v: {addressSpace: [10.0.0.0/16], subnets: {s: {addressPrefix: 10.0.0.0/24, networkSecurityGroup: g}}}\n\
        virtualMachines: {web: {subnet: v/s, publicIPAddress: 203.0.113.10}, other: {subnet: v/s}}\n\
        networkSecurityGroups:\n  g:\n    securityRules:\n      \
        - {name: partner, priority: 100, direction: Inbound, access: Allow, protocol: Tcp, sourceAddressPrefix: 198.51.100.0/25, destinationAddressPrefix: '*', destinationPortRange: 443}\n";
    let (_directory, paths) = files(&[("lab.yaml", lab)]);
    let report = json(&run(&[
        "search",
        "--to",
        "web",
        "--from",
        "internet",
        "--explain",
        "--file",
        &paths[0],
        "-o",
        "json",
    ]));
    let allowed = report["allowed"].as_array().expect("a list");
    assert_eq!(allowed.len(), 1, "{report}");
    assert_eq!(allowed[0]["from"], "internet");
    assert_eq!(allowed[0]["sourceAddresses"], serde_json::json!(["198.51.100.0/25"]));
    assert_eq!(allowed[0]["destinationPorts"], serde_json::json!(["443"]));
    assert_eq!(allowed[0]["destination"], "203.0.113.10");
    let denied = report["denied"].as_array().expect("a list");
    assert!(denied.iter().all(|row| last(&row["rule"]) == "DenyAllInBound"), "{report}");
}

#[test]
fn a_plan_names_those_whom_a_change_cuts_off() {
    let old = std::fs::read_to_string(format!("{ROOT}/{EXAMPLE}")).expect("the example is there");
    let new = old.replace("destinationPorts: [443]", "destinationPorts: [8443]");
    assert_ne!(old, new, "the example's firewall has a rule for port 443");
    let (_directory, paths) = files(&[("old.yaml", &old), ("new.yaml", &new)]);
    let plan = |new: &str, more: &[&str]| {
        let mut arguments = vec!["plan", new, "--impact", "--from-file", &paths[0]];
        arguments.extend(more);
        run(&arguments)
    };
    let output = plan(&paths[1], &["-o", "json"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let report = json(&output);
    let pairs = report["impact"]["pairs"].as_array().expect("a list");
    let of = |effect: &str| -> Vec<(String, String)> {
        let all = pairs.iter().filter(|pair| pair["effect"] == effect);
        all.map(|pair| (pair["from"].to_string(), pair["destinationPorts"].to_string())).collect()
    };
    assert!(of("drop").contains(&("[\"web\"]".to_owned(), "[\"443\"]".to_owned())), "{report:#}");
    assert!(of("allow").contains(&("[\"web\"]".to_owned(), "[\"8443\"]".to_owned())), "{report:#}");
    assert_eq!(code(&plan(&paths[1], &["--detailed-exitcode"])), 2);
    let text = stdout(&plan(&paths[1], &[]));
    assert!(text.contains("drop") && text.contains("FirewallDeny (fw/default)"), "{text}");
    let same = plan(&paths[0], &["--detailed-exitcode"]);
    assert_eq!(code(&same), 0);
    assert!(stdout(&same).contains("Nobody who talks would notice."), "{}", stdout(&same));
}

#[test]
fn search_tells_who_reaches_an_address_of_the_internet() {
    let lab = "name: lab\nvirtualNetworks:\n  v: {addressSpace: [10.0.0.0/16], subnets: {s: {addressPrefix: 10.0.0.0/24, natGateway: nat}, shut: {addressPrefix: 10.0.1.0/24, networkSecurityGroup: g}}}\n\
        virtualMachines: {b: {subnet: v/s}, c: {subnet: v/shut}}\n\
        natGateways: {nat: {publicIPAddresses: [203.0.113.7]}}\n\
        networkSecurityGroups:\n  g:\n    securityRules:\n      \
        - {name: shut, priority: 100, direction: Outbound, access: Deny, protocol: '*', sourceAddressPrefix: '*', destinationAddressPrefix: Internet, destinationPortRange: '*'}\n";
    let (_directory, paths) = files(&[("lab.yaml", lab)]);
    for to in ["8.8.8.8", "internet"] {
        let search = |more: &[&str]| {
            let mut arguments = vec!["search", "--to", to, "--port", "443", "--file", &paths[0]];
            arguments.extend(more);
            run(&arguments)
        };
        let output = search(&["--explain", "-o", "json"]);
        let report = json(&output);
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        let allowed = report["allowed"].as_array().expect("a list");
        assert!(!allowed.is_empty() && allowed.iter().all(|row| row["from"] == "b"), "{report:#}");
        assert!(
            allowed.iter().all(|row| row["leaves"] == true && row["sourceSeenAs"] == "203.0.113.7"),
            "{report:#}"
        );
        let denied = report["denied"].as_array().expect("a list");
        assert!(!denied.is_empty() && denied.iter().all(|row| row["from"] == "c"), "{report:#}");
        assert!(denied.iter().all(|row| last(&row["rule"]) == "shut"), "{report:#}");
        let text = stdout(&search(&[]));
        assert!(text.contains("no simulated host has the address"), "{text}");
        assert_eq!(code(&search(&["--from", "c"])), 1);
    }
}
