//! On-premises VPN devices with a BGP router of another make: WireGuard and BIRD, FRR or GoBGP in the namespace of an `external`
//! site.

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::lab::{COMMAND_LIMIT, Lab};
use crate::process::Running;
use crate::wait::{PATIENCE, wait_until};

const INTERFACE: &str = "wg0";

/// What a device is told.
#[derive(Clone, Copy, Debug)]
pub struct Site<'a> {
    /// The namespace: the name of the site.
    pub machine: &'a str,
    /// The connection that leads to it.
    pub connection: &'a str,
    /// Its AS number.
    pub asn: u32,
    /// Its speaker's address.
    pub address: &'a str,
    /// The next hop of the IPv6 routes that it tells.
    pub address_v6: &'a str,
    /// The gateway's AS number.
    pub gateway_asn: u32,
    /// The gateway's speaker.
    pub gateway: &'a str,
    /// The next hop of the gateway's IPv6 routes.
    pub gateway_v6: &'a str,
    /// Prefixes that it tells, of either family.
    pub prefixes: &'a [&'a str],
}

/// A router of another make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Make {
    /// BIRD 2.
    Bird,
    /// FRR's zebra and bgpd.
    Frr,
    /// GoBGP, which brings nothing into the kernel.
    GoBgp,
}

/// A device that runs; its programs end when this is dropped.
pub struct Device<'a> {
    lab: &'a Lab,
    site: Site<'a>,
    make: Make,
    _tunnel: Running,
    routers: Vec<(&'static str, Running)>,
}

