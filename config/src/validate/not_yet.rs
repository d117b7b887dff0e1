//! What the file may say, and what changes nothing yet: a warning, so that nobody relies on it.

use super::Check;
use crate::{diagnostic::Finding, model::ThreatIntelMode};

pub(crate) fn check(check: &mut Check<'_, '_>) {
    let topology = check.topology;
    for (name, network) in &topology.virtual_networks {
        let path = format!("virtualNetworks.{name}");
        if network.dhcp_options.as_ref().is_some_and(|options| !options.dns_servers.is_empty()) {
            warn(check, &format!("{path}.dhcpOptions.dnsServers"), "machines are told of no DNS server yet");
        }
    }
    for (name, policy) in &topology.firewall_policies {
        if policy.threat_intel_mode == ThreatIntelMode::Deny {
            let path = format!("firewallPolicies.{name}.threatIntelMode");
            warn(check, &path, "no address is known as a threat yet: nothing is denied for it");
        }
    }
}

fn warn(check: &mut Check<'_, '_>, path: &str, message: &str) {
    let finding = Finding::warning("not-acted-on-yet", message);
    check.at(path, finding.help("leave it for later versions, or remove it"));
}
