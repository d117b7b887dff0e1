//! Run to completion: a thread that drains a ready device, decides, writes, and takes the next one.
//!
//! Each lab has its workers; worker i owns queue i of every device, so that a flow stays on one core. Nothing on
//! this way allocates, takes a channel or knows of tokio.

mod clock;
mod io;
mod kernel_flows;
mod pause;
mod poller;
mod punctual;
mod spin;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use vnet_dataplane::{Nanos, OffloadEntry, OffloadSlot, PortId, TunnelId};
use vnet_gateway::ConnectionStatus;
use vnet_router::{Ledger, Router};

pub use clock::monotonic;
pub use kernel_flows::{KernelFlows, KernelHost};

use crate::io::tun::{FRAME_BYTES_MAX, TunQueue};
use crate::io::udp::UdpPort;
use io::{Bound, Ports};
use pause::Pause;
use poller::{Poller, Ready, Waker};
use spin::Spin;

/// Frames taken from one device before the next one has its turn.
const BUDGET_FRAMES: usize = 64;

/// A question or a change, run by the worker between two batches.
type Task = Box<dyn FnOnce(&mut Router, &mut Ports, Nanos) + Send>;

enum Command {
    Attach(PortId, TunQueue),
    Detach(PortId),
    Bind { local: SocketAddr, port: UdpPort, receive: bool },
    Unbind(SocketAddr),
    Wake,
    Task(Task),
    Stop,
}

/// What became of a tunnel end.
#[derive(Clone, Debug)]
pub struct TunnelChange {
    /// The lab.
    pub lab: String,
    /// The end.
    pub tunnel: TunnelId,
    /// Its state now.
    pub status: ConnectionStatus,
}

/// Commands taken between two batches: with a thousand devices to attach, packets still have their turn.
const COMMANDS_MAX: usize = 64;

/// A batch takes milliseconds: a worker that is in one for so long stands still.
const STANDSTILL: Duration = Duration::from_secs(10);

/// How busy a worker is.
#[derive(Debug, Default)]
pub struct WorkerStats {
    /// When the present batch began, on the clock of [`monotonic`]; 0 while it waits.
    began_ns: AtomicU64,
    /// Time spent outside of waiting, in nanoseconds.
    pub busy_ns: AtomicU64,
    /// Batches: wake-ups with something to do.
    pub batches: AtomicU64,
}

/// How long a worker waits for packets that are about to come.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// It looks for the next packet for so long before it sleeps, where packets come one after the other; zero: never.
    pub spin: Duration,
    /// It leaves its devices alone for so long after a batch of a flood; zero: never.
    pub pause: Duration,
}

/// A running worker. Dropping it stops the thread and closes its queues; devices stay.
#[derive(Debug)]
pub struct Worker {
    commands: mpsc::Sender<Command>,
    waker: Waker,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// What it has counted.
    pub ledger: Arc<Ledger>,
    /// How busy it is.
    pub stats: Arc<WorkerStats>,
}

impl Worker {
    /// Starts a thread of this name that runs `router` for `lab`, lets `kernel` carry what it can, and reports what
    /// becomes of tunnels. Between batches it waits as `patience` says.
    ///
    /// # Errors
    /// The kernel gives no epoll instance, event descriptor or thread.
    pub fn start(
        lab: &str,
        name: &str,
        router: Router,
        kernel: Option<Arc<dyn KernelFlows>>,
        changes: mpsc::Sender<TunnelChange>,
        patience: Patience,
    ) -> std::io::Result<Worker> {
        let (commands, inbox) = mpsc::channel();
        let poller = Poller::new()?;
        let waker = poller.waker();
        let ledger = Arc::clone(router.ledger());
        let stats = Arc::new(WorkerStats::default());
        let mut state = Loop {
            router,
            ports: Ports::new(lab, kernel, changes),
            poller,
            inbox,
            stats: Arc::clone(&stats),
            frame: vec![0; FRAME_BYTES_MAX].into_boxed_slice(),
            now: Nanos::ZERO,
            worked: 0,
            departure: Nanos::default(),
            dense: false,
            packets: false,
            joined: false,
            spin: Spin::new(patience.spin),
            pause: Pause::new(patience.pause),
            stopped: false,
        };
        let thread = std::thread::Builder::new().name(name.chars().take(15).collect()).spawn(move || {
            put_first();
            state.run();
        })?;
        Ok(Worker { commands, waker, thread: Mutex::new(Some(thread)), ledger, stats })
    }

