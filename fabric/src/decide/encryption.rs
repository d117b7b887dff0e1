//! Virtual network encryption: which traffic between virtual machines is encrypted, and what becomes of the rest.

use vnet_config::model::EncryptionEnforcement;
use vnet_dataplane::Reason;

use super::{Next, Walk};
use crate::azure_rule::AzureRule;
use crate::decision::SessionView;
use crate::snapshot::Snapshot;
use crate::snapshot::network::Nic;
use crate::trace::{StepKind, Trace};

/// Whether traffic is encrypted, in the words of Azure's flow logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    /// It is.
    Encrypted,
    /// The sender's network does not encrypt.
    Off,
    /// The sender's NIC cannot.
    SenderCannot,
    /// The receiver's network or NIC cannot.
    ReceiverCannot,
}

impl Status {
    fn of(snapshot: &Snapshot, from: &Nic, to: &Nic) -> Status {
        let encrypts = |nic: &Nic| snapshot.networks[snapshot.subnets[nic.subnet].network].encryption;
        match (encrypts(from), encrypts(to)) {
            (None, _) => Status::Off,
            (Some(_), _) if from.accelerated != Some(true) => Status::SenderCannot,
            (Some(_), Some(_)) if to.accelerated == Some(true) => Status::Encrypted,
            (Some(_), _) => Status::ReceiverCannot,
        }
    }

    fn code(self) -> &'static str {
        match self {
            Status::Encrypted => "X",
            Status::Off => "NX",
            Status::SenderCannot => "NX_HW_NOT_SUPPORTED",
            Status::ReceiverCannot => "NX_NOT_SUPPORTED",
        }
    }
}

/// Why the traffic of two NICs, not all of which encrypt, is dropped: the network or the NICs that do not, the network that asks
/// for it, and the flow log's code.
fn refusal(snapshot: &Snapshot, from: &Nic, to: &Nic) -> String {
    let name = |nic: &Nic| snapshot.port(nic.port).map_or("", |port| &port.name);
    let network = |nic: &Nic| &snapshot.networks[snapshot.subnets[nic.subnet].network];
    let ends = [from, to];
    let (cause, code) = match ends.iter().find(|nic| network(nic).encryption.is_none()) {
        Some(off) => (format!("encryption is off in {}", network(off).name), "NX_NOT_ACCEPTED"),
        None => {
            let cannot: Vec<&str> =
                ends.iter().filter(|nic| nic.accelerated != Some(true)).map(|nic| name(nic)).collect();
            let verb = if cannot.len() == 1 { "has" } else { "have" };
            (format!("{} {verb} no accelerated networking", cannot.join(" and ")), "NX_HW_NOT_SUPPORTED")
        }
    };
    let demands = |nic: &&&Nic| network(nic).encryption == Some(EncryptionEnforcement::DropUnencrypted);
    let demanding = ends.iter().find(demands).map_or("", |nic| &network(nic).name);
    format!(
        "{} to {} is not encrypted: {cause}, and {demanding} drops what is not encrypted ({code})",
        name(from),
        name(to)
    )
}

impl<S: SessionView, T: Trace> Walk<'_, S, T> {
    /// The packet has come to a NIC. What one virtual machine sends to another from private address to private address is
    /// concerned; what appliances of Azure or the Internet send is not.
    pub(super) fn encryption(&mut self, to: usize) -> Option<Next> {
        let snapshot = self.snapshot;
        let from = self.sent_by.filter(|from| *from != to)?;
        let (tuple, sent) = (self.tuple, self.packet.tuple);
        if (tuple.source, tuple.destination) != (sent.source, sent.destination) {
            return None;
        }
        let (from, to) = (&snapshot.nics[from], &snapshot.nics[to]);
        let encrypts =
            |nic: &Nic| snapshot.networks[snapshot.subnets[nic.subnet].network].encryption.is_some();
        let is_machine = |nic: &Nic| nic.accelerated.is_some();
        if !is_machine(from) || !is_machine(to) || !(encrypts(from) || encrypts(to)) {
            return None;
        }
        let status = Status::of(snapshot, from, to);
        let (from_name, to_name) = (self.port_name(from), self.port_name(to));
        let demands = |nic: &Nic| {
            let network = &snapshot.networks[snapshot.subnets[nic.subnet].network];
            network.encryption == Some(EncryptionEnforcement::DropUnencrypted)
        };
        if status != Status::Encrypted && (demands(from) || demands(to)) {
            let rule = snapshot.check(AzureRule::EncryptionDrop);
            return Some(
                self.drop(Reason::EncryptionRequired, rule, from_name, || refusal(snapshot, from, to)),
            );
        }
        let rule = snapshot.check(AzureRule::EncryptionPair);
        self.note(StepKind::Encryption, Some(rule), from_name, || {
            let how = if status == Status::Encrypted { "encrypted" } else { "not encrypted" };
            format!("{how} between {from_name} and {to_name} ({})", status.code())
        });
        None
    }
}
