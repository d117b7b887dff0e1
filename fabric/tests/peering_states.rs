//! The life of a peering: states, sync levels, and what Azure refuses of a change.

mod common;

use std::sync::Arc;

use common::*;
use vnet_config::Topology;
use vnet_dataplane::{Nanos, Protocol};
use vnet_fabric::azure_rule::AzureRule;
use vnet_fabric::control::{Effect, PeeringState, PeeringSyncLevel};
use vnet_fabric::effective::peerings;
use vnet_fabric::snapshot::Snapshot;
use vnet_fabric::{Event, State, Verdict, compile};

const A_HALF: &str = ", peerings: {b: {}}";
const B_HALF: &str = ", peerings: {a: {}}";

/// A lab that changes as Azure would let it.
#[derive(Default)]
struct Azure {
    state: State,
    file: Option<Arc<Topology>>,
}

impl Azure {
    /// Makes the file's requests, or answers what Azure does: a code, or the rule's id where no code is known.
    fn apply(&mut self, text: &str) -> Result<Vec<Effect>, Vec<String>> {
        let externals = vnet_config::Disk::new(None);
        let vnet_config::Loaded { topology: file, source, .. } =
            vnet_config::load_in_place(text, "test.yaml", &externals)
                .unwrap_or_else(|found| panic!("{found}"));
        let refused = source.findings(self.state.refusals(&file)).list;
        if !refused.is_empty() {
            let code =
                |one: &vnet_config::Diagnostic| one.code.clone().unwrap_or(one.rule.clone()).into_owned();
            assert!(
                refused.iter().all(|one| one.remedy.is_some() && one.azure_rule.is_some()),
                "{refused:?}"
            );
            return Err(refused.iter().map(code).collect());
        }
        let file = Arc::new(file);
        self.file = Some(file.clone());
        Ok(self.state.step(Event::ApplyAsAzure(file), Nanos::ZERO))
    }

    fn ok(&mut self, text: &str) -> Vec<Effect> {
        self.apply(text).unwrap_or_else(|refused| panic!("refused: {refused:?}"))
    }

    fn snapshot(&self) -> Snapshot {
        compile(self.file.as_ref().unwrap(), &self.state)
    }

    /// State and sync level of each half.
    fn halves(&self) -> Vec<(String, PeeringState, PeeringSyncLevel)> {
        let all = peerings(self.file.as_ref().unwrap(), &self.state);
        all.into_iter().map(|half| (half.name, half.peering_state, half.peering_sync_level)).collect()
    }

    fn pings(&self) -> bool {
        let (snapshot, ping) = (self.snapshot(), packet(Protocol::ICMP, "10.0.0.4", "10.1.0.4", 7));
        let passes = |from, packet: &_| matches!(send(&snapshot, from, packet).verdict, Verdict::Deliver(_));
        passes("a1/eth0", &ping) && passes("b1/eth0", &answer(&ping))
    }
}

fn pair_text() -> String {
    pair("{}", "{}")
}

fn alone_a() -> String {
    pair_text().replace(B_HALF, "")
}

fn none() -> String {
    alone_a().replace(A_HALF, "")
}

use PeeringState::{Connected, Disconnected, Initiated};
use PeeringSyncLevel::{FullyInSync, LocalNotInSync, RemoteNotInSync};

fn half(
    name: &str,
    state: PeeringState,
    level: PeeringSyncLevel,
) -> (String, PeeringState, PeeringSyncLevel) {
    (name.to_owned(), state, level)
}

#[test]
fn the_state_machine_goes_as_in_the_worked_example() {
    let connected = [half("a/b", Connected, FullyInSync), half("b/a", Connected, FullyInSync)];
    let mut lab = Azure::default();
    // Create A -> B; then B -> A.
    lab.ok(&alone_a());
    assert_eq!((lab.halves(), lab.pings()), (vec![half("a/b", Initiated, FullyInSync)], false));
    lab.ok(&pair_text());
    assert_eq!((lab.halves(), lab.pings()), (connected.to_vec(), true));
    assert!(routes(&lab.snapshot(), "a/s").contains(&"Default Active 10.1.0.0/16 VNetPeering".to_owned()));
    // Delete B -> A: the routes go.
    let effects = lab.ok(&alone_a());
    assert!(effects.contains(&Effect::PeeringDisconnected { local: "a".into(), remote: "b".into() }));
    assert_eq!((lab.halves(), lab.pings()), (vec![half("a/b", Disconnected, FullyInSync)], false));
    assert!(!routes(&lab.snapshot(), "a/s").iter().any(|row| row.contains("VNetPeering")));
    // Create B -> A again.
    assert_eq!(lab.apply(&pair_text()), Err(vec!["RemotePeeringIsDisconnected".to_owned()]));
    assert_eq!((lab.halves(), lab.pings()), (vec![half("a/b", Disconnected, FullyInSync)], false));
    // Delete A -> B, create both.
    lab.ok(&none());
    lab.ok(&pair_text());
    assert_eq!((lab.halves(), lab.pings()), (connected.to_vec(), true));
}

