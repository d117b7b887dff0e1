//! On-premises sites with a built-in VPN device.

use std::collections::HashMap;

use vnet_config::model::VpnDeviceKind;

use super::{Builder, prefix_of};
use crate::snapshot::PortKind;
use crate::snapshot::lpm::Lpm;
use crate::snapshot::network::{Owner, Site};

impl Builder<'_> {
    pub(super) fn sites(&mut self) {
        let topology = self.topology;
        for (name, site) in &topology.on_premises_sites {
            if site.vpn_device.as_ref().is_some_and(|device| device.kind == VpnDeviceKind::External) {
                continue;
            }
            let index = self.snapshot.sites.len();
            let mut hosts = HashMap::new();
            for (host, addresses) in &site.hosts {
                let nets = addresses
                    .addresses
                    .iter()
                    .map(|address| prefix_of(&site.address_space, *address))
                    .collect();
                let kind = PortKind::SiteHost { site: name.as_str().into(), host: host.as_str().into() };
                let port = self.add_port(&format!("{name}/{host}"), kind, Owner::SiteHost(index), |port| {
                    port.addresses = nets
                });
                hosts.extend(addresses.addresses.iter().map(|address| (*address, port)));
                self.snapshot.names.site_hosts.insert(host.as_str().into(), port);
            }
            let location = self.location(site.location.as_deref(), None);
            self.sites.insert(name.clone(), index);
            self.snapshot.sites.push(Site {
                name: name.as_str().into(),
                ranges: site.address_space.clone(),
                hosts,
                table: Lpm::default(),
                location,
            });
        }
    }
}
