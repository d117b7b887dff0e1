//! Whether two sides of a tunnel agree: the reference's worked example, and what is said where they do not.

use vnet_config::{
    ipsec::{
        Agreed, DEFAULT_MAIN_MODE, DEFAULT_OFFERS, DEFAULT_QUICK_MODE, End, Mismatch, QuickMode, Side,
        matches,
    },
    model::{
        ConnectionMode, ConnectionProtocol, DhGroup, IkeEncryption, IkeIntegrity, IpsecEncryption,
        IpsecIntegrity, IpsecPolicy, PfsGroup,
    },
};

const BASE: IpsecPolicy = IpsecPolicy {
    ike_encryption: IkeEncryption::Aes256,
    ike_integrity: IkeIntegrity::Sha256,
    dh_group: DhGroup::Group2,
    ipsec_encryption: IpsecEncryption::GcmAes256,
    ipsec_integrity: IpsecIntegrity::GcmAes256,
    pfs_group: PfsGroup::None,
    sa_lifetime_seconds: 3_600,
    sa_data_size_kilobytes: 102_400_000,
};

const FORWARD_SECRET: IpsecPolicy = IpsecPolicy {
    ipsec_encryption: IpsecEncryption::Aes256,
    ipsec_integrity: IpsecIntegrity::Sha256,
    pfs_group: PfsGroup::Pfs24,
    ..BASE
};

fn custom(policy: &IpsecPolicy) -> Side<'_> {
    Side { policy: Some(policy), ..Side::default() }
}

fn agreed(left: Side<'_>, right: Side<'_>) -> Agreed {
    matches(left, right).unwrap_or_else(|mismatch| panic!("{mismatch}"))
}

fn said(left: Side<'_>, right: Side<'_>) -> String {
    matches(left, right).expect_err("a mismatch").to_string()
}

#[test]
fn ex_4_1_what_the_default_lists_contain_connects() {
    let agreed = agreed(Side::default(), custom(&BASE));
    assert_eq!(agreed.initiator, End::Left);
    assert_eq!((agreed.main_mode, agreed.quick_mode), (BASE.main_mode(), BASE.quick_mode()));
    assert_eq!((agreed.sa_lifetime_seconds, agreed.sa_data_size_kilobytes), (3_600, 102_400_000));
}

#[test]
fn ex_4_1_forward_secrecy_connects_only_when_the_default_side_answers() {
    let agreed = agreed(Side::default(), custom(&FORWARD_SECRET));
    assert_eq!((agreed.initiator, agreed.quick_mode), (End::Right, FORWARD_SECRET.quick_mode()));
    assert_eq!(DEFAULT_QUICK_MODE[20], FORWARD_SECRET.quick_mode(), "number 21 of the responder's list");
    let responder = Side { mode: ConnectionMode::ResponderOnly, ..custom(&FORWARD_SECRET) };
    assert_eq!(
        said(Side::default(), responder),
        "pfsGroup does not match: this side offers None (with AES256 and SHA256), and the other side takes PFS24"
    );
    let initiator = Side { mode: ConnectionMode::InitiatorOnly, ..Side::default() };
    assert!(matches!(
        matches(initiator, custom(&FORWARD_SECRET)),
        Err(Mismatch::Parameter { parameter: "pfsGroup", initiator: End::Left, .. })
    ));
}

#[test]
fn ex_4_1_what_the_default_lists_lack_does_not_connect() {
    let absent = IpsecPolicy {
        ipsec_encryption: IpsecEncryption::GcmAes128,
        ipsec_integrity: IpsecIntegrity::GcmAes128,
        ..BASE
    };
    assert_eq!(
        said(Side::default(), custom(&absent)),
        "ipsecEncryption does not match: this side offers GCMAES256, AES256, DES3, AES128, and the other side takes GCMAES128"
    );
    let group = IpsecPolicy { dh_group: DhGroup::Group14, ..BASE };
    assert_eq!(
        said(custom(&group), Side::default()),
        "dhGroup does not match: this side offers DHGroup14 (with AES256 and SHA256), and the other side takes DHGroup2"
    );
}

type Edit = fn(&mut IpsecPolicy);

