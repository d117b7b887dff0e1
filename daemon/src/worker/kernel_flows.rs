//! Whoever carries plain flows of a lab in the kernel, as workers and the engine see it.

use std::fmt::Debug;
use std::sync::Arc;

use vnet_dataplane::{OffloadCounts, OffloadEntry, OffloadSlot, PortId};

use crate::host::netns::Netns;

/// Gives each lab what carries its flows.
pub trait KernelHost: Debug + Send + Sync {
    /// Opens what a former daemon has left of this lab's, or makes it anew.
    ///
    /// # Errors
    /// Why the kernel carries no flows of this lab, in words for its user.
    fn open(&self, lab: &str) -> Result<Arc<dyn KernelFlows>, String>;
}

/// The flows of one lab that the kernel carries. Entries, their counts and the epoch in force lie in memory that is
/// shared with the kernel's program and outlives the daemon.
///
/// The workers call [`KernelFlows::enter`] to [`KernelFlows::release`] between two batches; they mean what
/// [`vnet_router::Output`] says of them. The rest is the engine's.
pub trait KernelFlows: Debug + Send + Sync {
    /// The epoch whose entries count at present; a former daemon's, until the first [`KernelFlows::publish`].
    fn epoch(&self) -> u32;

    /// Lets only entries of this epoch count from now on: a plain store, called before the snapshot is published.
    fn publish(&self, epoch: u32);

    /// Enters a flow; `None` where that is not possible (yet): the NIC is still being equipped, the table is full, or
    /// the key has an entry.
    fn enter(&self, entry: &OffloadEntry) -> Option<OffloadSlot>;

    /// What an entry has counted; `None` if it was lost.
    fn counts(&self, slot: OffloadSlot) -> Option<OffloadCounts>;

    /// Lets an entry count in this epoch too.
    fn renew(&self, slot: OffloadSlot, epoch: u32) -> bool;

    /// Ends an entry; its slot stays readable until its release.
    fn withdraw(&self, slot: OffloadSlot);

    /// Whether the counts of a withdrawn entry are final.
    fn is_final(&self, slot: OffloadSlot) -> bool;

    /// Packets of a NIC come to the workers although they have entries: looks after its programs, and attaches what is gone.
    fn inspect(&self, port: PortId);

    /// Gives the slot of a withdrawn or lost entry back.
    fn release(&self, slot: OffloadSlot);

    /// The entries that a former daemon has left, each with its slot: the workers keep or withdraw them. Empty the
    /// second time.
    fn take_adopted(&self) -> Vec<(OffloadSlot, OffloadEntry)>;

    /// A NIC is there: `device` in `ns`. Costs nothing until a flow of it is entered.
    fn attach(&self, port: PortId, ns: &Arc<Netns>, device: &str);

    /// A NIC is gone: entries from and to it end, and stay readable until their release.
    fn detach(&self, port: PortId);

    /// What failed since it was opened, if anything: the flows concerned stay with the workers.
    fn failure(&self) -> Option<String>;

    /// Removes everything, the pins too: the lab goes down.
    fn remove(&self);
}
