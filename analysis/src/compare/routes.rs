//! Effective routes.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use vnet_fabric::effective::EffectiveRoutes;

use super::{Comparison, ReadError, azure};

const COMMAND: &str = "az network nic show-effective-route-table -o json";

/// A route in one spelling. Rows that differ in nothing but the next hop are one row with several.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Row {
    source: String,
    state: String,
    next_hop_type: String,
    next_hops: BTreeSet<String>,
}

type Table = BTreeMap<String, Vec<Row>>;

/// Compares the answer of `az network nic show-effective-route-table` with this program's. The order of rows does not
/// matter, nor whether equal-cost next hops stand in one row or in several.
///
/// # Errors
/// The text is not what that command prints.
pub fn compare_routes(azure: &str, here: &EffectiveRoutes) -> Result<Comparison, ReadError> {
    let mut azure = read(azure)?;
    let mut own = Table::new();
    for route in &here.value {
        for prefix in &route.address_prefix {
            let row = Row {
                source: source(&route.source),
                state: state(&route.state),
                next_hop_type: next_hop_type(&route.next_hop_type),
                next_hops: route.next_hop_ip_address.iter().map(|address| normal_address(address)).collect(),
            };
            add(&mut own, normal_prefix(prefix), row);
        }
    }
    let mut comparison = Comparison::default();
    let prefixes: BTreeSet<String> = azure.keys().chain(own.keys()).cloned().collect();
    for prefix in prefixes {
        let left = azure.remove(&prefix).unwrap_or_default();
        let right = own.remove(&prefix).unwrap_or_default();
        compare_prefix(&mut comparison, &prefix, left, right);
    }
    Ok(comparison)
}

fn read(text: &str) -> Result<Table, ReadError> {
    let mut table = Table::new();
    for row in azure::rows(text, COMMAND)? {
        let prefixes = azure::texts(&row, "addressPrefix", "addressPrefixes");
        if prefixes.is_empty() || row.get("nextHopType").is_none() {
            let what = "a row without addressPrefix or nextHopType".to_owned();
            return Err(ReadError::Shape { command: COMMAND, what });
        }
        let next_hops = azure::texts(&row, "nextHopIpAddress", "nextHopIpAddresses");
        for prefix in prefixes {
            let row = Row {
                source: source(&azure::text(&row, "source")),
                state: state(&azure::text(&row, "state")),
                next_hop_type: next_hop_type(&azure::text(&row, "nextHopType")),
                next_hops: next_hops.iter().map(|address| normal_address(address)).collect(),
            };
            add(&mut table, normal_prefix(&prefix), row);
        }
    }
    Ok(table)
}

fn add(table: &mut Table, prefix: String, row: Row) {
    let rows = table.entry(prefix).or_default();
    let twin = rows.iter_mut().find(|other| {
        (&other.source, &other.state, &other.next_hop_type) == (&row.source, &row.state, &row.next_hop_type)
    });
    match twin {
        Some(twin) => twin.next_hops.extend(row.next_hops),
        None => rows.push(row),
    }
}

fn compare_prefix(comparison: &mut Comparison, prefix: &str, mut azure: Vec<Row>, mut here: Vec<Row>) {
    let mut pair_by = |same: &dyn Fn(&Row, &Row) -> bool| {
        let mut left = Vec::new();
        for row in azure.drain(..) {
            match here.iter().position(|other| same(&row, other)) {
                Some(index) => comparison.both(prefix, properties(&row, &here.remove(index))),
                None => left.push(row),
            }
        }
        azure = left;
    };
    // What is equal first, so that a row is not held against another one's twin.
    pair_by(&|a, b| a == b);
    pair_by(&|a, b| a.source == b.source && a.next_hop_type == b.next_hop_type);
    pair_by(&|a, b| a.source == b.source || a.next_hop_type == b.next_hop_type);
    azure.iter().for_each(|row| comparison.missing(prefix, shown(row)));
    here.iter().for_each(|row| comparison.unexpected(prefix, shown(row)));
}

