//! The thread: what is ready, what is due, what is asked for.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollEvent, EpollTimeout};
use nix::sys::eventfd::EventFd;
use vnet_bgp::{Action, ConnectionId, Input};
use vnet_dataplane::Nanos;
use vnet_fabric::control::LearnedRoute;

use super::news::News;
use super::sockets::{Event, Happening, Key, Sockets};
use super::speaker::Instance;
use super::{Command, SpeakerPlan, SpeakerView};
use crate::worker::monotonic;

/// The token of the descriptor that wakes the thread.
pub(super) const WAKE: u64 = u64::MAX;
const EVENTS_MAX: usize = 64;

/// How long what was learned waits for more of the same table: each telling changes the lab's policy. The wait doubles up to the
/// longest while changes follow one another.
const TELLING: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

pub(super) struct Loop {
    sockets: Sockets,
    wake: Arc<EventFd>,
    inbox: mpsc::Receiver<Command>,
    news: News,
    instances: BTreeMap<Key, Instance>,
    /// Gateways that have learned something that was not told yet.
    changed: BTreeSet<(Arc<str>, Arc<str>)>,
    tell_at: Option<Nanos>,
    told_at: Nanos,
    telling_wait: Duration,
    is_stopped: bool,
}

impl Loop {
    pub(super) fn new(epoll: Epoll, wake: Arc<EventFd>, inbox: mpsc::Receiver<Command>, news: News) -> Loop {
        Loop {
            sockets: Sockets::new(epoll),
            wake,
            inbox,
            news,
            instances: BTreeMap::new(),
            changed: BTreeSet::new(),
            tell_at: None,
            told_at: Nanos::ZERO,
            telling_wait: TELLING.0,
            is_stopped: false,
        }
    }

    pub(super) fn run(&mut self) {
        let mut events = [EpollEvent::empty(); EVENTS_MAX];
        while !self.is_stopped {
            let count = match self.sockets.epoll().wait(&mut events, self.timeout()) {
                Ok(count) => count,
                Err(Errno::EINTR) => 0,
                Err(error) => {
                    tracing::error!(%error, "BGP cannot wait for its sockets");
                    return;
                }
            };
            for event in &events[..count] {
                match event.data() {
                    WAKE => self.take_commands(),
                    token => {
                        let happened = self.sockets.ready(token);
                        self.happen(happened);
                    }
                }
            }
            self.timers();
        }
    }

    fn timeout(&self) -> EpollTimeout {
        let speakers = self.instances.values().filter_map(|instance| instance.speaker.deadline());
        let due = speakers.chain(self.sockets.deadline()).chain(self.tell_at).min();
        match due {
            // A millisecond more than less: what is not due yet would be asked for again at once.
            Some(due) => {
                let wait = due.since(monotonic()) + Duration::from_millis(1);
                EpollTimeout::try_from(wait.min(Duration::from_secs(3600))).unwrap_or(EpollTimeout::MAX)
            }
            None => EpollTimeout::NONE,
        }
    }

    fn timers(&mut self) {
        let now = monotonic();
        let overdue = self.sockets.overdue(now);
        self.happen(overdue);
        let due = |instance: &Instance| instance.speaker.deadline().is_some_and(|at| at <= now);
        let keys: Vec<Key> = (self.instances.iter())
            .filter(|(_, instance)| due(instance))
            .map(|(key, _)| key.clone())
            .collect();
        for key in keys {
            let actions =
                self.instances.get_mut(&key).map(|instance| instance.speaker.timers(now)).unwrap_or_default();
            self.perform(&key, actions);
        }
        if self.tell_at.is_some_and(|at| at <= now) {
            self.tell(now);
        }
    }

    fn take_commands(&mut self) {
        let _ = self.wake.read();
        while let Ok(command) = self.inbox.try_recv() {
            match command {
                Command::Set { lab, plans, done } => {
                    self.set(&lab, plans);
                    // Nobody may be waiting.
                    let _ = done.try_send(());
                }
                Command::Repeat(lab) => {
                    let keys: Vec<Key> = self.instances.keys().filter(|key| key.0 == lab).cloned().collect();
                    keys.iter().for_each(|key| self.mark(key));
                }
                Command::View { lab, routes, answer } => {
                    let now = monotonic();
                    let own = self.instances.iter().filter(|(key, _)| key.0 == lab);
                    let views: Vec<SpeakerView> =
                        own.map(|(_, instance)| instance.view(routes, now)).collect();
                    let _ = answer.try_send(views);
                }
                Command::Stop => self.is_stopped = true,
            }
        }
    }

