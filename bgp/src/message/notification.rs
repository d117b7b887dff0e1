//! NOTIFICATION: why a session ends (RFC 4271 sections 4.5 and 6, RFC 4486, RFC 9003).

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Kind, seal};
use crate::types::Family;

/// A NOTIFICATION, sent or received. Codes that nobody has defined are kept as they came.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Notification {
    /// Error code.
    pub code: u8,
    /// Error subcode, 0 if unspecific.
    pub subcode: u8,
    /// What the code says that it is.
    pub data: Vec<u8>,
}

impl Notification {
    /// Cease (RFC 4486).
    pub const CEASE: u8 = 6;

    /// One with this code, subcode and data.
    pub fn new(code: u8, subcode: u8, data: &[u8]) -> Notification {
        Notification { code, subcode, data: data.to_vec() }
    }

    /// Administrative shutdown with a message of at most 255 bytes, cut at a character (RFC 9003 section 2).
    pub fn shutdown(message: &str) -> Notification {
        let end = message.floor_char_boundary(255);
        let mut data = vec![end as u8];
        data.extend_from_slice(&message.as_bytes()[..end]);
        Notification { code: Notification::CEASE, subcode: 2, data }
    }

    /// Maximum number of prefixes reached, with the family and its limit (RFC 4486 section 4).
    pub fn prefix_limit(family: Family, limit: usize) -> Notification {
        let [high, low] = family.afi().to_be_bytes();
        let mut data = vec![high, low, 1];
        data.extend_from_slice(&u32::try_from(limit).unwrap_or(u32::MAX).to_be_bytes());
        Notification { code: Notification::CEASE, subcode: 1, data }
    }

    /// Reads the body of a message, which is at least two bytes long.
    pub fn decode(body: &[u8]) -> Notification {
        match body {
            [code, subcode, data @ ..] => Notification::new(*code, *subcode, data),
            _ => Notification::new(0, 0, body),
        }
    }

    /// The message, header included; data that does not fit is cut.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = vec![self.code, self.subcode];
        body.extend_from_slice(&self.data[..self.data.len().min(4_000)]);
        seal(Kind::Notification, &body)
    }

    /// The operator's words with an administrative shutdown or reset (RFC 9003), with replacement characters where
    /// they are not UTF-8. None if there are none.
    pub fn message(&self) -> Option<String> {
        if self.code != Notification::CEASE || !matches!(self.subcode, 2 | 4) {
            return None;
        }
        let (length, rest) = self.data.split_first()?;
        let text = rest.get(..usize::from(*length)).filter(|text| !text.is_empty())?;
        Some(String::from_utf8_lossy(text).into_owned())
    }

    fn name(&self) -> &'static str {
        match (self.code, self.subcode) {
            (1, 1) => "connection not synchronized",
            (1, 2) => "bad message length",
            (1, 3) => "bad message type",
            (1, _) => "message header error",
            (2, 1) => "unsupported version number",
            (2, 2) => "bad peer AS",
            (2, 3) => "bad BGP identifier",
            (2, 4) => "unsupported optional parameter",
            (2, 6) => "unacceptable hold time",
            (2, 7) => "unsupported capability",
            (2, _) => "OPEN message error",
            (3, 1) => "malformed attribute list",
            (3, 2) => "unrecognized well-known attribute",
            (3, 3) => "missing well-known attribute",
            (3, 4) => "attribute flags error",
            (3, 5) => "attribute length error",
            (3, 6) => "invalid ORIGIN attribute",
            (3, 8) => "invalid NEXT_HOP attribute",
            (3, 9) => "optional attribute error",
            (3, 10) => "invalid network field",
            (3, 11) => "malformed AS_PATH",
            (3, _) => "UPDATE message error",
            (4, _) => "hold timer expired",
            (5, 1) => "unexpected message in state OpenSent",
            (5, 2) => "unexpected message in state OpenConfirm",
            (5, 3) => "unexpected message in state Established",
            (5, _) => "finite state machine error",
            (6, 1) => "maximum number of prefixes reached",
            (6, 2) => "administrative shutdown",
            (6, 3) => "peer de-configured",
            (6, 4) => "administrative reset",
            (6, 5) => "connection rejected",
            (6, 6) => "other configuration change",
            (6, 7) => "connection collision resolution",
            (6, 8) => "out of resources",
            (6, 9) => "hard reset",
            (6, _) => "cease",
            (7, _) => "ROUTE-REFRESH message error",
            _ => "unknown error",
        }
    }
}

impl fmt::Display for Notification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}/{})", self.name(), self.code, self.subcode)?;
        match self.message() {
            Some(message) => write!(f, ": {message:?}"),
            None => Ok(()),
        }
    }
}
