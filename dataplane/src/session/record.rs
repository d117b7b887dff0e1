//! A session as it lies in memory that outlives the process.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::port::FunctionId;
use crate::timeouts::FlowState;
use crate::tuple::{FiveTuple, Protocol, TcpFlags};

/// Changes whenever the layout or the meaning of a field does: records of another one are discarded.
const LAYOUT: u64 = 2;

const FIN_ORIGINAL: u8 = 0x01;
const FIN_REPLY: u8 = 0x02;
const ANSWERED: u8 = 0x04;
const IPV6: u8 = 0x80;
/// Bits that never change in a session's life.
const FIXED: u8 = 0xf0;

/// Which way a packet runs in the session that it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum SessionSide {
    /// As the first packet did.
    Original,
    /// Against it.
    Reply,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Endpoints {
    source: [u8; 16],
    destination: [u8; 16],
    source_port: u16,
    destination_port: u16,
}

/// What a packet's session is looked for by.
pub(super) struct Wanted {
    function: u32,
    protocol: u8,
    family: u8,
    endpoints: Endpoints,
}

impl Wanted {
    pub(super) fn new(function: FunctionId, tuple: &FiveTuple) -> Wanted {
        Wanted {
            function: function.0,
            protocol: tuple.protocol.0,
            family: family(tuple),
            endpoints: endpoints(tuple),
        }
    }
}

/// One session: 96 octets in the machine's own byte order, valid or not whatever they hold. A record is in use
/// if its state is known and its check matches; one whose writing was cut off has a check that does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SessionRecord {
    original: Endpoints,
    /// As reply packets arrive: the original reversed, with the translated address where there is one.
    reply: Endpoints,
    function: u32,
    rule: u32,
    created: u32,
    last_seen: u32,
    check: u16,
    generation: u16,
    protocol: u8,
    idle_minutes: u8,
    state: u8,
    flags: u8,
}

impl SessionRecord {
    /// A record that is not in use; the same as all zeros.
    pub const FREE: SessionRecord = SessionRecord {
        original: Endpoints { source: [0; 16], destination: [0; 16], source_port: 0, destination_port: 0 },
        reply: Endpoints { source: [0; 16], destination: [0; 16], source_port: 0, destination_port: 0 },
        function: 0,
        rule: 0,
        created: 0,
        last_seen: 0,
        check: 0,
        generation: 0,
        protocol: 0,
        idle_minutes: 0,
        state: 0,
        flags: 0,
    };

    /// Whose session it is.
    pub fn function(&self) -> FunctionId {
        FunctionId(self.function)
    }

    /// The rule that allowed it.
    pub fn rule(&self) -> u32 {
        self.rule
    }

    /// When it was opened, in seconds of the caller's clock.
    pub fn created_s(&self) -> u32 {
        self.created
    }

    /// When its last packet was reported, in seconds of the caller's clock.
    pub fn last_seen_s(&self) -> u32 {
        self.last_seen
    }

    /// Minutes after which it goes when it is established and idle; 0 where the table's own time holds.
    pub fn idle_minutes(&self) -> u8 {
        self.idle_minutes
    }

    /// Where it stands.
    pub fn state(&self) -> FlowState {
        match self.state {
            1 => FlowState::Opening,
            2 => FlowState::Established,
            3 => FlowState::Closing,
            _ => FlowState::Datagram,
        }
    }

    /// The first packet's tuple.
    pub fn original(&self) -> FiveTuple {
        self.tuple(&self.original)
    }

    /// The tuple of replies, as they arrive.
    pub fn reply(&self) -> FiveTuple {
        self.tuple(&self.reply)
    }

    /// Which way a packet runs in the session, if it belongs to it.
    pub(super) fn side_of(&self, wanted: &Wanted) -> Option<SessionSide> {
        if self.function != wanted.function
            || self.protocol != wanted.protocol
            || self.flags & IPV6 != wanted.family
        {
            None
        } else if self.original == wanted.endpoints {
            Some(SessionSide::Original)
        } else if self.reply == wanted.endpoints {
            Some(SessionSide::Reply)
        } else {
            None
        }
    }

    /// Replies do not simply reverse the first packet's tuple.
    pub fn is_translated(&self) -> bool {
        let Endpoints { source, destination, source_port, destination_port } = self.original;
        let reversed = Endpoints {
            source: destination,
            destination: source,
            source_port: destination_port,
            destination_port: source_port,
        };
        self.reply != reversed
    }

    /// The first packet leaves with another source than it came with.
    pub(super) fn has_binding(&self) -> bool {
        let (original, reply) = (&self.original, &self.reply);
        original.source != reply.destination || original.source_port != reply.destination_port
    }

