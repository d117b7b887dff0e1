//! Reading an UPDATE (RFC 4271 section 6.3, RFC 7606).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netgauze_bgp_pkt::path_attribute::{
    As4PathSegment, AsPath as WirePath, AsPathSegmentType, MpReach, MpUnreach, Origin as WireOrigin,
    PathAttribute, PathAttributeValue,
};
use netgauze_bgp_pkt::wire::deserializer::BgpParsingContext;
use netgauze_parse_utils::reader::SliceReader;
use netgauze_parse_utils::traits::ParseFromWithOneInput;

use super::{Announcement, Coding, Fault, Update};
use crate::message::Notification;
use crate::types::{AS_TRANS, Aggregator, AsPath, Attributes, Family, Opaque, Origin, Segment};

const ORIGIN: u8 = 1;
const AS_PATH: u8 = 2;
const NEXT_HOP: u8 = 3;
const LOCAL_PREF: u8 = 5;
const ATOMIC_AGGREGATE: u8 = 6;
const AGGREGATOR: u8 = 7;
const MP_REACH: u8 = 14;
const MP_UNREACH: u8 = 15;
const AS4_PATH: u8 = 17;
const AS4_AGGREGATOR: u8 = 18;

const OPTIONAL: u8 = 0x80;
const TRANSITIVE: u8 = 0x40;
const EXTENDED: u8 = 0x10;

fn malformed_list() -> Notification {
    Notification::new(3, 1, &[])
}

/// Reads the body of an UPDATE. Prefixes of families that were not agreed on are ignored.
///
/// # Errors
/// The NOTIFICATION that ends the session: only where the prefixes themselves cannot be told (RFC 7606 section 3).
pub fn decode(body: &[u8], coding: &Coding) -> Result<Update, Notification> {
    let (withdrawn, rest) = section(body)?;
    let (attributes, nlri) = section(rest)?;
    let mut update = Update { withdrawn: prefixes_v4(withdrawn)?, ..Update::default() };
    let reached = prefixes_v4(nlri)?;
    if withdrawn.is_empty() && attributes.is_empty() && nlri.is_empty() {
        update.end_of_rib = Some(Family::Ipv4);
        return Ok(update);
    }
    let mut read = Collected::default();
    read.walk(attributes, coding)?;
    if let Some(unreached) = read.unreached.take() {
        let family = unreached.0;
        if unreached.1.is_empty() && withdrawn.is_empty() && nlri.is_empty() && read.seen.len() == 1 {
            update.end_of_rib = Some(family);
        }
        update.withdrawn.extend(unreached.1);
    }
    let mut groups = Vec::new();
    if !reached.is_empty() {
        groups.push((Family::Ipv4, read.next_hop.map(IpAddr::V4), NEXT_HOP, reached));
    }
    if let Some((family, next_hop, prefixes)) = read.reached.take().filter(|reached| !reached.2.is_empty()) {
        groups.push((family, Some(next_hop), MP_REACH, prefixes));
    }
    if !coding.families.contains(&Family::Ipv4) {
        update.withdrawn.retain(|prefix| matches!(prefix, IpNet::V6(_)));
    }
    for (family, next_hop, code, prefixes) in groups {
        if !coding.families.contains(&family) {
            continue;
        }
        match read.attributes(next_hop, code, coding) {
            Ok(attributes) => {
                update.announced.push(Announcement { attributes: Arc::new(attributes), prefixes });
            }
            Err(fault) => {
                read.faults.push(fault);
                update.withdrawn.extend(prefixes);
            }
        }
    }
    update.faults = read.faults;
    Ok(update)
}

/// A part that its length in two octets goes before, and what follows it.
fn section(body: &[u8]) -> Result<(&[u8], &[u8]), Notification> {
    let (length, rest) = body.split_first_chunk::<2>().ok_or_else(malformed_list)?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length))).ok_or_else(malformed_list)
}

/// Prefixes of IPv4 (RFC 4271 section 4.3). Bits behind a prefix's length mean nothing; multicast is ignored.
fn prefixes_v4(mut bytes: &[u8]) -> Result<Vec<IpNet>, Notification> {
    let bad = || Notification::new(3, 10, &[]);
    let mut prefixes = Vec::new();
    while let Some((length, rest)) = bytes.split_first() {
        let taken = usize::from(*length).div_ceil(8);
        let (address, rest) = rest.split_at_checked(taken).ok_or_else(bad)?;
        let mut octets = [0; 4];
        octets.get_mut(..taken).ok_or_else(bad)?.copy_from_slice(address);
        let prefix = Ipv4Net::new(Ipv4Addr::from(octets), *length).map_err(|_| bad())?.trunc();
        if !prefix.addr().is_multicast() {
            prefixes.push(IpNet::V4(prefix));
        }
        bytes = rest;
    }
    Ok(prefixes)
}

