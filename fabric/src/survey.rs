//! What questions about a whole snapshot look at: its rule sets, and all that can tell two headers apart.

use std::sync::Arc;

use crate::snapshot::Snapshot;
use crate::snapshot::rules::RuleSet;

/// A security group as one NIC or subnet has it.
#[derive(Clone, Copy, Debug)]
pub struct GroupRules<'a> {
    /// The group.
    pub name: &'a str,
    /// Rules for packets towards the NIC, in processing order.
    pub inbound: &'a RuleSet,
    /// Rules for packets from the NIC, in processing order.
    pub outbound: &'a RuleSet,
}

impl Snapshot {
    /// Every security group that guards something, once for each set of rules that it stands for: tags mean different
    /// addresses at different places.
    pub fn security_groups(&self) -> Vec<GroupRules<'_>> {
        let mut seen = Vec::new();
        let mut groups = Vec::new();
        for group in self.nics.iter().flat_map(|nic| [&nic.subnet_nsg, &nic.nic_nsg]).flatten() {
            if !seen.contains(&Arc::as_ptr(group)) {
                seen.push(Arc::as_ptr(group));
                groups.push(GroupRules {
                    name: &group.name,
                    inbound: &group.inbound,
                    outbound: &group.outbound,
                });
            }
        }
        groups
    }
}
