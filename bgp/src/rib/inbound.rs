//! Adj-RIB-In: what one peer has announced.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;

use crate::message::Update;
use crate::types::Attributes;

/// A peer has announced more prefixes than it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the peer announced more than {0} prefixes")]
pub struct LimitExceeded(pub usize);

/// The routes of one peer, as they came.
#[derive(Debug, Clone)]
pub struct AdjRibIn {
    routes: BTreeMap<IpNet, Arc<Attributes>>,
    limit: usize,
}

impl AdjRibIn {
    /// Without a route; at most `limit` prefixes of both families together.
    pub fn new(limit: usize) -> AdjRibIn {
        AdjRibIn { routes: BTreeMap::new(), limit }
    }

    /// Takes an UPDATE in: withdrawals first, then announcements (RFC 4271 section 9). The prefixes whose routes
    /// differ from before are added to `changed`.
    ///
    /// # Errors
    /// If there would be too many prefixes; the session must end then.
    pub fn apply(&mut self, update: &Update, changed: &mut BTreeSet<IpNet>) -> Result<(), LimitExceeded> {
        for prefix in &update.withdrawn {
            if self.routes.remove(prefix).is_some() {
                changed.insert(*prefix);
            }
        }
        for announcement in &update.announced {
            for prefix in &announcement.prefixes {
                let attributes = &announcement.attributes;
                if self.routes.get(prefix).is_some_and(|before| before == attributes) {
                    continue;
                }
                changed.insert(*prefix);
                self.routes.insert(*prefix, Arc::clone(attributes));
                if self.routes.len() > self.limit {
                    return Err(LimitExceeded(self.limit));
                }
            }
        }
        Ok(())
    }

    /// Forgets everything; the prefixes are added to `changed`.
    pub fn clear(&mut self, changed: &mut BTreeSet<IpNet>) {
        changed.extend(std::mem::take(&mut self.routes).into_keys());
    }

    /// The route to a prefix.
    pub fn get(&self, prefix: &IpNet) -> Option<&Arc<Attributes>> {
        self.routes.get(prefix)
    }

    /// All routes by prefix.
    pub fn iter(&self) -> impl Iterator<Item = (&IpNet, &Arc<Attributes>)> {
        self.routes.iter()
    }

    /// Number of prefixes.
    pub fn len(&self) -> usize {
        self.routes.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }
}
