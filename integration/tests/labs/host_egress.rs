//! `internet: {egress: host}`: out by the host's own network. The host and what is outside of it are namespaces of the
//! lab's own, so that nothing ever leaves the machine.

use std::process::Command;

use anyhow::{Result, ensure};
use vnet_integration::lab::{Lab as RunningLab, edited};
use vnet_integration::process::{self, Output, Running};
use vnet_integration::suite::Lab;
use vnet_integration::{PATIENCE, Scene, wait_until};

pub(crate) const LABS: &[Lab] = &[
    Lab::new("host_egress::leaves_by_the_hosts_address_and_leaves_nothing_behind", leaves)
        .needs(&["nc", "nft", "nsenter", "ping"]),
    Lab::new("host_egress::a_host_without_a_way_out_refuses", refuses).needs(&["nft", "nsenter"]),
];

const TOPOLOGY: &str = "\
name: out
virtualNetworks:
  v:
    addressSpace: [10.0.0.0/16]
    subnets:
      nat: {addressPrefix: 10.0.0.0/24, natGateway: out}
      plain: {addressPrefix: 10.0.1.0/24, routeTable: direct}
natGateways: {out: {publicIPAddresses: [203.0.113.1]}}
routeTables: {direct: {routes: [{name: all, addressPrefix: 0.0.0.0/0, nextHopType: Internet}]}}
virtualMachines:
  a: {subnet: v/nat, privateIPAddress: 10.0.0.4}
  public: {subnet: v/plain, privateIPAddress: 10.0.1.4, publicIPAddress: 203.0.113.11}
internet: {egress: host, hosts: {example: 203.0.113.80}}
";

/// An address of the Internet, as far as the lab knows.
const SOMEWHERE: &str = "192.0.2.53";
const HOST: &str = "172.31.255.2";
const ROUTER: &str = "172.31.255.1";

/// A host with one cable to what is outside.
struct World {
    host: String,
    outside: String,
}

impl World {
    fn new(scene: &Scene) -> Result<World> {
        let name = scene.unique_name();
        let world = World { host: format!("{name}-host"), outside: format!("{name}-outside") };
        let (host, outside) = (world.host.as_str(), world.outside.as_str());
        for arguments in [
            vec!["netns", "add", host],
            vec!["netns", "add", outside],
            vec!["-n", host, "link", "add", "up0", "type", "veth", "peer", "name", "down0", "netns", outside],
            vec!["-n", host, "address", "add", "172.31.255.2/24", "dev", "up0"],
            vec!["-n", outside, "address", "add", "172.31.255.1/24", "dev", "down0"],
            vec!["-n", outside, "address", "add", "192.0.2.53/32", "dev", "lo"],
            vec!["-n", host, "link", "set", "lo", "up"],
            vec!["-n", host, "link", "set", "up0", "up"],
            vec!["-n", outside, "link", "set", "lo", "up"],
            vec!["-n", outside, "link", "set", "down0", "up"],
            vec!["-n", host, "route", "add", "default", "via", ROUTER],
        ] {
            ip(&arguments)?.ok()?;
        }
        Ok(world)
    }

    fn lab(&self, scene: &Scene) -> Result<RunningLab> {
        let daemon = scene.idle_daemon()?.on_host(&self.host);
        daemon.run()?;
        Ok(scene.lab_on(daemon))
    }

