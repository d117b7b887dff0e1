//! Two networks and the two halves of their peering.

use anyhow::{Result, ensure};
use vnet_integration::Scene;
use vnet_integration::lab::edited;
use vnet_integration::suite::Lab;

pub(crate) const LABS: &[Lab] =
    &[Lab::new("peering::passes_only_with_both_halves", passes_only_with_both_halves).needs(&["ping", "nc"])];

const TWO: &str = "\
name: two
virtualNetworks:
  left:
    addressSpace: [10.1.0.0/16]
    subnets: {app: 10.1.0.0/24}
    # left half
  right:
    addressSpace: [10.2.0.0/16]
    subnets: {app: 10.2.0.0/24}
    # right half
virtualMachines:
  a: {subnet: left/app, privateIPAddress: 10.1.0.4}
  b: {subnet: right/app, privateIPAddress: 10.2.0.4}
";

fn passes_only_with_both_halves(scene: &Scene) -> Result<()> {
    let lab = scene.up(TWO)?;
    lab.expect_drop("RouteNone", || lab.expect_no_ping("a", "10.2.0.4"))?;

    let initiated = edited(TWO, "# left half", "peerings: {right: {}}");
    lab.apply(&initiated)?.ok()?;
    lab.expect_no_ping("a", "10.2.0.4")?;
    lab.expect_no_ping("b", "10.1.0.4")?;

    let connected = edited(&initiated, "# right half", "peerings: {left: {}}");
    lab.apply(&connected)?.ok()?;
    lab.expect_ping("a", "10.2.0.4")?;
    lab.expect_ping("b", "10.1.0.4")?;
    let _server = lab.serve("b", 7000, &["nc", "-lk", "7000"])?;
    ensure!(lab.connects("a", "10.2.0.4", 7000)?, "TCP passes too");

    lab.apply(&initiated)?.ok()?;
    lab.expect_no_ping("a", "10.2.0.4")?;
    ensure!(!lab.connects("a", "10.2.0.4", 7000)?, "no TCP without the other half");
    Ok(())
}
