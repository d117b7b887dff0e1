//! Loc-RIB and the decision process (RFC 4271 section 9.1).

use std::cmp::Reverse;
use std::collections::BTreeMap;

use ipnet::IpNet;

use super::Path;
use crate::types::{GRACEFUL_SHUTDOWN, LOCAL_PREF_DEFAULT};

/// The chosen paths to each prefix, best first; several where they are equally good.
#[derive(Debug, Clone, Default)]
pub struct LocRib {
    routes: BTreeMap<IpNet, Vec<Path>>,
}

impl LocRib {
    /// Chooses among all paths to a prefix. Whether the choice differs from before.
    pub fn decide(&mut self, prefix: IpNet, candidates: Vec<Path>) -> bool {
        let chosen = choose(candidates);
        if chosen.is_empty() {
            return self.routes.remove(&prefix).is_some();
        }
        self.routes.insert(prefix, chosen.clone()).is_none_or(|before| before != chosen)
    }

    /// The chosen paths to a prefix, none if there is none.
    pub fn get(&self, prefix: &IpNet) -> &[Path] {
        self.routes.get(prefix).map_or(&[], Vec::as_slice)
    }

    /// All chosen paths by prefix.
    pub fn iter(&self) -> impl Iterator<Item = (&IpNet, &[Path])> {
        self.routes.iter().map(|(prefix, paths)| (prefix, paths.as_slice()))
    }
}

/// Local routes win; then the highest LOCAL_PREF, those not about to be shut down (RFC 8326), the shortest AS_PATH, the
/// lowest ORIGIN, the lowest MULTI_EXIT_DISC among those of one neighbouring AS, and what external peers said. All that
/// are left are equally good, and are ordered by the peer's address (section 9.1.2.2 g).
fn choose(mut paths: Vec<Path>) -> Vec<Path> {
    keep_lowest(&mut paths, |path| path.peer.is_some());
    keep_lowest(&mut paths, |path| Reverse(path.attributes.local_pref.unwrap_or(LOCAL_PREF_DEFAULT)));
    keep_lowest(&mut paths, |path| path.attributes.has(GRACEFUL_SHUTDOWN));
    keep_lowest(&mut paths, |path| path.attributes.as_path.hops());
    keep_lowest(&mut paths, |path| path.attributes.origin);
    let med = |path: &Path| path.attributes.med.unwrap_or(0);
    let neighbour = |path: &Path| path.attributes.as_path.neighbour();
    let all = paths.clone();
    paths.retain(|path| {
        let better = |other: &Path| neighbour(other) == neighbour(path) && med(other) < med(path);
        !all.iter().any(better)
    });
    keep_lowest(&mut paths, |path| path.internal);
    paths.sort_by_key(|path| path.peer);
    paths
}

fn keep_lowest<K: Ord>(paths: &mut Vec<Path>, key: impl Fn(&Path) -> K) {
    if let Some(lowest) = paths.iter().map(&key).min() {
        paths.retain(|path| key(path) == lowest);
    }
}
