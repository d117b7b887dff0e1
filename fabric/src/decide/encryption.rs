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
    /// It is dropped for not being encrypted.
    NotAccepted,
}

impl Status {
    fn of(snapshot: &Snapshot, from: &Nic, to: &Nic) -> Status {
        let encrypts = |nic: &Nic| snapshot.networks[snapshot.subnets[nic.subnet].network].encryption;
        let drops =
            [from, to].into_iter().any(|nic| encrypts(nic) == Some(EncryptionEnforcement::DropUnencrypted));
        let status = match (encrypts(from), encrypts(to)) {
            (None, _) => Status::Off,
            (Some(_), _) if from.accelerated != Some(true) => Status::SenderCannot,
            (Some(_), Some(_)) if to.accelerated == Some(true) => return Status::Encrypted,
            (Some(_), _) => Status::ReceiverCannot,
        };
        if drops { Status::NotAccepted } else { status }
    }

    fn code(self) -> &'static str {
        match self {
            Status::Encrypted => "X",
            Status::Off => "NX",
            Status::SenderCannot => "NX_HW_NOT_SUPPORTED",
            Status::ReceiverCannot => "NX_NOT_SUPPORTED",
            Status::NotAccepted => "NX_NOT_ACCEPTED",
        }
    }
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
        if status == Status::NotAccepted {
            let rule = snapshot.check(AzureRule::EncryptionDrop);
            return Some(self.drop(Reason::EncryptionRequired, rule, from_name, || {
                format!("{from_name} and {to_name} cannot encrypt, and a network of theirs drops what is not encrypted (NX_NOT_ACCEPTED)")
            }));
        }
        let rule = snapshot.check(AzureRule::EncryptionPair);
        self.note(StepKind::Encryption, Some(rule), from_name, || {
            let how = if status == Status::Encrypted { "encrypted" } else { "not encrypted" };
            format!("{how} between {from_name} and {to_name} ({})", status.code())
        });
        None
    }
}
