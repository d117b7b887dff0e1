//! Writing UPDATEs of at most 4,096 bytes (RFC 4271 section 4.3, RFC 4760).

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;
use netgauze_bgp_pkt::community::Community;
use netgauze_bgp_pkt::nlri::{Ipv6Unicast, Ipv6UnicastAddress};
use netgauze_bgp_pkt::path_attribute::{
    As2PathSegment, As4Path, As4PathSegment, AsPath as WirePath, AsPathSegmentType, Communities,
    LocalPreference, MpReach, MpUnreach, MultiExitDiscriminator, NextHop, Origin as WireOrigin,
    PathAttribute, PathAttributeValue, UnknownAttribute,
};
use netgauze_parse_utils::WritablePdu;

use super::Coding;
use crate::message::{HEADER_BYTES, Kind, MAX_BYTES, seal};
use crate::types::{AS_TRANS, Aggregator, AsPath, Attributes, Family, Origin, Segment};

/// Bytes of an UPDATE's body: the two lengths, attributes and prefixes.
const BODY_BYTES: usize = MAX_BYTES - HEADER_BYTES;
/// Room for the headers of MP_REACH_NLRI and MP_UNREACH_NLRI with one next hop.
const MULTIPROTOCOL_BYTES: usize = 32;

/// UPDATEs that announce `prefixes`, all of one family, with these attributes. None if the attributes leave no room
/// for a prefix: such a route must not be advertised (RFC 4271 section 9.2).
pub fn encode(attributes: &Attributes, prefixes: &[IpNet], coding: &Coding) -> Option<Vec<Vec<u8>>> {
    let family = Family::of(prefixes.first()?);
    let mut shared = Vec::new();
    for attribute in common(attributes, coding) {
        append(&mut shared, attribute);
    }
    append_summary(&mut shared, attributes, coding);
    match (family, attributes.next_hop) {
        (Family::Ipv4, IpAddr::V4(next_hop)) => {
            let value = PathAttributeValue::NextHop(NextHop::new(next_hop));
            append(&mut shared, known(value, false, true));
            for opaque in &attributes.opaque {
                append_opaque(&mut shared, opaque.code, &opaque.value);
            }
            let room = BODY_BYTES.checked_sub(4 + shared.len())?;
            let messages = chunks(prefixes, room)?.into_iter().map(|nlri| update(&[], &shared, nlri));
            Some(messages.collect())
        }
        (Family::Ipv6, IpAddr::V6(next_hop)) => {
            for opaque in &attributes.opaque {
                append_opaque(&mut shared, opaque.code, &opaque.value);
            }
            let room = BODY_BYTES.checked_sub(4 + shared.len() + MULTIPROTOCOL_BYTES)?;
            let messages = chunks(prefixes, room)?.into_iter().map(|nlri| {
                let mut all = Vec::new();
                append(&mut all, reach_v6(next_hop, nlri));
                all.extend_from_slice(&shared);
                update(&[], &all, &[])
            });
            Some(messages.collect())
        }
        _ => None,
    }
}

/// UPDATEs that withdraw `prefixes`, of either family.
pub fn withdraw(prefixes: &[IpNet]) -> Vec<Vec<u8>> {
    let (v4, v6): (Vec<IpNet>, Vec<IpNet>) =
        prefixes.iter().partition(|prefix| matches!(prefix, IpNet::V4(_)));
    let mut messages = Vec::new();
    for gone in chunks(&v4, BODY_BYTES - 4).unwrap_or_default() {
        messages.push(update(gone, &[], &[]));
    }
    for gone in chunks(&v6, BODY_BYTES - 4 - MULTIPROTOCOL_BYTES).unwrap_or_default() {
        let mut attribute = Vec::new();
        append(&mut attribute, unreach_v6(gone));
        messages.push(update(&[], &attribute, &[]));
    }
    messages
}

