//! Routes: what a peer has announced, what was chosen, and what a peer has been told (RFC 4271 sections 3.2 and 9).

mod decision;
mod inbound;
mod outbound;

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

pub use decision::LocRib;
pub use inbound::{AdjRibIn, LimitExceeded, PrefixLimits};
pub use outbound::{AdjRibOut, Diff};

use crate::types::Attributes;

/// One way to a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    /// The peer that it came from; none for a route of the speaker itself.
    pub peer: Option<IpAddr>,
    /// Whether that peer is of the speaker's own AS.
    pub internal: bool,
    /// Its attributes, as they were received.
    pub attributes: Arc<Attributes>,
}

/// How a route is to be advertised.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Export {
    /// How many times the speaker's own AS number goes before the path beyond the once that it always does.
    pub prepend: u8,
}

/// What the caller accepts and advertises. The speaker itself sees to loops, split horizon and well-known communities.
pub trait Policy {
    /// Whether a route that `peer` has announced may be used.
    fn import(&self, peer: IpAddr, prefix: &IpNet, attributes: &Attributes) -> bool;

    /// Whether and how the chosen path to `prefix` is advertised to `peer`.
    fn export(&self, peer: IpAddr, prefix: &IpNet, path: &Path) -> Option<Export>;
}

/// Takes everything and tells everything.
#[derive(Debug, Clone, Copy, Default)]
pub struct AcceptAll;

impl Policy for AcceptAll {
    fn import(&self, _: IpAddr, _: &IpNet, _: &Attributes) -> bool {
        true
    }

    fn export(&self, _: IpAddr, _: &IpNet, _: &Path) -> Option<Export> {
        Some(Export::default())
    }
}
