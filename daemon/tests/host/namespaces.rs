//! Namespaces, devices, addresses, settings.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use vnetd::host::link::{self, LinkSpec, RouteSpec};
use vnetd::host::netlink::Netlink;
use vnetd::host::netns::{self, Netns};
use vnetd::host::{HostError, sysctl};
use vnetd::io::tun::{FRAME_BYTES_MAX, Offloads, Tun, TunQueue, TunSpec, VNET_HDR_BYTES, Written};

use crate::lab::{Lab, nic};
use crate::{Case, Outcome};

/// How long something that comes by itself may take on a machine that does other things too.
const LIMIT: Duration = Duration::from_secs(30);

pub(crate) fn tests() -> Vec<Case> {
    vec![
        ("namespaces_are_made_listed_and_removed", made_listed_and_removed),
        ("crash_leftovers_are_taken_over_and_removed", crash_leftovers),
        ("a_set_up_that_fails_leaves_nothing", failed_set_up),
        ("an_apply_changes_only_what_differs", apply_changes_only_what_differs),
        ("what_programs_added_stays", what_programs_added_stays),
        ("a_cable_joins_two_namespaces", cable),
        ("a_device_survives_its_daemon", re_attach),
        ("offloads_have_switches", offload_switches),
        ("an_idle_machine_is_silent", idle_machine_is_silent),
        ("packets_pass_both_ways", packets_pass_both_ways),
        ("settings_of_the_host_stay", host_settings_stay),
        ("deleting_is_fast_with_devices_attached", deleting_is_fast),
    ]
}

fn made_listed_and_removed() -> Outcome {
    let lab = Lab::new();
    let name = lab.ns_name("web");
    let ns = netns::create(&name)?;
    let again = netns::create(&name)?;
    assert_eq!(ns.id()?, again.id()?, "the second call opens the first one's namespace");
    assert_ne!(ns.id()?, Netns::current()?.id()?);
    assert_eq!(ns.run(Netns::current)??.id()?, ns.id()?);
    netns::create(&lab.ns_name("db"))?;
    let names: Vec<_> = netns::list(Some(&lab.name))?.iter().map(|name| name.vm().to_owned()).collect();
    assert_eq!(names, ["db", "web"]);
    let shown = std::process::Command::new("ip").args(["netns", "list"]).output()?;
    assert!(String::from_utf8_lossy(&shown.stdout).contains(name.as_str()), "ip netns shows it");
    netns::delete(&name)?;
    netns::delete(&name)?;
    assert!(Netns::open(&name).is_err_and(|error| error.is_missing()));
    assert_eq!(netns::list(Some(&lab.name))?.len(), 1);
    Ok(())
}

fn crash_leftovers() -> Outcome {
    let lab = Lab::new();
    netns::prepare_dir()?;
    let name = lab.ns_name("web");
    fs::write(name.path(), "")?;
    assert!(matches!(Netns::open(&name), Err(HostError::Mismatch { .. })));
    assert_eq!(netns::list(Some(&lab.name))?.len(), 1);
    netns::delete(&name)?;
    fs::write(name.path(), "")?;
    let ns = netns::create(&name)?;
    assert_eq!(Netns::open(&name)?.id()?, ns.id()?);
    Ok(())
}

fn failed_set_up() -> Outcome {
    let lab = Lab::new();
    let name = lab.ns_name("web");
    let failed = netns::create_with(&name, |_| Err::<(), _>(HostError::Invalid("no".into())));
    assert!(failed.is_err());
    assert!(!name.path().exists());
    // One that was there before is not this call's to remove.
    netns::create(&name)?;
    assert!(netns::create_with(&name, |_| Err::<(), _>(HostError::Invalid("no".into()))).is_err());
    Netns::open(&name)?;
    Ok(())
}

