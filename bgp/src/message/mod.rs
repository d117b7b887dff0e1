//! BGP messages (RFC 4271 section 4).
//!
//! Headers, NOTIFICATION, KEEPALIVE, ROUTE-REFRESH and the frame of an UPDATE are read here; OPEN with its
//! capabilities and the values of path attributes by netgauze-bgp-pkt. An UPDATE's attributes are given to it one by
//! one, each in its own slice, so that what a broken attribute costs is decided here (RFC 7606).

pub mod frame;
pub mod notification;
pub mod open;
pub mod update;

pub use frame::{Frame, Framer, Kind};
pub use notification::Notification;
pub use open::Open;
pub use update::{Announcement, Coding, Fault, Update};

use crate::types::Family;

/// Bytes of the header: marker, length and type (RFC 4271 section 4.1).
pub const HEADER_BYTES: usize = 19;
/// Longest message in bytes; extended messages (RFC 8654) are not offered.
pub const MAX_BYTES: usize = 4_096;

/// A whole message: header and body. The body is at most 4,077 bytes long.
pub(crate) fn seal(kind: Kind, body: &[u8]) -> Vec<u8> {
    let length = HEADER_BYTES + body.len();
    debug_assert!(length <= MAX_BYTES, "a message is longer than 4096 bytes");
    let mut message = Vec::with_capacity(length);
    message.extend_from_slice(&[0xff; 16]);
    message.extend_from_slice(&(length as u16).to_be_bytes());
    message.push(kind as u8);
    message.extend_from_slice(body);
    message
}

/// A KEEPALIVE (RFC 4271 section 4.4).
pub fn keepalive() -> Vec<u8> {
    seal(Kind::Keepalive, &[])
}

/// A ROUTE-REFRESH for a family (RFC 2918 section 3).
pub fn route_refresh(family: Family) -> Vec<u8> {
    let [high, low] = family.afi().to_be_bytes();
    seal(Kind::RouteRefresh, &[high, low, 0, 1])
}

/// The family that a ROUTE-REFRESH asks for; none for one that was not offered or for the markers of RFC 7313, which
/// are ignored (RFC 2918 section 4).
pub fn refreshed(body: &[u8]) -> Option<Family> {
    match body {
        [high, low, 0, safi] => Family::from_wire(u16::from_be_bytes([*high, *low]), *safi),
        _ => None,
    }
}
