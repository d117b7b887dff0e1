//! Flows that the kernel carries: which packets it takes, what it counts, and that nothing is left of it.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt};
use vnet_dataplane::{FiveTuple, FlowKey, OffloadCounts, OffloadEntry, OffloadSlot, PortId, Protocol};
use vnetd::host::link;
use vnetd::host::netlink::Netlink;
use vnetd::host::netns::{self, Netns};
use vnetd::io::tun::{FRAME_BYTES_MAX, Tun, TunSpec, VNET_HDR_BYTES};
use vnetd::offload::{self, Offload};
use vnetd::worker::KernelFlows;

use crate::lab::Lab;
use crate::offload_packets::{Shape, shaped};
use crate::{Case, Outcome};

pub(crate) fn tests() -> Vec<Case> {
    vec![
        ("the_kernel_carries_datagrams_of_both_families", datagrams),
        ("the_kernel_carries_tcp_and_every_segment_is_counted_once", segments),
        ("what_changes_a_flow_s_state_goes_to_userspace", special_packets),
        ("the_kernel_lowers_the_ttl_and_leaves_the_last_ones", ttl),
        ("another_epoch_brings_flows_back_at_once", epochs),
        ("a_nic_that_tcpdump_listens_on_shows_what_leaves", watched),
        ("a_nic_with_a_queueing_discipline_of_its_own_uses_it", queueing),
        ("what_the_sender_s_machine_has_noted_stays_there", unmarked),
        ("a_program_that_was_taken_off_is_attached_again", attached_again),
        ("another_version_s_programs_are_not_taken_over", other_version),
        ("another_nic_cannot_use_an_entry", foreign_nic),
        ("frames_that_are_forged_on_a_cable_go_nowhere", forged),
        ("a_full_table_takes_no_more_and_ended_flows_make_room", full),
        ("pins_outlive_the_daemon_and_are_taken_over", adoption),
        ("nothing_is_left_of_an_offload_that_is_removed", removal),
        ("a_nic_that_goes_takes_its_flows_along", detached),
        ("a_nic_without_a_cable_stays_in_userspace_and_says_so", without_cable),
        ("a_lab_that_goes_on_without_has_no_program_left", abandoned),
    ]
}

const EPOCH: u32 = 7;
const LIMIT: Duration = Duration::from_secs(60);

/// Two machines whose packets a thread passes on, as the daemon would.
struct Pair {
    lab: Lab,
    offload: Offload,
    machines: [Machine; 2],
}

struct Machine {
    ns: Arc<Netns>,
    tun: Arc<Tun>,
    addresses: [IpAddr; 2],
}

impl Machine {
    fn udp(&self, family: usize, port: u16) -> std::io::Result<UdpSocket> {
        let socket = self.ns.run(|| UdpSocket::bind((self.addresses[family], port))).expect("entered")?;
        socket.set_read_timeout(Some(LIMIT))?;
        Ok(socket)
    }

    /// The next packet that came to userspace and fits; `None` where none comes in the time.
    fn packet(&self, limit: Duration, fits: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
        let deadline = Instant::now() + limit;
        let mut buffer = vec![0; FRAME_BYTES_MAX];
        while Instant::now() < deadline {
            for queue in self.tun.queues() {
                while let Ok(Some(length)) = queue.read(&mut buffer) {
                    let packet = &buffer[VNET_HDR_BYTES..length];
                    if fits(packet) {
                        return Some(packet.to_vec());
                    }
                }
            }
            wait_readable(&self.tun, Duration::from_millis(20));
        }
        None
    }
}

fn wait_readable(tun: &Tun, limit: Duration) {
    let mut fds: Vec<PollFd<'_>> =
        tun.queues().iter().map(|queue| PollFd::new(queue.as_fd(), PollFlags::POLLIN)).collect();
    let _ = poll(&mut fds, PollTimeout::try_from(limit).unwrap_or(PollTimeout::ZERO));
}

fn machine(lab: &Lab, name: &str, number: u8) -> vnetd::host::Result<Machine> {
    let addresses = [format!("10.1.{number}.4"), format!("fd00:{number}::4")];
    let (ns, tun) = lab.machine(name, &[&format!("{}/24", addresses[0]), &format!("{}/64", addresses[1])])?;
    let addresses = addresses.map(|address| address.parse().expect("an address"));
    Ok(Machine { ns: Arc::new(ns), tun: Arc::new(tun), addresses })
}

impl Pair {
    fn new() -> Result<Pair, Box<dyn std::error::Error>> {
        Pair::with_entries(offload::ENTRIES)
    }

