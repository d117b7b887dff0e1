//! A lab's folder on disk: small versioned JSON files, replaced whole, and memory shared with the next daemon.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use memmap2::MmapMut;
use nix::fcntl::{Flock, FlockArg};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::error::{Context, HostError, Result};

/// Where state lies when the daemon runs as root.
const SYSTEM_DIR: &str = "/var/lib/vnetd";

/// Where all labs' state lies: `explicit`, or systemd's STATE_DIRECTORY, or `/var/lib/vnetd` for root, or `vnetd` below
/// XDG_STATE_HOME.
#[must_use]
pub fn default_root(explicit: Option<&Path>) -> PathBuf {
    let from_env = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(path) = explicit {
        return path.to_owned();
    }
    if let Some(path) = from_env("STATE_DIRECTORY") {
        return path;
    }
    if nix::unistd::geteuid().is_root() {
        return SYSTEM_DIR.into();
    }
    let home = || from_env("HOME").unwrap_or_else(|| "/tmp".into()).join(".local/state");
    from_env("XDG_STATE_HOME").unwrap_or_else(home).join("vnetd")
}

/// The labs that have state below `root`, by name.
///
/// # Errors
/// Where the folder can't be read; that it is missing only means that there are none.
pub fn labs(root: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(root) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).on("list", root.display()),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.on("list", root.display())?;
        if entry.path().is_dir()
            && let Ok(name) = entry.file_name().into_string()
            && is_lab_name(&name)
        {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// The folder of one lab, held by this process alone until it is dropped.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    _lock: Flock<File>,
}

/// What stands around every file's contents.
#[derive(Serialize, Deserialize)]
struct Envelope<T> {
    version: u32,
    contents: T,
}

/// The envelope alone, read before the contents are made sense of.
#[derive(Deserialize)]
struct Version {
    version: u32,
}

impl StateDir {
    /// Opens the folder of `lab` below `root`, creates it where it is missing, and locks it.
    ///
    /// # Errors
    /// [`HostError::Busy`] where another daemon runs the lab, or a file system that can't be written.
    pub fn open(root: &Path, lab: &str) -> Result<Self> {
        if !is_lab_name(lab) {
            return Err(HostError::Invalid(format!("{lab:?} can't be the name of a lab")));
        }
        let path = root.join(lab);
        DirBuilder::new().recursive(true).mode(0o700).create(&path).on("create", path.display())?;
        fs::set_permissions(&path, Permissions::from_mode(0o700)).on("set the mode of", path.display())?;
        let lock_path = path.join("lock");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock_path)
            .on("open", lock_path.display())?;
        let pid = fs::read_to_string(&lock_path).ok().and_then(|text| text.trim().parse().ok());
        // The number inside is for people; the lock itself ends with its holder, even with kill -9.
        let lock = match Flock::lock(
            file.try_clone().on("duplicate", lock_path.display())?,
            FlockArg::LockExclusiveNonblock,
        ) {
            Ok(lock) => lock,
            Err((_, nix::Error::EWOULDBLOCK)) => {
                return Err(HostError::Busy { object: format!("lab {lab}"), pid });
            }
            Err((_, error)) => return Err(error).on("lock", lock_path.display()),
        };
        file.set_len(0)
            .and_then(|()| write!(file, "{}", std::process::id()))
            .on("write", lock_path.display())?;
        Ok(Self { path, _lock: lock })
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder of a machine's own files, see [`Backing`](super::backing::Backing).
    #[must_use]
    pub fn machine(&self, vm: &str) -> PathBuf {
        self.path.join("machines").join(vm)
    }

    /// The file that a machine's `run:` commands write to.
    #[must_use]
    pub fn log(&self, vm: &str) -> PathBuf {
        self.path.join("logs").join(format!("{vm}.log"))
    }

    /// Replaces the file `name` whole: a reader, or a restart after kill -9 at any moment, finds the former contents or these.
    /// Nobody waits for the disk: what a power failure must not take is for [`Twin`](super::twin::Twin).
    ///
    /// # Errors
    /// A value that JSON can't express, or a file system that can't be written.
    pub fn save<T: Serialize>(&self, name: &str, version: u32, contents: &T) -> Result<()> {
        let path = self.file(name)?;
        let bytes = serde_json::to_vec(&Envelope { version, contents }).map_err(|error| {
            HostError::Invalid(format!("{} can't be written as JSON: {error}", path.display()))
        })?;
        replace(&path, &bytes, 0o600)
    }

