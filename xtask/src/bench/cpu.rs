//! What a measure costs: processor time of the machine and of the programs that carry the packets.

use std::fs;
use std::ops::Sub;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use vnet_integration::wait_until;

/// USER_HZ, the unit of /proc/stat: 100 on every architecture that vnetd runs on.
const NS_PER_TICK: u64 = 10_000_000;

/// Counts that grow; a difference of two says what happened between.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// Time that the processors worked, all together: user, system, interrupts.
    pub(crate) machine_ns: u64,
    /// Time that the carriers' threads ran.
    pub(crate) carriers_ns: u64,
    /// How often the carriers' threads went to sleep.
    pub(crate) sleeps: u64,
    /// The carriers' read and write calls, vectored ones too.
    pub(crate) calls: u64,
}

impl Usage {
    /// Reads them for the carriers of a path.
    pub(crate) fn read(carriers: &[u32]) -> Result<Usage> {
        let mut usage = Usage { machine_ns: machine_ns()?, ..Usage::default() };
        for thread in carriers.iter().flat_map(|pid| threads(*pid)) {
            // A thread may end while it is looked at.
            let Ok(times) = fs::read_to_string(thread.join("schedstat")) else { continue };
            let ran = times.split(' ').next().and_then(|text| text.parse::<u64>().ok());
            usage.carriers_ns += ran.with_context(|| format!("{}: {times}", thread.display()))?;
            usage.sleeps += field(&thread, "status", "voluntary_ctxt_switches:");
            usage.calls += field(&thread, "io", "syscr:") + field(&thread, "io", "syscw:");
        }
        Ok(usage)
    }
}

impl Sub for Usage {
    type Output = Usage;

    fn sub(self, before: Usage) -> Usage {
        Usage {
            machine_ns: self.machine_ns.saturating_sub(before.machine_ns),
            carriers_ns: self.carriers_ns.saturating_sub(before.carriers_ns),
            sleeps: self.sleeps.saturating_sub(before.sleeps),
            calls: self.calls.saturating_sub(before.calls),
        }
    }
}

fn threads(pid: u32) -> Vec<PathBuf> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

fn field(thread: &std::path::Path, file: &str, name: &str) -> u64 {
    let text = fs::read_to_string(thread.join(file)).unwrap_or_default();
    let value = text.lines().find_map(|line| line.strip_prefix(name));
    value.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
}

/// Memory of a process that is in use.
pub(crate) fn resident_bytes(pid: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().with_context(|| line.to_owned())?;
    Ok(kib * 1024)
}

/// Waits until the machine has nothing to do: namespaces that were removed are cleared away by the kernel later.
pub(crate) fn wait_calm() -> Result<()> {
    const INTERVAL: Duration = Duration::from_millis(250);
    wait_until("the machine is idle", Duration::from_secs(60), || {
        let before = machine_ns()?;
        std::thread::sleep(INTERVAL);
        Ok(u128::from(machine_ns()? - before) < INTERVAL.as_nanos() / 10)
    })
}

fn machine_ns() -> Result<u64> {
    let text = fs::read_to_string("/proc/stat")?;
    let line = text.lines().next().context("/proc/stat is empty")?;
    busy_ns(line).with_context(|| format!("/proc/stat: {line}"))
}

/// user, nice, system, irq, softirq; not idle, iowait and what the hypervisor took.
fn busy_ns(line: &str) -> Option<u64> {
    let fields: Vec<u64> = line.split_whitespace().skip(1).filter_map(|text| text.parse().ok()).collect();
    let ticks = [0, 1, 2, 5, 6].iter().map(|at| fields.get(*at).copied()).sum::<Option<u64>>()?;
    Some(ticks * NS_PER_TICK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_time_is_no_work() {
        assert_eq!(busy_ns("cpu  1 2 4 1000 500 8 16 99 0 0"), Some(31 * NS_PER_TICK));
        assert_eq!(busy_ns("cpu 1 2"), None);
    }

    #[test]
    fn a_process_that_works_is_seen() {
        let own = [std::process::id()];
        let before = Usage::read(&own).expect("the process may look at itself");
        let mut sum = 0_u64;
        for number in 0..20_000_000_u64 {
            sum = std::hint::black_box(sum.wrapping_add(number));
        }
        let spent = Usage::read(&own).expect("the process may look at itself") - before;
        assert!(spent.carriers_ns > 0, "{spent:?} {sum}");
        assert!(spent.calls > 0, "{spent:?}");
    }
}
