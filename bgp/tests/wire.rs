//! What a peer's bytes lead to: errors by RFC 4271 section 6 and RFC 7606, capabilities, communities.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use vnet_bgp::message::update::{Coding, Fault, decode, encode};
use vnet_bgp::message::{Notification, Open, Update, keepalive};
use vnet_bgp::rib::AcceptAll;
use vnet_bgp::types::{NO_ADVERTISE, NO_EXPORT, Opaque};
use vnet_bgp::{
    Action, Aggregator, AsPath, Attributes, ConnectionId, Family, Input, Origin, Output, PeerConfig, Session,
    SessionConfig, SessionState, Speaker, SpeakerConfig,
};
use vnet_dataplane::Nanos;

const ID: ConnectionId = ConnectionId(1);
const ORIGIN: [u8; 4] = [0x40, 1, 1, 0];
const AS_PATH: [u8; 9] = [0x40, 2, 6, 2, 1, 0, 0, 0xfd, 0xea];
const NEXT_HOP: [u8; 7] = [0x40, 3, 4, 10, 0, 0, 2];
const NLRI: [u8; 3] = [16, 10, 2];

fn coding() -> Coding {
    Coding { four_octet: true, families: Family::ALL.to_vec(), neighbour: None }
}

fn body(attributes: &[&[u8]], nlri: &[u8]) -> Vec<u8> {
    let attributes = attributes.concat();
    let mut body = vec![0, 0];
    body.extend((attributes.len() as u16).to_be_bytes());
    body.extend(attributes);
    body.extend(nlri);
    body
}

fn read(attributes: &[&[u8]]) -> Result<Update, Notification> {
    decode(&body(attributes, &NLRI), &Coding { neighbour: Some(65_002), ..coding() })
}

fn prefix(text: &str) -> IpNet {
    text.parse().unwrap()
}

#[test]
fn a_sound_update_is_read() {
    let update = read(&[&ORIGIN, &AS_PATH, &NEXT_HOP]).unwrap();
    assert_eq!(update.announced[0].prefixes, [prefix("10.2.0.0/16")]);
    assert_eq!(update.announced[0].attributes.as_path, AsPath::sequence([65_002]));
    assert!(update.faults.is_empty() && update.withdrawn.is_empty());
}

#[test]
fn a_broken_attribute_costs_the_routes_of_its_message_only() {
    let cases: [(&[&[u8]], u8); 8] = [
        (&[&[0x40, 1, 1, 9], &AS_PATH, &NEXT_HOP], 1),
        (&[&[0x40, 1, 2, 0, 0], &AS_PATH, &NEXT_HOP], 1),
        (&[&[0xc0, 1, 1, 0], &AS_PATH, &NEXT_HOP], 1),
        (&[&ORIGIN, &[0x40, 2, 6, 2, 9, 0, 0, 0xfd, 0xea], &NEXT_HOP], 2),
        (&[&ORIGIN, &[0x40, 2, 6, 3, 1, 0, 0, 0xfd, 0xea], &NEXT_HOP], 2),
        (&[&ORIGIN, &AS_PATH], 3),
        (&[&ORIGIN, &AS_PATH, &[0x40, 3, 3, 10, 0, 0]], 3),
        (&[&ORIGIN, &AS_PATH, &NEXT_HOP, &[0xc0, 8, 3, 0, 0, 0]], 8),
    ];
    for (attributes, code) in cases {
        let update = read(attributes).unwrap();
        assert_eq!(update.withdrawn, [prefix("10.2.0.0/16")], "{attributes:02x?}");
        assert_eq!(update.faults, [Fault::TreatedAsWithdraw(code)]);
        assert!(update.announced.is_empty());
    }
}

#[test]
fn what_can_be_left_out_is_left_out() {
    let local_pref = [0x40, 5, 3, 0, 0, 0];
    let again = [0x40, 1, 1, 2];
    let update = read(&[&ORIGIN, &AS_PATH, &NEXT_HOP, &local_pref, &again]).unwrap();
    assert_eq!(update.faults, [Fault::Discarded(5), Fault::Discarded(1)]);
    assert_eq!(update.announced[0].attributes.origin, Origin::Igp);
}