    /// Reads the file `name`; none where it was never written.
    ///
    /// # Errors
    /// A file of another version than `version` ([`HostError::Mismatch`]; what to do is for the caller), or one that
    /// is not what [`StateDir::save`] writes.
    pub fn load<T: DeserializeOwned>(&self, name: &str, version: u32) -> Result<Option<T>> {
        let path = self.file(name)?;
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).on("read", path.display()),
        };
        let mismatch = |detail: String| HostError::Mismatch { object: path.display().to_string(), detail };
        let found: Version = serde_json::from_slice(&bytes).map_err(|error| mismatch(error.to_string()))?;
        if found.version != version {
            return Err(mismatch(format!(
                "it has version {}, this daemon reads version {version}",
                found.version
            )));
        }
        let envelope: Envelope<T> =
            serde_json::from_slice(&bytes).map_err(|error| mismatch(error.to_string()))?;
        Ok(Some(envelope.contents))
    }

    /// Removes the file `name`; one that is not there is no error.
    ///
    /// # Errors
    /// Where the file system refuses.
    pub fn discard(&self, name: &str) -> Result<()> {
        let path = self.file(name)?;
        remove_if_there(fs::remove_file(&path)).on("remove", path.display())
    }

    /// Opens the memory behind the file `name`, which the next daemon finds as this one left it. A file of another size is
    /// made anew, full of zeroes.
    ///
    /// # Errors
    /// Where the file system has no room or can't be mapped.
    pub fn region(&self, name: &str, bytes: usize) -> Result<SharedRegion> {
        SharedRegion::open(&self.file(name)?, bytes)
    }

    /// Removes the folder and everything in it.
    ///
    /// # Errors
    /// Where the file system refuses.
    pub fn remove(&self) -> Result<()> {
        remove_if_there(fs::remove_dir_all(&self.path)).on("remove", self.path.display())
    }

    /// The place of the file `name`.
    pub(crate) fn file(&self, name: &str) -> Result<PathBuf> {
        if name.is_empty() || name.starts_with('.') || name.contains('/') {
            return Err(HostError::Invalid(format!("{name:?} can't be the name of a state file")));
        }
        Ok(self.path.join(name))
    }
}

/// Memory that outlives the daemon: a file, mapped and shared. kill -9 loses nothing that was stored; a power failure may.
///
/// The owner of the [`StateDir`] is its only user, as the folder is locked and readable by that user alone.
#[derive(Debug)]
pub struct SharedRegion {
    map: MmapMut,
    fresh: bool,
}

impl SharedRegion {
    fn open(path: &Path, bytes: usize) -> Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .on("open", path.display())?;
        let size = file.metadata().on("inspect", path.display())?.len();
        let fresh = size != bytes as u64;
        if fresh {
            file.set_len(0).on("clear", path.display())?;
            // Room is taken now: a full file system shows here, not as SIGBUS in the middle of a packet.
            let room = i64::try_from(bytes)
                .map_err(|_| HostError::Invalid(format!("{bytes} bytes can't be mapped")))?;
            nix::fcntl::posix_fallocate(&file, 0, room).on("reserve room for", path.display())?;
        }
        // SAFETY: the file lies in a folder of mode 0700 that this process holds the lock of, and nothing in this crate
        // truncates it while it is mapped; so its bytes are changed through this mapping only.
        let map = unsafe { MmapMut::map_mut(&file) }.on("map", path.display())?;
        Ok(Self { map, fresh })
    }

    /// Whether the memory is new and zero, or what a former daemon left.
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// The memory.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// The memory, to be written.
    #[must_use]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.map
    }

    /// Hands changes to the disk, so that a power failure keeps them too.
    ///
    /// # Errors
    /// Where the disk fails.
    pub fn flush(&self) -> Result<()> {
        self.map.flush().on("flush", "shared memory")
    }
}

