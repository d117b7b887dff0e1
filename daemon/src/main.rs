//! vnetd.
//! Placeholder.
fn main() {}
