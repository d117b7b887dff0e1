//! A VPN device that another implementation of WireGuard runs, in the namespace of an `external` site.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::lab::{COMMAND_LIMIT, Lab};
use crate::process::{Output, Running, find_program};
use crate::wait::{PATIENCE, wait_until};

/// The device's interface.
pub const INTERFACE: &str = "wg0";

/// A program that runs WireGuard in userspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Implementation {
    /// The program.
    pub program: &'static str,
    flags: &'static [&'static str],
}

/// WireGuard's own, in Go.
pub const WIREGUARD_GO: Implementation = Implementation { program: "wireguard-go", flags: &["-f"] };
/// Cloudflare's.
pub const BORINGTUN: Implementation =
    Implementation { program: "boringtun-cli", flags: &["-f", "--disable-drop-privileges"] };
/// Mullvad's.
pub const GOTATUN: Implementation =
    Implementation { program: "gotatun", flags: &["-f", "--disable-drop-privileges"] };

impl Implementation {
    fn path(self) -> Result<String> {
        let path = find_program(self.program).with_context(|| format!("no program {}", self.program))?;
        Ok(path.to_string_lossy().into_owned())
    }
}

/// Packets and bytes of the tunnel's interface: received from the tunnel, sent into it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Packets that came out of the tunnel.
    pub received_packets: u64,
    /// Their bytes.
    pub received_bytes: u64,
    /// Packets that went into it.
    pub sent_packets: u64,
    /// Their bytes.
    pub sent_bytes: u64,
}

impl Traffic {
    /// What was added to it since it was `earlier`.
    #[must_use]
    pub fn since(self, earlier: Traffic) -> Traffic {
        Traffic {
            received_packets: self.received_packets - earlier.received_packets,
            received_bytes: self.received_bytes - earlier.received_bytes,
            sent_packets: self.sent_packets - earlier.sent_packets,
            sent_bytes: self.sent_bytes - earlier.sent_bytes,
        }
    }
}

/// A device with its tunnel; its program ends when this is dropped.
pub struct Device<'a> {
    lab: &'a Lab,
    machine: String,
    program: Option<Running>,
}

