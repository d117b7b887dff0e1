//! Buffers for packets that have to wait.

use crate::vnet_hdr::VNET_HEADER_LEN;

/// Rooms of the buffers, in octets: a packet of usual length wastes little, a super-packet at most half. The last one
/// takes the longest frame: an IPv6 header, the longest payload, and the vnet header.
const ROOMS: [usize; 8] = [256, 1_664, 3_200, 6_400, 12_800, 25_600, 51_200, VNET_HEADER_LEN + 65_575];

/// One {vnet header | packet} in one allocation.
#[derive(Debug)]
pub struct PacketBuf {
    bytes: Box<[u8]>,
    len: usize,
}

impl PacketBuf {
    /// Vnet header and packet.
    pub fn framed(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// Vnet header and packet, to be edited.
    pub fn framed_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }

    /// The packet alone.
    pub fn packet(&self) -> &[u8] {
        &self.framed()[VNET_HEADER_LEN..]
    }

    /// Octets that it takes, whatever it holds.
    pub fn room(&self) -> usize {
        self.bytes.len()
    }
}

/// A bounded stock of buffers of a few sizes.
#[derive(Debug)]
pub struct BufferPool {
    shelves: [Vec<PacketBuf>; ROOMS.len()],
    kept_bytes: usize,
    kept_bytes_max: usize,
    taken_bytes: usize,
    taken_bytes_max: usize,
}

impl BufferPool {
    /// Buffers of at most `taken_bytes_max` octets together are out at a time, and at most `kept_bytes_max` are kept for the
    /// next packets. Nothing is allocated before it is needed, and nothing once enough is kept.
    pub fn new(taken_bytes_max: usize, kept_bytes_max: usize) -> BufferPool {
        BufferPool {
            shelves: std::array::from_fn(|_| Vec::new()),
            kept_bytes: 0,
            kept_bytes_max,
            taken_bytes: 0,
            taken_bytes_max,
        }
    }

    /// Octets of the buffers that are out.
    pub fn taken_bytes(&self) -> usize {
        self.taken_bytes
    }

    /// A buffer for a frame of so many octets, with whatever was in it; none where too many are out, or where the frame is
    /// longer than an IP packet can be or shorter than its vnet header.
    pub fn take_room(&mut self, framed_len: usize) -> Option<PacketBuf> {
        if framed_len < VNET_HEADER_LEN {
            return None;
        }
        let shelf = ROOMS.iter().position(|room| framed_len <= *room)?;
        let room = ROOMS[shelf];
        if self.taken_bytes + room > self.taken_bytes_max {
            return None;
        }
        let mut buffer = match self.shelves[shelf].pop() {
            Some(buffer) => {
                self.kept_bytes -= room;
                buffer
            }
            None => PacketBuf { bytes: vec![0; room].into_boxed_slice(), len: 0 },
        };
        buffer.len = framed_len;
        self.taken_bytes += room;
        Some(buffer)
    }

    /// A buffer with a copy of this frame ({vnet header | packet}); none where [`BufferPool::take_room`] gives none.
    pub fn take(&mut self, framed: &[u8]) -> Option<PacketBuf> {
        let mut buffer = self.take_room(framed.len())?;
        buffer.framed_mut().copy_from_slice(framed);
        Some(buffer)
    }

    /// Gives a buffer back.
    pub fn give_back(&mut self, buffer: PacketBuf) {
        let room = buffer.room();
        self.taken_bytes = self.taken_bytes.saturating_sub(room);
        let shelf = ROOMS.iter().position(|own| *own == room);
        if let Some(shelf) = shelf
            && self.kept_bytes + room <= self.kept_bytes_max
        {
            self.kept_bytes += room;
            self.shelves[shelf].push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_keep_their_octets() {
        let mut pool = BufferPool::new(1 << 20, 1 << 17);
        for len in [10, 11, 256, 257, 1_510, 1_664, 1_665, 30_000, 65_585] {
            let frame: Vec<u8> = (0..len).map(|index| index as u8).collect();
            let buffer = pool.take(&frame).unwrap();
            assert_eq!(buffer.framed(), frame);
            assert_eq!(buffer.packet(), &frame[10..]);
            assert!(
                buffer.room() >= len && buffer.room() <= len.max(830) * 2 + 4,
                "{len} in {}",
                buffer.room()
            );
            pool.give_back(buffer);
        }
        assert!(pool.take(&[0; 65_586]).is_none());
        assert!(pool.take(&[0; 9]).is_none());
    }

    #[test]
    fn bounded_and_reused() {
        let mut pool = BufferPool::new(3 * 256, 256);
        let mut out: Vec<_> = (0..3).map(|_| pool.take(&[1; 100]).unwrap()).collect();
        assert!(pool.take(&[1; 100]).is_none());
        assert_eq!(pool.taken_bytes(), 768);
        let kept = out[0].framed().as_ptr();
        for buffer in out.drain(..) {
            pool.give_back(buffer);
        }
        assert_eq!((pool.taken_bytes(), pool.kept_bytes), (0, 256));
        assert_eq!(pool.take(&[2; 50]).unwrap().framed().as_ptr(), kept);
        assert_eq!(pool.kept_bytes, 0);
    }
}
