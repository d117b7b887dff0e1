//! Keys: Curve25519 key pairs and the preshared key that a connection's `sharedKey` becomes.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use blake2::{Blake2s256, Digest};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Separates the derivation of preshared keys from every other use of the same text. Changing it parts every
/// existing pair of peers, so it carries a version.
const PRESHARED_KEY_DOMAIN: &[u8] = b"vnetd sharedKey to WireGuard preshared key, version 1\0";

/// Text that is not a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not base64 (RFC 4648, section 4, with padding).
    #[error("a key is 44 characters of base64, and this is not base64")]
    NotBase64,
    /// Base64 of something else than 32 bytes.
    #[error("a key is 32 bytes, and this holds {0}")]
    WrongLength(usize),
}

fn decode(text: &str) -> Result<Zeroizing<[u8; 32]>, KeyError> {
    let bytes = Zeroizing::new(STANDARD.decode(text.trim()).map_err(|_| KeyError::NotBase64)?);
    let mut key = Zeroizing::new([0; 32]);
    if bytes.len() != key.len() {
        return Err(KeyError::WrongLength(bytes.len()));
    }
    key.copy_from_slice(&bytes);
    Ok(key)
}

macro_rules! secret_key {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
        pub struct $name([u8; 32]);

        impl $name {
            /// Takes 32 bytes as they are.
            pub fn from_bytes(bytes: [u8; 32]) -> $name {
                $name(bytes)
            }

            /// The bytes. They are secret.
            pub fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// The form in which configurations carry it. It is secret.
            pub fn to_base64(&self) -> Zeroizing<String> {
                Zeroizing::new(STANDARD.encode(self.0))
            }

            /// Reads the form in which configurations carry it.
            ///
            /// # Errors
            /// [`KeyError`] if the text is not base64 of 32 bytes.
            pub fn from_base64(text: &str) -> Result<$name, KeyError> {
                decode(text).map(|bytes| $name(*bytes))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(redacted)"))
            }
        }
    };
}

secret_key! {
    /// The private half of a Curve25519 key pair. Wiped when dropped, never shown by `Debug`.
    PrivateKey
}

secret_key! {
    /// The symmetric key that both ends of a connection mix into their handshake. Wiped when dropped, never shown
    /// by `Debug`.
    PresharedKey
}

impl PrivateKey {
    /// The public half.
    pub fn public_key(&self) -> PublicKey {
        PublicKey(x25519_dalek::PublicKey::from(&self.secret()).to_bytes())
    }

    pub(crate) fn secret(&self) -> x25519_dalek::StaticSecret {
        x25519_dalek::StaticSecret::from(self.0)
    }
}

impl PresharedKey {
    /// The preshared key of a connection: BLAKE2s-256 (RFC 7693) over a fixed domain text, a zero byte and the
    /// UTF-8 bytes of its `sharedKey`. Both sides reckon it alone; a text that differs in one character gives
    /// unrelated keys.
    pub fn from_shared_key(shared_key: &str) -> PresharedKey {
        let digest = Blake2s256::new().chain_update(PRESHARED_KEY_DOMAIN).chain_update(shared_key).finalize();
        PresharedKey(digest.into())
    }
}

/// The public half of a Curve25519 key pair.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// Takes 32 bytes as they are.
    pub fn from_bytes(bytes: [u8; 32]) -> PublicKey {
        PublicKey(bytes)
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    pub(crate) fn point(&self) -> x25519_dalek::PublicKey {
        x25519_dalek::PublicKey::from(self.0)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<PublicKey, KeyError> {
        decode(text).map(|bytes| PublicKey(*bytes))
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<PublicKey, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_key_is_the_one_of_rfc_7748() {
        // RFC 7748, section 6.1: Alice's key pair.
        let private = PrivateKey::from_bytes([
            0x77, 0x07, 0x6d, 0x0a, 0x73, 0x18, 0xa5, 0x7d, 0x3c, 0x16, 0xc1, 0x72, 0x51, 0xb2, 0x66, 0x45,
            0xdf, 0x4c, 0x2f, 0x87, 0xeb, 0xc0, 0x99, 0x2a, 0xb1, 0x77, 0xfb, 0xa5, 0x1d, 0xb9, 0x2c, 0x2a,
        ]);
        let public: [u8; 32] = [
            0x85, 0x20, 0xf0, 0x09, 0x89, 0x30, 0xa7, 0x54, 0x74, 0x8b, 0x7d, 0xdc, 0xb4, 0x3e, 0xf7, 0x5a,
            0x0d, 0xbf, 0x3a, 0x0d, 0x26, 0x38, 0x1a, 0xf4, 0xeb, 0xa4, 0xa9, 0x8e, 0xaa, 0x9b, 0x4e, 0x6a,
        ];
        assert_eq!(private.public_key().as_bytes(), &public);
    }

    #[test]
    fn base64_goes_both_ways() {
        let private = PrivateKey::from_bytes([7; 32]);
        assert_eq!(PrivateKey::from_base64(&private.to_base64()), Ok(private.clone()));
        let public = private.public_key();
        assert_eq!(public.to_string().parse(), Ok(public));
        assert_eq!(
            serde_json::from_str::<PublicKey>(&serde_json::to_string(&public).unwrap()).unwrap(),
            public
        );
    }

    #[test]
    fn what_is_not_a_key_says_why() {
        assert_eq!("not base64!".parse::<PublicKey>(), Err(KeyError::NotBase64));
        assert_eq!("AAAA".parse::<PublicKey>(), Err(KeyError::WrongLength(3)));
    }

    #[test]
    fn secrets_stay_out_of_debug_output() {
        let private = PrivateKey::from_bytes([7; 32]);
        let preshared = PresharedKey::from_shared_key("example");
        let shown = format!("{private:?} {preshared:?}");
        assert!(!shown.contains(private.to_base64().as_str()) && !shown.contains("7, 7"));
        assert!(!shown.contains(preshared.to_base64().as_str()));
        assert!(shown.contains("redacted"));
    }

    #[test]
    fn preshared_key_depends_on_every_character_and_never_changes_between_versions() {
        let key = PresharedKey::from_shared_key("example");
        // Reckoned by Python's hashlib.blake2s.
        assert_eq!(key.to_base64().as_str(), "/MTFnoQ0/FKy4dwQLStxKqK+8JQk/9612UutOHil7a0=");
        assert_ne!(key, PresharedKey::from_shared_key("Example"));
        assert_ne!(key, PresharedKey::from_shared_key("example "));
        assert_ne!(PresharedKey::from_shared_key(""), PresharedKey::from_bytes([0; 32]));
    }
}
