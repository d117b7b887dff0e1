//! Tables of nf_tables, made and removed over netlink: as much of them as translation at the host's edge needs.
//!
//! Layouts and numbers are those of linux/netfilter/nfnetlink.h and nf_tables.h. A table is replaced as a whole, in one
//! transaction: connections that it has translated go on.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use netlink_sys::{Socket, protocols::NETLINK_NETFILTER};

use super::error::{Context, HostError, Result};

const HEADER_BYTES: usize = 16;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_APPEND: u16 = 0x800;
const NLA_F_NESTED: u16 = 0x8000;

const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const SUBSYSTEM: u16 = 10;
const NEWTABLE: u16 = 0;
const GETTABLE: u16 = 1;
const DELTABLE: u16 = 2;
const NEWCHAIN: u16 = 3;
const NEWRULE: u16 = 6;

const FAMILY_UNSPEC: u8 = 0;
const FAMILY_IPV4: u8 = 2;
const HOOK_FORWARD: u32 = 2;
const HOOK_POSTROUTING: u32 = 4;
const PRIORITY_FILTER: i32 = 0;
const PRIORITY_SRCNAT: i32 = 100;
const REGISTER_1: u32 = 1;
const META_OIFNAME: u32 = 7;
const CMP_EQ: u32 = 0;
const CMP_NEQ: u32 = 1;
const NETWORK_HEADER: u32 = 1;
const DEVICE_NAME_BYTES: usize = 16;

/// Where a rule applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chain {
    /// Packets that are passed on.
    Forward,
    /// Source translation of packets that leave.
    Masquerade,
}

impl Chain {
    fn name(self) -> &'static str {
        match self {
            Chain::Forward => "forward",
            Chain::Masquerade => "postrouting",
        }
    }
}

/// What a rule asks of a packet; all of it must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It leaves by this device.
    LeavesBy(String),
    /// It leaves by another one.
    LeavesNotBy(String),
    /// Its source is in this prefix.
    Source(Ipv4Net),
    /// Its destination is in this prefix.
    Destination(Ipv4Net),
}

/// A rule: in the chain `Forward` it drops, in `Masquerade` it translates the source to the device's own address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Where it applies.
    pub chain: Chain,
    /// What it asks.
    pub conditions: Vec<Condition>,
}

/// Makes a table of these rules, in place of one of this name.
///
/// # Errors
/// A kernel without nf_tables, or without the right to change them.
pub fn replace_table(name: &str, rules: &[Rule]) -> Result<()> {
    let mut batch = Batch::new();
    // Deleting is an error where nothing is, making what is there is none.
    batch.table(NEWTABLE, name);
    batch.table(DELTABLE, name);
    batch.table(NEWTABLE, name);
    for chain in [Chain::Forward, Chain::Masquerade] {
        if rules.iter().any(|rule| rule.chain == chain) {
            batch.chain(name, chain);
        }
    }
    for rule in rules {
        batch.rule(name, rule);
    }
    batch.send("make table", name)
}

/// Removes a table; one that is not there is no error.
///
/// # Errors
/// The kernel refuses.
pub fn remove_table(name: &str) -> Result<()> {
    let mut batch = Batch::new();
    batch.table(DELTABLE, name);
    match batch.send("remove table", name) {
        Err(error) if error.is_missing() => Ok(()),
        other => other,
    }
}

/// Names of the IPv4 tables of the calling thread's namespace.
///
/// # Errors
/// A kernel without nf_tables, or without the right to read them.
pub fn tables() -> Result<Vec<String>> {
    let mut message = Vec::new();
    put_message(&mut message, SUBSYSTEM << 8 | GETTABLE, NLM_F_REQUEST | NLM_F_DUMP, 1, FAMILY_IPV4, |_| {});
    let socket = open()?;
    socket.send(&message, 0).on("list", "nftables")?;
    let mut names = Vec::new();
    loop {
        let (bytes, _) = socket.recv_from_full().on("read the list of", "nftables")?;
        for (kind, body) in messages(&bytes) {
            match kind {
                NLMSG_DONE => return Ok(names),
                NLMSG_ERROR => refused("list", "nftables", body)?,
                _ => names.extend(name_of(body)),
            }
        }
    }
}

fn open() -> Result<Socket> {
    let mut socket = Socket::new(NETLINK_NETFILTER).on("open", "a netfilter socket")?;
    socket.bind_auto().on("bind", "a netfilter socket")?;
    Ok(socket)
}

