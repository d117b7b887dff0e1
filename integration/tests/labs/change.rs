//! What an apply may change in a lab that runs, and what it leaves alone.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use vnet_integration::host::remains_of;
use vnet_integration::lab::{Lab as RunningLab, edited};
use vnet_integration::suite::Lab;
use vnet_integration::{PATIENCE, Scene, wait_until};

pub(crate) const LABS: &[Lab] = &[
    Lab::new("change::the_same_file_touches_nothing", the_same_file).needs(&["ping"]),
    Lab::new("change::machines_move_come_and_go", machines_move).needs(&["ping"]),
    Lab::new("change::hosts_of_the_internet_come_and_go", internet_hosts).needs(&["ping"]),
    Lab::new("change::another_key_restarts_its_tunnel_only", another_key),
    Lab::new("change::a_failed_apply_leaves_the_lab_as_it_was", failed_applies).needs(&["ping"]),
    Lab::new("change::a_crash_in_an_apply_is_mended", crashed_applies).needs(&["ping"]),
    Lab::new("change::what_was_accepted_outlives_a_torn_file", torn_files).needs(&["ping"]),
    Lab::new("change::programs_outlive_the_daemon", programs_outlive),
    Lab::new("change::run_and_files_follow_the_file", run_and_files),
    Lab::new("change::the_daemon_ends_with_its_last_lab", ends_with_last_lab),
];

const BASE: &str = "\
name: change
virtualNetworks:
  left:
    addressSpace: [10.1.0.0/16]
    subnets: {app: 10.1.0.0/24, back: 10.1.1.0/24, GatewaySubnet: 10.1.255.0/27}
    peerings: {right: {}}
  right:
    addressSpace: [10.2.0.0/16]
    subnets: {app: 10.2.0.0/24}
    peerings: {left: {}}
virtualMachines:
  a: {subnet: left/app, privateIPAddress: 10.1.0.4}
  b: {subnet: right/app, privateIPAddress: 10.2.0.4}
  # more machines
virtualNetworkGateways:
  gw: {virtualNetwork: left, gatewayType: Vpn, sku: VpnGw1AZ, vpnGatewayGeneration: Generation1, publicIPAddresses: [198.51.100.10]}
localNetworkGateways:
  one: {gatewayIpAddress: 198.51.100.201, localNetworkAddressSpace: [192.168.1.0/24]}
  two: {gatewayIpAddress: 198.51.100.202, localNetworkAddressSpace: [192.168.2.0/24]}
connections:
  to-one: {connectionType: IPsec, virtualNetworkGateway1: gw, localNetworkGateway2: one, sharedKey: key-one}
  to-two: {connectionType: IPsec, virtualNetworkGateway1: gw, localNetworkGateway2: two, sharedKey: key-two}
onPremisesSites:
  one: {addressSpace: [192.168.1.0/24], hosts: {pc1: 192.168.1.10}, vpnDevice: {publicIPAddress: 198.51.100.201, kind: builtin}}
  two: {addressSpace: [192.168.2.0/24], hosts: {pc2: 192.168.2.10}, vpnDevice: {publicIPAddress: 198.51.100.202, kind: builtin}}
internet:
  hosts:
    first: 203.0.113.80
    second: 203.0.113.81
    a-host-with-a-long-name: 203.0.113.82
";

/// What `ip` sees inside a machine: device numbers change when a device is made anew.
fn devices(lab: &RunningLab, machine: &str) -> Result<String> {
    Ok(lab.exec(machine, &["ip", "-o", "address", "show"])?.ok()?.stdout)
}

fn the_same_file(scene: &Scene) -> Result<()> {
    let lab = scene.up(BASE)?;
    lab.wait_tunnels()?;
    let all = ["a", "b", "pc1", "first"];
    let before = all.map(|machine| devices(&lab, machine));
    let handshakes = lab.metric("vnet_tunnel_handshakes_total", &[])?;
    let drops = lab.metric("vnet_drops_total", &[("vm", "a")]).unwrap_or(0.0);
    let pings = lab.spawn("a", &["ping", "-i", "0.02", "-c", "100", "-q", "10.2.0.4"])?;
    for _ in 0..3 {
        let output = lab.apply(BASE)?.ok()?;
        ensure!(!output.stdout.contains("updated"), "nothing is to be changed: {}", output.stdout);
    }
    let pings = pings.finish(PATIENCE)?;
    ensure!(pings.stdout.contains(" 0% packet loss"), "{}", pings.stdout);
    for (machine, before) in all.iter().zip(before) {
        ensure!(devices(&lab, machine)? == before?, "the devices of {machine} have changed");
    }
    ensure!(lab.metric("vnet_tunnel_handshakes_total", &[])? == handshakes, "no tunnel shakes hands again");
    ensure!(lab.metric("vnet_drops_total", &[("vm", "a")]).unwrap_or(0.0) == drops, "no packet is dropped");
    Ok(())
}

