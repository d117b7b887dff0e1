//! vnetd.
