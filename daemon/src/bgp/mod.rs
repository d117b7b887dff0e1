//! BGP of the gateways of all labs: one thread with its own epoll runs every speaker.
//!
//! A speaker's sockets are opened in the namespace of its gateway's instance, so that what it sends leaves by the instance's
//! device, is routed like any packet of the lab, and passes the tunnel. The speakers themselves are [`vnet_bgp`]'s, which
//! know neither sockets nor clock. A peer that sends garbage, reads nothing or floods costs its own session, and of the others
//! the time of one batch.

mod news;
mod run;
mod sockets;
mod speaker;

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};
use vnet_bgp::{PeerStatus, RouteRow};
use vnet_fabric::snapshot::BgpSpeaker;

use crate::host::netns::Netns;
pub use news::{Learned, News};
use run::{Loop, WAKE};

/// How long a question waits for its answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// A speaker that is to run, and where.
#[derive(Clone, Debug)]
pub struct SpeakerPlan {
    /// What it must know.
    pub spec: BgpSpeaker,
    /// The namespace of its gateway's instance.
    pub ns: Arc<Netns>,
}

/// What one instance's speaker knows.
#[derive(Clone, Debug)]
pub struct SpeakerView {
    /// Name of the gateway.
    pub gateway: String,
    /// Number of the instance.
    pub instance: u16,
    /// Its peers by address.
    pub peers: Vec<PeerStatus>,
    /// What it has chosen.
    pub learned: Vec<RouteRow>,
    /// What it has told each peer.
    pub advertised: Vec<(IpAddr, Vec<RouteRow>)>,
}

enum Command {
    /// The speakers of a lab, in place of those before; answered when sockets that went are closed.
    Set {
        lab: Arc<str>,
        plans: Vec<SpeakerPlan>,
        done: mpsc::SyncSender<()>,
    },
    /// Tell once more what the gateways of a lab have learned.
    Repeat(Arc<str>),
    /// What the speakers of a lab know; without routes if they are not wanted.
    View {
        lab: Arc<str>,
        routes: bool,
        answer: mpsc::SyncSender<Vec<SpeakerView>>,
    },
    Stop,
}

/// The thread that runs all speakers. Dropping it ends it.
#[derive(Debug)]
pub struct Bgp {
    commands: mpsc::Sender<Command>,
    wake: Arc<EventFd>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Bgp {
    /// Starts the thread; what gateways learn goes to `news`.
    ///
    /// # Errors
    /// The kernel gives no epoll instance, event descriptor or thread.
    pub fn start(news: News) -> std::io::Result<Bgp> {
        let (commands, inbox) = mpsc::channel();
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let wake = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?);
        epoll.add(wake.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, WAKE))?;
        let mut state = Loop::new(epoll, Arc::clone(&wake), inbox, news);
        let thread = std::thread::Builder::new().name("bgp".into()).spawn(move || state.run())?;
        Ok(Bgp { commands, wake, thread: Mutex::new(Some(thread)) })
    }

    fn command(&self, command: Command) {
        if self.commands.send(command).is_ok() {
            // A full counter means that a wake-up is pending already.
            let _ = self.wake.write(1);
        }
    }

    /// The speakers of a lab from now on. What may not go on is over when this returns, if `wait` says so.
    pub fn set(&self, lab: &str, plans: Vec<SpeakerPlan>, wait: bool) {
        let (done, over) = mpsc::sync_channel(1);
        self.command(Command::Set { lab: lab.into(), plans, done });
        if wait {
            let _ = over.recv_timeout(PATIENCE);
        }
    }

    /// Tells once more what the gateways of a lab have learned.
    pub fn repeat(&self, lab: &str) {
        self.command(Command::Repeat(lab.into()));
    }

    /// What the speakers of a lab know, by gateway and instance; without their routes where `routes` is not set.
    pub fn view(&self, lab: &str, routes: bool) -> Vec<SpeakerView> {
        let (answer, receive) = mpsc::sync_channel(1);
        self.command(Command::View { lab: lab.into(), routes, answer });
        receive.recv_timeout(PATIENCE).unwrap_or_default()
    }
}

impl Drop for Bgp {
    fn drop(&mut self) {
        self.command(Command::Stop);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // A panic has been reported by the thread already.
            let _ = thread.join();
        }
    }
}