impl<'a> Device<'a> {
    /// Starts the tunnel by the configuration that `vnetctl gateway config` prints, and the router behind it.
    ///
    /// # Errors
    /// A program does not start, or refuses its configuration.
    pub fn start(lab: &'a Lab, site: Site<'a>, make: Make) -> Result<Device<'a>> {
        let tunnel = tunnel(lab, &site)?;
        let mut device = Device { lab, site, make, _tunnel: tunnel, routers: Vec::new() };
        device.start_router()?;
        Ok(device)
    }

    /// Starts the router, the first time or after [`Device::stop_router`].
    ///
    /// # Errors
    /// It does not start.
    pub fn start_router(&mut self) -> Result<()> {
        let (machine, site) = (self.site.machine, self.site);
        match self.make {
            Make::Bird => {
                feed(self.lab, machine, "/tmp/bird.conf", &bird_config(&site))?;
                self.run("bird", "bird -f -c /tmp/bird.conf -s /tmp/bird.ctl")?;
            }
            Make::Frr => {
                feed(self.lab, machine, "/tmp/zebra.conf", "log stdout\n")?;
                feed(self.lab, machine, "/tmp/bgpd.conf", &bgpd_config(&site))?;
                for program in ["zebra", "bgpd"] {
                    let files = format!("-f /tmp/{program}.conf -i /tmp/{program}.lock -z /tmp/zserv.api");
                    self.run(program, &format!("/usr/lib/frr/{program} {files} --vty_socket /tmp -P 0"))?;
                    let ready = format!("/tmp/{program}.vty");
                    wait_until("FRR listens", PATIENCE, || {
                        Ok(self.lab.exec(machine, &["test", "-S", &ready])?.success())
                    })?;
                }
            }
            Make::GoBgp => {
                feed(self.lab, machine, "/tmp/gobgp.toml", &gobgp_config(&site))?;
                self.run("gobgpd", "gobgpd -f /tmp/gobgp.toml")?;
                wait_until("GoBGP listens", PATIENCE, || {
                    Ok(self.lab.exec(machine, &["gobgp", "neighbor"])?.success())
                })?;
                for prefix in site.prefixes {
                    let (family, hop) = match prefix.contains(':') {
                        true => ("ipv6", site.address_v6),
                        false => ("ipv4", site.address),
                    };
                    let words = ["gobgp", "global", "rib", "add", prefix, "nexthop", hop, "-a", family];
                    self.lab.exec(machine, &words)?.ok()?;
                }
            }
        }
        Ok(())
    }

    /// Runs a program that is found again by its process id.
    fn run(&mut self, name: &'static str, command: &str) -> Result<()> {
        let line = format!("rm -f /tmp/{name}.vty; echo $$ > /tmp/{name}.pid; exec {command}");
        self.routers.push((name, self.lab.spawn(self.site.machine, &["sh", "-c", &line])?));
        Ok(())
    }

    /// Starts the router anew with other prefixes to tell.
    ///
    /// # Errors
    /// It does not start.
    pub fn tell(&mut self, prefixes: &'a [&'a str]) -> Result<()> {
        self.stop_router()?;
        self.site.prefixes = prefixes;
        self.start_router()
    }

    /// Kills the router; the tunnel stays.
    ///
    /// # Errors
    /// It did not run.
    pub fn stop_router(&mut self) -> Result<()> {
        for (name, running) in self.routers.drain(..) {
            let line = format!("kill -9 $(cat /tmp/{name}.pid)");
            self.lab.exec(self.site.machine, &["sh", "-c", &line])?.ok()?;
            running.finish(PATIENCE)?;
        }
        Ok(())
    }

    /// Whether the router has a route to the prefix that the gateway has told it.
    ///
    /// # Errors
    /// It does not answer.
    pub fn knows(&self, prefix: &str) -> Result<bool> {
        let family = if prefix.contains(':') { "ipv6" } else { "ipv4" };
        let shown = match self.make {
            Make::Bird => {
                let words = ["birdc", "-s", "/tmp/bird.ctl", "show", "route", prefix, "protocol", "azure"];
                self.lab.exec(self.site.machine, &words)?.stdout
            }
            Make::Frr => {
                let command = format!("show bgp {family} unicast {prefix} json");
                let words = ["vtysh", "--vty_socket", "/tmp", "-c", &command];
                self.lab.exec(self.site.machine, &words)?.stdout
            }
            Make::GoBgp => {
                let words = ["gobgp", "global", "rib", "-a", family, prefix];
                self.lab.exec(self.site.machine, &words)?.stdout
            }
        };
        Ok(match self.make {
            Make::Bird => shown.lines().any(|line| line.trim_start().starts_with(prefix)),
            Make::Frr => serde_json::from_str::<Value>(&shown)
                .is_ok_and(|value| value["paths"].as_array().is_some_and(|paths| !paths.is_empty())),
            Make::GoBgp => shown.contains(prefix),
        })
    }

    /// Everything that the router says of its routes, for a message.
    pub fn routes(&self) -> String {
        let words: &[&str] = match self.make {
            Make::Bird => &["birdc", "-s", "/tmp/bird.ctl", "show", "route", "all"],
            Make::Frr => &["vtysh", "--vty_socket", "/tmp", "-c", "show bgp all"],
            Make::GoBgp => &["gobgp", "global", "rib"],
        };
        let said = self.lab.exec(self.site.machine, words).map(|output| output.stdout + &output.stderr);
        let logs = self.routers.iter().map(|(_, router)| router.stdout() + &router.stderr());
        format!("{}\n{}", said.unwrap_or_default(), logs.collect::<String>())
    }
}

/// Writes a file inside a machine.
fn feed(lab: &Lab, machine: &str, path: &str, text: &str) -> Result<()> {
    let mut writer = lab.spawn(machine, &["sh", "-c", &format!("cat > {path}")])?;
    writer.write(text)?;
    writer.close_stdin();
    writer.finish(COMMAND_LIMIT)?.ok().map(|_| ())
}

