//! Buffers for packets that have to wait.

use crate::vnet_hdr::VNET_HEADER_LEN;

/// Spare octets before the vnet header, for what a tunnel puts in front.
pub const HEADROOM: usize = 54;
/// Spare octets behind the packet, for what a tunnel appends.
pub const TAILROOM: usize = 64;

const SMALL: usize = 2_048;
const LARGE: usize = HEADROOM + VNET_HEADER_LEN + 65_575 + TAILROOM;

/// One {vnet header | packet} in one allocation, with room at both ends.
#[derive(Debug)]
pub struct PacketBuf {
    bytes: Box<[u8]>,
    len: usize,
}

impl PacketBuf {
    fn with_room(room: usize) -> PacketBuf {
        PacketBuf { bytes: vec![0; room].into_boxed_slice(), len: VNET_HEADER_LEN }
    }

    /// Vnet header and packet.
    pub fn framed(&self) -> &[u8] {
        &self.bytes[HEADROOM..HEADROOM + self.len]
    }

    /// Vnet header and packet, to be edited.
    pub fn framed_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[HEADROOM..HEADROOM + self.len]
    }

    /// The packet alone.
    pub fn packet(&self) -> &[u8] {
        &self.framed()[VNET_HEADER_LEN..]
    }

    /// The packet alone, to be edited.
    pub fn packet_mut(&mut self) -> &mut [u8] {
        &mut self.framed_mut()[VNET_HEADER_LEN..]
    }

    /// Everything, the room at both ends included; the frame begins at [`HEADROOM`].
    pub fn whole_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// Longest frame that fits, in octets.
    pub fn room(&self) -> usize {
        self.bytes.len() - HEADROOM - TAILROOM
    }

    fn set_len(&mut self, framed_len: usize) {
        self.len = framed_len.clamp(VNET_HEADER_LEN, self.room());
    }
}

/// A bounded stock of buffers in two sizes: for packets of usual length, and for super-packets.
#[derive(Debug)]
pub struct BufferPool {
    small: Vec<PacketBuf>,
    large: Vec<PacketBuf>,
    kept_max: usize,
    taken: usize,
    taken_max: usize,
}

impl BufferPool {
    /// At most `taken_max` buffers are out at a time, and at most `kept_max` of each size are kept for the next
    /// packets. Nothing is allocated before it is needed, and nothing once enough is kept.
    pub fn new(taken_max: usize, kept_max: usize) -> BufferPool {
        BufferPool {
            small: Vec::with_capacity(kept_max),
            large: Vec::with_capacity(kept_max),
            kept_max,
            taken: 0,
            taken_max,
        }
    }

    /// Buffers that are out.
    pub fn taken(&self) -> usize {
        self.taken
    }

    /// A buffer with a copy of this frame ({vnet header | packet}); none where too many are out, or where the
    /// frame is longer than an IP packet can be or shorter than its vnet header.
    pub fn take(&mut self, framed: &[u8]) -> Option<PacketBuf> {
        if self.taken >= self.taken_max || framed.len() < VNET_HEADER_LEN {
            return None;
        }
        let needed = HEADROOM + framed.len() + TAILROOM;
        let (shelf, room) = if needed <= SMALL {
            (&mut self.small, SMALL)
        } else if needed <= LARGE {
            (&mut self.large, LARGE)
        } else {
            return None;
        };
        let mut buffer = shelf.pop().unwrap_or_else(|| PacketBuf::with_room(room));
        buffer.set_len(framed.len());
        buffer.framed_mut().copy_from_slice(framed);
        self.taken += 1;
        Some(buffer)
    }

    /// Gives a buffer back.
    pub fn give_back(&mut self, buffer: PacketBuf) {
        self.taken = self.taken.saturating_sub(1);
        let shelf = if buffer.bytes.len() == SMALL { &mut self.small } else { &mut self.large };
        if shelf.len() < self.kept_max {
            shelf.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_keep_their_octets() {
        let mut pool = BufferPool::new(8, 2);
        for len in [10, 11, 1_510, 1_930, 1_931, 65_585] {
            let frame: Vec<u8> = (0..len).map(|index| index as u8).collect();
            let mut buffer = pool.take(&frame).unwrap();
            assert_eq!(buffer.framed(), frame);
            assert_eq!(buffer.packet(), &frame[10..]);
            assert!(buffer.room() >= len);
            assert_eq!(&buffer.whole_mut()[HEADROOM..HEADROOM + len], frame);
            pool.give_back(buffer);
        }
        assert!(pool.take(&[0; 65_586]).is_none());
        assert!(pool.take(&[0; 9]).is_none());
    }

    #[test]
    fn bounded_and_reused() {
        let mut pool = BufferPool::new(3, 1);
        let mut out: Vec<_> = (0..3).map(|_| pool.take(&[1; 100]).unwrap()).collect();
        assert!(pool.take(&[1; 100]).is_none());
        let kept = out[0].framed().as_ptr();
        for buffer in out.drain(..) {
            pool.give_back(buffer);
        }
        assert_eq!(pool.taken(), 0);
        assert_eq!(pool.take(&[2; 50]).unwrap().framed().as_ptr(), kept);
    }
}
