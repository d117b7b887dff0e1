//! vnetd.
//! Placeholder.
fn main() {
    vnetd::host::enter::run_if_asked();
}
