//! VPN devices that other implementations of WireGuard run: they take their configuration as `vnetctl gateway config` prints
//! it, and a gateway behaves with them as the WireGuard paper says.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use vnet_integration::lab::edited;
use vnet_integration::stream::in_namespace;
use vnet_integration::suite::Lab;
use vnet_integration::wireguard::{
    BORINGTUN, Device, GOTATUN, INTERFACE, Implementation, Traffic, WIREGUARD_GO, remote, tunnel,
};
use vnet_integration::{Lab as RunningLab, PATIENCE, Scene, wait_until};

/// One lab for each implementation.
macro_rules! labs {
    ($($shows:literal => $body:ident),* $(,)?) => {
        &[$(
            Lab::new(concat!("peers::wireguard_go_", $shows), |scene| $body(scene, WIREGUARD_GO))
                .needs(&["wireguard-go", "wg", "wg-quick", "ping", "nc", "tcpdump", "nft"]),
            Lab::new(concat!("peers::boringtun_", $shows), |scene| $body(scene, BORINGTUN))
                .needs(&["boringtun-cli", "wg", "wg-quick", "ping", "nc", "tcpdump", "nft"]),
            Lab::new(concat!("peers::gotatun_", $shows), |scene| $body(scene, GOTATUN))
                .needs(&["gotatun", "wg", "wg-quick", "ping", "nc", "tcpdump", "nft"]),
        )*]
    };
}

pub(crate) const LABS: &[Lab] = labs! {
    "connects_by_wg_setconf" => connects,
    "connects_by_wg_quick" => connects_by_wg_quick,
    "sends_everything_by_wg_quick" => sends_everything,
    "is_followed_to_another_port" => follows_the_port,
    "is_refused_from_another_address" => refuses_another_address,
    "is_not_harmed_by_forgeries_and_replays" => withstands_forgeries,
    "connects_under_a_flood_of_handshakes" => connects_under_a_flood,
};

pub(crate) const LONG_LABS: &[Lab] = labs! {
    "renews_its_session_and_keeps_it_alive" => renews,
};

const TOPOLOGY: &str = "\
name: peers
location: eastus
virtualNetworks:
  hub:
    addressSpace: [10.0.0.0/16, 'fd00:0::/48']
    subnets: {GatewaySubnet: 10.0.255.0/27, shared: {addressPrefixes: [10.0.2.0/24, 'fd00:0:0:2::/64']}}
    peerings: {spoke1: {allowForwardedTraffic: true, allowGatewayTransit: true}}
  spoke1:
    addressSpace: [10.1.0.0/16]
    subnets: {app: 10.1.0.0/24}
    peerings: {hub: {allowForwardedTraffic: true, useRemoteGateways: true}}
virtualMachines:
  dns: {subnet: hub/shared, privateIPAddresses: [10.0.2.4, 'fd00:0:0:2::4']}
  web: {subnet: spoke1/app, privateIPAddress: 10.1.0.4}
virtualNetworkGateways:
  hub-vpn: {virtualNetwork: hub, gatewayType: Vpn, sku: VpnGw1AZ, vpnGatewayGeneration: Generation1, publicIPAddresses: [198.51.100.10]}
localNetworkGateways:
  hq: {gatewayIpAddress: 198.51.100.200, localNetworkAddressSpace: [192.168.0.0/16, 'fd00:c0::/48']}
connections:
  hub-to-hq: {connectionType: IPsec, virtualNetworkGateway1: hub-vpn, localNetworkGateway2: hq, sharedKey: site-key}
onPremisesSites:
  hq:
    addressSpace: [192.168.0.0/16, 'fd00:c0::/48']
    hosts: {pc: [192.168.1.10, 'fd00:c0::10']}
    vpnDevice: {publicIPAddress: 198.51.100.200, kind: external}
";

const GATEWAY: &str = "198.51.100.10:51820";
const CONNECTION: &str = "hub-to-hq";

/// Payloads that differ from each other in length, so that counts of bytes mean something.
const PAYLOADS: [&str; 3] = ["64", "700", "1372"];

fn connects(scene: &Scene, implementation: Implementation) -> Result<()> {
    let lab = scene.up(TOPOLOGY)?;
    let device = Device::start(&lab, "hq", CONNECTION, implementation)?;
    reaches(&lab).with_context(|| device.said())?;
    ensure!(device.received_bytes()? > 0, "the device counts too");
    lab.expect_ping("pc", "fd00:0:0:2::4")?;
    lab.expect_ping("dns", "fd00:c0::10")?;
    counters_agree(&lab, &device)?;
    let mut server = lab.serve("web", 7000, &["nc", "-l", "7000"])?;
    let mut client = lab.spawn("pc", &["nc", "10.1.0.4", "7000"])?;
    client.write("through the tunnel\n")?;
    server.wait_for("through the tunnel", PATIENCE)
}

