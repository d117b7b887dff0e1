//! Summaries on GatewaySubnet.

use vnet_config::model::RoutePrefix;

use super::design::{Design, listed, strictly_inside};
use super::{Found, GATEWAY_SUMMARY_ROUTE};

pub(super) fn look(design: &Design<'_>, found: &mut Vec<Found>) {
    for (name, table, users) in design.tables() {
        for place in users.iter().filter(|place| place.subnet == "GatewaySubnet") {
            let rows = design.rows(*place);
            for (index, route) in table.routes.iter().enumerate() {
                let RoutePrefix::Prefix(prefix) = &route.address_prefix else { continue };
                if route.appliances().is_empty() {
                    continue;
                }
                let past: Vec<String> = rows
                    .iter()
                    .filter(|row| row.active() && row.peering() && strictly_inside(&row.prefix, prefix))
                    .map(|row| row.prefix.to_string())
                    .collect();
                if past.is_empty() {
                    continue;
                }
                found.push(Found {
                    lint: GATEWAY_SUMMARY_ROUTE,
                    path: format!("routeTables.{name}.routes[{index}]"),
                    message: format!(
                        "the summary {prefix} on {} does not send {} through the appliance: the peerings' routes are longer",
                        place.name(),
                        listed(&past)
                    ),
                    help: "write one route for each of these prefixes, exactly as the peered network has it".to_owned(),
                });
            }
        }
    }
}