fn apply_changes_only_what_differs() -> Outcome {
    let lab = Lab::new();
    let (ns, _tun) = lab.machine("web", &["10.1.0.4/24", "fd00::4/64"])?;
    let mut netlink = Netlink::open_in(&ns)?;
    let spec = nic(&["10.1.0.4/24", "fd00::4/64"]);
    assert_eq!(link::apply(&mut netlink, &spec)?, 0, "the second time nothing is left to do");
    assert_eq!(link::find(&mut netlink, "eth0")?.unwrap().mtu, 1500);
    assert_eq!(link::find(&mut netlink, "eth7")?, None);

    let mut changed = nic(&["10.1.0.5/24", "10.1.0.6/24", "fd00::4/64"]);
    changed.mtu = Some(1400);
    changed.routes.push(RouteSpec::on_link("192.0.2.0/24".parse()?));
    // MTU; two addresses come, one goes; one route comes. The first address of a subnet leaves its others in place.
    assert_eq!(link::apply(&mut netlink, &changed)?, 5);
    assert_eq!(link::apply(&mut netlink, &changed)?, 0);
    assert!(can_bind(&ns, "10.1.0.5") && can_bind(&ns, "10.1.0.6") && can_bind(&ns, "fd00::4"));
    assert!(!can_bind(&ns, "10.1.0.4"));

    changed.routes.retain(|route| route.destination.prefix_len() == 0);
    changed.addresses.clear();
    // Three addresses go, and with the last one of IPv4 the kernel drops its routes: the default route is set again, the
    // other one needs no removal.
    assert_eq!(link::apply(&mut netlink, &changed)?, 4);
    assert_eq!(link::apply(&mut netlink, &changed)?, 0);
    let missing = LinkSpec { name: "eth7".into(), ..LinkSpec::default() };
    assert!(matches!(link::apply(&mut netlink, &missing), Err(HostError::Mismatch { .. })));
    Ok(())
}

fn can_bind(ns: &Netns, address: &str) -> bool {
    let address: IpAddr = address.parse().unwrap();
    ns.run(|| TcpListener::bind((address, 0)).is_ok()).unwrap()
}

fn what_programs_added_stays() -> Outcome {
    let lab = Lab::new();
    let (ns, _tun) = lab.machine("nva", &["10.0.2.4/24"])?;
    ns.run(|| {
        let ip =
            |args: &str| std::process::Command::new("ip").args(args.split(' ')).status().unwrap().success();
        assert!(ip("address add 10.9.9.9/32 dev eth0"));
        assert!(ip("route add 203.0.113.0/24 dev eth0"));
    })?;
    let mut netlink = Netlink::open_in(&ns)?;
    assert_eq!(link::apply(&mut netlink, &nic(&["10.0.2.5/24"]))?, 2);
    assert!(can_bind(&ns, "10.9.9.9"));
    let routes = ns.run(|| std::process::Command::new("ip").args(["route", "show"]).output())??;
    assert!(String::from_utf8_lossy(&routes.stdout).contains("203.0.113.0/24"));
    Ok(())
}

fn cable() -> Outcome {
    let lab = Lab::new();
    let (near, far) = (lab.namespace("internet"), lab.namespace("hq"));
    link::veth(&near, "hq", &far, "eth0")?;
    link::veth(&near, "hq", &far, "eth0")?;
    let end = |name: &str, address: &str| LinkSpec {
        name: name.into(),
        addresses: vec![address.parse().unwrap()],
        ..LinkSpec::default()
    };
    link::apply_in(&near, &[end("hq", "198.51.100.1/31")])?;
    link::apply_in(&far, &[end("eth0", "198.51.100.0/31")])?;
    let receiver = far.run(|| UdpSocket::bind("198.51.100.0:9"))??;
    receiver.set_read_timeout(Some(LIMIT))?;
    near.run(|| UdpSocket::bind("198.51.100.1:0")?.send_to(b"hello", "198.51.100.0:9"))??;
    let mut buffer = [0; 16];
    assert_eq!(receiver.recv_from(&mut buffer)?.0, 5);
    let mut netlink = Netlink::open_in(&near)?;
    link::delete(&mut netlink, "hq")?;
    link::delete(&mut netlink, "hq")?;
    assert_eq!(link::find(&mut Netlink::open_in(&far)?, "eth0")?, None, "both ends go");
    Ok(())
}

fn re_attach() -> Outcome {
    let lab = Lab::new();
    let spec = nic(&["10.1.0.4/24", "fd00::4/64"]);
    let (ns, tun) = lab.machine("web", &["10.1.0.4/24", "fd00::4/64"])?;
    let index = link::find(&mut Netlink::open_in(&ns)?, "eth0")?.unwrap().index;
    drop(tun);
    drop(ns);
    // What a daemon that was killed leaves: names, devices, addresses.
    let ns = Netns::open(&lab.ns_name("web"))?;
    let mut netlink = Netlink::open_in(&ns)?;
    assert_eq!(link::find(&mut netlink, "eth0")?.unwrap().index, index);
    assert!(can_bind(&ns, "10.1.0.4"));
    let tun = ns.run(|| Tun::attach(&TunSpec::new("eth0", 2)))??;
    assert_eq!((tun.queues().len(), tun.name()), (2, "eth0"));
    assert_eq!(link::apply(&mut netlink, &spec)?, 0, "device, addresses and routes are as before");
    // The kernel lets a device send again a moment after somebody holds it: what comes before that is lost.
    let deadline = Instant::now() + LIMIT;
    let frame = loop {
        send_udp(&ns, "10.1.0.4", "10.2.0.4", 100)?;
        if let Some(frame) = frame_within(&tun, "10.2.0.4", Duration::from_millis(100)) {
            break frame;
        }
        assert!(Instant::now() < deadline, "the device sends nothing");
    };
    assert_eq!(frame.len(), VNET_HDR_BYTES + 20 + 8 + 100);
    let busy = ns.run(|| Tun::attach(&TunSpec { queues: 300, ..TunSpec::new("eth0", 1) }))?;
    assert!(busy.is_err(), "more queues than the kernel has");
    Ok(())
}