    fn with_entries(entries: usize) -> Result<Pair, Box<dyn std::error::Error>> {
        let lab = Lab::new();
        let machines = [machine(&lab, "a", 1)?, machine(&lab, "b", 2)?];
        let offload = Offload::with_entries(&lab.name, entries)?;
        for (port, machine) in machines.iter().enumerate() {
            offload.attach(PortId(port as u32), &machine.ns, "eth0");
        }
        offload.publish(EPOCH);
        Ok(Pair { lab, offload, machines })
    }

    fn key(&self, from: usize, family: usize, protocol: Protocol, ports: (u16, u16)) -> FlowKey {
        let tuple = FiveTuple {
            protocol,
            source: self.machines[from].addresses[family],
            destination: self.machines[1 - from].addresses[family],
            source_port: ports.0,
            destination_port: ports.1,
        };
        FlowKey::new(PortId(from as u32), &tuple)
    }

    /// Enters a flow, and waits for the cables that this takes.
    fn enter(&self, key: FlowKey, ttl_decrement: u8) -> OffloadSlot {
        let target = PortId(1 - key.ingress().0);
        let entry = OffloadEntry { key, target, ttl_decrement, epoch: EPOCH };
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Some(slot) = self.offload.enter(&entry) {
                return slot;
            }
            let status = self.offload.status();
            assert!(Instant::now() < deadline && status.failure.is_none(), "no entry: {status:?}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn counts(&self, slot: OffloadSlot) -> (u64, u64) {
        let OffloadCounts { packets, bytes, .. } = self.offload.counts(slot).expect("the slot is held");
        (packets, bytes)
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        let _ = offload::remove(&self.lab.name);
    }
}

fn datagrams() -> Outcome {
    let pair = Pair::new()?;
    for (family, header) in [(0, 28), (1, 48)] {
        let slot = pair.enter(pair.key(0, family, Protocol::UDP, (4000, 5000)), 0);
        let (from, to) = (pair.machines[0].udp(family, 4000)?, pair.machines[1].udp(family, 5000)?);
        let far = SocketAddr::new(pair.machines[1].addresses[family], 5000);
        let mut buffer = [0; 9000];
        for number in 0..10_u8 {
            from.send_to(&[number; 100], far)?;
            let (length, sender) = to.recv_from(&mut buffer)?;
            assert_eq!((length, buffer[99], sender), (100, number, from.local_addr()?));
        }
        assert_eq!(pair.counts(slot), (10, 10 * (100 + header)));
        // A super-packet counts as what the wire would carry, and comes as datagrams.
        setsockopt(&from, sockopt::UdpGsoSegment, &1000)?;
        from.send_to(&[9; 4500], far)?;
        let lengths: Vec<usize> = (0..5).map(|_| to.recv(&mut buffer)).collect::<Result<_, _>>()?;
        assert_eq!(lengths, [1000, 1000, 1000, 1000, 500]);
        assert_eq!(pair.counts(slot), (15, 10 * (100 + header) + 4500 + 5 * header));
        let last_seen = pair.offload.counts(slot).unwrap().last_seen;
        assert!(
            vnetd::worker::monotonic().since(last_seen) < LIMIT,
            "{last_seen:?} is on the workers' clock"
        );
    }
    let to_userspace = pair.machines[0].packet(Duration::ZERO, is_udp);
    assert_eq!(to_userspace, None, "no datagram came to userspace");
    Ok(())
}

fn is_udp(packet: &[u8]) -> bool {
    match packet[0] >> 4 {
        4 => packet[9] == 17,
        _ => packet[6] == 17,
    }
}

/// Passes frames of two machines to each other, and counts those of TCP as the wire would carry them.
struct Forwarder {
    stop: Arc<AtomicBool>,
    segments: Arc<Mutex<[u64; 2]>>,
    thread: Option<JoinHandle<()>>,
}

impl Forwarder {
    fn start(pair: &Pair) -> Forwarder {
        let stop = Arc::new(AtomicBool::new(false));
        let segments = Arc::new(Mutex::new([0; 2]));
        let tuns = [Arc::clone(&pair.machines[0].tun), Arc::clone(&pair.machines[1].tun)];
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&segments));
        let thread = std::thread::spawn(move || {
            let mut buffer = vec![0; FRAME_BYTES_MAX];
            while !stopped.load(Ordering::Relaxed) {
                let mut moved = false;
                for (from, tun) in tuns.iter().enumerate() {
                    for queue in tun.queues() {
                        while let Ok(Some(length)) = queue.read(&mut buffer) {
                            moved = true;
                            counted.lock().unwrap()[from] += segments_of(&buffer[..length]);
                            tuns[1 - from].queues()[0].write(&buffer[..length]);
                        }
                    }
                }
                if !moved {
                    let mut fds: Vec<PollFd<'_>> = tuns
                        .iter()
                        .flat_map(|tun| tun.queues())
                        .map(|queue| PollFd::new(queue.as_fd(), PollFlags::POLLIN))
                        .collect();
                    let _ = poll(&mut fds, PollTimeout::from(20_u8));
                }
            }
        });
        Forwarder { stop, segments, thread: Some(thread) }
    }

    fn end(mut self) -> [u64; 2] {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
        *self.segments.lock().unwrap()
    }
}

