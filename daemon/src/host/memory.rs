//! Memory that the process has freed and its allocator keeps.

use std::ptr;

/// Every arena's unused pages (`MALLCTL_ARENAS_ALL` of jemalloc.h is 4096).
const PURGE: &std::ffi::CStr = c"arena.4096.purge";

/// Gives it back to the system: after work that takes much for a moment. Takes some milliseconds for each hundred megabytes.
pub fn give_back() {
    // SAFETY: this name takes and gives no value, and may be called by any thread at any time.
    let refused = unsafe {
        tikv_jemalloc_sys::mallctl(PURGE.as_ptr(), ptr::null_mut(), ptr::null_mut(), ptr::null_mut(), 0)
    };
    if refused != 0 {
        tracing::debug!(code = refused, "freed memory is kept");
    }
}
