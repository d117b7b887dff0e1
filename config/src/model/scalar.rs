//! Values that the file writes as one word: prefixes, ports, addresses or tags, references, secrets.

use std::{borrow::Cow, fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// Implements serde and JSON Schema for a type that is written as one string of a named format.
macro_rules! string_type {
    ($type:ty, $name:literal, $format:literal, $doc:literal) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(D::Error::custom)
            }
        }
        impl JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }
            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({"type": "string", "format": $format, "description": $doc})
            }
        }
    };
}

pub(crate) use string_type;

/// Schema of an [`IpNet`] field: a prefix whose host bits are zero.
#[derive(Debug)]
pub(crate) struct Cidr;

impl JsonSchema for Cidr {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Cidr".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "format": "cidr"})
    }
}

/// Schema of an [`IpAddr`] field that the file may fill with the name of an entry of `publicIPAddresses`.
#[derive(Debug)]
pub(crate) struct PublicIpRef;

impl JsonSchema for PublicIpRef {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "PublicIpRef".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "format": "public-ip"})
    }
}

/// Parses a prefix; the message of a refusal says what to write instead.
///
/// # Errors
/// The text is no prefix of IPv4 or IPv6, or it has bits set behind its length.
pub fn parse_cidr(text: &str) -> Result<IpNet, String> {
    let net: IpNet = match text.parse() {
        Ok(net) => net,
        Err(_) => {
            return Err(match text.parse::<IpAddr>() {
                Ok(address) => format!(
                    "'{text}' is an address, not a prefix: add a length, such as {address}/{} for this address alone",
                    bits(address)
                ),
                Err(_) => format!("'{text}' is not a prefix such as 10.0.0.0/16 or fd00:db8::/48"),
            });
        }
    };
    if net.trunc() != net {
        return Err(format!("'{text}' has host bits set: the network of this length is {}", net.trunc()));
    }
    Ok(net)
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// A range of ports, both ends included. `*` is 0-65535.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortRange {
    /// The lowest port.
    pub from: u16,
    /// The highest port, not below `from`.
    pub to: u16,
}

impl PortRange {
    /// Every port: `*` in the file.
    pub const ANY: Self = Self { from: 0, to: u16::MAX };

    /// Whether the range holds `port`.
    #[must_use]
    pub fn contains(self, port: u16) -> bool {
        (self.from..=self.to).contains(&port)
    }

    /// Whether the range holds every port.
    #[must_use]
    pub fn is_any(self) -> bool {
        self == Self::ANY
    }
}

impl FromStr for PortRange {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(Self::ANY);
        }
        let bad = || format!("'{text}' is not a port or a range of ports: write 443, 8000-8080 or *");
        let port = |part: &str| part.trim().parse::<u16>().map_err(|_| bad());
        let (from, to) = match text.split_once('-') {
            Some((from, to)) => (port(from)?, port(to)?),
            None => (port(text)?, port(text)?),
        };
        if from > to {
            return Err(format!("the range '{text}' ends below its start: write {to}-{from}"));
        }
        Ok(Self { from, to })
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::ANY => f.write_str("*"),
            Self { from, to } if from == to => write!(f, "{from}"),
            Self { from, to } => write!(f, "{from}-{to}"),
        }
    }
}

string_type!(PortRange, "PortRange", "port-range", "A port, a range such as 8000-8080, or *.");

/// Whom a rule speaks of: everybody, a prefix, a range of addresses, or a service tag.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum AddressSpec {
    /// `*`: every address of both families.
    Any,
    /// A prefix; a single address is its /32 or /128.
    Prefix(IpNet),
    /// `10.0.0.4-10.0.0.9`, both ends included and of one family.
    Range(IpAddr, IpAddr),
    /// A service tag such as `VirtualNetwork`, `Internet` or `AzureLoadBalancer`, in Azure's spelling.
    Tag(String),
}

/// The service tags that are built in. Azure's other tags stand for lists of public prefixes, which `serviceTags` gives.
pub const SERVICE_TAGS: &[&str] = &[
    "VirtualNetwork",
    "Internet",
    "AzureLoadBalancer",
    "AzurePlatformDNS",
    "AzurePlatformIMDS",
    "AzurePlatformLKM",
];