#[test]
fn two_custom_policies_must_be_equal() {
    assert_eq!(agreed(custom(&BASE), custom(&BASE)).quick_mode, BASE.quick_mode());
    let changes: &[(&str, Edit)] = &[
        ("ikeEncryption", |policy| policy.ike_encryption = IkeEncryption::Aes128),
        ("ikeIntegrity", |policy| policy.ike_integrity = IkeIntegrity::Sha384),
        ("dhGroup", |policy| policy.dh_group = DhGroup::Ecp256),
        ("ipsecEncryption", |policy| policy.ipsec_encryption = IpsecEncryption::Aes192),
        ("ipsecIntegrity", |policy| policy.ipsec_integrity = IpsecIntegrity::Sha1),
        ("pfsGroup", |policy| policy.pfs_group = PfsGroup::Pfs2),
    ];
    for (name, change) in changes {
        let mut other = BASE;
        change(&mut other);
        for (left, right) in [(BASE, other), (other, BASE)] {
            match matches(custom(&left), custom(&right)) {
                Err(Mismatch::Parameter { parameter, .. }) => assert_eq!(parameter, *name),
                result => panic!("{name}: {result:?}"),
            }
        }
    }
    let shorter = IpsecPolicy { sa_lifetime_seconds: 300, sa_data_size_kilobytes: 1_024, ..BASE };
    let agreed = agreed(custom(&BASE), custom(&shorter));
    assert_eq!((agreed.sa_lifetime_seconds, agreed.sa_data_size_kilobytes), (300, 1_024));
}

#[test]
fn the_group_of_main_mode_is_a_group_like_any_other() {
    let own = IpsecPolicy { dh_group: DhGroup::Group14, pfs_group: PfsGroup::PfsMm, ..BASE };
    let named = IpsecPolicy { pfs_group: PfsGroup::Pfs14, ..own };
    assert_eq!(agreed(custom(&own), custom(&named)).quick_mode.pfs, PfsGroup::Pfs14);
    let other = IpsecPolicy { pfs_group: PfsGroup::Pfs24, ..own };
    assert!(said(custom(&own), custom(&other)).starts_with("pfsGroup does not match"));
}

#[test]
fn somebody_has_to_start_and_somebody_to_answer() {
    let with = |mode| Side { mode, ..Side::default() };
    use ConnectionMode::{Default, InitiatorOnly, ResponderOnly};
    assert_eq!(matches(with(ResponderOnly), with(ResponderOnly)), Err(Mismatch::NobodyStarts));
    assert_eq!(matches(with(InitiatorOnly), with(InitiatorOnly)), Err(Mismatch::NobodyAnswers));
    for (left, right, initiator) in [
        (Default, Default, End::Left),
        (Default, ResponderOnly, End::Left),
        (Default, InitiatorOnly, End::Right),
        (InitiatorOnly, ResponderOnly, End::Left),
        (InitiatorOnly, Default, End::Left),
        (ResponderOnly, InitiatorOnly, End::Right),
        (ResponderOnly, Default, End::Right),
    ] {
        assert_eq!(agreed(with(left), with(right)).initiator, initiator, "{left:?} {right:?}");
    }
    let first = Side { protocol: ConnectionProtocol::IkeV1, ..Side::default() };
    assert_eq!(
        said(first, Side::default()),
        "connectionProtocol is IKEv1 on this side and IKEv2 on the other"
    );
}

#[test]
fn the_default_lists_are_azures() {
    assert_eq!((DEFAULT_MAIN_MODE.len(), DEFAULT_OFFERS, DEFAULT_QUICK_MODE.len()), (6, 6, 26));
    let names: Vec<String> = DEFAULT_QUICK_MODE[..DEFAULT_OFFERS]
        .iter()
        .map(|QuickMode { encryption, integrity, pfs }| format!("{encryption}-{integrity}-{pfs}"))
        .collect();
    let expected = [
        "GCMAES256-GCMAES256-None",
        "AES256-SHA1-None",
        "DES3-SHA1-None",
        "AES256-SHA256-None",
        "AES128-SHA1-None",
        "DES3-SHA256-None",
    ];
    assert_eq!(names, expected);
    let distinct: std::collections::HashSet<String> =
        DEFAULT_QUICK_MODE.iter().map(|proposal| format!("{proposal:?}")).collect();
    assert_eq!(distinct.len(), 26);
    let answered: std::collections::HashSet<String> =
        DEFAULT_QUICK_MODE[DEFAULT_OFFERS..].iter().map(|proposal| proposal.pfs.to_string()).collect();
    let groups = ["None", "PFS1", "PFS2", "PFS14", "PFS24"];
    assert_eq!(answered, groups.into_iter().map(str::to_owned).collect());
}