fn machines_move(scene: &Scene) -> Result<()> {
    let mut lab = scene.up(BASE)?;
    let other_address = edited(BASE, "privateIPAddress: 10.1.0.4", "privateIPAddress: 10.1.0.9");
    lab.apply(&other_address)?.ok()?;
    lab.expect_ping("b", "10.1.0.9")?;
    lab.expect_no_ping("b", "10.1.0.4")?;

    let other_subnet = edited(
        BASE,
        "{subnet: left/app, privateIPAddress: 10.1.0.4}",
        "{subnet: left/back, privateIPAddress: 10.1.1.4}",
    );
    lab.apply(&other_subnet)?.ok()?;
    lab.expect_ping("b", "10.1.1.4")?;

    let two_nics = edited(
        BASE,
        "{subnet: left/app, privateIPAddress: 10.1.0.4}",
        "{networkInterfaces: [{subnet: left/app, privateIPAddresses: [10.1.0.4]}, {subnet: left/back, privateIPAddresses: [10.1.1.7]}]}",
    );
    lab.apply(&two_nics)?.ok()?;
    lab.expect_ping("b", "10.1.0.4")?;
    ensure!(devices(&lab, "a")?.contains("10.1.1.7"), "the second NIC has its address");
    lab.apply(BASE)?.ok()?;
    ensure!(!devices(&lab, "a")?.contains("eth1"), "the second NIC is gone");
    lab.expect_ping("b", "10.1.0.4")?;

    let third = edited(BASE, "# more machines", "c: {subnet: left/back, privateIPAddress: 10.1.1.5}");
    lab.apply(&third)?.ok()?;
    lab.expect_ping("b", "10.1.1.5")?;
    lab.apply(BASE)?.ok()?;
    ensure!(remains_of(&format!("{}.c", lab.name()))?.is_empty(), "the third machine is gone");
    lab.expect_ping("a", "10.2.0.4")?;
    let name = lab.name().to_owned();
    lab.down()?.ok()?;
    let left = remains_of(&format!("{name}."))?;
    ensure!(left.iter().all(|line| line.starts_with("process")), "left behind: {left:?}");
    Ok(())
}

fn internet_hosts(scene: &Scene) -> Result<()> {
    let lab = scene.up(BASE)?;
    let meets = |from: &str, to: &str| lab.expect_ping(from, to);
    meets("second", "203.0.113.82")?;
    let without = edited(BASE, "    first: 203.0.113.80\n", "");
    let before = devices(&lab, "second")?;
    lab.apply(&without)?.ok()?;
    meets("second", "203.0.113.82")?;
    ensure!(devices(&lab, "second")? == before, "the other hosts' cables stay");
    lab.apply(BASE)?.ok()?;
    meets("second", "203.0.113.80")?;
    // The address changes hands in one step.
    let handed_on = edited(&without, "second: 203.0.113.81", "second: 203.0.113.80");
    lab.apply(&handed_on)?.ok()?;
    meets("a-host-with-a-long-name", "203.0.113.80")?;
    // A machine of another kind under the name of one that goes.
    let machine =
        edited(&without, "# more machines", "first: {subnet: left/app, privateIPAddress: 10.1.0.20}");
    lab.apply(&machine)?.ok()?;
    lab.expect_ping("b", "10.1.0.20")?;
    lab.apply(BASE)?.ok()?;
    meets("second", "203.0.113.80")
}

fn another_key(scene: &Scene) -> Result<()> {
    let lab = scene.up(BASE)?;
    lab.wait_tunnels()?;
    let of = |connection: &str| lab.metric("vnet_tunnel_handshakes_total", &[("connection", connection)]);
    let untouched = of("to-two")?;
    let output = lab.apply(&edited(BASE, "sharedKey: key-one", "sharedKey: key-other"))?.ok()?;
    for secret in ["key-one", "key-other"] {
        ensure!(!output.stdout.contains(secret) && !output.stderr.contains(secret), "{output:?} shows a key");
        ensure!(!lab.daemon().log().contains(secret), "the log shows a key");
    }
    lab.wait_tunnels()?;
    wait_until("the tunnel with the other key is up", PATIENCE, || {
        Ok(lab.ctl(&["ping", "pc1", "a", "-c", "1"])?.success())
    })?;
    ensure!(of("to-two")? == untouched, "the other tunnel goes on");
    Ok(())
}