#[test]
fn writing_a_disconnected_half_anew_makes_it_initiated() {
    let mut lab = Azure::default();
    lab.ok(&pair_text());
    lab.ok(&alone_a());
    let written =
        |text: &str| text.replace("peerings: {b: {}}", "peerings: {b: {allowForwardedTraffic: true}}");
    // An apply of the same file writes nothing.
    lab.ok(&alone_a());
    assert_eq!(lab.halves()[0].1, Disconnected);
    lab.ok(&written(&alone_a()));
    assert_eq!(lab.halves()[0].1, Initiated);
    lab.ok(&written(&pair_text()));
    assert_eq!((lab.halves()[0].1, lab.pings()), (Connected, true));
}

#[test]
fn changed_ranges_wait_for_a_sync_as_in_the_worked_example() {
    let more = |range: &str| pair_text().replace("[10.0.0.0/16]", &format!("[10.0.0.0/16, {range}]"));
    let mut lab = Azure::default();
    lab.ok(&pair_text());
    let effects = lab.ok(&more("10.7.0.0/16"));
    let told = Effect::PeeringNotInSync { local: "a".into(), remote: "b".into(), level: LocalNotInSync };
    assert!(effects.contains(&told), "{effects:?}");
    let behind = [half("a/b", Connected, LocalNotInSync), half("b/a", Connected, RemoteNotInSync)];
    assert_eq!((lab.halves(), lab.pings()), (behind.to_vec(), true));
    let to_a = |lab: &Azure| {
        let mut rows = routes(&lab.snapshot(), "b/s");
        rows.retain(|row| row.contains("VNetPeering"));
        rows
    };
    let old = "Default Active 10.0.0.0/16 VNetPeering".to_owned();
    assert_eq!(to_a(&lab), std::slice::from_ref(&old));
    // The next apply does not sync either, nor does a restart of the daemon.
    lab.ok(&more("10.7.0.0/16"));
    let stored = serde_json::to_string(&lab.state).unwrap();
    lab.state = serde_json::from_str(&stored).unwrap();
    lab.state.resume(lab.file.clone().unwrap());
    lab.ok(&more("10.7.0.0/16"));
    assert_eq!(to_a(&lab), std::slice::from_ref(&old));

    let sync = Event::PeeringSync { local: "a".into(), remote: "b".into() };
    let effects = lab.state.step(sync.clone(), Nanos::ZERO);
    assert_eq!(effects[0], Effect::PeeringSynced { local: "a".into(), remote: "b".into() });
    assert_eq!(to_a(&lab), [old, "Default Active 10.7.0.0/16 VNetPeering".to_owned()]);
    assert!(lab.halves().iter().all(|(_, _, level)| *level == FullyInSync));
    assert_eq!(lab.state.step(sync, Nanos::ZERO), []);
    // A range of the peer is refused by the file's own checks already.
    assert!(vnet_config::load(&more("10.1.128.0/17"), "test.yaml", None).is_err());
}

#[test]
fn a_peering_of_another_type_is_created_anew() {
    let subnets = "{peerCompleteVnets: false, localSubnetNames: [s], remoteSubnetNames: [s]}";
    let mut lab = Azure::default();
    lab.ok(&pair_text());
    let refused = lab.apply(&pair(subnets, subnets)).unwrap_err();
    assert_eq!(refused, ["peering-type-fixed", "peering-type-fixed"]);
    let effects = lab.state.step(Event::Apply(Arc::new(topology(&pair(subnets, subnets)))), Nanos::ZERO);
    assert!(
        effects.contains(&Effect::PeeringRecreated { local: "a".into(), remote: "b".into() }),
        "{effects:?}"
    );
}

#[test]
fn a_pair_is_told_of_once() {
    let mut state = State::default();
    state.step(Event::Apply(Arc::new(topology(&pair_text()))), Nanos::ZERO);
    let more = pair_text().replace("[10.0.0.0/16]", "[10.0.0.0/16, 10.7.0.0/16]");
    let effects = state.step(Event::Apply(Arc::new(topology(&more))), Nanos::ZERO);
    let synced = effects.iter().filter(|effect| matches!(effect, Effect::PeeringSynced { .. })).count();
    assert_eq!(synced, 1, "{effects:?}");
}

