//! IPsec and IKE policies of connections, in Azure's words.

use std::fmt;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::scalar::Cidr;

/// An enum whose values the file writes as Azure's words.
macro_rules! words {
    ($doc:literal $name:ident { $($variant:ident = $word:literal: $text:literal,)* } $(others $others:tt)?) => {
        #[doc = $doc]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
        $(#[schemars(extend("x-values" = $others))])?
        pub enum $name {
            $(#[doc = $text] #[serde(rename = $word)] $variant,)*
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$variant => $word,)* })
            }
        }
    };
}

words! {
    "Encryption of IKE itself (main mode)."
    IkeEncryption {
        GcmAes256 = "GCMAES256": "AES with 256 bits in Galois counter mode.",
        GcmAes128 = "GCMAES128": "AES with 128 bits in Galois counter mode.",
        Aes256 = "AES256": "AES with 256 bits.",
        Aes192 = "AES192": "AES with 192 bits.",
        Aes128 = "AES128": "AES with 128 bits.",
        Des3 = "DES3": "Triple DES.",
        Des = "DES": "DES.",
    }
}

words! {
    "Integrity of IKE itself (main mode)."
    IkeIntegrity {
        GcmAes256 = "GCMAES256": "That of AES with 256 bits in Galois counter mode.",
        GcmAes128 = "GCMAES128": "That of AES with 128 bits in Galois counter mode.",
        Sha384 = "SHA384": "SHA-2 with 384 bits.",
        Sha256 = "SHA256": "SHA-2 with 256 bits.",
        Sha1 = "SHA1": "SHA-1.",
        Md5 = "MD5": "MD5.",
    }
}

words! {
    "Key exchange of IKE itself (main mode)."
    DhGroup {
        Group24 = "DHGroup24": "2048 bits with a subgroup of 256 bits.",
        Ecp384 = "ECP384": "An elliptic curve of 384 bits.",
        Ecp256 = "ECP256": "An elliptic curve of 256 bits.",
        Group14 = "DHGroup14": "2048 bits.",
        Group2 = "DHGroup2": "1024 bits.",
        Group1 = "DHGroup1": "768 bits.",
        None = "None": "No group.",
    }
    others {"DHGroup2048": "DHGroup14"}
}

words! {
    "Encryption of packets (quick mode)."
    IpsecEncryption {
        GcmAes256 = "GCMAES256": "AES with 256 bits in Galois counter mode.",
        GcmAes192 = "GCMAES192": "AES with 192 bits in Galois counter mode.",
        GcmAes128 = "GCMAES128": "AES with 128 bits in Galois counter mode.",
        Aes256 = "AES256": "AES with 256 bits.",
        Aes192 = "AES192": "AES with 192 bits.",
        Aes128 = "AES128": "AES with 128 bits.",
        Des3 = "DES3": "Triple DES.",
        Des = "DES": "DES.",
        None = "None": "No encryption.",
    }
}

words! {
    "Integrity of packets (quick mode)."
    IpsecIntegrity {
        GcmAes256 = "GCMAES256": "That of AES with 256 bits in Galois counter mode.",
        GcmAes192 = "GCMAES192": "That of AES with 192 bits in Galois counter mode.",
        GcmAes128 = "GCMAES128": "That of AES with 128 bits in Galois counter mode.",
        Sha256 = "SHA256": "SHA-2 with 256 bits.",
        Sha1 = "SHA1": "SHA-1.",
        Md5 = "MD5": "MD5.",
    }
}

words! {
    "Key exchange anew for packets (quick mode): perfect forward secrecy."
    PfsGroup {
        Pfs24 = "PFS24": "2048 bits with a subgroup of 256 bits.",
        Pfs14 = "PFS14": "2048 bits.",
        Ecp384 = "ECP384": "An elliptic curve of 384 bits.",
        Ecp256 = "ECP256": "An elliptic curve of 256 bits.",
        Pfs2 = "PFS2": "1024 bits.",
        Pfs1 = "PFS1": "768 bits.",
        PfsMm = "PFSMM": "The group of main mode.",
        None = "None": "None: keys derive from those of main mode.",
    }
    others {"PFS2048": "PFS14"}
}

words! {
    "The version of IKE that a connection speaks."
    ConnectionProtocol {
        IkeV1 = "IKEv1": "Version 1.",
        IkeV2 = "IKEv2": "Version 2.",
    }
}

/// An IPsec and IKE policy: takes the place of the default proposals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IpsecPolicy {
    /// Encryption of IKE itself.
    pub ike_encryption: IkeEncryption,
    /// Integrity of IKE itself.
    pub ike_integrity: IkeIntegrity,
    /// Key exchange of IKE itself.
    pub dh_group: DhGroup,
    /// Encryption of packets.
    pub ipsec_encryption: IpsecEncryption,
    /// Integrity of packets.
    pub ipsec_integrity: IpsecIntegrity,
    /// Key exchange anew for packets.
    pub pfs_group: PfsGroup,
    /// Seconds after which the keys of packets are renewed.
    #[serde(default = "lifetime_seconds", rename = "saLifeTimeSeconds")]
    #[schemars(range(min = 300))]
    pub sa_lifetime_seconds: u32,
    /// Kilobytes after which the keys of packets are renewed.
    #[serde(default = "data_size_kilobytes")]
    #[schemars(range(min = 1024))]
    pub sa_data_size_kilobytes: u32,
}

pub(crate) fn lifetime_seconds() -> u32 {
    27_000
}

pub(crate) fn data_size_kilobytes() -> u32 {
    102_400_000
}

/// A pair of traffic selectors that a connection proposes when it starts the negotiation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrafficSelectorPolicy {
    /// Ranges on Azure's side.
    #[schemars(with = "Vec<Cidr>", length(min = 1))]
    pub local_address_ranges: Vec<IpNet>,
    /// Ranges on the other side.
    #[schemars(with = "Vec<Cidr>", length(min = 1))]
    pub remote_address_ranges: Vec<IpNet>,
}