fn offload_switches() -> Outcome {
    let lab = Lab::new();
    let (ns, mut tun) = lab.machine("web", &["10.1.0.4/24"])?;
    let needs_checksum = |frame: &[u8]| frame[0] & 1 == 1;
    assert!(tun.offloads().tso4);
    send_udp(&ns, "10.1.0.4", "10.2.0.4", 100)?;
    assert!(needs_checksum(&frame_to(&tun, "10.2.0.4")), "the guest leaves the checksum to us");
    tun.set_offloads(Offloads::NONE)?;
    send_udp(&ns, "10.1.0.4", "10.2.0.4", 100)?;
    assert!(!needs_checksum(&frame_to(&tun, "10.2.0.4")), "the guest sums by itself");
    tun.set_offloads(Offloads { csum: false, ..Offloads::ALL })?;
    assert_eq!(tun.offloads(), Offloads::NONE, "nothing can be segmented without checksums");
    tun.set_offloads(Offloads { uso: false, ..Offloads::ALL })?;
    send_segmented(&ns)?;
    assert_eq!(frame_to(&tun, "10.2.0.4").len(), VNET_HDR_BYTES + 28 + 1000, "UDP comes split");
    tun.set_offloads(Offloads::ALL)?;
    if tun.offloads().uso {
        drain(&tun);
        send_segmented(&ns)?;
        assert_eq!(frame_to(&tun, "10.2.0.4").len(), VNET_HDR_BYTES + 28 + 5000, "UDP comes whole");
    }
    Ok(())
}

/// Five datagrams of 1000 bytes in one system call.
fn send_segmented(ns: &Netns) -> Outcome {
    ns.run(|| -> std::io::Result<()> {
        let socket = UdpSocket::bind("10.1.0.4:0")?;
        nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::UdpGsoSegment, &1000)?;
        socket.send_to(&[7; 5000], "10.2.0.4:9").map(drop)
    })??;
    Ok(())
}

