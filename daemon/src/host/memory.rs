//! Memory that the process has freed and its allocator keeps.

/// Gives it back to the system: after work that takes much for a moment. Takes some milliseconds for each hundred megabytes.
/// Nothing is done where the allocator is not glibc's.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim takes a number, and may be called by any thread at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}
