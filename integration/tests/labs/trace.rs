//! What traceroute shows: the fabric is no hop; who is one, answers or not as Azure's do.

use anyhow::{Context, Result, ensure};
use vnet_integration::Scene;
use vnet_integration::suite::Lab;

use crate::story;

pub(crate) const LABS: &[Lab] =
    &[Lab::new("trace::shows_what_azure_shows", shows_what_azure_shows).needs(&["traceroute"])];

fn shows_what_azure_shows(scene: &Scene) -> Result<()> {
    let lab = scene.up(&story::topology()?)?;
    lab.wait_tunnels()?;
    for (from, to, hops) in [
        ("web", "10.0.2.4", &["10.0.2.4"][..]),
        ("dns", "10.1.0.4", &["10.1.0.4"]),
        // Gateways show no hop in recent captures of Azure.
        ("dns", "10.50.0.4", &["10.50.0.4"]),
    ] {
        let output =
            lab.exec(from, &["traceroute", "-n", "-q", "1", "-w", "2,0,0", "-m", "6", "-I", to])?.ok()?;
        let seen: Vec<&str> =
            output.stdout.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1)).collect();
        ensure!(seen == hops, "{from} to {to}: {hops:?} expected\n{}", output.stdout);
    }
    // The firewall is a hop that does not answer.
    let output = lab.exec(
        "web",
        &["traceroute", "-n", "-q", "1", "-w", "2,0,0", "-m", "4", "-T", "-p", "443", "10.2.0.4"],
    )?;
    let first = output.stdout.lines().nth(1).context("no hop")?;
    ensure!(first.split_whitespace().nth(1) == Some("*"), "{}", output.stdout);
    ensure!(output.stdout.lines().nth(2).is_some_and(|line| line.contains("10.2.0.4")), "{}", output.stdout);
    Ok(())
}
