//! The hub-and-spoke story of `examples/hub-spoke.yaml`.

use std::{collections::HashSet, ffi::OsStr, fs};

use anyhow::{Context, Result, ensure};
use vnet_integration::binaries::workspace;
use vnet_integration::lab::Lab as Running;
use vnet_integration::suite::Lab;
use vnet_integration::{Scene, switches};

pub(crate) const LABS: &[Lab] = &[
    Lab::new("story::proves_its_expectations", proves_its_expectations),
    Lab::new("story::spokes_are_not_transitive", spokes_are_not_transitive).needs(&["ping", "nc"]),
    Lab::new("story::prediction_agrees_with_packets", prediction_agrees),
    Lab::new("story::holds_without_offloads_and_with_two_workers", holds_without_offloads)
        .needs(&["iperf3", "nc", "ping"]),
    Lab::new("story::every_example_proves_its_expectations", every_example),
    Lab::new("story::the_readme_is_true", readme_is_true).needs(&["ping"]),
    Lab::new("story::every_verb_answers", every_verb_answers).needs(&["ping"]),
];

/// Examples that must be among those whose expectations are proved.
const PROVED: &[&str] = &[
    "spokes-peered",
    "spokes-peered-two-regions",
    "firewall-single-region",
    "firewall-north-south",
    "firewall-two-regions",
    "subnet-peering",
    "nva-chain",
    "spokes-by-vpn",
    "gateway-transit",
    "hub-spoke",
];

/// The example's text.
pub(crate) fn topology() -> Result<String> {
    let file = workspace().join("examples/hub-spoke.yaml");
    fs::read_to_string(&file).with_context(|| file.display().to_string())
}

fn proves_its_expectations(scene: &Scene) -> Result<()> {
    proves_expectations(&scene.up(&topology()?)?)
}

fn proves_expectations(lab: &Running) -> Result<()> {
    let output = lab.ctl(&["test"])?.ok()?;
    let passed = output.stdout.lines().filter(|line| line.contains("[PASS]")).count();
    ensure!(passed >= 8 && !output.stdout.contains("[FAIL]"), "{}", output.stdout);
    Ok(())
}

/// What is faster must not be otherwise: every switch off, and flows spread over two workers.
fn holds_without_offloads(scene: &Scene) -> Result<()> {
    let daemon = switches::all_off(scene.idle_daemon()?).env("VNETD_WORKERS", "2");
    switches::expect_known(&daemon)?;
    daemon.run()?;
    let lab = scene.up_on(daemon, &topology()?)?;
    lab.wait_tunnels()?;
    proves_expectations(&lab)?;
    is_not_transitive(&lab)?;
    predicts(&lab)?;
    for (from, to, address, port) in
        [("batch", "dns", "10.0.2.4", 5201), ("web", "db", "10.2.0.4", 443), ("pc", "dns", "10.0.2.4", 5202)]
    {
        let text = port.to_string();
        let _server = lab.serve(to, port, &["iperf3", "-s", "-1", "-p", &text])?;
        let client = lab.exec(from, &["iperf3", "-c", address, "-p", &text, "-t", "2", "-P", "4", "-J"])?;
        let report = vnet_integration::iperf::Report::read(&client)?;
        ensure!(report.received_bytes()? >= 5e6, "{from} to {to}: {} bytes", report.received_bytes()?);
    }
    lab.expect_balance()
}

fn every_example(scene: &Scene) -> Result<()> {
    let examples = workspace().join("examples");
    for entry in fs::read_dir(&examples)? {
        let file = entry?.path();
        if file.extension().is_none_or(|extension| extension != "yaml") {
            // What a topology refers to lies beside it.
            fs::copy(&file, scene.folder().join(file.file_name().context("no name")?))?;
        }
    }
    let mut proved = HashSet::new();
    for entry in fs::read_dir(&examples)? {
        let file = entry?.path();
        if file.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let lab = scene.up(&fs::read_to_string(&file)?).with_context(|| file.display().to_string())?;
        let output = lab.ctl(&["test"])?.ok().with_context(|| file.display().to_string())?;
        let is_proved = output.stdout.contains("[PASS]") && !output.stdout.contains("[FAIL]");
        ensure!(is_proved, "{}: {}", file.display(), output.stdout);
        let name = file.file_stem().and_then(OsStr::to_str).context("no name")?;
        proved.insert(name.to_owned());
    }
    let missing: Vec<&str> = PROVED.iter().copied().filter(|name| !proved.contains(*name)).collect();
    ensure!(missing.is_empty(), "not proved: {missing:?}");
    Ok(())
}

