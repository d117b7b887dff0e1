//! What the outside of a WireGuard message tells without any secret (WireGuard whitepaper, section 5.4).

use blake2::digest::{FixedOutput, KeyInit, Update};
use blake2::{Blake2s256, Blake2sMac, Digest};

use crate::keys::PublicKey;

const INITIATION_LEN: usize = 148;
const RESPONSE_LEN: usize = 92;
const COOKIE_REPLY_LEN: usize = 64;
const DATA_LEN_MIN: usize = 32;

/// REJECT_AFTER_MESSAGES (whitepaper, section 6.1): a counter from here on must never be accepted.
const COUNTER_END: u64 = u64::MAX - (1 << 13);

/// A message's kind, with the index by which it names its receiver's session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// Opens a handshake; its sender is known by nothing but its keys.
    Initiation,
    /// Answers an initiation.
    Response {
        /// The initiator's own session index.
        receiver: u32,
    },
    /// Asks an initiator or responder to prove its address.
    CookieReply {
        /// The session index of the one who is asked.
        receiver: u32,
    },
    /// A sealed packet or keepalive.
    Data {
        /// The receiver's own session index.
        receiver: u32,
    },
}

impl Message {
    /// Reads the kind, reserved bytes, length and counter range. `None` for what no WireGuard peer sends.
    pub fn parse(datagram: &[u8]) -> Option<Message> {
        let kind = read_u32(datagram, 0)?;
        match (kind, datagram.len()) {
            (1, INITIATION_LEN) => Some(Message::Initiation),
            (2, RESPONSE_LEN) => Some(Message::Response { receiver: read_u32(datagram, 8)? }),
            (3, COOKIE_REPLY_LEN) => Some(Message::CookieReply { receiver: read_u32(datagram, 4)? }),
            (4, DATA_LEN_MIN..) => {
                let counter = u64::from_le_bytes(datagram[8..16].try_into().ok()?);
                (counter < COUNTER_END).then_some(Message::Data { receiver: read_u32(datagram, 4)? })
            }
            _ => None,
        }
    }
}

/// The sender's session index in a handshake message.
pub(crate) fn sender_index(handshake: &[u8]) -> Option<u32> {
    read_u32(handshake, 4)
}

fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// The key of the first MAC of handshake messages to the owner of one public key. It proves nothing but that
/// the sender knows that key, and so tells for whom an initiation is meant at the cost of one hash.
#[derive(Clone)]
pub struct Mac1Key([u8; 32]);

impl Mac1Key {
    /// The key for messages to the owner of `public_key`.
    pub fn new(public_key: &PublicKey) -> Mac1Key {
        Mac1Key(
            Blake2s256::new().chain_update(b"mac1----").chain_update(public_key.as_bytes()).finalize().into(),
        )
    }

    /// Whether a handshake message is meant for that owner.
    pub fn matches(&self, handshake: &[u8]) -> bool {
        let Some(signed_len) = handshake.len().checked_sub(32) else { return false };
        let Ok(mut mac) = <Blake2sMac<blake2::digest::consts::U16> as KeyInit>::new_from_slice(&self.0)
        else {
            return false;
        };
        Update::update(&mut mac, &handshake[..signed_len]);
        // The key is public: comparing in variable time gives nothing away.
        mac.finalize_fixed().as_slice() == &handshake[signed_len..signed_len + 16]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u32, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        bytes[..4].copy_from_slice(&kind.to_le_bytes());
        bytes[4..8].copy_from_slice(&0x0102_0304_u32.to_le_bytes());
        if len > 12 {
            bytes[8..12].copy_from_slice(&0x0506_0708_u32.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn kinds_have_their_length_and_index() {
        assert_eq!(Message::parse(&message(1, 148)), Some(Message::Initiation));
        assert_eq!(Message::parse(&message(2, 92)), Some(Message::Response { receiver: 0x0506_0708 }));
        assert_eq!(Message::parse(&message(3, 64)), Some(Message::CookieReply { receiver: 0x0102_0304 }));
        assert_eq!(Message::parse(&message(4, 32)), Some(Message::Data { receiver: 0x0102_0304 }));
        for (kind, len) in
            [(1, 147), (1, 149), (2, 91), (3, 65), (4, 31), (0, 148), (5, 64), (0x0100_0001, 148)]
        {
            assert_eq!(Message::parse(&message(kind, len)), None, "kind {kind} of {len} bytes");
        }
        assert_eq!(Message::parse(&[]), None);
    }

    #[test]
    fn a_counter_past_the_last_message_is_refused() {
        let mut data = message(4, 64);
        data[8..16].copy_from_slice(&(COUNTER_END - 1).to_le_bytes());
        assert!(Message::parse(&data).is_some());
        data[8..16].copy_from_slice(&COUNTER_END.to_le_bytes());
        assert_eq!(Message::parse(&data), None);
    }
}
