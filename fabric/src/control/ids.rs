//! Handles by name: given out in the order of first use, never changed and never reused in the lab's life.

use std::sync::Arc;

use indexmap::IndexSet;
use serde::{Deserialize, Serialize};
use vnet_dataplane::{CounterId, DelayId, FunctionId, LimiterId, PortId, TunnelId};

use crate::trace::RuleId;

/// Names in the order of their handles. States that differ in other things share them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
struct Interner(Arc<IndexSet<String>>);

impl Interner {
    fn get(&mut self, name: &str) -> u32 {
        let index = match self.0.get_index_of(name) {
            Some(index) => index,
            None => Arc::make_mut(&mut self.0).insert_full(name.to_owned()).0,
        };
        u32::try_from(index).expect("a lab has fewer than 2^32 objects of a kind")
    }
}

/// The handles of a lab.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Ids {
    ports: Interner,
    tunnels: Interner,
    functions: Interner,
    limiters: Interner,
    delays: Interner,
    counters: Interner,
    rules: Interner,
}

impl Ids {
    /// The port of this name.
    pub fn port(&mut self, name: &str) -> PortId {
        PortId(self.ports.get(name))
    }

    /// The tunnel end of this name.
    pub fn tunnel(&mut self, name: &str) -> TunnelId {
        TunnelId(self.tunnels.get(name))
    }

    /// The stateful function of this name.
    pub fn function(&mut self, name: &str) -> FunctionId {
        FunctionId(self.functions.get(name))
    }

    /// The limiter of this name.
    pub fn limiter(&mut self, name: &str) -> LimiterId {
        LimiterId(self.limiters.get(name))
    }

    /// The delay line of this name.
    pub fn delay(&mut self, name: &str) -> DelayId {
        DelayId(self.delays.get(name))
    }

    /// The counter of this name.
    pub fn counter(&mut self, name: &str) -> CounterId {
        CounterId(self.counters.get(name))
    }

    /// The rule of this name.
    pub fn rule(&mut self, name: &str) -> RuleId {
        RuleId(self.rules.get(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_never_shift() {
        let mut ids = Ids::default();
        let (web, db) = (ids.port("web/eth0"), ids.port("db/eth0"));
        assert_ne!(web, db);
        let mut restored: Ids = serde_json::from_str(&serde_json::to_string(&ids).unwrap()).unwrap();
        assert_eq!(restored.port("nva/eth0"), PortId(2));
        assert_eq!(restored.port("db/eth0"), db);
        assert_eq!(restored.port("web/eth0"), web);
    }
}
