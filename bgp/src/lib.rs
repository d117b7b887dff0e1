//! A BGP-4 speaker (RFC 4271) as a pure state machine: bytes and times in, bytes and routes out.
//!
//! [`message`] turns bytes into messages and back, [`session`] is one peer's finite state machine, [`rib`] holds what
//! was learned, chosen and advertised, and [`speaker`] puts them together. A peer of the speaker's own AS number is an
//! internal one; there is no route reflection. What Azure advertises and refuses is the caller's [`rib::Policy`].
#![forbid(unsafe_code)]

pub mod message;
pub mod rib;
pub mod session;
pub mod speaker;
pub mod types;

pub use message::Notification;
pub use rib::{Export, Policy, PrefixLimits};
pub use session::{ConnectionId, DownReason, Input, Output, Session, SessionConfig, SessionState};
pub use speaker::{Action, PeerConfig, PeerError, PeerStatus, RouteRow, Speaker, SpeakerConfig};
pub use types::{Aggregator, AsPath, Attributes, Family, Origin, Segment};

/// TCP port of BGP (RFC 4271 section 8.2.1).
pub const PORT: u16 = 179;

/// Prefixes of one family that a peer of an Azure gateway may announce; one more ends the session.
pub const PREFIX_LIMIT: usize = 4_000;
