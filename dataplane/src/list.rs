//! Doubly linked lists over the slots of a table: a slot is in at most one list, and every operation is O(1).

/// No slot.
pub(crate) const NIL: u32 = u32::MAX;

/// A slot's place in a list.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link {
    previous: u32,
    next: u32,
    /// The list that the slot is in, or NIL.
    list: u32,
}

impl Link {
    /// In no list.
    pub(crate) const FREE: Link = Link { previous: NIL, next: NIL, list: NIL };
}

/// Where the links of slots lie.
pub(crate) trait Links {
    fn link(&self, slot: u32) -> &Link;

    fn link_mut(&mut self, slot: u32) -> &mut Link;
}

impl Links for Vec<Link> {
    fn link(&self, slot: u32) -> &Link {
        &self[slot as usize]
    }

    fn link_mut(&mut self, slot: u32) -> &mut Link {
        &mut self[slot as usize]
    }
}

/// A fixed number of lists, identified by index, over links that the caller keeps.
#[derive(Clone, Debug)]
pub(crate) struct Lists {
    heads: Vec<(u32, u32)>,
}

impl Lists {
    pub(crate) fn new(lists: usize) -> Lists {
        Lists { heads: vec![(NIL, NIL); lists] }
    }

    pub(crate) fn push_back(&mut self, links: &mut impl Links, list: usize, slot: u32) {
        self.unlink(links, slot);
        let (_, tail) = self.heads[list];
        *links.link_mut(slot) = Link { previous: tail, next: NIL, list: list as u32 };
        if tail == NIL {
            self.heads[list].0 = slot;
        } else {
            links.link_mut(tail).next = slot;
        }
        self.heads[list].1 = slot;
    }

    pub(crate) fn unlink(&mut self, links: &mut impl Links, slot: u32) {
        let Link { previous, next, list } = *links.link(slot);
        if list == NIL {
            return;
        }
        if previous == NIL {
            self.heads[list as usize].0 = next;
        } else {
            links.link_mut(previous).next = next;
        }
        if next == NIL {
            self.heads[list as usize].1 = previous;
        } else {
            links.link_mut(next).previous = previous;
        }
        *links.link_mut(slot) = Link::FREE;
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

    pub(crate) fn schedule(&mut self, links: &mut impl Links, slot: u32, deadline: u32) {
        let distance = deadline.saturating_sub(self.current).clamp(1, WHEEL_SLOTS - 1);
        let list = self.current.wrapping_add(distance) % WHEEL_SLOTS;
        self.lists.push_back(links, list as usize, slot);
    }

    /// As [`Wheel::schedule`], but leaves a slot that comes up earlier anyway where it is.
    pub(crate) fn bring_forward(&mut self, links: &mut impl Links, slot: u32, deadline: u32) {
        let list = links.link(slot).list;
        let distance = deadline.saturating_sub(self.current).clamp(1, WHEEL_SLOTS - 1);
        let known = list.wrapping_sub(self.current) % WHEEL_SLOTS;
        if list == NIL || known > distance {
            self.schedule(links, slot, deadline);
        }
    }

    pub(crate) fn cancel(&mut self, links: &mut impl Links, slot: u32) {
        self.lists.unlink(links, slot);
    }

    /// Whether slots wait whose time may have come.
    pub(crate) fn is_behind(&self, now: u32) -> bool {
        self.current < now || self.lists.front((self.current % WHEEL_SLOTS) as usize).is_some()
    }

    /// The next slot whose time may have come; the caller removes or reschedules it. `budget` is lowered by the
    /// work done.
    pub(crate) fn pop(&mut self, links: &mut impl Links, now: u32, budget: &mut usize) -> Option<u32> {
        // More than a whole turn behind: every list is due once.
        if now.saturating_sub(self.current) > WHEEL_SLOTS {
            self.current = now - WHEEL_SLOTS;
        }
        while *budget > 0 {
            if let Some(slot) = self.lists.front((self.current % WHEEL_SLOTS) as usize) {
                *budget -= 1;
                self.lists.unlink(links, slot);
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
        let mut links = vec![Link::FREE; 10];
        let mut lists = Lists::new(2);
        for slot in [4, 2, 9] {
            lists.push_back(&mut links, 0, slot);
        }
        lists.push_back(&mut links, 1, 2);
        assert_eq!(lists.front(0), Some(4));
        lists.unlink(&mut links, 4);
        assert_eq!(lists.front(0), Some(9));
        lists.unlink(&mut links, 9);
        lists.unlink(&mut links, 9);
        assert_eq!(lists.front(0), None);
        assert_eq!(lists.front(1), Some(2));
    }

    #[test]
    fn wheel_yields_each_slot_in_its_time() {
        let mut links = vec![Link::FREE; 10];
        let mut wheel = Wheel::new(100);
        wheel.schedule(&mut links, 1, 103);
        wheel.schedule(&mut links, 2, 101);
        wheel.schedule(&mut links, 3, 5_000);
        let mut budget = 1_000;
        assert_eq!(wheel.pop(&mut links, 100, &mut budget), None);
        assert_eq!(wheel.pop(&mut links, 102, &mut budget), Some(2));
        assert_eq!(wheel.pop(&mut links, 102, &mut budget), None);
        assert_eq!(wheel.pop(&mut links, 103, &mut budget), Some(1));
        // Beyond the horizon it comes up early, for the caller to reschedule.
        let mut early = None;
        for now in 104..=700 {
            budget = 1_000;
            if let Some(slot) = wheel.pop(&mut links, now, &mut budget) {
                early = Some((slot, now));
                wheel.schedule(&mut links, slot, 5_000);
                break;
            }
        }
        assert_eq!(early, Some((3, 100 + WHEEL_SLOTS - 1)));
        budget = 10_000;
        assert_eq!(wheel.pop(&mut links, 1_000_000, &mut budget), Some(3));
    }

    #[test]
    fn only_an_earlier_deadline_moves_a_slot() {
        let mut links = vec![Link::FREE; 2];
        let mut wheel = Wheel::new(100);
        wheel.bring_forward(&mut links, 1, 110);
        wheel.bring_forward(&mut links, 1, 5_000);
        let mut budget = 1_000;
        assert_eq!(wheel.pop(&mut links, 109, &mut budget), None);
        assert!(wheel.is_behind(110) && !wheel.is_behind(109));
        wheel.bring_forward(&mut links, 0, 5_000);
        wheel.bring_forward(&mut links, 0, 112);
        assert_eq!(wheel.pop(&mut links, 110, &mut budget), Some(1));
        assert_eq!(wheel.pop(&mut links, 111, &mut budget), None);
        assert_eq!(wheel.pop(&mut links, 112, &mut budget), Some(0));
    }
}
