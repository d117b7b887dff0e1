//! Named network namespaces, in the place and form that `ip netns` knows.
//!
//! A namespace lives as long as something refers to it: here a bind mount of `/proc/…/ns/net` on a file below
//! `/run/netns`, which outlives the daemon. The directory is made a shared mount, as iproute2 does, so that an unmount
//! reaches every mount namespace that was copied in between and the network namespace really ends.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::statfs::fstatfs;

use super::error::{Context, HostError, Result};

/// Where `ip netns` keeps its names.
pub const NETNS_DIR: &str = "/run/netns";

/// What every namespace of a lab begins with.
pub const PREFIX: &str = "vnet.";

/// The namespace in which the cables of a lab's offload meet, beside those of its machines: `vnet.LAB.fabric`.
pub const FABRIC: &str = "fabric";

/// `NSFS_MAGIC` of linux/magic.h: tells a mounted namespace from the plain file that a crash left.
const NSFS_MAGIC: i64 = 0x6e73_6673;

/// The name of a namespace: `vnet.LAB.VM`, as `ip netns` shows it.
///
/// Neither part may be empty, or hold a slash or anything but printable ASCII; the lab's name holds no dot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetnsName(String);

impl NetnsName {
    /// The namespace of `vm` (a virtual machine, host, appliance or `internet`) in `lab`.
    ///
    /// # Errors
    /// [`HostError::Invalid`] where the name could not be a file name below [`NETNS_DIR`].
    pub fn new(lab: &str, vm: &str) -> Result<Self> {
        let plain = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_graphic() && b != b'/');
        let name = format!("{PREFIX}{lab}.{vm}");
        if !plain(lab) || lab.contains('.') || !plain(vm) || name.len() > 255 {
            return Err(HostError::Invalid(format!("{name:?} can't be the name of a namespace")));
        }
        Ok(Self(name))
    }

    /// Reads a directory entry of [`NETNS_DIR`]; none where it is not one of ours.
    #[must_use]
    pub fn parse(entry: &str) -> Option<Self> {
        let (lab, vm) = entry.strip_prefix(PREFIX)?.split_once('.')?;
        Self::new(lab, vm).ok()
    }

    /// The whole name, `vnet.LAB.VM`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The lab that the namespace belongs to.
    #[must_use]
    pub fn lab(&self) -> &str {
        self.parts().0
    }

    /// The machine that the namespace stands for.
    #[must_use]
    pub fn vm(&self) -> &str {
        self.parts().1
    }

    fn parts(&self) -> (&str, &str) {
        self.0[PREFIX.len()..].split_once('.').unwrap_or((&self.0[PREFIX.len()..], ""))
    }

    /// The file that the namespace is mounted on.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new(NETNS_DIR).join(&self.0)
    }
}

impl std::fmt::Display for NetnsName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// The kernel's identity of a namespace: equal for two descriptors of the same one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NsId {
    /// Device of the namespace file system.
    pub device: u64,
    /// Inode: the number in `net:[…]` of `/proc/PID/ns/net`.
    pub inode: u64,
}

/// An open network namespace. While a descriptor is open the namespace lives, whatever happens to its name.
#[derive(Debug)]
pub struct Netns {
    fd: OwnedFd,
    label: String,
}

impl Netns {
    /// Opens a named namespace.
    ///
    /// # Errors
    /// Missing (see [`HostError::is_missing`]), or a plain file that a crash left ([`HostError::Mismatch`]).
    pub fn open(name: &NetnsName) -> Result<Self> {
        let file = File::open(name.path()).on("open namespace", name)?;
        if !is_nsfs(&file).on("inspect namespace", name)? {
            return Err(HostError::Mismatch {
                object: name.to_string(),
                detail: "no namespace is mounted there".into(),
            });
        }
        Ok(Self { fd: file.into(), label: name.to_string() })
    }

    /// The namespace that the calling thread is in.
    ///
    /// # Errors
    /// Only where `/proc` is not mounted.
    pub fn current() -> Result<Self> {
        let file = File::open("/proc/thread-self/ns/net").on("open", "the thread's own namespace")?;
        Ok(Self { fd: file.into(), label: "own".into() })
    }

    /// A second descriptor of the same namespace, to be handed to another process.
    ///
    /// # Errors
    /// Where the process is out of descriptors.
    pub fn try_clone(&self) -> Result<Self> {
        Ok(Self {
            fd: self.fd.try_clone().on("duplicate namespace", &self.label)?,
            label: self.label.clone(),
        })
    }

    /// The kernel's identity of the namespace.
    ///
    /// # Errors
    /// Where the descriptor can't be inspected.
    pub fn id(&self) -> Result<NsId> {
        let stat = nix::sys::stat::fstat(&self.fd).on("inspect namespace", &self.label)?;
        Ok(NsId { device: stat.st_dev, inode: stat.st_ino })
    }

