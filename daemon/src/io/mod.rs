//! The descriptors that packets pass through.

pub mod tun;
pub mod udp;
