//! The programs and their maps: loaded, pinned, and opened again by a later daemon.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use memmap2::{MmapOptions, MmapRaw};
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::statfs;

use super::layout::{Bucket, Control, version};
use super::table::Table;
use crate::host::error::{Context, HostError, Result};

/// Where the kernel's file system for pins belongs.
const BPFFS: &str = "/sys/fs/bpf";
/// The daemon's folder in it, with a folder for each lab.
const FOLDER: &str = "/sys/fs/bpf/vnetd";
/// `BPF_FS_MAGIC` of linux/magic.h.
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;
/// linux/membarrier.h: waits until every thread of the system, and so every program in the kernel, has passed a point of rest.
const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
const MEMBARRIER_CMD_QUERY: libc::c_int = 0;

#[cfg(offload_program)]
static OBJECT: Option<&[u8]> = Some(aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/offload.bpf.o")));
#[cfg(not(offload_program))]
static OBJECT: Option<&[u8]> = None;

/// Where the kernel describes its types.
const KERNEL_TYPES: &str = "/sys/kernel/btf/vmlinux";

const NIC_EGRESS: &str = "nic_egress";
const FABRIC_INGRESS: &str = "fabric_ingress";
const NIC_INGRESS: &str = "nic_ingress";
const CONTROL: &str = "control";
const BUCKETS: &str = "buckets";

/// The programs of one lab, to be attached.
#[derive(Debug)]
pub(super) struct Programs {
    pub(super) nic_egress: OwnedFd,
    pub(super) fabric_ingress: OwnedFd,
    pub(super) nic_ingress: OwnedFd,
}

/// The folder of a lab's pins.
pub(super) fn folder(lab: &str) -> PathBuf {
    Path::new(FOLDER).join(lab)
}

/// Removes a lab's pins; that there are none is no error.
///
/// # Errors
/// Where the kernel refuses.
pub(super) fn unpin(lab: &str) -> Result<()> {
    let folder = folder(lab);
    match fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).on("remove", folder.display());
        }
        _ => {}
    }
    // Only the last lab's end empties it.
    let _ = fs::remove_dir(FOLDER);
    Ok(())
}

/// Lets no entry of a lab count any more, whichever version of the daemon has made them. That nothing is pinned is no error.
///
/// # Errors
/// Where the kernel refuses.
pub(super) fn disable(lab: &str) -> Result<()> {
    let path = folder(lab).join(CONTROL);
    // Who may not call bpf(2) could open nothing, and usually nothing is there.
    if !path.exists() {
        return Ok(());
    }
    let control = object(&path)?;
    let control = map_memory(control.as_fd(), CONTROL, size_of::<AtomicU32>())?;
    // SAFETY: the mapping is page-aligned and holds the epoch at its beginning, as every layout does.
    let epoch = unsafe { &*control.as_ptr().cast::<AtomicU32>() };
    epoch.store(0, Ordering::SeqCst);
    Ok(())
}

/// # Errors
/// The daemon was built without the programs.
pub(super) fn check_built() -> Result<()> {
    OBJECT.map(drop).ok_or_else(not_built)
}

/// Random numbers of a lab.
#[derive(Clone, Copy)]
pub(super) struct Numbers {
    /// Where hashes begin.
    pub(super) seed: u64,
    /// What packets of the programs bear on the cables; never shown.
    pub(super) secret: u64,
}

impl Numbers {
    pub(super) fn random() -> Numbers {
        Numbers { seed: rand::random(), secret: rand::random() }
    }
}

impl std::fmt::Debug for Numbers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Numbers")
    }
}

/// Loads the programs with a table of `buckets` buckets and pins all of it for `lab`, in place of what was pinned.
///
/// # Errors
/// The kernel lacks what they need, or the privilege is missing.
pub(super) fn load(lab: &str, buckets: usize, numbers: Numbers) -> Result<(Programs, Table)> {
    mount_bpffs()?;
    unpin(lab)?;
    let folder = folder(lab);
    fs::create_dir_all(&folder).on("create", folder.display())?;
    let loaded = load_into(&folder, buckets, numbers);
    if loaded.is_err() {
        let _ = unpin(lab);
    }
    loaded
}

