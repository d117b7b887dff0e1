//! The last drops that a decision made, for `vnetctl drops`, `test` and `path --probe`.

use std::collections::VecDeque;

use vnet_dataplane::{FiveTuple, Nanos, PortId, Reason};
use vnet_fabric::RuleId;

/// Drops that are remembered.
const RECORDS_MAX: usize = 4096;

/// One drop, of a flow's first packet or of a packet that belongs to no flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DropRecord {
    /// Rises by one with every record.
    pub number: u64,
    /// When.
    pub at: Nanos,
    /// Where the packet came in.
    pub port: PortId,
    /// The packet; `None` if its headers were broken.
    pub tuple: Option<FiveTuple>,
    /// Why.
    pub reason: Reason,
    /// The rule, route or check that dropped it.
    pub rule: Option<RuleId>,
}

/// A bounded log: the oldest record goes when a new one finds it full.
#[derive(Debug, Default)]
pub struct DropLog {
    records: VecDeque<DropRecord>,
    next: u64,
}

impl DropLog {
    pub(crate) fn push(&mut self, mut record: DropRecord) {
        if self.records.len() == RECORDS_MAX {
            self.records.pop_front();
        }
        record.number = self.next;
        self.next += 1;
        self.records.push_back(record);
    }

    /// The number that the next record will have: a mark for [`DropLog::since`].
    pub fn mark(&self) -> u64 {
        self.next
    }

    /// The records from `mark` on that are still there, oldest first.
    pub fn since(&self, mark: u64) -> impl DoubleEndedIterator<Item = &DropRecord> {
        self.records.iter().filter(move |record| record.number >= mark)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_goes_first() {
        let mut log = DropLog::default();
        let record = DropRecord {
            number: 0,
            at: Nanos::ZERO,
            port: PortId(1),
            tuple: None,
            reason: Reason::Malformed,
            rule: None,
        };
        for _ in 0..RECORDS_MAX + 2 {
            log.push(record);
        }
        assert_eq!(log.since(0).count(), RECORDS_MAX);
        assert_eq!(log.since(0).next().unwrap().number, 2);
        assert_eq!(log.since(log.mark() - 1).count(), 1);
        assert_eq!(log.since(log.mark()).count(), 0);
    }
}