#[test]
fn what_hides_the_prefixes_ends_the_session() {
    let unknown = [0x40, 99, 1, 0];
    assert_eq!(read(&[&ORIGIN, &unknown]).unwrap_err(), Notification::new(3, 2, &unknown));
    let short_hop = [0x80, 14, 9, 0, 2, 1, 4, 1, 2, 3, 4, 0];
    assert_eq!(read(&[&ORIGIN, &short_hop]).unwrap_err().subcode, 9);
    let long = body(&[&ORIGIN, &AS_PATH, &NEXT_HOP], &[33, 10, 2, 0, 0, 0]);
    assert_eq!(decode(&long, &coding()).unwrap_err(), Notification::new(3, 10, &[]));
    assert_eq!(decode(&[0, 9, 0, 0], &coding()).unwrap_err(), Notification::new(3, 1, &[]));
}

#[test]
fn two_octet_peers_see_as_trans_and_the_path_comes_back_whole() {
    let narrow = Coding { four_octet: false, ..coding() };
    let attributes = Attributes {
        as_path: AsPath::sequence([65_001, 4_200_000_001, 7]),
        med: Some(5),
        communities: vec![1, 2],
        opaque: vec![Opaque { code: 99, value: vec![1; 300] }],
        ..Attributes::local(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)))
    };
    let messages = encode(&attributes, &[prefix("10.0.0.0/8")], &narrow).unwrap();
    let wire = [2, 3, 0xfd, 0xe9, 0x5b, 0xa0, 0, 7];
    assert!(messages[0].windows(wire.len()).any(|at| at == wire), "AS_TRANS is 0x5ba0");
    let update = decode(&messages[0][19..], &narrow).unwrap();
    assert_eq!(*update.announced[0].attributes, attributes);
}

#[test]
fn what_is_said_of_a_summary_travels_in_either_width() {
    let attributes = Attributes {
        as_path: AsPath::sequence([65_001]),
        atomic_aggregate: true,
        aggregator: Some(Aggregator { asn: 4_200_000_001, router_id: Ipv4Addr::new(10, 0, 0, 9) }),
        ..Attributes::local(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)))
    };
    for four_octet in [true, false] {
        let coding = Coding { four_octet, ..coding() };
        let messages = encode(&attributes, &[prefix("10.0.0.0/8")], &coding).unwrap();
        let update = decode(&messages[0][19..], &coding).unwrap();
        assert_eq!((*update.announced[0].attributes).clone(), attributes);
    }
    let short = read(&[&ORIGIN, &AS_PATH, &NEXT_HOP, &[0xc0, 7, 3, 1, 2, 3], &[0x40, 6, 1, 0]]).unwrap();
    assert_eq!(short.faults, [Fault::Discarded(7), Fault::Discarded(6)]);
    assert_eq!(short.announced[0].attributes.aggregator, None);
    let flags = read(&[&ORIGIN, &AS_PATH, &NEXT_HOP, &[0x80, 6, 0]]).unwrap();
    assert_eq!(flags.withdrawn, [prefix("10.2.0.0/16")]);
}

#[test]
fn a_path_that_does_not_begin_with_the_neighbour_is_taken_for_withdrawn() {
    let body = body(&[&ORIGIN, &AS_PATH, &NEXT_HOP], &NLRI);
    let from = |neighbour| decode(&body, &Coding { neighbour, ..coding() }).unwrap();
    assert_eq!(from(Some(65_002)).announced.len(), 1);
    let other = from(Some(65_003));
    assert_eq!((other.announced.len(), other.withdrawn), (0, vec![prefix("10.2.0.0/16")]));
    assert_eq!(other.faults, [Fault::TreatedAsWithdraw(2)]);
    assert_eq!(from(None).announced.len(), 1, "inside an AS the path is as it came from outside");
}

