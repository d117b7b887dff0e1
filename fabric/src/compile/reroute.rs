//! A snapshot with other routes in one route table, made from the snapshot before: all else is taken over.

use vnet_config::model::{RouteTable, Topology};

use super::Builder;
use super::routes::{UserLayer, default_route};
use super::tags::unique;
use crate::control::{Ids, State};
use crate::snapshot::Snapshot;
use crate::snapshot::network::{EffectiveGateway, Subnet};

/// What [`compile_with`](super::compile_with) makes of the second topology, where `former` is what it made of the first and
/// the two differ in the table `name` alone. None where more than the table's own routes may follow from the change: what
/// gateways and private endpoints lead to gives way to users' routes, and the tag VirtualNetwork holds their prefixes.
pub(crate) fn with_routes(
    former: &Snapshot,
    (before, after): (&Topology, &Topology),
    state: &State,
    ids: &mut Ids,
    name: &str,
    epoch: u64,
) -> Option<Snapshot> {
    let (old, new) = (before.route_tables.get(name)?, after.route_tables.get(name)?);
    let unlike = RouteTable { routes: new.routes.clone(), ..old.clone() } != *new;
    let has_table = |subnet: &&Subnet| subnet.route_table.as_deref() == Some(name);
    if unlike || !former.subnets.iter().filter(has_table).all(|subnet| is_plain(former, subnet)) {
        return None;
    }
    let mut builder = Builder::new(after, state, ids);
    if unique(builder.user_prefixes(old)) != unique(builder.user_prefixes(new)) {
        return None;
    }
    builder.snapshot = Snapshot { epoch, ..former.clone() };
    for rule in builder.user_layer(name, old).rules() {
        builder.snapshot.rules[rule] = None;
    }
    let layer = builder.user_layer(name, new);
    let replaced = layer.routes.get(&default_route(true)).is_some();
    for subnet in &mut builder.snapshot.subnets {
        if subnet.route_table.as_deref() != Some(name) {
            continue;
        }
        let routes = &mut subnet.routes;
        let reserved = routes.reserved.take().or(routes.absent.reserved.take());
        (routes.reserved, routes.absent.reserved) =
            if replaced { (None, reserved) } else { (reserved, None) };
        routes.user = Some(layer.routes.clone());
        routes.absent.user = layer.lost.clone();
    }
    Some(builder.snapshot)
}

/// Whether a subnet's routes are those of its table and Azure's own.
fn is_plain(snapshot: &Snapshot, subnet: &Subnet) -> bool {
    let routes = &subnet.routes;
    snapshot.networks[subnet.network].gateway == EffectiveGateway::None
        && routes.private_endpoints.is_none()
        && routes.absent.private_endpoints.is_none()
}

