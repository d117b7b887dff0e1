//! Plain flows of a lab, carried by the kernel.
//!
//! The NIC stays a TUN. A program at its egress looks each packet up in a table that lies in memory shared with the daemon;
//! a packet of an approved flow is counted and sent over a cable (a veth pair) to the lab's hidden namespace, from there
//! straight to the receiver's cable, and enters the receiver's NIC as if the daemon had written it. Everything else goes
//! on to the daemon. An entry counts in one epoch only: one store to the shared memory brings every flow of the lab back.
//!
//! - [`layout`] and [`table`]: the shared memory, without a system call.
//! - [`program`]: the programs, loaded and pinned.
//! - [`equipment`]: cables and filters; [`nics`]: which NICs have them. A NIC gets its cable when a flow of it is first
//!   entered, by a thread of the lab's own.

mod equipment;
mod layout;
mod nics;
mod program;
mod table;

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use vnet_dataplane::{OffloadCounts, OffloadEntry, OffloadSlot, PortId};

use crate::host::error::{Context, Result};
use crate::host::netns::{self, Netns, NetnsName};
use crate::worker::{KernelFlows, KernelHost};
use equipment::{Fabric, port_of, target_of};
use nics::{Nics, Stage};
use program::{Numbers, Programs};
use table::Table;

/// Entries that a lab may have.
pub const ENTRIES: usize = 65_536;
/// The epoch in which no entry counts.
const NEVER: u32 = 0;
/// Cables that can be asked for at once; who asks beyond asks again later.
const REQUESTS: usize = 1024;
/// A NIC's programs are looked after this often at most.
const INSPECTION: Duration = Duration::from_secs(3);

/// This host's kernel. What it lacks is found out once, when the first lab opens.
#[derive(Debug, Default)]
pub struct Kernel {
    obstacle: OnceLock<Option<String>>,
}

impl KernelHost for Kernel {
    fn open(&self, lab: &str) -> std::result::Result<Arc<dyn KernelFlows>, String> {
        let look = || examine().err().map(|error| error.to_string());
        if let Some(obstacle) = self.obstacle.get_or_init(look) {
            return Err(obstacle.clone());
        }
        let opened = Offload::open(lab);
        opened.map(|offload| Arc::new(offload) as Arc<dyn KernelFlows>).map_err(|error| error.to_string())
    }
}

/// What a lab's offload is at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Flows that the kernel carries at present.
    pub entries: usize,
    /// NICs that have a cable.
    pub nics: usize,
    /// Why flows stay in userspace, where something failed.
    pub failure: Option<String>,
}

enum Request {
    Equip(PortId),
    Unequip(PortId),
    Inspect(PortId),
    Grace,
    Stop,
}