/// TCP segments of a frame; none where it is something else.
fn segments_of(frame: &[u8]) -> u64 {
    let packet = &frame[VNET_HDR_BYTES..];
    let (protocol, start) = if packet[0] >> 4 == 4 { (packet[9], 20) } else { (packet[6], 40) };
    let size = u64::from(u16::from_ne_bytes([frame[4], frame[5]]));
    let header = start + usize::from(packet[start + 12] >> 4) * 4;
    match (protocol, size) {
        (6, 0) => 1,
        (6, size) => ((packet.len() - header) as u64).div_ceil(size),
        _ => 0,
    }
}

/// Segments that TCP has sent in a namespace, as it counts them itself: those that were sent again apart.
fn sent_segments(ns: &Netns) -> u64 {
    let text = ns.run(|| std::fs::read_to_string("/proc/thread-self/net/snmp")).unwrap().unwrap();
    let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("Tcp:")).collect();
    let value = |wanted: &str| -> u64 {
        let at = rows[0].split(' ').position(|name| name == wanted).unwrap();
        rows[1].split(' ').nth(at).unwrap().parse().unwrap()
    };
    value("OutSegs") + value("RetransSegs")
}

fn segments() -> Outcome {
    for family in [0, 1] {
        let pair = Pair::new()?;
        let forwarder = Forwarder::start(&pair);
        let [a, b] = &pair.machines;
        let listener = b.ns.run(|| TcpListener::bind((b.addresses[family], 6000)))??;
        let to = listener.local_addr()?;
        let mut near = a.ns.run(|| TcpStream::connect_timeout(&to, LIMIT))??;
        let (mut far, from) = listener.accept()?;
        near.set_write_timeout(Some(LIMIT))?;
        far.set_read_timeout(Some(LIMIT))?;
        let there = pair.enter(pair.key(0, family, Protocol::TCP, (from.port(), 6000)), 0);
        let back = pair.enter(pair.key(1, family, Protocol::TCP, (6000, from.port())), 0);
        let total: usize = 40 << 20;
        let sender = std::thread::spawn(move || {
            let chunk: Vec<u8> = (0..1 << 16).map(|i| (i * 7 % 251) as u8).collect();
            for _ in 0..total >> 16 {
                near.write_all(&chunk).unwrap();
            }
            near
        });
        let mut received = Vec::with_capacity(total);
        Read::by_ref(&mut far).take(total as u64).read_to_end(&mut received)?;
        assert_eq!(received.len(), total);
        assert!(
            received
                .chunks(1 << 16)
                .all(|chunk| chunk.iter().enumerate().all(|(i, byte)| *byte == (i * 7 % 251) as u8))
        );
        let near = sender.join().unwrap();
        // Half of it withdrawn, the rest of the connection runs through userspace.
        pair.offload.withdraw(there);
        drop((near, far));
        let done = || {
            let (carried, returned) = (pair.counts(there).0, pair.counts(back).0);
            let seen = *forwarder.segments.lock().unwrap();
            (carried + seen[0], returned + seen[1]) == (sent_segments(&a.ns), sent_segments(&b.ns))
        };
        let deadline = Instant::now() + LIMIT;
        while !done() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        let (carried, returned) = (pair.counts(there), pair.counts(back));
        let seen = forwarder.end();
        assert_eq!(
            (carried.0 + seen[0], returned.0 + seen[1]),
            (sent_segments(&a.ns), sent_segments(&b.ns)),
            "carried {carried:?} and {returned:?}, seen {seen:?}"
        );
        let payload_segments = (total as u64).div_ceil(1460);
        assert!(
            carried.0 > payload_segments * 9 / 10,
            "nearly all ran in the kernel: {carried:?}, seen {seen:?}"
        );
        assert!(carried.1 > total as u64 * 9 / 10);
    }
    Ok(())
}