fn unicast_v6(network: Ipv6Net) -> Option<IpNet> {
    (!network.addr().is_multicast()).then(|| IpNet::V6(network.trunc()))
}

/// Attributes as they are met. The first of a kind counts (RFC 7606 section 3 g).
#[derive(Default)]
struct Collected {
    seen: Vec<u8>,
    origin: Option<Origin>,
    as_path: Option<AsPath>,
    as4_path: Option<AsPath>,
    two_octet_path: bool,
    next_hop: Option<Ipv4Addr>,
    med: Option<u32>,
    local_pref: Option<u32>,
    atomic_aggregate: bool,
    aggregator: Option<Aggregator>,
    as4_aggregator: Option<Aggregator>,
    communities: Vec<u32>,
    opaque: Vec<Opaque>,
    reached: Option<(Family, IpAddr, Vec<IpNet>)>,
    unreached: Option<(Family, Vec<IpNet>)>,
    withdraw: Option<u8>,
    faults: Vec<Fault>,
}

impl Collected {
    fn walk(&mut self, mut bytes: &[u8], coding: &Coding) -> Result<(), Notification> {
        while !bytes.is_empty() {
            let Some((flags, code, header)) = attribute_header(bytes) else {
                // The list ends inside an attribute: what was announced is withdrawn (RFC 7606 section 4).
                self.withdraw.get_or_insert(bytes.get(1).copied().unwrap_or(0));
                return Ok(());
            };
            let (attribute, rest) = bytes.split_at(header.1);
            bytes = rest;
            if self.seen.contains(&code) {
                if matches!(code, MP_REACH | MP_UNREACH) {
                    return Err(malformed_list());
                }
                self.faults.push(Fault::Discarded(code));
                continue;
            }
            self.seen.push(code);
            self.attribute(flags, code, attribute, header.0, coding)?;
        }
        Ok(())
    }

    /// `attribute` is the whole of it, its value begins at `value_at`.
    fn attribute(
        &mut self,
        flags: u8,
        code: u8,
        attribute: &[u8],
        value_at: usize,
        coding: &Coding,
    ) -> Result<(), Notification> {
        let value = &attribute[value_at..];
        match code {
            // LOCAL_PREF is no business of an external peer (RFC 7606 section 7.5), AS4_PATH and AS4_AGGREGATOR none of one that
            // has four octets (RFC 6793 section 6).
            LOCAL_PREF if coding.neighbour.is_some() => {
                self.faults.push(Fault::Discarded(code));
                return Ok(());
            }
            AS4_PATH | AS4_AGGREGATOR if coding.four_octet => {
                self.faults.push(Fault::Discarded(code));
                return Ok(());
            }
            ATOMIC_AGGREGATE | AGGREGATOR | AS4_AGGREGATOR => {
                self.summary(flags, code, value, coding);
                return Ok(());
            }
            ORIGIN..=LOCAL_PREF | 8 => {}
            AS4_PATH => {}
            MP_REACH | MP_UNREACH => {
                let family = match value {
                    [high, low, safi, ..] => Family::from_wire(u16::from_be_bytes([*high, *low]), *safi),
                    _ => return Err(Notification::new(3, 9, attribute)),
                };
                if family.is_none_or(|family| !coding.families.contains(&family)) {
                    return Ok(());
                }
                if code == MP_REACH && !next_hop_length_is_sound(family, value.get(3).copied()) {
                    return Err(Notification::new(3, 9, attribute));
                }
            }
            _ if flags & OPTIONAL == 0 => return Err(Notification::new(3, 2, attribute)),
            _ => {
                if flags & TRANSITIVE != 0 {
                    self.opaque.push(Opaque { code, value: value.to_vec() });
                }
                return Ok(());
            }
        }
        let mut context = BgpParsingContext::default();
        context.set_asn4(coding.four_octet);
        let mut reader = SliceReader::new(attribute);
        match PathAttribute::parse(&mut reader, &mut context) {
            Ok(parsed) if reader.is_empty() => self.take(parsed.value(), code),
            _ if matches!(code, MP_REACH | MP_UNREACH) => Err(Notification::new(3, 9, attribute)),
            _ if code == AS4_PATH => {
                self.faults.push(Fault::Discarded(code));
                Ok(())
            }
            _ => {
                self.withdraw.get_or_insert(code);
                Ok(())
            }
        }
    }

