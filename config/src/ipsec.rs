//! Whether the two sides of a tunnel agree on algorithms: Azure's default proposals, custom policies, and who may start.
//!
//! Sources: learn.microsoft.com, "About VPN devices and IPsec/IKE parameters for site-to-site VPN Gateway connections"
//! (default offers of route-based gateways) and "About cryptographic requirements and Azure VPN gateways" (custom policies).
//!
//! Whether the shared keys are equal is the caller's to see. Traffic selectors play no part: a gateway that answers takes
//! any that the other side proposes.

use std::fmt;

use crate::model::{
    Connection, ConnectionMode, ConnectionProtocol, DhGroup, IkeEncryption, IkeIntegrity, IpsecEncryption,
    IpsecIntegrity, IpsecPolicy, PfsGroup,
};

/// Lifetime of main mode, which no policy changes, in seconds.
pub const IKE_LIFETIME_SECONDS: u32 = 28_800;

/// What the negotiation hangs on, on one side of a tunnel.
#[derive(Clone, Copy, Debug)]
pub struct Side<'a> {
    /// The custom policy; without one the default proposals hold.
    pub policy: Option<&'a IpsecPolicy>,
    /// Who starts the negotiation.
    pub mode: ConnectionMode,
    /// The version of IKE.
    pub protocol: ConnectionProtocol,
}

impl Default for Side<'_> {
    fn default() -> Self {
        Self { policy: None, mode: ConnectionMode::Default, protocol: ConnectionProtocol::IkeV2 }
    }
}

impl<'a> From<&'a Connection> for Side<'a> {
    fn from(connection: &'a Connection) -> Self {
        Self {
            policy: connection.ipsec_policies.first(),
            mode: connection.connection_mode,
            protocol: connection.connection_protocol.unwrap_or(ConnectionProtocol::IkeV2),
        }
    }
}

/// One of the two sides of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The first that [`matches`] is given.
    Left,
    /// The second.
    Right,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Left => "this side",
            Self::Right => "the other side",
        })
    }
}

/// Algorithms of IKE itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MainMode {
    /// `ikeEncryption`
    pub encryption: IkeEncryption,
    /// `ikeIntegrity`
    pub integrity: IkeIntegrity,
    /// `dhGroup`
    pub group: DhGroup,
}

/// Algorithms of packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuickMode {
    /// `ipsecEncryption`
    pub encryption: IpsecEncryption,
    /// `ipsecIntegrity`
    pub integrity: IpsecIntegrity,
    /// `pfsGroup`; never [`PfsGroup::PfsMm`], which stands for the group of main mode.
    pub pfs: PfsGroup,
}

/// What the two sides agree on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// The side that starts. Left, where both may and the outcome of either is an agreement.
    pub initiator: End,
    /// Algorithms of IKE itself.
    pub main_mode: MainMode,
    /// Algorithms of packets.
    pub quick_mode: QuickMode,
    /// Seconds after which the keys of packets are renewed: the shorter of the two sides' lifetimes.
    pub sa_lifetime_seconds: u32,
    /// Kilobytes after which the keys of packets are renewed: the smaller of the two sides' figures.
    pub sa_data_size_kilobytes: u32,
}

/// Why the two sides do not agree. Its text is a sentence for the user.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// Neither side starts.
    #[error("connectionMode is ResponderOnly on both sides: neither starts the negotiation")]
    NobodyStarts,
    /// Neither side answers.
    #[error("connectionMode is InitiatorOnly on both sides: neither answers the negotiation")]
    NobodyAnswers,
    /// The sides speak different versions of IKE.
    #[error("connectionProtocol is {left} on this side and {right} on the other")]
    Protocol {
        /// The version of the left side.
        left: ConnectionProtocol,
        /// The version of the right side.
        right: ConnectionProtocol,
    },
    /// The sides have no value of a parameter in common.
    #[error("{parameter} does not match: {initiator} offers {}{}, and {} takes {}", .offered.join(", "), with(.beside), other(.initiator), .accepted.join(", "))]
    Parameter {
        /// The property of the policy.
        parameter: &'static str,
        /// The side that starts.
        initiator: End,
        /// What it offers, beside what the sides have in common.
        offered: Vec<String>,
        /// What the other side takes, beside what the sides have in common.
        accepted: Vec<String>,
        /// What the sides have in common in the parameters before.
        beside: Vec<String>,
    },
}

