//! One speaker with its peers: events in, actions out, tables for the user.

mod peer;
mod tables;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ipnet::IpNet;
use vnet_dataplane::Nanos;

pub use peer::PeerConfig;
pub use tables::{PeerState, PeerStatus, RouteRow};

use crate::message::{Notification, update};
use crate::rib::{Diff, LocRib, Path, Policy};
use crate::session::{ConnectionId, DownReason, Input, Output};
use crate::types::{Attributes, Family};
use peer::Peer;

/// What a speaker is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpeakerConfig {
    /// Its AS number.
    pub asn: u32,
    /// Its BGP identifier.
    pub router_id: Ipv4Addr,
}

/// What the caller is to do or to know, in order. Each names the peer's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Open a connection to the peer.
    Connect(IpAddr),
    /// Send these bytes on a connection of the peer.
    Send(IpAddr, ConnectionId, Vec<u8>),
    /// Close a connection of the peer, after what was sent.
    Close(IpAddr, ConnectionId),
    /// The session stands.
    Established(IpAddr),
    /// The session has ended; its routes are gone.
    Down(IpAddr, DownReason),
    /// The chosen paths to these prefixes are others than before; see [`Speaker::paths`].
    Changed(BTreeSet<IpNet>),
}

/// A peer that cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// 0 and 23456 name no system (RFC 7607, RFC 6793), nor do the last 16-bit and 32-bit numbers (RFC 7300).
    #[error("the AS number {1} of the peer {0} is reserved")]
    ReservedAsn(IpAddr, u32),
    /// There is one already.
    #[error("there is a peer {0} already")]
    Exists(IpAddr),
    /// RFC 4271 section 4.2.
    #[error("the hold time of {1} s for the peer {0} is neither 0 nor at least 3 s")]
    HoldTime(IpAddr, u16),
}

/// A BGP speaker.
pub struct Speaker {
    config: SpeakerConfig,
    policy: Arc<dyn Policy + Send + Sync>,
    peers: BTreeMap<IpAddr, Peer>,
    local: BTreeMap<IpNet, Arc<Attributes>>,
    chosen: LocRib,
    shutting_down: bool,
}

impl Speaker {
    /// A speaker without a peer.
    pub fn new(config: SpeakerConfig, policy: Arc<dyn Policy + Send + Sync>) -> Speaker {
        Speaker {
            config,
            policy,
            peers: BTreeMap::new(),
            local: BTreeMap::new(),
            chosen: LocRib::default(),
            shutting_down: false,
        }
    }

    /// Adds a peer, whose session is in Idle until [`Input::Start`].
    ///
    /// # Errors
    /// If there can be no session with it.
    pub fn add_peer(&mut self, config: PeerConfig, now: Nanos) -> Result<(), PeerError> {
        let (address, asn) = (config.address, config.asn);
        if matches!(asn, 0 | 23_456 | 65_535 | u32::MAX) {
            return Err(PeerError::ReservedAsn(address, asn));
        }
        if matches!(config.hold_time_s, 1 | 2) {
            return Err(PeerError::HoldTime(address, config.hold_time_s));
        }
        if self.peers.contains_key(&address) {
            return Err(PeerError::Exists(address));
        }
        self.peers.insert(address, Peer::new(config, self.config, now));
        Ok(())
    }

    /// Takes a peer out, with a Cease (peer de-configured) if it is connected.
    pub fn remove_peer(&mut self, address: IpAddr, now: Nanos) -> Vec<Action> {
        let gone = Notification::new(Notification::CEASE, 3, &[]);
        let actions = self.handle(address, Input::Stop(gone), now);
        self.peers.remove(&address);
        actions
    }

    /// Takes what has happened to a peer's session. Nothing happens for an address that is no peer's.
    pub fn handle(&mut self, address: IpAddr, input: Input<'_>, now: Nanos) -> Vec<Action> {
        let Some(peer) = self.peers.get_mut(&address) else { return Vec::new() };
        let mut outputs = Vec::new();
        peer.session.step(input, now, &mut outputs);
        let mut actions = Vec::new();
        let mut changed = BTreeSet::new();
        self.outputs(address, outputs, now, &mut changed, &mut actions);
        self.settle(&changed, &mut actions);
        actions
    }