    fn command(&self, command: Command) {
        // A worker that is gone has stopped the lab with it: its caller sees that by the missing answer.
        if self.commands.send(command).is_ok() {
            self.waker.wake();
        }
    }

    /// Takes over what a former daemon's workers have entered in the kernel.
    pub fn adopt(&self, entries: Vec<(OffloadSlot, OffloadEntry)>) {
        self.command(Command::Task(Box::new(move |router, ports, now| {
            // The policy that was published before this was asked for, though the batch may have begun earlier.
            router.begin();
            router.adopt_offloads(entries, now, ports);
        })));
    }

    /// Takes packets of a port from this queue from now on.
    pub fn attach(&self, port: PortId, queue: TunQueue) {
        self.command(Command::Attach(port, queue));
    }

    /// Closes the port's queue.
    pub fn detach(&self, port: PortId) {
        self.command(Command::Detach(port));
    }

    /// Sends datagrams of this address by this socket, and receives them too if `receive` says so: one worker does.
    pub fn bind(&self, local: SocketAddr, port: UdpPort, receive: bool) {
        self.command(Command::Bind { local, port, receive });
    }

    /// Closes the socket of this address.
    pub fn unbind(&self, address: SocketAddr) {
        self.command(Command::Unbind(address));
    }

    /// Ends the worker's sleep, so that it looks at its timers again.
    pub fn wake(&self) {
        self.command(Command::Wake);
    }

    /// Ends the worker's thread and waits for it: its queues and sockets are closed then.
    pub fn end(&self) {
        self.command(Command::Stop);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // A panic of the worker has been reported by its thread already.
            let _ = thread.join();
        }
    }

    /// Whether it waits, or has been at work for less than ten seconds at `now`. A worker that has ended is not alive.
    pub fn is_alive(&self, now: Nanos) -> bool {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        let began = self.stats.began_ns.load(Ordering::Relaxed);
        thread.as_ref().is_some_and(|thread| !thread.is_finished())
            && (began == 0 || now.since(Nanos(began)) < STANDSTILL)
    }

    /// Runs `task` on the worker's thread, with all that the kernel has counted merged before, and returns its answer;
    /// `None` if the worker has stopped. What the task brings up of flows in the kernel is done when the answer comes.
    pub fn ask<T: Send + 'static>(
        &self,
        task: impl FnOnce(&mut Router, Nanos) -> T + Send + 'static,
    ) -> Option<T> {
        let (answer, receive) = mpsc::sync_channel(1);
        self.command(Command::Task(Box::new(move |router, ports, now| {
            router.merge_offloads(now, ports);
            let outcome = task(router, now);
            router.settle_offloads(now, ports);
            // The asker may have given up; then nobody wants the answer.
            let _ = answer.send(outcome);
        })));
        receive.recv_timeout(Duration::from_secs(10)).ok()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.end();
    }
}

/// Niceness of a worker's thread: packets go before compiling, API and programs of the lab. Two cores are soon busy, and a
/// sender that waits a scheduler's turn for an answer sends again what was not lost.
const NICENESS: libc::c_int = -15;

/// Puts the calling thread before others, and lets its timers end when they should, not 50 us later. Without the right to go
/// first it stays among the others.
fn put_first() {
    if let Err(error) = nix::sys::prctl::set_timerslack(1) {
        tracing::debug!(%error, "a worker's timers have slack");
    }
    // SAFETY: setpriority takes numbers only; process 0 is the calling thread on Linux.
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICENESS) } != 0 {
        tracing::debug!(error = %std::io::Error::last_os_error(), "a worker stays at the usual priority");
    }
}

