//! What a lab must not lose and changes often: kept in two files that are written by turns, in place.
//!
//! A file that takes another's place is safe on the disk only after the file system's own journal, behind whatever others
//! have written meanwhile. Bytes written over those of a file that keeps its size need no more than themselves to be there. What a
//! crash cuts off shows by its checksum, and the other file holds what was there before.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::error::{Context, HostError, Result};
use super::state_dir::StateDir;

/// A file is a multiple of this long, so that contents that grow by a little keep their file's size.
const STEP_BYTES: usize = 64 << 10;
/// Where contents begin: what stands before them is known only after them.
const HEAD_BYTES: u64 = 128;
const MODE: u32 = 0o600;

/// The two files `NAME.json` and `NAME.twin.json` of a lab. Each is JSON by itself, filled up with spaces.
#[derive(Debug)]
pub struct Twin {
    /// The places of contents with an even number, and with an odd one.
    paths: [PathBuf; 2],
    version: u32,
    /// Number of the newest contents, from 1 on; 0 where nothing was stored yet.
    newest: u64,
}

/// What a file holds.
#[derive(Deserialize)]
struct Envelope<'a> {
    number: u64,
    checksum: u32,
    #[serde(borrow)]
    contents: &'a RawValue,
}

/// The part that every version has.
#[derive(Deserialize)]
struct Version {
    version: u32,
}

/// One file, as it was found.
enum Found {
    Nothing,
    Whole(u64, Box<RawValue>),
    /// With what is wrong.
    Damaged(String),
}

impl Twin {
    /// The files `name` in `dir`, and the contents that were stored last; none where nothing ever was.
    ///
    /// # Errors
    /// Files of another version than `version`, or of which none is whole ([`HostError::Mismatch`]; what to do is for the caller).
    pub fn open<T: DeserializeOwned>(dir: &StateDir, name: &str, version: u32) -> Result<(Twin, Option<T>)> {
        let paths = [dir.file(&format!("{name}.twin.json"))?, dir.file(&format!("{name}.json"))?];
        let mut twin = Twin { paths, version, newest: 0 };
        let mut contents = None;
        let mut damage = None;
        for path in &twin.paths {
            match read(path, version)? {
                Found::Nothing => {}
                Found::Whole(number, found) if number > twin.newest => {
                    (twin.newest, contents) = (number, Some((path, found)));
                }
                Found::Whole(..) => {}
                Found::Damaged(why) => damage = Some(mismatch(path, why)),
            }
        }
        let Some((path, contents)) = contents else { return damage.map_or(Ok((twin, None)), Err) };
        if let Some(error) = damage {
            tracing::warn!(%error, "a change that was cut off is left out");
        }
        let contents =
            serde_json::from_str(contents.get()).map_err(|error| mismatch(path, error.to_string()))?;
        Ok((twin, Some(contents)))
    }

    /// Stores new contents: they are on the disk when it returns, and a crash at any moment leaves the former or these.
    ///
    /// # Errors
    /// A value that JSON can't express, or a file system that can't be written: the former contents stay.
    pub fn save<T: Serialize>(&mut self, contents: &T) -> Result<()> {
        let number = self.newest + 1;
        let path = &self.paths[(number % 2) as usize];
        if self.newest == 0 {
            self.create(contents)?;
        } else {
            let file = open_to_write(path)?;
            write(&file, self.version, number, contents)
                .inspect_err(|_| {
                    // What could not be stored is not in force, after a restart neither.
                    let _ = file.write_all_at(b" ", 0);
                })
                .on("write", path.display())?;
        }
        self.newest = number;
        Ok(())
    }