/// A change of everything: machines and hosts come and go, an address and a key change.
fn turned_over() -> String {
    let text = edited(BASE, "  b: {subnet: right/app, privateIPAddress: 10.2.0.4}\n", "");
    let text = edited(&text, "# more machines", "c: {subnet: right/app, privateIPAddress: 10.2.0.5}");
    let text = edited(&text, "privateIPAddress: 10.1.0.4", "privateIPAddress: 10.1.0.9");
    let text = edited(&text, "    first: 203.0.113.80\n", "    third: 203.0.113.83\n");
    edited(&text, "sharedKey: key-one", "sharedKey: key-other")
}

const STEPS_MAX: u32 = 400;

/// How many steps can fail while the lab is made: those of an apply follow.
fn steps_of_up(scene: &Scene) -> Result<u32> {
    for step in (1..STEPS_MAX).step_by(7) {
        let daemon = scene.idle_daemon()?.env("VNETD_FAIL_AT", &step.to_string());
        daemon.run()?;
        let mut lab = scene.lab_on(daemon);
        let passed = lab.up(BASE)?.success();
        if passed {
            lab.down()?;
        }
        lab.daemon().stop()?;
        if passed {
            return Ok(step - 7);
        }
    }
    anyhow::bail!("up has more than {STEPS_MAX} steps")
}

fn failed_applies(scene: &Scene) -> Result<()> {
    let mut failed = 0;
    for step in (steps_of_up(scene)?..STEPS_MAX).step_by(2) {
        let daemon = scene.idle_daemon()?.env("VNETD_FAIL_AT", &step.to_string());
        daemon.run()?;
        let mut lab = scene.lab_on(daemon);
        if !lab.up(BASE)?.success() {
            lab.daemon().stop()?;
            continue;
        }
        let output = lab.apply(&turned_over())?;
        if output.success() {
            ensure!(failed > 2, "only {failed} steps of an apply can fail");
            lab.down()?;
            return Ok(());
        }
        failed += 1;
        for line in
            output.stdout.lines().chain(output.stderr.lines()).filter(|line| line.contains("taken back"))
        {
            let told = output.stdout.matches(line).count() + output.stderr.matches(line).count();
            ensure!(told == 1, "what is taken back is said once: {output:?}");
        }
        lab.expect_ping("a", "10.2.0.4")?;
        lab.expect_ping("b", "10.1.0.4")?;
        lab.expect_ping("second", "203.0.113.80")?;
        lab.wait_tunnels()?;
        lab.apply(&turned_over())?.ok()?;
        lab.expect_ping("a", "10.2.0.5")?;
        lab.down()?;
        lab.daemon().stop()?;
    }
    anyhow::bail!("an apply has more than {STEPS_MAX} steps")
}

fn crashed_applies(scene: &Scene) -> Result<()> {
    let mut crashed = 0;
    for step in (steps_of_up(scene)?..STEPS_MAX).step_by(3) {
        let daemon = scene.idle_daemon()?.env("VNETD_FAIL_AT", &format!("{step}:abort"));
        daemon.run()?;
        let mut lab = scene.lab_on(daemon.clone());
        let up = lab.up(BASE)?.success();
        let done = up && lab.apply(&turned_over())?.success();
        if done {
            ensure!(crashed > 1, "only {crashed} steps of an apply can crash");
            lab.down()?;
            return Ok(());
        }
        daemon.kill();
        let daemon = daemon.env("VNETD_FAIL_AT", "0");
        daemon.run()?;
        if up {
            crashed += 1;
            // What was accepted is in force: the former file, or the new one if the crash came after its acceptance.
            let is_former = lab.exec("a", &["ping", "-c", "1", "-W", "2", "10.2.0.4"])?.success();
            let is_new = lab.exec("a", &["ping", "-c", "1", "-W", "2", "10.2.0.5"])?.success();
            ensure!(is_former != is_new, "step {step}: one of the two labs, not both: {is_former} {is_new}");
        }
        lab.up(&turned_over())?.ok()?;
        lab.expect_ping("a", "10.2.0.5")?;
        lab.down()?;
        daemon.stop()?;
        let left = remains_of(&format!("{}.", lab.name()))?;
        ensure!(left.is_empty(), "step {step} left {left:?}");
    }
    anyhow::bail!("an apply has more than {STEPS_MAX} steps")
}

/// The files that hold what is accepted, the newest first.
fn state_files(lab: &RunningLab) -> Result<Vec<PathBuf>> {
    let folder = lab.daemon().state_folder().join(lab.name());
    let mut files = Vec::new();
    for name in ["accepted.json", "accepted.twin.json"] {
        let path = folder.join(name);
        let content: Value = serde_json::from_slice(&fs::read(&path)?)?;
        files.push((content["number"].as_u64().context("a number")?, path));
    }
    files.sort();
    Ok(files.into_iter().rev().map(|(_, path)| path).collect())
}

