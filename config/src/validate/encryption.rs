//! Virtual network encryption: where Azure has it, and which machines take part.

use super::Check;
use crate::{
    diagnostic::Finding,
    model::{EncryptionEnforcement, GatewayType},
};

pub(crate) fn check(check: &mut Check<'_, '_>) {
    let topology = check.topology;
    for (name, network) in &topology.virtual_networks {
        let Some(encryption) = network.encryption.as_ref().filter(|encryption| encryption.enabled) else {
            continue;
        };
        let path = format!("virtualNetworks.{name}.encryption");
        if encryption.enforcement == EncryptionEnforcement::DropUnencrypted {
            let message = "DropUnencrypted is described by Azure and not generally available";
            let finding = Finding::warning("encryption-enforcement", message);
            let help = "AllowUnencrypted is what every subscription can have";
            check.at(&format!("{path}.enforcement"), finding.help(help));
        }
        let circuits = topology.virtual_network_gateways.iter().find(|(_, gateway)| {
            gateway.virtual_network == *name && gateway.gateway_type == GatewayType::ExpressRoute
        });
        if let Some((gateway, _)) = circuits {
            let message =
                format!("'{name}' has the ExpressRoute gateway '{gateway}', whose traffic encryption breaks");
            unsupported(check, &path, message);
        }
        if let Some((firewall, _)) =
            topology.azure_firewalls.iter().find(|(_, firewall)| firewall.virtual_network == *name)
        {
            let message =
                format!("'{name}' has the firewall '{firewall}', which does not take encrypted traffic");
            unsupported(check, &path, message);
        }
    }
    nics(check);
}

fn unsupported(check: &mut Check<'_, '_>, path: &str, message: String) {
    let finding = Finding::error("encryption-unsupported", message);
    check.at(path, finding.help("turn encryption off in this network; the spokes may have it"));
}

/// NICs that cannot take part.
fn nics(check: &mut Check<'_, '_>) {
    let topology = check.topology;
    for (name, machine) in &topology.virtual_machines {
        for (index, nic) in machine.network_interfaces.iter().enumerate() {
            let network = topology.virtual_networks.get(&nic.subnet.virtual_network);
            let Some(encryption) = network.and_then(|network| network.encryption.as_ref()) else { continue };
            if nic.enable_accelerated_networking || !encryption.enabled {
                continue;
            }
            let what = match encryption.enforcement {
                EncryptionEnforcement::AllowUnencrypted => "its traffic stays in clear",
                EncryptionEnforcement::DropUnencrypted => "its traffic is dropped",
            };
            let message = format!("without accelerated networking the NIC cannot encrypt: {what}");
            let finding = Finding::warning("encryption-nic", message);
            let at = format!("virtualMachines.{name}.networkInterfaces[{index}].enableAcceleratedNetworking");
            check.at(&at, finding.help("remove enableAcceleratedNetworking: false"));
        }
    }
}