fn idle_machine_is_silent() -> Outcome {
    let lab = Lab::new();
    let (ns, tun) = lab.machine("web", &["10.1.0.4/24", "2001:db8::4/64"])?;
    // Router solicitations come after 1 to 5 s, duplicate detection and multicast reports within 2.
    let deadline = Instant::now() + Duration::from_secs(6);
    let mut buffer = vec![0; FRAME_BYTES_MAX];
    while Instant::now() < deadline {
        for queue in tun.queues() {
            if let Some(len) = queue.read(&mut buffer)? {
                return Err(format!("an idle machine sent {:02x?}", &buffer[..len]).into());
            }
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    // The silence above means something only if the ears work.
    send_udp(&ns, "2001:db8::4", "2001:db8:1::9", 10)?;
    assert_eq!(frame_to(&tun, "2001:db8:1::9").len(), VNET_HDR_BYTES + 40 + 8 + 10);
    Ok(())
}

fn packets_pass_both_ways() -> Outcome {
    let lab = Lab::new();
    let (web, web_tun) = lab.machine("web", &["10.1.0.4/24"])?;
    let (db, db_tun) = lab.machine("db", &["10.2.0.4/24"])?;
    let receiver = db.run(|| UdpSocket::bind("10.2.0.4:9"))??;
    receiver.set_read_timeout(Some(LIMIT))?;
    send_udp(&web, "10.1.0.4", "10.2.0.4", 100)?;
    let mut frame = frame_to(&web_tun, "10.2.0.4");
    assert_eq!(db_tun.queues()[0].write(&frame), Written::Delivered);
    let (len, from) = receiver.recv_from(&mut [0; 200])?;
    assert_eq!((len, from.ip()), (100, "10.1.0.4".parse::<IpAddr>()?));
    frame.truncate(VNET_HDR_BYTES - 1);
    assert_eq!(db_tun.queues()[0].write(&frame), Written::Refused);
    let mut netlink = Netlink::open_in(&db)?;
    link::delete(&mut netlink, "eth0")?;
    assert_eq!(db_tun.queues()[0].write(&[0; 60]), Written::DeviceDown);
    Ok(())
}

fn host_settings_stay() -> Outcome {
    let before = host_settings();
    assert!(before.len() > 20, "the host's settings can be read");
    let lab = Lab::new();
    let (ns, _tun) = lab.machine("web", &["10.1.0.4/24", "fd00::4/64"])?;
    ns.run(sysctl::apply_forwarding)??;
    assert_eq!(ns.run(|| sysctl::get("net/ipv4/ip_forward"))??, "1");
    assert_eq!(ns.run(|| sysctl::get("net/ipv4/ping_group_range"))??, "0\t2147483647");
    assert_eq!(ns.run(|| sysctl::get("net/ipv6/conf/eth0/addr_gen_mode"))??, "1");
    ns.run(|| sysctl::set("net/ipv4/ip_forward", "0"))??;
    assert_eq!(ns.run(|| sysctl::get("net/ipv4/ip_forward"))??, "0");
    assert!(ns.run(|| sysctl::set("net/ipv4/no_such_setting", "0"))?.is_err_and(|error| error.is_missing()));
    assert_eq!(host_settings(), before);
    Ok(())
}

fn host_settings() -> BTreeMap<String, String> {
    let mut settings = BTreeMap::new();
    for folder in ["ipv4", "ipv4/conf/all", "ipv4/conf/default", "ipv6/conf/all", "ipv6/conf/default"] {
        let Ok(entries) = fs::read_dir(Path::new("/proc/sys/net").join(folder)) else { continue };
        for path in entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_file()) {
            // Some can only be written.
            if let Ok(value) = fs::read_to_string(&path) {
                settings.insert(path.display().to_string(), value);
            }
        }
    }
    // Counts, not settings.
    settings.retain(|path, _| {
        !path.contains("tcp_mem") && !path.contains("udp_mem") && !path.contains("fib_sync")
    });
    settings
}

fn deleting_is_fast() -> Outcome {
    let lab = Lab::new();
    let machines: Vec<_> =
        (0..20).map(|n| lab.machine(&format!("vm{n}"), &["10.1.0.4/24"])).collect::<Result<_, _>>()?;
    let start = Instant::now();
    for name in netns::list(Some(&lab.name))? {
        netns::delete(&name)?;
    }
    drop(machines);
    let took = start.elapsed();
    // Closing devices that are not persistent takes 20 ms and more each.
    assert!(took < Duration::from_millis(200), "{took:?} for 20 machines");
    Ok(())
}

fn send_udp(ns: &Netns, from: &str, to: &str, bytes: usize) -> Outcome {
    let (from, to): (IpAddr, IpAddr) = (from.parse()?, to.parse()?);
    ns.run(|| UdpSocket::bind((from, 0))?.send_to(&vec![7; bytes], (to, 9)))??;
    Ok(())
}

fn drain(tun: &Tun) {
    let mut buffer = vec![0; FRAME_BYTES_MAX];
    while tun.queues().iter().any(|queue| queue.read(&mut buffer).unwrap().is_some()) {}
}

/// The next frame to `address`, on whichever queue it comes.
fn frame_to(tun: &Tun, address: &str) -> Vec<u8> {
    frame_within(tun, address, LIMIT).unwrap_or_else(|| panic!("no frame to {address}"))
}

fn frame_within(tun: &Tun, address: &str, limit: Duration) -> Option<Vec<u8>> {
    let wanted: IpAddr = address.parse().unwrap();
    let mut buffer = vec![0; FRAME_BYTES_MAX];
    let deadline = Instant::now() + limit;
    let read = |queue: &TunQueue, buffer: &mut [u8]| queue.read(buffer).unwrap();
    while Instant::now() < deadline {
        for queue in tun.queues() {
            if let Some(len) = read(queue, &mut buffer) {
                let packet = &buffer[VNET_HDR_BYTES..len];
                let destination = match packet[0] >> 4 {
                    4 => IpAddr::from(<[u8; 4]>::try_from(&packet[16..20]).unwrap()),
                    _ => IpAddr::from(<[u8; 16]>::try_from(&packet[24..40]).unwrap()),
                };
                if destination == wanted {
                    return Some(buffer[..len].to_vec());
                }
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    None
}
