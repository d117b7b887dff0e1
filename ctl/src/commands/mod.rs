//! One module per verb.

pub(crate) mod apply;
pub(crate) mod compare;
pub(crate) mod completions;
pub(crate) mod doctor;
pub(crate) mod down;
pub(crate) mod drops;
pub(crate) mod effective_nsg;
pub(crate) mod effective_routes;
pub(crate) mod exec;
pub(crate) mod flows;
pub(crate) mod gateway;
pub(crate) mod ip_flow_verify;
pub(crate) mod labs;
pub(crate) mod logs;
pub(crate) mod matrix;
pub(crate) mod next_hop;
pub(crate) mod nsg_diagnostics;
pub(crate) mod path;
pub(crate) mod peering;
pub(crate) mod ping;
pub(crate) mod schema;
pub(crate) mod search;
pub(crate) mod show;
pub(crate) mod test;
pub(crate) mod traffic;
pub(crate) mod validate;
