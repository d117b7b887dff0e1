//! A way that is measured: from a client in one namespace to servers in another.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde_json::Value;
use vnet_integration::process::{self, Output, Running};
use vnet_integration::wait_until;

use super::namespace::{LIMIT, inside, ip};

/// The port of iperf3's server.
pub(crate) const IPERF_PORT: u16 = 5201;
/// The port of sockperf's server.
pub(crate) const SOCKPERF_PORT: u16 = 11111;

/// One way from end to end.
#[derive(Clone)]
pub(crate) struct Path {
    /// As in the tables and in the JSON.
    pub(crate) name: &'static str,
    /// The servers' address.
    pub(crate) address: String,
    /// The client's namespace.
    pub(crate) client: String,
    /// The servers' namespace.
    pub(crate) server: String,
    /// The programs that carry its packets, by process id; none where the kernel does.
    pub(crate) carriers: Vec<u32>,
}

/// What two paths must have alike to be compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Conditions {
    /// Greatest IP packet, at the client and at the server.
    mtu: [u64; 2],
    /// Greatest super-packet that the sender's kernel makes for the device, at both ends.
    gso_bytes_max: [u64; 2],
    /// TCP's parameters that namespaces have for themselves, at both ends.
    tcp: [String; 2],
}

/// A command that stays on a processor of its own: the ends of a round trip have one each, so that it takes the same wake-ups on
/// every path. With a single processor there is nothing to choose.
pub(crate) fn on_processor<'a>(processor: &'a str, command: &[&'a str]) -> Vec<&'a str> {
    let several = std::thread::available_parallelism().is_ok_and(|count| count.get() > 1);
    let prefix: &[&str] = if several { &["taskset", "-c", processor] } else { &[] };
    [prefix, command].concat()
}

impl Path {
    pub(crate) fn new(
        name: &'static str,
        client: &str,
        server: &str,
        address: &str,
        carriers: Vec<u32>,
    ) -> Path {
        Path {
            name,
            address: address.to_owned(),
            client: client.to_owned(),
            server: server.to_owned(),
            carriers,
        }
    }

    /// Runs a client program.
    pub(crate) fn client(&self, arguments: &[&str], limit: Duration) -> Result<Output> {
        process::output(&mut inside(&self.client, arguments), limit)
    }

    /// Starts the servers, and waits until the path carries packets to them.
    pub(crate) fn serve(&self) -> Result<Vec<Running>> {
        let sockperf_port = SOCKPERF_PORT.to_string();
        let sockperf = ["sockperf", "server", "-i", &self.address, "-p", &sockperf_port];
        let servers = vec![
            Running::start(&mut inside(&self.server, &["iperf3", "-s"]))?,
            Running::start(&mut inside(&self.server, &on_processor("1", &sockperf)))?,
        ];
        self.wait_open(IPERF_PORT).with_context(|| format!("servers of {}", self.name))?;
        Ok(servers)
    }

    /// Waits until a TCP connection to a port opens.
    pub(crate) fn wait_open(&self, port: u16) -> Result<()> {
        wait_until("the path carries packets", LIMIT, || {
            let port = port.to_string();
            let open = self.client(&["nc", "-n", "-z", "-w", "1", &self.address, &port], LIMIT)?;
            Ok(open.success())
        })
    }

    /// Under what conditions it is measured.
    pub(crate) fn conditions(&self) -> Result<Conditions> {
        let client = end(&self.client, &self.address)?;
        let own = client.source.clone();
        let server = end(&self.server, &own)?;
        Ok(Conditions {
            mtu: [client.mtu, server.mtu],
            gso_bytes_max: [client.gso_bytes_max, server.gso_bytes_max],
            tcp: [client.tcp, server.tcp],
        })
    }
}

/// All of these paths have equal conditions.
pub(crate) fn ensure_alike(paths: &[Path]) -> Result<()> {
    let Some((first, others)) = paths.split_first() else { return Ok(()) };
    let wanted = first.conditions()?;
    for other in others {
        let found = other.conditions()?;
        ensure!(
            found == wanted,
            "{} and {} cannot be compared: {wanted:?} and {found:?}",
            first.name,
            other.name
        );
    }
    Ok(())
}

struct End {
    source: String,
    mtu: u64,
    gso_bytes_max: u64,
    tcp: String,
}

fn end(namespace: &str, peer: &str) -> Result<End> {
    let route = json(&["-n", namespace, "-j", "route", "get", peer])?;
    let text = |value: &Value, name: &str| {
        value[name].as_str().map(str::to_owned).with_context(|| format!("{namespace}: no {name} in {value}"))
    };
    let device = text(&route, "dev")?;
    let link = json(&["-n", namespace, "-d", "-j", "link", "show", "dev", &device])?;
    let number =
        |name: &str| link[name].as_u64().with_context(|| format!("{namespace}: no {name} in {link}"));
    let line =
        "cd /proc/sys/net/ipv4 && cat tcp_congestion_control tcp_rmem tcp_wmem tcp_timestamps tcp_sack";
    let tcp = process::output(&mut inside(namespace, &["sh", "-c", line]), LIMIT)?.ok()?;
    Ok(End {
        source: text(&route, "prefsrc")?,
        mtu: number("mtu")?,
        gso_bytes_max: number("gso_max_size")?,
        tcp: tcp.stdout.split_whitespace().collect::<Vec<_>>().join(" "),
    })
}

fn json(arguments: &[&str]) -> Result<Value> {
    let text = ip(arguments)?;
    let value: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
    Ok(value[0].clone())
}
