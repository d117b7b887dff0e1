//! One speaker: the rules of its gateway, its peers as the lab wants them, and what it has learned.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use vnet_bgp::rib::Path;
use vnet_bgp::{Action, Attributes, Export, Input, Notification, PeerConfig, Policy, Speaker, SpeakerConfig};
use vnet_dataplane::Nanos;
use vnet_fabric::control::LearnedRoute;
use vnet_fabric::snapshot::{BgpPeer, BgpSpeaker};

use super::SpeakerView;
use crate::host::netns::Netns;

/// Waits between attempts to connect: the first, and the longest. A tunnel that comes up is tried at once.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));

/// What a gateway takes and tells.
struct Rules(BgpSpeaker);

impl Policy for Rules {
    fn import(&self, _: IpAddr, prefix: &IpNet, _: &Attributes) -> bool {
        self.0.takes(prefix)
    }

    fn export(&self, peer: IpAddr, prefix: &IpNet, path: &Path) -> Option<Export> {
        let peer = self.0.peer(peer)?;
        let told = match path.peer {
            None => self.0.tells_own(peer, prefix),
            Some(_) => self.0.passes_on(peer, prefix),
        };
        told.then(Export::default)
    }
}

/// A speaker with the namespace that its sockets are in.
pub(super) struct Instance {
    pub(super) spec: BgpSpeaker,
    pub(super) ns: Arc<Netns>,
    pub(super) speaker: Speaker,
    /// Token of the listening socket.
    pub(super) listener: Option<u64>,
    /// Peers whose sessions are wanted: their tunnels carry packets.
    started: BTreeSet<IpAddr>,
}

impl Instance {
    /// One without peers.
    pub(super) fn new(spec: BgpSpeaker, ns: Arc<Netns>) -> Instance {
        let config = SpeakerConfig { asn: spec.asn, router_id: spec.address };
        let bare = BgpSpeaker { peers: Vec::new(), originated: Vec::new(), ..spec };
        let speaker = Speaker::new(config, Arc::new(Rules(bare.clone())));
        Instance { spec: bare, ns, speaker, listener: None, started: BTreeSet::new() }
    }

    /// Whether this speaker can become what is wanted without a new beginning.
    pub(super) fn can_become(&self, spec: &BgpSpeaker, ns: &Arc<Netns>) -> bool {
        (self.spec.asn, self.spec.address) == (spec.asn, spec.address) && Arc::ptr_eq(&self.ns, ns)
    }

    /// Whether a peer may connect.
    pub(super) fn expects(&self, peer: IpAddr) -> bool {
        self.started.contains(&peer)
    }

    /// Makes the speaker what `spec` says.
    pub(super) fn set(&mut self, spec: BgpSpeaker, now: Nanos) -> Vec<Action> {
        if self.spec == spec {
            return Vec::new();
        }
        let before = std::mem::replace(&mut self.spec, spec);
        let spec = self.spec.clone();
        let mut actions = Vec::new();
        for old in &before.peers {
            if spec.peer(old.address).is_none_or(|new| identity(new) != identity(old)) {
                self.started.remove(&old.address);
                actions.extend(self.speaker.remove_peer(old.address, now));
            }
        }
        let ruled = |spec: &BgpSpeaker| {
            let peers: Vec<_> = spec.peers.iter().map(|peer| (peer.address, identity(peer))).collect();
            let peers: Vec<_> =
                peers.into_iter().map(|(address, of)| (address, of.0, of.1, of.2.cloned())).collect();
            (spec.originated.clone(), spec.own_side.clone(), peers)
        };
        if ruled(&before) != ruled(&spec) {
            actions.extend(self.speaker.set_policy(Arc::new(Rules(spec.clone()))));
        }
        actions.extend(self.speaker.set_local(spec.originated.iter().map(|own| own.prefix)));
        for peer in &spec.peers {
            let known = before.peer(peer.address).is_some_and(|old| identity(old) == identity(peer));
            if !known && let Err(error) = self.speaker.add_peer(config(&spec, peer), now) {
                tracing::warn!(gateway = %spec.gateway, %error, "no BGP session");
                continue;
            }
            actions.extend(self.start_or_stop(peer, now));
        }
        actions
    }

    /// A session lives no longer than its tunnel: nobody waits for its hold timer.
    fn start_or_stop(&mut self, peer: &BgpPeer, now: Nanos) -> Vec<Action> {
        let wanted = peer.way.as_ref().is_none_or(|way| way.carries);
        if wanted && self.started.insert(peer.address) {
            return self.speaker.handle(peer.address, Input::Start, now);
        }
        if !wanted && self.started.remove(&peer.address) {
            let down = Notification::shutdown("the tunnel is down");
            return self.speaker.handle(peer.address, Input::Stop(down), now);
        }
        Vec::new()
    }

    /// Ends all sessions.
    pub(super) fn end(&mut self, now: Nanos) -> Vec<Action> {
        let peers: Vec<IpAddr> = self.spec.peers.iter().map(|peer| peer.address).collect();
        peers.into_iter().flat_map(|peer| self.speaker.remove_peer(peer, now)).collect()
    }

    /// What came over the tunnels, each prefix with all ways that are equally good.
    pub(super) fn learned(&self) -> Vec<LearnedRoute> {
        let mut routes = Vec::new();
        for (prefix, paths) in self.speaker.routes() {
            for path in paths {
                let Some(peer) = path.peer else { continue };
                let Some(way) = self.spec.peer(peer).and_then(|peer| peer.way.as_ref()) else { continue };
                routes.push(LearnedRoute {
                    prefix: *prefix,
                    connection: way.connection.to_string(),
                    tunnel: way.tunnel.to_string(),
                    peer,
                    as_path: path.attributes.as_path.asns().collect(),
                });
            }
        }
        routes
    }

    /// What a user may ask of it.
    pub(super) fn view(&self, routes: bool, now: Nanos) -> SpeakerView {
        let told = |peer: &BgpPeer| (peer.address, self.speaker.advertised_routes(peer.address));
        SpeakerView {
            gateway: self.spec.gateway.to_string(),
            instance: self.spec.instance,
            peers: self.speaker.peer_status(now),
            learned: if routes {
                self.speaker.learned_routes(IpAddr::V4(self.spec.address))
            } else {
                Vec::new()
            },
            advertised: if routes { self.spec.peers.iter().map(told).collect() } else { Vec::new() },
        }
    }
}

/// What of a peer cannot change while its session goes on.
fn identity(peer: &BgpPeer) -> (u32, IpAddr, Option<&Arc<str>>) {
    (peer.asn, peer.local, peer.way.as_ref().map(|way| &way.tunnel))
}

fn config(spec: &BgpSpeaker, peer: &BgpPeer) -> PeerConfig {
    PeerConfig {
        next_hop_v4: Some(spec.address),
        next_hop_v6: spec.address_v6,
        passive: peer.passive,
        retry: RETRY,
        ..PeerConfig::new(peer.address, peer.asn, peer.local)
    }
}
