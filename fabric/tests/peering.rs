//! Peerings: states, flags, and what they let pass.

mod common;

use std::sync::Arc;

use common::*;
use vnet_dataplane::{Action, Nanos, Protocol, Reason};
use vnet_fabric::control::{Effect, PeeringState};
use vnet_fabric::snapshot::Snapshot;
use vnet_fabric::{Event, State, compile};

fn ping(snapshot: &Snapshot) -> Result<(), Reason> {
    let ping = packet(Protocol::ICMP, "10.0.0.4", "10.1.0.4", 7);
    for (from, packet) in [("a1/eth0", ping), ("b1/eth0", answer(&ping))] {
        if let vnet_fabric::Verdict::Drop(reason) = send(snapshot, from, &packet).verdict {
            return Err(reason);
        }
    }
    Ok(())
}

#[test]
fn both_halves_must_allow_access() {
    let on = "{}";
    let off = "{allowVirtualNetworkAccess: false}";
    assert_eq!(ping(&lab(&pair(on, on))), Ok(()));
    assert_eq!(ping(&lab(&pair(on, off))), Err(Reason::PeeringAccessDenied));
    assert_eq!(ping(&lab(&pair(off, on))), Err(Reason::PeeringAccessDenied));
    let tag_only = format!("{}\nsemantics: {{peeringFlags: tagOnly}}\n", pair(on, off));
    assert_eq!(ping(&lab(&tag_only)), Ok(()));
}

#[test]
fn what_passes_by_tags_only_rests_on_the_disputed_reading() {
    let doubtful = |text: &str, from: &str, to: &str| {
        let snapshot = lab(&format!("{text}\nsemantics: {{peeringFlags: tagOnly}}\n"));
        let report =
            vnet_fabric::path(&snapshot, from, to, vnet_config::model::ProbeProtocol::Icmp, None).unwrap();
        assert_eq!(report.reason, None);
        (report.certainty, report.doubtful.into_iter().map(|rule| rule.azure_rule).collect::<Vec<_>>())
    };
    let disputed = |rule: &str| (vnet_fabric::trace::Certainty::Disputed, vec![rule.to_owned()]);
    let documented = (vnet_fabric::trace::Certainty::Documented, Vec::new());
    let (on, off) = ("{}", "{allowVirtualNetworkAccess: false}");
    assert_eq!(doubtful(&pair(on, off), "a1", "b1"), disputed("PEERING-ACCESS"));
    assert_eq!(doubtful(&pair(on, on), "a1", "b1"), documented);
    let chain = |first: &str, second: &str| CHAIN.replace("FLAGS1", first).replace("FLAGS2", second);
    let forwarded = "{allowForwardedTraffic: true}";
    assert_eq!(doubtful(&chain(forwarded, on), "m1", "m2"), disputed("PEERING-FORWARDED"));
    assert_eq!(doubtful(&chain(forwarded, forwarded), "m1", "m2"), documented);
}

#[test]
fn one_half_alone_carries_nothing() {
    let text = pair("{}", "{}").replace(", peerings: {a: {}}", "");
    assert_eq!(ping(&lab(&text)), Err(Reason::PeeringNotConnected));
    let neither = text.replace(", peerings: {b: {}}", "");
    assert_eq!(ping(&lab(&neither)), Err(Reason::RouteNone));
}

#[test]
fn a_half_that_loses_its_other_is_disconnected_until_both_are_there() {
    let both = Arc::new(topology(&pair("{}", "{}")));
    let one = Arc::new(topology(&pair("{}", "{}").replace(", peerings: {a: {}}", "")));
    let mut state = State::default();
    let state_of = |state: &State| state.peerings["a -> b"].state;
    state.step(Event::Apply(one.clone()), Nanos::ZERO);
    assert_eq!(state_of(&state), PeeringState::Initiated);
    state.step(Event::Apply(both.clone()), Nanos::ZERO);
    assert_eq!(state_of(&state), PeeringState::Connected);
    state.step(Event::Apply(one.clone()), Nanos::ZERO);
    assert_eq!(state_of(&state), PeeringState::Disconnected);
    assert_eq!(ping(&compile(&one, &state)), Err(Reason::PeeringNotConnected));
    let effects = state.step(Event::Apply(both.clone()), Nanos::ZERO);
    assert!(effects.contains(&Effect::PeeringRecreated { local: "a".to_owned(), remote: "b".to_owned() }));
    assert_eq!(ping(&compile(&both, &state)), Ok(()));
}

/// Hub with an appliance between two spokes; `FLAGS1` and `FLAGS2` are the spokes' flags.
const CHAIN: &str = "
name: chain
virtualNetworks:
  h: {addressSpace: [10.0.0.0/16], subnets: {n: 10.0.9.0/24}, peerings: {s1: {}, s2: {}}}
  s1: {addressSpace: [10.1.0.0/16], subnets: {s: {addressPrefix: 10.1.0.0/24, routeTable: t1}}, peerings: {h: FLAGS1}}
  s2: {addressSpace: [10.2.0.0/16], subnets: {s: {addressPrefix: 10.2.0.0/24, routeTable: t2}}, peerings: {h: FLAGS2}}