    /// Makes both files. A lab that has the first one has been accepted, so that appears in one step.
    fn create<T: Serialize>(&self, contents: &T) -> Result<()> {
        let [other, path] = &self.paths;
        open_to_write(other)?.set_len(0).on("clear", other.display())?;
        let beside = path.with_extension("new");
        write(&open_to_write(&beside)?, self.version, 1, contents).on("write", beside.display())?;
        fs::rename(&beside, path).on("replace", path.display())?;
        // Names are on the disk only when their folder is.
        let folder = path.parent().unwrap_or(Path::new("/"));
        File::open(folder).and_then(|folder| folder.sync_all()).on("flush", folder.display())
    }
}

fn open_to_write(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(MODE).open(path).on("open", path.display())
}

/// Puts these contents in the place of all that the file holds.
fn write<T: Serialize>(file: &File, version: u32, number: u64, contents: &T) -> io::Result<()> {
    let body = Body { file, at: HEAD_BYTES, sum: crc32fast::Hasher::new() };
    let mut body = BufWriter::with_capacity(STEP_BYTES, body);
    serde_json::to_writer(&mut body, contents)?;
    let Body { mut at, sum, .. } = body.into_inner().map_err(io::IntoInnerError::into_error)?;
    let sum = checksum(sum, number);
    let head = format!("{{\"version\":{version},\"number\":{number},\"checksum\":{sum},\"contents\":");
    file.write_all_at(format!("{head:<0$}", HEAD_BYTES as usize).as_bytes(), 0)?;
    let mut end = vec![b' '; STEP_BYTES - at as usize % STEP_BYTES];
    end[0] = b'}';
    file.write_all_at(&end, at)?;
    at += end.len() as u64;
    if file.metadata()?.len() > at {
        file.set_len(at)?;
    }
    file.sync_data()
}

/// The contents on their way to the disk.
struct Body<'a> {
    file: &'a File,
    /// Where the next byte goes.
    at: u64,
    sum: crc32fast::Hasher,
}

impl Write for Body<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write_at(bytes, self.at)?;
        self.sum.update(&bytes[..written]);
        self.at += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn read(path: &Path, version: u32) -> Result<Found> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) => return Err(error).on("read", path.display()),
    };
    if bytes.is_empty() {
        return Ok(Found::Nothing);
    }
    let found: Version = match serde_json::from_slice(&bytes) {
        Ok(found) => found,
        Err(error) => return Ok(Found::Damaged(error.to_string())),
    };
    if found.version != version {
        let why = format!("it has version {}, this daemon reads version {version}", found.version);
        return Err(mismatch(path, why));
    }
    Ok(match serde_json::from_slice::<Envelope<'_>>(&bytes) {
        Ok(found) if found.checksum == checksum(summed(found.contents), found.number) => {
            Found::Whole(found.number, found.contents.to_owned())
        }
        Ok(_) => Found::Damaged("its checksum is that of other contents".to_owned()),
        Err(error) => Found::Damaged(error.to_string()),
    })
}

fn summed(contents: &RawValue) -> crc32fast::Hasher {
    let mut sum = crc32fast::Hasher::new();
    sum.update(contents.get().as_bytes());
    sum
}

/// Of contents and their number: neither fits another's.
fn checksum(mut contents: crc32fast::Hasher, number: u64) -> u32 {
    contents.update(&number.to_le_bytes());
    contents.finalize()
}

