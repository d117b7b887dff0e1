//! Protocol and port as users write them: `tcp/443`, `udp/53`, `icmp`.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A protocol that probes and predictions speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP echo, of the family that the addresses have.
    Icmp,
}

impl Protocol {
    /// As users write it.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Icmp => "icmp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Protocol {
    type Err = ServiceError;

    fn from_str(text: &str) -> Result<Protocol, ServiceError> {
        match text.to_ascii_lowercase().as_str() {
            "tcp" => Ok(Protocol::Tcp),
            "udp" => Ok(Protocol::Udp),
            "icmp" | "icmpv6" => Ok(Protocol::Icmp),
            _ => Err(ServiceError::Protocol(text.to_owned())),
        }
    }
}

/// What a packet asks for: `tcp/443`, `udp/53`, `icmp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Service {
    /// Protocol.
    pub protocol: Protocol,
    /// Destination port; zero for ICMP.
    pub port: u16,
}

impl Service {
    /// ICMP echo.
    pub const ICMP: Service = Service { protocol: Protocol::Icmp, port: 0 };
}

/// Why a text is no [`Service`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ServiceError {
    /// Neither tcp, udp nor icmp.
    #[error("'{0}' is not a protocol that can be asked for: write tcp/PORT, udp/PORT or icmp")]
    Protocol(String),
    /// TCP or UDP without port.
    #[error("{0} needs a port: write {0}/443")]
    PortMissing(Protocol),
    /// Port out of range.
    #[error("'{0}' is not a port: give a number from 1 to 65535")]
    Port(String),
    /// ICMP with port.
    #[error("icmp has no ports: write icmp alone")]
    PortOfIcmp,
}

impl FromStr for Service {
    type Err = ServiceError;

    fn from_str(text: &str) -> Result<Service, ServiceError> {
        let (protocol, port) = match text.split_once('/') {
            Some((protocol, port)) => (protocol.parse()?, Some(port)),
            None => (text.parse()?, None),
        };
        match (protocol, port) {
            (Protocol::Icmp, None) => Ok(Service::ICMP),
            (Protocol::Icmp, Some(_)) => Err(ServiceError::PortOfIcmp),
            (protocol, None) => Err(ServiceError::PortMissing(protocol)),
            (protocol, Some(port)) => match port.parse() {
                Ok(number) if number != 0 => Ok(Service { protocol, port: number }),
                _ => Err(ServiceError::Port(port.to_owned())),
            },
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.protocol {
            Protocol::Icmp => f.write_str("icmp"),
            protocol => write!(f, "{protocol}/{}", self.port),
        }
    }
}

impl Serialize for Service {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Service {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Service, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Service {
    fn schema_name() -> Cow<'static, str> {
        "Service".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "Protocol and port: tcp/443, udp/53 or icmp.",
            "pattern": "^(tcp/[0-9]+|udp/[0-9]+|icmp)$"
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        for text in ["tcp/443", "udp/53", "icmp"] {
            assert_eq!(text.parse::<Service>().map(|service| service.to_string()), Ok(text.to_owned()));
        }
        assert_eq!("TCP/80".parse(), Ok(Service { protocol: Protocol::Tcp, port: 80 }));
    }

    #[test]
    fn says_what_is_wrong() {
        let error = |text: &str| text.parse::<Service>().map_err(|error| error.to_string());
        assert_eq!(error("tcp"), Err("tcp needs a port: write tcp/443".to_owned()));
        assert_eq!(error("icmp/8"), Err("icmp has no ports: write icmp alone".to_owned()));
        assert!(error("tcp/0").is_err());
        assert!(error("tcp/65536").is_err());
        assert!(error("gre").is_err());
    }
}
