//! Speakers wired together in memory, under simulated time.
#![allow(dead_code)] // Each test program uses its own part.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use vnet_bgp::rib::AcceptAll;
use vnet_bgp::{
    Action, ConnectionId, Input, Notification, PeerConfig, PeerStatus, Policy, SessionState, Speaker,
    SpeakerConfig,
};
use vnet_dataplane::Nanos;

enum Event {
    Connected(usize, usize, ConnectionId),
    Refused(usize, usize),
    Accepted(usize, usize, ConnectionId),
    Received(usize, usize, ConnectionId, Vec<u8>),
    Closed(usize, usize, ConnectionId),
}

pub(crate) struct Net {
    pub(crate) speakers: Vec<Speaker>,
    pub(crate) now: Nanos,
    pub(crate) log: Vec<(usize, Action)>,
    events: VecDeque<Event>,
    open: BTreeMap<ConnectionId, (usize, usize)>,
    /// Pairs between which nothing arrives.
    pub(crate) dark: BTreeSet<(usize, usize)>,
    next: u64,
}

pub(crate) fn address(at: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 255, 0, at as u8 + 1))
}

pub(crate) fn prefix(text: &str) -> IpNet {
    text.parse().expect("a prefix")
}

pub(crate) fn peer(from: usize, to: usize, asn: u32) -> PeerConfig {
    PeerConfig {
        next_hop_v6: Some(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, from as u16 + 1)),
        ..PeerConfig::new(address(to), asn, address(from))
    }
}

impl Net {
    pub(crate) fn new(asns: &[u32]) -> Net {
        Net::with_policy(asns, Arc::new(AcceptAll))
    }

    pub(crate) fn with_policy(asns: &[u32], policy: Arc<dyn Policy + Send + Sync>) -> Net {
        let speaker = |(at, asn): (usize, &u32)| {
            let router_id = Ipv4Addr::new(10, 255, 0, at as u8 + 1);
            Speaker::new(SpeakerConfig { asn: *asn, router_id }, Arc::clone(&policy))
        };
        Net {
            speakers: asns.iter().enumerate().map(speaker).collect(),
            now: Nanos::ZERO,
            log: Vec::new(),
            events: VecDeque::new(),
            open: BTreeMap::new(),
            dark: BTreeSet::new(),
            next: 0,
        }
    }

    pub(crate) fn add(&mut self, from: usize, config: PeerConfig) {
        let address = config.address;
        self.speakers[from].add_peer(config, self.now).expect("a sound peer");
        self.input(from, address, Input::Start);
    }

    /// A chain or a mesh: every pair is peered in both directions.
    pub(crate) fn link(&mut self, asns: &[u32], pairs: &[(usize, usize)]) {
        for (a, b) in pairs {
            self.add(*a, peer(*a, *b, asns[*b]));
            self.add(*b, peer(*b, *a, asns[*a]));
        }
    }

    pub(crate) fn input(&mut self, at: usize, peer: IpAddr, input: Input<'_>) {
        let actions = self.speakers[at].handle(peer, input, self.now);
        self.take(at, actions);
    }

    pub(crate) fn originate(&mut self, at: usize, prefixes: &[&str]) {
        let actions = self.speakers[at].set_local(prefixes.iter().map(|text| prefix(text)));
        self.take(at, actions);
    }

    pub(crate) fn stop(&mut self, at: usize, to: usize, message: &str) {
        self.input(at, address(to), Input::Stop(Notification::shutdown(message)));
    }

    pub(crate) fn take(&mut self, at: usize, actions: Vec<Action>) {
        let index = |peer: &IpAddr| (0..200).find(|other| address(*other) == *peer).expect("a known address");
        for action in actions {
            match &action {
                Action::Connect(peer) => {
                    let to = index(peer);
                    if self.dark.contains(&(at, to)) {
                        self.events.push_back(Event::Refused(at, to));
                    } else {
                        let id = ConnectionId(self.next);
                        self.next += 1;
                        self.open.insert(id, (at, to));
                        self.events.push_back(Event::Connected(at, to, id));
                        self.events.push_back(Event::Accepted(to, at, id));
                    }
                }
                Action::Send(peer, id, bytes) => {
                    let to = index(peer);
                    if self.open.contains_key(id) && !self.dark.contains(&(at, to)) {
                        self.events.push_back(Event::Received(to, at, *id, bytes.clone()));
                    }
                }
                Action::Close(peer, id) => {
                    let to = index(peer);
                    if self.open.remove(id).is_some() && !self.dark.contains(&(at, to)) {
                        self.events.push_back(Event::Closed(to, at, *id));
                    }
                }
                _ => {}
            }
            self.log.push((at, action));
        }
    }

    fn settle(&mut self) {
        while let Some(event) = self.events.pop_front() {
            match event {
                Event::Connected(at, to, id) => self.input(at, address(to), Input::Connected(id)),
                Event::Refused(at, to) => {
                    self.input(at, address(to), Input::ConnectFailed("no route to host".to_owned()));
                }
                Event::Accepted(at, from, id) => self.input(at, address(from), Input::Accepted(id)),
                Event::Received(at, from, id, bytes) => {
                    self.input(at, address(from), Input::Received(id, &bytes));
                }
                Event::Closed(at, from, id) => self.input(at, address(from), Input::Closed(id)),
            }
        }
    }

    /// Lets time pass, with everything that becomes due.
    pub(crate) fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            self.settle();
            let due = self.speakers.iter().filter_map(Speaker::deadline).min();
            let Some(due) = due.filter(|due| *due <= end) else { break };
            self.now = self.now.max(due);
            for at in 0..self.speakers.len() {
                let actions = self.speakers[at].timers(self.now);
                self.take(at, actions);
            }
        }
        self.now = end;
    }

    pub(crate) fn run_s(&mut self, seconds: u64) {
        self.run(Duration::from_secs(seconds));
    }

    pub(crate) fn status(&self, at: usize, of: usize) -> PeerStatus {
        let all = self.speakers[at].peer_status(self.now);
        all.into_iter().find(|status| status.neighbor == address(of)).expect("a peer")
    }

    pub(crate) fn is_up(&self, at: usize, of: usize) -> bool {
        self.status(at, of).session_state == SessionState::Established
    }

    /// Chosen AS paths to a prefix, as Azure prints them.
    pub(crate) fn paths(&self, at: usize, text: &str) -> Vec<String> {
        let paths = self.speakers[at].paths(&prefix(text)).iter();
        paths.map(|path| path.attributes.as_path.to_string()).collect()
    }

    /// UPDATEs that `at` has sent so far.
    pub(crate) fn updates(&self, at: usize) -> usize {
        let is_update =
            |action: &Action| matches!(action, Action::Send(_, _, bytes) if bytes.get(18) == Some(&2));
        self.log.iter().filter(|(from, action)| *from == at && is_update(action)).count()
    }
}
