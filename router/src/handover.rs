//! Flows that come to one worker while another one has them, as after a restart or when the kernel spreads them anew: who has
//! entered a flow elsewhere gives it up, with what it has counted, to the worker that its packets come to.
//!
//! A lock is taken when an entry is made or ends, and when a flow is looked at that has none; never per packet.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use vnet_dataplane::{FlowKey, Nanos};

/// What a flow has counted at the worker that has given it up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Handed {
    pub(crate) key: FlowKey,
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
    pub(crate) last_seen: Nanos,
}

/// What waits for a worker.
#[derive(Debug, Default)]
pub(crate) struct Mail {
    /// Flows that another worker has now.
    pub(crate) claims: Vec<(FlowKey, u32)>,
    /// Counts of flows that this one has now.
    pub(crate) handed: Vec<Handed>,
}

#[derive(Debug, Default)]
struct Inner {
    /// The workers whose entries replay flows elsewhere.
    owners: HashMap<FlowKey, u32>,
    mail: Vec<Mail>,
}

/// Where the workers of a lab leave word for each other.
#[derive(Debug, Default)]
pub(crate) struct Handover {
    workers: AtomicU32,
    /// A bit for each worker that has mail; the 65th shares the first one's.
    flags: AtomicU64,
    inner: Mutex<Inner>,
}

impl Handover {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of one more worker.
    pub(crate) fn join(&self) -> u32 {
        self.inner().mail.push(Mail::default());
        self.workers.fetch_add(1, Ordering::AcqRel)
    }

    fn is_alone(&self) -> bool {
        self.workers.load(Ordering::Relaxed) < 2
    }

    /// `worker` has entered a flow elsewhere.
    pub(crate) fn entered(&self, key: &FlowKey, worker: u32) {
        if !self.is_alone() {
            self.inner().owners.insert(*key, worker);
        }
    }

    /// The entry of `worker` is no more.
    pub(crate) fn ended(&self, key: &FlowKey, worker: u32) {
        if self.is_alone() {
            return;
        }
        let mut inner = self.inner();
        if inner.owners.get(key) == Some(&worker) {
            inner.owners.remove(key);
        }
    }

    /// Packets of the flow come to `worker`: whoever else has an entry for it is asked for it, once.
    pub(crate) fn claim(&self, key: &FlowKey, worker: u32) {
        if self.is_alone() {
            return;
        }
        let mut inner = self.inner();
        let Some(owner) = inner.owners.get(key).copied().filter(|owner| *owner != worker) else { return };
        inner.owners.remove(key);
        self.post(&mut inner, owner, |mail| mail.claims.push((*key, worker)));
    }

    /// `worker` has adopted the flow: whatever the others have seen of it belongs to it.
    pub(crate) fn claim_from_all(&self, key: &FlowKey, worker: u32) {
        if self.is_alone() {
            return;
        }
        let mut inner = self.inner();
        for other in (0..inner.mail.len() as u32).filter(|other| *other != worker) {
            self.post(&mut inner, other, |mail| mail.claims.push((*key, worker)));
        }
    }

    /// Gives counts to the worker that has the flow now.
    pub(crate) fn hand(&self, to: u32, handed: Handed) {
        let mut inner = self.inner();
        self.post(&mut inner, to, |mail| mail.handed.push(handed));
    }

    fn post(&self, inner: &mut Inner, to: u32, add: impl FnOnce(&mut Mail)) {
        if let Some(mail) = inner.mail.get_mut(to as usize) {
            add(mail);
            self.flags.fetch_or(1 << (to % 64), Ordering::Release);
        }
    }

    /// What has come for `worker`; `None`, and no lock, if nothing has.
    pub(crate) fn take(&self, worker: u32) -> Option<Mail> {
        let bit = 1 << (worker % 64);
        if self.flags.load(Ordering::Acquire) & bit == 0 {
            return None;
        }
        let mut inner = self.inner();
        if inner.mail.len() <= 64 {
            self.flags.fetch_and(!bit, Ordering::AcqRel);
        }
        inner.mail.get_mut(worker as usize).map(std::mem::take)
    }
}