    /// What is said of a summary. One of a wrong length is left out (RFC 7606 sections 7.6 and 7.7, RFC 6793 section 6).
    fn summary(&mut self, flags: u8, code: u8, value: &[u8], coding: &Coding) {
        let wanted = if code == ATOMIC_AGGREGATE { TRANSITIVE } else { OPTIONAL | TRANSITIVE };
        if flags & (OPTIONAL | TRANSITIVE) != wanted {
            self.withdraw.get_or_insert(code);
            return;
        }
        match (code, value) {
            (ATOMIC_AGGREGATE, []) => self.atomic_aggregate = true,
            (AGGREGATOR, [high, low, a, b, c, d]) if !coding.four_octet => {
                let asn = u32::from(u16::from_be_bytes([*high, *low]));
                self.aggregator = Some(Aggregator { asn, router_id: Ipv4Addr::new(*a, *b, *c, *d) });
            }
            (AGGREGATOR | AS4_AGGREGATOR, [asn @ .., a, b, c, d])
                if asn.len() == 4 && (coding.four_octet || code == AS4_AGGREGATOR) =>
            {
                let asn = asn.iter().fold(0, |asn, octet| asn << 8 | u32::from(*octet));
                let found = Some(Aggregator { asn, router_id: Ipv4Addr::new(*a, *b, *c, *d) });
                let place = if code == AGGREGATOR { &mut self.aggregator } else { &mut self.as4_aggregator };
                *place = found;
            }
            _ => self.faults.push(Fault::Discarded(code)),
        }
    }

    fn take(&mut self, value: &PathAttributeValue, code: u8) -> Result<(), Notification> {
        match value {
            PathAttributeValue::Origin(origin) => {
                self.origin = Some(match origin {
                    WireOrigin::IGP => Origin::Igp,
                    WireOrigin::EGP => Origin::Egp,
                    WireOrigin::Incomplete => Origin::Incomplete,
                });
            }
            PathAttributeValue::AsPath(WirePath::As2PathSegments(segments)) => {
                self.two_octet_path = true;
                let segments = segments.iter().map(|segment| {
                    let asns = segment.as_numbers().iter().map(|asn| u32::from(*asn)).collect();
                    to_segment(segment.segment_type(), asns)
                });
                self.as_path = Some(AsPath(segments.collect()));
            }
            PathAttributeValue::AsPath(WirePath::As4PathSegments(segments)) => {
                self.as_path = Some(to_path(segments));
            }
            PathAttributeValue::As4Path(path) => self.as4_path = Some(to_path(path.segments())),
            PathAttributeValue::NextHop(next_hop) => self.next_hop = Some(next_hop.next_hop()),
            PathAttributeValue::MultiExitDiscriminator(med) => self.med = Some(med.metric()),
            PathAttributeValue::Communities(communities) => {
                self.communities = communities.communities().iter().map(|one| one.value()).collect();
                self.communities.sort_unstable();
                self.communities.dedup();
            }
            PathAttributeValue::MpReach(reach) => self.reached = reached(reach),
            PathAttributeValue::MpUnreach(unreach) => self.unreached = unreached(unreach),
            PathAttributeValue::LocalPreference(preference) => {
                self.local_pref = Some(preference.metric());
            }
            _ => {
                self.withdraw.get_or_insert(code);
            }
        }
        Ok(())
    }

    /// The attributes with this next hop, which came in the attribute `code`.
    fn attributes(
        &mut self,
        next_hop: Option<IpAddr>,
        code: u8,
        coding: &Coding,
    ) -> Result<Attributes, Fault> {
        if let Some(code) = self.withdraw {
            return Err(Fault::TreatedAsWithdraw(code));
        }
        let origin = self.origin.ok_or(Fault::TreatedAsWithdraw(ORIGIN))?;
        let as_path = self.as_path.clone().ok_or(Fault::TreatedAsWithdraw(AS_PATH))?;
        let empty = as_path.0.iter().any(|segment| match segment {
            Segment::Sequence(asns) | Segment::Set(asns) => asns.is_empty() || asns.contains(&0),
        });
        if empty {
            return Err(Fault::TreatedAsWithdraw(AS_PATH));
        }
        let next_hop = next_hop.filter(is_host).ok_or(Fault::TreatedAsWithdraw(code))?;
        // A speaker of two octets that has made the summary itself did not know the wide forms (RFC 6793 section 4.2.3).
        let trans = |aggregator: &Aggregator| aggregator.asn == u32::from(AS_TRANS);
        let wide = self.aggregator.as_ref().is_none_or(trans);
        let as_path = match &self.as4_path {
            Some(as4_path) if self.two_octet_path && wide => merge(&as_path, as4_path),
            _ => as_path,
        };
        if coding.neighbour.is_some_and(|neighbour| as_path.neighbour() != Some(neighbour)) {
            return Err(Fault::TreatedAsWithdraw(AS_PATH));
        }
        let aggregator = match (self.aggregator, self.as4_aggregator) {
            (Some(aggregator), Some(as4)) if trans(&aggregator) => Some(as4),
            (aggregator, _) => aggregator,
        };
        let mut opaque = self.opaque.clone();
        opaque.sort_unstable();
        let (med, communities) = (self.med, self.communities.clone());
        Ok(Attributes {
            origin,
            as_path,
            next_hop,
            med,
            local_pref: self.local_pref,
            atomic_aggregate: self.atomic_aggregate,
            aggregator,
            communities,
            opaque,
        })
    }
}

