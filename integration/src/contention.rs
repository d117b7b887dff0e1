//! What others on a machine took from a thread: the time that it was ready to run and had no processor.
//!
//! The kernel accounts for that itself, so a slow worker does not excuse itself by it: only what others ran in its
//! place counts.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// How the names of a daemon's workers begin.
const WORKER: &str = "vnet-";
/// Linux's USER_HZ on every architecture that the project runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// How long the workers of a daemon, one for one, have waited for a processor since they started.
fn workers_waited(pid: u32) -> Result<Duration> {
    let waits = waits(pid, |name| name.starts_with(WORKER))?;
    ensure!(!waits.is_empty(), "process {pid} has no worker");
    Ok(waits.into_iter().sum())
}

/// How long the threads that a process has now, one for one, have waited for a processor since they started.
///
/// # Errors
/// The process is not there.
pub fn threads_waited(pid: u32) -> Result<Duration> {
    Ok(waits(pid, |_| true)?.into_iter().sum())
}

fn waits(pid: u32, is_meant: impl Fn(&str) -> bool) -> Result<Vec<Duration>> {
    let tasks = format!("/proc/{pid}/task");
    let mut waits = Vec::new();
    for task in fs::read_dir(&tasks).with_context(|| tasks.clone())? {
        let folder = task?.path();
        // A thread may end meanwhile; a worker does not while its lab is up.
        let Ok(name) = fs::read_to_string(folder.join("comm")) else { continue };
        if is_meant(&name)
            && let Ok(wait) = waited(&folder)
        {
            waits.push(wait);
        }
    }
    Ok(waits)
}

/// How long the calling thread has waited for a processor since it started.
///
/// # Errors
/// The kernel does not account for waits.
pub fn thread_waited() -> Result<Duration> {
    waited(Path::new("/proc/thread-self"))
}

/// Watches how busy others keep the machine while a daemon and this process work.
pub struct Watch {
    pid: u32,
    began: Instant,
    busy: u64,
    own: u64,
    workers: Duration,
}

/// What others took since a watch began.
#[derive(Clone, Copy, Debug)]
pub struct Taken {
    /// How long the daemon's workers waited for a processor, whoever had it.
    pub workers_waited: Duration,
    /// The share of all processors (0 to 1) that neither the daemon nor this process used, nor children of theirs that have ended.
    pub by_others: f64,
}

impl Watch {
    /// Begins to watch.
    ///
    /// # Errors
    /// The daemon does not run, or the kernel does not account for waits.
    pub fn start(daemon: u32) -> Result<Watch> {
        Ok(Watch {
            pid: daemon,
            began: Instant::now(),
            busy: machine_ticks()?,
            own: own_ticks(daemon)?,
            workers: workers_waited(daemon)?,
        })
    }

    /// What others took so far.
    ///
    /// # Errors
    /// The daemon has ended.
    pub fn taken(&self) -> Result<Taken> {
        let elapsed = self.began.elapsed().as_secs_f64();
        let own = own_ticks(self.pid)?.saturating_sub(self.own);
        let others = machine_ticks()?.saturating_sub(self.busy).saturating_sub(own) as f64 / TICKS_PER_SECOND;
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Taken {
            workers_waited: workers_waited(self.pid)?.saturating_sub(self.workers),
            by_others: others / elapsed / processors as f64,
        })
    }
}

/// What all processors have spent on programs, and what a hypervisor gave to other machines.
fn machine_ticks() -> Result<u64> {
    let text = fs::read_to_string("/proc/stat")?;
    let first = text.lines().next().context("/proc/stat is empty")?;
    let figures: Vec<u64> = first.split_whitespace().skip(1).map(str::parse).collect::<Result<_, _>>()?;
    // user, nice, system and, after idle, iowait, irq and softirq, steal: proc_stat(5).
    Ok([0, 1, 2, 7].iter().filter_map(|at| figures.get(*at)).sum())
}

fn own_ticks(daemon: u32) -> Result<u64> {
    Ok(process_ticks(daemon)? + process_ticks(std::process::id())?)
}

/// What a process and its children that have ended have spent.
fn process_ticks(pid: u32) -> Result<u64> {
    let file = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&file).with_context(|| file.clone())?;
    // The name before, in parentheses, may hold anything.
    let (_, rest) = text.rsplit_once(')').with_context(|| file.clone())?;
    // utime, stime, cutime, cstime: proc_pid_stat(5), whose third field comes first here.
    let figures: Vec<u64> =
        rest.split_whitespace().skip(11).take(4).map(str::parse).collect::<Result<_, _>>()?;
    Ok(figures.iter().sum())
}

/// The second figure of a thread's schedstat: nanoseconds spent waiting on a run queue.
fn waited(thread: &Path) -> Result<Duration> {
    let file = thread.join("schedstat");
    let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    let figure = text.split_whitespace().nth(1).with_context(|| format!("{}: {text}", file.display()))?;
    Ok(Duration::from_nanos(figure.parse()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_work_is_nobody_else_s() {
        let (machine, own) = (machine_ticks().unwrap(), process_ticks(std::process::id()).unwrap());
        let began = Instant::now();
        while process_ticks(std::process::id()).unwrap() < own + 10 {
            assert!(began.elapsed() < crate::PATIENCE, "its work is not counted");
        }
        // The kernel rounds each process's figures for itself.
        assert!(machine_ticks().unwrap() + 5 >= machine + 10);
    }

    #[test]
    fn reads_what_a_thread_waited() {
        let before = thread_waited().unwrap();
        std::thread::yield_now();
        assert!(thread_waited().unwrap() >= before);
        assert!(threads_waited(std::process::id()).unwrap() >= before);
        assert!(workers_waited(std::process::id()).is_err(), "this process has no worker");
    }
}