impl<'a> Device<'a> {
    /// Starts a program in the namespace `machine`, and gives it the configuration of a connection as it is printed for
    /// `wg setconf`. Routes lead to what it says is behind the gateway.
    ///
    /// # Errors
    /// The program ends, or it or `wg` refuses the configuration.
    pub fn start(
        lab: &'a Lab,
        machine: &str,
        connection: &str,
        implementation: Implementation,
    ) -> Result<Device<'a>> {
        let mut command = vec![implementation.path()?];
        command.extend(implementation.flags.iter().map(|flag| (*flag).to_owned()));
        command.push(INTERFACE.to_owned());
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        let mut program = lab.spawn(machine, &words)?;
        wait_until("the program answers wg", PATIENCE, || {
            ensure!(program.is_alive(), "it ended: {}{}", program.stdout(), program.stderr());
            Ok(lab.exec(machine, &["wg", "show", INTERFACE])?.success())
        })?;
        let device = Device { lab, machine: machine.to_owned(), program: Some(program) };
        let config = lab.ctl(&["gateway", "config", connection, "--format", "wg"])?.ok()?.stdout;
        device.feed(&["wg", "setconf", INTERFACE, "/dev/stdin"], &config)?.ok()?;
        device.exec(&["ip", "link", "set", INTERFACE, "mtu", "1400", "addrgenmode", "none", "up"])?.ok()?;
        for prefix in allowed(lab, connection)? {
            device.exec(&["ip", "route", "add", &prefix, "dev", INTERFACE])?.ok()?;
        }
        Ok(device)
    }

    /// Lets `wg-quick` start the program and configure it, by the configuration of a connection as it is.
    ///
    /// # Errors
    /// `wg-quick` fails.
    pub fn start_quick(
        lab: &'a Lab,
        machine: &str,
        connection: &str,
        implementation: Implementation,
    ) -> Result<Device<'a>> {
        let config = lab.ctl(&["gateway", "config", connection, "--format", "wg-quick"])?.ok()?.stdout;
        let device = Device { lab, machine: machine.to_owned(), program: None };
        let file = format!("/tmp/{INTERFACE}.conf");
        device.feed(&["sh", "-c", &format!("umask 077; cat > {file}")], &config)?.ok()?;
        let userspace = format!("WG_QUICK_USERSPACE_IMPLEMENTATION={}", implementation.path()?);
        // Two of the programs would become another user, who may not configure the interface.
        device.exec(&["env", &userspace, "WG_SUDO=true", "wg-quick", "up", &file])?.ok()?;
        Ok(device)
    }

    /// Runs a program in the device's namespace.
    ///
    /// # Errors
    /// It could not be run, or not to its end.
    pub fn exec(&self, arguments: &[&str]) -> Result<Output> {
        self.lab.exec(&self.machine, arguments)
    }

    /// As [`Device::exec`], with a text for its standard input.
    ///
    /// # Errors
    /// It could not be run, or not to its end.
    pub fn feed(&self, arguments: &[&str], input: &str) -> Result<Output> {
        let mut running = self.lab.spawn(&self.machine, arguments)?;
        running.write(input)?;
        running.close_stdin();
        running.finish(COMMAND_LIMIT)
    }

    /// Bytes of datagrams that the program has taken from its peer: what is refused does not count.
    ///
    /// # Errors
    /// `wg` fails.
    pub fn received_bytes(&self) -> Result<u64> {
        let shown = self.exec(&["wg", "show", INTERFACE, "transfer"])?.ok()?.stdout;
        Ok(shown.split_whitespace().nth(1).context("no peer is listed")?.parse()?)
    }

    /// What the tunnel's interface has counted, without the multicast by which a router makes itself known on a link: no
    /// tunnel carries it.
    ///
    /// # Errors
    /// `ip` fails.
    pub fn traffic(&self) -> Result<Traffic> {
        let shown = self.exec(&["ip", "-j", "-s", "link", "show", INTERFACE])?.ok()?.json()?;
        let of = |direction: &str, unit: &str| {
            shown[0]["stats64"][direction][unit].as_u64().context("ip shows no statistics")
        };
        let noise = self.exec(&["cat", &format!("/proc/net/dev_snmp6/{INTERFACE}")])?.ok()?.stdout;
        let noise = |name: &str| -> Result<u64> {
            let line =
                noise.lines().find_map(|line| line.strip_prefix(name)).context("no statistics of IPv6")?;
            Ok(line.trim().parse()?)
        };
        Ok(Traffic {
            received_packets: of("rx", "packets")?,
            received_bytes: of("rx", "bytes")?,
            sent_packets: of("tx", "packets")? - noise("Ip6OutMcastPkts")?,
            sent_bytes: of("tx", "bytes")? - noise("Ip6OutMcastOctets")?,
        })
    }

    /// What the program has printed so far.
    pub fn said(&self) -> String {
        self.program.as_ref().map(|program| program.stdout() + &program.stderr()).unwrap_or_default()
    }
}

/// The peer's prefixes in the configuration of a connection, those for everything left out.
fn allowed(lab: &Lab, connection: &str) -> Result<Vec<String>> {
    let config = lab.ctl(&["gateway", "config", connection, "--format", "json"])?.ok()?.json()?;
    let prefixes = config["peer"]["allowedIPs"].as_array().context("no allowedIPs")?;
    Ok(prefixes
        .iter()
        .filter_map(Value::as_str)
        .filter(|text| !text.ends_with("/0"))
        .map(Into::into)
        .collect())
}

/// The public address and port of the peer that a tunnel of the lab has now.
///
/// # Errors
/// The lab has no tunnel of the connection.
pub fn remote(lab: &Lab, connection: &str) -> Result<(IpAddr, u16)> {
    let shown = tunnel(lab, connection)?["remote"].as_str().context("no remote")?.to_owned();
    let address: std::net::SocketAddr = shown.parse()?;
    Ok((address.ip(), address.port()))
}

/// The first tunnel end of a connection, as `gateway status` shows it.
///
/// # Errors
/// The lab has no tunnel of the connection.
pub fn tunnel(lab: &Lab, connection: &str) -> Result<Value> {
    let report = lab.json(&["gateway", "status"])?;
    let tunnels = report["value"].as_array().context("no list of tunnels")?;
    tunnels
        .iter()
        .find(|tunnel| tunnel["connection"] == connection)
        .cloned()
        .with_context(|| format!("no tunnel of {connection}"))
}
