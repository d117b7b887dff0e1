//! What ends a flow in the kernel, and how soon.
//!
//! The time begins when the policy without the flow comes into force. The daemon notes that moment before it makes the first of
//! the changes by which packets meet the new policy (`vnet_policy_published_timestamp_seconds`), so that it is rather too early
//! than too late. It ends with the last packet that reaches the receiver, by the stamp of the receiver's kernel. Both are of the
//! same clock.

use anyhow::{Context, Result, ensure};
use vnet_integration::Scene;
use vnet_integration::contention::threads_waited;
use vnet_integration::lab::{Lab as Running, edited};
use vnet_integration::suite::Lab;

use crate::offload::{flow, is_on, stream, transfer, wait_flow_runs_in, wait_runs_in};
use crate::peering::{TWO, peered};

pub(crate) const LABS: &[Lab] = &[
    Lab::new("offload_stops::a_peering_taken_down_ends_a_transfer", transfer_ends)
        .needs(&["iperf3", "tcpdump"])
        .alone(),
    Lab::new("offload_stops::every_change_that_denies_a_flow_ends_it", changes).alone(),
];

/// How long packets may still arrive, in seconds; and as much longer as the daemon's threads had no processor meanwhile.
const LIMIT: f64 = 0.010;
/// How often each cause is tried.
const ROUNDS: usize = 3;
/// Datagrams that the sender sends in vain until the flow counts as ended.
const SILENCE: u64 = 1_000;

/// When the policy in force was published, in seconds since 1970.
fn in_force_since(lab: &Running) -> Result<f64> {
    lab.metric("vnet_policy_published_timestamp_seconds", &[])
}

/// Applies a topology, and says how long after it packets may arrive.
fn apply(lab: &Running, topology: &str) -> Result<f64> {
    let pid = lab.daemon().pid()?;
    let before = threads_waited(pid)?;
    lab.apply(topology)?.ok()?;
    Ok(LIMIT + threads_waited(pid)?.saturating_sub(before).as_secs_f64())
}

fn transfer_ends(scene: &Scene) -> Result<()> {
    let lab = scene.up(&peered())?;
    if !is_on(&lab)? {
        return Ok(());
    }
    let (_server, _client) = transfer(&lab, "60")?;
    wait_runs_in(&lab, "kernel")?;
    let initiated = edited(TWO, "# left half", "peerings: {right: {}}");
    let capture = lab.capture("b", "eth0", "dst port 5201 and src host 10.1.0.4")?;
    let limit = apply(&lab, &initiated)?;
    let changed = in_force_since(&lab)?;
    // Long enough for a sender that was not stopped to be seen.
    std::thread::sleep(std::time::Duration::from_secs(1));
    let times = capture.stop()?.times()?;
    let last = times.last().context("packets arrived before the change")?;
    let late = last - changed;
    ensure!((-0.1..limit).contains(&late), "the last packet arrived {late} s after the change, not {limit}");
    ensure!(lab.drops("PeeringNotConnected")? > 0.0, "what comes after it is dropped by its reason");
    let flow = flow(&lab, "10.1.0.4", 5201)?.context("the denied flow is there")?;
    ensure!(flow["runsIn"] == "userspace", "a denied flow is not carried by the kernel: {flow}");
    Ok(())
}

const TOPOLOGY: &str = "\
name: ends
virtualNetworks:
  hub:
    addressSpace: [10.0.0.0/16]
    subnets: {AzureFirewallSubnet: 10.0.1.0/26}
    peerings: {left: {allowForwardedTraffic: true}, far: {allowForwardedTraffic: true}}
  left:
    addressSpace: [10.1.0.0/16]
    subnets: {app: {addressPrefix: 10.1.0.0/24, routeTable: of-left}}
    peerings: {hub: {allowForwardedTraffic: true}, near: {}}
  near:
    addressSpace: [10.2.0.0/16]
    subnets: {app: {addressPrefix: 10.2.0.0/24, networkSecurityGroup: of-near}}
    peerings: {left: {}} # of near
  far:
    addressSpace: [10.3.0.0/16]
    subnets: {app: {addressPrefix: 10.3.0.0/24, routeTable: of-far}}
    peerings: {hub: {allowForwardedTraffic: true}}
