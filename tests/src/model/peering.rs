//! Peerings: which exist, what crosses them, and their states as Azure's requests change them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use vnet_dataplane::Reason;

use super::lab::{Lab, Nic, Peering};

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

/// Prefixes of the other network for which a half makes routes: all its ranges, or those of the subnets that take
/// part, of one family.
pub fn offered(lab: &Lab, half: &Peering, remote: &str) -> Vec<IpNet> {
    let Some(network) = lab.virtual_networks.get(remote) else { return Vec::new() };
    if half.peer_complete_vnets {
        return network.address_space.list().to_vec();
    }
    let subnets = half.remote_subnet_names.iter().filter_map(|name| network.subnets.get(name.as_str()));
    let prefixes = subnets.flat_map(|subnet| subnet.prefixes.iter().copied());
    prefixes.filter(|prefix| matches!(prefix, IpNet::V6(_)) == half.only_v6).collect()
}

/// Prefixes of `remote` to which `vnet` has routes by their working peering.
pub fn routed(lab: &Lab, vnet: &str, remote: &str) -> Vec<IpNet> {
    connected(lab, vnet, remote).map(|(here, _)| offered(lab, here, remote)).unwrap_or_default()
}

/// The subnet takes part in its network's peering with `remote`.
pub fn takes_part(lab: &Lab, (vnet, subnet): (&str, &str), remote: &str) -> bool {
    let half = lab.vnet(vnet).peerings.get(remote);
    half.is_some_and(|half| {
        half.peer_complete_vnets || half.local_subnet_names.iter().any(|name| name == subnet)
    })
}

/// Who sends a packet over a peering.
#[derive(Clone, Copy, Debug)]
pub struct Sender<'a> {
    /// Its network and subnet.
    pub place: (&'a str, &'a str),
    /// Azure's own gateway: it may forward for everybody, and its subnet is never listed.
    pub is_gateway: bool,
}

/// Whether a packet with this source passes the link to another network. Whoever forwards, and is not Azure's own
/// gateway, needs the receiver's permission.
///
/// # Errors
/// The reason of the drop.
pub fn cross(lab: &Lab, sender: Sender<'_>, to: &str, source: IpAddr) -> Result<(), Reason> {
    let from = sender.place.0;
    let Some((sending, receiving)) = connected(lab, from, to) else {
        return Err(Reason::PeeringNotConnected);
    };
    if !sender.is_gateway && !takes_part(lab, sender.place, to) {
        return Err(Reason::SubnetNotPeered);
    }
    if lab.semantics.peering_flags.as_deref() == Some("tagOnly") {
        return Ok(());
    }
    if !sending.allow_virtual_network_access || !receiving.allow_virtual_network_access {
        return Err(Reason::PeeringAccessDenied);
    }
    // What the receiver knows of the sending network is what it has routes for.
    let forwarded = !routed(lab, to, from).iter().any(|prefix| prefix.contains(&source));
    if forwarded && !sender.is_gateway && !receiving.allow_forwarded_traffic {
        return Err(Reason::ForwardedTrafficDenied);
    }
    Ok(())
}

/// Encryption between two machines: where a network of the two drops what is not encrypted, both networks must
/// have it on, and both NICs be capable.
///
/// # Errors
/// `EncryptionRequired`.
pub fn encrypted(lab: &Lab, a: &Nic, b: &Nic) -> Result<(), Reason> {
    let on = |nic: &Nic| {
        let encryption = lab.vnet(nic.place().0).encryption.as_ref();
        encryption.filter(|encryption| encryption.enabled).cloned()
    };
    let both = [a, b].map(|nic| (on(nic), nic.enable_accelerated_networking));
    let is_drop = |encryption: &super::network::Encryption| {
        encryption.enforcement.as_deref() == Some("DropUnencrypted")
    };
    let required = both.iter().any(|(encryption, _)| encryption.as_ref().is_some_and(is_drop));
    let possible = both.iter().all(|(encryption, capable)| encryption.is_some() && *capable);
    if required && !possible { Err(Reason::EncryptionRequired) } else { Ok(()) }
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

/// One half as Azure keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Half {
    state: State,
    /// Ranges in force of the own network.
    local: Vec<IpNet>,
    /// Ranges in force of the other one.
    remote: Vec<IpNet>,
}

