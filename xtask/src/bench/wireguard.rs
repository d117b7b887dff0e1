//! Other WireGuards in userspace to compare with.

use std::process::Command;

use anyhow::{Context, Result};
use vnet_integration::process::{self, Running};
use vnet_integration::wait_until;

use super::namespace::{LIMIT, Namespace, inside};
use super::path::Path;

/// Two namespaces joined by a veth, a WireGuard in userspace at each end.
pub(crate) struct WireGuardPair {
    name: &'static str,
    client: Namespace,
    server: Namespace,
    daemons: Vec<Running>,
}

impl WireGuardPair {
    /// Makes it with a program that is called with `flags` and the interface's name.
    pub(crate) fn start(
        prefix: &str,
        name: &'static str,
        program: &str,
        flags: &[&str],
    ) -> Result<WireGuardPair> {
        let (client, server) =
            (Namespace::new(prefix, &format!("{name}-c"))?, Namespace::new(prefix, &format!("{name}-s"))?);
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
        Ok(WireGuardPair { name, client, server, daemons })
    }

    /// From end to end.
    pub(crate) fn path(&self) -> Path {
        let carriers = self.daemons.iter().map(Running::pid).collect();
        Path::new(self.name, &self.client.name, &self.server.name, "10.9.0.2", carriers)
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
