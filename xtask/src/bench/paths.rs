//! The six ways from one namespace to another.

use std::path::{Path as FilePath, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use vnet_integration::binaries::Binaries;
use vnet_integration::process::{self, Output, Running};
use vnet_integration::{Daemon, Lab, wait_until};

const LIMIT: Duration = Duration::from_secs(30);

/// A way that is measured: from a client in one namespace to servers in another.
pub(crate) struct Path {
    /// As in the JSON.
    pub(crate) name: &'static str,
    /// As in the table.
    pub(crate) title: &'static str,
    /// The servers' address.
    pub(crate) address: String,
    client: String,
    server: String,
}

impl Path {
    /// Runs a client program.
    pub(crate) fn client(&self, arguments: &[&str], limit: Duration) -> Result<Output> {
        process::output(&mut inside(&self.client, arguments), limit)
    }

    /// Starts the servers, and waits until the path carries packets to them.
    pub(crate) fn serve(&self) -> Result<Vec<Running>> {
        let servers = vec![
            Running::start(&mut inside(&self.server, &["iperf3", "-s"]))?,
            Running::start(&mut inside(
                &self.server,
                &["sockperf", "server", "-i", &self.address, "-p", "11111"],
            ))?,
        ];
        wait_until("the path carries packets", LIMIT, || {
            let open = self.client(&["nc", "-n", "-z", "-w", "1", &self.address, "5201"], LIMIT)?;
            Ok(open.success())
        })?;
        Ok(servers)
    }
}

fn inside(namespace: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace]).args(arguments);
    command
}

fn ip(arguments: &[&str]) -> Result<()> {
    process::output(Command::new("ip").args(arguments), LIMIT)?.ok()?;
    Ok(())
}

/// A namespace that goes when this is dropped.
struct Namespace {
    name: String,
}

