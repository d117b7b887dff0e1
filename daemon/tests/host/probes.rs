//! Built-in probes, over a cable between namespaces with a kernel router in the middle.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use vnetd::host::link::{self, LinkSpec, RouteSpec};
use vnetd::host::netns::Netns;
use vnetd::host::probe::{
    self, Cancel, Deadline, Outcome, Responder, Service, TrafficSpec, Transport, icmp_echo, tcp_connect,
    udp_echo,
};
use vnetd::host::sysctl;

use crate::lab::Lab;
use crate::{Case, Outcome as Done};

pub(crate) fn tests() -> Vec<Case> {
    vec![
        ("probes_are_answered_in_both_families", answered),
        ("probes_tell_why_not", tell_why_not),
        ("a_probe_ends_at_its_deadline_or_when_cancelled", ends_in_time),
        ("a_port_that_a_program_has_is_left_to_it", port_in_use),
        ("a_trace_lists_the_routers", trace_lists_routers),
        ("traffic_is_counted_where_it_arrives", traffic_is_counted),
    ]
}

/// `a` - `r` - `b`, with a router that is a kernel.
struct Line {
    _lab: Lab,
    a: Netns,
    b: Netns,
}

impl Line {
    fn new() -> Self {
        let lab = Lab::new();
        let (a, r, b) = (lab.namespace("a"), lab.namespace("r"), lab.namespace("b"));
        r.run(sysctl::apply_forwarding).unwrap().unwrap();
        for (end, near, subnet) in [(&a, "a", 1), (&b, "b", 2)] {
            link::veth(&r, near, end, "eth0").unwrap();
            let spec = |name: &str, host: u8| LinkSpec {
                name: name.into(),
                mtu: None,
                addresses: vec![
                    format!("10.0.{subnet}.{host}/24").parse().unwrap(),
                    format!("fd00:{subnet}::{host}/64").parse().unwrap(),
                ],
                routes: Vec::new(),
            };
            link::apply_in(&r, &[spec(near, 1)]).unwrap();
            let gateways = [format!("10.0.{subnet}.1"), format!("fd00:{subnet}::1")]
                .map(|address| address.parse().unwrap());
            let mut host = spec("eth0", 4);
            host.routes = RouteSpec::defaults()
                .into_iter()
                .zip(gateways)
                .map(|(route, gateway)| RouteSpec { gateway: Some(gateway), ..route })
                .collect();
            link::apply_in(end, &[host]).unwrap();
        }
        Self { _lab: lab, a, b }
    }
}

const B4: &str = "10.0.2.4";
const B6: &str = "fd00:2::4";

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(5))
}

