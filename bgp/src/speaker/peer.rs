//! One peer of a speaker.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipnet::IpNet;
use vnet_dataplane::Nanos;

use super::SpeakerConfig;
use crate::PREFIX_LIMIT;
use crate::rib::{AdjRibIn, AdjRibOut, Path, Policy, PrefixLimits};
use crate::session::{Session, SessionConfig};
use crate::types::{
    Attributes, Family, GRACEFUL_SHUTDOWN, LOCAL_PREF_DEFAULT, NO_ADVERTISE, NO_EXPORT, NO_EXPORT_SUBCONFED,
};

/// What a speaker must know of a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerConfig {
    /// Its address; it is known by it.
    pub address: IpAddr,
    /// Its AS number.
    pub asn: u32,
    /// The speaker's address on this session.
    pub local_address: IpAddr,
    /// Next hop of IPv4 routes that are advertised; without one, none is.
    pub next_hop_v4: Option<Ipv4Addr>,
    /// Next hop of IPv6 routes that are advertised; without one, none is.
    pub next_hop_v6: Option<Ipv6Addr>,
    /// Proposed hold time in seconds: 0 or at least 3.
    pub hold_time_s: u16,
    /// Prefixes that it may announce.
    pub prefix_limits: PrefixLimits,
    /// Waits for the peer to connect.
    pub passive: bool,
    /// Wait after the first failed connection, and the longest.
    pub retry: (Duration, Duration),
}

impl PeerConfig {
    /// With Azure's timers and limit; the local address is the next hop of its family.
    pub fn new(address: IpAddr, asn: u32, local_address: IpAddr) -> PeerConfig {
        let (next_hop_v4, next_hop_v6) = match local_address {
            IpAddr::V4(local) => (Some(local), None),
            IpAddr::V6(local) => (None, Some(local)),
        };
        PeerConfig {
            address,
            asn,
            local_address,
            next_hop_v4,
            next_hop_v6,
            hold_time_s: 180,
            prefix_limits: PrefixLimits { ipv4: PREFIX_LIMIT, ipv6: PREFIX_LIMIT },
            passive: false,
            retry: (Duration::from_secs(5), Duration::from_secs(120)),
        }
    }
}

pub(super) struct Peer {
    pub(super) config: PeerConfig,
    pub(super) session: Session,
    pub(super) inbound: AdjRibIn,
    pub(super) outbound: AdjRibOut,
    pub(super) faults: u64,
}

impl Peer {
    pub(super) fn new(config: PeerConfig, speaker: SpeakerConfig, now: Nanos) -> Peer {
        let session = SessionConfig {
            hold_time_s: config.hold_time_s,
            passive: config.passive,
            retry_min: config.retry.0,
            retry_max: config.retry.1,
            ..SessionConfig::new(speaker.asn, speaker.router_id, config.asn)
        };
        Peer {
            session: Session::new(session, now),
            inbound: AdjRibIn::new(config.prefix_limits),
            outbound: AdjRibOut::default(),
            config,
            faults: 0,
        }
    }

    /// The chosen path as this peer is told it (RFC 4271 sections 5.1 and 9.1.3): not back to where it came from, not
    /// against its communities, and with this speaker as next hop. An external peer is told with this speaker's AS before
    /// the path, and without the metric that another neighbour has set. An internal peer is told what came from outside,
    /// with its preference.
    pub(super) fn export(
        &self,
        asn: u32,
        prefix: &IpNet,
        path: &Path,
        policy: &dyn Policy,
        shutting_down: bool,
    ) -> Option<Attributes> {
        let internal = self.config.asn == asn;
        let kept: &[u32] =
            if internal { &[NO_ADVERTISE] } else { &[NO_ADVERTISE, NO_EXPORT, NO_EXPORT_SUBCONFED] };
        let back = path.peer == Some(self.config.address) || internal && path.internal;
        if back || kept.iter().any(|one| path.attributes.has(*one)) {
            return None;
        }
        let export = policy.export(self.config.address, prefix, path)?;
        let next_hop = match Family::of(prefix) {
            Family::Ipv4 => IpAddr::V4(self.config.next_hop_v4?),
            Family::Ipv6 => IpAddr::V6(self.config.next_hop_v6?),
        };
        let learned = (*path.attributes).clone();
        let mut attributes = if internal {
            let local_pref = learned.local_pref.or(Some(LOCAL_PREF_DEFAULT));
            Attributes { next_hop, local_pref, ..learned }
        } else {
            Attributes {
                as_path: learned.as_path.prepended(asn, 1 + usize::from(export.prepend)),
                next_hop,
                med: learned.med.filter(|_| path.peer.is_none()),
                local_pref: None,
                ..learned
            }
        };
        if shutting_down {
            attributes.attach(GRACEFUL_SHUTDOWN);
        }
        Some(attributes)
    }
}
