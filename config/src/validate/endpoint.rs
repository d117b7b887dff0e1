//! Private endpoints: where they are, and their addresses.

use super::{
    Check,
    machine::{Seats, address},
};

pub(super) fn check<'t>(check: &mut Check<'t, '_>, seats: &mut Seats<'t>) {
    for (name, endpoint) in &check.topology.private_endpoints {
        let path = format!("privateEndpoints.{name}");
        let Some(subnet) = super::machine::subnet_of(check, &path, &endpoint.subnet, "private endpoint")
        else {
            continue;
        };
        if let Some(own) = endpoint.private_ip_address {
            let at = format!("{path}.privateIPAddress");
            address(check, &at, &path, own, (&endpoint.subnet, subnet), seats);
        }
        seats.sit(&endpoint.subnet, path);
    }
}