/// Networks' ranges and peering halves under Azure's requests, one at a time.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    ranges: BTreeMap<String, Vec<IpNet>>,
    halves: BTreeMap<(String, String), Half>,
}

fn key(local: &str, remote: &str) -> (String, String) {
    (local.to_owned(), remote.to_owned())
}

impl Machine {
    /// The networks of a lab, without their peerings.
    pub fn new(lab: &Lab) -> Machine {
        let networks = lab.virtual_networks.iter();
        let ranges =
            networks.map(|(name, vnet)| (name.clone(), vnet.address_space.list().to_vec())).collect();
        Machine { ranges, halves: BTreeMap::new() }
    }

    /// State of the half that `local` owns.
    pub fn state(&self, local: &str, remote: &str) -> Option<State> {
        self.halves.get(&key(local, remote)).map(|half| half.state)
    }

    /// `peeringSyncLevel` of the half that `local` owns.
    pub fn level(&self, local: &str, remote: &str) -> Option<&'static str> {
        let half = self.halves.get(&key(local, remote))?;
        Some(match (half.local == self.now(local), half.remote == self.now(remote)) {
            (true, true) => "FullyInSync",
            (false, true) => "LocalNotInSync",
            (true, false) => "RemoteNotInSync",
            (false, false) => "LocalAndRemoteNotInSync",
        })
    }

    /// Ranges of `remote` to which `local` has routes.
    pub fn routes(&self, local: &str, remote: &str) -> Vec<IpNet> {
        let half = self.halves.get(&key(local, remote)).filter(|half| half.state == State::Connected);
        half.map(|half| half.remote.clone()).unwrap_or_default()
    }

    fn now(&self, vnet: &str) -> Vec<IpNet> {
        self.ranges.get(vnet).cloned().unwrap_or_default()
    }

    /// A PUT of the half that `local` owns.
    ///
    /// # Errors
    /// `RemotePeeringIsDisconnected` where the other half lost its partner before.
    pub fn create(&mut self, local: &str, remote: &str) -> Result<(), &'static str> {
        let other = self.halves.get_mut(&key(remote, local));
        let state = match &other {
            Some(half) if half.state == State::Disconnected => return Err("RemotePeeringIsDisconnected"),
            Some(_) => State::Connected,
            None => State::Initiated,
        };
        if let Some(half) = other {
            half.state = state;
        }
        let half = Half { state, local: self.now(local), remote: self.now(remote) };
        self.halves.insert(key(local, remote), half);
        Ok(())
    }

    /// A DELETE of the half that `local` owns.
    pub fn delete(&mut self, local: &str, remote: &str) {
        self.halves.remove(&key(local, remote));
        if let Some(half) = self.halves.get_mut(&key(remote, local)) {
            half.state = State::Disconnected;
        }
    }

    /// New ranges of a network.
    ///
    /// # Errors
    /// Azure's code where a range would overlap a peer's.
    pub fn resize(&mut self, vnet: &str, ranges: &[IpNet]) -> Result<(), &'static str> {
        let peers = self.halves.keys().filter(|(local, _)| local == vnet).map(|(_, remote)| remote);
        let mut theirs = peers.flat_map(|peer| self.now(peer));
        let overlap = |a: &IpNet, b: &IpNet| a.contains(b) || b.contains(a);
        if theirs.any(|range| ranges.iter().any(|own| overlap(own, &range))) {
            return Err("VnetAddressSpacesOverlap");
        }
        self.ranges.insert(vnet.to_owned(), ranges.to_vec());
        Ok(())
    }

    /// A sync of either half brings both up to date.
    pub fn sync(&mut self, local: &str, remote: &str) {
        for (local, remote) in [(local, remote), (remote, local)] {
            let (own, theirs) = (self.now(local), self.now(remote));
            if let Some(half) = self.halves.get_mut(&key(local, remote)) {
                half.local = own;
                half.remote = theirs;
            }
        }
    }
}