fn properties(azure: &Row, here: &Row) -> Vec<(&'static str, String, String)> {
    vec![
        ("source", azure.source.clone(), here.source.clone()),
        ("state", azure.state.clone(), here.state.clone()),
        ("nextHopType", azure.next_hop_type.clone(), here.next_hop_type.clone()),
        ("nextHopIpAddress", hops(azure), hops(here)),
    ]
}

fn hops(row: &Row) -> String {
    row.next_hops.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

fn shown(row: &Row) -> String {
    let mut words = vec![row.source.clone(), row.state.clone(), row.next_hop_type.clone()];
    words.extend(row.next_hops.iter().cloned());
    words.join(" ")
}

/// The prefix without host bits; a tag, or what is no prefix, as it stands.
fn normal_prefix(text: &str) -> String {
    match text.trim().parse::<IpNet>() {
        Ok(net) => net.trunc().to_string(),
        Err(_) => text.trim().to_owned(),
    }
}

fn normal_address(text: &str) -> String {
    text.trim().parse::<std::net::IpAddr>().map_or_else(|_| text.trim().to_owned(), |ip| ip.to_string())
}

/// One spelling of those that command line, portal and PowerShell have for the same.
fn spelled(text: &str, known: &[(&str, &[&str])]) -> String {
    let plain: String =
        text.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect();
    let found = known.iter().find(|(name, others)| {
        name.eq_ignore_ascii_case(&plain) || others.iter().any(|other| *other == plain)
    });
    found.map_or_else(|| text.trim().to_owned(), |(name, _)| (*name).to_owned())
}

fn source(text: &str) -> String {
    spelled(text, &[("Default", &[]), ("User", &[]), ("VirtualNetworkGateway", &["gateway", "vpngateway"])])
}

fn state(text: &str) -> String {
    spelled(text, &[("Active", &[]), ("Invalid", &["inactive"])])
}

fn next_hop_type(text: &str) -> String {
    spelled(
        text,
        &[
            ("VnetLocal", &["virtualnetwork"]),
            ("VNetPeering", &["virtualnetworkpeering"]),
            ("VNetGlobalPeering", &["globalvnetpeering", "vnetglobalpeering", "virtualnetworkglobalpeering"]),
            ("VirtualNetworkGateway", &[]),
            ("VirtualNetworkServiceEndpoint", &[]),
            ("VirtualAppliance", &[]),
            ("VirtualApplianceEcmp", &[]),
            ("InterfaceEndpoint", &[]),
            ("ConnectedGroup", &[]),
            ("Internet", &[]),
            ("None", &[]),
        ],
    )
}

#[cfg(test)]
mod tests {
    use vnet_fabric::effective::EffectiveRoute;

    use super::super::DifferenceKind;
    use super::*;

    fn route(prefix: &str, source: &str, state: &str, kind: &str, hops: &[&str]) -> EffectiveRoute {
        EffectiveRoute {
            address_prefix: vec![prefix.to_owned()],
            disable_bgp_route_propagation: false,
            name: None,
            next_hop_ip_address: hops.iter().map(|hop| (*hop).to_owned()).collect(),
            next_hop_type: kind.to_owned(),
            source: source.to_owned(),
            state: state.to_owned(),
        }
    }

    fn here(value: Vec<EffectiveRoute>) -> EffectiveRoutes {
        EffectiveRoutes { value }
    }

    #[test]
    fn order_spelling_and_shape_do_not_matter() {
        let own = here(vec![
            route("10.0.0.0/16", "Default", "Active", "VnetLocal", &[]),
            route("10.9.0.0/16", "User", "Active", "VirtualAppliance", &["10.0.9.4"]),
        ]);
        let listed = r#"{"value": [
            {"addressPrefix": ["10.9.0.5/16"], "nextHopIpAddress": ["10.0.9.4"], "nextHopType": "VirtualAppliance", "source": "User", "state": "Active", "name": "x"},
            {"addressPrefix": ["10.0.0.0/16"], "nextHopIpAddress": [], "nextHopType": "VnetLocal", "source": "Default", "state": "Active"}]}"#;
        let bare = r#"[
            {"addressPrefix": "10.0.0.0/16", "nextHopIpAddress": null, "nextHopType": "Virtual network", "source": "default", "state": "active"},
            {"addressPrefix": "10.9.0.0/16", "nextHopIpAddress": "10.0.9.4", "nextHopType": "Virtual appliance", "source": "User", "state": "Active"}]"#;
        for text in [listed, bare] {
            let comparison = compare_routes(text, &own).unwrap();
            assert_eq!(comparison, Comparison { equal: 2, total: 2, differences: Vec::new() });
        }
    }

    #[test]
    fn equal_cost_next_hops_are_the_same_in_one_row_or_in_several() {
        let own = here(vec![route(
            "10.9.0.0/16",
            "VirtualNetworkGateway",
            "Active",
            "VirtualNetworkGateway",
            &["10.0.0.4", "10.0.0.5"],
        )]);
        let row = |hops: &str| {
            format!(
                r#"{{"addressPrefix": ["10.9.0.0/16"], "nextHopIpAddress": {hops}, "nextHopType": "VirtualNetworkGateway", "source": "VirtualNetworkGateway", "state": "Active"}}"#
            )
        };
        let split = format!("[{}, {}]", row(r#"["10.0.0.5"]"#), row(r#"["10.0.0.4"]"#));
        let joined = format!("[{}]", row(r#"["10.0.0.5", "10.0.0.4"]"#));
        assert!(compare_routes(&split, &own).unwrap().agrees());
        assert!(compare_routes(&joined, &own).unwrap().agrees());
        let one = compare_routes(&format!("[{}]", row(r#""10.0.0.4""#)), &own).unwrap();
        assert_eq!(one.differences[0].property.as_deref(), Some("nextHopIpAddress"));
    }

    #[test]
    fn each_kind_of_difference_is_named() {
        let own = here(vec![
            route("10.0.0.0/16", "Default", "Active", "VnetLocal", &[]),
            route("10.2.0.0/16", "Default", "Active", "VNetPeering", &[]),
            route("10.3.0.0/16", "User", "Active", "None", &[]),
        ]);
        let azure = r#"[
            {"addressPrefix": "10.0.0.0/16", "nextHopIpAddress": [], "nextHopType": "VnetLocal", "source": "Default", "state": "Invalid"},
            {"addressPrefix": "10.2.0.0/16", "nextHopIpAddress": [], "nextHopType": "VNetGlobalPeering", "source": "Default", "state": "Active"},
            {"addressPrefix": "10.4.0.0/16", "nextHopIpAddress": [], "nextHopType": "None", "source": "Default", "state": "Active"}]"#;
        let comparison = compare_routes(azure, &own).unwrap();
        let found: Vec<(&str, DifferenceKind, Option<&str>)> =
            comparison.differences.iter().map(|d| (&*d.row, d.kind, d.property.as_deref())).collect();
        assert_eq!(
            found,
            [
                ("10.0.0.0/16", DifferenceKind::Changed, Some("state")),
                ("10.2.0.0/16", DifferenceKind::Changed, Some("nextHopType")),
                ("10.3.0.0/16", DifferenceKind::Unexpected, None),
                ("10.4.0.0/16", DifferenceKind::Missing, None),
            ]
        );
        assert_eq!((comparison.equal, comparison.total), (0, 4));
    }

    #[test]
    fn what_is_no_answer_of_azure_is_refused() {
        let own = here(Vec::new());
        for text in
            ["", "nothing", "3", "{}", r#"{"value": 3}"#, r#"[3]"#, r#"[{"addressPrefix": ["10.0.0.0/8"]}]"#]
        {
            assert!(compare_routes(text, &own).is_err(), "{text}");
        }
    }
}
