//! Two and three speakers, as RFC 4271 and Azure's rules want them.

mod net;

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use net::{Net, address, peer, prefix};
use vnet_bgp::rib::Path;
use vnet_bgp::speaker::PeerState;
use vnet_bgp::types::GRACEFUL_SHUTDOWN;
use vnet_bgp::{
    Action, Attributes, Export, Family, Input, Notification, PeerError, Policy, PrefixLimits, SessionState,
};

const A: u32 = 65_101;
const B: u32 = 65_102;
const C: u32 = 65_103;
const WIDE: u32 = 4_200_000_001;

fn pair() -> Net {
    let mut net = Net::new(&[A, B]);
    net.link(&[A, B], &[(0, 1)]);
    net.run_s(30);
    net
}

#[test]
fn two_speakers_that_connect_at_once_keep_one_connection_and_exchange_both_families() {
    let mut net = pair();
    assert!(net.is_up(0, 1) && net.is_up(1, 0), "{:?}", net.status(0, 1));
    net.originate(0, &["10.1.0.0/16", "fd01::/48"]);
    net.originate(1, &["10.2.0.0/16"]);
    net.run_s(1);
    assert_eq!(net.paths(1, "10.1.0.0/16"), ["65101"]);
    assert_eq!(net.paths(1, "fd01::/48"), ["65101"]);
    assert_eq!(net.paths(0, "10.2.0.0/16"), ["65102"]);
    let next_hop = net.speakers[1].paths(&prefix("fd01::/48"))[0].attributes.next_hop;
    assert_eq!(next_hop, "fd00::1".parse::<IpAddr>().unwrap());
    let collisions =
        net.log.iter().filter(|(_, action)| sent(action) == Some(Notification::new(6, 7, &[]))).count();
    assert!(collisions >= 1, "two connections met and none was given up");
}

fn sent(action: &Action) -> Option<Notification> {
    match action {
        Action::Send(_, _, bytes) if bytes[18] == 3 => Some(Notification::decode(&bytes[19..])),
        _ => None,
    }
}

#[test]
fn a_chain_is_transitive_and_a_withdrawal_goes_all_the_way() {
    let asns = [A, B, WIDE];
    let mut net = Net::new(&asns);
    net.link(&asns, &[(0, 1), (1, 2)]);
    net.originate(2, &["10.3.0.0/16"]);
    net.run_s(30);
    assert_eq!(net.paths(0, "10.3.0.0/16"), ["65102-4200000001"]);
    let hop = net.speakers[0].paths(&prefix("10.3.0.0/16"))[0].attributes.next_hop;
    assert_eq!(hop, address(1), "the next hop is the one that told the route");
    net.originate(2, &[]);
    net.run_s(1);
    assert!(net.paths(0, "10.3.0.0/16").is_empty());
}

#[test]
fn a_route_with_the_own_as_in_its_path_is_not_used() {
    let asns = [A, B, A];
    let mut net = Net::new(&asns);
    net.link(&asns, &[(0, 1), (1, 2)]);
    net.originate(0, &["10.1.0.0/16"]);
    net.run_s(30);
    assert_eq!(net.paths(1, "10.1.0.0/16"), ["65101"]);
    assert!(net.paths(2, "10.1.0.0/16").is_empty());
    assert_eq!(net.status(2, 1).routes_received, 1);
}

#[test]
fn a_silent_peer_costs_the_session_after_the_hold_time_and_it_comes_back() {
    let mut net = pair();
    net.originate(1, &["10.2.0.0/16"]);
    net.run_s(600);
    assert!(net.is_up(0, 1), "keepalives hold a quiet session");
    net.dark.extend([(0, 1), (1, 0)]);
    net.run_s(100);
    assert!(net.is_up(0, 1), "100 s are less than the hold time");
    net.run_s(90);
    assert!(!net.is_up(0, 1));
    assert!(net.paths(0, "10.2.0.0/16").is_empty());
    let expired =
        |(at, action): &(usize, Action)| *at == 0 && sent(action) == Some(Notification::new(4, 0, &[]));
    assert!(net.log.iter().any(expired));
    net.dark.clear();
    net.run_s(300);
    assert!(net.is_up(0, 1) && net.is_up(1, 0));
    assert_eq!(net.paths(0, "10.2.0.0/16"), ["65102"]);
}