struct Loop {
    router: Router,
    ports: Ports,
    poller: Poller,
    inbox: mpsc::Receiver<Command>,
    stats: Arc<WorkerStats>,
    frame: Box<[u8]>,
    /// The present batch's time.
    now: Nanos,
    /// Work since the last look at the clock.
    worked: usize,
    /// The departure that was waited for last.
    departure: Nanos,
    /// The device that was drained last had more than one frame.
    dense: bool,
    /// The present batch had packets.
    packets: bool,
    /// In the present batch packets were joined to others.
    joined: bool,
    spin: Spin,
    pause: Pause,
    stopped: bool,
}

impl Loop {
    fn run(&mut self) {
        let mut now = monotonic();
        while !self.stopped {
            if let Err(error) = self.wait(now) {
                tracing::error!(%error, "the worker cannot wait for its devices");
                return;
            }
            let began = monotonic();
            self.stats.began_ns.store(began.0, Ordering::Relaxed);
            self.router.begin();
            self.now = began;
            self.packets = false;
            self.joined = false;
            self.batch();
            self.router.poll_output(monotonic(), &mut self.ports);
            now = monotonic();
            let busy = now.since(began).as_nanos() as u64;
            self.stats.busy_ns.store(self.stats.busy_ns.load(Ordering::Relaxed) + busy, Ordering::Relaxed);
            self.stats.began_ns.store(0, Ordering::Relaxed);
            self.stats.batches.store(self.stats.batches.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        }
    }

    fn batch(&mut self) {
        for index in 0..self.poller.ready_len() {
            match self.poller.ready(index) {
                Ready::Wake => self.take_commands(self.now),
                Ready::Port(port) => {
                    let taken = self.drain(port);
                    if taken == 0 && self.poller.failed(index) {
                        tracing::debug!(port = port.0, "a device is about to go");
                        self.detach(port);
                    }
                }
                Ready::Socket(index) => {
                    self.packets = true;
                    self.ports.receive(index, &mut self.router, self.now);
                }
            }
        }
    }

    /// Routes what a device has, within the budget; gives the number of frames.
    fn drain(&mut self, port: PortId) -> usize {
        // A frame that comes alone is written before the device is asked for another one.
        if self.dense {
            self.router.gather();
        }
        let taken = self.take_frames(port);
        self.dense = taken > 1;
        self.packets |= taken > 0;
        self.joined |= self.router.flush_gathered(&mut self.ports);
        taken
    }

    fn take_frames(&mut self, port: PortId) -> usize {
        for taken in 0..BUDGET_FRAMES {
            let Some(queue) = self.ports.queue(port) else { return taken };
            match queue.read(&mut self.frame) {
                Ok(Some(length)) => {
                    self.route(port, length);
                    self.router.gather();
                }
                Ok(None) => return taken,
                Err(error) => {
                    tracing::debug!(port = port.0, %error, "a device is gone");
                    self.detach(port);
                    return taken;
                }
            }
        }
        BUDGET_FRAMES
    }

    fn take_commands(&mut self, now: Nanos) {
        self.poller.acknowledge();
        for taken in 0.. {
            if taken == COMMANDS_MAX {
                self.poller.waker().wake();
                return;
            }
            let Ok(command) = self.inbox.try_recv() else { return };
            match command {
                Command::Attach(port, queue) => {
                    self.detach(port);
                    match self.poller.add(&queue, Ready::Port(port)) {
                        Ok(()) => self.ports.attach(port, queue),
                        Err(error) => tracing::error!(port = port.0, %error, "cannot watch a device"),
                    }
                }
                Command::Detach(port) => self.detach(port),
                Command::Bind { local, port, receive } => self.bind(Bound { local, port }, receive),
                Command::Wake => {}
                Command::Unbind(address) => {
                    if let Some(socket) = self.ports.unbind(address) {
                        self.poller.remove(&socket.port);
                    }
                }
                Command::Task(task) => task(&mut self.router, &mut self.ports, now),
                Command::Stop => self.stopped = true,
            }
        }
    }

    fn detach(&mut self, port: PortId) {
        if let Some(queue) = self.ports.detach(port) {
            self.poller.remove(&queue);
        }
    }

    fn bind(&mut self, socket: Bound, receive: bool) {
        let index = self.ports.free_socket();
        if receive && let Err(error) = self.poller.add(&socket.port, Ready::Socket(index)) {
            tracing::error!(%error, "cannot watch a socket");
        }
        self.ports.bind(index, socket);
    }
}
