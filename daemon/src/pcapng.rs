//! Writes captures in the pcapng format (draft-ietf-opsawg-pcapng): one section, an interface for each port, and an
//! enhanced packet block with a comment for each packet. Integers are little-endian.

/// LINKTYPE_RAW: IPv4 or IPv6, by the first four bits.
const LINKTYPE_RAW: u16 = 101;

const OPT_END: u16 = 0;
const OPT_COMMENT: u16 = 1;
const SHB_USERAPPL: u16 = 4;
const IF_NAME: u16 = 2;
const IF_DESCRIPTION: u16 = 3;
const IF_TSRESOL: u16 = 9;
const EPB_FLAGS: u16 = 2;
const ISB_IFDROP: u16 = 5;

/// Which way a packet went, as its interface saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// To the machine.
    Inbound,
    /// From the machine.
    Outbound,
}

/// The blocks of one section, appended to a buffer that the caller sends on.
#[derive(Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
    interfaces: u32,
}

impl Writer {
    /// A section that begins with its header.
    pub fn new() -> Writer {
        let mut writer = Writer::default();
        writer.block(0x0a0d_0d0a, |block| {
            block.extend(0x1a2b_3c4d_u32.to_le_bytes());
            block.extend([1, 0, 0, 0]);
            // The section's length is not known.
            block.extend(u64::MAX.to_le_bytes());
            option(block, SHB_USERAPPL, concat!("vnetd ", env!("CARGO_PKG_VERSION")).as_bytes());
            option(block, OPT_END, &[]);
        });
        writer
    }

    /// Adds an interface whose packets are IP without a link header, with times in nanoseconds. Gives its number.
    pub fn interface(&mut self, name: &str, description: &str) -> u32 {
        self.block(1, |block| {
            block.extend(LINKTYPE_RAW.to_le_bytes());
            block.extend([0, 0]);
            block.extend(0_u32.to_le_bytes());
            option(block, IF_NAME, name.as_bytes());
            if !description.is_empty() {
                option(block, IF_DESCRIPTION, description.as_bytes());
            }
            option(block, IF_TSRESOL, &[9]);
            option(block, OPT_END, &[]);
        });
        self.interfaces += 1;
        self.interfaces - 1
    }

    /// Adds a packet, in nanoseconds since 1970.
    pub fn packet(
        &mut self,
        interface: u32,
        unix_ns: u64,
        direction: Direction,
        comment: &str,
        packet: &[u8],
    ) {
        // A packet is at most 40 + 65,535 bytes long.
        let length = packet.len() as u32;
        self.block(6, |block| {
            block.extend(interface.to_le_bytes());
            block.extend(((unix_ns >> 32) as u32).to_le_bytes());
            block.extend((unix_ns as u32).to_le_bytes());
            block.extend(length.to_le_bytes());
            block.extend(length.to_le_bytes());
            padded(block, packet);
            option(block, OPT_COMMENT, comment.as_bytes());
            let flags: u32 = match direction {
                Direction::Inbound => 1,
                Direction::Outbound => 2,
            };
            option(block, EPB_FLAGS, &flags.to_le_bytes());
            option(block, OPT_END, &[]);
        });
    }

    /// Adds how many packets of an interface the capture could not keep up with.
    pub fn statistics(&mut self, interface: u32, unix_ns: u64, lost: u64) {
        self.block(5, |block| {
            block.extend(interface.to_le_bytes());
            block.extend(((unix_ns >> 32) as u32).to_le_bytes());
            block.extend((unix_ns as u32).to_le_bytes());
            option(block, ISB_IFDROP, &lost.to_le_bytes());
            option(block, OPT_END, &[]);
        });
    }

    /// Takes what was written since the last time.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }

    fn block(&mut self, kind: u32, fill: impl FnOnce(&mut Vec<u8>)) {
        let begin = self.bytes.len();
        self.bytes.extend(kind.to_le_bytes());
        self.bytes.extend([0; 4]);
        fill(&mut self.bytes);
        let total = (self.bytes.len() - begin + 4) as u32;
        self.bytes.extend(total.to_le_bytes());
        self.bytes[begin + 4..begin + 8].copy_from_slice(&total.to_le_bytes());
    }
}

fn option(block: &mut Vec<u8>, code: u16, value: &[u8]) {
    // What is named or said here has far less than 64 KiB.
    let value = &value[..value.len().min(usize::from(u16::MAX))];
    block.extend(code.to_le_bytes());
    block.extend((value.len() as u16).to_le_bytes());
    padded(block, value);
}

/// Appends bytes, padded with zeros to a multiple of four.
fn padded(block: &mut Vec<u8>, value: &[u8]) {
    block.extend(value);
    block.resize(block.len() + value.len().next_multiple_of(4) - value.len(), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(bytes: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
    }

    /// (type, body) of each block; both lengths agree.
    fn blocks(bytes: &[u8]) -> Vec<(u32, &[u8])> {
        let mut all = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            let length = word(bytes, at + 4) as usize;
            assert_eq!(length % 4, 0);
            assert_eq!(word(bytes, at + length - 4) as usize, length);
            all.push((word(bytes, at), &bytes[at + 8..at + length - 4]));
            at += length;
        }
        all
    }

    #[test]
    fn blocks_are_whole_and_in_order() {
        let mut writer = Writer::new();
        let interface = writer.interface("web/eth0", "");
        writer.packet(interface, 0x1_0000_0002, Direction::Outbound, "Drop NsgDeny", &[0x45, 1, 2, 3, 4]);
        writer.statistics(interface, 3, 7);
        let bytes = writer.take();
        let blocks = blocks(&bytes);
        assert_eq!(blocks.iter().map(|block| block.0).collect::<Vec<_>>(), [0x0a0d_0d0a, 1, 6, 5]);
        let packet = blocks[2].1;
        assert_eq!((word(packet, 4), word(packet, 8), word(packet, 12), word(packet, 16)), (1, 2, 5, 5));
        assert_eq!(packet[20..28], [0x45, 1, 2, 3, 4, 0, 0, 0]);
        assert_eq!((word(packet, 28), &packet[32..44]), (1 | 12 << 16, &b"Drop NsgDeny"[..]));
        assert_eq!((word(packet, 44), word(packet, 48), word(packet, 52)), (2 | 4 << 16, 2, 0));
        assert!(writer.take().is_empty());
    }
}