fn with(beside: &[String]) -> String {
    if beside.is_empty() { String::new() } else { format!(" (with {})", beside.join(" or ")) }
}

fn other(end: &End) -> End {
    match end {
        End::Left => End::Right,
        End::Right => End::Left,
    }
}

use DhGroup::Group2;
use IkeEncryption as Ike;
use IkeIntegrity as Hash;
use IpsecEncryption as Esp;
use IpsecIntegrity as Auth;
use PfsGroup as Pfs;

const fn main(encryption: Ike, integrity: Hash) -> MainMode {
    MainMode { encryption, integrity, group: Group2 }
}

const fn quick(encryption: Esp, integrity: Auth, pfs: Pfs) -> QuickMode {
    QuickMode { encryption, integrity, pfs }
}

/// Main mode of a gateway without a custom policy, in order.
pub const DEFAULT_MAIN_MODE: &[MainMode] = &[
    main(Ike::Aes256, Hash::Sha256),
    main(Ike::Aes256, Hash::Sha1),
    main(Ike::Aes128, Hash::Sha1),
    main(Ike::Aes128, Hash::Sha256),
    main(Ike::Des3, Hash::Sha256),
    main(Ike::Des3, Hash::Sha1),
];

/// How many of [`DEFAULT_QUICK_MODE`] a gateway without a custom policy offers when it starts.
pub const DEFAULT_OFFERS: usize = 6;

/// What a gateway without a custom policy takes when it answers, in order. The first [`DEFAULT_OFFERS`] are those that it
/// offers when it starts.
pub const DEFAULT_QUICK_MODE: &[QuickMode] = &[
    quick(Esp::GcmAes256, Auth::GcmAes256, Pfs::None),
    quick(Esp::Aes256, Auth::Sha1, Pfs::None),
    quick(Esp::Des3, Auth::Sha1, Pfs::None),
    quick(Esp::Aes256, Auth::Sha256, Pfs::None),
    quick(Esp::Aes128, Auth::Sha1, Pfs::None),
    quick(Esp::Des3, Auth::Sha256, Pfs::None),
    quick(Esp::Des, Auth::Sha1, Pfs::None),
    quick(Esp::Aes256, Auth::Sha1, Pfs::Pfs1),
    quick(Esp::Aes256, Auth::Sha1, Pfs::Pfs2),
    quick(Esp::Aes256, Auth::Sha1, Pfs::Pfs14),
    quick(Esp::Aes128, Auth::Sha1, Pfs::Pfs1),
    quick(Esp::Aes128, Auth::Sha1, Pfs::Pfs2),
    quick(Esp::Aes128, Auth::Sha1, Pfs::Pfs14),
    quick(Esp::Des3, Auth::Sha1, Pfs::Pfs1),
    quick(Esp::Des3, Auth::Sha1, Pfs::Pfs2),
    quick(Esp::Des3, Auth::Sha256, Pfs::Pfs2),
    quick(Esp::Aes256, Auth::Sha256, Pfs::Pfs1),
    quick(Esp::Aes256, Auth::Sha256, Pfs::Pfs2),
    quick(Esp::Aes256, Auth::Sha256, Pfs::Pfs14),
    quick(Esp::Aes256, Auth::Sha1, Pfs::Pfs24),
    quick(Esp::Aes256, Auth::Sha256, Pfs::Pfs24),
    quick(Esp::Aes128, Auth::Sha256, Pfs::None),
    quick(Esp::Aes128, Auth::Sha256, Pfs::Pfs1),
    quick(Esp::Aes128, Auth::Sha256, Pfs::Pfs2),
    quick(Esp::Aes128, Auth::Sha256, Pfs::Pfs14),
    quick(Esp::Des3, Auth::Sha1, Pfs::Pfs14),
];