fn special_packets() -> Outcome {
    let pair = Pair::new()?;
    for family in [0, 1] {
        for protocol in [Protocol::TCP, Protocol::UDP] {
            let slot = pair.enter(pair.key(0, family, protocol, (4000, 5000)), 0);
            let [a, b] = &pair.machines;
            let send = |shape: Shape| -> Vec<u8> {
                let packet = shaped(a.addresses[family], b.addresses[family], protocol.0, shape);
                a.ns.run(|| crate::offload_packets::send(&packet)).unwrap().unwrap();
                packet
            };
            send(Shape::Plain);
            assert_eq!(pair.counts(slot).0, 1, "{protocol:?}: a plain packet is the kernel's");
            for shape in Shape::special(protocol.0, family == 1) {
                let packet = send(*shape);
                let arrived = a.packet(LIMIT, |found| found == packet);
                assert!(
                    arrived.is_some(),
                    "{protocol:?} family {family}: {shape:?} did not come to userspace"
                );
            }
            assert_eq!(pair.counts(slot).0, 1, "{protocol:?}: none of them was counted");
        }
    }
    Ok(())
}

fn ttl() -> Outcome {
    let pair = Pair::new()?;
    for (family, hops) in [(0, 9), (1, 17)] {
        let slot = pair.enter(pair.key(0, family, Protocol::UDP, (4000, 5000)), 2);
        let [a, b] = &pair.machines;
        let to = b.udp(family, 5000)?;
        if family == 0 {
            setsockopt(&to, sockopt::Ipv4RecvTtl, &true)?;
        } else {
            setsockopt(&to, sockopt::Ipv6RecvHopLimit, &true)?;
        }
        let from = a.udp(family, 4000)?;
        let far = SocketAddr::new(b.addresses[family], 5000);
        let set = |value: i32| match family {
            0 => setsockopt(&from, sockopt::Ipv4Ttl, &value),
            _ => setsockopt(&from, sockopt::Ipv6Ttl, &value),
        };
        set(hops)?;
        from.send_to(b"far enough", far)?;
        assert_eq!(received_ttl(&to)?, hops - 2);
        set(2)?;
        from.send_to(b"not far enough", far)?;
        let at = if family == 0 { 8 } else { 7 };
        assert!(a.packet(LIMIT, |packet| is_udp(packet) && packet[at] == 2).is_some());
        assert_eq!(pair.counts(slot).0, 1);
    }
    Ok(())
}

fn received_ttl(socket: &UdpSocket) -> Result<i32, Box<dyn std::error::Error>> {
    use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg};
    use std::os::fd::AsRawFd;
    let mut buffer = [0; 64];
    let mut iov = [std::io::IoSliceMut::new(&mut buffer)];
    let mut space = nix::cmsg_space!(libc::c_int);
    let message =
        recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut iov, Some(&mut space), MsgFlags::empty())?;
    for control in message.cmsgs()? {
        match control {
            ControlMessageOwned::Ipv4Ttl(value) | ControlMessageOwned::Ipv6HopLimit(value) => {
                return Ok(value);
            }
            _ => {}
        }
    }
    Err("no TTL came with the datagram".into())
}

fn epochs() -> Outcome {
    let pair = Pair::new()?;
    let slot = pair.enter(pair.key(0, 0, Protocol::UDP, (4000, 5000)), 0);
    let (from, to) = (pair.machines[0].udp(0, 4000)?, pair.machines[1].udp(0, 5000)?);
    let far = SocketAddr::new(pair.machines[1].addresses[0], 5000);
    let mut buffer = [0; 16];
    from.send_to(b"first", far)?;
    assert_eq!(to.recv(&mut buffer)?, 5);
    pair.offload.publish(EPOCH + 1);
    from.send_to(b"second", far)?;
    assert!(pair.machines[0].packet(LIMIT, |packet| packet.ends_with(b"second")).is_some());
    assert_eq!(pair.offload.status().entries, 0);
    assert!(pair.offload.renew(slot, EPOCH + 1));
    from.send_to(b"third", far)?;
    assert_eq!((to.recv(&mut buffer)?, &buffer[..5]), (5, b"third".as_slice()));
    pair.offload.withdraw(slot);
    from.send_to(b"fourth", far)?;
    assert!(pair.machines[0].packet(LIMIT, |packet| packet.ends_with(b"fourth")).is_some());
    assert_eq!(pair.counts(slot).0, 2, "a withdrawn entry can still be read");
    pair.offload.release(slot);
    assert_eq!(pair.offload.counts(slot), None);
    Ok(())
}

fn watched() -> Outcome {
    let pair = Pair::new()?;
    let slot = pair.enter(pair.key(0, 0, Protocol::UDP, (4000, 5000)), 0);
    let [a, b] = &pair.machines;
    let (from, to) = (a.udp(0, 4000)?, b.udp(0, 5000)?);
    let far = SocketAddr::new(b.addresses[0], 5000);
    let socket = a.ns.run(|| crate::offload_packets::listen("eth0"))??;
    from.send_to(b"watched", far)?;
    assert!(a.packet(LIMIT, |packet| packet.ends_with(b"watched")).is_some());
    assert_eq!(pair.counts(slot).0, 0);
    drop(socket);
    let deadline = Instant::now() + LIMIT;
    while pair.counts(slot).0 == 0 && Instant::now() < deadline {
        from.send_to(b"unwatched", far)?;
    }
    assert_eq!(to.recv(&mut [0; 16])?, 9);
    Ok(())
}