    /// What the namespace is called in messages.
    #[must_use]
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Runs `work` on a thread of its own inside the namespace and waits for it.
    ///
    /// A thread of its own, since a thread that moved can't be given back to a pool without trust that every
    /// way out moves it back; making one costs about 30 µs, a hundredth of making the namespace. Descriptors that
    /// `work` opens (sockets, TUNs) stay bound to the namespace and may leave the thread.
    ///
    /// # Errors
    /// Where no thread can be made or the namespace can't be entered (no CAP_SYS_ADMIN). A panic of `work` goes on in
    /// the caller.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        on_thread(&self.label, || {
            setns(&self.fd, CloneFlags::CLONE_NEWNET).on("enter namespace", &self.label)?;
            Ok(work())
        })
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<Netns> for OwnedFd {
    fn from(ns: Netns) -> Self {
        ns.fd
    }
}

/// Creates the namespace `name` and runs `setup` inside it, on the thread that made it, before it is visible to anyone
/// who waits for the result. A namespace of that name which is there already is opened instead, and `setup` runs in it
/// too, so it has to be idempotent.
///
/// # Errors
/// Where the kernel refuses, or what `setup` returned. In both cases a namespace that this call made is gone again.
pub fn create_with<T: Send>(
    name: &NetnsName,
    setup: impl FnOnce(&Netns) -> Result<T> + Send,
) -> Result<(Netns, T)> {
    prepare_dir()?;
    on_thread(name.as_str(), || {
        let (ns, made) = enter_or_create(name)?;
        let out = setup(&ns).inspect_err(|_| {
            if made && let Err(error) = delete(name) {
                tracing::warn!(%name, %error, "a namespace whose set-up failed could not be removed");
            }
        })?;
        Ok((ns, out))
    })
}

/// Runs `work` in a namespace that has no name and goes with it.
///
/// # Errors
/// Where the kernel refuses, or what `work` returned.
pub fn apart<T: Send>(work: impl FnOnce(&Netns) -> Result<T> + Send) -> Result<T> {
    on_thread("apart", || {
        unshare(CloneFlags::CLONE_NEWNET).on("create namespace", "apart")?;
        work(&Netns::current()?)
    })
}

/// Moves the calling thread into the namespace `name`, which is made where it is missing; true if it was. For threads of the
/// caller's own that end with their work, since nothing moves them back; [`prepare_dir`] comes before the first call. One
/// thread after the other namespace costs less than a thread each.
///
/// # Errors
/// Where the kernel refuses; a namespace that this call made is gone again then.
pub fn enter_or_create(name: &NetnsName) -> Result<(Netns, bool)> {
    match Netns::open(name) {
        Ok(ns) => {
            setns(&ns.fd, CloneFlags::CLONE_NEWNET).on("enter namespace", name)?;
            return Ok((ns, false));
        }
        // A plain file is what a crash between creating and mounting leaves.
        Err(HostError::Mismatch { .. }) => delete(name)?,
        Err(error) if error.is_missing() => {}
        Err(error) => return Err(error),
    }
    unshare(CloneFlags::CLONE_NEWNET).on("create namespace", name)?;
    let file = File::open("/proc/thread-self/ns/net").on("open new namespace", name)?;
    let ns = Netns { fd: file.into(), label: name.to_string() };
    pin(name)?;
    Ok((ns, true))
}

/// Creates the namespace `name`, or opens it where it exists.
///
/// # Errors
/// As [`create_with`].
pub fn create(name: &NetnsName) -> Result<Netns> {
    create_with(name, |_| Ok(())).map(|(ns, ())| ns)
}

/// Removes the name of a namespace; the namespace itself ends with its last process, socket and descriptor.
/// Removing what is not there is no error, and neither is a plain file where no namespace was ever mounted.
///
/// # Errors
/// Where the kernel refuses the unmount or the removal.
pub fn delete(name: &NetnsName) -> Result<()> {
    let path = name.path();
    // More than one mount may lie on the file when two processes created the name at once.
    loop {
        match umount2(&path, MntFlags::MNT_DETACH) {
            Ok(()) => {}
            Err(nix::Error::EINVAL | nix::Error::ENOENT) => break,
            Err(error) => return Err(error).on("unmount namespace", name),
        }
    }
    match fs::remove_file(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.on("remove namespace", name),
    }
}

