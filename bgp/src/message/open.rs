//! OPEN and its capabilities (RFC 4271 section 4.2, RFC 5492).

use std::net::Ipv4Addr;

use netgauze_bgp_pkt::capabilities::{
    BgpCapability, FourOctetAsCapability, MultiProtocolExtensionsCapability,
};
use netgauze_bgp_pkt::open::{BgpOpenMessage, BgpOpenMessageParameter};
use netgauze_bgp_pkt::wire::deserializer::BgpParsingContext;
use netgauze_iana::address_family::AddressType;
use netgauze_parse_utils::WritablePdu;
use netgauze_parse_utils::reader::SliceReader;
use netgauze_parse_utils::traits::ParseFromWithOneInput;

use super::{Kind, Notification, seal};
use crate::types::{AS_TRANS, Family};

/// What an OPEN says, as far as this speaker heeds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    /// The sender's AS number, four octets wide if it has that capability (RFC 6793).
    pub asn: u32,
    /// Proposed hold time in seconds; 0 for none.
    pub hold_time_s: u16,
    /// BGP identifier.
    pub router_id: Ipv4Addr,
    /// Families by Multiprotocol Extensions (RFC 4760); IPv4 alone if the capability is absent.
    pub families: Vec<Family>,
    /// Four-octet AS numbers (RFC 6793).
    pub four_octet: bool,
    /// Route refresh (RFC 2918).
    pub route_refresh: bool,
}

impl Open {
    /// Reads the body of an OPEN. Capabilities that are unknown are ignored (RFC 5492 section 3).
    ///
    /// # Errors
    /// The NOTIFICATION of RFC 4271 section 6.2.
    pub fn decode(body: &[u8]) -> Result<Open, Notification> {
        let [version, _, _, hold_high, hold_low, id @ ..] = body else {
            return Err(Notification::new(2, 0, &[]));
        };
        if *version != 4 {
            return Err(Notification::new(2, 1, &[0, 4]));
        }
        if matches!(u16::from_be_bytes([*hold_high, *hold_low]), 1 | 2) {
            return Err(Notification::new(2, 6, &[]));
        }
        if !id.first_chunk().is_some_and(|id| is_identifier(Ipv4Addr::from(*id))) {
            return Err(Notification::new(2, 3, &[]));
        }
        if body.get(9).is_none_or(|length| usize::from(*length) + 10 != body.len()) {
            return Err(Notification::new(2, 0, &[]));
        }
        if body.get(10).is_some_and(|parameter| *parameter != 2) {
            return Err(Notification::new(2, 4, &[]));
        }
        let mut context = BgpParsingContext::default();
        let open = BgpOpenMessage::parse(&mut SliceReader::new(body), &mut context)
            .map_err(|_| Notification::new(2, 0, &[]))?;
        Open::from_library(&open)
    }

    fn from_library(open: &BgpOpenMessage) -> Result<Open, Notification> {
        let mut read = Open {
            asn: u32::from(open.my_as()),
            hold_time_s: open.hold_time(),
            router_id: open.bgp_id(),
            families: Vec::new(),
            four_octet: false,
            route_refresh: false,
        };
        let mut multiprotocol = false;
        for capability in open.capabilities() {
            match capability {
                BgpCapability::FourOctetAs(asn) => {
                    read.four_octet = true;
                    read.asn = asn.asn4();
                }
                BgpCapability::RouteRefresh => read.route_refresh = true,
                BgpCapability::MultiProtocolExtensions(family) => {
                    multiprotocol = true;
                    match family.address_type() {
                        AddressType::Ipv4Unicast => read.families.push(Family::Ipv4),
                        AddressType::Ipv6Unicast => read.families.push(Family::Ipv6),
                        _ => {}
                    }
                }
                _ => {}
            }
        }
        if !multiprotocol {
            read.families.push(Family::Ipv4);
        }
        read.families.sort_unstable();
        read.families.dedup();
        if read.asn == 0 || (read.asn == u32::from(AS_TRANS) && read.four_octet) {
            return Err(Notification::new(2, 2, &[]));
        }
        Ok(read)
    }

    /// The message, header included.
    pub fn encode(&self) -> Vec<u8> {
        let mut capabilities: Vec<BgpCapability> = self
            .families
            .iter()
            .map(|family| match family {
                Family::Ipv4 => AddressType::Ipv4Unicast,
                Family::Ipv6 => AddressType::Ipv6Unicast,
            })
            .map(|family| {
                BgpCapability::MultiProtocolExtensions(MultiProtocolExtensionsCapability::new(family))
            })
            .collect();
        if self.route_refresh {
            capabilities.push(BgpCapability::RouteRefresh);
        }
        if self.four_octet {
            capabilities.push(BgpCapability::FourOctetAs(FourOctetAsCapability::new(self.asn)));
        }
        let asn = u16::try_from(self.asn).unwrap_or(AS_TRANS);
        let parameters = vec![BgpOpenMessageParameter::new_capabilities(capabilities)];
        let open = BgpOpenMessage::new(asn, self.hold_time_s, self.router_id, parameters);
        let mut body = Vec::new();
        open.write(&mut body).expect("a vector takes every write, and the capabilities are of fixed size");
        seal(Kind::Open, &body)
    }
}

fn is_identifier(id: Ipv4Addr) -> bool {
    !id.is_unspecified() && !id.is_multicast() && !id.is_broadcast()
}