impl UserLayer {
    /// The handles of its routes, as indices.
    fn rules(&self) -> impl Iterator<Item = usize> {
        let routes = self.routes.iter().map(|(_, route)| route.rule);
        routes
            .chain(self.lost.iter().flat_map(|lost| lost.iter().map(|route| route.rule)))
            .map(|rule| rule.0 as usize)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use vnet_config::{Disk, load, load_after};
    use vnet_dataplane::Nanos;

    use super::*;
    use crate::control::Event;

    const DESIGN: &str = "\
name: reroute
virtualNetworks:
  hub:
    addressSpace: [10.0.0.0/16]
    subnets:
      AzureFirewallSubnet: 10.0.0.0/26
      GatewaySubnet: 10.0.255.0/27
      shared: {addressPrefix: 10.0.1.0/24, routeTable: at-hub}
    peerings: {left: {allowForwardedTraffic: true}, right: {allowForwardedTraffic: true}}
  left:
    addressSpace: [10.1.0.0/16]
    subnets:
      app: {addressPrefix: 10.1.0.0/24, routeTable: via-fw, networkSecurityGroup: web}
      back: {addressPrefix: 10.1.1.0/24, routeTable: via-fw}
      bare: 10.1.2.0/24
    peerings: {hub: {allowForwardedTraffic: true}}
  right:
    addressSpace: [10.2.0.0/16]
    subnets: {app: {addressPrefix: 10.2.0.0/24, routeTable: via-fw, networkSecurityGroup: web}}
    peerings: {hub: {allowForwardedTraffic: true}}
networkSecurityGroups:
  web:
    securityRules: []
azureFirewalls:
  fw: {virtualNetwork: hub, firewallPolicy: base, publicIPAddresses: [203.0.113.1]}
firewallPolicies:
  base: {ruleCollectionGroups: []}
virtualNetworkGateways:
  gw: {virtualNetwork: hub, gatewayType: Vpn, sku: VpnGw1AZ, vpnGatewayGeneration: Generation1, publicIPAddresses: [198.51.100.10]}
virtualMachines:
  a: {subnet: left/app}
  b: {subnet: right/app}
  c: {subnet: left/bare}
  d: {subnet: hub/shared}
routeTables:
  at-hub:
    routes:
      - {name: one, addressPrefix: 192.0.2.0/24, nextHopType: None}
  via-fw:
    routes:
      - {name: all, addressPrefix: 0.0.0.0/0, nextHopType: VirtualAppliance, nextHopIpAddress: 10.0.0.4}
      - {name: one, addressPrefix: 192.0.2.0/24, nextHopType: None}
  unused:
    routes:
      - {name: one, addressPrefix: 192.0.2.0/24, nextHopType: None}
";

    /// What is compiled, without what has no order.
    fn shown(snapshot: &Snapshot) -> String {
        let Snapshot { epoch, ports, owners, limiters, delays, counters, functions, .. } = snapshot;
        let Snapshot { rules, checks, networks, subnets, peerings, nics, firewalls, gateways, .. } = snapshot;
        let rules: Vec<_> =
            rules.iter().enumerate().filter_map(|(id, rule)| Some((id, rule.as_ref()?))).collect();
        let first = format!("{:#?}", (epoch, ports, owners, limiters, delays, counters, functions));
        let second = format!("{:#?}", (rules, checks, networks, subnets, peerings));
        // The tags of a file, which has none here, are all that has no order.
        format!("{first}{second}{:#?}", (nics, firewalls, gateways))
    }

    /// Whether the change was made from the snapshot before; it is what a whole compilation makes of it in any case.
    fn rerouted(from: &str, to: &str) -> bool {
        rerouted_in(DESIGN, from, to)
    }

    fn rerouted_in(design: &str, from: &str, to: &str) -> bool {
        assert_eq!(design.matches(from).count(), 1, "{from}");
        let text = design.replace(from, to);
        let accepted = load(design, "t", None).expect("the design is right");
        let former = Arc::new(accepted.topology);
        let mut state = State::default();
        state.step(Event::Apply(Arc::clone(&former)), Nanos::ZERO);
        let before = state.snapshot();

        let changed =
            load_after(&former, &accepted.source, &text, "t", &Disk::new(None)).expect("the change is right");
        let entry = changed.changed.expect("one entry differs");
        let topology = Arc::new(changed.topology);
        let mut whole = state.clone();
        whole.step(Event::Apply(Arc::clone(&topology)), Nanos::ZERO);
        let names = (&*former, &*topology);
        let mut ids = state.ids.clone();
        let quick = with_routes(&before, names, &state, &mut ids, &entry.name, whole.epoch);
        let event = Event::ApplyEntry { topology, former: Arc::clone(&former), entry };
        state.step(event, Nanos::ZERO);
        assert_eq!(shown(&state.snapshot()), shown(&whole.snapshot()), "{from} -> {to}");
        assert_eq!(state.ids, whole.ids);
        assert_eq!(state.epoch, whole.epoch);
        // Another apply goes on from there.
        let (mut on, mut whole) = (state.clone(), whole);
        for state in [&mut on, &mut whole] {
            state.step(Event::Apply(Arc::clone(&former)), Nanos::ZERO);
        }
        assert_eq!(shown(&on.snapshot()), shown(&whole.snapshot()));
        quick.is_some()
    }

    #[test]
    fn routes_of_one_table_change_by_themselves() {
        let one = "nextHopIpAddress: 10.0.0.4}\n      - {name: one, addressPrefix: 192.0.2.0/24, nextHopType: None}";
        let with = |last: &str| format!("nextHopIpAddress: 10.0.0.4}}\n      - {last}");
        let to = |last: &str| rerouted(one, &with(last));
        assert!(to("{name: one, addressPrefix: 192.0.2.0/24, nextHopType: Internet}"));
        assert!(to("{name: renamed, addressPrefix: 192.0.2.0/24, nextHopType: None}"));
        assert!(to(
            "{name: one, addressPrefix: 192.0.2.0/24, nextHopType: VirtualAppliance, nextHopIpAddress: 10.0.0.5}"
        ));
        let unused =
            "  unused:\n    routes:\n      - {name: one, addressPrefix: 192.0.2.0/24, nextHopType: None}";
        assert!(rerouted(unused, &unused.replace("None", "Internet")));
    }

    #[test]
    fn a_default_route_that_comes_or_goes_takes_the_private_ranges_along() {
        let all = "\n      - {name: all, addressPrefix: 0.0.0.0/0, nextHopType: VirtualAppliance, nextHopIpAddress: 10.0.0.4}";
        // The tag VirtualNetwork holds it, unless the file says otherwise.
        assert!(!rerouted(all, ""));
        let design = format!("{DESIGN}semantics: {{virtualNetworkTagDefaultRoute: exclude}}\n");
        assert!(rerouted_in(&design, all, ""));
        let unused = "  unused:\n    routes:\n";
        assert!(rerouted_in(
            &design,
            unused,
            &format!("{unused}      - {{name: all, addressPrefix: 0.0.0.0/0, nextHopType: None}}\n")
        ));
    }

    #[test]
    fn what_has_more_consequences_is_compiled_as_a_whole() {
        // The tag VirtualNetwork holds the prefix.
        assert!(!rerouted(
            "nextHopIpAddress: 10.0.0.4}\n",
            "nextHopIpAddress: 10.0.0.4}\n      - {name: two, addressPrefix: 198.51.100.0/24, nextHopType: None}\n"
        ));
        // The hub has a gateway, whose routes give way.
        let hub =
            "  at-hub:\n    routes:\n      - {name: one, addressPrefix: 192.0.2.0/24, nextHopType: None}";
        assert!(!rerouted(hub, &hub.replace("None", "Internet")));
        assert!(!rerouted("  via-fw:\n", "  via-fw:\n    disableBgpRoutePropagation: true\n"));
    }
}