/// Writes a file beside its place and moves it there in one step.
pub(crate) fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let beside = path.with_file_name(name);
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&beside)
        .on("create", beside.display())?;
    file.write_all(bytes).on("write", beside.display())?;
    fs::rename(&beside, path).on("replace", path.display())
}

pub(crate) fn remove_if_there(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// A lab's name as topology files have it; what else lies in the folder is not a lab's.
fn is_lab_name(name: &str) -> bool {
    !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_come_back_and_are_for_their_owner_alone() {
        let root = tempfile::tempdir().unwrap();
        let dir = StateDir::open(root.path(), "lab").unwrap();
        assert_eq!(dir.load::<Vec<u32>>("control", 1).unwrap(), None);
        dir.save("control", 1, &vec![1, 2, 3]).unwrap();
        assert_eq!(dir.load("control", 1).unwrap(), Some(vec![1, 2, 3]));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(dir.path()), mode(&dir.path().join("control"))), (0o700, 0o600));
        assert!(!dir.path().join("control.new").exists());
        dir.discard("control").unwrap();
        dir.discard("control").unwrap();
        assert_eq!(dir.load::<Vec<u32>>("control", 1).unwrap(), None);
    }

    #[test]
    fn a_file_of_another_version_or_make_is_told_apart() {
        let root = tempfile::tempdir().unwrap();
        let dir = StateDir::open(root.path(), "lab").unwrap();
        dir.save("control", 2, &"new shape").unwrap();
        assert!(matches!(dir.load::<Vec<u32>>("control", 1), Err(HostError::Mismatch { .. })));
        fs::write(dir.path().join("control"), b"{\"version\":").unwrap();
        assert!(matches!(dir.load::<Vec<u32>>("control", 1), Err(HostError::Mismatch { .. })));
    }

    #[test]
    fn a_lab_has_one_daemon() {
        let root = tempfile::tempdir().unwrap();
        let first = StateDir::open(root.path(), "lab").unwrap();
        match StateDir::open(root.path(), "lab") {
            Err(HostError::Busy { pid, .. }) => assert_eq!(pid, Some(std::process::id())),
            other => panic!("{other:?}"),
        }
        StateDir::open(root.path(), "other").unwrap();
        drop(first);
        StateDir::open(root.path(), "lab").unwrap();
    }

    #[test]
    fn labs_are_listed_and_removed() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(labs(&root.path().join("missing")).unwrap(), Vec::<String>::new());
        fs::create_dir(root.path().join("Not a lab")).unwrap();
        fs::write(root.path().join("file"), "").unwrap();
        let dir = StateDir::open(root.path(), "b").unwrap();
        drop(StateDir::open(root.path(), "a-1").unwrap());
        assert_eq!(labs(root.path()).unwrap(), ["a-1", "b"]);
        dir.remove().unwrap();
        assert_eq!(labs(root.path()).unwrap(), ["a-1"]);
    }

    #[test]
    fn names_stay_inside_the_folder() {
        let root = tempfile::tempdir().unwrap();
        for lab in ["", "..", "a/b", "A"] {
            assert!(StateDir::open(root.path(), lab).is_err(), "{lab}");
        }
        let dir = StateDir::open(root.path(), "lab").unwrap();
        for name in ["", ".", "../x", "a/b"] {
            assert!(dir.save(name, 1, &()).is_err(), "{name}");
        }
    }

    #[test]
    fn shared_memory_outlives_its_mapping() {
        let root = tempfile::tempdir().unwrap();
        let dir = StateDir::open(root.path(), "lab").unwrap();
        let mut region = dir.region("sessions", 8192).unwrap();
        assert!(region.is_fresh() && region.bytes().iter().all(|byte| *byte == 0));
        region.bytes_mut()[8191] = 7;
        drop(region);
        let region = dir.region("sessions", 8192).unwrap();
        assert!(!region.is_fresh());
        assert_eq!((region.bytes().len(), region.bytes()[8191]), (8192, 7));
        drop(region);
        let region = dir.region("sessions", 4096).unwrap();
        assert!(region.is_fresh() && region.bytes().iter().all(|byte| *byte == 0));
    }
}