/// The kind and body of each message in what was received.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let header = bytes.get(..HEADER_BYTES)?;
        let length = u32::from_ne_bytes(header[..4].try_into().ok()?) as usize;
        let kind = u16::from_ne_bytes(header[4..6].try_into().ok()?);
        let body = bytes.get(HEADER_BYTES..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    })
}

/// The kernel's word on a request: an error number, zero for done.
fn refused(action: &'static str, object: &str, body: &[u8]) -> Result<()> {
    let code = body.get(..4).and_then(|code| code.try_into().ok()).map_or(-libc::EPROTO, i32::from_ne_bytes);
    if code == 0 {
        return Ok(());
    }
    let source = std::io::Error::from_raw_os_error(-code);
    Err(HostError::Netlink { action, object: object.to_owned(), source })
}

/// The first attribute of a table is its name.
fn name_of(body: &[u8]) -> Option<String> {
    let attribute = body.get(4..)?;
    let length = usize::from(u16::from_ne_bytes(attribute.get(..2)?.try_into().ok()?));
    let text = attribute.get(4..length)?;
    Some(String::from_utf8_lossy(text).trim_end_matches('\0').to_owned())
}

/// Changes that come into force together.
struct Batch {
    bytes: Vec<u8>,
    sequence: u32,
}

impl Batch {
    fn new() -> Batch {
        let mut batch = Batch { bytes: Vec::new(), sequence: 0 };
        batch.bracket(BATCH_BEGIN);
        batch
    }

    fn bracket(&mut self, kind: u16) {
        put_message(&mut self.bytes, kind, NLM_F_REQUEST, self.sequence, FAMILY_UNSPEC, |_| {});
    }

    fn message(&mut self, kind: u16, flags: u16, fill: impl FnOnce(&mut Vec<u8>)) {
        self.sequence += 1;
        let flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        put_message(&mut self.bytes, SUBSYSTEM << 8 | kind, flags, self.sequence, FAMILY_IPV4, fill);
    }

    fn table(&mut self, kind: u16, name: &str) {
        let flags = if kind == NEWTABLE { NLM_F_CREATE } else { 0 };
        self.message(kind, flags, |out| put_text(out, 1, name));
    }

    fn chain(&mut self, table: &str, chain: Chain) {
        let (kind, hook, priority) = match chain {
            Chain::Forward => ("filter", HOOK_FORWARD, PRIORITY_FILTER),
            Chain::Masquerade => ("nat", HOOK_POSTROUTING, PRIORITY_SRCNAT),
        };
        self.message(NEWCHAIN, NLM_F_CREATE, |out| {
            put_text(out, 1, table);
            put_text(out, 3, chain.name());
            put_nested(out, 4, |out| {
                put_u32(out, 1, hook);
                put(out, 2, &priority.to_be_bytes());
            });
            put_text(out, 7, kind);
        });
    }

    fn rule(&mut self, table: &str, rule: &Rule) {
        self.message(NEWRULE, NLM_F_CREATE | NLM_F_APPEND, |out| {
            put_text(out, 1, table);
            put_text(out, 2, rule.chain.name());
            put_nested(out, 4, |out| {
                rule.conditions.iter().for_each(|condition| put_condition(out, condition));
                match rule.chain {
                    Chain::Masquerade => put_expression(out, "masq", |_| {}),
                    Chain::Forward => put_expression(out, "immediate", |out| {
                        // The verdict register takes NF_DROP.
                        put_u32(out, 1, 0);
                        put_nested(out, 2, |out| put_nested(out, 2, |out| put_u32(out, 1, 0)));
                    }),
                }
            });
        });
    }

    fn send(mut self, action: &'static str, object: &str) -> Result<()> {
        self.bracket(BATCH_END);
        let socket = open()?;
        socket.send(&self.bytes, 0).on(action, object)?;
        let mut waiting = self.sequence;
        while waiting > 0 {
            let (bytes, _) = socket.recv_from_full().on("read the kernel's word on", object)?;
            for (kind, body) in messages(&bytes) {
                if kind == NLMSG_ERROR {
                    refused(action, object, body)?;
                    waiting = waiting.saturating_sub(1);
                }
            }
        }
        Ok(())
    }
}

fn put_condition(out: &mut Vec<u8>, condition: &Condition) {
    match condition {
        Condition::LeavesBy(device) => put_device(out, CMP_EQ, device),
        Condition::LeavesNotBy(device) => put_device(out, CMP_NEQ, device),
        Condition::Source(prefix) => put_prefix(out, 12, *prefix),
        Condition::Destination(prefix) => put_prefix(out, 16, *prefix),
    }
}

