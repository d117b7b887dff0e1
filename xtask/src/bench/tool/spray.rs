//! One datagram for each of many flows.

use std::net::{IpAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use nix::errno::Errno;
use nix::sys::prctl;

/// The first of the ports that flows are sprayed from and to.
const FIRST_PORT: u16 = 20_000;

#[derive(Args)]
pub(crate) struct SprayArguments {
    #[arg(long)]
    to: IpAddr,
    #[arg(long)]
    sources: u16,
    #[arg(long)]
    destinations: u16,
    #[arg(long)]
    per_second: u32,
}

/// Sleeps to a moment with the finest timer that there is.
fn sleep_until(moment: Instant) {
    if let Some(left) = moment.checked_duration_since(Instant::now()) {
        std::thread::sleep(left);
    }
}

/// Sends one datagram from each of many ports to each of many ports.
pub(crate) fn spray(arguments: &SprayArguments) -> Result<()> {
    const TOGETHER: u32 = 50;
    prctl::set_timerslack(1)?;
    let pause = Duration::from_secs_f64(f64::from(TOGETHER) / f64::from(arguments.per_second));
    let mut due = Instant::now();
    let mut sent = 0_u32;
    for source in FIRST_PORT..FIRST_PORT + arguments.sources {
        let socket = UdpSocket::bind(("0.0.0.0", source))?;
        for destination in FIRST_PORT..FIRST_PORT + arguments.destinations {
            match socket.send_to(b"flow", (arguments.to, destination)) {
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => {}
                Err(error) => return Err(error).context("send"),
            }
            sent += 1;
            if sent.is_multiple_of(TOGETHER) {
                due += pause;
                sleep_until(due);
            }
        }
    }
    println!("{}", serde_json::json!({"sent": sent}));
    Ok(())
}