/// The topology that the README shows, and what it says of it.
fn readme_is_true(scene: &Scene) -> Result<()> {
    let readme = fs::read_to_string(workspace().join("README.md"))?;
    let (_, rest) = readme.split_once("```yaml\n").context("the README shows no topology")?;
    let (topology, _) = rest.split_once("```").context("the topology has no end")?;
    ensure!(topology.lines().count() == 20, "{} lines", topology.lines().count());
    let lab = scene.up(topology)?;
    lab.expect_ping("web", "10.0.2.4")?;
    for (service, verdict) in [("tcp/443", "allow"), ("tcp/22", "FirewallDeny")] {
        let output = lab.ctl(&["path", "web", "db", service, "--short"])?;
        let shown: Vec<&str> = output.stdout.lines().map(str::trim_end).collect();
        ensure!(output.stdout.to_lowercase().contains(&verdict.to_lowercase()), "{}", output.stdout);
        for line in shown.iter().filter(|line| !line.is_empty()) {
            ensure!(
                readme.lines().any(|known| known.trim() == line.trim()),
                "the README does not show {line:?}"
            );
        }
    }
    Ok(())
}

fn spokes_are_not_transitive(scene: &Scene) -> Result<()> {
    is_not_transitive(&scene.up(&topology()?)?)
}

fn is_not_transitive(lab: &Running) -> Result<()> {
    for (from, to) in [("batch", "10.0.2.4"), ("dns", "10.3.0.4"), ("web", "10.0.2.4"), ("dns", "10.1.0.4")] {
        lab.expect_ping(from, to)?;
    }
    lab.expect_drop("RouteNone", || lab.expect_no_ping("batch", "10.1.0.4"))?;
    lab.expect_drop("FirewallDeny", || lab.expect_no_ping("web", "10.3.0.4"))?;
    let _servers = (lab.serve("db", 443, &["nc", "-lk", "443"])?, lab.serve("db", 22, &["nc", "-lk", "22"])?);
    ensure!(lab.connects("web", "10.2.0.4", 443)?, "web reaches db through the firewall");
    lab.expect_drop("FirewallDeny", || {
        ensure!(!lab.connects("web", "10.2.0.4", 22)?, "TCP 22 is denied by the policy's default");
        Ok(())
    })
}

fn prediction_agrees(scene: &Scene) -> Result<()> {
    let lab = scene.up(&topology()?)?;
    lab.wait_tunnels()?;
    predicts(&lab)
}

fn predicts(lab: &Running) -> Result<()> {
    let machines = ["dns", "web", "db", "batch", "replica", "pc"];
    for from in machines {
        for to in machines.into_iter().filter(|to| *to != from) {
            for service in ["icmp", "tcp/443", "tcp/22"] {
                let output = lab.ctl(&["path", from, to, service, "--probe", "-o", "json"])?;
                let report = output.json()?;
                let agrees = report.pointer("/probe/agrees").and_then(serde_json::Value::as_bool);
                ensure!(agrees == Some(true), "{from} to {to} {service}: {}", output.stdout);
            }
        }
    }
    Ok(())
}

fn every_verb_answers(scene: &Scene) -> Result<()> {
    let lab = scene.up(&topology()?)?;
    lab.wait_tunnels()?;
    lab.exec("web", &["ping", "-c1", "-W2", "10.0.2.4"])?.ok()?;
    let file = lab.file().to_string_lossy().into_owned();
    for verb in [
        &["validate", &file][..],
        &["plan", &file],
        &["show"],
        &["labs"],
        &["effective-routes", "web"],
        &["effective-nsg", "web"],
        &["next-hop", "--vm", "web", "--dest-ip", "10.2.0.4"],
        &["path", "batch", "web", "icmp"],
        &["path", "web", "db", "tcp/443"],
        &["path", "web", "db", "tcp/443", "--file", &file],
        &["matrix"],
        &["ping", "web", "dns"],
        &["flows"],
        &["drops"],
        &["gateway", "status"],
        &["doctor"],
    ] {
        // A prediction of a drop, and a host that lacks something, are answers too.
        let is_verdict = matches!(verb[0], "path" | "doctor");
        for format in ["table", "json"] {
            let mut arguments = verb.to_vec();
            arguments.extend(["-o", format]);
            let output = lab.ctl(&arguments)?;
            ensure!(output.success() || is_verdict && output.code == 1, "{verb:?}: {output:?}");
            ensure!(!output.stdout.trim().is_empty(), "{verb:?} -o {format} prints nothing");
            if format == "json" {
                output.json()?;
            }
        }
    }
    lab.ctl(&["schema"])?.ok()?.json()?;
    lab.ctl(&["completions", "bash"])?.ok()?;
    lab.ctl(&["no-such-verb"])?.code(64)?;
    lab.exec("web", &["sh", "-c", "exit 7"])?.code(7)?;
    lab.exec("web", &["/no/such/program"])?.code(127)?;
    lab.exec("no-such-machine", &["true"])?.code(125)?;
    Ok(())
}
