//! Any bytes come to a BGP session in each of its states, and to the decoder of UPDATEs.
#![no_main]

use std::net::Ipv4Addr;

use libfuzzer_sys::fuzz_target;
use vnet_bgp::message::update::{Coding, decode, encode};
use vnet_bgp::message::{Notification, Open, keepalive};
use vnet_bgp::{ConnectionId, Family, Input, Output, Session, SessionConfig};
use vnet_dataplane::Nanos;

const ID: ConnectionId = ConnectionId(1);

fn peer_open() -> Vec<u8> {
    let router_id = Ipv4Addr::new(10, 0, 0, 2);
    let families = Family::ALL.to_vec();
    Open { asn: 65_002, hold_time_s: 90, router_id, families, four_octet: true, route_refresh: true }.encode()
}

fuzz_target!(|bytes: &[u8]| {
    let Some((stage, bytes)) = bytes.split_first() else { return };
    let neighbour = (stage & 8 == 0).then_some(65_002);
    let coding = Coding { four_octet: stage & 4 == 0, families: Family::ALL.to_vec(), neighbour };
    if let Ok(update) = decode(bytes, &coding) {
        for announced in &update.announced {
            let messages = encode(&announced.attributes, &announced.prefixes, &coding).unwrap_or_default();
            for message in messages {
                let again = decode(&message[19..], &coding).expect("what was written can be read");
                assert!(again.announced.iter().all(|one| one.attributes == announced.attributes));
            }
        }
    }
    let config = SessionConfig::new(65_001, Ipv4Addr::new(10, 0, 0, 1), 65_002);
    let mut session = Session::new(config, Nanos::ZERO);
    let mut out = Vec::new();
    session.step(Input::Start, Nanos::ZERO, &mut out);
    session.step(Input::Connected(ID), Nanos::ZERO, &mut out);
    for (enough, message) in [(1, peer_open()), (2, keepalive())] {
        if stage & 3 >= enough {
            session.step(Input::Received(ID, &message), Nanos::ZERO, &mut out);
        }
    }
    out.clear();
    session.step(Input::Received(ID, bytes), Nanos::ZERO, &mut out);
    if out.contains(&Output::Close(ID)) && session.messages().1 == 0 {
        let told = |output: &Output| matches!(output, Output::Send(_, message) if message[18] == 3);
        assert!(out.iter().any(told), "a connection was closed without a word");
    }
    let _ = Notification::decode(bytes).to_string();
});
