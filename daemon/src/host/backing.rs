//! What a machine has of its own of the file system: the folders behind its /run and /tmp, and the files that its programs
//! see in place of the host's.
//!
//! Below the machine's backing folder, `run` and `tmp` are bound over the host's; `layer` repeats the paths of the files that
//! are the machine's own and is laid over the host's folders as the upper of two read-only layers. Writes go to memory and
//! are gone with the program. So nothing that a machine does below those folders reaches the host.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::{Context, HostError, Result};
use super::state_dir;

/// A file that is seen inside one machine only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineFile {
    /// Absolute path inside the machine.
    pub path: PathBuf,
    /// Its contents.
    pub contents: Vec<u8>,
    /// Permission bits: 0o644, or 0o755 for a script.
    pub mode: u32,
}

/// Folder names below a machine's backing folder.
const RUN: &str = "run";
const TMP: &str = "tmp";
const LAYER: &str = "layer";
const SCRATCH: &str = "scratch";

/// A machine's backing folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backing {
    /// The folder itself, below the lab's state folder.
    pub root: PathBuf,
    /// Host folders that the machine's own files are laid over.
    pub covered: BTreeSet<PathBuf>,
}

impl Backing {
    /// Creates the folders below `root` and writes `hosts`, `resolv_conf`, the host's name and `files`. What was written by a former call
    /// and is not asked for any more goes; /run and /tmp keep what programs left there.
    ///
    /// # Errors
    /// A file that can't be shown inside (a relative path, one directly below `/`, or one below /proc, /sys or /dev), or a failing
    /// file system.
    pub fn prepare(
        root: &Path,
        hostname: &str,
        hosts: &str,
        resolv_conf: &str,
        files: &[MachineFile],
    ) -> Result<Self> {
        for (name, mode) in [("", 0o711), (RUN, 0o755), ("run/lock", 0o1777), (TMP, 0o1777), (SCRATCH, 0o700)]
        {
            make_dir(&root.join(name), mode)?;
        }
        let mut backing = Self { root: root.to_owned(), covered: BTreeSet::new() };
        let mut placed = BTreeSet::new();
        let own = [("/etc/hosts", hosts), ("/etc/resolv.conf", resolv_conf), ("/etc/hostname", hostname)];
        for (path, text) in own {
            let contents = format!("{}\n", text.trim_end_matches('\n')).into_bytes();
            let file = MachineFile { path: path.into(), contents, mode: 0o644 };
            // The user's own file of that name takes its place.
            if files.iter().all(|other| other.path != file.path) {
                placed.insert(backing.place(&file)?);
            }
        }
        for file in files {
            placed.insert(backing.place(file)?);
        }
        prune(&root.join(LAYER), &placed)?;
        backing.drop_nested();
        Ok(backing)
    }

    /// The layer that lies over the host folder `covered`.
    pub(crate) fn layer_over(&self, covered: &Path) -> PathBuf {
        below(&self.root.join(LAYER), covered)
    }

    pub(crate) fn run(&self) -> PathBuf {
        self.root.join(RUN)
    }

    pub(crate) fn tmp(&self) -> PathBuf {
        self.root.join(TMP)
    }

    pub(crate) fn scratch(&self) -> PathBuf {
        self.root.join(SCRATCH)
    }

    /// Writes one file where it belongs and says where that is. A file that is there as wanted is left alone: programs of the machine
    /// may have it open, and after a restart of the daemon all are.
    fn place(&mut self, file: &MachineFile) -> Result<PathBuf> {
        let refuse = |why: &str| Err(HostError::Invalid(format!("the file {} {why}", file.path.display())));
        if !file.path.is_absolute() || file.path.components().any(|part| part == Component::ParentDir) {
            return refuse("has to be an absolute path without '..'");
        }
        let (existing, rest) = split_at_existing(&file.path)?;
        let target = existing.join(&rest);
        let top = target.components().nth(1).map(|part| part.as_os_str().to_owned()).unwrap_or_default();
        let place = match top.to_str() {
            Some("proc" | "sys" | "dev") => {
                return refuse("can't be shown there: that folder is the kernel's");
            }
            Some(RUN | TMP) => below(&self.root, &target),
            _ if existing == Path::new("/") => {
                return refuse("can't be shown inside: the host has no folder to lay it over");
            }
            _ => {
                self.covered.insert(existing);
                below(&self.root.join(LAYER), &target)
            }
        };
        if let Some(parent) = place.parent() {
            make_dirs(&self.root, parent)?;
        }
        if fs::read(&place).ok().as_deref() != Some(&file.contents) {
            state_dir::replace(&place, &file.contents, file.mode)?;
        }
        fs::set_permissions(&place, Permissions::from_mode(file.mode))
            .on("set the mode of", place.display())?;
        Ok(place)
    }