fn command(machine: &Machine, words: &[&str]) -> Outcome {
    let output = machine.ns.run(|| std::process::Command::new(words[0]).args(&words[1..]).output())??;
    assert!(output.status.success(), "{words:?}: {output:?}");
    Ok(())
}

/// Sends a datagram of a's by the flow from port 4000 to port 5000, and says where it goes.
fn is_carried(pair: &Pair, slot: OffloadSlot, from: &UdpSocket) -> Result<bool, Box<dyn std::error::Error>> {
    let before = pair.counts(slot).0;
    let deadline = Instant::now() + LIMIT;
    while Instant::now() < deadline {
        // Again each time: the kernel loses what leaves while it gives a device another discipline.
        from.send_to(b"where", SocketAddr::new(pair.machines[1].addresses[0], 5000))?;
        if pair.counts(slot).0 > before {
            return Ok(true);
        }
        let found = pair.machines[0].packet(Duration::from_millis(20), |packet| packet.ends_with(b"where"));
        if found.is_some() {
            return Ok(false);
        }
    }
    Err("it went nowhere".into())
}

fn wait_carried(pair: &Pair, slot: OffloadSlot, from: &UdpSocket, wanted: bool) -> Outcome {
    let deadline = Instant::now() + LIMIT;
    while is_carried(pair, slot, from)? != wanted {
        assert!(Instant::now() < deadline, "it does not become {wanted} that the kernel carries it");
    }
    Ok(())
}

fn queueing() -> Outcome {
    let pair = Pair::new()?;
    let slot = pair.enter(pair.key(0, 0, Protocol::UDP, (4000, 5000)), 0);
    let a = &pair.machines[0];
    let from = a.udp(0, 4000)?;
    wait_carried(&pair, slot, &from, true)?;
    command(a, &["tc", "qdisc", "add", "dev", "eth0", "root", "pfifo", "limit", "100"])?;
    wait_carried(&pair, slot, &from, false)?;
    command(a, &["tc", "qdisc", "delete", "dev", "eth0", "root"])?;
    wait_carried(&pair, slot, &from, true)
}

fn attached_again() -> Outcome {
    let pair = Pair::new()?;
    let slot = pair.enter(pair.key(0, 0, Protocol::UDP, (4000, 5000)), 0);
    let a = &pair.machines[0];
    let from = a.udp(0, 4000)?;
    wait_carried(&pair, slot, &from, true)?;
    command(a, &["tc", "qdisc", "delete", "dev", "eth0", "clsact"])?;
    wait_carried(&pair, slot, &from, false)?;
    pair.offload.inspect(PortId(0));
    wait_carried(&pair, slot, &from, true)
}

fn unmarked() -> Outcome {
    use std::os::fd::AsRawFd;
    let pair = Pair::new()?;
    let slot = pair.enter(pair.key(0, 0, Protocol::UDP, (4000, 5000)), 0);
    let [a, b] = &pair.machines;
    let (from, to) = (a.udp(0, 4000)?, b.udp(0, 5000)?);
    setsockopt(&from, sockopt::Mark, &7)?;
    setsockopt(&from, sockopt::Priority, &6)?;
    // The receiver is told the mark of each datagram.
    const SO_RCVMARK: libc::c_int = 75;
    let one: libc::c_int = 1;
    // SAFETY: the option's value lives until the call has returned, and its length is its own.
    let set = unsafe {
        let length = size_of::<libc::c_int>() as libc::socklen_t;
        libc::setsockopt(to.as_raw_fd(), libc::SOL_SOCKET, SO_RCVMARK, (&raw const one).cast(), length)
    };
    if set < 0 {
        eprintln!("skipped: the kernel does not tell marks (Linux 5.19)");
        return Ok(());
    }
    from.send_to(b"marked", SocketAddr::new(b.addresses[0], 5000))?;
    let (mut data, mut control) = ([0_u8; 16], [0_u64; 16]);
    let mut iov = libc::iovec { iov_base: data.as_mut_ptr().cast(), iov_len: data.len() };
    // SAFETY: all zero is a valid message; what it points to lives until the call has returned, and the kernel has written
    // whole headers of control messages before they are read.
    let marks: Vec<u32> = unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        (message.msg_iov, message.msg_iovlen) = (&raw mut iov, 1);
        (message.msg_control, message.msg_controllen) =
            (control.as_mut_ptr().cast(), size_of_val(&control) as _);
        assert_eq!(libc::recvmsg(to.as_raw_fd(), &raw mut message, 0), 6);
        let mut marks = Vec::new();
        let mut header = libc::CMSG_FIRSTHDR(&raw const message);
        while !header.is_null() {
            if (*header).cmsg_type == libc::SO_MARK {
                marks.push(libc::CMSG_DATA(header).cast::<u32>().read_unaligned());
            }
            header = libc::CMSG_NXTHDR(&raw const message, header);
        }
        marks
    };
    assert_eq!((marks, pair.counts(slot).0), (vec![0], 1));
    Ok(())
}