/// Leaves the file as a power failure does in the middle of writing it.
fn tear(path: &Path) -> Result<()> {
    let file = fs::File::options().write(true).open(path)?;
    file.write_all_at(&[0; 200], 300)?;
    Ok(())
}

fn torn_files(scene: &Scene) -> Result<()> {
    let mut lab = scene.up(BASE)?;
    let moved = edited(BASE, "privateIPAddress: 10.2.0.4", "privateIPAddress: 10.2.0.9");
    lab.apply(&moved)?.ok()?;
    lab.daemon().kill();
    tear(&state_files(&lab)?[0])?;
    lab.daemon().run()?;
    lab.expect_ping("a", "10.2.0.4")?;
    ensure!(lab.daemon().log().contains("was cut off"), "it is told that a change is left out");
    for _ in 0..2 {
        lab.apply(&moved)?.ok()?;
        lab.daemon().kill();
        lab.daemon().run()?;
        lab.expect_ping("a", "10.2.0.9")?;
    }
    lab.daemon().kill();
    for file in state_files(&lab)? {
        tear(&file)?;
    }
    lab.daemon().run()?;
    ensure!(lab.daemon().log().contains("cannot be taken over"), "{}", lab.daemon().log());
    let refused = lab.apply(&moved)?;
    ensure!(refused.code == 1 && refused.stderr.contains("Take it down first"), "{refused:?}");
    lab.ctl(&["down"])?.ok()?;
    lab.up(&moved)?.ok()?;
    lab.expect_ping("a", "10.2.0.9")
}

fn with_programs(run: &str, files: &str) -> String {
    edited(
        BASE,
        "a: {subnet: left/app, privateIPAddress: 10.1.0.4}",
        &format!("a: {{subnet: left/app, privateIPAddress: 10.1.0.4, run: [{run}]{files}}}"),
    )
}

fn lines(lab: &RunningLab, file: &str) -> Result<Vec<String>> {
    let output = lab.exec("a", &["cat", file])?;
    Ok(output.stdout.lines().map(str::to_owned).collect())
}

fn programs_outlive(scene: &Scene) -> Result<()> {
    let lab = scene.up(&with_programs(
        "'echo once >> /tmp/once', {command: 'echo $$ >> /tmp/always; exec sleep 3600', restart: always}",
        "",
    ))?;
    wait_until("both have run", PATIENCE, || {
        Ok(lines(&lab, "/tmp/once")?.len() == 1 && lines(&lab, "/tmp/always")?.len() == 1)
    })?;
    let pid = lines(&lab, "/tmp/always")?[0].clone();
    for _ in 0..3 {
        lab.daemon().kill();
        lab.daemon().run()?;
    }
    std::thread::sleep(Duration::from_secs(2));
    ensure!(lines(&lab, "/tmp/once")?.len() == 1, "what is to run once has run once");
    ensure!(lines(&lab, "/tmp/always")?.len() == 1, "the program that runs is taken over, not doubled");
    lab.exec("a", &["kill", &pid])?.ok()?;
    wait_until("it is started again", PATIENCE, || Ok(lines(&lab, "/tmp/always")?.len() == 2))
}

fn run_and_files(scene: &Scene) -> Result<()> {
    let always =
        |what: &str| format!("{{command: 'echo {what} >> /tmp/log; exec sleep 3600', restart: always}}");
    let lab = scene.up(&with_programs(&always("first"), ""))?;
    wait_until("the first runs", PATIENCE, || Ok(lines(&lab, "/tmp/log")? == ["first"]))?;
    lab.apply(&with_programs(&format!("{}, 'echo once >> /tmp/log'", always("second")), ""))?.ok()?;
    // The two new ones run side by side: either may write first.
    wait_until("the second runs in its place", PATIENCE, || {
        let mut written = lines(&lab, "/tmp/log")?;
        written.sort();
        Ok(written == ["first", "once", "second"])
    })?;
    lab.apply(BASE)?.ok()?;
    std::thread::sleep(Duration::from_secs(1));
    ensure!(lines(&lab, "/tmp/log")?.len() == 3, "nothing is started again");
    Ok(())
}

fn ends_with_last_lab(scene: &Scene) -> Result<()> {
    for _ in 0..3 {
        let daemon = scene.idle_daemon()?.env("VNETD_EXIT_WITH_LAST_LAB", "true");
        daemon.run()?;
        let mut lab = scene.lab_on(daemon.clone());
        lab.up(BASE)?.ok()?;
        ensure!(daemon.is_alive(), "it runs as long as its lab does");
        lab.down()?.ok()?;
        wait_until("the daemon ends", PATIENCE, || Ok(!daemon.is_alive()))?;
        ensure!(!daemon.socket().exists(), "its socket is gone");
    }
    Ok(())
}
