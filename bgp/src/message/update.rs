//! UPDATE: reading with the error handling of RFC 7606, writing in messages of at most 4,096 bytes.

mod decode;
mod encode;

use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use decode::decode;
pub use encode::{encode, end_of_rib, withdraw};

use crate::types::{Attributes, Family};

/// What both sides have agreed on that changes how an UPDATE is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coding {
    /// AS numbers of four octets in AS_PATH (RFC 6793).
    pub four_octet: bool,
    /// Families that both have offered (RFC 4760).
    pub families: Vec<Family>,
    /// The peer's AS number where it is another one: it stands first in the paths that it tells (RFC 4271 section 6.3). None
    /// where both are of one AS, inside which LOCAL_PREF travels.
    pub neighbour: Option<u32>,
}

/// Routes of one family with equal attributes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    /// Their attributes.
    pub attributes: Arc<Attributes>,
    /// Their prefixes, host bits zero.
    pub prefixes: Vec<IpNet>,
}

/// A broken attribute that did not end the session (RFC 7606 section 2).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Fault {
    /// The attribute with this type code was left out.
    Discarded(u8),
    /// The routes of the message were taken for withdrawn because of the attribute with this type code.
    TreatedAsWithdraw(u8),
}

/// What an UPDATE says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Update {
    /// Routes that are gone, and those that RFC 7606 takes for gone.
    pub withdrawn: Vec<IpNet>,
    /// Routes that are there, at most one entry for each family.
    pub announced: Vec<Announcement>,
    /// The family whose first table is complete (RFC 4724 section 2).
    pub end_of_rib: Option<Family>,
    /// What was wrong with it.
    pub faults: Vec<Fault>,
}