fn other_version() -> Outcome {
    let mut pair = Pair::new()?;
    let key = pair.key(0, 0, Protocol::UDP, (4000, 5000));
    pair.enter(key, 0);
    let placeholder = Offload::open(&format!("{}-none", pair.lab.name))?;
    drop(std::mem::replace(&mut pair.offload, placeholder));
    let path = offload::pins(&pair.lab.name).as_ref().join("control");
    let map = aya::maps::Map::Array(aya::maps::MapData::from_pin(&path)?);
    let mut control: aya::maps::Array<_, [u64; 3]> = map.try_into()?;
    let [head, seed, version] = control.get(&0, 0)?;
    control.set(0, [head, seed, version ^ 1], 0)?;
    drop(control);
    pair.offload = Offload::open(&pair.lab.name)?;
    assert_eq!(pair.offload.take_adopted(), [], "nothing of it is taken over");
    assert!(!path.exists(), "it is removed");
    for (port, machine) in pair.machines.iter().enumerate() {
        pair.offload.attach(PortId(port as u32), &machine.ns, "eth0");
    }
    pair.offload.publish(EPOCH);
    let slot = pair.enter(key, 0);
    let from = pair.machines[0].udp(0, 4000)?;
    wait_carried(&pair, slot, &from, true)
}

fn foreign_nic() -> Outcome {
    let pair = Pair::new()?;
    let slot = pair.enter(pair.key(0, 0, Protocol::UDP, (4000, 5000)), 0);
    // So that the other NIC has the program too.
    pair.enter(pair.key(1, 0, Protocol::UDP, (1, 1)), 0);
    let [a, b] = &pair.machines;
    let packet = shaped(a.addresses[0], b.addresses[0], Protocol::UDP.0, Shape::Plain);
    // Sent by b, whose own address it is not: its route leads out again only by the device that it names.
    b.ns.run(|| crate::offload_packets::send_by("eth0", &packet))??;
    assert!(b.packet(LIMIT, |found| found == packet).is_some(), "it came to userspace, to be judged");
    assert_eq!(pair.counts(slot).0, 0);
    a.ns.run(|| crate::offload_packets::send_by("eth0", &packet))??;
    let deadline = Instant::now() + LIMIT;
    while pair.counts(slot).0 == 0 && Instant::now() < deadline {
        std::thread::yield_now();
    }
    assert_eq!(pair.counts(slot).0, 1, "by its own NIC the same packet is carried");
    Ok(())
}

fn forged() -> Outcome {
    let pair = Pair::new()?;
    pair.enter(pair.key(0, 0, Protocol::UDP, (4000, 5000)), 0);
    let [a, b] = &pair.machines;
    let to = b.udp(0, 5000)?;
    let inner = shaped(a.addresses[0], b.addresses[0], Protocol::UDP.0, Shape::Plain);
    // What the program writes before a packet: the number of b's interface in the fabric.
    let mut frame = 0x1_0001_u32.to_ne_bytes().to_vec();
    frame.extend([0; 8]);
    frame.extend([8, 0]);
    frame.extend(&inner);
    for _ in 0..3 {
        a.ns.run(|| crate::offload_packets::send_by("cable-eth0", &frame))??;
    }
    // Nor with the number of the program's own packets.
    a.ns.run(|| crate::offload_packets::mark_egress("cable-eth0", 0x766e))??;
    for secret in [0_u64, 1, u64::MAX] {
        frame[4..12].copy_from_slice(&secret.to_ne_bytes());
        a.ns.run(|| crate::offload_packets::send_by("cable-eth0", &frame))??;
    }
    let far = SocketAddr::new(b.addresses[0], 5000);
    a.udp(0, 4000)?.send_to(b"genuine", far)?;
    let mut buffer = [0; 64];
    let length = to.recv(&mut buffer)?;
    assert_eq!(&buffer[..length], b"genuine", "the forged ones, sent before, did not arrive");
    Ok(())
}