#[test]
fn a_preference_is_heard_inside_an_as_only() {
    let body = body(&[&ORIGIN, &AS_PATH, &NEXT_HOP, &[0x40, 5, 4, 0, 0, 0, 200]], &NLRI);
    let inside = decode(&body, &coding()).unwrap();
    assert_eq!(inside.announced[0].attributes.local_pref, Some(200));
    let outside = decode(&body, &Coding { neighbour: Some(65_002), ..coding() }).unwrap();
    assert_eq!(outside.announced[0].attributes.local_pref, None);
    assert_eq!(outside.faults, [Fault::Discarded(5)]);
}

/// An OPEN as FRR writes it: each capability in a parameter of its own, some of them unknown.
fn foreign_open() -> Vec<u8> {
    let capabilities: [&[u8]; 9] = [
        &[1, 4, 0, 1, 0, 1],
        &[1, 4, 0, 2, 0, 1],
        &[128, 0],
        &[2, 0],
        &[70, 0],
        &[65, 4, 0, 0, 0xfd, 0xea],
        &[6, 0],
        &[73, 6, 4, b'h', b'o', b's', b't', 0],
        &[64, 2, 0x40, 0x78],
    ];
    let mut parameters = Vec::new();
    for capability in capabilities {
        parameters.extend([2, capability.len() as u8]);
        parameters.extend(capability);
    }
    parameters.extend([2, 5, 200, 3, 1, 2, 3]);
    let mut open = vec![0xff; 16];
    open.extend((29 + parameters.len() as u16).to_be_bytes());
    open.extend([1, 4, 0xfd, 0xea, 0, 90, 10, 0, 0, 2, parameters.len() as u8]);
    open.extend(parameters);
    open
}

fn open() -> Open {
    let (router_id, families) = (Ipv4Addr::new(10, 0, 0, 2), Family::ALL.to_vec());
    Open { asn: 65_002, hold_time_s: 90, router_id, families, four_octet: true, route_refresh: true }
}

#[test]
fn an_open_with_capabilities_that_nobody_asked_for_is_read() {
    assert_eq!(Open::decode(&foreign_open()[19..]), Ok(open()));
    assert_eq!(Open::decode(&open().encode()[19..]), Ok(open()));
}

fn session(received: &[&[u8]]) -> (Session, Vec<Output>) {
    let mut session =
        Session::new(SessionConfig::new(65_001, Ipv4Addr::new(10, 0, 0, 1), 65_002), Nanos::ZERO);
    let mut out = Vec::new();
    session.step(Input::Start, Nanos::ZERO, &mut out);
    session.step(Input::Connected(ID), Nanos::ZERO, &mut out);
    out.clear();
    for bytes in received {
        session.step(Input::Received(ID, bytes), Nanos::ZERO, &mut out);
    }
    (session, out)
}

#[test]
fn each_error_has_its_code_and_closes_the_connection() {
    // The version stands at 19, the hold time at 22, the identifier at 24.
    let with = |at: usize, value: u8| {
        let mut message = open().encode();
        message[at] = value;
        message
    };
    let established = [open().encode(), keepalive()];
    type Case = (Vec<Vec<u8>>, (u8, u8));
    let cases: [Case; 9] = [
        (vec![with(3, 0)], (1, 1)),
        (vec![with(16, 0xff)], (1, 2)),
        (vec![with(18, 9)], (1, 3)),
        (vec![with(19, 3)], (2, 1)),
        (vec![with(23, 2)], (2, 6)),
        (vec![with(24, 224)], (2, 3)),
        (vec![keepalive()], (5, 1)),
        (vec![open().encode(), open().encode()], (5, 2)),
        ([established.as_slice(), &[open().encode()]].concat(), (5, 3)),
    ];
    for (messages, code) in cases {
        let messages: Vec<&[u8]> = messages.iter().map(Vec::as_slice).collect();
        let (mut session, out) = session(&messages);
        let notifications = out.iter().filter_map(|output| match output {
            Output::Send(_, bytes) if bytes[18] == 3 => Some((bytes[19], bytes[20])),
            _ => None,
        });
        assert_eq!(notifications.collect::<Vec<_>>(), [code], "{messages:02x?}");
        assert!(out.contains(&Output::Close(ID)));
        assert_eq!(session.state(), SessionState::Active);
        let mut again = Vec::new();
        session.step(Input::Timer, session.deadline().unwrap(), &mut again);
        assert_eq!(again, [Output::Connect], "the next attempt comes by itself");
    }
}

