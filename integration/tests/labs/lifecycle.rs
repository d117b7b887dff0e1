//! What a lab leaves on the host: nothing, whatever happened on the way.

use anyhow::{Context, Result, ensure};
use vnet_integration::host::{HostState, remains_of};
use vnet_integration::suite::Lab;
use vnet_integration::{PATIENCE, Scene, wait_until};

use crate::{peering, story};

pub(crate) const LABS: &[Lab] = &[
    Lab::new("lifecycle::down_leaves_the_host_as_it_was", down_leaves_nothing).alone(),
    Lab::new("lifecycle::a_fault_at_any_step_is_rolled_back", faults_are_rolled_back).needs(&["ping"]),
    Lab::new("lifecycle::a_crash_at_any_step_is_mended", crashes_are_mended).needs(&["ping"]),
    Lab::new("lifecycle::programs_in_machines_end_with_the_lab", programs_end),
];

fn down_leaves_nothing(scene: &Scene) -> Result<()> {
    let before = HostState::read()?;
    let mut lab = scene.up(&story::topology()?)?;
    lab.wait_tunnels()?;
    let during = before.differences(&HostState::read()?);
    for difference in &during {
        let expected = difference.starts_with("ip netns list") || difference.starts_with("mounts");
        ensure!(expected, "a running lab changes its namespaces only: {difference}");
    }
    lab.down()?;
    let after = before.differences(&HostState::read()?);
    ensure!(after.is_empty(), "left behind: {after:?}");
    let state = lab.daemon().state_folder().join(lab.name());
    ensure!(!state.exists(), "{} is still there", state.display());
    Ok(())
}

/// The smallest lab with one of everything: two peered networks, a firewall, a tunnel.
fn small() -> String {
    let two = peering::peered();
    let two = two.replace(
        "    subnets: {app: 10.1.0.0/24}",
        "    subnets: {app: 10.1.0.0/24, GatewaySubnet: 10.1.255.0/27, AzureFirewallSubnet: 10.1.1.0/26}",
    );
    format!(
        "{two}\
azureFirewalls:
  fw: {{virtualNetwork: left, sku: Standard, firewallPolicy: base, publicIPAddresses: [203.0.113.20]}}
firewallPolicies: {{base: {{}}}}
virtualNetworkGateways:
  gw: {{virtualNetwork: left, gatewayType: Vpn, sku: VpnGw1AZ, vpnGatewayGeneration: Generation1, publicIPAddresses: [198.51.100.10]}}
localNetworkGateways:
  hq: {{gatewayIpAddress: 198.51.100.200, localNetworkAddressSpace: [192.168.0.0/16]}}
connections:
  to-hq: {{connectionType: IPsec, virtualNetworkGateway1: gw, localNetworkGateway2: hq, sharedKey: key}}
onPremisesSites:
  hq: {{addressSpace: [192.168.0.0/16], hosts: {{pc: 192.168.1.10}}, vpnDevice: {{publicIPAddress: 198.51.100.200, kind: builtin}}}}
"
    )
}

/// More steps than any small lab has: a count that never ends is a fault of its own.
const STEPS_MAX: u32 = 1000;

/// Every step in the nightly form; else some of them, the first and the last among them.
fn stride() -> usize {
    if std::env::var_os("VNET_NIGHTLY").is_some() { 1 } else { 3 }
}

fn faults_are_rolled_back(scene: &Scene) -> Result<()> {
    for step in (1..STEPS_MAX).step_by(stride()) {
        let daemon = scene.idle_daemon()?.env("VNETD_FAIL_AT", &step.to_string());
        daemon.run()?;
        let mut lab = scene.lab_on(daemon);
        let output = lab.up(&small())?;
        if output.success() {
            ensure!(step > 10, "only {step} steps can fail");
            return Ok(());
        }
        ensure!(output.code == 1 && output.stderr.contains("VNETD_FAIL_AT"), "step {step}: {output:?}");
        let left: Vec<String> = remains_of(&format!("{}.", lab.name()))?
            .into_iter()
            .filter(|line| !line.starts_with("process"))
            .collect();
        ensure!(left.is_empty(), "step {step} left {left:?}");
        lab.up(&small())?.ok().with_context(|| format!("up after a fault at step {step}"))?;
        lab.expect_ping("a", "10.2.0.4")?;
        lab.down()?;
        lab.daemon().stop()?;
    }
    anyhow::bail!("up has more than {STEPS_MAX} steps")
}

fn crashes_are_mended(scene: &Scene) -> Result<()> {
    for step in (1..STEPS_MAX).step_by(stride()) {
        let daemon = scene.idle_daemon()?.env("VNETD_FAIL_AT", &format!("{step}:abort"));
        daemon.run()?;
        let mut lab = scene.lab_on(daemon.clone());
        let output = lab.up(&small())?;
        if output.success() {
            ensure!(step > 10, "only {step} steps can fail");
            return Ok(());
        }
        // Its connections close a moment before it has ended.
        let ended = wait_until("the daemon ends", PATIENCE, || Ok(!daemon.is_alive()));
        ended.with_context(|| format!("step {step}: {output:?}"))?;
        daemon.kill();
        let daemon = daemon.env("VNETD_FAIL_AT", "0");
        daemon.run().with_context(|| format!("restart after a crash at step {step}"))?;
        lab.up(&small())?.ok().with_context(|| format!("up after a crash at step {step}"))?;
        lab.expect_ping("a", "10.2.0.4")?;
        lab.down()?;
        daemon.stop()?;
        let left = remains_of(&format!("{}.", lab.name()))?;
        ensure!(left.is_empty(), "step {step} left {left:?}");
    }
    anyhow::bail!("up has more than {STEPS_MAX} steps")
}

fn programs_end(scene: &Scene) -> Result<()> {
    let mut lab = scene.up(&peering::peered())?;
    // A marker that no other process has.
    let seconds = format!("{}", 100_000 + std::process::id());
    let mut inside = lab.spawn("a", &["sh", "-c", &format!("echo started; sleep {seconds}")])?;
    inside.wait_for("started", PATIENCE)?;
    lab.down()?;
    wait_until("it ends", PATIENCE, || Ok(!inside.is_alive()))?;
    let mut listing = std::process::Command::new("ps");
    let listing = vnet_integration::process::output(listing.args(["-eo", "args"]), PATIENCE)?;
    ensure!(!listing.stdout.contains(&format!("sleep {seconds}")), "sleep still runs");
    Ok(())
}