    /// A server outside that says who connects.
    fn serve(&self, port: u16) -> Result<Running> {
        let text = port.to_string();
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.outside, "nc", "-lkvn", &text]);
        let server = Running::start(&mut command)?;
        let filter = format!("sport = :{port}");
        wait_until("the server outside listens", PATIENCE, || {
            let listening = ip(&["netns", "exec", &self.outside, "ss", "-Hltn", &filter])?;
            Ok(!listening.ok()?.stdout.trim().is_empty())
        })?;
        Ok(server)
    }

    fn inside(&self, program: &[&str]) -> Result<String> {
        let mut arguments = vec!["netns", "exec", &self.host];
        arguments.extend(program);
        Ok(ip(&arguments)?.ok()?.stdout)
    }

    /// What a lab may have left on the host.
    fn traces(&self) -> Result<Vec<String>> {
        let tables = self.inside(&["nft", "list", "tables"])?;
        let links = self.inside(&["ip", "-o", "link", "show"])?;
        let forwarding = self.inside(&["cat", "/proc/sys/net/ipv4/conf/up0/forwarding"])?;
        let mut found: Vec<String> = tables.lines().map(str::to_owned).collect();
        found.extend(links.lines().filter(|line| line.contains(": v-")).map(str::to_owned));
        if forwarding.trim() != "0" {
            found.push("up0 forwards".to_owned());
        }
        Ok(found)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for namespace in [&self.host, &self.outside] {
            if let Err(error) = ip(&["netns", "delete", namespace]) {
                eprintln!("{namespace}: {error:#}");
            }
        }
    }
}

fn ip(arguments: &[&str]) -> Result<Output> {
    process::output(Command::new("ip").args(arguments), PATIENCE)
}

fn leaves(scene: &Scene) -> Result<()> {
    let world = World::new(scene)?;
    let before = world.traces()?;
    ensure!(before.is_empty(), "{before:?}");
    let mut server = world.serve(80)?;
    let mut lab = world.lab(scene)?;
    let closed = edited(TOPOLOGY, "egress: host, ", "");
    lab.up(&closed)?.ok()?;
    lab.expect_drop("NoListener", || {
        ensure!(!lab.connects("a", SOMEWHERE, 80)?, "nothing leaves by itself");
        Ok(())
    })?;
    let untouched = world.traces()?;
    ensure!(untouched.is_empty(), "{untouched:?}");

    lab.apply(TOPOLOGY)?.ok()?;
    for from in ["a", "public"] {
        ensure!(lab.connects(from, SOMEWHERE, 80)?, "{from} leaves by the host");
    }
    let came = format!("Connection received on {HOST}");
    wait_until("the server says who came", PATIENCE, || Ok(server.stderr().matches(&came).count() == 2))?;
    lab.expect_ping("public", SOMEWHERE)?;
    // The host's own networks are no Internet.
    lab.expect_drop("NoListener", || {
        ensure!(!lab.connects("public", ROUTER, 80)?, "a private address of the host's network");
        Ok(())
    })?;
    let escaped = lab.exec("example", &["ping", "-n", "-c", "1", "-W", "1", ROUTER])?;
    ensure!(!escaped.success(), "a simulated host must not reach the host's network");

    // The connection outlives the daemon.
    let mut client = lab.spawn_apart("a", &["nc", SOMEWHERE, "80"])?;
    client.write("before\n")?;
    server.wait_for("before", PATIENCE)?;
    lab.daemon().kill();
    lab.daemon().run()?;
    client.write("after\n")?;
    server.wait_for("after", PATIENCE)?;

    lab.apply(&closed)?.ok()?;
    let left = world.traces()?;
    ensure!(left.is_empty(), "{left:?}");
    lab.apply(TOPOLOGY)?.ok()?;
    ensure!(lab.connects("a", SOMEWHERE, 80)?, "and open again");
    lab.down()?;
    let left = world.traces()?;
    ensure!(left.is_empty(), "{left:?}");
    Ok(())
}

fn refuses(scene: &Scene) -> Result<()> {
    let world = World::new(scene)?;
    ip(&["-n", &world.host, "route", "del", "default"])?.ok()?;
    let mut lab = world.lab(scene)?;
    let refused = lab.up(TOPOLOGY)?;
    ensure!(!refused.success() && refused.stderr.contains("no IPv4 default route"), "{}", refused.stderr);
    let doctor = lab.ctl(&["doctor"])?;
    ensure!(doctor.stdout.contains("host egress"), "{}", doctor.stdout);
    let left = world.traces()?;
    ensure!(left.is_empty(), "{left:?}");
    Ok(())
}
