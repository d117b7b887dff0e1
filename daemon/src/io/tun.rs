//! TUN devices: the NICs of machines and appliances, seen from the daemon's end.
//!
//! Every device is multi-queue, persistent, without packet information and with the 10-byte `virtio_net_hdr` in front of
//! each packet. tun-rs opens, persists and clones them; ioctls of our own do what it has no call for: setting and reading the header
//! size, reading back what was attached (TUNGETIFF), a choice of offloads finer than all or nothing, and clearing persistence.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use tun_rs::{DeviceBuilder, SyncDevice};

use crate::host::error::{Context, HostError, Result};
use crate::host::sysctl::{self, View};

/// Bytes of `struct virtio_net_hdr` in front of each packet.
pub const VNET_HDR_BYTES: usize = 10;

/// The most that one read can return: header, and an IP packet of the greatest length that its header can name. IPv6
/// counts its payload only (RFC 8200, section 3), hence 40 bytes more.
pub const FRAME_BYTES_MAX: usize = VNET_HDR_BYTES + 65_535 + 40;

/// How many packets wait in a device for the daemon. 128 to 2000 measured alike; 32 drops.
pub const TX_QUEUE_LEN: u32 = 1000;

/// Which work the guest's kernel leaves to the receiver. A switch each, so that every one can be ruled out when a fault
/// is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Offloads {
    /// Checksums of TCP and UDP; all others need this one.
    pub csum: bool,
    /// TCP super-packets over IPv4.
    pub tso4: bool,
    /// TCP super-packets over IPv6.
    pub tso6: bool,
    /// UDP super-packets of both families, which the kernel only switches together (Linux 6.2 and later).
    pub uso: bool,
}

impl Offloads {
    /// Everything that the kernel can do.
    pub const ALL: Self = Self { csum: true, tso4: true, tso6: true, uso: true };
    /// Each packet as it would be on a wire.
    pub const NONE: Self = Self { csum: false, tso4: false, tso6: false, uso: false };

    fn bits(self) -> libc::c_ulong {
        let mut bits = 0;
        // The kernel refuses segmentation offloads without checksum offload.
        if self.csum {
            bits |= libc::TUN_F_CSUM;
            bits |= if self.tso4 { libc::TUN_F_TSO4 } else { 0 };
            bits |= if self.tso6 { libc::TUN_F_TSO6 } else { 0 };
            bits |= if self.uso { libc::TUN_F_USO4 | libc::TUN_F_USO6 } else { 0 };
        }
        libc::c_ulong::from(bits)
    }
}

impl Default for Offloads {
    fn default() -> Self {
        Self::ALL
    }
}

/// What a device shall be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunSpec {
    /// `eth0`, `eth1`, …; at most 15 bytes.
    pub name: String,
    /// One queue for each worker, at least one.
    pub queues: usize,
    /// Packets that wait for the daemon before the kernel drops.
    pub tx_queue_len: u32,
    /// Offloads to ask for.
    pub offloads: Offloads,
}

impl TunSpec {
    /// A device with the usual queue length and every offload.
    #[must_use]
    pub fn new(name: impl Into<String>, queues: usize) -> Self {
        Self { name: name.into(), queues, tx_queue_len: TX_QUEUE_LEN, offloads: Offloads::ALL }
    }
}

/// An attached device. Dropping it closes the queues and leaves the device, its addresses and routes as they are.
#[derive(Debug)]
pub struct Tun {
    queues: Vec<TunQueue>,
    name: String,
    offloads: Offloads,
}

impl Tun {
    /// Creates the device in the namespace of the calling thread, or attaches to the one that is there from a former
    /// daemon. Header size and offloads are device state that a re-attach finds as somebody else left it, so both are
    /// set anew and read back.
    ///
    /// Called by way of [`Netns::run`](crate::host::netns::Netns::run); the device is persistent and down.
    ///
    /// # Errors
    /// No right to make devices, no `/dev/net/tun`, a device of that name that another process holds, or of another
    /// make (a single-queue TUN can't be attached to as multi-queue).
    pub fn attach(spec: &TunSpec) -> Result<Self> {
        Self::attach_by(&View::default(), spec)
    }