/// The kernel's half of one lab.
#[derive(Debug)]
pub struct Offload {
    inner: Arc<Inner>,
    control: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Inner {
    lab: String,
    buckets: usize,
    numbers: Numbers,
    nics: Nics,
    table: OnceLock<Table>,
    /// The epoch to be in force, also before there is a table.
    epoch: Mutex<u32>,
    equipment: Mutex<Equipment>,
    requests: SyncSender<Request>,
    grace_asked: AtomicBool,
    adopted: AtomicBool,
    failure: Mutex<Option<String>>,
}

/// What only one thread at a time works at.
#[derive(Debug, Default)]
struct Equipment {
    programs: Option<Programs>,
    fabric: Option<Fabric>,
    removed: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Offload {
    /// Takes over what a former daemon has pinned for `lab`, or begins with nothing: programs, table and cables are made when
    /// the first flow is entered.
    ///
    /// # Errors
    /// The kernel or the build lacks what it takes; the lab runs without then.
    pub fn open(lab: &str) -> Result<Offload> {
        Offload::with_entries(lab, ENTRIES)
    }

    /// As [`Offload::open`], with room for fewer entries: a power of two, eight at least.
    ///
    /// # Errors
    /// As [`Offload::open`].
    pub fn with_entries(lab: &str, entries: usize) -> Result<Offload> {
        program::check_built()?;
        program::check_waiting()?;
        let pinned = program::open(lab).or_else(|error| {
            tracing::warn!(%lab, %error, "a former daemon's flows in the kernel cannot be taken over");
            remove(lab).map(|()| None)
        })?;
        let (requests, inbox) = sync_channel(REQUESTS);
        let inner = Arc::new(Inner {
            lab: lab.to_owned(),
            buckets: (entries / layout::WAYS).next_power_of_two(),
            numbers: Numbers::random(),
            nics: Nics::new(),
            table: OnceLock::new(),
            epoch: Mutex::new(0),
            equipment: Mutex::default(),
            requests,
            grace_asked: AtomicBool::new(false),
            adopted: AtomicBool::new(false),
            failure: Mutex::new(None),
        });
        if let Some((programs, table)) = pinned {
            *lock(&inner.epoch) = table.epoch();
            lock(&inner.equipment).programs = Some(programs);
            inner.adopted.store(true, Ordering::Release);
            // Nobody else knows the cell yet.
            let _ = inner.table.set(table);
            inner.ask_grace();
        }
        let thread = Arc::clone(&inner);
        let control = std::thread::Builder::new()
            .name("offload".into())
            .spawn(move || thread.serve(&inbox))
            .on("start a thread for", lab)?;
        Ok(Offload { inner, control: Mutex::new(Some(control)) })
    }

    /// What is there at present.
    #[must_use]
    pub fn status(&self) -> Status {
        Status {
            entries: self.inner.table.get().map_or(0, Table::in_force),
            nics: self.inner.nics.ready(),
            failure: self.inner.failure(),
        }
    }

    fn stop(&self) {
        let Some(control) = lock(&self.control).take() else { return };
        // The thread takes requests until it ends, so there is room sooner or later.
        let _ = self.inner.requests.send(Request::Stop);
        let _ = control.join();
    }
}

impl Drop for Offload {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Inner {
    fn serve(&self, inbox: &Receiver<Request>) {
        let mut inspected = HashMap::new();
        while let Ok(request) = inbox.recv() {
            match request {
                Request::Inspect(port) => {
                    let now = Instant::now();
                    let last = inspected.insert(port, now);
                    match last.filter(|last| now.duration_since(*last) < INSPECTION) {
                        Some(last) => drop(inspected.insert(port, last)),
                        // What is there is kept, what is gone is made again.
                        None => self.equip(port),
                    }
                }
                Request::Equip(port) => self.equip(port),
                Request::Unequip(port) => self.unequip(port),
                Request::Grace => self.end_grace(),
                Request::Stop => return,
            }
        }
    }

    fn failure(&self) -> Option<String> {
        self.nics.failure().or_else(|| lock(&self.failure).clone())
    }

    fn fail(&self, what: &str, error: &impl std::fmt::Display) {
        tracing::warn!(lab = %self.lab, %error, "{what}");
        *lock(&self.failure) = Some(format!("{what}: {error}"));
    }

    fn equip(&self, port: PortId) {
        let Some(place) = self.nics.place(port) else { return };
        let mut equipment = lock(&self.equipment);
        if equipment.removed {
            return;
        }
        let outcome = self
            .prepare(&mut equipment)
            .and_then(|(programs, fabric)| fabric.equip(programs, port, &place.ns, &place.device));
        let failure = outcome.err().map(|error| {
            let (ns, device) = (place.ns.label(), &place.device);
            tracing::warn!(lab = %self.lab, %ns, %device, %error, "flows of a NIC stay in userspace");
            format!("flows of {device} in {ns} stay in userspace, and it is tried again: {error}")
        });
        self.nics.settle(port, &place, failure, Instant::now());
    }

