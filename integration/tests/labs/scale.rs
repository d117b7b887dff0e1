//! A lab of many networks: it comes up, changes in part, answers for all of its pairs, and goes, each in a time that a fault
//! in proportion to the square of its size would not keep.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use vnet_integration::Scene;
use vnet_integration::host::{HostState, remains_of};
use vnet_integration::scale::{topology, topology_with_route};
use vnet_integration::suite::Lab;

pub(crate) const LABS: &[Lab] =
    &[Lab::new("scale::a_lab_of_many_networks_comes_changes_and_goes", comes_changes_and_goes)
        .needs(&["ping"])
        .alone()];

/// Generous: the machine may be busy with other labs.
const LIMIT: Duration = Duration::from_secs(60);

fn networks() -> usize {
    if std::env::var_os("VNET_NIGHTLY").is_some() { 1_000 } else { 200 }
}

fn comes_changes_and_goes(scene: &Scene) -> Result<()> {
    let networks = networks();
    let before = HostState::read()?;
    let mut lab = scene.up(&topology(networks))?;
    // Two spokes reach each other by the firewall of their hub.
    lab.exec("vm-spoke0-1", &["ping", "-c", "1", "-W", "5", "10.0.2.4"])?.ok()?;
    let device = lab.exec("vm-spoke0-1", &["ip", "link", "show", "eth0"])?.ok()?.stdout;
    ensure!(device.contains("qdisc noqueue"), "a device queues before the daemon's own queue: {device}");

    let furnished = std::fs::read_dir(lab.daemon().state_folder().join(lab.name()).join("machines"))?;
    ensure!(furnished.count() == 1, "folders of machines in which nothing has run");

    if networks > 501 {
        // The other hub's spokes are behind its firewall too.
        lab.exec("vm-spoke0-2", &["ping", "-c", "1", "-W", "5", "10.16.2.4"])?.ok()?;
    }

    let routes = |lab: &vnet_integration::Lab, machine: &str| lab.json(&["effective-routes", machine]);
    let neighbour = routes(&lab, "vm-hub0")?;
    let applied = lab.apply(&topology_with_route(networks, "Internet"))?.ok()?;
    ensure!(applied.stdout.contains("1 change "), "one route is one change: {}", applied.stdout);
    let next_hop = |lab: &vnet_integration::Lab| -> Result<String> {
        let all = routes(lab, "vm-spoke0-1")?;
        let text = all["value"].as_array().into_iter().flatten().map(ToString::to_string);
        text.into_iter().find(|route| route.contains("192.0.2.0/24")).context("the route is not listed")
    };
    let changed = next_hop(&lab)?;
    ensure!(changed.contains("Internet"), "the changed route is in force: {changed}");
    ensure!(routes(&lab, "vm-hub0")? == neighbour, "routes of a subnet without the table have changed");
    // What an apply took over from the lab before it is what another daemon finds.
    lab.daemon().kill();
    lab.daemon().run()?;
    ensure!(next_hop(&lab)? == changed, "the route is another one after a restart");
    lab.apply(&topology_with_route(networks, "None"))?.ok()?;
    ensure!(!next_hop(&lab)?.contains("Internet"), "the route is as it was at first");
    lab.exec("vm-spoke0-1", &["ping", "-c", "1", "-W", "5", "10.0.2.4"])?.ok()?;

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
    // What it has left is seen by then: nothing is waited for.
    let left = remains_of(lab.name())?;
    ensure!(left.iter().all(|left| left.starts_with("process ")), "left behind: {left:?}");
    lab.daemon().stop()?;
    let after = before.differences(&HostState::read()?);
    ensure!(after.is_empty(), "the host is not as it was: {after:?}");
    Ok(())
}