#[test]
fn the_lower_hold_time_counts_and_keepalives_come_three_times_in_it() {
    let (mut session, _) = session(&[&open().encode(), &keepalive()]);
    assert_eq!(session.state(), SessionState::Established);
    assert_eq!(session.deadline(), Some(Nanos::from_millis(30_000)));
    let mut out = Vec::new();
    session.step(Input::Timer, Nanos::from_millis(30_000), &mut out);
    assert_eq!(out, [Output::Send(ID, keepalive())]);
    out.clear();
    session.step(Input::Timer, Nanos::from_millis(90_000), &mut out);
    assert!(out.contains(&Output::Send(ID, Notification::new(4, 0, &[]).encode())));
}

#[test]
fn wanted_communities_keep_a_route_here_and_unknown_attributes_travel() {
    let config = SpeakerConfig { asn: 65_001, router_id: Ipv4Addr::new(10, 0, 0, 1) };
    let mut speaker = Speaker::new(config, std::sync::Arc::new(AcceptAll));
    let (local, one, other) = ("10.0.0.1", "10.0.0.2", "10.0.0.3");
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    for (peer, asn, id) in [(one, 65_002, 1), (other, 65_003, 2)] {
        let peer_config = PeerConfig { passive: true, ..PeerConfig::new(address(peer), asn, address(local)) };
        speaker.add_peer(peer_config, Nanos::ZERO).unwrap();
        let open = Open { asn, router_id: Ipv4Addr::new(10, 0, 0, id as u8 + 1), ..open() }.encode();
        speaker.handle(address(peer), Input::Start, Nanos::ZERO);
        speaker.handle(address(peer), Input::Accepted(ConnectionId(id)), Nanos::ZERO);
        speaker.handle(address(peer), Input::Received(ConnectionId(id), &open), Nanos::ZERO);
        speaker.handle(address(peer), Input::Received(ConnectionId(id), &keepalive()), Nanos::ZERO);
    }
    let told = |speaker: &mut Speaker, communities: Vec<u32>, network: &str| {
        let attributes = Attributes {
            as_path: AsPath::sequence([65_002]),
            communities,
            med: Some(9),
            opaque: vec![Opaque { code: 99, value: vec![7] }],
            ..Attributes::local(address(one))
        };
        let message = encode(&attributes, &[prefix(network)], &coding()).unwrap().remove(0);
        speaker.handle(address(one), Input::Received(ConnectionId(1), &message), Nanos::ZERO)
    };
    for (community, network) in [(NO_EXPORT, "10.5.0.0/16"), (NO_ADVERTISE, "10.6.0.0/16")] {
        let actions = told(&mut speaker, vec![community], network);
        assert!(
            matches!(actions.as_slice(), [Action::Changed(_)]),
            "used here and told to nobody: {actions:?}"
        );
        assert_eq!(speaker.paths(&prefix(network)).len(), 1);
    }
    let actions = told(&mut speaker, vec![42], "10.7.0.0/16");
    let Some(Action::Send(to, _, bytes)) = actions.first() else { panic!("nothing was told: {actions:?}") };
    assert_eq!(*to, address(other));
    let update = decode(&bytes[19..], &coding()).unwrap();
    let attributes = &update.announced[0].attributes;
    assert_eq!(attributes.opaque, [Opaque { code: 99, value: vec![7] }]);
    assert_eq!((attributes.med, attributes.communities.as_slice()), (None, [42].as_slice()));
    assert_eq!(attributes.as_path, AsPath::sequence([65_001, 65_002]));
}
