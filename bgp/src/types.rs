//! Routes' attributes, as the rest of the crate sees them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Stands for an AS number that does not fit into two octets (RFC 6793 section 9).
pub const AS_TRANS: u16 = 23_456;

/// Not to be advertised to external peers (RFC 1997).
pub const NO_EXPORT: u32 = 0xffff_ff01;
/// Not to be advertised to any peer (RFC 1997).
pub const NO_ADVERTISE: u32 = 0xffff_ff02;
/// As NO_EXPORT, inside a confederation too (RFC 1997).
pub const NO_EXPORT_SUBCONFED: u32 = 0xffff_ff03;
/// Preference of a route that came without LOCAL_PREF.
pub const LOCAL_PREF_DEFAULT: u32 = 100;

/// The route is about to be withdrawn: to be preferred least (RFC 8326).
pub const GRACEFUL_SHUTDOWN: u32 = 0xffff_0000;

/// Address family of unicast routes (RFC 4760).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Family {
    /// AFI 1, SAFI 1.
    Ipv4,
    /// AFI 2, SAFI 1.
    Ipv6,
}

impl Family {
    /// Both families.
    pub const ALL: [Family; 2] = [Family::Ipv4, Family::Ipv6];

    /// The family of a prefix.
    pub fn of(prefix: &IpNet) -> Family {
        match prefix {
            IpNet::V4(_) => Family::Ipv4,
            IpNet::V6(_) => Family::Ipv6,
        }
    }

    /// IANA's address family number.
    pub fn afi(self) -> u16 {
        match self {
            Family::Ipv4 => 1,
            Family::Ipv6 => 2,
        }
    }

    /// The unicast family with this AFI and SAFI.
    pub fn from_wire(afi: u16, safi: u8) -> Option<Family> {
        match (afi, safi) {
            (1, 1) => Some(Family::Ipv4),
            (2, 1) => Some(Family::Ipv6),
            _ => None,
        }
    }
}

/// ORIGIN (RFC 4271 section 5.1.1); the lower is preferred.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Origin {
    /// Interior to the originating AS.
    Igp,
    /// Learned by EGP.
    Egp,
    /// By other means.
    Incomplete,
}

/// One segment of an AS_PATH (RFC 4271 section 4.3). Segments of confederations are refused.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Segment {
    /// AS_SEQUENCE: in order, the last AS that was passed first.
    Sequence(Vec<u32>),
    /// AS_SET: without order, counts as one hop.
    Set(Vec<u32>),
}

/// AS_PATH (RFC 4271 section 5.1.2).
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AsPath(pub Vec<Segment>);

impl AsPath {
    /// A path of one sequence.
    pub fn sequence(asns: impl IntoIterator<Item = u32>) -> AsPath {
        let asns: Vec<u32> = asns.into_iter().collect();
        AsPath(if asns.is_empty() { Vec::new() } else { vec![Segment::Sequence(asns)] })
    }

    /// Length for the decision process: a set counts as one (RFC 4271 section 9.1.2.2 a).
    pub fn hops(&self) -> usize {
        let hops = |segment: &Segment| match segment {
            Segment::Sequence(asns) => asns.len(),
            Segment::Set(_) => 1,
        };
        self.0.iter().map(hops).sum()
    }

    /// All numbers of the path.
    pub fn asns(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().flat_map(|segment| match segment {
            Segment::Sequence(asns) | Segment::Set(asns) => asns.iter().copied(),
        })
    }

    /// The AS that the route came from, if the path begins with a sequence.
    pub fn neighbour(&self) -> Option<u32> {
        match self.0.first() {
            Some(Segment::Sequence(asns)) => asns.first().copied(),
            _ => None,
        }
    }

    /// The path with `asn` put before it `count` times (RFC 4271 section 5.1.2). A segment has at most 255 numbers.
    #[must_use]
    pub fn prepended(&self, asn: u32, count: usize) -> AsPath {
        let mut path = self.clone();
        for _ in 0..count {
            match path.0.first_mut() {
                Some(Segment::Sequence(asns)) if asns.len() < 255 => asns.insert(0, asn),
                _ => path.0.insert(0, Segment::Sequence(vec![asn])),
            }
        }
        path
    }
}

/// As Azure prints it: numbers with a `-` between them, a set in braces.
impl fmt::Display for AsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let join = |asns: &[u32], by: &str| asns.iter().map(u32::to_string).collect::<Vec<_>>().join(by);
        let parts: Vec<String> = self
            .0
            .iter()
            .map(|segment| match segment {
                Segment::Sequence(asns) => join(asns, "-"),
                Segment::Set(asns) => format!("{{{}}}", join(asns, ",")),
            })
            .collect();
        f.write_str(&parts.join("-"))
    }
}

/// Who has made one route of several (RFC 4271 section 5.1.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Aggregator {
    /// Its AS number.
    pub asn: u32,
    /// Its BGP identifier.
    pub router_id: Ipv4Addr,
}

/// An attribute that this crate does not know but must pass on (RFC 4271 section 5): optional and transitive.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Opaque {
    /// Attribute type code.
    pub code: u8,
    /// Its value, without the header.
    pub value: Vec<u8>,
}

/// The path attributes of a route (RFC 4271 section 5).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Attributes {
    /// ORIGIN.
    pub origin: Origin,
    /// AS_PATH, with AS4_PATH already merged into it.
    pub as_path: AsPath,
    /// NEXT_HOP, or the global next hop of MP_REACH_NLRI.
    pub next_hop: IpAddr,
    /// MULTI_EXIT_DISC; absent counts as 0.
    pub med: Option<u32>,
    /// LOCAL_PREF, which travels inside an AS only; absent counts as [`LOCAL_PREF_DEFAULT`].
    pub local_pref: Option<u32>,
    /// ATOMIC_AGGREGATE: the path leaves systems out that a summary was made of.
    pub atomic_aggregate: bool,
    /// AGGREGATOR, with AS4_AGGREGATOR already merged into it: who made the summary.
    pub aggregator: Option<Aggregator>,
    /// COMMUNITIES (RFC 1997), sorted, each once.
    pub communities: Vec<u32>,
    /// Optional transitive attributes that are passed on as they came, by type code.
    pub opaque: Vec<Opaque>,
}

impl Attributes {
    /// A route that the speaker originates itself.
    pub fn local(next_hop: IpAddr) -> Attributes {
        Attributes {
            origin: Origin::Igp,
            as_path: AsPath::default(),
            next_hop,
            med: None,
            local_pref: None,
            atomic_aggregate: false,
            aggregator: None,
            communities: Vec::new(),
            opaque: Vec::new(),
        }
    }

    /// Whether a community is attached.
    pub fn has(&self, community: u32) -> bool {
        self.communities.binary_search(&community).is_ok()
    }

    /// Attaches a community, once.
    pub fn attach(&mut self, community: u32) {
        if let Err(at) = self.communities.binary_search(&community) {
            self.communities.insert(at, community);
        }
    }
}