#[test]
fn a_prefix_above_the_limit_ends_the_session_with_its_code() {
    let mut net = Net::new(&[A, B]);
    let prefix_limits = PrefixLimits { ipv4: 3, ipv6: 1 };
    net.add(0, vnet_bgp::PeerConfig { prefix_limits, ..peer(0, 1, B) });
    net.add(1, peer(1, 0, A));
    net.originate(1, &["10.2.0.0/24", "10.2.1.0/24", "10.2.2.0/24", "fd01::/48"]);
    net.run_s(30);
    assert_eq!(net.status(0, 1).routes_received, 4, "each family has a limit of its own");
    net.originate(1, &["10.2.0.0/24", "10.2.1.0/24", "10.2.2.0/24", "10.2.3.0/24"]);
    net.run_s(1);
    assert!(!net.is_up(0, 1));
    assert!(net.paths(0, "10.2.0.0/24").is_empty());
    let why = net.status(1, 0).last_error.unwrap();
    assert_eq!(why, "received notification: maximum number of prefixes reached (6/1)");
    let told = |(at, action): &(usize, Action)| {
        *at == 0 && sent(action) == Some(Notification::new(6, 1, &[0, 1, 1, 0, 0, 0, 3]))
    };
    assert!(net.log.iter().any(told), "the family and the limit are told");
}

#[test]
fn a_peer_with_another_as_is_refused_and_told_why() {
    let mut net = Net::new(&[A, B]);
    net.add(0, peer(0, 1, C));
    net.add(1, peer(1, 0, A));
    net.run_s(20);
    assert!(!net.is_up(0, 1));
    assert_eq!(net.status(0, 1).last_error.unwrap(), "sent notification: bad peer AS (2/2)");
    let reserved = net.speakers[0].add_peer(peer(0, 5, 23_456), net.now);
    assert_eq!(reserved, Err(PeerError::ReservedAsn(address(5), 23_456)));
}

#[test]
fn a_refresh_brings_the_same_routes_and_changes_nothing() {
    let mut net = pair();
    net.originate(0, &["10.1.0.0/16", "10.4.0.0/16"]);
    net.run_s(1);
    let (before, changes) = (net.updates(0), changes(&net, 1));
    let actions = net.speakers[1].request_refresh(address(0), Family::Ipv4);
    net.take(1, actions);
    net.run_s(1);
    assert_eq!(net.updates(0), before + 2, "one UPDATE with both prefixes, and End-of-RIB");
    assert_eq!(self::changes(&net, 1), changes, "a repeated route is no change");
}

fn changes(net: &Net, at: usize) -> usize {
    net.log.iter().filter(|(of, action)| *of == at && matches!(action, Action::Changed(_))).count()
}

#[test]
fn a_shutdown_is_told_with_its_words() {
    let mut net = pair();
    net.stop(0, 1, "maintenance until 6");
    net.run_s(1);
    let status = net.status(1, 0);
    assert_ne!(status.session_state, SessionState::Established);
    let words = status.last_error.unwrap();
    assert_eq!(words, "received notification: administrative shutdown (6/2): \"maintenance until 6\"");
    assert_eq!(net.status(0, 1).state, PeerState::Idle);
    net.run_s(600);
    assert!(!net.is_up(1, 0), "a stopped session refuses connections");
    net.input(0, address(1), Input::Start);
    net.run_s(200);
    assert!(net.is_up(1, 0));
}

/// Two speakers of one AS, each with a neighbour outside.
#[test]
fn inside_an_as_what_came_from_outside_is_told_once() {
    let asns = [B, A, A, C];
    let mut net = Net::new(&asns);
    net.link(&asns, &[(0, 1), (1, 2), (2, 3)]);
    net.originate(0, &["10.2.0.0/16"]);
    net.run_s(30);
    assert_eq!(net.paths(2, "10.2.0.0/16"), ["65102"], "the own AS is not put before it");
    let inside = &net.speakers[2].paths(&prefix("10.2.0.0/16"))[0];
    assert!(inside.internal);
    assert_eq!((inside.attributes.next_hop, inside.attributes.local_pref), (address(1), Some(100)));
    assert_eq!(net.paths(3, "10.2.0.0/16"), ["65101-65102"]);
    let outside = net.speakers[3].paths(&prefix("10.2.0.0/16"))[0].clone();
    assert_eq!(outside.attributes.local_pref, None, "a preference stays inside");
    // What an external peer says stands before the same from inside.
    net.originate(3, &["10.2.0.0/16"]);
    net.run_s(5);
    assert_eq!(net.paths(1, "10.2.0.0/16"), ["65102"]);
    assert_eq!(net.paths(2, "10.2.0.0/16"), ["65103"]);
    net.originate(0, &[]);
    net.run_s(5);
    assert_eq!(net.paths(1, "10.2.0.0/16"), ["65103"]);
}

#[test]
fn inside_an_as_nothing_is_passed_on_from_peer_to_peer() {
    let asns = [A, A, A];
    let mut net = Net::new(&asns);
    net.link(&asns, &[(0, 1), (1, 2)]);
    net.originate(0, &["10.1.0.0/16"]);
    net.run_s(30);
    assert_eq!(net.paths(1, "10.1.0.0/16"), [""]);
    assert!(net.paths(2, "10.1.0.0/16").is_empty());
}

