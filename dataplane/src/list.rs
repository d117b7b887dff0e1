//! Doubly linked lists over the slots of a table: a slot is in at most one list, and every operation is O(1).

/// No slot.
pub(crate) const NIL: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Link {
    previous: u32,
    next: u32,
    /// The list that the slot is in, or NIL.
    list: u32,
}

/// A fixed number of lists, identified by index, sharing the slots of one table.
#[derive(Clone, Debug)]
pub(crate) struct Lists {
    links: Vec<Link>,
    heads: Vec<(u32, u32)>,
}

impl Lists {
    pub(crate) fn new(lists: usize) -> Lists {
        Lists { links: Vec::new(), heads: vec![(NIL, NIL); lists] }
    }

    fn ensure(&mut self, slot: u32) {
        if self.links.len() <= slot as usize {
            self.links.resize(slot as usize + 1, Link { previous: NIL, next: NIL, list: NIL });
        }
    }

    pub(crate) fn push_back(&mut self, list: usize, slot: u32) {
        self.ensure(slot);
        self.unlink(slot);
        let (_, tail) = self.heads[list];
        self.links[slot as usize] = Link { previous: tail, next: NIL, list: list as u32 };
        if tail == NIL {
            self.heads[list].0 = slot;
        } else {
            self.links[tail as usize].next = slot;
        }
        self.heads[list].1 = slot;
    }

    pub(crate) fn unlink(&mut self, slot: u32) {
        let Some(&Link { previous, next, list }) = self.links.get(slot as usize) else { return };
        if list == NIL {
            return;
        }
        if previous == NIL {
            self.heads[list as usize].0 = next;
        } else {
            self.links[previous as usize].next = next;
        }
        if next == NIL {
            self.heads[list as usize].1 = previous;
        } else {
            self.links[next as usize].previous = previous;
        }
        self.links[slot as usize] = Link { previous: NIL, next: NIL, list: NIL };
    }

    pub(crate) fn front(&self, list: usize) -> Option<u32> {
        let (head, _) = self.heads[list];
        (head != NIL).then_some(head)
    }
}

/// Slots ordered coarsely by deadline. A deadline beyond the horizon is looked at once per turn; one that has
/// moved on since it was set is moved when it comes up, so that nothing is done per packet.
#[derive(Clone, Debug)]
pub(crate) struct Wheel {
    lists: Lists,
    /// The tick whose list was last emptied.
    current: u32,
}

const WHEEL_SLOTS: u32 = 512;

impl Wheel {
    pub(crate) fn new(now: u32) -> Wheel {
        Wheel { lists: Lists::new(WHEEL_SLOTS as usize), current: now }
    }

    pub(crate) fn schedule(&mut self, slot: u32, deadline: u32) {
        let distance = deadline.saturating_sub(self.current).clamp(1, WHEEL_SLOTS - 1);
        let list = self.current.wrapping_add(distance) % WHEEL_SLOTS;
        self.lists.push_back(list as usize, slot);
    }

    pub(crate) fn cancel(&mut self, slot: u32) {
        self.lists.unlink(slot);
    }

    /// The next slot whose time may have come; the caller removes or reschedules it. `budget` is lowered by the
    /// work done.
    pub(crate) fn pop(&mut self, now: u32, budget: &mut usize) -> Option<u32> {
        // More than a whole turn behind: every list is due once.
        if now.saturating_sub(self.current) > WHEEL_SLOTS {
            self.current = now - WHEEL_SLOTS;
        }
        while *budget > 0 {
            if let Some(slot) = self.lists.front((self.current % WHEEL_SLOTS) as usize) {
                *budget -= 1;
                self.lists.unlink(slot);
                return Some(slot);
            }
            if self.current >= now {
                return None;
            }
            self.current += 1;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_keep_order_and_membership() {
        let mut lists = Lists::new(2);
        for slot in [4, 2, 9] {
            lists.push_back(0, slot);
        }
        lists.push_back(1, 2);
        assert_eq!(lists.front(0), Some(4));
        lists.unlink(4);
        assert_eq!(lists.front(0), Some(9));
        lists.unlink(9);
        lists.unlink(9);
        assert_eq!(lists.front(0), None);
        assert_eq!(lists.front(1), Some(2));
    }

    #[test]
    fn wheel_yields_each_slot_in_its_time() {
        let mut wheel = Wheel::new(100);
        wheel.schedule(1, 103);
        wheel.schedule(2, 101);
        wheel.schedule(3, 5_000);
        let mut budget = 1_000;
        assert_eq!(wheel.pop(100, &mut budget), None);
        assert_eq!(wheel.pop(102, &mut budget), Some(2));
        assert_eq!(wheel.pop(102, &mut budget), None);
        assert_eq!(wheel.pop(103, &mut budget), Some(1));
        // Beyond the horizon it comes up early, for the caller to reschedule.
        let mut early = None;
        for now in 104..=700 {
            budget = 1_000;
            if let Some(slot) = wheel.pop(now, &mut budget) {
                early = Some((slot, now));
                wheel.schedule(slot, 5_000);
                break;
            }
        }
        assert_eq!(early, Some((3, 100 + WHEEL_SLOTS - 1)));
        budget = 10_000;
        assert_eq!(wheel.pop(1_000_000, &mut budget), Some(3));
    }
}