/// Both ways between the site's host and a network behind the gateway's.
fn reaches(lab: &RunningLab) -> Result<()> {
    lab.wait_tunnels()?;
    lab.expect_ping("pc", "10.1.0.4")?;
    lab.expect_ping("web", "192.168.1.10")
}

/// What the gateway has counted, in the device's words.
fn counted(lab: &RunningLab) -> Result<Traffic> {
    let scrape = lab.daemon().metrics()?;
    let sum = |unit: &str, direction: &str| {
        let labels = [
            ("lab", lab.name()),
            ("gateway", "hub-vpn"),
            ("connection", CONNECTION),
            ("direction", direction),
        ];
        scrape.sum(&format!("vnet_gateway_tunnel_{unit}_total"), &labels) as u64
    };
    Ok(Traffic {
        received_packets: sum("packets", "outbound"),
        received_bytes: sum("bytes", "outbound"),
        sent_packets: sum("packets", "inbound"),
        sent_bytes: sum("bytes", "inbound"),
    })
}

fn counters_agree(lab: &RunningLab, device: &Device<'_>) -> Result<()> {
    // What the device took before there was a session has gone nowhere.
    let before = (device.traffic()?, counted(lab)?);
    for payload in PAYLOADS {
        let ping = ["ping", "-n", "-c", "10", "-i", "0.05", "-W", "2", "-s", payload, "10.0.2.4"];
        lab.exec("pc", &ping)?.ok()?;
    }
    wait_until("both ends count the same", PATIENCE, || {
        let (there, here) = (device.traffic()?.since(before.0), counted(lab)?.since(before.1));
        ensure!(there == here, "the device has counted {there:?}, the gateway {here:?}");
        ensure!(here.sent_packets >= 30 && here.received_packets >= 30, "too little was counted: {here:?}");
        Ok(true)
    })
}

fn connects_by_wg_quick(scene: &Scene, implementation: Implementation) -> Result<()> {
    let lab = scene.up(TOPOLOGY)?;
    let device = Device::start_quick(&lab, "hq", CONNECTION, implementation)?;
    reaches(&lab)?;
    let link = device.exec(&["ip", "link", "show", INTERFACE])?.ok()?.stdout;
    ensure!(link.contains("mtu 1400"), "{link}");
    let routes = device.exec(&["ip", "route", "show", "dev", INTERFACE])?.ok()?.stdout;
    ensure!(routes.contains("10.0.0.0/16") && routes.contains("10.1.0.0/16"), "{routes}");
    Ok(())
}

/// A device that sends everything into the tunnel keeps its own default route, which leads to the tunnel's other end.
fn sends_everything(scene: &Scene, implementation: Implementation) -> Result<()> {
    let everything = "kind: external, remoteAddressSpace: [0.0.0.0/0, '::/0']}";
    let lab = scene.up(&edited(TOPOLOGY, "kind: external}", everything))?;
    let routes = || Ok::<_, anyhow::Error>(lab.exec("hq", &["ip", "route", "show"])?.ok()?.stdout);
    let before = routes()?;
    let device = Device::start_quick(&lab, "hq", CONNECTION, implementation)?;
    ensure!(routes()? == before, "Table = off leaves the routes alone: {}", routes()?);
    device.exec(&["ip", "route", "add", "10.0.0.0/8", "dev", INTERFACE])?.ok()?;
    reaches(&lab)
}

/// What a translation on the way does to the port of the device's datagrams.
fn translate(device: &Device<'_>, port: u16) -> Result<()> {
    let rules = format!(
        "add table ip rebind
delete table ip rebind
table ip rebind {{
  chain out {{ type filter hook postrouting priority 300; udp sport 51820 udp sport set {port}; }}
  chain in {{ type filter hook prerouting priority -300; udp dport {port} udp dport set 51820; }}
}}
"
    );
    device.feed(&["nft", "-f", "-"], &rules)?.ok()?;
    Ok(())
}

