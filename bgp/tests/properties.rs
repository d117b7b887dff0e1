//! Whatever comes, nothing panics; however it comes, the same messages are read; and neighbours agree in the end.

mod net;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use net::{Net, address};
use proptest::collection::vec;
use proptest::prelude::*;
use vnet_bgp::message::update::{Coding, decode, encode, withdraw};
use vnet_bgp::message::{Framer, Notification, Open, keepalive, refreshed, route_refresh};
use vnet_bgp::types::Opaque;
use vnet_bgp::{Aggregator, AsPath, Attributes, Family, Origin, Segment};

fn any_v4() -> impl Strategy<Value = IpNet> {
    (1_u32..0xdfff_ffff, 0_u8..=32)
        .prop_map(|(bits, length)| IpNet::V4(Ipv4Net::new(Ipv4Addr::from(bits), length).unwrap().trunc()))
}

fn any_v6() -> impl Strategy<Value = IpNet> {
    (any::<u64>(), 0_u8..=128).prop_map(|(bits, length)| {
        let address = Ipv6Addr::from((u128::from(bits) << 56) | (0x20 << 120));
        IpNet::V6(Ipv6Net::new(address, length).unwrap().trunc())
    })
}

fn any_path() -> impl Strategy<Value = AsPath> {
    let asns = || vec(1_u32..=u32::MAX, 1..6);
    let segment = prop_oneof![asns().prop_map(Segment::Sequence), asns().prop_map(Segment::Set)];
    vec(segment, 0..4).prop_map(AsPath)
}

fn any_attributes(next_hop: IpAddr) -> impl Strategy<Value = Attributes> {
    let origin = prop_oneof![Just(Origin::Igp), Just(Origin::Egp), Just(Origin::Incomplete)];
    let opaque = vec((100_u8..128, vec(any::<u8>(), 0..300)), 0..2);
    let communities = proptest::collection::btree_set(any::<u32>(), 0..80);
    let aggregator = proptest::option::of((1_u32..=u32::MAX, any::<u32>()));
    let summary = (any::<bool>(), aggregator);
    (origin, any_path(), any::<(Option<u32>, Option<u32>)>(), communities, opaque, summary).prop_map(
        move |(
            origin,
            as_path,
            (med, local_pref),
            communities,
            mut opaque,
            (atomic_aggregate, aggregator),
        )| {
            opaque.dedup_by_key(|one| one.0);
            opaque.sort();
            let communities = communities.into_iter().collect();
            let opaque = opaque.into_iter().map(|(code, value)| Opaque { code, value }).collect();
            Attributes {
                origin,
                as_path,
                next_hop,
                med,
                local_pref,
                atomic_aggregate,
                aggregator: aggregator.map(|(asn, id)| Aggregator { asn, router_id: id.into() }),
                communities,
                opaque,
            }
        },
    )
}

fn wide() -> Coding {
    Coding { four_octet: true, families: Family::ALL.to_vec(), neighbour: None }
}

fn any_announcement() -> impl Strategy<Value = (Attributes, Vec<IpNet>)> {
    let v4 = (any_attributes("10.0.0.1".parse().unwrap()), vec(any_v4(), 1..1_500));
    let v6 = (any_attributes("fd00::1".parse().unwrap()), vec(any_v6(), 1..600));
    prop_oneof![v4, v6]
}

fn some_messages() -> Vec<Vec<u8>> {
    let router_id = Ipv4Addr::new(10, 0, 0, 2);
    let families = Family::ALL.to_vec();
    let open = Open {
        asn: 4_200_000_000,
        hold_time_s: 90,
        router_id,
        families,
        four_octet: true,
        route_refresh: true,
    };
    let attributes = Attributes {
        as_path: AsPath::sequence([1, 2, 70_000]),
        communities: vec![1],
        ..Attributes::local("fd00::1".parse().unwrap())
    };
    let v6: IpNet = "2001:db8::/32".parse().unwrap();
    let v4: IpNet = "10.0.0.0/8".parse().unwrap();
    let mut messages = vec![open.encode(), keepalive(), route_refresh(Family::Ipv6)];
    messages.extend(encode(&attributes, &[v6], &wide()).unwrap());
    let attributes = Attributes { next_hop: "10.0.0.1".parse().unwrap(), ..attributes };
    messages.extend(encode(&attributes, &[v4], &wide()).unwrap());
    messages.extend(withdraw(&[v4, v6]));
    messages.push(Notification::shutdown("done").encode());
    messages
}