fn mismatch(path: &Path, detail: String) -> HostError {
    HostError::Mismatch { object: path.display().to_string(), detail }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILES: [&str; 2] = ["accepted.json", "accepted.twin.json"];

    fn dir(root: &tempfile::TempDir) -> StateDir {
        StateDir::open(root.path(), "lab").unwrap()
    }

    fn open(dir: &StateDir) -> Result<(Twin, Option<String>)> {
        Twin::open(dir, "accepted", 1)
    }

    fn stored(dir: &StateDir) -> Option<String> {
        open(dir).unwrap().1
    }

    #[test]
    fn the_contents_that_were_stored_last_come_back() {
        let root = tempfile::tempdir().unwrap();
        let dir = dir(&root);
        let (mut twin, nothing) = open(&dir).unwrap();
        assert_eq!(nothing, None);
        // Longer and shorter than what they take the place of.
        for length in [3, 200_000, 70_000, 70_001, 0, 65_536, 12, 4] {
            let contents = "x".repeat(length);
            twin.save(&contents).unwrap();
            assert_eq!(stored(&dir), Some(contents.clone()));
            (twin, _) = open(&dir).unwrap();
            assert_eq!(stored(&dir), Some(contents));
        }
        for file in FILES {
            let length = fs::metadata(dir.path().join(file)).unwrap().len();
            assert_eq!(length, STEP_BYTES as u64, "{file} takes no more room than it needs");
        }
    }

    #[test]
    fn whatever_part_of_a_change_reached_the_disk_the_former_or_the_new_one_comes_back() {
        let root = tempfile::tempdir().unwrap();
        let dir = dir(&root);
        let mut twin = open(&dir).unwrap().0;
        let [first, second, third] = ["a", "b", "c"].map(|letter| letter.repeat(100));
        for contents in [&first, &second] {
            twin.save(contents).unwrap();
        }
        let path = dir.path().join(FILES[0]);
        let before = fs::read(&path).unwrap();
        twin.save(&third).unwrap();
        let after = fs::read(&path).unwrap();
        assert_ne!(before, after);
        let same = before.iter().zip(&after).take_while(|(before, after)| before == after).count();
        for cut in 0..300 {
            let new_then_old = [&after[..cut], &before[cut..]].concat();
            let old_then_new = [&before[..cut], &after[cut..]].concat();
            for (torn, is_new) in [(new_then_old, after[cut..] == before[cut..]), (old_then_new, cut <= same)]
            {
                fs::write(&path, torn).unwrap();
                let expected = if is_new { &third } else { &second };
                assert_eq!(stored(&dir).as_ref(), Some(expected), "cut at {cut}");
            }
        }
        for torn in [&after[..40], &[0; 4096], b""] {
            fs::write(&path, torn).unwrap();
            assert_eq!(stored(&dir).as_ref(), Some(&second));
        }
        // It goes on from there.
        let mut twin = open(&dir).unwrap().0;
        twin.save(&third).unwrap();
        assert_eq!(stored(&dir), Some(third));
    }

    #[test]
    fn what_could_not_be_stored_does_not_come_back() {
        let root = tempfile::tempdir().unwrap();
        let dir = dir(&root);
        let mut twin = open(&dir).unwrap().0;
        twin.save(&"in force").unwrap();
        fs::remove_file(dir.path().join(FILES[1])).unwrap();
        fs::create_dir(dir.path().join(FILES[1])).unwrap();
        assert!(matches!(twin.save(&"refused"), Err(HostError::Io { .. })));
        fs::remove_dir(dir.path().join(FILES[1])).unwrap();
        assert_eq!(stored(&dir).as_deref(), Some("in force"));
        twin.save(&"accepted").unwrap();
        assert_eq!(stored(&dir).as_deref(), Some("accepted"));
    }

    #[test]
    fn files_of_another_version_or_make_are_told_apart() {
        let root = tempfile::tempdir().unwrap();
        let dir = dir(&root);
        let mut twin = Twin::open::<String>(&dir, "accepted", 2).unwrap().0;
        twin.save(&"new shape").unwrap();
        assert!(matches!(open(&dir), Err(HostError::Mismatch { .. })));
        fs::write(dir.path().join(FILES[0]), b"{\"version\":1,\"contents\":\"of old\"}").unwrap();
        assert!(matches!(open(&dir), Err(HostError::Mismatch { .. })));
        fs::write(dir.path().join(FILES[0]), b"{\"version\":").unwrap();
        assert!(matches!(open(&dir), Err(HostError::Mismatch { .. })));
        // A crash before the first contents were whole leaves the other file alone.
        fs::remove_file(dir.path().join(FILES[0])).unwrap();
        assert_eq!(stored(&dir), None);
    }
}
