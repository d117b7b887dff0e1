//! What a million flows and a million sessions hold of memory, by the allocator's own books.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use vnet_dataplane::{
    Action, FiveTuple, FlowDecision, FlowKey, FlowTable, FunctionId, Nanos, NewSession, PortId, Protocol,
    Reason, SessionRecord, SessionTable, TcpFlags, Timeouts,
};

static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
/// The books are the process's: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

struct Counting;

// SAFETY: every call goes to the system's allocator unchanged; counting touches nothing but two atomics.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(held, Ordering::Relaxed);
        // SAFETY: the caller keeps `alloc`'s contract, and it is passed on as it is.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the pointer came from `System.alloc` with this layout, as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const MILLION: u32 = 1_000_000;
/// Fewer flows share a started chunk and half-filled index shards among too few for the bound.
const ENOUGH: u32 = 50_000;
const PER_FLOW: usize = 256;
/// Beside its record of 96 octets.
const PER_SESSION: usize = 48;

fn tuple(number: u32) -> FiveTuple {
    let (source, destination) = if number.is_multiple_of(2) {
        (IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + number)), IpAddr::V4(Ipv4Addr::new(10, 200, 0, 4)))
    } else {
        let v6 = |bits: u128| IpAddr::V6(Ipv6Addr::from_bits(0xfd00 << 112 | bits));
        (v6(u128::from(number)), v6(4 << 64))
    };
    let (source_port, destination_port) = (40_000, 443);
    FiveTuple { protocol: Protocol::TCP, source, destination, source_port, destination_port }
}

/// Fills a table with a million flows; the most memory that it held for one of them at any time.
fn octets_per_flow(actions: &[Action]) -> usize {
    let _alone = ALONE.lock().unwrap();
    let before = HELD.load(Ordering::Relaxed);
    let mut table = FlowTable::new(1 << 20, Timeouts::default(), 7);
    let mut worst = 0;
    for number in 0..MILLION {
        let key = FlowKey::new(PortId(1), &tuple(number));
        let decision = FlowDecision { epoch: 1, actions, decided_by: None, sessions: &[] };
        PEAK.store(0, Ordering::Relaxed);
        table.insert(key, decision, TcpFlags(TcpFlags::ACK), Nanos::ZERO).unwrap();
        let held = PEAK.load(Ordering::Relaxed).max(HELD.load(Ordering::Relaxed)) - before;
        if number >= ENOUGH {
            worst = worst.max(held.div_ceil(number as usize + 1));
        }
    }
    let held = (HELD.load(Ordering::Relaxed) - before) / MILLION as usize;
    println!("{held} octets a flow at a million, {worst} at worst on the way there");
    assert_eq!(table.len(), MILLION as usize);
    worst
}

#[test]
fn a_million_flows_take_256_octets_each_at_most() {
    assert!(octets_per_flow(&[Action::Deliver(PortId(2))]) <= PER_FLOW);
}

#[test]
fn dropped_flows_take_no_more() {
    assert!(octets_per_flow(&[Action::Drop(Reason::NsgDeny)]) <= PER_FLOW);
}

#[test]
fn a_million_sessions_take_little_beside_their_records() {
    let _alone = ALONE.lock().unwrap();
    let records = vec![SessionRecord::FREE; MILLION as usize];
    let before = HELD.load(Ordering::Relaxed);
    let mut table = SessionTable::open_region(records, Timeouts::default(), 7, 0);
    for number in 0..MILLION {
        let new = NewSession {
            function: FunctionId(1),
            tuple: tuple(number),
            rule: 1,
            reply: None,
            idle_minutes: 0,
        };
        table.open(&new, TcpFlags(TcpFlags::SYN), 1).unwrap();
    }
    let held = (HELD.load(Ordering::Relaxed) - before).div_ceil(MILLION as usize);
    println!("{held} octets a session beside its record");
    assert_eq!(table.len(), MILLION as usize);
    assert!(held <= PER_SESSION);
}
