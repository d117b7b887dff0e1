//! What the workers of one lab have in common. Each lock is taken on the slow path or once per batch, never per
//! packet of a plain flow.

use std::net::IpAddr;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use vnet_dataplane::{FiveTuple, FlowState, FunctionId, PortPool, SessionRecord, SessionTable, Timeouts};
use vnet_fabric::path::StandingSessions;
use vnet_fabric::snapshot::Snapshot;
use vnet_fabric::{RuleId, SessionFound, SessionOpen, SessionSide, SessionView};

use crate::drops::DropLog;
use crate::handover::Handover;
use crate::rates::Rates;
use crate::tunnels::Tunnels;

/// Memory for session records: the daemon's is mapped from a file.
pub struct SessionMemory {
    records: Box<dyn DerefMut<Target = [SessionRecord]> + Send>,
    is_unused: bool,
}

impl SessionMemory {
    /// Takes records from wherever they lie.
    pub fn new(records: impl DerefMut<Target = [SessionRecord]> + Send + 'static) -> SessionMemory {
        SessionMemory { records: Box::new(records), is_unused: false }
    }

    /// Takes records that are all free: none is looked at before it is used.
    pub fn unused(records: impl DerefMut<Target = [SessionRecord]> + Send + 'static) -> SessionMemory {
        SessionMemory { is_unused: true, ..SessionMemory::new(records) }
    }
}

impl std::fmt::Debug for SessionMemory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SessionMemory({} records)", self.len())
    }
}

impl Deref for SessionMemory {
    type Target = [SessionRecord];

    fn deref(&self) -> &[SessionRecord] {
        &self.records
    }
}

impl DerefMut for SessionMemory {
    fn deref_mut(&mut self) -> &mut [SessionRecord] {
        &mut self.records
    }
}

/// The sessions of all stateful functions of a lab.
pub type Sessions = SessionTable<SessionMemory>;

/// State that the workers of a lab share.
#[derive(Debug)]
pub struct Shared {
    /// The policy in force. A worker looks once per batch.
    pub snapshot: ArcSwap<Snapshot>,
    sessions: Mutex<Sessions>,
    tunnels: Mutex<Tunnels>,
    drops: Mutex<DropLog>,
    rates: Mutex<Rates>,
    pub(crate) handover: Handover,
}

impl Shared {
    /// The state of a lab that begins with this snapshot. `now_s` is the clock of the session records, `seed` a
    /// secret number that keeps strangers from choosing colliding tuples.
    pub fn new(snapshot: Snapshot, memory: SessionMemory, seed: u64, now_s: u32) -> Shared {
        let open = if memory.is_unused { SessionTable::open_unused } else { SessionTable::open_region };
        Shared {
            snapshot: ArcSwap::from_pointee(snapshot),
            sessions: Mutex::new(open(memory, Timeouts::default(), seed, now_s)),
            tunnels: Mutex::default(),
            drops: Mutex::default(),
            rates: Mutex::default(),
            handover: Handover::default(),
        }
    }

    /// Sessions of all functions.
    pub fn sessions(&self) -> MutexGuard<'_, Sessions> {
        lock(&self.sessions)
    }

    /// A copy of all sessions, for questions about what later packets will meet.
    pub fn standing_sessions(&self) -> StandingSessions {
        let open = |record: &SessionRecord| SessionOpen {
            reply: Some(record.reply()),
            idle_minutes: record.idle_minutes(),
            ..SessionOpen::new(record.function(), record.original(), RuleId(record.rule()))
        };
        let all: Vec<SessionOpen> = self.sessions().iter().map(open).collect();
        all.into_iter().collect()
    }

    /// Tunnel ends.
    pub fn tunnels(&self) -> MutexGuard<'_, Tunnels> {
        lock(&self.tunnels)
    }

    /// The last drops.
    pub fn drops(&self) -> MutexGuard<'_, DropLog> {
        lock(&self.drops)
    }

    /// Rate limiters.
    pub fn rates(&self) -> MutexGuard<'_, Rates> {
        lock(&self.rates)
    }
}

/// A worker that panicked left its tables whole: each change of theirs is one call.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The sessions as a decision about one packet sees them.
pub(crate) struct View<'a> {
    pub(crate) sessions: &'a Sessions,
    /// The packet opens a connection: a session that is closing belongs to an earlier one.
    pub(crate) opens: bool,
}

impl SessionView for View<'_> {
    fn find(&self, function: FunctionId, tuple: &FiveTuple) -> Option<SessionFound> {
        let found = self.sessions.find(function, tuple)?;
        if self.opens {
            let state = self.sessions.get(found.session)?.state();
            if state == FlowState::Closing {
                return None;
            }
        }
        let side = match found.side {
            vnet_dataplane::SessionSide::Original => SessionSide::Original,
            vnet_dataplane::SessionSide::Reply => SessionSide::Reply,
        };
        let vnet_dataplane::SessionFound { original, reply, rule, .. } = found;
        Some(SessionFound { side, original, reply, rule: RuleId(rule) })
    }

    fn propose(&self, function: FunctionId, tuple: &FiveTuple, pool: &PortPool<'_>) -> Option<(IpAddr, u16)> {
        self.sessions.propose(function, tuple, pool)
    }
}
