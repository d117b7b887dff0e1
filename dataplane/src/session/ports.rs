//! Ports that translated sessions hold, and the choice of a free one.
//!
//! A port may serve many sessions at once as long as they talk to different destinations, so ports are kept by
//! public address and destination. A choice looks at a bounded number of ports however full the pool is.

use std::net::IpAddr;

use hashbrown::HashMap;
use smallvec::SmallVec;

use crate::port::FunctionId;
use crate::tuple::{FiveTuple, Protocol};

/// A destination with more ports in use than this has a map of all of them.
const LISTED_MAX: usize = 512;
const WORDS: usize = (1 << 16) / 64;

/// The public addresses and ports that a translating function chooses from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortPool<'a> {
    /// Addresses, of either family; a session takes one of its own family.
    pub addresses: &'a [IpAddr],
    /// The lowest port, or ICMP identifier.
    pub first_port: u16,
    /// The highest one.
    pub last_port: u16,
}

impl PortPool<'_> {
    /// The addresses of the family that `tuple` has, beginning with the one that `number` chooses.
    pub fn in_order(&self, tuple: &FiveTuple, number: u64) -> impl Iterator<Item = IpAddr> + '_ {
        let v4 = tuple.source.is_ipv4();
        let usable = move || self.addresses.iter().copied().filter(move |address| address.is_ipv4() == v4);
        let count = usable().count();
        let first = if count == 0 { 0 } else { (number % count as u64) as usize };
        usable().cycle().skip(first).take(count)
    }
}

/// The tuple with which replies arrive when `tuple` leaves from this address and port.
pub fn reply_to(tuple: &FiveTuple, address: IpAddr, port: u16) -> FiveTuple {
    let mut reply = FiveTuple { destination: address, destination_port: port, ..tuple.reversed() };
    if tuple.protocol.is_icmp() {
        // An identifier stands on both sides.
        reply.source_port = port;
    }
    reply
}

/// Whose ports may not collide.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Towards {
    function: FunctionId,
    protocol: Protocol,
    address: IpAddr,
    remote: IpAddr,
    remote_port: u16,
}

impl Towards {
    fn new(function: FunctionId, reply: &FiveTuple) -> Towards {
        Towards {
            function,
            protocol: reply.protocol,
            address: reply.destination,
            remote: reply.source,
            remote_port: if reply.protocol.is_icmp() { 0 } else { reply.source_port },
        }
    }
}

#[derive(Debug)]
enum Used {
    /// In ascending order.
    Listed(SmallVec<[u16; 8]>),
    Mapped {
        count: usize,
        map: Box<[u64; WORDS]>,
    },
}

impl Used {
    fn insert(&mut self, port: u16) {
        match self {
            Used::Mapped { count, map } => {
                let (word, bit) = place(port);
                *count += usize::from(map[word] & bit == 0);
                map[word] |= bit;
            }
            Used::Listed(ports) => {
                if let Err(at) = ports.binary_search(&port) {
                    ports.insert(at, port);
                }
                if ports.len() > LISTED_MAX {
                    let mut map = Box::new([0; WORDS]);
                    for (word, bit) in ports.iter().copied().map(place) {
                        map[word] |= bit;
                    }
                    *self = Used::Mapped { count: ports.len(), map };
                }
            }
        }
    }

    /// True where no port is left.
    fn remove(&mut self, port: u16) -> bool {
        match self {
            Used::Mapped { count, map } => {
                let (word, bit) = place(port);
                *count -= usize::from(map[word] & bit != 0);
                map[word] &= !bit;
                *count == 0
            }
            Used::Listed(ports) => {
                if let Ok(at) = ports.binary_search(&port) {
                    ports.remove(at);
                }
                ports.is_empty()
            }
        }
    }

    /// The first free port of `range`, going round from its `offset`-th one.
    fn free(&self, (first, last): (u16, u16), offset: u32) -> Option<u16> {
        let from = u32::from(first) + offset;
        // No port of the range is above 65,535.
        let begin = from as u16;
        match self {
            Used::Listed(ports) => {
                let mut candidates = (begin..=last).chain(first..begin).take(ports.len() + 1);
                candidates.find(|port| ports.binary_search(port).is_err())
            }
            Used::Mapped { map, .. } => {
                free_in(map, begin, last).or_else(|| free_in(map, first, begin.checked_sub(1)?))
            }
        }
    }
}

fn place(port: u16) -> (usize, u64) {
    (usize::from(port / 64), 1 << (port % 64))
}

/// The first port from `first` to `last` whose bit is clear.
fn free_in(map: &[u64; WORDS], first: u16, last: u16) -> Option<u16> {
    if first > last {
        return None;
    }
    (first / 64..=last / 64).find_map(|word| {
        let mut taken = map[usize::from(word)];
        if word == first / 64 {
            taken |= (1 << (first % 64)) - 1;
        }
        let bit = taken.trailing_ones() as u16;
        let port = word.checked_mul(64)?.checked_add(bit)?;
        (bit < 64 && port <= last).then_some(port)
    })
}