    /// Loads the programs and makes the fabric's namespace, the first time.
    fn prepare<'a>(&self, equipment: &'a mut Equipment) -> Result<(&'a Programs, &'a Fabric)> {
        if equipment.programs.is_none() {
            let (programs, table) = program::load(&self.lab, self.buckets, self.numbers)?;
            let epoch = lock(&self.epoch);
            table.set_epoch(*epoch);
            // Only this thread makes tables, and there are no programs yet.
            let _ = self.table.set(table);
            drop(epoch);
            equipment.programs = Some(programs);
        }
        if equipment.fabric.is_none() {
            equipment.fabric = Some(Fabric::open(&self.lab)?);
        }
        match (&equipment.programs, &equipment.fabric) {
            (Some(programs), Some(fabric)) => Ok((programs, fabric)),
            _ => unreachable!("both were made above"),
        }
    }

    fn unequip(&self, port: PortId) {
        let equipment = lock(&self.equipment);
        if self.nics.stage(port) != Stage::Absent {
            // Another NIC has got the port meanwhile; its own cable replaces the former one's.
            return;
        }
        if let Some(fabric) = &equipment.fabric
            && let Err(error) = fabric.unequip(port)
        {
            tracing::warn!(lab = %self.lab, %error, "a cable could not be taken away");
        }
    }

    fn ask_grace(&self) {
        if !self.grace_asked.swap(true, Ordering::AcqRel) && self.requests.try_send(Request::Grace).is_err() {
            self.grace_asked.store(false, Ordering::Release);
        }
    }

    fn end_grace(&self) {
        // Who releases from now on asks for another one.
        self.grace_asked.store(false, Ordering::Release);
        if let Some(table) = self.table.get()
            && let Err(error) = table.end_grace(program::wait_for_programs)
        {
            self.fail("places of ended flows are not used again", &error);
        }
    }

    /// Whether a NIC's flows can be carried; asks for its cable where it has none.
    fn is_ready(&self, port: PortId) -> bool {
        match self.nics.stage(port) {
            Stage::Ready => true,
            Stage::Failed if !self.nics.may_try_again(port, Instant::now()) => false,
            stage @ (Stage::Bare | Stage::Failed) => {
                if self.nics.advance(port, stage, Stage::Asked)
                    && self.requests.try_send(Request::Equip(port)).is_err()
                {
                    self.nics.advance(port, Stage::Asked, stage);
                }
                false
            }
            Stage::Absent | Stage::Asked => false,
        }
    }
}

impl KernelFlows for Offload {
    fn epoch(&self) -> u32 {
        *lock(&self.inner.epoch)
    }

    fn publish(&self, epoch: u32) {
        let mut in_force = lock(&self.inner.epoch);
        *in_force = epoch;
        if let Some(table) = self.inner.table.get() {
            table.set_epoch(epoch);
        }
    }

    fn enter(&self, entry: &OffloadEntry) -> Option<OffloadSlot> {
        // Both are looked at, so that both cables are asked for.
        let ready = [entry.key.ingress(), entry.target].map(|port| self.inner.is_ready(port));
        let table = self.inner.table.get().filter(|_| ready == [true, true] && entry.epoch != NEVER)?;
        table.enter(&entry.key, target_of(entry.target), entry.ttl_decrement, entry.epoch)
    }

    fn counts(&self, slot: OffloadSlot) -> Option<OffloadCounts> {
        self.inner.table.get()?.counts(slot)
    }

    fn renew(&self, slot: OffloadSlot, epoch: u32) -> bool {
        self.inner.table.get().is_some_and(|table| table.renew(slot, epoch))
    }

    fn withdraw(&self, slot: OffloadSlot) {
        if let Some(table) = self.inner.table.get() {
            table.withdraw(slot);
            self.inner.ask_grace();
        }
    }

    fn is_final(&self, slot: OffloadSlot) -> bool {
        self.inner.table.get().is_none_or(|table| {
            let is_final = table.is_final(slot);
            if !is_final {
                self.inner.ask_grace();
            }
            is_final
        })
    }