fn full() -> Outcome {
    let pair = Pair::with_entries(8)?;
    let slots: Vec<_> =
        (0..8).map(|port| pair.enter(pair.key(0, 0, Protocol::UDP, (4000 + port, 5000)), 0)).collect();
    let entry = OffloadEntry {
        key: pair.key(0, 0, Protocol::UDP, (4100, 5000)),
        target: PortId(1),
        ttl_decrement: 0,
        epoch: EPOCH,
    };
    assert_eq!(pair.offload.enter(&entry), None);
    let far = SocketAddr::new(pair.machines[1].addresses[0], 5000);
    let to = pair.machines[1].udp(0, 5000)?;
    pair.machines[0].udp(0, 4007)?.send_to(b"carried", far)?;
    assert_eq!(to.recv(&mut [0; 16])?, 7);
    pair.machines[0].udp(0, 4100)?.send_to(b"userspace's", far)?;
    assert!(pair.machines[0].packet(LIMIT, |packet| packet.ends_with(b"userspace's")).is_some());
    pair.offload.withdraw(slots[0]);
    assert_eq!(pair.offload.enter(&entry), None, "its counts are still to be read");
    pair.offload.release(slots[0]);
    let slot = pair.enter(entry.key, 0);
    assert_eq!((slot, pair.counts(slot)), (slots[0], (0, 0)));
    Ok(())
}

fn adoption() -> Outcome {
    let mut pair = Pair::new()?;
    let key = pair.key(0, 1, Protocol::UDP, (4000, 5000));
    let slot = pair.enter(key, 3);
    let (from, to) = (pair.machines[0].udp(1, 4000)?, pair.machines[1].udp(1, 5000)?);
    let far = SocketAddr::new(pair.machines[1].addresses[1], 5000);
    from.send_to(b"before", far)?;
    assert_eq!(to.recv(&mut [0; 16])?, 6);
    // As after kill -9: no descriptor of table, programs or devices is left.
    let placeholder = Offload::open(&format!("{}-none", pair.lab.name))?;
    drop(std::mem::replace(&mut pair.offload, placeholder));
    for machine in &mut pair.machines {
        let spare = machine.ns.run(|| Tun::attach(&TunSpec::new("spare", 1)))??;
        drop(std::mem::replace(&mut machine.tun, Arc::new(spare)));
    }
    from.send_to(b"meanwhile", far)?;
    assert_eq!(to.recv(&mut [0; 16])?, 9, "it goes on without a daemon");
    pair.offload = Offload::open(&pair.lab.name)?;
    assert_eq!(pair.offload.epoch(), EPOCH);
    let entry = OffloadEntry { key, target: PortId(1), ttl_decrement: 3, epoch: EPOCH };
    assert_eq!(pair.offload.take_adopted(), [(slot, entry)]);
    assert_eq!(pair.offload.take_adopted(), []);
    assert_eq!(pair.counts(slot), (2, 48 * 2 + 15));
    pair.offload.publish(EPOCH + 1);
    assert!(pair.offload.renew(slot, EPOCH + 1));
    from.send_to(b"afterwards", far)?;
    assert_eq!(to.recv(&mut [0; 16])?, 10);
    // What the new daemon enters finds the cables that are there.
    for (port, machine) in pair.machines.iter().enumerate() {
        pair.offload.attach(PortId(port as u32), &machine.ns, "eth0");
    }
    pair.offload.publish(EPOCH);
    let again = pair.enter(pair.key(0, 0, Protocol::UDP, (4000, 5000)), 0);
    let (from, to) = (pair.machines[0].udp(0, 4000)?, pair.machines[1].udp(0, 5000)?);
    from.send_to(b"new", SocketAddr::new(pair.machines[1].addresses[0], 5000))?;
    assert_eq!(to.recv(&mut [0; 16])?, 3);
    assert_eq!(pair.counts(again), (1, 31));
    Ok(())
}

