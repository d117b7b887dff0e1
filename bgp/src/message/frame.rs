//! Messages out of a TCP byte stream (RFC 4271 sections 4.1 and 6.1).

use super::{HEADER_BYTES, MAX_BYTES, Notification};

/// Type of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// RFC 4271 section 4.2.
    Open = 1,
    /// RFC 4271 section 4.3.
    Update = 2,
    /// RFC 4271 section 4.5.
    Notification = 3,
    /// RFC 4271 section 4.4.
    Keepalive = 4,
    /// RFC 2918.
    RouteRefresh = 5,
}

impl Kind {
    fn from_wire(code: u8) -> Option<Kind> {
        [Kind::Open, Kind::Update, Kind::Notification, Kind::Keepalive, Kind::RouteRefresh]
            .into_iter()
            .find(|kind| *kind as u8 == code)
    }

    /// Lengths in bytes that a message of this type can have, header included.
    fn lengths(self) -> std::ops::RangeInclusive<usize> {
        match self {
            Kind::Open => 29..=MAX_BYTES,
            Kind::Update => 23..=MAX_BYTES,
            Kind::Notification => 21..=MAX_BYTES,
            Kind::Keepalive => HEADER_BYTES..=HEADER_BYTES,
            Kind::RouteRefresh => 23..=MAX_BYTES,
        }
    }
}

/// A message whose header is sound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Its type.
    pub kind: Kind,
    /// What follows the header.
    pub body: Vec<u8>,
}

/// Cuts a byte stream into messages, whatever pieces it comes in.
#[derive(Debug, Default)]
pub struct Framer {
    buffer: Vec<u8>,
    read: usize,
}

impl Framer {
    /// Adds what was received.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.read);
        self.read = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message, none if more bytes are needed.
    ///
    /// # Errors
    /// The NOTIFICATION that ends the session; the stream is lost then.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, Notification> {
        let rest = &self.buffer[self.read..];
        let Some(header) = rest.get(..HEADER_BYTES) else { return Ok(None) };
        if header[..16] != [0xff; 16] {
            return Err(Notification::new(1, 1, &[]));
        }
        let length = usize::from(u16::from_be_bytes([header[16], header[17]]));
        let bad_length = Notification::new(1, 2, &header[16..18]);
        if !(HEADER_BYTES..=MAX_BYTES).contains(&length) {
            return Err(bad_length);
        }
        let kind = Kind::from_wire(header[18]).ok_or_else(|| Notification::new(1, 3, &header[18..19]))?;
        if !kind.lengths().contains(&length) {
            return Err(bad_length);
        }
        let Some(message) = rest.get(..length) else { return Ok(None) };
        let body = message[HEADER_BYTES..].to_vec();
        self.read += length;
        Ok(Some(Frame { kind, body }))
    }
}
