//! Peerings: which exist, what crosses them, and their states as Azure's requests change them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use vnet_dataplane::Reason;

use super::lab::{Lab, Peering};

/// The two halves of a working peering, the first network's first; none unless both exist.
pub fn connected<'a>(lab: &'a Lab, a: &str, b: &str) -> Option<(&'a Peering, &'a Peering)> {
    Some((lab.vnet(a).peerings.get(b)?, lab.virtual_networks.get(b)?.peerings.get(a)?))
}

/// Networks with which `vnet` has a working peering, in the order of its halves.
pub fn peers<'a>(lab: &'a Lab, vnet: &'a str) -> impl Iterator<Item = &'a str> {
    lab.vnet(vnet)
        .peerings
        .keys()
        .map(String::as_str)
        .filter(move |remote| connected(lab, vnet, remote).is_some())
}

/// Whether a packet with this source passes the link from one network to another. Azure's own gateways may
/// forward for everybody; whoever else forwards needs the receiver's permission.
///
/// # Errors
/// The reason of the drop.
pub fn cross(lab: &Lab, from: &str, to: &str, source: IpAddr, sent_by_gateway: bool) -> Result<(), Reason> {
    let Some((sending, receiving)) = connected(lab, from, to) else {
        return Err(Reason::PeeringNotConnected);
    };
    if lab.semantics.peering_flags.as_deref() == Some("tagOnly") {
        return Ok(());
    }
    if !sending.allow_virtual_network_access || !receiving.allow_virtual_network_access {
        return Err(Reason::PeeringAccessDenied);
    }
    let forwarded = !lab.vnet(from).address_space.hold(source);
    if forwarded && !sent_by_gateway && !receiving.allow_forwarded_traffic {
        return Err(Reason::ForwardedTrafficDenied);
    }
    Ok(())
}

/// `peeringState` of one half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Only this half exists.
    Initiated,
    /// Both exist.
    Connected,
    /// The other one was deleted.
    Disconnected,
}

impl State {
    /// As Azure spells it.
    pub fn name(self) -> &'static str {
        match self {
            State::Initiated => "Initiated",
            State::Connected => "Connected",
            State::Disconnected => "Disconnected",
        }
    }
}

/// Peering halves under Azure's requests: one create or delete at a time.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    halves: BTreeMap<(String, String), State>,
}

impl Machine {
    /// State of the half that `local` owns.
    pub fn state(&self, local: &str, remote: &str) -> Option<State> {
        self.halves.get(&(local.to_owned(), remote.to_owned())).copied()
    }

    /// A PUT of the half that `local` owns.
    ///
    /// # Errors
    /// `RemotePeeringIsDisconnected` where the other half lost its partner before.
    pub fn create(&mut self, local: &str, remote: &str) -> Result<(), &'static str> {
        let own = (local.to_owned(), remote.to_owned());
        let other = (remote.to_owned(), local.to_owned());
        match self.halves.get(&other) {
            Some(State::Disconnected) => return Err("RemotePeeringIsDisconnected"),
            Some(_) => {
                self.halves.insert(other, State::Connected);
                self.halves.insert(own, State::Connected);
            }
            None => {
                self.halves.insert(own, State::Initiated);
            }
        }
        Ok(())
    }

    /// A DELETE of the half that `local` owns.
    pub fn delete(&mut self, local: &str, remote: &str) {
        self.halves.remove(&(local.to_owned(), remote.to_owned()));
        if let Some(state) = self.halves.get_mut(&(remote.to_owned(), local.to_owned())) {
            *state = State::Disconnected;
        }
    }
}