#[test]
fn overlaps_with_what_is_peered_at_present_are_refused() {
    let text = |a: &str| {
        format!(
            "
name: overlap
virtualNetworks:
  a: {{addressSpace: [10.0.0.0/16], peerings: {a}}}
  b: {{addressSpace: [10.1.0.0/16], peerings: {{a: {{}}}}}}
  c: {{addressSpace: [10.1.128.0/17], peerings: {{a: {{}}}}}}
"
        )
    };
    let mut lab = Azure::default();
    lab.ok(&text("{b: {}}"));
    // The file is in order, since it takes the half towards b away; Azure would have to do that first.
    assert_eq!(
        lab.apply(&text("{c: {}}")),
        Err(vec!["VnetAddressSpaceOverlapsWithAlreadyPeeredVnet".to_owned()])
    );

    // A range moves from one network to its peer.
    let moved = |a: &str, b: &str| pair_text().replace("[10.0.0.0/16]", a).replace("[10.1.0.0/16]", b);
    let mut lab = Azure::default();
    lab.ok(&moved("[10.0.0.0/16, 10.7.0.0/16]", "[10.1.0.0/16]"));
    let refused = lab.apply(&moved("[10.0.0.0/16]", "[10.1.0.0/16, 10.7.0.0/16]"));
    assert_eq!(refused, Err(vec!["VnetAddressSpacesOverlap".to_owned()]));
    lab.ok(&moved("[10.0.0.0/16]", "[10.1.0.0/16]"));
    lab.ok(&moved("[10.0.0.0/16]", "[10.1.0.0/16, 10.7.0.0/16]"));
}

/// Two hubs and a spoke; the arguments are the spoke's halves towards them, and the gateways that there are.
fn transit(to_h1: &str, to_h2: &str, gateways: &[&str], hub_flags: &str) -> String {
    let gateway = |name: &&str| {
        let digit = name.bytes().last().unwrap_or_default();
        format!(
            "\n  gw-{name}: {{virtualNetwork: {name}, gatewayType: Vpn, sku: VpnGw1AZ, publicIPAddresses: [198.51.100.{digit}]}}"
        )
    };
    let gateways: String = gateways.iter().map(gateway).collect();
    let none = if gateways.is_empty() { "{}" } else { "" };
    format!(
        "
name: transit
virtualNetworks:
  h1: {{addressSpace: [10.0.0.0/16], subnets: {{GatewaySubnet: 10.0.255.0/27}}, peerings: {{s: {hub_flags}}}}}
  h2: {{addressSpace: [10.1.0.0/16], subnets: {{GatewaySubnet: 10.1.255.0/27}}, peerings: {{s: {hub_flags}}}}}
  s: {{addressSpace: [10.2.0.0/16], subnets: {{GatewaySubnet: 10.2.255.0/27}}, peerings: {{h1: {to_h1}, h2: {to_h2}}}}}
virtualNetworkGateways: {none}{gateways}
"
    )
}

#[test]
fn transit_is_refused_as_in_the_worked_example() {
    const USES: &str = "{useRemoteGateways: true}";
    const OFFERS: &str = "{allowGatewayTransit: true}";
    let mut lab = Azure::default();
    let using_h1 = transit(USES, "{}", &["h1", "h2"], OFFERS);
    lab.ok(&using_h1);
    // S uses H1 and turns to H2: the file is in order, the step between is missing.
    let turned = transit("{}", USES, &["h1", "h2"], OFFERS);
    assert_eq!(lab.apply(&turned), Err(vec!["remote-gateways-twice".to_owned()]));
    // H1's gateway goes while S uses it.
    let gone = transit("{}", "{}", &["h2"], OFFERS);
    assert_eq!(lab.apply(&gone), Err(vec!["gateway-in-use".to_owned()]));
    // S gets a gateway of its own.
    let own = transit("{}", "{}", &["h1", "h2", "s"], OFFERS);
    assert_eq!(lab.apply(&own), Err(vec!["gateway-beside-remote".to_owned()]));
    // The hubs take their offer back.
    let withdrawn = transit("{}", "{}", &["h1", "h2"], "{}");
    assert_eq!(lab.apply(&withdrawn), Err(vec!["transit-in-use".to_owned()]));
    // With the step between, each is taken.
    for next in [&gone, &own, &withdrawn, &turned] {
        lab.ok(&transit("{}", "{}", &["h1", "h2"], OFFERS));
        lab.ok(next);
        lab.ok(&transit("{}", "{}", &["h1", "h2"], OFFERS));
        lab.ok(&using_h1);
    }
    // S has a gateway, loses it, and uses H1's at once.
    let mut lab = Azure::default();
    lab.ok(&own);
    assert_eq!(lab.apply(&using_h1), Err(vec!["remote-gateways-beside-own".to_owned()]));
    lab.ok(&transit("{}", "{}", &["h1", "h2"], OFFERS));
    lab.ok(&using_h1);
    // An apply that does more than Azure takes each of them in one step.
    for next in [&turned, &gone, &own, &withdrawn] {
        lab.state.step(Event::Apply(Arc::new(topology(next))), Nanos::ZERO);
        assert_eq!(lab.state.refusals(&topology(next)).len(), 0);
    }
}

