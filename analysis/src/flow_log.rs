//! Sums of Azure's virtual network flow logs (version 4): what each flow sent and received, under the rule that let it pass
//! or denied it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Fields of a tuple in version 4.
const FIELDS: usize = 13;

/// What a flow log cannot be read for.
#[derive(Debug, Error)]
pub enum Unreadable {
    /// No flow log in JSON.
    #[error("it is no virtual network flow log: {0}")]
    Json(#[from] serde_json::Error),
    /// A record of another version.
    #[error("record {record} is of version {version}; version 4 is known here")]
    Version {
        /// Number of the record, from 1.
        record: usize,
        /// As it stands there.
        version: u32,
    },
    /// A tuple that is none.
    #[error("'{tuple}': {why}")]
    Tuple {
        /// As it stands there.
        tuple: String,
        /// What is wrong with it.
        why: &'static str,
    },
}

/// Whether a flow began at the machine or came to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Direction {
    /// To the machine.
    Inbound,
    /// From it.
    Outbound,
}

/// A flow under one rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Flow {
    /// The rule that let it pass or denied it, as it is logged.
    pub rule: String,
    /// Source address.
    pub source: IpAddr,
    /// Source port.
    pub source_port: u16,
    /// Destination address.
    pub destination: IpAddr,
    /// Destination port.
    pub destination_port: u16,
    /// IANA's number of the protocol.
    pub protocol: u8,
    /// Seen from the machine.
    pub direction: Direction,
}

/// Sums; the log counts what came since the record before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Totals {
    /// Records of a begin.
    pub begun: u64,
    /// Records of an end.
    pub ended: u64,
    /// Records of a denial.
    pub denied: u64,
    /// Packets from source to destination.
    pub packets_sent: u64,
    /// Bytes from source to destination.
    pub bytes_sent: u64,
    /// Packets from destination to source.
    pub packets_received: u64,
    /// Bytes from destination to source.
    pub bytes_received: u64,
}

impl Totals {
    /// Packets both ways.
    pub fn packets(&self) -> u64 {
        self.packets_sent.saturating_add(self.packets_received)
    }

    /// Bytes both ways.
    pub fn bytes(&self) -> u64 {
        self.bytes_sent.saturating_add(self.bytes_received)
    }

    /// Adds what another record or flow has.
    pub fn add(&mut self, other: &Totals) {
        let sums = [
            (&mut self.begun, other.begun),
            (&mut self.ended, other.ended),
            (&mut self.denied, other.denied),
            (&mut self.packets_sent, other.packets_sent),
            (&mut self.bytes_sent, other.bytes_sent),
            (&mut self.packets_received, other.packets_received),
            (&mut self.bytes_received, other.bytes_received),
        ];
        for (sum, more) in sums {
            *sum = sum.saturating_add(more);
        }
    }
}

#[derive(Deserialize)]
struct Log {
    records: Vec<Record>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    flow_log_version: u32,
    flow_records: Flows,
}

#[derive(Deserialize)]
struct Flows {
    flows: Vec<OfGroup>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OfGroup {
    flow_groups: Vec<OfRule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OfRule {
    rule: String,
    flow_tuples: Vec<String>,
}

/// Sums up a flow log as Azure stores it, by flow and rule.
///
/// # Errors
/// It is none of version 4, or a tuple of it cannot be read.
pub fn sum(text: &str) -> Result<BTreeMap<Flow, Totals>, Unreadable> {
    let log: Log = serde_json::from_str(text)?;
    let mut sums: BTreeMap<Flow, Totals> = BTreeMap::new();
    for (index, record) in log.records.iter().enumerate() {
        if record.flow_log_version != 4 {
            return Err(Unreadable::Version { record: index + 1, version: record.flow_log_version });
        }
        let rules = record.flow_records.flows.iter().flat_map(|group| &group.flow_groups);
        for OfRule { rule, flow_tuples } in rules {
            for text in flow_tuples {
                let (flow, totals) =
                    tuple(rule, text).map_err(|why| Unreadable::Tuple { tuple: text.clone(), why })?;
                sums.entry(flow).or_default().add(&totals);
            }
        }
    }
    Ok(sums)
}

fn tuple(rule: &str, text: &str) -> Result<(Flow, Totals), &'static str> {
    let fields: Vec<&str> = text.split(',').collect();
    let fields: [&str; FIELDS] = fields.try_into().map_err(|_| "a tuple has 13 fields")?;
    let [_, source, destination, source_port, destination_port, protocol, direction, state, _, counts @ ..] =
        fields;
    let address = |field: &str| field.parse().map_err(|_| "an address is none");
    let port = |field: &str| field.parse().map_err(|_| "a port is none");
    // A begin and a denial have counted nothing, and may leave that out.
    let count = |field: &str| match field {
        "" => Ok(0),
        _ => field.parse::<u64>().map_err(|_| "a count is no number"),
    };
    let flow = Flow {
        rule: rule.to_owned(),
        source: address(source)?,
        source_port: port(source_port)?,
        destination: address(destination)?,
        destination_port: port(destination_port)?,
        protocol: protocol.parse().map_err(|_| "the protocol is no number")?,
        direction: match direction {
            "I" => Direction::Inbound,
            "O" => Direction::Outbound,
            _ => return Err("the direction is neither I nor O"),
        },
    };
    let (begun, ended, denied) = match state {
        "B" => (1, 0, 0),
        "C" => (0, 0, 0),
        "E" => (0, 1, 0),
        "D" => (0, 0, 1),
        _ => return Err("the state is none of B, C, E and D"),
    };
    let [packets_sent, bytes_sent, packets_received, bytes_received] = counts;
    let totals = Totals {
        begun,
        ended,
        denied,
        packets_sent: count(packets_sent)?,
        bytes_sent: count(bytes_sent)?,
        packets_received: count(packets_received)?,
        bytes_received: count(bytes_received)?,
    };
    Ok((flow, totals))
}
