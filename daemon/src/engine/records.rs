//! The session records as the lab's shared memory holds them.

use std::ops::{Deref, DerefMut};

use vnet_dataplane::SessionRecord;
use zerocopy::FromBytes;

use crate::host::state_dir::SharedRegion;

/// Bytes of one record.
pub(super) const RECORD_BYTES: usize = size_of::<SessionRecord>();

/// A shared mapping, seen as session records.
#[derive(Debug)]
pub(super) struct Records(SharedRegion);

impl Records {
    /// `region` is a whole number of records long.
    pub(super) fn new(region: SharedRegion) -> Records {
        Records(region)
    }
}

impl Deref for Records {
    type Target = [SessionRecord];

    fn deref(&self) -> &[SessionRecord] {
        // A mapping begins at a page, so it is aligned, and it was made as a multiple of the record's size.
        <[SessionRecord]>::ref_from_bytes(self.0.bytes()).unwrap_or(&[])
    }
}

impl DerefMut for Records {
    fn deref_mut(&mut self) -> &mut [SessionRecord] {
        <[SessionRecord]>::mut_from_bytes(self.0.bytes_mut()).unwrap_or(&mut [])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::IntoBytes;

    #[test]
    fn a_region_is_records() {
        let folder = tempfile::tempdir().unwrap();
        let dir = crate::host::state_dir::StateDir::open(folder.path(), "records").unwrap();
        let mut records = Records::new(dir.region("sessions", 4 * RECORD_BYTES).unwrap());
        assert_eq!(records.len(), 4);
        assert_eq!(records.as_bytes().len(), 4 * RECORD_BYTES);
        assert_eq!(records.as_mut_bytes().len(), 4 * RECORD_BYTES);
    }
}
