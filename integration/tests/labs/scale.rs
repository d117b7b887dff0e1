//! A lab of many networks: it comes up, changes in part, answers for all of its pairs, and goes, each in a time that a fault
//! in proportion to the square of its size would not keep.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use vnet_integration::Scene;
use vnet_integration::scale::{topology, topology_with_route};
use vnet_integration::suite::Lab;

pub(crate) const LABS: &[Lab] =
    &[Lab::new("scale::a_lab_of_many_networks_comes_changes_and_goes", comes_changes_and_goes)
        .needs(&["ping"])];

/// Generous: the machine may be busy with other labs.
const LIMIT: Duration = Duration::from_secs(60);

fn networks() -> usize {
    if std::env::var_os("VNET_NIGHTLY").is_some() { 1_000 } else { 100 }
}

fn comes_changes_and_goes(scene: &Scene) -> Result<()> {
    let networks = networks();
    let mut lab = scene.up(&topology(networks))?;
    // Two spokes reach each other by the firewall of their hub.
    lab.exec("vm-spoke0-1", &["ping", "-c", "1", "-W", "5", "10.0.2.4"])?.ok()?;
    let device = lab.exec("vm-spoke0-1", &["ip", "link", "show", "eth0"])?.ok()?.stdout;
    ensure!(device.contains("qdisc noqueue"), "a device queues before the daemon's own queue: {device}");

    let furnished = std::fs::read_dir(lab.daemon().state_folder().join(lab.name()).join("machines"))?;
    ensure!(furnished.count() == 1, "folders of machines in which nothing has run");

    let routes = |lab: &vnet_integration::Lab, machine: &str| lab.json(&["effective-routes", machine]);
    let neighbour = routes(&lab, "vm-hub0")?;
    let applied = lab.apply(&topology_with_route(networks, "Internet"))?.ok()?;
    ensure!(applied.stdout.contains("1 change "), "one route is one change: {}", applied.stdout);
    let changed = routes(&lab, "vm-spoke0-1")?.to_string();
    ensure!(changed.contains("192.0.2.0/24"), "the changed route is in force: {changed}");
    ensure!(routes(&lab, "vm-hub0")? == neighbour, "routes of a subnet without the table have changed");

    let matrix = lab.ctl_within(&["matrix", "tcp/443"], LIMIT)?.ok()?.stdout;
    let total = networks * (networks - 1);
    let last = matrix.lines().last().context("the matrix is empty")?;
    // Only the spokes have a group, which lets the port in from every network; replies to a hub's machine pass by sessions.
    ensure!(last.ends_with("pairs reach each other by tcp/443."), "{last}");
    ensure!(last.contains(&format!(" of {total} pairs ")), "{last}");
    ensure!(matrix.lines().count() == total + 4, "a row for each pair, and {last}");

    let began = Instant::now();
    lab.down()?;
    ensure!(began.elapsed() < LIMIT, "taking it down took {:?}", began.elapsed());
    Ok(())
}