virtualMachines:
  a: {subnet: left/app, privateIPAddress: 10.1.0.4}
  near-by: {subnet: near/app, privateIPAddress: 10.2.0.4}
  far-off: {subnet: far/app, privateIPAddress: 10.3.0.4}
routeTables:
  of-left:
    routes:
      - {name: far, addressPrefix: 10.3.0.0/16, nextHopType: VirtualAppliance, nextHopIpAddress: 10.0.1.4}
      # more of left
  of-far:
    routes:
      - {name: left, addressPrefix: 10.1.0.0/16, nextHopType: VirtualAppliance, nextHopIpAddress: 10.0.1.4}
networkSecurityGroups:
  of-near:
    flushConnection: true
    securityRules:
      - {name: in, priority: 100, direction: Inbound, access: Allow, protocol: Udp, sourceAddressPrefix: '*', destinationAddressPrefix: '*', destinationPortRange: '5000'}
      - {name: rest, priority: 4000, direction: Inbound, access: Deny, protocol: '*', sourceAddressPrefix: '*', destinationAddressPrefix: '*'}
azureFirewalls:
  fw: {virtualNetwork: hub, sku: Standard, firewallPolicy: p, publicIPAddresses: [203.0.113.20]}
firewallPolicies:
  p:
    ruleCollectionGroups:
      - name: g
        priority: 200
        ruleCollections:
          - name: c
            priority: 100
            ruleCollectionType: FirewallPolicyFilterRuleCollection
            action: Allow
            rules:
              - {name: stream, ruleType: NetworkRule, ipProtocols: [UDP], sourceAddresses: [10.1.0.0/16], destinationAddresses: [10.3.0.0/16], destinationPorts: ['6000']}
";

/// A change, the port of the flow that it denies, and the reason that its packets are dropped for then.
const CHANGES: &[(&str, &str, u16, &str)] = &[
    ("peerings: {left: {}} # of near", "peerings: {}", 5000, "PeeringNotConnected"),
    ("destinationPortRange: '5000'", "destinationPortRange: '5999'", 5000, "NsgDeny"),
    ("# more of left", "- {name: none, addressPrefix: 10.2.0.0/16, nextHopType: None}", 5000, "RouteNone"),
    ("destinationPorts: ['6000']", "destinationPorts: ['6999']", 6000, "FirewallDeny"),
];

fn changes(scene: &Scene) -> Result<()> {
    let lab = scene.up(TOPOLOGY)?;
    if !is_on(&lab)? {
        return Ok(());
    }
    let near = stream(&lab, ("a", "10.1.0.4:4000"), ("near-by", "10.2.0.4:5000"))?;
    let far = stream(&lab, ("a", "10.1.0.4:4001"), ("far-off", "10.3.0.4:6000"))?;
    for (from, to, port, reason) in CHANGES {
        let (ended, other) = if *port == 5000 { (&near, &far) } else { (&far, &near) };
        for _ in 0..ROUNDS {
            for port in [5000, 6000] {
                wait_flow_runs_in(&lab, "10.1.0.4", port, "kernel")?;
            }
            let dropped = lab.drops(reason)?;
            let limit = apply(&lab, &edited(TOPOLOGY, from, to))?;
            ended.wait_silent(SILENCE)?;
            let late = ended.last_arrival() - in_force_since(&lab)?;
            ensure!(
                (-0.1..limit).contains(&late),
                "{reason}: the last one arrived {late} s after the change, not {limit}"
            );
            ensure!(lab.drops(reason)? > dropped, "what comes after it is dropped for {reason}");
            other.wait_received(SILENCE)?;
            lab.apply(TOPOLOGY)?.ok()?;
        }
    }
    Ok(())
}