/// A with two ways to D's prefix: by B and by C.
fn diamond() -> (Net, [u32; 4]) {
    let asns = [A, B, C, 65_104];
    let mut net = Net::new(&asns);
    net.link(&asns, &[(0, 1), (0, 2), (1, 3), (2, 3)]);
    net.originate(3, &["10.4.0.0/16"]);
    net.run_s(30);
    (net, asns)
}

#[test]
fn paths_of_equal_length_are_used_together_and_graceful_shutdown_drains_one() {
    let (mut net, _) = diamond();
    assert_eq!(net.paths(0, "10.4.0.0/16"), ["65102-65104", "65103-65104"]);
    let actions = net.speakers[1].set_graceful_shutdown(true);
    net.take(1, actions);
    net.run_s(1);
    assert_eq!(net.paths(0, "10.4.0.0/16"), ["65103-65104"]);
    let received = net.speakers[0].received(address(1));
    assert!(received.iter().any(|(_, attributes)| attributes.has(GRACEFUL_SHUTDOWN)));
    let actions = net.speakers[1].set_graceful_shutdown(false);
    net.take(1, actions);
    net.run_s(1);
    assert_eq!(net.paths(0, "10.4.0.0/16").len(), 2);
    net.stop(2, 0, "");
    net.run_s(1);
    assert_eq!(net.paths(0, "10.4.0.0/16"), ["65102-65104"]);
}

/// Prepends towards the first speaker, keeps one prefix to itself.
struct Rules;

impl Policy for Rules {
    fn import(&self, _: IpAddr, prefix: &IpNet, _: &Attributes) -> bool {
        prefix.prefix_len() != 0
    }

    fn export(&self, peer: IpAddr, prefix: &IpNet, _: &Path) -> Option<Export> {
        let kept = *prefix == net::prefix("10.9.0.0/16");
        (!kept).then_some(Export { prepend: if peer == address(0) { 2 } else { 0 } })
    }
}

#[test]
fn a_policy_decides_what_is_taken_told_and_prepended() {
    let mut net = Net::with_policy(&[A, B], Arc::new(Rules));
    net.link(&[A, B], &[(0, 1)]);
    net.originate(1, &["10.2.0.0/16", "10.9.0.0/16", "0.0.0.0/0"]);
    net.run_s(30);
    assert_eq!(net.paths(0, "10.2.0.0/16"), ["65102-65102-65102"]);
    assert!(net.paths(0, "10.9.0.0/16").is_empty());
    assert!(net.paths(0, "0.0.0.0/0").is_empty());
    let actions = net.speakers[1].set_policy(Arc::new(vnet_bgp::rib::AcceptAll));
    net.take(1, actions);
    net.run_s(1);
    assert_eq!(net.paths(0, "10.9.0.0/16"), ["65102"]);
    assert_eq!(net.paths(0, "10.2.0.0/16"), ["65102"]);
}

#[test]
fn tables_have_the_rows_that_azure_prints() {
    let mut net = pair();
    net.originate(0, &["10.1.0.0/16"]);
    net.originate(1, &["10.2.0.0/16"]);
    net.run_s(40);
    let status = net.status(0, 1);
    assert_eq!((status.state, status.asn, status.routes_received), (PeerState::Connected, B, 1));
    assert!(status.connected_duration.as_secs() >= 60 && status.messages_received > 2);
    let learned = net.speakers[0].learned_routes(address(0));
    let row = |row: &vnet_bgp::RouteRow| (row.network.to_string(), row.as_path.clone(), row.origin.clone());
    assert_eq!(
        learned.iter().map(row).collect::<Vec<_>>(),
        [
            ("10.1.0.0/16".to_owned(), String::new(), "Network".to_owned()),
            ("10.2.0.0/16".to_owned(), "65102".to_owned(), "EBgp".to_owned()),
        ]
    );
    assert_eq!(learned[1].source_peer, Some(address(1)));
    let told = net.speakers[0].advertised_routes(address(1));
    assert_eq!(
        told.iter().map(row).collect::<Vec<_>>(),
        [("10.1.0.0/16".to_owned(), "65101".to_owned(), "Igp".to_owned())]
    );
    assert_eq!(told[0].next_hop, Some(address(0)));
}

#[test]
fn four_thousand_routes_go_in_few_messages() {
    let mut net = pair();
    let many: Vec<String> = (0..4_000).map(|at| format!("10.{}.{}.0/24", 16 + at / 250, at % 250)).collect();
    let before = net.updates(0);
    net.originate(0, &many.iter().map(String::as_str).collect::<Vec<_>>());
    net.run_s(1);
    assert_eq!(net.status(1, 0).routes_received, 4_000);
    assert!(net.updates(0) - before <= 5, "{} messages", net.updates(0) - before);
}