impl IpsecPolicy {
    /// The algorithms of IKE itself.
    #[must_use]
    pub fn main_mode(&self) -> MainMode {
        MainMode { encryption: self.ike_encryption, integrity: self.ike_integrity, group: self.dh_group }
    }

    /// The algorithms of packets; `PFSMM` gives way to the group of main mode.
    #[must_use]
    pub fn quick_mode(&self) -> QuickMode {
        let pfs = match self.pfs_group {
            Pfs::PfsMm => match self.dh_group {
                DhGroup::Group24 => Pfs::Pfs24,
                DhGroup::Ecp384 => Pfs::Ecp384,
                DhGroup::Ecp256 => Pfs::Ecp256,
                DhGroup::Group14 => Pfs::Pfs14,
                DhGroup::Group2 => Pfs::Pfs2,
                DhGroup::Group1 => Pfs::Pfs1,
                DhGroup::None => Pfs::None,
            },
            group => group,
        };
        QuickMode { encryption: self.ipsec_encryption, integrity: self.ipsec_integrity, pfs }
    }
}

impl Side<'_> {
    fn main_mode(&self) -> Vec<MainMode> {
        self.policy.map_or_else(|| DEFAULT_MAIN_MODE.to_vec(), |policy| vec![policy.main_mode()])
    }

    fn quick_mode(&self, is_initiator: bool) -> Vec<QuickMode> {
        let count = if is_initiator { DEFAULT_OFFERS } else { DEFAULT_QUICK_MODE.len() };
        self.policy.map_or_else(|| DEFAULT_QUICK_MODE[..count].to_vec(), |policy| vec![policy.quick_mode()])
    }

    fn lifetimes(&self) -> (u32, u32) {
        self.policy.map_or_else(
            || (crate::model::lifetime_seconds(), crate::model::data_size_kilobytes()),
            |policy| (policy.sa_lifetime_seconds, policy.sa_data_size_kilobytes),
        )
    }
}

/// What the two sides of a tunnel agree on. Each may start as its `mode` says; where one way around fails, the other may
/// still succeed.
///
/// # Errors
/// Why they do not agree; of two ways around the one that came further.
pub fn matches(left: Side<'_>, right: Side<'_>) -> Result<Agreed, Mismatch> {
    use ConnectionMode::{InitiatorOnly, ResponderOnly};
    match (left.mode, right.mode) {
        (ResponderOnly, ResponderOnly) => return Err(Mismatch::NobodyStarts),
        (InitiatorOnly, InitiatorOnly) => return Err(Mismatch::NobodyAnswers),
        _ => {}
    }
    if left.protocol != right.protocol {
        return Err(Mismatch::Protocol { left: left.protocol, right: right.protocol });
    }
    let left_starts = left.mode != ResponderOnly && right.mode != InitiatorOnly;
    let right_starts = right.mode != ResponderOnly && left.mode != InitiatorOnly;
    let by_left = left_starts.then(|| negotiate(End::Left, &left, &right));
    let by_right = right_starts.then(|| negotiate(End::Right, &right, &left));
    match (by_left, by_right) {
        (Some(Ok(agreed)), _) | (_, Some(Ok(agreed))) => Ok(agreed),
        (Some(Err(ours)), Some(Err(theirs))) => {
            Err(if theirs.step > ours.step { theirs } else { ours }.mismatch)
        }
        (Some(Err(failed)), None) | (None, Some(Err(failed))) => Err(failed.mismatch),
        // One side is ResponderOnly, and so is the other, which was told above.
        (None, None) => Err(Mismatch::NobodyStarts),
    }
}

/// Where a negotiation failed: the later, the more was agreed on.
struct Failure {
    step: usize,
    mismatch: Mismatch,
}