/// Every namespace whose name is ours, of one lab or of all of them, in the order of their names. Crash leftovers
/// (plain files) are among them: they have to be removed too.
///
/// # Errors
/// Where the directory can't be read; that it is missing only means that there are none.
pub fn list(lab: Option<&str>) -> Result<Vec<NetnsName>> {
    let entries = match fs::read_dir(NETNS_DIR) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).on("list", NETNS_DIR),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.on("list", NETNS_DIR)?;
        if let Some(name) = entry.file_name().to_str().and_then(NetnsName::parse)
            && lab.is_none_or(|lab| name.lab() == lab)
        {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Makes [`NETNS_DIR`] the shared mount that iproute2 makes it.
///
/// # Errors
/// Where the directory can't be created or mounted on.
pub fn prepare_dir() -> Result<()> {
    if is_shared_mount(Path::new(NETNS_DIR))? {
        return Ok(());
    }
    fs::create_dir_all(NETNS_DIR).on("create", NETNS_DIR)?;
    let none: Option<&str> = None;
    let share = || mount(none, NETNS_DIR, none, MsFlags::MS_SHARED | MsFlags::MS_REC, none);
    // EINVAL: not a mount point yet.
    match share() {
        Err(nix::Error::EINVAL) => {
            mount(Some(NETNS_DIR), NETNS_DIR, none, MsFlags::MS_BIND | MsFlags::MS_REC, none)
                .on("bind-mount", NETNS_DIR)?;
            share().on("share mount", NETNS_DIR)
        }
        other => other.on("share mount", NETNS_DIR),
    }
}

/// Whether `path` itself is a mount point whose mounts and unmounts reach other mount namespaces.
pub(crate) fn is_shared_mount(path: &Path) -> Result<bool> {
    let table = fs::read_to_string("/proc/thread-self/mountinfo").on("read", "the mount table")?;
    Ok(mountinfo_shares(&table, path))
}

fn mountinfo_shares(table: &str, path: &Path) -> bool {
    // proc(5): the fifth field is the mount point; optional fields run from the seventh to a lone dash.
    table.lines().any(|line| {
        let mut fields = line.split(' ');
        fields.nth(4).is_some_and(|point| Path::new(point) == path)
            && fields.skip(1).take_while(|field| *field != "-").any(|field| field.starts_with("shared:"))
    })
}

fn pin(name: &NetnsName) -> Result<()> {
    let path = name.path();
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o444)
        .open(&path)
        .on("create", path.display())?;
    let none: Option<&str> = None;
    let pinned = mount(Some("/proc/thread-self/ns/net"), &path, none, MsFlags::MS_BIND, none)
        .on("mount namespace", name);
    pinned.inspect_err(|_| {
        // Best effort: the sweep takes a plain file for the leftover that it is.
        let _ = fs::remove_file(&path);
    })
}

fn is_nsfs(file: &File) -> io::Result<bool> {
    // A namespace file has no size and can't be told from an empty file by its metadata alone.
    if file.metadata()?.size() != 0 {
        return Ok(false);
    }
    Ok(fstatfs(file)?.filesystem_type().0 == NSFS_MAGIC)
}

fn on_thread<T: Send>(label: &str, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        // The kernel cuts a thread's name at 15 bytes.
        let handle = std::thread::Builder::new()
            .name("netns".into())
            .spawn_scoped(scope, work)
            .on("start a thread for", label)?;
        match handle.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_lab_and_machine_apart() {
        let name = NetnsName::new("hub-spoke", "fw.0").unwrap();
        assert_eq!((name.as_str(), name.lab(), name.vm()), ("vnet.hub-spoke.fw.0", "hub-spoke", "fw.0"));
        assert_eq!(NetnsName::parse("vnet.hub-spoke.fw.0"), Some(name));
    }

    #[test]
    fn what_is_not_ours_is_not_parsed() {
        for entry in ["", "vnet", "vnet.", "vnet.lab", "vnet.lab.", "vnet..vm", "other.lab.vm", "cni-1234"] {
            assert_eq!(NetnsName::parse(entry), None, "{entry}");
        }
    }

    #[test]
    fn names_that_leave_the_directory_are_refused() {
        for (lab, vm) in
            [("a/b", "vm"), ("lab", "../vm"), ("a.b", "vm"), ("", "vm"), ("lab", ""), ("lab", "v m")]
        {
            assert!(NetnsName::new(lab, vm).is_err(), "{lab} {vm}");
        }
        assert!(NetnsName::new("lab", &"v".repeat(300)).is_err());
    }

    #[test]
    fn a_shared_mount_is_read_off_the_mount_table() {
        let table = "30 25 0:27 / /dev/shm rw - tmpfs tmpfs rw\n\
                     36 35 98:0 / /run/netns rw,noatime master:1 shared:7 - tmpfs tmpfs rw\n\
                     37 35 98:0 / /run/other rw,noatime - ext4 /dev/shared:1 rw";
        assert!(mountinfo_shares(table, Path::new("/run/netns")));
        assert!(!mountinfo_shares(table, Path::new("/run/other")));
        assert!(!mountinfo_shares(table, Path::new("/run")));
    }
}