fn removal() -> Outcome {
    let pair = Pair::new()?;
    pair.enter(pair.key(0, 0, Protocol::UDP, (4000, 5000)), 0);
    let [a, b] = &pair.machines;
    let names = || -> Vec<String> {
        let names = netns::list(Some(&pair.lab.name)).unwrap();
        names.iter().map(|name| name.vm().to_owned()).collect()
    };
    assert_eq!(names(), ["a", "b", netns::FABRIC]);
    assert!(offload::pins(&pair.lab.name).as_ref().is_dir());
    pair.offload.remove();
    assert_eq!(names(), ["a", "b"]);
    assert!(!offload::pins(&pair.lab.name).as_ref().exists());
    // The namespace ends, and its cables with it, when the kernel gets to it.
    for machine in [a, b] {
        let deadline = Instant::now() + LIMIT;
        while link::find(&mut Netlink::open_in(&machine.ns)?, "cable-eth0")?.is_some() {
            assert!(Instant::now() < deadline, "a cable is left");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    a.udp(0, 4000)?.send_to(b"userspace's", SocketAddr::new(b.addresses[0], 5000))?;
    assert!(a.packet(LIMIT, |packet| packet.ends_with(b"userspace's")).is_some());
    offload::remove(&pair.lab.name)?;
    Ok(())
}

fn detached() -> Outcome {
    let pair = Pair::new()?;
    let slot = pair.enter(pair.key(0, 0, Protocol::UDP, (4000, 5000)), 0);
    let [a, b] = &pair.machines;
    let far = SocketAddr::new(b.addresses[0], 5000);
    let from = a.udp(0, 4000)?;
    pair.offload.detach(PortId(1));
    from.send_to(b"userspace's", far)?;
    assert!(a.packet(LIMIT, |packet| packet.ends_with(b"userspace's")).is_some());
    assert_eq!(pair.counts(slot).0, 0);
    pair.offload.release(slot);
    pair.offload.attach(PortId(1), &b.ns, "eth0");
    let slot = pair.enter(pair.key(0, 0, Protocol::UDP, (4000, 5000)), 0);
    let to = b.udp(0, 5000)?;
    from.send_to(b"carried", far)?;
    assert_eq!((to.recv(&mut [0; 16])?, pair.counts(slot).0), (7, 1));
    Ok(())
}

fn without_cable() -> Outcome {
    let pair = Pair::new()?;
    let [a, b] = &pair.machines;
    let nic = link::find(&mut Netlink::open_in(&a.ns)?, "eth0")?.ok_or("no eth0")?.index;
    // The number that its cable would have is another device's.
    let number = (nic + 0x1_0000).to_string();
    let arguments = ["link", "add", "other", "index", &number, "type", "veth", "peer", "name", "otherwise"];
    let status = a.ns.run(|| std::process::Command::new("ip").args(arguments).status())??;
    assert!(status.success());
    let key = pair.key(0, 0, Protocol::UDP, (4000, 5000));
    let entry = OffloadEntry { key, target: PortId(1), ttl_decrement: 0, epoch: EPOCH };
    let deadline = Instant::now() + LIMIT;
    while pair.offload.failure().is_none() {
        assert_eq!(pair.offload.enter(&entry), None);
        assert!(Instant::now() < deadline, "{:?}", pair.offload.status());
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(
        pair.offload.failure().is_some_and(|why| why.contains("cable-eth0")),
        "{:?}",
        pair.offload.failure()
    );
    assert_eq!((pair.offload.enter(&entry), pair.offload.status().entries), (None, 0));
    a.udp(0, 4000)?.send_to(b"userspace's", SocketAddr::new(b.addresses[0], 5000))?;
    assert!(a.packet(LIMIT, |packet| packet.ends_with(b"userspace's")).is_some());
    // It is tried again when what stood in the way is gone.
    command(a, &["ip", "link", "delete", "other"])?;
    let deadline = Instant::now() + LIMIT;
    while pair.offload.enter(&entry).is_none() {
        assert!(Instant::now() < deadline, "{:?}", pair.offload.status());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(pair.offload.failure(), None);
    Ok(())
}

/// Whether our filter is at a NIC's egress, as tc sees it.
fn has_filter(machine: &Machine) -> Result<bool, Box<dyn std::error::Error>> {
    let show = ["filter", "show", "dev", "eth0", "egress"];
    let output = machine.ns.run(|| std::process::Command::new("tc").args(show).output())??;
    assert!(output.status.success(), "{output:?}");
    Ok(String::from_utf8(output.stdout)?.contains("vnetd"))
}

fn abandoned() -> Outcome {
    let pair = Pair::new()?;
    let slot = pair.enter(pair.key(0, 0, Protocol::UDP, (4000, 5000)), 0);
    let [a, b] = &pair.machines;
    assert!(has_filter(a)?);
    offload::abandon(&pair.lab.name)?;
    assert!(!has_filter(a)? && !has_filter(b)?);
    for machine in [a, b] {
        assert!(link::find(&mut Netlink::open_in(&machine.ns)?, "cable-eth0")?.is_none());
    }
    assert!(!offload::pins(&pair.lab.name).as_ref().exists());
    a.udp(0, 4000)?.send_to(b"userspace's", SocketAddr::new(b.addresses[0], 5000))?;
    assert!(a.packet(LIMIT, |packet| packet.ends_with(b"userspace's")).is_some());
    assert_eq!(pair.counts(slot).0, 0);
    offload::abandon(&pair.lab.name)?;
    Ok(())
}