impl Namespace {
    fn new(role: &str) -> Result<Namespace> {
        let name = format!("bench-{}-{role}", std::process::id());
        ip(&["netns", "add", &name])?;
        let namespace = Namespace { name };
        namespace.ip(&["link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    fn ip(&self, arguments: &[&str]) -> Result<()> {
        let mut all = vec!["-n", self.name.as_str()];
        all.extend(arguments);
        ip(&all)
    }

    fn sysctl(&self, file: &str, value: &str) -> Result<()> {
        let line = format!("echo {value} > /proc/sys/net/{file}");
        process::output(&mut inside(&self.name, &["sh", "-c", &line]), LIMIT)?.ok()?;
        Ok(())
    }

    /// Joins this namespace with another by a pair of veths, each with an address.
    fn join(
        &self,
        link: &str,
        address: &str,
        other: &Namespace,
        other_link: &str,
        other_address: &str,
    ) -> Result<()> {
        self.ip(&["link", "add", link, "type", "veth", "peer", "name", other_link, "netns", &other.name])?;
        for (namespace, link, address) in [(self, link, address), (other, other_link, other_address)] {
            namespace.ip(&["address", "add", address, "dev", link])?;
            namespace.ip(&["link", "set", link, "up"])?;
        }
        Ok(())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // The namespace may be gone; there is nobody to tell.
        let _ = ip(&["netns", "delete", &self.name]);
    }
}

const TOPOLOGY: &str = include_str!("bench.yaml");

/// The three ways through vnetd.
pub(crate) struct LabPaths {
    lab: Lab,
}

impl LabPaths {
    /// Brings the benchmark's lab up.
    pub(crate) fn start(programs: &Binaries, folder: &FilePath) -> Result<LabPaths> {
        let daemon = Daemon::new(&folder.join("daemon"), &folder.join("vnetd.log"), programs.clone())?;
        daemon.run()?;
        let name = format!("bench-{}", std::process::id());
        let mut lab = Lab::new(daemon, &name, folder, folder, vnet_integration::lab::Complaints::default());
        lab.up(TOPOLOGY)?.ok()?;
        lab.wait_tunnels()?;
        Ok(LabPaths { lab })
    }

    /// Peering, firewall, VPN.
    pub(crate) fn paths(&self) -> Vec<Path> {
        let path = |name, title, client: &str, server: &str, address: &str| Path {
            name,
            title,
            address: address.to_owned(),
            client: self.lab.namespace(client),
            server: self.lab.namespace(server),
        };
        vec![
            path("peering", "vnetd: peering", "app", "shared", "10.0.2.4"),
            path("firewall", "vnetd: firewall", "web", "db", "10.2.0.4"),
            path("vpn", "vnetd: VPN", "dns", "replica", "10.50.0.4"),
        ]
    }
}

/// The kernel's router: two namespaces joined through a third that forwards.
pub(crate) struct KernelRouter {
    client: Namespace,
    server: Namespace,
    _router: Namespace,
}

impl KernelRouter {
    /// Makes it.
    pub(crate) fn start() -> Result<KernelRouter> {
        let (client, router, server) =
            (Namespace::new("client")?, Namespace::new("router")?, Namespace::new("server")?);
        client.join("eth0", "10.1.0.4/24", &router, "eth0", "10.1.0.1/24")?;
        server.join("eth0", "10.2.0.4/24", &router, "eth1", "10.2.0.1/24")?;
        router.sysctl("ipv4/ip_forward", "1")?;
        client.ip(&["route", "add", "default", "via", "10.1.0.1"])?;
        server.ip(&["route", "add", "default", "via", "10.2.0.1"])?;
        Ok(KernelRouter { client, server, _router: router })
    }

    /// From end to end.
    pub(crate) fn path(&self) -> Path {
        Path {
            name: "kernel",
            title: "kernel's router",
            address: "10.2.0.4".to_owned(),
            client: self.client.name.clone(),
            server: self.server.name.clone(),
        }
    }
}

/// Two namespaces joined by a veth, a WireGuard in userspace at each end.
pub(crate) struct WireGuardPair {
    name: &'static str,
    client: Namespace,
    server: Namespace,
    _daemons: Vec<Running>,
}

impl WireGuardPair {
    /// Makes it with a program that is called with `flags` and the interface's name.
    pub(crate) fn start(name: &'static str, program: &str, flags: &[&str]) -> Result<WireGuardPair> {
        let (client, server) = (Namespace::new(&format!("{name}-c"))?, Namespace::new(&format!("{name}-s"))?);
        client.join("eth0", "192.0.2.1/24", &server, "eth0", "192.0.2.2/24")?;
        let ends = [(&client, "192.0.2.2", "10.9.0.1/24"), (&server, "192.0.2.1", "10.9.0.2/24")];
        let keys = [key_pair()?, key_pair()?];
        let mut daemons = Vec::new();
        for (number, (namespace, remote, address)) in ends.into_iter().enumerate() {
            // The control sockets of all lie in one folder, by interface name.
            let interface = format!("{}{number}-{}", &name[..2], std::process::id() % 10_000);
            let mut command = inside(&namespace.name, &[program]);
            command.args(flags).arg(&interface).env("WG_I_PREFER_BUGGY_USERSPACE_TO_POLISHED_KMOD", "1");
            daemons.push(Running::start(&mut command).context(name)?);
            let (own, peer) = (&keys[number], &keys[1 - number]);
            wait_until("the interface takes its configuration", LIMIT, || {
                let mut set = inside(
                    &namespace.name,
                    &[
                        "wg",
                        "set",
                        &interface,
                        "listen-port",
                        "51820",
                        "private-key",
                        "/dev/stdin",
                        "peer",
                        &peer.1,
                    ],
                );
                set.args(["allowed-ips", "10.9.0.0/24", "endpoint", &format!("{remote}:51820")]);
                let mut running = Running::start(&mut set)?;
                // Where wg has ended already, its exit code says why.
                let _ = running.write(&format!("{}\n", own.0));
                Ok(running.finish(LIMIT)?.success())
            })
            .with_context(|| {
                format!("{name}: {}", daemons.last().map(Running::stderr).unwrap_or_default())
            })?;
            namespace.ip(&["address", "add", address, "dev", &interface])?;
            namespace.ip(&["link", "set", &interface, "up"])?;
        }
        Ok(WireGuardPair { name, client, server, _daemons: daemons })
    }

    /// From end to end.
    pub(crate) fn path(&self) -> Path {
        Path {
            name: self.name,
            title: self.name,
            address: "10.9.0.2".to_owned(),
            client: self.client.name.clone(),
            server: self.server.name.clone(),
        }
    }
}

/// A private key and its public one.
fn key_pair() -> Result<(String, String)> {
    let private = process::output(Command::new("wg").arg("genkey"), LIMIT)?.ok()?.stdout.trim().to_owned();
    let mut derive = Running::start(Command::new("wg").arg("pubkey"))?;
    derive.write(&format!("{private}\n"))?;
    let public = derive.finish(LIMIT)?.ok()?.stdout.trim().to_owned();
    Ok((private, public))
}

/// Programs to compare with that Debian does not have.
pub(crate) mod tools {
    use super::{Command, Duration, PathBuf, Result};
    use crate::command::{cargo, run};
    use anyhow::bail;
    use vnet_integration::binaries::workspace;

    /// The version that is compared with.
    pub(crate) const VERSION: &str = "0.7.1";

    /// boringtun's own program, installed beside the build's output.
    pub(crate) fn boringtun_cli() -> Result<PathBuf> {
        let target =
            std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from);
        let root = target.join("bench-tools");
        let program = root.join("bin/boringtun-cli");
        if !program.is_file() {
            let mut install: Command = cargo();
            install
                .args(["install", "--quiet", "--locked", "--version", VERSION, "boringtun-cli", "--root"])
                .arg(&root);
            if !run(&mut install, Duration::from_secs(1800))? {
                bail!("cargo install boringtun-cli failed");
            }
        }
        Ok(program)
    }
}