fn answered() -> Done {
    let line = Line::new();
    let tcp = Responder::open(&line.b, Service::Tcp, 443)?.ok_or("443 is taken")?;
    let udp = Responder::open(&line.b, Service::Udp, 53)?.ok_or("53 is taken")?;
    for (target, own) in [(B4, "10.0.1.4"), (B6, "fd00:1::4")] {
        let (target, own): (IpAddr, IpAddr) = (target.parse()?, own.parse()?);
        let reports = [
            icmp_echo(&line.a, None, target, 56, &soon())?,
            icmp_echo(&line.a, Some(own), target, 4000, &soon())?,
            tcp_connect(&line.a, Some(own), SocketAddr::new(target, 443), &soon())?,
            udp_echo(&line.a, None, SocketAddr::new(target, 53), 100, &soon())?,
        ];
        for report in reports {
            let rtt = report.outcome.rtt().ok_or_else(|| format!("{target}: {report:?}"))?;
            assert!(rtt > Duration::ZERO && rtt < Duration::from_secs(5), "{rtt:?}");
            assert_eq!(report.source.map(|source| source.ip()), Some(own));
        }
        assert!(udp.seen().iter().any(|peer| peer.ip() == own), "{:?}", udp.seen());
        let deadline = Instant::now() + Duration::from_secs(5);
        while !tcp.seen().iter().any(|peer| peer.ip() == own) {
            assert!(Instant::now() < deadline, "{:?}", tcp.seen());
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    Ok(())
}

fn tell_why_not() -> Done {
    let line = Line::new();
    for (target, router, nowhere) in [(B4, "10.0.1.1", "192.0.2.1"), (B6, "fd00:1::1", "2001:db8::1")] {
        let (target, router, nowhere): (IpAddr, IpAddr, IpAddr) =
            (target.parse()?, router.parse()?, nowhere.parse()?);
        let closed = SocketAddr::new(target, 81);
        assert!(matches!(tcp_connect(&line.a, None, closed, &soon())?.outcome, Outcome::Refused(_)));
        assert!(matches!(udp_echo(&line.a, None, closed, 10, &soon())?.outcome, Outcome::Refused(_)));
        // The router has no route there.
        match icmp_echo(&line.a, None, nowhere, 10, &soon())?.outcome {
            Outcome::Unreachable { by, code: Some(0) } => assert_eq!(by, Some(router)),
            other => return Err(format!("{nowhere}: {other:?}").into()),
        }
        let syn = tcp_connect(&line.a, None, SocketAddr::new(nowhere, 80), &soon())?;
        assert!(matches!(syn.outcome, Outcome::Unreachable { .. }), "{syn:?}");
    }
    let lab = Lab::new();
    let lonely = lab.namespace("lonely");
    let report = icmp_echo(&lonely, None, B4.parse()?, 10, &soon())?;
    assert_eq!((report.outcome, report.source), (Outcome::NotSent(libc::ENETUNREACH), report.source));
    Ok(())
}

fn ends_in_time() -> Done {
    let lab = Lab::new();
    // A TUN that nobody reads: nothing ever answers.
    let (ns, _tun) = lab.machine("web", &["10.1.0.4/24"])?;
    let start = Instant::now();
    let brief = || Deadline::after(Duration::from_millis(120));
    assert_eq!(icmp_echo(&ns, None, B4.parse()?, 10, &brief())?.outcome, Outcome::TimedOut);
    assert_eq!(
        tcp_connect(&ns, None, SocketAddr::new(B4.parse()?, 80), &brief())?.outcome,
        Outcome::TimedOut
    );
    assert!(start.elapsed() >= Duration::from_millis(240));
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    let cancel = Cancel::default();
    let deadline = Deadline::or_cancelled(Duration::from_secs(60), &cancel);
    let start = Instant::now();
    let report = std::thread::scope(|scope| {
        let probe = scope.spawn(|| icmp_echo(&ns, None, B4.parse().unwrap(), 10, &deadline));
        std::thread::sleep(Duration::from_millis(50));
        cancel.cancel();
        probe.join().unwrap()
    })?;
    assert_eq!(report.outcome, Outcome::Cancelled);
    assert!(start.elapsed() < Duration::from_secs(2));
    Ok(())
}

fn port_in_use() -> Done {
    let line = Line::new();
    let program = line.b.run(|| std::net::TcpListener::bind("0.0.0.0:443"))??;
    assert!(Responder::open(&line.b, Service::Tcp, 443)?.is_none());
    let report = tcp_connect(&line.a, None, SocketAddr::new(B4.parse()?, 443), &soon())?;
    assert!(report.outcome.rtt().is_some(), "the program's own port answers: {report:?}");
    drop(program);
    let any = Responder::open(&line.b, Service::Tcp, 0)?.ok_or("no free port")?;
    assert_ne!(any.port(), 0);
    Ok(())
}

fn trace_lists_routers() -> Done {
    let line = Line::new();
    for (target, router) in [(B4, "10.0.1.1"), (B6, "fd00:1::1")] {
        let (target, router): (IpAddr, IpAddr) = (target.parse()?, router.parse()?);
        let hops = probe::trace(&line.a, None, target, 8, &soon())?;
        let found: Vec<_> = hops.iter().map(|hop| (hop.hops, hop.by, hop.is_destination)).collect();
        assert_eq!(found, [(1, Some(router), false), (2, Some(target), true)]);
    }
    Ok(())
}

fn traffic_is_counted() -> Done {
    let line = Line::new();
    let spec = |address: &str, transport, streams| TrafficSpec {
        destination: SocketAddr::new(address.parse().unwrap(), 5201),
        source: None,
        transport,
        duration: Duration::from_millis(600),
        streams,
        connect_timeout: Duration::from_secs(5),
    };
    let run = |spec: &TrafficSpec| {
        let mut sum = 0;
        let report = probe::traffic(&line.a, &line.b, spec, &Cancel::default(), |part| sum += part.bytes);
        report.map(|report| report.map(|report| (report, sum)))
    };
    let (report, sum) =
        run(&spec(B4, Transport::Tcp { rate_bps: None }, 4))?.map_err(|end| format!("{end:?}"))?;
    assert_eq!(report.bytes, sum, "the intervals add up to the whole");
    assert!(report.rate_bps() > 50e6 && !report.rtt_us.is_empty(), "{report:?}");

    let limited = spec(B6, Transport::Tcp { rate_bps: Some(8_000_000) }, 2);
    let (report, _) = run(&limited)?.map_err(|end| format!("{end:?}"))?;
    assert!(report.rate_bps() < 16e6, "{} b/s", report.rate_bps());

    let udp = spec(B4, Transport::Udp { rate_bps: 10_000_000, datagram_bytes: 1000 }, 2);
    let (report, _) = run(&udp)?.map_err(|end| format!("{end:?}"))?;
    assert!(report.datagrams_sent > 500 && report.datagrams_sent < 900, "{report:?}");
    assert!(report.datagrams_received * 10 >= report.datagrams_sent * 9, "{report:?}");

    let mut nowhere = spec("192.0.2.1", Transport::Tcp { rate_bps: None }, 1);
    nowhere.connect_timeout = Duration::from_millis(500);
    assert!(matches!(run(&nowhere)?, Err(Outcome::Unreachable { .. })));
    Ok(())
}