    /// Brings the speakers of a lab to what is wanted.
    fn set(&mut self, lab: &Arc<str>, plans: Vec<SpeakerPlan>) {
        let now = monotonic();
        let wanted: BTreeMap<Key, SpeakerPlan> = plans
            .into_iter()
            .map(|plan| ((Arc::clone(lab), Arc::clone(&plan.spec.gateway), plan.spec.instance), plan))
            .collect();
        let stays = |key: &Key, instance: &Instance| {
            wanted.get(key).is_some_and(|plan| instance.can_become(&plan.spec, &plan.ns))
        };
        let gone: Vec<Key> = (self.instances.iter())
            .filter(|(key, instance)| key.0 == *lab && !stays(key, instance))
            .map(|(key, _)| key.clone())
            .collect();
        for key in gone {
            let actions = self.instances.get_mut(&key).map(|instance| instance.end(now)).unwrap_or_default();
            self.perform(&key, actions);
            self.sockets.remove_all(&key);
            self.instances.remove(&key);
            self.mark(&key);
        }
        for (key, plan) in wanted {
            let SpeakerPlan { spec, ns } = plan;
            let instance =
                self.instances.entry(key.clone()).or_insert_with(|| Instance::new(spec.clone(), ns));
            if instance.listener.is_none() {
                match self.sockets.listen(&key, &instance.ns, IpAddr::V4(spec.address)) {
                    Ok(token) => instance.listener = Some(token),
                    Err(error) => {
                        tracing::warn!(lab = %key.0, gateway = %key.1, %error, "BGP cannot listen");
                    }
                }
            }
            let actions = instance.set(spec, now);
            self.perform(&key, actions);
        }
    }

    fn happen(&mut self, happened: Vec<Happening>) {
        let mut waiting = VecDeque::from(happened);
        while let Some((key, peer, event)) = waiting.pop_front() {
            let now = monotonic();
            let Some(instance) = self.instances.get_mut(&key) else { continue };
            if let Event::Accepted(token) = event
                && !instance.expects(peer)
            {
                self.sockets.remove(token);
                continue;
            }
            let input = match &event {
                Event::Connected(token) => Input::Connected(ConnectionId(*token)),
                Event::Failed(why) => Input::ConnectFailed(why.clone()),
                Event::Accepted(token) => Input::Accepted(ConnectionId(*token)),
                Event::Received(token, bytes) => Input::Received(ConnectionId(*token), bytes),
                Event::Closed(token) => Input::Closed(ConnectionId(*token)),
            };
            let actions = instance.speaker.handle(peer, input, now);
            waiting.extend(self.act(&key, actions));
        }
    }

    fn perform(&mut self, key: &Key, actions: Vec<Action>) {
        let happened = self.act(key, actions);
        self.happen(happened);
    }

    /// Does what a speaker wants, and gives what happened at once.
    fn act(&mut self, key: &Key, actions: Vec<Action>) -> Vec<Happening> {
        let now = monotonic();
        let mut happened = Vec::new();
        for action in actions {
            match action {
                Action::Connect(peer) => {
                    let Some(instance) = self.instances.get(key) else { continue };
                    let local =
                        instance.spec.peer(peer).map_or(IpAddr::V4(instance.spec.address), |peer| peer.local);
                    if let Err(error) = self.sockets.connect(key, &instance.ns, (local, peer), now) {
                        happened.push((key.clone(), peer, Event::Failed(error.to_string())));
                    }
                }
                Action::Send(peer, ConnectionId(token), bytes) => {
                    if !self.sockets.send(token, &bytes) {
                        self.sockets.remove(token);
                        happened.push((key.clone(), peer, Event::Closed(token)));
                    }
                }
                Action::Close(_, ConnectionId(token)) => self.sockets.close(token, now),
                Action::Established(peer) => {
                    tracing::info!(lab = %key.0, gateway = %key.1, instance = key.2, %peer, "BGP session up");
                }
                Action::Down(peer, why) => {
                    tracing::info!(lab = %key.0, gateway = %key.1, instance = key.2, %peer, %why, "BGP session down");
                }
                Action::Changed(_) => self.mark(key),
            }
        }
        happened
    }

    /// Takes note that a gateway has learned something else.
    fn mark(&mut self, key: &Key) {
        self.changed.insert((Arc::clone(&key.0), Arc::clone(&key.1)));
        if self.tell_at.is_none() {
            let now = monotonic();
            let is_calm = now.since(self.told_at) > self.telling_wait * 2;
            self.telling_wait = if is_calm { TELLING.0 } else { (self.telling_wait * 2).min(TELLING.1) };
            self.tell_at = Some(now + self.telling_wait);
        }
    }

    fn tell(&mut self, now: Nanos) {
        (self.tell_at, self.told_at) = (None, now);
        for (lab, gateway) in std::mem::take(&mut self.changed) {
            let own = self.instances.iter().filter(|(key, _)| key.0 == lab && key.1 == gateway);
            let routes: Vec<LearnedRoute> = own.flat_map(|(_, instance)| instance.learned()).collect();
            self.news.put(&lab, &gateway, routes);
        }
    }
}