    /// Does what is due for all peers.
    pub fn timers(&mut self, now: Nanos) -> Vec<Action> {
        let due = |peer: &Peer| peer.session.deadline().is_some_and(|at| at <= now);
        let addresses: Vec<IpAddr> =
            self.peers.iter().filter(|(_, peer)| due(peer)).map(|(address, _)| *address).collect();
        addresses.into_iter().flat_map(|address| self.handle(address, Input::Timer, now)).collect()
    }

    /// When [`Speaker::timers`] is due.
    pub fn deadline(&self) -> Option<Nanos> {
        self.peers.values().filter_map(|peer| peer.session.deadline()).min()
    }

    /// The prefixes that the speaker originates, in place of those before.
    pub fn set_local(&mut self, prefixes: impl IntoIterator<Item = IpNet>) -> Vec<Action> {
        let attributes = Arc::new(Attributes::local(IpAddr::V4(self.config.router_id)));
        let local: BTreeMap<IpNet, Arc<Attributes>> =
            prefixes.into_iter().map(|prefix| (prefix.trunc(), Arc::clone(&attributes))).collect();
        let before = std::mem::replace(&mut self.local, local);
        let differs = |prefix: &&IpNet| before.contains_key(*prefix) != self.local.contains_key(*prefix);
        let changed: BTreeSet<IpNet> =
            before.keys().chain(self.local.keys()).filter(differs).copied().collect();
        let mut actions = Vec::new();
        self.settle(&changed, &mut actions);
        actions
    }

    /// Another policy: all routes are judged anew, peers are told what differs.
    pub fn set_policy(&mut self, policy: Arc<dyn Policy + Send + Sync>) -> Vec<Action> {
        self.policy = policy;
        let received = self.peers.values().flat_map(|peer| peer.inbound.iter().map(|(prefix, _)| *prefix));
        let all: BTreeSet<IpNet> = received.chain(self.local.keys().copied()).collect();
        let mut actions = Vec::new();
        self.settle(&all, &mut actions);
        self.advertise(&all, &mut actions);
        actions
    }

    /// Marks everything that is advertised as about to go (RFC 8326), or takes the mark back.
    pub fn set_graceful_shutdown(&mut self, on: bool) -> Vec<Action> {
        self.shutting_down = on;
        let all: BTreeSet<IpNet> = self.chosen.iter().map(|(prefix, _)| *prefix).collect();
        let mut actions = Vec::new();
        self.advertise(&all, &mut actions);
        actions
    }

    /// Asks a peer for all its routes of a family (RFC 2918).
    pub fn request_refresh(&mut self, address: IpAddr, family: Family) -> Vec<Action> {
        let Some(peer) = self.peers.get_mut(&address) else { return Vec::new() };
        let mut outputs = Vec::new();
        peer.session.request_refresh(family, &mut outputs);
        sends(address, outputs).collect()
    }

    /// The chosen paths to a prefix, equally good ones together.
    pub fn paths(&self, prefix: &IpNet) -> &[Path] {
        self.chosen.get(prefix)
    }

    /// All chosen paths by prefix.
    pub fn routes(&self) -> impl Iterator<Item = (&IpNet, &[Path])> {
        self.chosen.iter()
    }

    fn outputs(
        &mut self,
        address: IpAddr,
        outputs: Vec<Output>,
        now: Nanos,
        changed: &mut BTreeSet<IpNet>,
        actions: &mut Vec<Action>,
    ) {
        for output in outputs {
            let Some(peer) = self.peers.get_mut(&address) else { return };
            match output {
                Output::Connect => actions.push(Action::Connect(address)),
                Output::Send(id, bytes) => actions.push(Action::Send(address, id, bytes)),
                Output::Close(id) => actions.push(Action::Close(address, id)),
                Output::Established(_) => {
                    actions.push(Action::Established(address));
                    self.first_table(address, actions);
                }
                Output::Down(reason) => {
                    peer.inbound.clear(changed);
                    peer.outbound.clear();
                    actions.push(Action::Down(address, reason));
                }
                Output::Update(update) => {
                    if peer.session.coding().is_none() {
                        continue;
                    }
                    peer.faults += update.faults.len() as u64;
                    if let Err(exceeded) = peer.inbound.apply(&update, changed) {
                        let reset = Notification::prefix_limit(exceeded.family, exceeded.limit);
                        let mut more = Vec::new();
                        peer.session.step(Input::Reset(reset), now, &mut more);
                        self.outputs(address, more, now, changed, actions);
                    }
                }
                Output::Refresh(family) => self.repeat(address, family, actions),
            }
        }
    }