impl FromStr for AddressSpec {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "*" || text.eq_ignore_ascii_case("any") {
            return Ok(Self::Any);
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Prefix(address.into()));
        }
        if let Some(tag) = SERVICE_TAGS.iter().find(|tag| tag.eq_ignore_ascii_case(text)) {
            return Ok(Self::Tag((*tag).to_owned()));
        }
        if let Some((from, to)) = text.split_once('-')
            && let (Ok(from), Ok(to)) = (from.trim().parse::<IpAddr>(), to.trim().parse::<IpAddr>())
        {
            if from.is_ipv4() != to.is_ipv4() {
                return Err(format!("the range '{text}' mixes IPv4 and IPv6"));
            }
            if from > to {
                return Err(format!("the range '{text}' ends below its start: write {to}-{from}"));
            }
            return Ok(Self::Range(from, to));
        }
        if text.contains('/') {
            return parse_cidr(text).map(Self::Prefix);
        }
        let is_tag = text.starts_with(|c: char| c.is_ascii_alphabetic())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '.');
        if is_tag {
            return Ok(Self::Tag(text.to_owned()));
        }
        Err(format!("'{text}' is not *, an address, a prefix or a service tag"))
    }
}

impl fmt::Display for AddressSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Prefix(net) => net.fmt(f),
            Self::Range(from, to) => write!(f, "{from}-{to}"),
            Self::Tag(tag) => f.write_str(tag),
        }
    }
}

string_type!(
    AddressSpec,
    "AddressSpec",
    "address-spec",
    "*, an address, a prefix, a range of addresses, or a service tag such as VirtualNetwork."
);

/// A subnet by its virtual network and its name: `spoke1/app`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubnetRef {
    /// Name of the virtual network.
    pub virtual_network: String,
    /// Name of the subnet in it.
    pub subnet: String,
}

impl FromStr for SubnetRef {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            Some((network, subnet)) if !network.is_empty() && !subnet.is_empty() && !subnet.contains('/') => {
                Ok(Self { virtual_network: network.to_owned(), subnet: subnet.to_owned() })
            }
            _ => Err(format!("'{text}' does not name a subnet: write VIRTUALNETWORK/SUBNET")),
        }
    }
}

impl fmt::Display for SubnetRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.virtual_network, self.subnet)
    }
}

string_type!(SubnetRef, "SubnetRef", "subnet-ref", "VIRTUALNETWORK/SUBNET");

/// A value that is never printed: neither by `Debug` nor in JSON, diffs or messages.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    source: SecretSource,
    value: String,
}

/// Where a [`Secret`] comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    /// Written in the file itself.
    Inline,
    /// `{env: NAME}`: an environment variable of whoever loads the file.
    Env(String),
    /// `{file: PATH}`: a file, relative to the topology file; its trailing newline does not count.
    File(String),
}

impl Secret {
    /// A secret with the given value.
    #[must_use]
    pub fn new(value: impl Into<String>) -> Self {
        Self { source: SecretSource::Inline, value: value.into() }
    }

    /// The value itself. Empty only before [`crate::load`] has resolved its source.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.value
    }

    /// Where the value comes from.
    #[must_use]
    pub fn source(&self) -> &SecretSource {
        &self.source
    }

    pub(crate) fn resolve(&mut self, value: String) {
        self.value = value;
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
enum SecretReference {
    /// Name of an environment variable that holds the value.
    Env(String),
    /// A file that holds the value, relative to this one.
    File(String),
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
enum SecretForm {
    /// The value itself.
    Value(String),
    /// Where the value is to be read.
    Reference(SecretReference),
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.source {
            SecretSource::Inline => SecretForm::Value("(secret)".to_owned()),
            SecretSource::Env(name) => SecretForm::Reference(SecretReference::Env(name.clone())),
            SecretSource::File(path) => SecretForm::Reference(SecretReference::File(path.clone())),
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let reference = match SecretForm::deserialize(deserializer)? {
            SecretForm::Value(value) => return Ok(Self::new(value)),
            SecretForm::Reference(reference) => reference,
        };
        let source = match reference {
            SecretReference::Env(name) => SecretSource::Env(name),
            SecretReference::File(path) => SecretSource::File(path),
        };
        Ok(Self { source, value: String::new() })
    }
}

impl JsonSchema for Secret {
    fn schema_name() -> Cow<'static, str> {
        "Secret".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        SecretForm::json_schema(generator)
    }
}

/// A file that is put into a virtual machine: its path beside the topology file, and what it holds.
#[derive(Clone, PartialEq, Eq)]
pub struct FileSource {
    path: String,
    content: Vec<u8>,
}

impl FileSource {
    /// The path as the topology file writes it.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The bytes. Empty before [`crate::load`] has read them.
    #[must_use]
    pub fn content(&self) -> &[u8] {
        &self.content
    }

    pub(crate) fn resolve(&mut self, content: Vec<u8>) {
        self.content = content;
    }
}

impl FromStr for FileSource {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("the path of the file is empty".to_owned());
        }
        Ok(Self { path: text.to_owned(), content: Vec::new() })
    }
}

impl fmt::Display for FileSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)
    }
}

impl fmt::Debug for FileSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileSource({}, {} bytes)", self.path, self.content.len())
    }
}

string_type!(FileSource, "FileSource", "path", "Path of a file, relative to the topology file.");
