//! The sections, each measurable by itself.

mod connections;
mod paths;
mod timing;

use super::section::Section;

/// All of them, in the order in which they run.
pub(crate) const SECTIONS: &[&Section] = &[
    &paths::PEERING,
    &paths::FIREWALL,
    &paths::NSG,
    &connections::CONNECTIONS,
    &timing::SHAPER,
    &timing::DELAY,
    &paths::VPN,
];