fn negotiate(initiator: End, offers: &Side<'_>, takes: &Side<'_>) -> Result<Agreed, Failure> {
    let main_mode = first_common(&offers.main_mode(), &takes.main_mode(), MAIN_MODE)
        .map_err(|clash| clash.failure(initiator, 0))?;
    let quick_mode = first_common(&offers.quick_mode(true), &takes.quick_mode(false), QUICK_MODE)
        .map_err(|clash| clash.failure(initiator, MAIN_MODE.len()))?;
    let ((seconds, kilobytes), (other_seconds, other_kilobytes)) = (offers.lifetimes(), takes.lifetimes());
    Ok(Agreed {
        initiator,
        main_mode,
        quick_mode,
        sa_lifetime_seconds: seconds.min(other_seconds),
        sa_data_size_kilobytes: kilobytes.min(other_kilobytes),
    })
}

/// A parameter of a proposal: its property, and its value.
type Parameter<P> = (&'static str, fn(&P) -> String);

const MAIN_MODE: &[Parameter<MainMode>] = &[
    ("ikeEncryption", |proposal| proposal.encryption.to_string()),
    ("ikeIntegrity", |proposal| proposal.integrity.to_string()),
    ("dhGroup", |proposal| proposal.group.to_string()),
];

const QUICK_MODE: &[Parameter<QuickMode>] = &[
    ("ipsecEncryption", |proposal| proposal.encryption.to_string()),
    ("ipsecIntegrity", |proposal| proposal.integrity.to_string()),
    ("pfsGroup", |proposal| proposal.pfs.to_string()),
];

/// The first parameter that two lists of proposals have no value of in common.
struct Clash {
    index: usize,
    parameter: &'static str,
    offered: Vec<String>,
    accepted: Vec<String>,
    beside: Vec<String>,
}

impl Clash {
    fn failure(self, initiator: End, steps_before: usize) -> Failure {
        let Self { index, parameter, offered, accepted, beside } = self;
        let mismatch = Mismatch::Parameter { parameter, initiator, offered, accepted, beside };
        Failure { step: steps_before + index, mismatch }
    }
}

/// The first of `offers` that is among `takes`.
fn first_common<P: Copy + PartialEq>(
    offers: &[P],
    takes: &[P],
    parameters: &[Parameter<P>],
) -> Result<P, Clash> {
    if let Some(common) = offers.iter().find(|offer| takes.contains(offer)) {
        return Ok(*common);
    }
    let pairs = offers.iter().flat_map(|offer| takes.iter().map(move |take| (offer, take)));
    let mut pairs: Vec<(&P, &P)> = pairs.collect();
    let mut beside: Vec<String> = vec![String::new()];
    for (index, (parameter, value)) in parameters.iter().enumerate() {
        let equal: Vec<(&P, &P)> =
            pairs.iter().copied().filter(|(offer, take)| value(offer) == value(take)).collect();
        if equal.is_empty() {
            let offered = distinct(pairs.iter().map(|(offer, _)| value(offer)));
            let accepted = distinct(pairs.iter().map(|(_, take)| value(take)));
            beside.retain(|text| !text.is_empty());
            return Err(Clash { index, parameter, offered, accepted, beside });
        }
        pairs = equal;
        let agreed = |proposal: &P| {
            let values: Vec<String> = parameters[..=index].iter().map(|(_, value)| value(proposal)).collect();
            values.join(" and ")
        };
        beside = distinct(pairs.iter().map(|(offer, _)| agreed(offer)));
    }
    // Proposals that are equal in every parameter are equal, which the first look would have found.
    let parameter = parameters.last().map_or("", |(parameter, _)| *parameter);
    Err(Clash { index: parameters.len(), parameter, offered: Vec::new(), accepted: Vec::new(), beside })
}

fn distinct(values: impl Iterator<Item = String>) -> Vec<String> {
    let mut out = Vec::new();
    for value in values {
        if !out.contains(&value) {
            out.push(value);
        }
    }
    out
}