/// The ports of all translated sessions of a table.
#[derive(Debug, Default)]
pub(super) struct Bindings {
    used: HashMap<Towards, Used>,
    of_function: HashMap<FunctionId, usize>,
}

impl Bindings {
    /// Takes note of a session whose source is translated.
    pub(super) fn insert(&mut self, function: FunctionId, reply: &FiveTuple) {
        let used = self.used.entry(Towards::new(function, reply)).or_insert(Used::Listed(SmallVec::new()));
        used.insert(reply.destination_port);
        *self.of_function.entry(function).or_default() += 1;
    }

    pub(super) fn remove(&mut self, function: FunctionId, reply: &FiveTuple) {
        let towards = Towards::new(function, reply);
        if self.used.get_mut(&towards).is_some_and(|used| used.remove(reply.destination_port)) {
            self.used.remove(&towards);
        }
        if let Some(count) = self.of_function.get_mut(&function) {
            *count -= 1;
            if *count == 0 {
                self.of_function.remove(&function);
            }
        }
    }

    pub(super) fn count(&self, function: FunctionId) -> usize {
        self.of_function.get(&function).copied().unwrap_or(0)
    }

    /// A free address and port for a session that begins with `tuple`; `number` says where the search begins.
    pub(super) fn choose(
        &self,
        function: FunctionId,
        tuple: &FiveTuple,
        pool: &PortPool<'_>,
        number: u64,
    ) -> Option<(IpAddr, u16)> {
        let range = (pool.first_port, pool.last_port);
        let size = u64::from(pool.last_port.checked_sub(pool.first_port)?) + 1;
        let offset = (number >> 32) % size;
        pool.in_order(tuple, number & 0xffff_ffff).find_map(|address| {
            let towards = Towards::new(function, &reply_to(tuple, address, 0));
            let port = match self.used.get(&towards) {
                Some(used) => used.free(range, offset as u32)?,
                None => (u64::from(pool.first_port) + offset) as u16,
            };
            Some((address, port))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAT: FunctionId = FunctionId(3);

    fn tuple(port: u16, destination: &str) -> FiveTuple {
        FiveTuple {
            protocol: Protocol::UDP,
            source: "10.0.0.4".parse().unwrap(),
            destination: destination.parse().unwrap(),
            source_port: port,
            destination_port: 53,
        }
    }

    fn take(
        bindings: &mut Bindings,
        tuple: &FiveTuple,
        pool: &PortPool<'_>,
        number: u64,
    ) -> Option<FiveTuple> {
        let (address, port) = bindings.choose(NAT, tuple, pool, number)?;
        let reply = reply_to(tuple, address, port);
        bindings.insert(NAT, &reply);
        Some(reply)
    }

    #[test]
    fn every_port_of_every_address_is_given_once_and_no_other() {
        let addresses = ["203.0.113.1".parse().unwrap(), "203.0.113.2".parse().unwrap()];
        for (first, last) in [(7, 7), (1_024, 1_027), (1_000, 3_000), (64_000, 65_535)] {
            let pool = PortPool { addresses: &addresses, first_port: first, last_port: last };
            let mut bindings = Bindings::default();
            let mut given = std::collections::HashSet::new();
            let size = 2 * (usize::from(last - first) + 1);
            for number in 0..size as u64 {
                let number = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                let reply = take(&mut bindings, &tuple(9, "198.51.100.1"), &pool, number).unwrap();
                assert!((first..=last).contains(&reply.destination_port));
                assert!(given.insert((reply.destination, reply.destination_port)));
            }
            assert_eq!(take(&mut bindings, &tuple(9, "198.51.100.1"), &pool, 5), None);
            assert_eq!(bindings.count(NAT), size);
            // Another destination has all ports of its own.
            assert!(take(&mut bindings, &tuple(9, "198.51.100.2"), &pool, 5).is_some());
            let freed = reply_to(&tuple(9, "198.51.100.1"), addresses[1], last);
            bindings.remove(NAT, &freed);
            assert_eq!(take(&mut bindings, &tuple(9, "198.51.100.1"), &pool, 5), Some(freed));
            for (address, port) in given {
                bindings.remove(NAT, &reply_to(&tuple(9, "198.51.100.1"), address, port));
            }
            assert_eq!((bindings.count(NAT), bindings.used.len()), (1, 1));
        }
    }

    #[test]
    fn a_pool_without_the_family_gives_nothing() {
        let addresses = ["2001:db8::1".parse().unwrap()];
        let pool = PortPool { addresses: &addresses, first_port: 1, last_port: 9 };
        assert_eq!(Bindings::default().choose(NAT, &tuple(9, "198.51.100.1"), &pool, 0), None);
    }

    #[test]
    fn an_echo_has_its_identifier_on_both_sides() {
        let echo = FiveTuple { protocol: Protocol::ICMP, destination_port: 9, ..tuple(9, "198.51.100.1") };
        let reply = reply_to(&echo, "203.0.113.1".parse().unwrap(), 77);
        assert_eq!((reply.source_port, reply.destination_port), (77, 77));
    }
}