/// Flags, type code, and where the value begins and ends; none if the bytes end before.
fn attribute_header(bytes: &[u8]) -> Option<(u8, u8, (usize, usize))> {
    let (flags, code) = (*bytes.first()?, *bytes.get(1)?);
    let (begin, length) = if flags & EXTENDED != 0 {
        (4, usize::from(u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?])))
    } else {
        (3, usize::from(*bytes.get(2)?))
    };
    (begin + length <= bytes.len()).then_some((flags, code, (begin, begin + length)))
}

fn next_hop_length_is_sound(family: Option<Family>, length: Option<u8>) -> bool {
    match family {
        Some(Family::Ipv4) => length == Some(4),
        Some(Family::Ipv6) => matches!(length, Some(16 | 32)),
        None => false,
    }
}

fn is_host(address: &IpAddr) -> bool {
    !address.is_unspecified()
        && !address.is_multicast()
        && !address.is_loopback()
        && *address != IpAddr::V4(Ipv4Addr::BROADCAST)
}

fn to_segment(kind: AsPathSegmentType, asns: Vec<u32>) -> Segment {
    match kind {
        AsPathSegmentType::AsSet => Segment::Set(asns),
        AsPathSegmentType::AsSequence => Segment::Sequence(asns),
    }
}

fn to_path(segments: &[As4PathSegment]) -> AsPath {
    let convert =
        |segment: &As4PathSegment| to_segment(segment.segment_type(), segment.as_numbers().to_vec());
    AsPath(segments.iter().map(convert).collect())
}

fn reached(reach: &MpReach) -> Option<(Family, IpAddr, Vec<IpNet>)> {
    match reach {
        MpReach::Ipv4Unicast { next_hop, nlri, .. } => {
            let prefixes = nlri.iter().map(|one| IpNet::V4(one.network().address().trunc())).collect();
            Some((Family::Ipv4, *next_hop, prefixes))
        }
        MpReach::Ipv6Unicast { next_hop_global, nlri, .. } => {
            let next_hop: Ipv6Addr = *next_hop_global;
            let prefixes = nlri.iter().filter_map(|one| unicast_v6(one.network().address())).collect();
            Some((Family::Ipv6, IpAddr::V6(next_hop), prefixes))
        }
        _ => None,
    }
}

fn unreached(unreach: &MpUnreach) -> Option<(Family, Vec<IpNet>)> {
    match unreach {
        MpUnreach::Ipv4Unicast { nlri } => {
            let prefixes = nlri.iter().map(|one| IpNet::V4(one.network().address().trunc())).collect();
            Some((Family::Ipv4, prefixes))
        }
        MpUnreach::Ipv6Unicast { nlri } => {
            let prefixes = nlri.iter().filter_map(|one| unicast_v6(one.network().address())).collect();
            Some((Family::Ipv6, prefixes))
        }
        _ => None,
    }
}

/// AS_PATH of two octets and AS4_PATH as one (RFC 6793 section 4.2.3): the numbers by which the first is longer go
/// before the second. A shorter AS_PATH is taken as it is.
fn merge(narrow: &AsPath, wide: &AsPath) -> AsPath {
    let Some(mut lead) = narrow.hops().checked_sub(wide.hops()) else { return narrow.clone() };
    let mut merged = Vec::new();
    for segment in &narrow.0 {
        match segment {
            _ if lead == 0 => break,
            Segment::Sequence(asns) => {
                let taken = lead.min(asns.len());
                merged.push(Segment::Sequence(asns[..taken].to_vec()));
                lead -= taken;
            }
            Segment::Set(_) => {
                merged.push(segment.clone());
                lead -= 1;
            }
        }
    }
    let mut rest = wide.0.clone();
    if let (Some(Segment::Sequence(before)), Some(Segment::Sequence(after))) =
        (merged.last_mut(), rest.first())
        && before.len() + after.len() <= 255
    {
        before.extend(after);
        rest.remove(0);
    }
    merged.extend(rest);
    AsPath(merged)
}
