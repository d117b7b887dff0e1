//! Whether two connections agree on algorithms: some offer of one is among what the other takes.

use serde_json::Value;

use super::site::Connection;

type Proposal = [String; 3];

/// Encryption, integrity and PFS group of what a gateway offers by default; as an answer it takes these, and the rest below.
const OFFERS: &str = "GCMAES256 GCMAES256 None, AES256 SHA1 None, DES3 SHA1 None, AES256 SHA256 None, AES128 SHA1 None, DES3 SHA256 None";
/// By encryption and integrity the groups that an answer may have.
const ANSWERS: &[(&str, &str, &str)] = &[
    ("DES", "SHA1", "None"),
    ("AES256", "SHA1", "PFS1 PFS2 PFS14 PFS24"),
    ("AES128", "SHA1", "PFS1 PFS2 PFS14"),
    ("DES3", "SHA1", "PFS1 PFS2 PFS14"),
    ("DES3", "SHA256", "PFS2"),
    ("AES256", "SHA256", "PFS1 PFS2 PFS14 PFS24"),
    ("AES128", "SHA256", "None PFS1 PFS2 PFS14"),
];

fn proposal(words: [&str; 3]) -> Proposal {
    words.map(|word| word.replace("2048", "14"))
}

fn of_policy(policy: &Value, keys: [&str; 3]) -> Proposal {
    proposal(keys.map(|key| policy[key].as_str().unwrap_or_default()))
}

fn main_modes(connection: &Connection) -> Vec<Proposal> {
    if let Some(policy) = connection.ipsec_policies.first() {
        return vec![of_policy(policy, ["ikeEncryption", "ikeIntegrity", "dhGroup"])];
    }
    let pairs =
        ["AES256", "AES128", "DES3"].into_iter().flat_map(|one| ["SHA1", "SHA256"].map(|two| (one, two)));
    pairs.map(|(encryption, integrity)| proposal([encryption, integrity, "DHGroup2"])).collect()
}

fn quick_modes(connection: &Connection, starts: bool) -> Vec<Proposal> {
    if let Some(policy) = connection.ipsec_policies.first() {
        return vec![of_policy(policy, ["ipsecEncryption", "ipsecIntegrity", "pfsGroup"])];
    }
    let words = |text: &str| {
        let mut words = text.split_whitespace();
        [(); 3].map(|()| words.next().expect("three words").to_owned())
    };
    let mut all: Vec<Proposal> = OFFERS.split(", ").map(words).collect();
    if !starts {
        for (encryption, integrity, groups) in ANSWERS {
            all.extend(groups.split(' ').map(|group| proposal([encryption, integrity, group])));
        }
    }
    all
}

/// Whether the two come to an agreement, whoever of them starts.
pub fn agree(one: &Connection, other: &Connection) -> bool {
    let mode = |connection: &Connection, word: &str| connection.connection_mode.as_deref() == Some(word);
    let version =
        |connection: &Connection| connection.connection_protocol.clone().unwrap_or("IKEv2".to_owned());
    let common =
        |offers: Vec<Proposal>, takes: Vec<Proposal>| offers.iter().any(|offer| takes.contains(offer));
    let works = |(starts, answers): (&Connection, &Connection)| {
        !mode(starts, "ResponderOnly")
            && !mode(answers, "InitiatorOnly")
            && common(main_modes(starts), main_modes(answers))
            && common(quick_modes(starts, true), quick_modes(answers, false))
    };
    version(one) == version(other) && [(one, other), (other, one)].into_iter().any(works)
}
