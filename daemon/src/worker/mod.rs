//! Run to completion: a thread that drains a ready device, decides, writes, and takes the next one.
//!
//! Each lab has its workers; worker i owns queue i of every device, so that a flow stays on one core. Nothing on
//! this way allocates, takes a channel or knows of tokio.

mod clock;
mod io;
mod poller;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use vnet_dataplane::{Nanos, PortId, TunnelId};
use vnet_gateway::ConnectionStatus;
use vnet_router::{Ledger, Router};

pub use clock::monotonic;

use crate::io::tun::{FRAME_BYTES_MAX, TunQueue};
use crate::io::udp::UdpPort;
use io::{Bound, Ports};
use poller::{Poller, Ready, Waker};

/// Frames taken from one device before the next one has its turn.
const BUDGET_FRAMES: usize = 64;

/// A question or a change, run by the worker between two batches.
type Task = Box<dyn FnOnce(&mut Router, Nanos) + Send>;

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

/// How busy a worker is.
#[derive(Debug, Default)]
pub struct WorkerStats {
    /// Time spent outside of waiting, in nanoseconds.
    pub busy_ns: AtomicU64,
    /// Batches: wake-ups with something to do.
    pub batches: AtomicU64,
}

/// A running worker. Dropping it stops the thread and closes its queues; devices stay.
#[derive(Debug)]
pub struct Worker {
    commands: mpsc::Sender<Command>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
    /// What it has counted.
    pub ledger: Arc<Ledger>,
    /// How busy it is.
    pub stats: Arc<WorkerStats>,
}

impl Worker {
    /// Starts a thread of this name that runs `router` for `lab` and reports what becomes of tunnels.
    ///
    /// # Errors
    /// The kernel gives no epoll instance, event descriptor or thread.
    pub fn start(
        lab: &str,
        name: &str,
        router: Router,
        changes: mpsc::Sender<TunnelChange>,
    ) -> std::io::Result<Worker> {
        let (commands, inbox) = mpsc::channel();
        let poller = Poller::new()?;
        let waker = poller.waker();
        let ledger = Arc::clone(router.ledger());
        let stats = Arc::new(WorkerStats::default());
        let mut state = Loop {
            router,
            ports: Ports::new(lab, changes),
            poller,
            inbox,
            stats: Arc::clone(&stats),
            frame: vec![0; FRAME_BYTES_MAX].into_boxed_slice(),
            stopped: false,
        };
        let thread =
            std::thread::Builder::new().name(name.chars().take(15).collect()).spawn(move || state.run())?;
        Ok(Worker { commands, waker, thread: Some(thread), ledger, stats })
    }

    fn command(&self, command: Command) {
        // A worker that is gone has stopped the lab with it: its caller sees that by the missing answer.
        if self.commands.send(command).is_ok() {
            self.waker.wake();
        }
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

    /// Ends the worker's thread soon; its queues and sockets are closed with it.
    pub fn stop(&self) {
        self.command(Command::Stop);
    }

    /// Runs `task` on the worker's thread and returns its answer; `None` if the worker has stopped.
    pub fn ask<T: Send + 'static>(
        &self,
        task: impl FnOnce(&mut Router, Nanos) -> T + Send + 'static,
    ) -> Option<T> {
        let (answer, receive) = mpsc::sync_channel(1);
        self.command(Command::Task(Box::new(move |router, now| {
            // The asker may have given up; then nobody wants the answer.
            let _ = answer.send(task(router, now));
        })));
        receive.recv_timeout(Duration::from_secs(10)).ok()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.command(Command::Stop);
        if let Some(thread) = self.thread.take() {
            // A panic of the worker has been reported by its thread already.
            let _ = thread.join();
        }
    }
}

struct Loop {
    router: Router,
    ports: Ports,
    poller: Poller,
    inbox: mpsc::Receiver<Command>,
    stats: Arc<WorkerStats>,
    frame: Box<[u8]>,
    stopped: bool,
}

impl Loop {
    fn run(&mut self) {
        while !self.stopped {
            let now = monotonic();
            let timeout = self.router.next_timeout().map(|at| at.since(now));
            if let Err(error) = self.poller.wait(timeout) {
                tracing::error!(%error, "the worker cannot wait for its devices");
                return;
            }
            let began = monotonic();
            self.router.begin();
            self.batch(began);
            self.router.poll_output(monotonic(), &mut self.ports);
            let busy = monotonic().since(began).as_nanos() as u64;
            self.stats.busy_ns.store(self.stats.busy_ns.load(Ordering::Relaxed) + busy, Ordering::Relaxed);
            self.stats.batches.store(self.stats.batches.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        }
    }

    fn batch(&mut self, now: Nanos) {
        for index in 0..self.poller.ready_len() {
            match self.poller.ready(index) {
                Ready::Wake => self.take_commands(now),
                Ready::Port(port) => self.drain(port, now),
                Ready::Socket(index) => self.receive(index, now),
            }
        }
    }

    fn drain(&mut self, port: PortId, now: Nanos) {
        for _ in 0..BUDGET_FRAMES {
            let Some(queue) = self.ports.queue(port) else { return };
            match queue.read(&mut self.frame) {
                Ok(Some(length)) => self.router.input(port, &mut self.frame[..length], now, &mut self.ports),
                Ok(None) => return,
                Err(error) => {
                    tracing::warn!(port = port.0, %error, "a device is gone");
                    self.detach(port);
                    return;
                }
            }
        }
    }

    fn receive(&mut self, index: usize, now: Nanos) {
        self.ports.receive(index, &mut self.router, now);
    }

    fn take_commands(&mut self, now: Nanos) {
        self.poller.acknowledge();
        while let Ok(command) = self.inbox.try_recv() {
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
                Command::Task(task) => task(&mut self.router, now),
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