/// The End-of-RIB marker of a family (RFC 4724 section 2).
pub fn end_of_rib(family: Family) -> Vec<u8> {
    let mut attribute = Vec::new();
    if family == Family::Ipv6 {
        append(&mut attribute, unreach_v6(&[]));
    }
    update(&[], &attribute, &[])
}

fn update(withdrawn: &[IpNet], attributes: &[u8], nlri: &[IpNet]) -> Vec<u8> {
    let mut gone = Vec::new();
    withdrawn.iter().for_each(|prefix| append_prefix(&mut gone, prefix));
    let mut body = Vec::with_capacity(BODY_BYTES);
    body.extend_from_slice(&(gone.len() as u16).to_be_bytes());
    body.extend_from_slice(&gone);
    body.extend_from_slice(&(attributes.len() as u16).to_be_bytes());
    body.extend_from_slice(attributes);
    nlri.iter().for_each(|prefix| append_prefix(&mut body, prefix));
    seal(Kind::Update, &body)
}

fn prefix_bytes(prefix: &IpNet) -> usize {
    1 + usize::from(prefix.prefix_len()).div_ceil(8)
}

fn append_prefix(bytes: &mut Vec<u8>, prefix: &IpNet) {
    let used = prefix_bytes(prefix) - 1;
    bytes.push(prefix.prefix_len());
    match prefix {
        IpNet::V4(prefix) => bytes.extend_from_slice(&prefix.network().octets()[..used]),
        IpNet::V6(prefix) => bytes.extend_from_slice(&prefix.network().octets()[..used]),
    }
}

/// Runs of prefixes of at most `room` bytes each; none if not even the longest prefix fits.
fn chunks(prefixes: &[IpNet], room: usize) -> Option<Vec<&[IpNet]>> {
    let (mut runs, mut begin, mut bytes) = (Vec::new(), 0, 0);
    for (at, prefix) in prefixes.iter().enumerate() {
        let more = prefix_bytes(prefix);
        if more > room {
            return None;
        }
        if bytes + more > room {
            runs.push(&prefixes[begin..at]);
            (begin, bytes) = (at, 0);
        }
        bytes += more;
    }
    if begin < prefixes.len() {
        runs.push(&prefixes[begin..]);
    }
    Some(runs)
}

/// ORIGIN, AS_PATH, AS4_PATH, MULTI_EXIT_DISC, LOCAL_PREF and COMMUNITIES.
fn common(attributes: &Attributes, coding: &Coding) -> Vec<PathAttribute> {
    let origin = match attributes.origin {
        Origin::Igp => WireOrigin::IGP,
        Origin::Egp => WireOrigin::EGP,
        Origin::Incomplete => WireOrigin::Incomplete,
    };
    let mut all = vec![known(PathAttributeValue::Origin(origin), false, true)];
    all.push(known(PathAttributeValue::AsPath(wire_path(&attributes.as_path, coding)), false, true));
    if !coding.four_octet && attributes.as_path.asns().any(|asn| asn > u32::from(u16::MAX)) {
        let path = As4Path::new(wide_segments(&attributes.as_path));
        all.push(known(PathAttributeValue::As4Path(path), true, true));
    }
    if let Some(med) = attributes.med {
        let med = MultiExitDiscriminator::new(med);
        all.push(known(PathAttributeValue::MultiExitDiscriminator(med), true, false));
    }
    if let Some(preference) = attributes.local_pref.filter(|_| coding.neighbour.is_none()) {
        let preference = LocalPreference::new(preference);
        all.push(known(PathAttributeValue::LocalPreference(preference), false, true));
    }
    if !attributes.communities.is_empty() {
        let communities: Vec<Community> =
            attributes.communities.iter().copied().map(Community::new).collect();
        all.push(known(PathAttributeValue::Communities(Communities::new(communities)), true, true));
    }
    all
}

fn known(value: PathAttributeValue, optional: bool, transitive: bool) -> PathAttribute {
    let long = matches!(
        value,
        PathAttributeValue::AsPath(_)
            | PathAttributeValue::As4Path(_)
            | PathAttributeValue::Communities(_)
            | PathAttributeValue::MpReach(_)
            | PathAttributeValue::MpUnreach(_)
    );
    PathAttribute::from(optional, transitive, false, long, value)
        .expect("the flags are those that RFC 4271 gives the attribute")
}