fn put_device(out: &mut Vec<u8>, comparison: u32, device: &str) {
    let mut name = [0; DEVICE_NAME_BYTES];
    let length = device.len().min(DEVICE_NAME_BYTES - 1);
    name[..length].copy_from_slice(&device.as_bytes()[..length]);
    put_expression(out, "meta", |out| {
        put_u32(out, 1, REGISTER_1);
        put_u32(out, 2, META_OIFNAME);
    });
    put_comparison(out, comparison, &name);
}

/// The four bytes of an IPv4 header at `offset` lie in the prefix.
fn put_prefix(out: &mut Vec<u8>, offset: u32, prefix: Ipv4Net) {
    put_expression(out, "payload", |out| {
        put_u32(out, 1, REGISTER_1);
        put_u32(out, 2, NETWORK_HEADER);
        put_u32(out, 3, offset);
        put_u32(out, 4, 4);
    });
    put_expression(out, "bitwise", |out| {
        put_u32(out, 1, REGISTER_1);
        put_u32(out, 2, REGISTER_1);
        put_u32(out, 3, 4);
        put_nested(out, 4, |out| put(out, 1, &prefix.netmask().octets()));
        put_nested(out, 5, |out| put(out, 1, &Ipv4Addr::UNSPECIFIED.octets()));
    });
    put_comparison(out, CMP_EQ, &prefix.network().octets());
}

fn put_comparison(out: &mut Vec<u8>, comparison: u32, value: &[u8]) {
    put_expression(out, "cmp", |out| {
        put_u32(out, 1, REGISTER_1);
        put_u32(out, 2, comparison);
        put_nested(out, 3, |out| put(out, 1, value));
    });
}

fn put_expression(out: &mut Vec<u8>, name: &str, data: impl FnOnce(&mut Vec<u8>)) {
    put_nested(out, 1, |out| {
        put_text(out, 1, name);
        put_nested(out, 2, data);
    });
}

fn put_message(
    out: &mut Vec<u8>,
    kind: u16,
    flags: u16,
    sequence: u32,
    family: u8,
    fill: impl FnOnce(&mut Vec<u8>),
) {
    let start = out.len();
    out.extend([0; 4]);
    out.extend(kind.to_ne_bytes());
    out.extend(flags.to_ne_bytes());
    out.extend(sequence.to_ne_bytes());
    out.extend([0; 4]);
    // Version 0; the resource is the subsystem of the changes that a batch brackets.
    out.extend([family, 0]);
    out.extend(SUBSYSTEM.to_be_bytes());
    fill(out);
    let length = (out.len() - start) as u32;
    out[start..start + 4].copy_from_slice(&length.to_ne_bytes());
}

fn put(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    // Names and values here are far below 64 KiB.
    out.extend((4 + value.len() as u16).to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(value);
    out.resize(out.len().next_multiple_of(4), 0);
}

fn put_u32(out: &mut Vec<u8>, kind: u16, value: u32) {
    put(out, kind, &value.to_be_bytes());
}

fn put_text(out: &mut Vec<u8>, kind: u16, text: &str) {
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(0);
    put(out, kind, &bytes);
}

fn put_nested(out: &mut Vec<u8>, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend([0; 4]);
    fill(out);
    let length = (out.len() - start) as u16;
    out[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    out[start + 2..start + 4].copy_from_slice(&(kind | NLA_F_NESTED).to_ne_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_whole_and_aligned() {
        let mut batch = Batch::new();
        batch.table(NEWTABLE, "vnet.a");
        batch.rule(
            "vnet.a",
            &Rule {
                chain: Chain::Masquerade,
                conditions: vec![
                    Condition::LeavesNotBy("eth0".into()),
                    Condition::Source("10.0.0.0/8".parse().unwrap()),
                ],
            },
        );
        assert_eq!(batch.bytes.len() % 4, 0);
        let kinds: Vec<u16> = messages(&batch.bytes).map(|(kind, _)| kind).collect();
        assert_eq!(kinds, [BATCH_BEGIN, SUBSYSTEM << 8, SUBSYSTEM << 8 | NEWRULE]);
        let table = messages(&batch.bytes).nth(1).and_then(|(_, body)| name_of(body));
        assert_eq!(table.as_deref(), Some("vnet.a"));
    }

    #[test]
    fn a_torn_answer_ends_the_list() {
        assert_eq!(messages(&[1, 2, 3]).count(), 0);
        let mut message = Vec::new();
        put_message(&mut message, 7, 0, 1, 0, |out| put_text(out, 1, "x"));
        assert_eq!(messages(&message[..message.len() - 1]).count(), 0);
        assert!(refused("do", "it", &[]).is_err());
    }
}
