//! A network virtual appliance: a machine whose own kernel forwards and filters.

use anyhow::{Result, ensure};
use vnet_integration::lab::edited;
use vnet_integration::suite::Lab;
use vnet_integration::{PATIENCE, Scene, wait_until};

pub(crate) const LABS: &[Lab] = &[Lab::new("nva::forwards_with_the_flag_only", forwards_with_the_flag_only)
    .needs(&["nc", "ping", "nft", "traceroute"])];

const TOPOLOGY: &str = "\
name: nva
virtualNetworks:
  hub:
    addressSpace: [10.0.0.0/16]
    subnets: {nva: 10.0.2.0/24}
    peerings: {spoke1: {}, spoke2: {}}
  spoke1:
    addressSpace: [10.1.0.0/16]
    subnets: {app: {addressPrefix: 10.1.0.0/24, routeTable: via-nva}}
    peerings: {hub: {allowForwardedTraffic: true}}
  spoke2:
    addressSpace: [10.2.0.0/16]
    subnets: {db: {addressPrefix: 10.2.0.0/24, routeTable: via-nva}}
    peerings: {hub: {allowForwardedTraffic: true}}
virtualMachines:
  web: {subnet: spoke1/app, privateIPAddress: 10.1.0.4}
  db: {subnet: spoke2/db, privateIPAddress: 10.2.0.4}
  nva:
    networkInterfaces: [{subnet: hub/nva, privateIPAddresses: [10.0.2.4], enableIPForwarding: true}]
    files: {/etc/nva.nft: ./nva.nft}
    run:
      - echo 1 > /proc/sys/net/ipv4/ip_forward
      - nft -f /etc/nva.nft
      - echo ready
routeTables:
  via-nva:
    routes:
      - {name: spokes, addressPrefix: 10.0.0.0/8, nextHopType: VirtualAppliance, nextHopIpAddress: 10.0.2.4}
";

const RULES: &str = "\
table inet filter {
    chain forward {
        type filter hook forward priority 0; policy accept;
        tcp dport 23 counter drop
    }
}
";

fn forwards_with_the_flag_only(scene: &Scene) -> Result<()> {
    std::fs::write(scene.folder().join("nva.nft"), RULES)?;
    let lab = scene.up(TOPOLOGY)?;
    wait_until("logs show what run printed", PATIENCE, || {
        Ok(lab.ctl(&["logs", "nva"])?.ok()?.stdout.contains("ready"))
    })?;
    let _servers = (lab.serve("db", 443, &["nc", "-lk", "443"])?, lab.serve("db", 23, &["nc", "-lk", "23"])?);
    lab.expect_ping("web", "10.2.0.4")?;
    ensure!(lab.connects("web", "10.2.0.4", 443)?, "443 passes the appliance");
    ensure!(!lab.connects("web", "10.2.0.4", 23)?, "nftables in the appliance drops 23");

    let ping = lab.exec("web", &["ping", "-n", "-c", "1", "-W", "2", "10.2.0.4"])?.ok()?;
    ensure!(ping.stdout.contains("ttl=63"), "the appliance is a hop, the fabric is none:\n{}", ping.stdout);
    // No patience that adapts to the first hop's answer: on a busy machine the next one may take ten times as long.
    let trace = lab.exec("web", &["traceroute", "-n", "-q", "1", "-w", "2,0,0", "-I", "10.2.0.4"])?.ok()?;
    let hops: Vec<&str> =
        trace.stdout.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1)).collect();
    ensure!(hops == ["10.0.2.4", "10.2.0.4"], "{}", trace.stdout);

    lab.apply(&edited(TOPOLOGY, "enableIPForwarding: true", "enableIPForwarding: false"))?.ok()?;
    lab.expect_drop("NotForwarding", || lab.expect_no_ping("web", "10.2.0.4"))
}