fn follows_the_port(scene: &Scene, implementation: Implementation) -> Result<()> {
    let lab = scene.up(TOPOLOGY)?;
    let device = Device::start(&lab, "hq", CONNECTION, implementation)?;
    reaches(&lab)?;
    let handshakes = |lab: &RunningLab| lab.metric("vnet_gateway_tunnel_handshakes_total", &[]);
    let before = handshakes(&lab)?;
    for port in [40_001, 40_002] {
        translate(&device, port)?;
        lab.expect_ping("pc", "10.1.0.4")?;
        ensure!(remote(&lab, CONNECTION)?.1 == port, "the gateway sends to {:?}", remote(&lab, CONNECTION)?);
        lab.expect_ping("web", "192.168.1.10")?;
    }
    ensure!(handshakes(&lab)? == before, "the session has moved, no new one was made");
    Ok(())
}

fn refuses_another_address(scene: &Scene, implementation: Implementation) -> Result<()> {
    let lab = scene.up(&format!(
        "{TOPOLOGY}  stranger: {{addressSpace: [192.168.99.0/24], vpnDevice: {{publicIPAddress: 198.51.100.201, kind: external}}}}\n"
    ))?;
    let started = || Device::start(&lab, "stranger", CONNECTION, implementation);
    let stranger = lab.expect_drop("SpoofedSource", started)?;
    wait_until("the status says why", PATIENCE, || {
        let tunnel = tunnel(&lab, CONNECTION)?;
        let why = tunnel["why"].as_str().unwrap_or_default();
        ensure!(tunnel["state"] == "NotConnected", "{tunnel}");
        Ok(why.contains("198.51.100.201") && why.contains("gatewayIpAddress is 198.51.100.200"))
    })?;
    let drops = lab.json(&["drops"])?;
    let rows = drops["value"].as_array().context("no list of drops")?;
    let row = rows.iter().find(|row| row["reason"] == "SpoofedSource").context("no such drop")?;
    ensure!(row["vm"] == "hub-vpn", "{row}");
    ensure!(row["last"].as_str().is_some_and(|last| last.contains("198.51.100.201")), "{row}");
    ensure!(stranger.received_bytes()? == 0, "it never gets an answer");
    drop(stranger);
    let _device = Device::start(&lab, "hq", CONNECTION, implementation)?;
    reaches(&lab)
}

/// Sends datagrams to the gateway from the device's own address, by another port.
fn forge(lab: &RunningLab, datagrams: Vec<Vec<u8>>) -> Result<()> {
    in_namespace(&lab.namespace("hq"), move || {
        let socket = UdpSocket::bind("198.51.100.200:0")?;
        for datagram in datagrams {
            socket.send_to(&datagram, GATEWAY)?;
        }
        Ok(())
    })
}

/// The type of a WireGuard message.
fn kind(datagram: &[u8]) -> u8 {
    datagram.first().copied().unwrap_or_default()
}

fn withstands_forgeries(scene: &Scene, implementation: Implementation) -> Result<()> {
    // The gateway waits, so the device's initiation is the one that counts.
    let lab = scene.up(&edited(
        TOPOLOGY,
        "sharedKey: site-key",
        "sharedKey: site-key, connectionMode: ResponderOnly",
    ))?;
    let capture = lab.capture("hq", "eth0", "udp and dst host 198.51.100.10 and dst port 51820")?;
    let _device = Device::start(&lab, "hq", CONNECTION, implementation)?;
    reaches(&lab)?;
    lab.exec("pc", &["ping", "-n", "-c", "20", "-i", "0.05", "-W", "2", "10.1.0.4"])?.ok()?;
    let sent = capture.stop()?.datagrams()?;
    ensure!(sent.iter().any(|datagram| kind(datagram) == 1), "the device started the handshake");
    ensure!(sent.iter().filter(|datagram| kind(datagram) == 4).count() >= 20, "and sent packets");
    let before = counted(&lab)?;

    let replays = sent.len() as f64;
    let forged: Vec<Vec<u8>> = sent
        .iter()
        .filter_map(|datagram| {
            let mut forged = datagram.clone();
            *forged.last_mut()? ^= 1;
            (kind(datagram) == 4).then_some(forged)
        })
        .collect();
    let forgeries = forged.len() as f64;
    for (what, datagrams, count) in [("replays", sent, replays), ("forgeries", forged, forgeries)] {
        let refused = || Ok::<_, anyhow::Error>(lab.drops("Malformed")? + lab.drops("TunnelDown")?);
        let dropped_before = refused()?;
        forge(&lab, datagrams)?;
        wait_until("each is refused", PATIENCE, || Ok(refused()? - dropped_before == count)).with_context(
            || format!("{count} {what}, {} refused", refused().unwrap_or_default() - dropped_before),
        )?;
    }
    ensure!(counted(&lab)? == before, "nothing of it was taken for a packet");
    ensure!(remote(&lab, CONNECTION)?.1 == 51820, "nor for the device's new address");
    reaches(&lab)
}

