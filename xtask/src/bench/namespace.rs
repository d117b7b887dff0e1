//! Namespaces of the benchmark's own, and the kernel's router made of three of them.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use vnet_integration::process;

use super::path::Path;

/// How long any one small command may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// A command that runs inside a namespace.
pub(crate) fn inside(namespace: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace]).args(arguments);
    command
}

/// Runs `ip` with these arguments; what it prints.
pub(crate) fn ip(arguments: &[&str]) -> Result<String> {
    Ok(process::output(Command::new("ip").args(arguments), LIMIT)?.ok()?.stdout)
}

/// Writes a sysctl below `/proc/sys/net` of a namespace.
pub(crate) fn sysctl(namespace: &str, file: &str, value: &str) -> Result<()> {
    let line = format!("echo {value} > /proc/sys/net/{file}");
    process::output(&mut inside(namespace, &["sh", "-c", &line]), LIMIT)?.ok()?;
    Ok(())
}

/// Loads rules of nftables in a namespace.
pub(crate) fn nft(namespace: &str, rules: &str) -> Result<()> {
    let mut running = process::Running::start(&mut inside(namespace, &["nft", "-f", "-"]))?;
    running.write(rules)?;
    running.finish(LIMIT)?.ok()?;
    Ok(())
}

/// A namespace that goes when this is dropped.
pub(crate) struct Namespace {
    pub(crate) name: String,
}

impl Namespace {
    /// Makes it; `role` tells it from the others of this run.
    pub(crate) fn new(prefix: &str, role: &str) -> Result<Namespace> {
        let name = format!("{prefix}{role}");
        ip(&["netns", "add", &name])?;
        let namespace = Namespace { name };
        namespace.ip(&["link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// `ip` inside.
    pub(crate) fn ip(&self, arguments: &[&str]) -> Result<()> {
        let mut all = vec!["-n", self.name.as_str()];
        all.extend(arguments);
        ip(&all)?;
        Ok(())
    }

    /// Joins this namespace with another by a pair of veths, each with an address.
    pub(crate) fn join(
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

/// The kernel's router: two namespaces joined through a third that forwards.
pub(crate) struct KernelRouter {
    client: Namespace,
    server: Namespace,
    router: Namespace,
}

impl KernelRouter {
    /// Makes it; `role` tells it from others of this run.
    pub(crate) fn start(prefix: &str, role: &str) -> Result<KernelRouter> {
        let client = Namespace::new(prefix, &format!("{role}-c"))?;
        let router = Namespace::new(prefix, &format!("{role}-r"))?;
        let server = Namespace::new(prefix, &format!("{role}-s"))?;
        client.join("eth0", "10.1.0.4/24", &router, "eth0", "10.1.0.1/24")?;
        server.join("eth0", "10.2.0.4/24", &router, "eth1", "10.2.0.1/24")?;
        sysctl(&router.name, "ipv4/ip_forward", "1")?;
        client.ip(&["route", "add", "default", "via", "10.1.0.1"])?;
        server.ip(&["route", "add", "default", "via", "10.2.0.1"])?;
        Ok(KernelRouter { client, server, router })
    }

    /// Loads rules of nftables in the namespace that forwards.
    pub(crate) fn filter(&self, rules: &str) -> Result<()> {
        nft(&self.router.name, rules).context("the rules of the kernel's router")
    }

    /// The namespace that forwards.
    pub(crate) fn forwarder(&self) -> &str {
        &self.router.name
    }

    /// From end to end.
    pub(crate) fn path(&self, name: &'static str) -> Path {
        Path::new(name, &self.client.name, &self.server.name, "10.2.0.4", Vec::new())
    }
}