virtualMachines: {m1: {subnet: s1/s}, m2: {subnet: s2/s}, nva: {subnet: h/n, enableIPForwarding: true}}
routeTables:
  t1: {routes: [{name: r, addressPrefix: 10.2.0.0/16, nextHopType: VirtualAppliance, nextHopIpAddress: 10.0.9.4}]}
  t2: {routes: [{name: r, addressPrefix: 10.1.0.0/16, nextHopType: VirtualAppliance, nextHopIpAddress: 10.0.9.4}]}
";

fn chain(first: &str, second: &str) -> vnet_fabric::PathReport {
    let snapshot = lab(&CHAIN.replace("FLAGS1", first).replace("FLAGS2", second));
    vnet_fabric::path(&snapshot, "m1", "m2", vnet_config::model::ProbeProtocol::Icmp, None).unwrap()
}

#[test]
fn forwarded_traffic_needs_the_receiving_halfs_flag() {
    let forwarded = "{allowForwardedTraffic: true}";
    let report = chain(forwarded, forwarded);
    assert_eq!(
        (report.reason, report.via, report.via_reverse),
        (None, vec!["nva".to_owned()], vec!["nva".to_owned()])
    );
    assert_eq!(report.assumptions, ["nva is assumed to forward"]);
    let report = chain(forwarded, "{}");
    assert_eq!(report.forward.reason.as_deref(), Some("ForwardedTrafficDenied"));
    let report = chain("{}", forwarded);
    assert!(report.forward.arrives);
    assert_eq!(report.reverse.unwrap().reason.as_deref(), Some("ForwardedTrafficDenied"));
}

#[test]
fn a_changed_range_is_synced_by_an_apply() {
    let before = Arc::new(topology(&pair("{}", "{}")));
    let after = Arc::new(topology(&pair("{}", "{}").replace("[10.1.0.0/16]", "[10.1.0.0/16, 10.7.0.0/16]")));
    let mut state = State::default();
    state.step(Event::Apply(before), Nanos::ZERO);
    let effects = state.step(Event::Apply(after.clone()), Nanos::ZERO);
    assert!(effects.contains(&Effect::PeeringSynced { local: "a".to_owned(), remote: "b".to_owned() }));
    assert!(
        routes(&compile(&after, &state), "a/s")
            .contains(&"Default Active 10.7.0.0/16 VNetPeering".to_owned())
    );
}

#[test]
fn a_peering_across_regions_is_global() {
    let text = pair("{}", "{}").replace("  b: {addressSpace", "  b: {location: westus, addressSpace");
    assert!(routes(&lab(&text), "a/s").contains(&"Default Active 10.1.0.0/16 VNetGlobalPeering".to_owned()));
}

#[test]
fn a_global_peering_takes_packets_of_1500_bytes() {
    let limit = |text: &str| {
        let decision = send(&lab(text), "a1/eth0", &packet(Protocol::ICMP, "10.0.0.4", "10.1.0.4", 7));
        decision.actions.iter().copied().find(|action| matches!(action, Action::LimitMtu { .. }))
    };
    let near = pair("{}", "{}");
    assert_eq!(limit(&near), None);
    let far = near.replace("  b: {addressSpace", "  b: {location: westus, addressSpace");
    assert_eq!(limit(&far), Some(Action::LimitMtu { mtu: 1500, answer_from: "10.0.0.1".parse().unwrap() }));
}

#[test]
fn flags_read_as_tags_leave_it_to_the_security_groups() {
    let guarded = |flags: &str, rules: &str| {
        let text =
            pair("{}", flags).replace("  b1: {subnet: b/s}", "  b1: {subnet: b/s, networkSecurityGroup: g}");
        format!(
            "{text}networkSecurityGroups: {{g: {{securityRules: [{rules}]}}}}\nsemantics: {{peeringFlags: tagOnly}}\n"
        )
    };
    let allow = "{name: in, priority: 100, direction: Inbound, access: Allow, protocol: '*', sourceAddressPrefix: 10.0.0.0/16, sourcePortRange: '*', destinationAddressPrefix: '*', destinationPortRange: '*'}";
    let off = "{allowVirtualNetworkAccess: false}";
    assert_eq!(ping(&lab(&guarded("{}", ""))), Ok(()));
    // The peer's range has left the tag, so that the default rules do not hold; a rule of the user's does.
    assert_eq!(ping(&lab(&guarded(off, ""))), Err(Reason::NsgDeny));
    let probe = packet(Protocol::ICMP, "10.0.0.4", "10.1.0.4", 7);
    let snapshot = lab(&guarded(off, allow));
    assert_eq!(delivered(&snapshot, &send(&snapshot, "a1/eth0", &probe)), "b1/eth0");
    assert!(routes(&snapshot, "b/s").contains(&"Default Active 10.0.0.0/16 VNetPeering".to_owned()));
}
