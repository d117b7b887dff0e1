//! Crossing a peering: what its two halves let pass.

use vnet_config::model::PeeringFlags;
use vnet_dataplane::{Action, Reason};

use super::{Next, Sender, Walk};
use crate::compile::NIC_MTU;
use crate::control::PeeringState;
use crate::decision::SessionView;
use crate::snapshot::Snapshot;
use crate::snapshot::lpm::contains;
use crate::snapshot::network::PeeringHalf;
use crate::trace::{RuleId, StepKind, Trace};

impl<S: SessionView, T: Trace> Walk<'_, S, T> {
    /// Over a peering, by this network's half; a drop where it does not let the packet pass.
    pub(super) fn cross(&mut self, half: usize, sender: Sender) -> Option<Next> {
        let snapshot = self.snapshot;
        let half = &snapshot.peerings[half];
        let (from, to) = (&snapshot.networks[half.local], &snapshot.networks[half.remote]);
        let at = &*from.name;
        let reverse = half.reverse.map(|reverse| &snapshot.peerings[reverse]);
        let Some(reverse) = reverse.filter(|_| half.state == PeeringState::Connected) else {
            return Some(self.drop(Reason::PeeringNotConnected, half.rules.not_connected, at, || {
                format!("the peering from {} to {} is {:?}", from.name, to.name, half.state)
            }));
        };
        if !self.takes_part(half, reverse, sender) {
            let rule = half.subnets.as_ref().map_or(half.rules.connected, |subnets| subnets.rule);
            return Some(self.drop(Reason::SubnetNotPeered, rule, at, || not_listed(snapshot, half, sender)));
        }
        let strict = snapshot.peering_flags == PeeringFlags::Strict;
        if !(half.allow_access && reverse.allow_access) {
            let blocked = if half.allow_access { reverse.rules.access } else { half.rules.access };
            let text = || format!("allowVirtualNetworkAccess is false between {} and {}", from.name, to.name);
            if strict {
                return Some(self.drop(Reason::PeeringAccessDenied, blocked, at, text));
            }
            self.tags_only(blocked, at, text);
        }
        let source = self.tuple.source;
        // Towards a subnet peering only the listed subnets are the sending network.
        let own = half.subnets.as_ref().map_or(&from.ranges, |subnets| &subnets.local_prefixes);
        let forwarded = !contains(own, source);
        let exempt = matches!(sender, Sender::Gateway(_));
        if forwarded && !exempt && !reverse.allow_forwarded {
            let text = || {
                let place = if half.subnets.is_some() {
                    format!("in none of the subnets that {} peers with {}", from.name, to.name)
                } else {
                    format!("no address of {}", from.name)
                };
                format!("{source} is {place}, and {} does not set allowForwardedTraffic towards it", to.name)
            };
            if strict {
                return Some(self.drop(Reason::ForwardedTrafficDenied, reverse.rules.forwarded, at, text));
            }
            self.tags_only(reverse.rules.forwarded, at, text);
        }
        self.act(Action::Count(half.counter));
        if half.global {
            self.limit_size(half.local);
        }
        self.note(StepKind::Peering, Some(half.rules.connected), at, || {
            format!("crosses the peering from {} to {}", from.name, to.name)
        });
        None
    }

    /// A flag that would drop the packet, by the reading in which it only changes tags.
    fn tags_only(&mut self, flag: RuleId, at: &str, text: impl FnOnce() -> String) {
        self.note(StepKind::Peering, Some(flag), at, || format!("{}: by tagOnly it passes", text()));
    }

    /// Larger packets than every network takes pass inside a network and over peerings of one region only. Who complains is the
    /// network's first address, which machines have as their gateway.
    pub(super) fn limit_size(&mut self, network: usize) {
        let source = self.tuple.source;
        let ranges = &self.snapshot.networks[network].ranges;
        let own = ranges.iter().find(|range| range.contains(&source));
        let range = own.or_else(|| ranges.iter().find(|range| range.addr().is_ipv4() == source.is_ipv4()));
        let gateway = range.and_then(|range| range.hosts().next());
        self.act(Action::LimitMtu { mtu: NIC_MTU, answer_from: gateway.unwrap_or(source) });
    }

    /// Whether the sender's subnet and the destination's both take part in a subnet peering. Azure's own gateways pass
    /// without being listed.
    fn takes_part(&self, half: &PeeringHalf, reverse: &PeeringHalf, sender: Sender) -> bool {
        let (Some(own), Some(other)) = (&half.subnets, &reverse.subnets) else { return true };
        let listed = sender_subnet(self.snapshot, sender)
            .is_none_or(|subnet| own.local.contains(&subnet) && other.remote.contains(&subnet));
        let destination = self.tuple.destination;
        listed
            && (!contains(&own.remote_prefixes, destination) || contains(&other.local_prefixes, destination))
    }

    /// A peering that would lead to the destination if it were connected.
    pub(super) fn unconnected_peer(&mut self, subnet: usize) -> Option<Next> {
        let snapshot = self.snapshot;
        let network = &snapshot.networks[snapshot.subnets[subnet].network];
        let (_, half) = network.peering_ranges.longest(self.tuple.destination)?;
        let half = &snapshot.peerings[*half];
        if half.state == PeeringState::Connected {
            return None;
        }
        let remote = &snapshot.networks[half.remote].name;
        Some(self.drop(Reason::PeeringNotConnected, half.rules.not_connected, &network.name, || {
            format!(
                "the peering from {} to {remote} is {:?}, so it makes no routes",
                network.name, half.state
            )
        }))
    }
}

/// The subnet from which a packet is put on the fabric; none for a gateway.
fn sender_subnet(snapshot: &Snapshot, sender: Sender) -> Option<usize> {
    match sender {
        Sender::Nic(nic) => Some(snapshot.nics[nic].subnet),
        Sender::Firewall(firewall) => Some(snapshot.firewalls[firewall].subnet),
        Sender::Gateway(_) => None,
    }
}

fn not_listed(snapshot: &Snapshot, half: &PeeringHalf, sender: Sender) -> String {
    let (from, to) = (&snapshot.networks[half.local].name, &snapshot.networks[half.remote].name);
    let subnet = sender_subnet(snapshot, sender).map_or("", |subnet| &snapshot.subnets[subnet].name);
    format!("{from} and {to} peer some of their subnets, and {subnet} is not one of them")
}
