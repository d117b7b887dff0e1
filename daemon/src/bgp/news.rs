//! What gateways have learned, on its way to the labs: the newest of each gateway waits until it is taken.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use vnet_fabric::control::LearnedRoute;

type Pending = Arc<Mutex<BTreeMap<(String, String), Vec<LearnedRoute>>>>;

/// All routes that a gateway has learned.
#[derive(Debug)]
pub struct Learned {
    /// The lab.
    pub lab: String,
    /// The gateway.
    pub gateway: String,
    /// Its routes, in place of those before.
    pub routes: Vec<LearnedRoute>,
}

/// Where the speakers put what they have learned. It takes no more room however slowly it is taken.
#[derive(Clone, Debug)]
pub struct News {
    pending: Pending,
    bell: mpsc::SyncSender<()>,
}

impl News {
    /// The place, and a function that waits for what comes and takes it; it gives none when nobody is left to put anything.
    pub fn new() -> (News, impl FnMut() -> Option<Vec<Learned>> + Send) {
        let (bell, heard) = mpsc::sync_channel(1);
        let pending = Pending::default();
        let taken = Arc::clone(&pending);
        let take = move || {
            heard.recv().ok()?;
            let all = std::mem::take(&mut *taken.lock().unwrap_or_else(PoisonError::into_inner));
            let learned = |((lab, gateway), routes)| Learned { lab, gateway, routes };
            Some(all.into_iter().map(learned).collect())
        };
        (News { pending, bell }, take)
    }

    pub(super) fn put(&self, lab: &str, gateway: &str, routes: Vec<LearnedRoute>) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        pending.insert((lab.to_owned(), gateway.to_owned()), routes);
        drop(pending);
        // A bell that has been rung already is enough.
        let _ = self.bell.try_send(());
    }
}
