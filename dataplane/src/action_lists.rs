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

/// Lists that are looked at before the index: new flows come in pairs, and most of them on the ways of those before.
const RECENT: usize = 4;

/// The lists in use, by index.
#[derive(Debug)]
pub(crate) struct ActionLists {
    hash: FixedState,
    index: HashTable<u32>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    recent: [u32; RECENT],
    turn: usize,
}

impl ActionLists {
    pub(crate) fn new(seed: u64) -> ActionLists {
        ActionLists {
            hash: FixedState::with_seed(seed),
            index: HashTable::new(),
            slots: Vec::new(),
            free: Vec::new(),
            recent: [0; RECENT],
            turn: 0,
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
        for list in self.recent {
            if let Some(slot) = self.slots.get_mut(list as usize)
                && slot.flows > 0
                && *slot.actions == *actions
            {
                slot.flows += 1;
                return list;
            }
        }
        let list = self.acquire_by_hash(actions);
        self.recent[self.turn % RECENT] = list;
        self.turn = self.turn.wrapping_add(1);
        list
    }

    fn acquire_by_hash(&mut self, actions: &[Action]) -> u32 {
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

    #[test]
    fn a_list_that_went_is_not_found_again() {
        let mut lists = ActionLists::new(1);
        let number = |number| [Action::Deliver(PortId(number))];
        let held: Vec<u32> = (0..10).map(|port| lists.acquire(&number(port))).collect();
        for (port, list) in held.iter().enumerate() {
            assert_eq!(lists.acquire(&number(port as u32)), *list);
            lists.release(*list);
            lists.release(*list);
        }
        assert_eq!(lists.len(), 0);
        let empty = lists.acquire(&[]);
        let again = lists.acquire(&number(9));
        assert!(empty != again && lists.get(empty).is_empty());
        assert_eq!(**lists.get(again), number(9));
    }
}
