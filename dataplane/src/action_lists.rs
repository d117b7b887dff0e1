//! Action lists, each kept once however many flows share it.

use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::fast::FixedState;
use hashbrown::HashTable;

use crate::action::Action;

#[derive(Debug)]
struct Slot {
    actions: Arc<[Action]>,
    flows: u32,
}

/// The lists in use, by index.
#[derive(Debug)]
pub(crate) struct ActionLists {
    hash: FixedState,
    index: HashTable<u32>,
    slots: Vec<Slot>,
    free: Vec<u32>,
}

impl ActionLists {
    pub(crate) fn new(seed: u64) -> ActionLists {
        ActionLists {
            hash: FixedState::with_seed(seed),
            index: HashTable::new(),
            slots: Vec::new(),
            free: Vec::new(),
        }
    }

    pub(crate) fn get(&self, list: u32) -> &Arc<[Action]> {
        &self.slots[list as usize].actions
    }

    /// Lists in use.
    pub(crate) fn len(&self) -> usize {
        self.index.len()
    }

    /// The index of these actions, taken once more.
    pub(crate) fn acquire(&mut self, actions: &[Action]) -> u32 {
        let hash = self.hash.hash_one(actions);
        let slots = &self.slots;
        if let Some(&list) = self.index.find(hash, |&list| *slots[list as usize].actions == *actions) {
            self.slots[list as usize].flows += 1;
            return list;
        }
        let slot = Slot { actions: actions.into(), flows: 1 };
        let list = match self.free.pop() {
            Some(list) => {
                self.slots[list as usize] = slot;
                list
            }
            None => {
                self.slots.push(slot);
                (self.slots.len() - 1) as u32
            }
        };
        let (slots, state) = (&self.slots, &self.hash);
        self.index.insert_unique(hash, list, |&list| state.hash_one(&*slots[list as usize].actions));
        list
    }

    /// Gives an index back.
    pub(crate) fn release(&mut self, list: u32) {
        let slot = &mut self.slots[list as usize];
        slot.flows -= 1;
        if slot.flows > 0 {
            return;
        }
        let hash = self.hash.hash_one(&*slot.actions);
        slot.actions = Arc::new([]);
        if let Ok(found) = self.index.find_entry(hash, |&candidate| candidate == list) {
            found.remove();
        }
        self.free.push(list);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::PortId;

    #[test]
    fn equal_lists_are_one() {
        let mut lists = ActionLists::new(1);
        let one = lists.acquire(&[Action::Deliver(PortId(1))]);
        let two = lists.acquire(&[Action::Deliver(PortId(2))]);
        assert_ne!(one, two);
        assert_eq!(lists.acquire(&[Action::Deliver(PortId(1))]), one);
        lists.release(one);
        assert_eq!(lists.len(), 2);
        lists.release(one);
        assert_eq!(lists.len(), 1);
        assert_eq!(lists.acquire(&[Action::Deliver(PortId(3))]), one);
        assert_eq!(**lists.get(two), [Action::Deliver(PortId(2))]);
    }
}