#[test]
fn what_is_deployed_holds_its_subnet_region_and_subscription() {
    let text = |range: &str, location: &str, subscription: &str| {
        format!(
            "
name: held
virtualNetworks:
  a: {{addressSpace: [10.0.0.0/16], location: {location}, subscription: {subscription}, subnets: {{s: {range}}}, peerings: {{b: {{}}}}}}
  b: {{addressSpace: [10.1.0.0/16], peerings: {{a: {{}}}}}}
virtualMachines: {{m: {{subnet: a/s}}}}
"
        )
    };
    let mut lab = Azure::default();
    lab.ok(&text("10.0.0.0/24", "eastus", "s1"));
    let refused = |code: &str| Err(vec![code.to_owned()]);
    assert_eq!(lab.apply(&text("10.0.0.0/25", "eastus", "s1")), refused("InUseSubnetCannotBeUpdated"));
    assert_eq!(lab.apply(&text("10.0.0.0/24", "westus", "s1")), refused("InvalidResourceLocation"));
    assert_eq!(lab.apply(&text("10.0.0.0/24", "eastus", "s2")), refused("network-move-peered"));
    lab.ok(&text("{addressPrefixes: [10.0.0.0/24, 10.0.9.0/24]}", "eastus", "s1"));
    // Each names a rule that the list has.
    let known: Vec<&str> = AzureRule::ALL.iter().map(|rule| rule.id()).collect();
    let after = topology(&text("10.0.0.0/25", "westus", "s2"));
    let source = vnet_config::load(&text("10.0.0.0/25", "westus", "s2"), "test.yaml", None).unwrap().source;
    let found = source.findings(lab.state.refusals(&after)).list;
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(
        found.iter().all(|one| known.contains(&one.azure_rule.as_deref().unwrap_or_default())),
        "{found:?}"
    );
}

#[test]
fn a_network_that_goes_leaves_its_peer_disconnected() {
    let without = |text: &str| {
        let lines = text.lines().filter(|line| !line.starts_with("  b: ") && !line.starts_with("  b1: "));
        lines.map(|line| format!("{line}\n")).collect::<String>()
    };
    let gone = without(&pair_text());
    assert!(vnet_config::load(&gone, "test.yaml", None).is_err(), "a file of its own names no such network");
    let mut lab = Azure::default();
    lab.ok(&pair_text());
    assert!(lab.pings());
    let effects = lab.ok(&gone);
    assert!(effects.contains(&Effect::PeeringDisconnected { local: "a".into(), remote: "b".into() }));
    assert_eq!(lab.halves(), [half("a/b", Disconnected, FullyInSync)]);
    assert!(!routes(&lab.snapshot(), "a/s").iter().any(|row| row.contains("VNetPeering")));
    // Nobody can write a peering towards what is not there.
    let rewritten = gone.replace("{b: {}}", "{b: {allowForwardedTraffic: true}}");
    assert_eq!(lab.apply(&rewritten), Err(vec!["InvalidResourceReference".to_owned()]));
    let other = gone.replace("{b: {}}", "{b: {}, c: {}}");
    assert_eq!(lab.apply(&other), Err(vec!["InvalidResourceReference".to_owned()]));
    // A network of that name that comes back finds the half as it was.
    assert_eq!(lab.apply(&pair_text()), Err(vec!["RemotePeeringIsDisconnected".to_owned()]));
    lab.ok(&alone_a());
    assert_eq!(lab.halves(), [half("a/b", Disconnected, FullyInSync)]);
    lab.ok(&none());
    lab.ok(&pair_text());
    assert!(lab.pings());
}
