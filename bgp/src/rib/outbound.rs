//! Adj-RIB-Out: what one peer has been told.

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;

use crate::message::{Coding, update};
use crate::types::{Attributes, Family};

/// Changes that the peer has not been told yet.
#[derive(Debug, Default)]
pub struct Diff {
    withdrawn: Vec<IpNet>,
    announced: BTreeMap<(Family, Arc<Attributes>), Vec<IpNet>>,
}

impl Diff {
    /// UPDATEs that say it, withdrawals first, prefixes of equal attributes together. Routes whose attributes leave no
    /// room in a message come back as `untold`: they were not advertised.
    pub fn encode(&self, coding: &Coding) -> (Vec<Vec<u8>>, Vec<IpNet>) {
        let mut messages = update::withdraw(&self.withdrawn);
        let mut untold = Vec::new();
        for ((_, attributes), prefixes) in &self.announced {
            match update::encode(attributes, prefixes, coding) {
                Some(more) => messages.extend(more),
                None => untold.extend_from_slice(prefixes),
            }
        }
        (messages, untold)
    }
}

/// The routes that one peer has been told.
#[derive(Debug, Clone, Default)]
pub struct AdjRibOut {
    routes: BTreeMap<IpNet, Arc<Attributes>>,
}

impl AdjRibOut {
    /// From now on the peer is to know `route` to `prefix`, or none. What differs from before goes into `diff`.
    pub fn set(&mut self, prefix: IpNet, route: Option<Attributes>, diff: &mut Diff) {
        match route {
            Some(attributes) => {
                if self.routes.get(&prefix).is_some_and(|before| **before == attributes) {
                    return;
                }
                let attributes = Arc::new(attributes);
                self.routes.insert(prefix, Arc::clone(&attributes));
                diff.announced.entry((Family::of(&prefix), attributes)).or_default().push(prefix);
            }
            None => {
                if self.routes.remove(&prefix).is_some() {
                    diff.withdrawn.push(prefix);
                }
            }
        }
    }

    /// Takes routes out that could not be told. The prefixes that the peer may still know are to be withdrawn.
    pub fn forget(&mut self, prefixes: &[IpNet]) -> Vec<Vec<u8>> {
        prefixes.iter().for_each(|prefix| {
            self.routes.remove(prefix);
        });
        update::withdraw(prefixes)
    }

    /// Everything of a family once more (RFC 2918).
    pub fn repeat(&self, family: Family) -> Diff {
        let mut diff = Diff::default();
        for (prefix, attributes) in self.routes.iter().filter(|(prefix, _)| Family::of(prefix) == family) {
            diff.announced.entry((family, Arc::clone(attributes))).or_default().push(*prefix);
        }
        diff
    }

    /// Forgets everything, when the session has ended.
    pub fn clear(&mut self) {
        self.routes.clear();
    }

    /// All routes by prefix.
    pub fn iter(&self) -> impl Iterator<Item = (&IpNet, &Arc<Attributes>)> {
        self.routes.iter()
    }
}