fn append(bytes: &mut Vec<u8>, attribute: PathAttribute) {
    attribute.write(bytes).expect("a vector takes every write");
}

/// ATOMIC_AGGREGATE and AGGREGATOR, with AS4_AGGREGATOR for a number that two octets do not hold.
fn append_summary(bytes: &mut Vec<u8>, attributes: &Attributes, coding: &Coding) {
    if attributes.atomic_aggregate {
        bytes.extend_from_slice(&[0x40, 6, 0]);
    }
    let Some(Aggregator { asn, router_id }) = attributes.aggregator else { return };
    let narrow = u16::try_from(asn).ok().filter(|_| !coding.four_octet);
    let wide = |code: u8| [[0xc0, code, 8].as_slice(), &asn.to_be_bytes(), &router_id.octets()].concat();
    match narrow {
        _ if coding.four_octet => bytes.extend(wide(7)),
        narrow => {
            bytes.extend_from_slice(&[0xc0, 7, 6]);
            bytes.extend_from_slice(&narrow.unwrap_or(AS_TRANS).to_be_bytes());
            bytes.extend_from_slice(&router_id.octets());
            if narrow.is_none() {
                bytes.extend(wide(18));
            }
        }
    }
}

/// Unknown attributes are passed on with the Partial bit (RFC 4271 section 5).
fn append_opaque(bytes: &mut Vec<u8>, code: u8, value: &[u8]) {
    let value = PathAttributeValue::UnknownAttribute(UnknownAttribute::new(code, value));
    if let Ok(attribute) = PathAttribute::from(true, true, true, true, value) {
        append(bytes, attribute);
    }
}

fn kind(segment: &Segment) -> (AsPathSegmentType, &[u32]) {
    match segment {
        Segment::Sequence(asns) => (AsPathSegmentType::AsSequence, asns),
        Segment::Set(asns) => (AsPathSegmentType::AsSet, asns),
    }
}

fn wide_segments(path: &AsPath) -> Vec<As4PathSegment> {
    path.0.iter().map(kind).map(|(kind, asns)| As4PathSegment::new(kind, asns.to_vec())).collect()
}

fn wire_path(path: &AsPath, coding: &Coding) -> WirePath {
    if coding.four_octet {
        return WirePath::as4_path_segments(wide_segments(path));
    }
    let narrow = |asn: &u32| u16::try_from(*asn).unwrap_or(AS_TRANS);
    let segments: Vec<As2PathSegment> = path
        .0
        .iter()
        .map(kind)
        .map(|(kind, asns)| As2PathSegment::new(kind, asns.iter().map(narrow).collect::<Vec<_>>()))
        .collect();
    WirePath::as2_path_segments(segments)
}

fn addresses_v6(prefixes: &[IpNet]) -> Vec<Ipv6UnicastAddress> {
    prefixes
        .iter()
        .filter_map(|prefix| match prefix {
            IpNet::V6(prefix) => Ipv6Unicast::from_net(*prefix).ok(),
            IpNet::V4(_) => None,
        })
        .map(|prefix| Ipv6UnicastAddress::new(None, prefix))
        .collect()
}

fn reach_v6(next_hop_global: Ipv6Addr, prefixes: &[IpNet]) -> PathAttribute {
    let nlri = addresses_v6(prefixes).into();
    let reach = MpReach::Ipv6Unicast { next_hop_global, next_hop_local: None, nlri };
    known(PathAttributeValue::MpReach(reach), true, false)
}

fn unreach_v6(prefixes: &[IpNet]) -> PathAttribute {
    let unreach = MpUnreach::Ipv6Unicast { nlri: addresses_v6(prefixes).into() };
    known(PathAttributeValue::MpUnreach(unreach), true, false)
}