fn read_all(bytes: &[u8], coding: &Coding) {
    let _ = decode(bytes, coding);
    let _ = Open::decode(bytes);
    let _ = Notification::decode(bytes).to_string();
    let _ = refreshed(bytes);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn garbage_is_refused_without_a_panic(bytes in vec(any::<u8>(), 0..300), four_octet: bool) {
        read_all(&bytes, &Coding { four_octet, ..wide() });
        let mut framer = Framer::default();
        framer.push(&bytes);
        while let Ok(Some(_)) = framer.next_frame() {}
    }

    #[test]
    fn a_mutated_message_is_read_or_refused(
        which in 0_usize..8, changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut: prop::sample::Index, four_octet: bool,
    ) {
        let messages = some_messages();
        let mut body = messages[which % messages.len()][19..].to_vec();
        for (at, value) in changes {
            if !body.is_empty() {
                let at = at.index(body.len());
                body[at] = value;
            }
        }
        let coding = Coding { four_octet, ..wide() };
        read_all(&body, &coding);
        read_all(&body[..cut.index(body.len() + 1)], &coding);
    }

    #[test]
    fn the_pieces_that_a_stream_comes_in_do_not_matter(cuts in vec(1_usize..60, 1..200)) {
        let messages = some_messages();
        let stream = messages.concat();
        let (mut framer, mut read, mut rest) = (Framer::default(), Vec::new(), stream.as_slice());
        for length in cuts.into_iter().chain(std::iter::repeat(60)) {
            if rest.is_empty() {
                break;
            }
            let (piece, more) = rest.split_at(length.min(rest.len()));
            rest = more;
            framer.push(piece);
            while let Some(frame) = framer.next_frame().unwrap() {
                read.push((frame.kind as u8, frame.body));
            }
        }
        let whole: Vec<_> = messages.iter().map(|one| (one[18], one[19..].to_vec())).collect();
        prop_assert_eq!(read, whole);
    }

    #[test]
    fn what_is_written_is_read_again((attributes, prefixes) in any_announcement(), four_octet: bool) {
        // Without AS4_PATH a set that is mixed with wide numbers cannot come back (RFC 6793 section 4.2.3), nor does a path
        // that an old speaker seems to have summarised, whose number stands in two octets.
        let narrow = attributes.aggregator.is_some_and(|one| u16::try_from(one.asn).is_ok());
        let four_octet = four_octet || attributes.as_path.0.len() > 1 || narrow;
        let coding = Coding { four_octet, ..wide() };
        let mut read = Vec::new();
        for message in encode(&attributes, &prefixes, &coding).unwrap() {
            prop_assert!(message.len() <= 4_096);
            let update = decode(&message[19..], &coding).unwrap();
            prop_assert!(update.faults.is_empty(), "{:?}", update.faults);
            for one in update.announced {
                prop_assert_eq!(&*one.attributes, &attributes);
                read.extend(one.prefixes);
            }
        }
        prop_assert_eq!(read, prefixes);
    }
}

#[derive(Debug, Clone)]
enum Step {
    Originate(usize, Vec<u8>),
    Flap(usize, usize),
    Wait(u64),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0_usize..3, vec(0_u8..12, 0..8)).prop_map(|(at, routes)| Step::Originate(at, routes)),
        1 => (0_usize..3, 0_usize..3).prop_map(|(at, of)| Step::Flap(at, of)),
        2 => (0_u64..400).prop_map(Step::Wait),
    ]
}

fn routes(which: &[u8]) -> Vec<String> {
    let name = |one: &u8| {
        if one.is_multiple_of(2) { format!("10.{one}.0.0/16") } else { format!("fd00:{one}::/32") }
    };
    which.iter().map(name).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_neighbour_knows_what_it_was_told(steps in vec(any_step(), 1..25)) {
        let asns = [65_101, 65_102, 4_200_000_003];
        let links = [(0, 1), (1, 2), (0, 2)];
        let mut net = Net::new(&asns);
        net.link(&asns, &links);
        for step in steps {
            match step {
                Step::Originate(at, which) => {
                    let names = routes(&which);
                    net.originate(at, &names.iter().map(String::as_str).collect::<Vec<_>>());
                }
                Step::Flap(at, of) if at != of => {
                    net.stop(at, of, "flap");
                    net.input(at, address(of), vnet_bgp::Input::Start);
                }
                Step::Flap(..) => {}
                Step::Wait(millis) => net.run(Duration::from_millis(millis)),
            }
        }
        net.run_s(600);
        for (a, b) in links.into_iter().flat_map(|(a, b)| [(a, b), (b, a)]) {
            prop_assert!(net.is_up(a, b), "{:?}", net.status(a, b));
            let told: Vec<_> = net.speakers[a]
                .advertised_routes(address(b))
                .into_iter()
                .map(|row| (row.network, row.as_path, row.next_hop))
                .collect();
            let known: Vec<_> = net.speakers[b]
                .received(address(a))
                .into_iter()
                .map(|(network, route)| (network, route.as_path.to_string(), Some(route.next_hop)))
                .collect();
            prop_assert_eq!(told, known);
        }
    }
}
