//! Adj-RIB-In: what one peer has announced.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;

use crate::message::Update;
use crate::types::{Attributes, Family};

/// A peer has announced more prefixes of a family than it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the peer announced more than {limit} prefixes of {family:?}")]
pub struct LimitExceeded {
    /// The family.
    pub family: Family,
    /// Prefixes that it may announce.
    pub limit: usize,
}

/// How many prefixes of each family a peer may announce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrefixLimits {
    /// Of IPv4.
    pub ipv4: usize,
    /// Of IPv6.
    pub ipv6: usize,
}

impl PrefixLimits {
    /// Of a family.
    pub fn of(&self, family: Family) -> usize {
        match family {
            Family::Ipv4 => self.ipv4,
            Family::Ipv6 => self.ipv6,
        }
    }
}

/// The routes of one peer, as they came.
#[derive(Debug, Clone)]
pub struct AdjRibIn {
    routes: BTreeMap<IpNet, Arc<Attributes>>,
    limits: PrefixLimits,
}

impl AdjRibIn {
    /// Without a route.
    pub fn new(limits: PrefixLimits) -> AdjRibIn {
        AdjRibIn { routes: BTreeMap::new(), limits }
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
            }
            if let Some(prefix) = announcement.prefixes.first() {
                self.check(Family::of(prefix))?;
            }
        }
        Ok(())
    }

    fn check(&self, family: Family) -> Result<(), LimitExceeded> {
        let limit = self.limits.of(family);
        // Prefixes of IPv4 stand before those of IPv6.
        let ipv4 = || self.routes.keys().take_while(|prefix| Family::of(prefix) == Family::Ipv4).count();
        let exceeded = self.routes.len() > limit
            && match family {
                Family::Ipv4 => ipv4() > limit,
                Family::Ipv6 => self.routes.len() - ipv4() > limit,
            };
        if exceeded { Err(LimitExceeded { family, limit }) } else { Ok(()) }
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