    /// The same with the kernel's settings looked up by way of `view`.
    ///
    /// # Errors
    /// As [`Tun::attach`].
    pub fn attach_by(view: &View, spec: &TunSpec) -> Result<Self> {
        if spec.queues == 0 {
            return Err(HostError::Invalid(format!("device {} needs at least one queue", spec.name)));
        }
        let first = DeviceBuilder::new()
            .name(&spec.name)
            .inherit_enable_state()
            .with(|device| {
                device
                    .offload(true)
                    .multi_queue(true)
                    .packet_information(false)
                    .tx_queue_len(spec.tx_queue_len);
            })
            .build_sync()
            .on("open device", &spec.name)?;
        sysctl::without_link_local(view, &spec.name)?;
        first.persist().on("make persistent", &spec.name)?;
        let mut devices = vec![first];
        while devices.len() < spec.queues {
            let next = devices[0].try_clone().on("open another queue of", &spec.name)?;
            devices.push(next);
        }
        let mut queues = Vec::with_capacity(devices.len());
        for device in devices {
            device.set_nonblocking(true).on("make non-blocking", &spec.name)?;
            let queue = TunQueue { device };
            queue.set_header_bytes(VNET_HDR_BYTES).on("set the header size of", &spec.name)?;
            queue.verify(&spec.name)?;
            queues.push(queue);
        }
        let mut tun = Self { queues, name: spec.name.clone(), offloads: Offloads::NONE };
        tun.set_offloads(spec.offloads)?;
        Ok(tun)
    }

    /// The device's name in its namespace.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The offloads in force: what was asked for, without UDP's where the kernel is older than 6.2.
    #[must_use]
    pub fn offloads(&self) -> Offloads {
        self.offloads
    }

    /// Switches offloads while traffic flows.
    ///
    /// # Errors
    /// Where the kernel refuses even TCP's.
    pub fn set_offloads(&mut self, wanted: Offloads) -> Result<()> {
        let queue = &self.queues[0];
        let mut granted = Offloads {
            tso4: wanted.csum && wanted.tso4,
            tso6: wanted.csum && wanted.tso6,
            uso: wanted.csum && wanted.uso,
            csum: wanted.csum,
        };
        match queue.set_offload_bits(granted.bits()) {
            Err(error) if granted.uso && error.raw_os_error() == Some(libc::EINVAL) => {
                granted.uso = false;
                queue.set_offload_bits(granted.bits())
            }
            other => other,
        }
        .on("set the offloads of", &self.name)?;
        self.offloads = granted;
        Ok(())
    }

    /// Whether the device outlives its last queue. Off means that closing removes it, which takes the kernel tens of
    /// milliseconds for each device: whole namespaces are removed with their devices persistent.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn set_persistent(&self, persistent: bool) -> Result<()> {
        let value = libc::c_ulong::from(persistent);
        // SAFETY: the descriptor is an open TUN queue; TUNSETPERSIST takes its argument by value.
        let rc = unsafe { libc::ioctl(self.queues[0].as_fd().as_raw_fd(), libc::TUNSETPERSIST, value) };
        check(rc).on("set the persistence of", &self.name)
    }

    /// The queues, one for each worker.
    #[must_use]
    pub fn queues(&self) -> &[TunQueue] {
        &self.queues
    }

    /// Gives the queues away, one to each worker.
    #[must_use]
    pub fn into_queues(self) -> Vec<TunQueue> {
        self.queues
    }
}

/// What became of a packet that was written to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// The guest's kernel took it.
    Delivered,
    /// The guest's kernel has no room or no memory for it (EAGAIN, ENOBUFS, ENOMEM).
    QueueFull,
    /// The device is down (EIO) or gone (EBADFD, ENODEV).
    DeviceDown,
    /// The kernel can't make sense of header or packet (EINVAL and all else).
    Refused,
}

/// One queue of a device: frames are a `virtio_net_hdr` and an IP packet. Non-blocking.
pub struct TunQueue {
    device: SyncDevice,
}

impl std::fmt::Debug for TunQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TunQueue").field("fd", &self.device.as_raw_fd()).finish()
    }
}