/// Starts WireGuard with the configuration of the connection, and lays the way to the gateway's speaker.
///
/// # Errors
/// A program does not start, or refuses its configuration.
pub fn tunnel(lab: &Lab, site: &Site<'_>) -> Result<Running> {
    let machine = site.machine;
    let mut program = lab.spawn(machine, &["env", "LOG_LEVEL=verbose", "wireguard-go", "-f", INTERFACE])?;
    wait_until("WireGuard listens", PATIENCE, || {
        let said = program.stdout() + &program.stderr();
        ensure!(program.is_alive(), "it ended: {said}");
        // A wg that asks before takes the socket for one that is left over, and removes it.
        Ok(said.contains("UAPI listener started"))
    })?;
    let config = lab.ctl(&["gateway", "config", site.connection, "--format", "wg"])?.ok()?.stdout;
    feed(lab, machine, "/tmp/wg.conf", &config)?;
    lab.exec(machine, &["wg", "setconf", INTERFACE, "/tmp/wg.conf"])?.ok()?;
    for address in [site.address, site.address_v6] {
        lab.exec(machine, &["ip", "address", "add", address, "dev", INTERFACE, "nodad"])?.ok()?;
    }
    lab.exec(machine, &["ip", "link", "set", INTERFACE, "mtu", "1400", "up"])?.ok()?;
    for gateway in [site.gateway, site.gateway_v6] {
        lab.exec(machine, &["ip", "route", "add", gateway, "dev", INTERFACE])?.ok()?;
    }
    Ok(program)
}

fn of_family<'a>(site: &Site<'a>, v4: bool) -> impl Iterator<Item = &'a str> {
    site.prefixes.iter().copied().filter(move |prefix| prefix.contains(':') != v4)
}

fn bird_config(site: &Site<'_>) -> String {
    let Site { asn, address, address_v6, gateway_asn, gateway, gateway_v6, .. } = site;
    let told = |v4| -> String {
        of_family(site, v4).map(|prefix| format!("  route {prefix} unreachable;\n")).collect()
    };
    let (told4, told6) = (told(true), told(false));
    format!(
        "log stderr all;
router id {address};
protocol device {{}}
protocol kernel kernel4 {{ ipv4 {{ export where source = RTS_BGP; }}; }}
protocol kernel kernel6 {{ ipv6 {{ export where source = RTS_BGP; }}; }}
protocol static told4 {{
  ipv4;
{told4}}}
protocol static told6 {{
  ipv6;
{told6}}}
protocol static way4 {{ ipv4; route {gateway}/32 via \"{INTERFACE}\"; }}
protocol static way6 {{ ipv6; route {gateway_v6}/128 via \"{INTERFACE}\"; }}
protocol bgp azure {{
  local {address} as {asn};
  neighbor {gateway} as {gateway_asn};
  multihop;
  connect retry time 2;
  ipv4 {{ import all; export where proto = \"told4\"; }};
  ipv6 {{ import all; export where proto = \"told6\"; next hop address {address_v6}; }};
}}
"
    )
}

fn bgpd_config(site: &Site<'_>) -> String {
    let Site { asn, address, address_v6, gateway_asn, gateway, .. } = site;
    let networks =
        |v4| -> String { of_family(site, v4).map(|prefix| format!("  network {prefix}\n")).collect() };
    let (networks4, networks6) = (networks(true), networks(false));
    format!(
        "log stdout
router bgp {asn}
 bgp router-id {address}
 no bgp ebgp-requires-policy
 no bgp network import-check
 neighbor {gateway} remote-as {gateway_asn}
 neighbor {gateway} ebgp-multihop 8
 neighbor {gateway} update-source {address}
 neighbor {gateway} timers connect 2
 address-family ipv4 unicast
{networks4}  neighbor {gateway} activate
 exit-address-family
 address-family ipv6 unicast
{networks6}  neighbor {gateway} activate
  neighbor {gateway} route-map own-hop out
 exit-address-family
route-map own-hop permit 10
 set ipv6 next-hop global {address_v6}
"
    )
}

fn gobgp_config(site: &Site<'_>) -> String {
    let Site { asn, address, gateway_asn, gateway, .. } = site;
    format!(
        "[global.config]
as = {asn}
router-id = \"{address}\"
[[neighbors]]
[neighbors.config]
neighbor-address = \"{gateway}\"
peer-as = {gateway_asn}
[neighbors.transport.config]
local-address = \"{address}\"
[neighbors.ebgp-multihop.config]
enabled = true
multihop-ttl = 8
[neighbors.timers.config]
connect-retry = 5
[[neighbors.afi-safis]]
[neighbors.afi-safis.config]
afi-safi-name = \"ipv4-unicast\"
[[neighbors.afi-safis]]
[neighbors.afi-safis.config]
afi-safi-name = \"ipv6-unicast\"
"
    )
}