    fn inspect(&self, port: PortId) {
        // Who finds no room asks again.
        let _ = self.inner.requests.try_send(Request::Inspect(port));
    }

    fn release(&self, slot: OffloadSlot) {
        if let Some(table) = self.inner.table.get() {
            table.release(slot);
            self.inner.ask_grace();
        }
    }

    fn take_adopted(&self) -> Vec<(OffloadSlot, OffloadEntry)> {
        let is_first = self.inner.adopted.swap(false, Ordering::AcqRel);
        let Some(table) = self.inner.table.get().filter(|_| is_first) else { return Vec::new() };
        let entry = |entered: table::Entered| {
            let target = port_of(entered.target)?;
            let table::Entered { slot, key, ttl_decrement, epoch, .. } = entered;
            Some((slot, OffloadEntry { key, target, ttl_decrement, epoch }))
        };
        table.entries().filter_map(entry).collect()
    }

    fn attach(&self, port: PortId, ns: &Arc<Netns>, device: &str) {
        self.inner.nics.add(port, Arc::clone(ns), device.to_owned());
    }

    fn detach(&self, port: PortId) {
        let stage = self.inner.nics.take(port);
        if let Some(table) = self.inner.table.get() {
            table.withdraw_port(port.0, target_of(port));
        }
        if matches!(stage, Stage::Ready | Stage::Asked) {
            // The cable goes with its namespace at the latest.
            let _ = self.inner.requests.try_send(Request::Unequip(port));
        }
    }

    fn failure(&self) -> Option<String> {
        self.inner.failure()
    }

    fn remove(&self) {
        self.publish(NEVER);
        self.inner.nics.clear();
        *lock(&self.inner.equipment) = Equipment { removed: true, ..Equipment::default() };
        self.stop();
        if let Err(error) = remove(&self.inner.lab) {
            tracing::warn!(lab = %self.inner.lab, %error, "the kernel's half of a lab could not be removed");
        }
    }
}

/// Removes what there is of a lab's offload on this host: no entry counts any more, pins, cables and the hidden namespace
/// go. That there is nothing is no error. The programs end with the machines' devices.
///
/// # Errors
/// Where the kernel refuses.
pub fn remove(lab: &str) -> Result<()> {
    let disabled = program::disable(lab);
    let unpinned = program::unpin(lab);
    netns::delete(&NetnsName::new(lab, netns::FABRIC)?)?;
    disabled.and(unpinned)
}

/// Removes what a former daemon has left of a lab that goes on without: as [`remove`], and its NICs lose their programs.
///
/// # Errors
/// Where the kernel refuses.
pub fn abandon(lab: &str) -> Result<()> {
    if !program::folder(lab).is_dir() {
        return Ok(());
    }
    // No entry counts any more, whatever fails after this.
    program::disable(lab)?;
    let stripped = equipment::strip(lab);
    remove(lab)?;
    stripped
}

/// Whether the daemon was built with its programs.
#[must_use]
pub fn is_built() -> bool {
    program::check_built().is_ok()
}

/// Whether this host's kernel can carry flows: loads the programs for a moment, under a name that no lab has, and attaches them
/// to devices of a namespace without a name.
///
/// # Errors
/// What it lacks.
pub fn examine() -> Result<()> {
    program::check_built()?;
    program::check_waiting()?;
    // bpffs takes no dot, and no lab's name has this stroke.
    let name = format!("doctor_{}", std::process::id());
    let attached = program::load(&name, 1, Numbers::random())
        .and_then(|(programs, _table)| equipment::try_out(&programs));
    let unpinned = program::unpin(&name);
    attached.and(unpinned)
}

/// Where a lab's pins are.
#[must_use]
pub fn pins(lab: &str) -> impl AsRef<Path> {
    program::folder(lab)
}
