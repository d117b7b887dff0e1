//! The work of loading grows with the file and no faster. What is counted is what the thread asks of the allocator, which
//! does not hang on the machine.
#![allow(unsafe_code)]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    fmt::Write as _,
};

use vnet_config::{Attachments, load_with};

thread_local! {
    static ASKED: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call goes to the system's allocator unchanged; counting touches only a thread-local cell that
// needs no allocation.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ASKED.with(|asked| asked.set(asked.get() + 1));
        // SAFETY: the caller keeps `alloc`'s contract, and it is passed on as it is.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the pointer came from `System.alloc` with this layout, as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Networks in hubs of fifty spokes, with gateways, tables, groups and a machine in each.
fn design(networks: usize) -> String {
    let (mut text, mut machines, mut gateways) = (String::new(), String::new(), String::new());
    for index in 0..networks {
        let (hub, spoke) = (index / 50, index % 50);
        let block = format!("10.{}.{}", index / 200, index % 200);
        if spoke == 0 {
            let spokes: Vec<String> = (1..50)
                .map(|spoke| format!("n{}: {{allowGatewayTransit: true}}", hub * 50 + spoke))
                .collect();
            writeln!(
                text,
                "  n{index}: {{addressSpace: [{block}.0/24], subnets: {{s: {block}.0/26, GatewaySubnet: {block}.64/27}}, peerings: {{{}}}}}",
                spokes.join(", ")
            )
            .expect("a String takes all");
            writeln!(
                gateways,
                "  g{hub}: {{virtualNetwork: n{index}, sku: VpnGw1AZ, publicIPAddress: 203.0.113.{hub}}}"
            )
            .expect("a String takes all");
        } else {
            writeln!(
                text,
                "  n{index}: {{addressSpace: [{block}.0/24], subnets: {{s: {{addressPrefix: {block}.0/26, routeTable: t, networkSecurityGroup: n}}}}, peerings: {{n{}: {{useRemoteGateways: true}}}}}}",
                hub * 50
            )
            .expect("a String takes all");
        }
        writeln!(machines, "  m{index}: {{subnet: n{index}/s, privateIPAddress: {block}.4, applicationSecurityGroups: [a{index}]}}")
            .expect("a String takes all");
    }
    let groups: String = (0..networks).map(|index| format!("  a{index}: {{}}\n")).collect();
    format!(
        "name: large\nvirtualNetworks:\n{text}virtualMachines:\n{machines}virtualNetworkGateways:\n{gateways}applicationSecurityGroups:\n{groups}routeTables: {{t: {{}}}}\nnetworkSecurityGroups: {{n: {{}}}}\n"
    )
}

/// What loading `text` asks of the allocator.
fn cost(text: &str) -> u64 {
    let before = ASKED.with(Cell::get);
    let loaded = load_with(text, "large.yaml", &Attachments::default());
    let after = ASKED.with(Cell::get);
    loaded.unwrap_or_else(|found| panic!("{found}"));
    after - before
}

#[test]
fn twice_the_design_is_twice_the_work() {
    // The schema is made once for all.
    cost("name: lab\n");
    let (small, large) = (cost(&design(400)), cost(&design(800)));
    println!("{small} and {large} requests for memory");
    assert!(large < small * 22 / 10, "{small} for 400 networks, {large} for 800");
    assert!(large / 800 < 600, "{} for each network and its machine", large / 800);
}