fn load_into(folder: &Path, buckets: usize, numbers: Numbers) -> Result<(Programs, Table)> {
    let object = OBJECT.ok_or_else(not_built)?;
    let maximum = u32::try_from(buckets).map_err(|_| HostError::Invalid("a table of that size".into()))?;
    let mut loader = aya::EbpfLoader::new();
    // Without the kernel's description of its types nothing is found that a packet socket listens to.
    let types_known = u32::from(Path::new(KERNEL_TYPES).exists());
    loader.map_max_entries(BUCKETS, maximum).override_global("types_known", &types_known, true);
    loader.override_global("secret", &numbers.secret, true);
    let mut loaded = loader.load(object).map_err(not_loaded)?;
    let mut program = |name: &'static str| -> Result<OwnedFd> {
        let program = loaded.program_mut(name).ok_or_else(not_built)?;
        let program: &mut aya::programs::SchedClassifier = program.try_into().map_err(refused)?;
        program.load().map_err(refused)?;
        let fd = program.fd().map_err(refused)?.as_fd().try_clone_to_owned().on("duplicate", name)?;
        pin(fd.as_fd(), &folder.join(name))?;
        Ok(fd)
    };
    let programs = Programs {
        nic_egress: program(NIC_EGRESS)?,
        fabric_ingress: program(FABRIC_INGRESS)?,
        nic_ingress: program(NIC_INGRESS)?,
    };
    let mut map = |name: &'static str, bytes: usize| -> Result<MmapRaw> {
        let Some(aya::maps::Map::Array(data)) = loaded.take_map(name) else { return Err(not_built()) };
        let fd = data.fd().as_fd();
        let mapped = map_memory(fd, name, bytes)?;
        pin(fd, &folder.join(name))?;
        Ok(mapped)
    };
    let (control_bytes, bucket_bytes) = Table::sizes(buckets);
    let table = Table::new(map(CONTROL, control_bytes)?, map(BUCKETS, bucket_bytes)?, buckets, numbers.seed);
    table.set_version(version(object));
    Ok((programs, table))
}

/// Opens what a former daemon has pinned for `lab`; `None` where there is nothing.
///
/// # Errors
/// Something is there that this daemon can't use: another version's layout, or a half-made set.
pub(super) fn open(lab: &str) -> Result<Option<(Programs, Table)>> {
    let folder = folder(lab);
    if !folder.is_dir() {
        return Ok(None);
    }
    let get = |name: &str| object(&folder.join(name));
    let programs = Programs {
        nic_egress: get(NIC_EGRESS)?,
        fabric_ingress: get(FABRIC_INGRESS)?,
        nic_ingress: get(NIC_INGRESS)?,
    };
    let (control, control_info) = open_map(&folder, CONTROL)?;
    let (buckets, buckets_info) = open_map(&folder, BUCKETS)?;
    let count = buckets_info.max_entries() as usize;
    let fits = control_info.value_size() as usize == size_of::<Control>()
        && buckets_info.value_size() as usize == size_of::<Bucket>()
        && count.is_power_of_two();
    if !fits {
        return Err(others(&folder));
    }
    let (control_bytes, bucket_bytes) = Table::sizes(count);
    let control = map_memory(control.as_fd(), CONTROL, control_bytes)?;
    let buckets = map_memory(buckets.as_fd(), BUCKETS, bucket_bytes)?;
    let table = Table::new(control, buckets, count, 1);
    if table.version() != version(OBJECT.ok_or_else(not_built)?) {
        return Err(others(&folder));
    }
    Ok(Some((programs, table)))
}

fn others(folder: &Path) -> HostError {
    HostError::Mismatch {
        object: folder.display().to_string(),
        detail: "another version of the daemon has pinned it".into(),
    }
}

fn open_map(folder: &Path, name: &str) -> Result<(OwnedFd, aya::maps::MapInfo)> {
    let path = folder.join(name);
    let info = aya::maps::MapInfo::from_pin(&path).map_err(refused)?;
    Ok((object(&path)?, info))
}

/// Waits until no program that runs now is running any more: the kernel's synchronize_rcu, by way of membarrier(2). Takes some
/// milliseconds.
///
/// # Errors
/// A kernel without membarrier(2), or one with nohz_full.
pub(super) fn wait_for_programs() -> Result<()> {
    membarrier(MEMBARRIER_CMD_GLOBAL).map(drop)
}

/// What is missing for [`wait_for_programs`], if so.
pub(super) fn check_waiting() -> Result<()> {
    let known = membarrier(MEMBARRIER_CMD_QUERY)?;
    match known & libc::c_long::from(MEMBARRIER_CMD_GLOBAL) {
        0 => Err(HostError::Invalid("the kernel's membarrier(2) cannot wait for all processors".into())),
        _ => Ok(()),
    }
}

