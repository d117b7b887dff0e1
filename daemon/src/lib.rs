//! vnetd: the daemon that gives an Azure network design on one Linux host real packets.
//!
//! The only crate of the project with input, output and `unsafe`: everything that touches the kernel lies in
//! [`host`] (namespaces, netlink, processes, state files) and [`io`] (the packet descriptors).

pub mod api;
pub mod arguments;
pub mod bgp;
pub mod engine;
pub mod host;
pub mod io;
pub mod logging;
pub mod metrics;
pub mod notify;
pub mod offload;
pub mod pcapng;
pub mod worker;