    /// Chooses anew for these prefixes and tells the peers.
    fn settle(&mut self, changed: &BTreeSet<IpNet>, actions: &mut Vec<Action>) {
        let mut moved = BTreeSet::new();
        for prefix in changed {
            let candidates = self.candidates(prefix);
            if self.chosen.decide(*prefix, candidates) {
                moved.insert(*prefix);
            }
        }
        if !moved.is_empty() {
            self.advertise(&moved, actions);
            actions.push(Action::Changed(moved));
        }
    }

    /// The speaker's own route, and the peers' that are free of loops (RFC 4271 section 9.1.2) and accepted.
    fn candidates(&self, prefix: &IpNet) -> Vec<Path> {
        let own = self.local.get(prefix).map(|own| Path {
            peer: None,
            internal: false,
            attributes: Arc::clone(own),
        });
        let learned = self.peers.iter().filter_map(|(address, peer)| {
            let attributes = peer.inbound.get(prefix)?;
            let usable = !attributes.as_path.asns().any(|asn| asn == self.config.asn)
                && self.policy.import(*address, prefix, attributes);
            usable.then(|| Path {
                peer: Some(*address),
                internal: peer.config.asn == self.config.asn,
                attributes: Arc::clone(attributes),
            })
        });
        own.into_iter().chain(learned).collect()
    }

    fn advertise(&mut self, prefixes: &BTreeSet<IpNet>, actions: &mut Vec<Action>) {
        for address in self.peers.keys().copied().collect::<Vec<_>>() {
            self.tell(address, prefixes.iter(), actions);
        }
    }

    fn first_table(&mut self, address: IpAddr, actions: &mut Vec<Action>) {
        let all: Vec<IpNet> = self.chosen.iter().map(|(prefix, _)| *prefix).collect();
        self.tell(address, all.iter(), actions);
        let Some(peer) = self.peers.get_mut(&address) else { return };
        let families = peer.session.coding().map(|coding| coding.families.clone()).unwrap_or_default();
        send_all(address, peer, families.into_iter().map(update::end_of_rib).collect(), actions);
    }

    fn tell<'a>(
        &mut self,
        address: IpAddr,
        prefixes: impl Iterator<Item = &'a IpNet>,
        actions: &mut Vec<Action>,
    ) {
        let Some(peer) = self.peers.get_mut(&address) else { return };
        let Some(coding) = peer.session.coding().cloned() else { return };
        let mut diff = Diff::default();
        for prefix in prefixes.filter(|prefix| coding.families.contains(&Family::of(prefix))) {
            let best = self.chosen.get(prefix).first();
            let export = best.and_then(|path| {
                peer.export(self.config.asn, prefix, path, &*self.policy, self.shutting_down)
            });
            peer.outbound.set(*prefix, export, &mut diff);
        }
        let (messages, untold) = diff.encode(&coding);
        send_all(address, peer, messages, actions);
        let corrections = peer.outbound.forget(&untold);
        send_all(address, peer, corrections, actions);
    }

    fn repeat(&mut self, address: IpAddr, family: Family, actions: &mut Vec<Action>) {
        let Some(peer) = self.peers.get_mut(&address) else { return };
        let Some(coding) = peer.session.coding().cloned() else { return };
        let (mut messages, _) = peer.outbound.repeat(family).encode(&coding);
        messages.push(update::end_of_rib(family));
        send_all(address, peer, messages, actions);
    }
}

fn send_all(address: IpAddr, peer: &mut Peer, messages: Vec<Vec<u8>>, actions: &mut Vec<Action>) {
    let mut outputs = Vec::new();
    messages.into_iter().for_each(|message| peer.session.send(message, &mut outputs));
    actions.extend(sends(address, outputs));
}

fn sends(address: IpAddr, outputs: Vec<Output>) -> impl Iterator<Item = Action> {
    outputs.into_iter().filter_map(move |output| match output {
        Output::Send(id, bytes) => Some(Action::Send(address, id, bytes)),
        _ => None,
    })
}
