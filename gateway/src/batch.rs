//! Sealed segments side by side in one buffer, as one UDP_SEGMENT send takes them.

use std::net::SocketAddr;

use vnet_dataplane::TunnelId;

/// Segments of one UDP_SEGMENT send (UDP_MAX_SEGMENTS of Linux before 6.9).
pub const SEGMENTS_MAX: usize = 64;

/// Bytes of one send: the largest UDP payload over IPv4. Over IPv6 it is 20 bytes more, which is left unused.
pub const DATA_LEN_MAX: usize = 65_507;

/// Datagrams to one address, ready to be sent at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DatagramBatch<'a> {
    /// Where all of them go.
    pub to: SocketAddr,
    /// Length of each datagram but the last, which may be shorter.
    pub segment_size: usize,
    /// The datagrams, one after the other.
    pub data: &'a [u8],
}

/// A buffer that fills with the sealed packets of one tunnel: equally long ones, then at most one shorter.
/// Allocated once and used again.
pub struct SealBatch {
    buffer: Box<[u8]>,
    len: usize,
    segment_size: usize,
    segments: usize,
    closed: bool,
    target: Option<(TunnelId, SocketAddr)>,
}

impl Default for SealBatch {
    fn default() -> SealBatch {
        SealBatch::new()
    }
}

impl SealBatch {
    /// An empty batch with room for the largest send.
    pub fn new() -> SealBatch {
        SealBatch {
            // A tunnel may want a handshake's room where a small segment is left.
            buffer: vec![0; DATA_LEN_MAX + crate::BUFFER_MIN].into_boxed_slice(),
            len: 0,
            segment_size: 0,
            segments: 0,
            closed: false,
            target: None,
        }
    }

    /// Nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.segments == 0
    }

    /// Datagrams in it.
    pub fn segments(&self) -> usize {
        self.segments
    }

    /// What is to be sent; `None` if nothing is.
    pub fn datagrams(&self) -> Option<DatagramBatch<'_>> {
        let (_, to) = self.target?;
        Some(DatagramBatch { to, segment_size: self.segment_size, data: &self.buffer[..self.len] })
    }

    /// Empties it for the next ones.
    pub fn clear(&mut self) {
        self.len = 0;
        self.segments = 0;
        self.closed = false;
        self.target = None;
    }

    /// The room for one more sealed segment of `sealed_len` bytes, or `None` if it can't join those that are here.
    pub(crate) fn slot(&mut self, tunnel: TunnelId, to: SocketAddr, sealed_len: usize) -> Option<&mut [u8]> {
        let fits = match self.target {
            None => sealed_len <= DATA_LEN_MAX,
            Some(target) => {
                target == (tunnel, to)
                    && !self.closed
                    && sealed_len <= self.segment_size
                    && self.segments < SEGMENTS_MAX
                    && self.len + sealed_len <= DATA_LEN_MAX
            }
        };
        fits.then(|| &mut self.buffer[self.len..])
    }

    /// Takes `sealed_len` bytes of the last [`Self::slot`] in.
    pub(crate) fn commit(&mut self, tunnel: TunnelId, to: SocketAddr, sealed_len: usize) {
        if self.target.is_none() {
            self.target = Some((tunnel, to));
            self.segment_size = sealed_len;
        }
        self.closed = sealed_len < self.segment_size;
        self.len += sealed_len;
        self.segments += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TUNNEL: TunnelId = TunnelId(1);

    fn to() -> SocketAddr {
        "192.0.2.1:51820".parse().unwrap()
    }

    fn push(batch: &mut SealBatch, len: usize) -> bool {
        if batch.slot(TUNNEL, to(), len).is_none() {
            return false;
        }
        batch.commit(TUNNEL, to(), len);
        true
    }

    #[test]
    fn equal_segments_then_one_shorter() {
        let mut batch = SealBatch::new();
        assert!(batch.is_empty() && batch.datagrams().is_none());
        assert!(push(&mut batch, 1000) && push(&mut batch, 1000));
        assert!(!push(&mut batch, 1001), "a longer one must start the next batch");
        assert!(push(&mut batch, 400));
        assert!(!push(&mut batch, 400), "only the last one may be shorter");
        let sent = batch.datagrams().unwrap();
        assert_eq!((sent.to, sent.segment_size, sent.data.len()), (to(), 1000, 2400));
        batch.clear();
        assert!(push(&mut batch, 1001));
    }

    #[test]
    fn one_batch_is_for_one_address() {
        let mut batch = SealBatch::new();
        assert!(push(&mut batch, 100));
        assert!(batch.slot(TUNNEL, "192.0.2.2:51820".parse().unwrap(), 100).is_none());
        assert!(batch.slot(TunnelId(2), to(), 100).is_none());
    }

    #[test]
    fn never_more_than_one_send_takes() {
        let mut batch = SealBatch::new();
        while push(&mut batch, 64) {}
        assert_eq!(batch.segments(), SEGMENTS_MAX);
        batch.clear();
        while push(&mut batch, 1432) {}
        assert_eq!(batch.segments(), DATA_LEN_MAX / 1432);
        batch.clear();
        assert!(!push(&mut batch, DATA_LEN_MAX + 1));
    }
}