fn connects_under_a_flood(scene: &Scene, implementation: Implementation) -> Result<()> {
    let lab = scene.up(&edited(
        TOPOLOGY,
        "sharedKey: site-key",
        "sharedKey: site-key, connectionMode: ResponderOnly",
    ))?;
    let capture = lab.capture("hq", "eth0", "udp and dst host 198.51.100.10 and dst port 51820")?;
    let device = Device::start(&lab, "hq", CONNECTION, implementation)?;
    reaches(&lab)?;
    drop(device);
    let sent = capture.stop()?.datagrams()?;
    let initiation = sent.into_iter().find(|datagram| kind(datagram) == 1).context("no initiation")?;
    let flood = Flood::start(&lab, initiation)?;
    // Of each second's first handshakes none has to prove its address: the device's may be among them by chance.
    for _ in 0..5 {
        let capture = lab.capture("hq", "eth0", "udp and src port 51820 and dst port 51820")?;
        let device = Device::start(&lab, "hq", CONNECTION, implementation)?;
        reaches(&lab)?;
        drop(device);
        let seen = capture.stop()?.datagrams()?;
        let asked = seen.iter().any(|datagram| kind(datagram) == 3);
        let proved =
            seen.iter().any(|datagram| kind(datagram) == 1 && datagram[132..].iter().any(|byte| *byte != 0));
        if asked && proved {
            ensure!(flood.stop()? > 0, "the flood was asked to prove its address too");
            return Ok(());
        }
    }
    anyhow::bail!("the device was never asked to prove its address")
}

/// A thousand handshake initiations a second, from the device's address by another port.
struct Flood {
    thread: std::thread::JoinHandle<Result<u64>>,
    stop: std::sync::Arc<std::sync::atomic::AtomicBool>,
}

impl Flood {
    fn start(lab: &RunningLab, initiation: Vec<u8>) -> Result<Flood> {
        use std::sync::atomic::{AtomicBool, Ordering};
        let socket = in_namespace(&lab.namespace("hq"), || Ok(UdpSocket::bind("198.51.100.200:0")?))?;
        socket.set_nonblocking(true)?;
        let gateway: SocketAddr = GATEWAY.parse()?;
        let stop = std::sync::Arc::new(AtomicBool::new(false));
        let stopped = std::sync::Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let (mut cookies, mut answer) = (0, [0; 256]);
            while !stopped.load(Ordering::Acquire) {
                socket.send_to(&initiation, gateway)?;
                while let Ok(length) = socket.recv(&mut answer) {
                    cookies += u64::from(kind(&answer[..length]) == 3);
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            Ok(cookies)
        });
        Ok(Flood { thread, stop })
    }

    /// Ends it; how many cookies it was given.
    fn stop(self) -> Result<u64> {
        self.stop.store(true, std::sync::atomic::Ordering::Release);
        self.thread.join().map_err(|_| anyhow::anyhow!("the flood panicked"))?
    }
}

fn renews(scene: &Scene, implementation: Implementation) -> Result<()> {
    let lab = scene.up(TOPOLOGY)?;
    let _device = Device::start(&lab, "hq", CONNECTION, implementation)?;
    reaches(&lab)?;
    let handshakes =
        |lab: &RunningLab| lab.metric("vnet_gateway_tunnel_handshakes_total", &[("gateway", "hub-vpn")]);
    let before = handshakes(&lab)?;
    let ping = ["ping", "-n", "-c", "270", "-i", "1", "-W", "2", "10.1.0.4"];
    let pinged = lab.exec_within("pc", &ping, Duration::from_secs(300))?.ok()?.stdout;
    ensure!(pinged.contains(" 0% packet loss"), "no packet is lost by renewals: {pinged}");
    ensure!(handshakes(&lab)? >= before + 2.0, "a session is renewed after 120 s");

    let capture = lab.capture("hq", "eth0", "udp port 51820")?;
    let silent_since = Instant::now();
    // Time is what is tested here: nothing to wait for but its passing.
    while silent_since.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_secs(1));
    }
    let seen = capture.stop()?.datagrams()?;
    let keepalives = seen.iter().filter(|datagram| kind(datagram) == 4 && datagram.len() == 32).count();
    ensure!(keepalives >= 2, "{keepalives} keepalives of {} datagrams in a minute", seen.len());
    lab.wait_tunnels()?;
    lab.expect_ping("web", "192.168.1.10")
}
