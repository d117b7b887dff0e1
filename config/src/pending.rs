//! What the model takes and nothing runs yet.

use serde_json::{Map, Value as Json, json};

/// A property that is parsed and checked, and refused nevertheless, because nothing acts on it yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    /// The definition in the schema that has the property; empty for the topology itself.
    pub holder: &'static str,
    /// The property.
    pub property: &'static str,
    /// The value that is meant, where the others run.
    pub value: Option<&'static str>,
    /// What is not supported yet, in a person's words. `None`: the name is reserved, whatever its value.
    pub what: Option<&'static str>,
}

const fn reserved(holder: &'static str, property: &'static str) -> Pending {
    Pending { holder, property, value: None, what: None }
}

const fn unsupported(holder: &'static str, property: &'static str, what: &'static str) -> Pending {
    Pending { holder, property, value: None, what: Some(what) }
}

const fn value(row: Pending, value: &'static str) -> Pending {
    Pending { value: Some(value), ..row }
}

/// The switches: whoever makes a property run takes its row out.
pub const PENDING: &[Pending] = &[
    reserved("", "expressRouteCircuits"),
    reserved("", "routeServers"),
    reserved("", "ddosProtectionPlans"),
    reserved("VirtualNetwork", "enableDdosProtection"),
    value(unsupported("VirtualNetworkGateway", "vpnType", "a policy-based gateway"), "PolicyBased"),
    unsupported("VirtualNetworkGateway", "allowRemoteVnetTraffic", "traffic of other networks on circuits"),
    reserved("VirtualNetworkGateway", "allowVirtualWanTraffic"),
    reserved("VirtualNetworkGateway", "enableBgpRouteTranslationForNat"),
    reserved("BgpSettings", "bgpPeeringAddresses"),
    value(unsupported("Connection", "connectionType", "an ExpressRoute connection"), "ExpressRoute"),
    reserved("Connection", "gatewayCustomBgpIpAddresses"),
    unsupported("OnPremisesSite", "expressRoute", "an ExpressRoute circuit"),
    reserved("VpnDevice", "bgp"),
];

/// Marks the properties of [`PENDING`] in the schema: `x-pending` is what is not supported yet, or null for a reserved name;
/// `x-pending-value` the value that is meant.
pub(crate) fn mark(schema: &mut Json) {
    for row in PENDING {
        let holder = if row.holder.is_empty() { String::new() } else { format!("/$defs/{}", row.holder) };
        let property = schema.pointer_mut(&format!("{holder}/properties/{}", row.property));
        // A test sees to it that each row names a property.
        if let Some(property) = property.and_then(Json::as_object_mut) {
            property.insert("x-pending".to_owned(), row.what.map_or(Json::Null, Json::from));
            if let Some(value) = row.value {
                property.insert("x-pending-value".to_owned(), json!(value));
            }
        }
    }
}

/// Whether the name of a property is reserved.
pub(crate) fn is_reserved(property: &Json) -> bool {
    property.get("x-pending").is_some_and(Json::is_null)
}

/// Whether the name of a section of the topology is reserved.
pub(crate) fn is_reserved_section(section: &str) -> bool {
    PENDING.iter().any(|row| row.holder.is_empty() && row.property == section && row.what.is_none())
}

/// What is not supported yet of a property that has the value `given`.
pub(crate) fn unsupported_by(property: &'static Json, given: &Json) -> Option<&'static str> {
    let what = property.get("x-pending").and_then(Json::as_str)?;
    let acts = match property.get("x-pending-value") {
        Some(value) => given == value,
        None => match given {
            Json::Null | Json::Bool(false) => false,
            Json::Array(items) => !items.is_empty(),
            _ => true,
        },
    };
    acts.then_some(what)
}

/// What the reference says of a property: that it, or one of its values, is not supported yet.
pub(crate) fn remark(property: &Map<String, Json>) -> Option<String> {
    property.get("x-pending")?;
    Some(match property.get("x-pending-value").and_then(Json::as_str) {
        Some(value) => format!("`{value}` is not supported yet."),
        None => "Not supported yet.".to_owned(),
    })
}