    /// A layer over a folder covers those within it.
    fn drop_nested(&mut self) {
        let all = self.covered.clone();
        self.covered.retain(|path| all.iter().all(|other| other == path || !path.starts_with(other)));
    }
}

/// The deepest folder of `path` that the host has, with symbolic links followed, and what is left below it.
fn split_at_existing(path: &Path) -> Result<(PathBuf, PathBuf)> {
    let name =
        path.file_name().ok_or_else(|| HostError::Invalid(format!("{} names no file", path.display())))?;
    let mut rest = PathBuf::from(name);
    let mut folder = path.parent().unwrap_or(Path::new("/"));
    loop {
        match fs::canonicalize(folder) {
            Ok(found) if found.is_dir() => return Ok((found, rest)),
            Ok(_) => return Err(HostError::Invalid(format!("{} is a file on the host", folder.display()))),
            Err(_) => {
                rest = Path::new(folder.file_name().unwrap_or_default()).join(rest);
                folder = folder.parent().unwrap_or(Path::new("/"));
            }
        }
    }
}

/// Removes the files below `folder` that are not among `wanted`, and folders that are empty then.
fn prune(folder: &Path, wanted: &BTreeSet<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).on("list", folder.display())? {
        let path = entry.on("list", folder.display())?.path();
        if path.is_dir() {
            prune(&path, wanted)?;
            // Refused, as it should be, where something is left in it.
            let _ = fs::remove_dir(&path);
        } else if !wanted.contains(&path) {
            fs::remove_file(&path).on("remove", path.display())?;
        }
    }
    Ok(())
}

fn below(root: &Path, absolute: &Path) -> PathBuf {
    root.join(absolute.strip_prefix("/").unwrap_or(absolute))
}

/// Creates the folders from `root` down to `folder`, open to the machine's programs whatever the daemon's umask.
fn make_dirs(root: &Path, folder: &Path) -> Result<()> {
    if folder == root || folder.is_dir() {
        return Ok(());
    }
    if let Some(parent) = folder.parent() {
        make_dirs(root, parent)?;
    }
    make_dir(folder, 0o755)
}

fn make_dir(folder: &Path, mode: u32) -> Result<()> {
    match fs::create_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            fs::create_dir_all(folder).on("create", folder.display())?;
        }
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        other => other.on("create", folder.display())?,
    }
    fs::set_permissions(folder, Permissions::from_mode(mode)).on("set the mode of", folder.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str) -> MachineFile {
        MachineFile { path: path.into(), contents: b"x".to_vec(), mode: 0o644 }
    }

    #[test]
    fn files_lie_in_the_layer_over_the_deepest_folder_of_the_host() {
        let dir = tempfile::tempdir().unwrap();
        let files =
            [file("/etc/no-such-folder/deep/a.conf"), file("/usr/b"), file("/run/c"), file("/tmp/d/e")];
        let backing = Backing::prepare(dir.path(), "web", "127.0.0.1 localhost", "", &files).unwrap();
        let covered: Vec<_> = backing.covered.iter().map(|path| path.to_str().unwrap()).collect();
        assert_eq!(covered, ["/etc", "/usr"]);
        assert!(dir.path().join("layer/etc/no-such-folder/deep/a.conf").is_file());
        assert!(dir.path().join("run/c").is_file() && dir.path().join("tmp/d/e").is_file());
        assert_eq!(fs::read_to_string(dir.path().join("layer/etc/hostname")).unwrap(), "web\n");
    }

    #[test]
    fn a_file_that_is_not_asked_for_any_more_goes() {
        let dir = tempfile::tempdir().unwrap();
        Backing::prepare(dir.path(), "web", "", "", &[file("/usr/b")]).unwrap();
        let backing = Backing::prepare(dir.path(), "web", "", "", &[]).unwrap();
        assert!(!dir.path().join("layer/usr").exists());
        assert_eq!(backing.covered.len(), 1);
    }

    #[test]
    fn what_cannot_be_shown_inside_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for path in
            ["etc/a", "/etc/../a", "/proc/a", "/sys/class/a", "/top-level-file", "/no-such-top/a", "/"]
        {
            let result = Backing::prepare(dir.path(), "web", "", "", &[file(path)]);
            assert!(matches!(result, Err(HostError::Invalid(_))), "{path}: {result:?}");
        }
    }
}