fn membarrier(command: libc::c_int) -> Result<libc::c_long> {
    // SAFETY: membarrier(2) takes numbers only.
    let answer = unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) };
    if answer < 0 {
        return Err(io::Error::last_os_error()).on("wait for", "programs in the kernel");
    }
    Ok(answer)
}

/// Mounts the kernel's file system for pins where it belongs, unless it is there.
fn mount_bpffs() -> Result<()> {
    if statfs(BPFFS).on("inspect", BPFFS)?.filesystem_type().0 == BPF_FS_MAGIC {
        return Ok(());
    }
    let none: Option<&str> = None;
    mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), none).on("mount bpffs on", BPFFS)
}

fn map_memory(fd: BorrowedFd<'_>, name: &str, bytes: usize) -> Result<MmapRaw> {
    MmapOptions::new().len(bytes).map_raw(fd.as_raw_fd()).on("map into memory the table", name)
}

/// Attaches a program to the ingress of the device `index` of the thread's namespace, ahead of every queueing discipline: a turn
/// through clsact's classifier costs a small packet as much as the program does. It stays until the device goes. False
/// where the kernel knows no such place: before Linux 6.6.
///
/// # Errors
/// Where the kernel refuses.
pub(super) fn attach_to_ingress(index: u32, program: &impl AsRawFd) -> Result<bool> {
    let attributes = AttachAttributes {
        target: index,
        program: program.as_raw_fd() as u32,
        attach_type: BPF_TCX_INGRESS,
        ..AttachAttributes::default()
    };
    // SAFETY: the attributes live until the call has returned, and have the layout of bpf(2).
    let answer =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_ATTACH, &attributes, size_of::<AttachAttributes>()) };
    if answer >= 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        // It is attached already.
        Some(libc::EEXIST) => Ok(true),
        Some(libc::EINVAL) => Ok(false),
        _ => Err(error).on("attach a program to", format_args!("device {index}")),
    }
}

/// Layout of `union bpf_attr` for BPF_PROG_ATTACH.
#[repr(C)]
#[derive(Default)]
struct AttachAttributes {
    target: u32,
    program: u32,
    attach_type: u32,
    flags: u32,
    replaced: u32,
    relative: u32,
    expected_revision: u64,
}

const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_TCX_INGRESS: u32 = 46;

/// Layout of `union bpf_attr` for BPF_OBJ_PIN and BPF_OBJ_GET.
#[repr(C)]
struct ObjectAttributes {
    path: u64,
    fd: u32,
    flags: u32,
}

const BPF_OBJ_PIN: libc::c_int = 6;
const BPF_OBJ_GET: libc::c_int = 7;

fn pin(fd: BorrowedFd<'_>, path: &Path) -> Result<()> {
    object_call(BPF_OBJ_PIN, path, fd.as_raw_fd() as u32).on("pin", path.display()).map(drop)
}

fn object(path: &Path) -> Result<OwnedFd> {
    use std::os::fd::FromRawFd;
    let fd = object_call(BPF_OBJ_GET, path, 0).on("open", path.display())?;
    // SAFETY: the call has just made the descriptor for the caller.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn object_call(command: libc::c_int, path: &Path, fd: u32) -> io::Result<libc::c_int> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let attributes = ObjectAttributes { path: path.as_ptr() as u64, fd, flags: 0 };
    // SAFETY: the attributes and the path that they point to live until the call has returned, and have the layout of bpf(2).
    let answer = unsafe { libc::syscall(libc::SYS_bpf, command, &attributes, size_of::<ObjectAttributes>()) };
    match answer {
        0.. => Ok(answer as libc::c_int),
        _ => Err(io::Error::last_os_error()),
    }
}

fn not_built() -> HostError {
    HostError::Invalid("the daemon was built without clang, and so without its kernel programs".into())
}

/// Maps are made in no fixed order, and `show` and `doctor` are to say the same: which one was refused first is left out.
fn not_loaded(error: aya::EbpfError) -> HostError {
    match error {
        aya::EbpfError::MapError(aya::maps::MapError::CreateError { io_error, .. }) => {
            HostError::Io { action: "create", object: "a BPF map".into(), source: io_error }
        }
        other => refused(other),
    }
}

/// The loader's errors carry their cause in a chain, the kernel's word last.
fn refused(error: impl std::error::Error) -> HostError {
    let mut detail = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        // A verifier's log fills pages.
        let cause_text = cause.to_string();
        let line = cause_text.lines().next().unwrap_or_default();
        if !detail.ends_with(line) {
            detail = format!("{detail}: {line}");
        }
        source = cause.source();
    }
    HostError::Mismatch { object: "the kernel's programming interface".into(), detail }
}