    fn tuple(&self, endpoints: &Endpoints) -> FiveTuple {
        FiveTuple {
            protocol: Protocol(self.protocol),
            source: address(self.flags & IPV6 != 0, endpoints.source),
            destination: address(self.flags & IPV6 != 0, endpoints.destination),
            source_port: endpoints.source_port,
            destination_port: endpoints.destination_port,
        }
    }

    /// A record in use can be told from anything else that the memory may hold.
    pub(super) fn is_valid(&self) -> bool {
        (FlowState::Opening as u8..=FlowState::Datagram as u8).contains(&self.state)
            && self.check == self.expected_check()
    }

    pub(super) fn is_free(&self) -> bool {
        self.state == 0
    }

    pub(super) fn generation(&self) -> u16 {
        self.generation
    }

    pub(super) fn free(&mut self) {
        self.state = 0;
    }

    pub(super) fn write(&mut self, new: &super::NewSession, state: FlowState, now_s: u32) {
        let reply = new.reply.unwrap_or(new.tuple.reversed());
        let mut record = SessionRecord {
            original: endpoints(&new.tuple),
            reply: endpoints(&reply),
            function: new.function.0,
            rule: new.rule,
            created: now_s,
            last_seen: now_s,
            check: 0,
            generation: self.generation.wrapping_add(1),
            protocol: new.tuple.protocol.0,
            idle_minutes: new.idle_minutes,
            state: state as u8,
            flags: family(&new.tuple),
        };
        record.check = record.expected_check();
        *self = record;
    }

    /// Takes note of a packet. Returns whether the state changed.
    pub(super) fn see(&mut self, side: SessionSide, flags: TcpFlags, now_s: u32) -> bool {
        self.last_seen = now_s;
        if self.protocol != Protocol::TCP.0 {
            return false;
        }
        let before = self.state();
        let (syn, ack) = (flags.0 & TcpFlags::SYN != 0, flags.0 & TcpFlags::ACK != 0);
        if flags.0 & TcpFlags::FIN != 0 {
            self.flags |= if side == SessionSide::Original { FIN_ORIGINAL } else { FIN_REPLY };
        }
        let finished = self.flags & (FIN_ORIGINAL | FIN_REPLY) == FIN_ORIGINAL | FIN_REPLY;
        let after = match before {
            FlowState::Closing if flags.opens() && side == SessionSide::Original => {
                self.flags &= !(FIN_ORIGINAL | FIN_REPLY | ANSWERED);
                FlowState::Opening
            }
            _ if flags.0 & TcpFlags::RST != 0 || finished => FlowState::Closing,
            FlowState::Opening => {
                if side == SessionSide::Reply && ack {
                    self.flags |= ANSWERED;
                }
                let through = side == SessionSide::Original && ack && !syn && self.flags & ANSWERED != 0;
                if through { FlowState::Established } else { FlowState::Opening }
            }
            state => state,
        };
        self.state = after as u8;
        after != before
    }

    pub(super) fn age_from(&mut self, now_s: u32) {
        self.last_seen = self.last_seen.min(now_s);
    }

    fn expected_check(&self) -> u16 {
        // Neither state, flags nor last_seen: each changes by one store of its own.
        let fixed = SessionRecord { check: 0, last_seen: 0, state: 0, flags: self.flags & FIXED, ..*self };
        let mut hash = LAYOUT.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        for word in fixed.as_bytes().chunks_exact(8) {
            hash ^= u64::from_ne_bytes(word.try_into().unwrap_or([0; 8]));
            hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
            hash ^= hash >> 32;
        }
        (hash >> 16) as u16
    }
}

fn address(v6: bool, octets: [u8; 16]) -> IpAddr {
    if v6 {
        IpAddr::V6(Ipv6Addr::from(octets))
    } else {
        IpAddr::V4(Ipv4Addr::new(octets[0], octets[1], octets[2], octets[3]))
    }
}

fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => {
            let mut octets = [0; 16];
            octets[..4].copy_from_slice(&v4.octets());
            octets
        }
        IpAddr::V6(v6) => v6.octets(),
    }
}

fn family(tuple: &FiveTuple) -> u8 {
    if tuple.source.is_ipv6() { IPV6 } else { 0 }
}

fn endpoints(tuple: &FiveTuple) -> Endpoints {
    Endpoints {
        source: octets(tuple.source),
        destination: octets(tuple.destination),
        source_port: tuple.source_port,
        destination_port: tuple.destination_port,
    }
}