impl TunQueue {
    /// Reads one frame into `buffer`, which should hold [`FRAME_BYTES_MAX`]; longer frames are cut. None where nothing waits.
    ///
    /// # Errors
    /// The device is gone, or the kernel failed.
    #[inline]
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        settle(self.device.recv(buffer))
    }

    /// Reads one frame into header and packet buffers apart.
    ///
    /// # Errors
    /// As [`TunQueue::read`].
    #[inline]
    pub fn read_vectored(&self, buffers: &mut [IoSliceMut<'_>]) -> io::Result<Option<usize>> {
        settle(self.device.recv_vectored(buffers))
    }

    /// Writes one frame. The guest's network stack runs in this call, down to the socket.
    #[inline]
    pub fn write(&self, frame: &[u8]) -> Written {
        outcome(self.device.send(frame))
    }

    /// Writes one frame whose header, packet header and payload lie apart.
    #[inline]
    pub fn write_vectored(&self, frame: &[IoSlice<'_>]) -> Written {
        outcome(self.device.send_vectored(frame))
    }

    fn set_header_bytes(&self, bytes: usize) -> io::Result<()> {
        let size = bytes as libc::c_int;
        // SAFETY: the descriptor is an open TUN queue; TUNSETVNETHDRSZ reads one int behind the pointer.
        check(unsafe { libc::ioctl(self.device.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const size) })
    }

    fn set_offload_bits(&self, bits: libc::c_ulong) -> io::Result<()> {
        // SAFETY: the descriptor is an open TUN queue; TUNSETOFFLOAD takes its argument by value.
        check(unsafe { libc::ioctl(self.device.as_raw_fd(), libc::TUNSETOFFLOAD, bits) })
    }

    /// Reads back what was attached, so that frames are never taken for something that they are not.
    fn verify(&self, name: &str) -> Result<()> {
        // SAFETY: ifreq is plain data for which all zeroes is a valid value.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        // SAFETY: the descriptor is an open TUN queue; TUNGETIFF fills the ifreq behind the pointer.
        check(unsafe { libc::ioctl(self.device.as_raw_fd(), libc::TUNGETIFF, &raw mut request) })
            .on("inspect device", name)?;
        // SAFETY: TUNGETIFF fills the flags of the union.
        let flags = libc::c_int::from(unsafe { request.ifr_ifru.ifru_flags });
        let wanted = libc::IFF_TUN | libc::IFF_VNET_HDR | libc::IFF_MULTI_QUEUE | libc::IFF_PERSIST;
        let mut header: libc::c_int = 0;
        // SAFETY: the descriptor is an open TUN queue; TUNGETVNETHDRSZ writes one int behind the pointer.
        check(unsafe { libc::ioctl(self.device.as_raw_fd(), libc::TUNGETVNETHDRSZ, &raw mut header) })
            .on("inspect device", name)?;
        if flags & wanted != wanted || header as usize != VNET_HDR_BYTES {
            let detail = format!(
                "flags {flags:#x} with a header of {header} bytes, wanted {wanted:#x} with {VNET_HDR_BYTES}"
            );
            return Err(HostError::Mismatch { object: format!("device {name}"), detail });
        }
        Ok(())
    }
}

impl AsFd for TunQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

/// What this kernel's TUN driver can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// IFF_VNET_HDR: without it no offload.
    pub vnet_hdr: bool,
    /// IFF_MULTI_QUEUE.
    pub multi_queue: bool,
}

/// Asks the driver, without making a device.
///
/// # Errors
/// No `/dev/net/tun`, or no right to open it.
pub fn features() -> Result<Features> {
    let device =
        std::fs::File::options().read(true).write(true).open("/dev/net/tun").on("open", "/dev/net/tun")?;
    let mut flags: libc::c_uint = 0;
    // SAFETY: the descriptor is the TUN driver's; TUNGETFEATURES writes one unsigned int behind the pointer.
    check(unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNGETFEATURES, &raw mut flags) })
        .on("inspect", "/dev/net/tun")?;
    let has = |flag: libc::c_int| flags & flag as libc::c_uint != 0;
    Ok(Features { vnet_hdr: has(libc::IFF_VNET_HDR), multi_queue: has(libc::IFF_MULTI_QUEUE) })
}

fn check(rc: libc::c_int) -> io::Result<()> {
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[inline]
fn settle(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(len) => Ok(Some(len)),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EINTR)) => Ok(None),
        Err(error) => Err(error),
    }
}

#[inline]
fn outcome(result: io::Result<usize>) -> Written {
    match result {
        Ok(_) => Written::Delivered,
        Err(error) => match error.raw_os_error() {
            Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM) => Written::QueueFull,
            Some(libc::EIO | libc::EBADFD | libc::ENODEV) => Written::DeviceDown,
            _ => Written::Refused,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segmentation_offloads_need_the_checksum() {
        assert_eq!(Offloads { csum: false, ..Offloads::ALL }.bits(), 0);
        assert_eq!(Offloads::ALL.bits(), 0x01 | 0x02 | 0x04 | 0x20 | 0x40);
        assert_eq!(Offloads { uso: false, tso6: false, ..Offloads::ALL }.bits(), 0x01 | 0x02);
    }

    #[test]
    fn kernel_errors_of_a_write_become_outcomes() {
        let failed = |errno| outcome(Err(io::Error::from_raw_os_error(errno)));
        assert_eq!(outcome(Ok(40)), Written::Delivered);
        assert_eq!(failed(libc::ENOBUFS), Written::QueueFull);
        assert_eq!(failed(libc::EIO), Written::DeviceDown);
        assert_eq!(failed(libc::EINVAL), Written::Refused);
    }
}
