//! The worker's own epoll.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};
use vnet_dataplane::PortId;

/// Events taken by one wait.
const EVENTS_MAX: usize = 256;

const WAKE: u64 = u64::MAX;
const SOCKET_BIT: u64 = 1 << 32;

/// What has something to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ready {
    /// Commands wait.
    Wake,
    /// A device.
    Port(PortId),
    /// A socket, by its index.
    Socket(usize),
}

impl Ready {
    fn token(self) -> u64 {
        match self {
            Ready::Wake => WAKE,
            Ready::Port(port) => u64::from(port.0),
            Ready::Socket(index) => SOCKET_BIT | index as u64,
        }
    }

    fn from_token(token: u64) -> Ready {
        match token {
            WAKE => Ready::Wake,
            socket if socket & SOCKET_BIT != 0 => Ready::Socket((socket & !SOCKET_BIT) as usize),
            port => Ready::Port(PortId(port as u32)),
        }
    }
}

/// Ends a wait from another thread.
#[derive(Clone, Debug)]
pub(super) struct Waker(Arc<EventFd>);

impl Waker {
    pub(super) fn wake(&self) {
        // A full counter means that a wake-up is pending already.
        let _ = self.0.write(1);
    }
}

#[derive(Debug)]
pub(super) struct Poller {
    epoll: Epoll,
    wake: Arc<EventFd>,
    events: Box<[EpollEvent; EVENTS_MAX]>,
    ready: usize,
}

impl Poller {
    pub(super) fn new() -> io::Result<Poller> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let wake = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?);
        epoll.add(wake.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, WAKE))?;
        Ok(Poller { epoll, wake, events: Box::new([EpollEvent::empty(); EVENTS_MAX]), ready: 0 })
    }

    pub(super) fn waker(&self) -> Waker {
        Waker(Arc::clone(&self.wake))
    }

    pub(super) fn add(&self, source: &impl AsFd, ready: Ready) -> io::Result<()> {
        Ok(self.epoll.add(source, EpollEvent::new(EpollFlags::EPOLLIN, ready.token()))?)
    }

    pub(super) fn remove(&self, source: &impl AsFd) {
        // It is about to be closed, which removes it as well.
        let _ = self.epoll.delete(source);
    }

    /// Waits until something is ready or the time is over; for ever without a timeout. A wait that a signal
    /// ended counts as one in which nothing got ready.
    pub(super) fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let limit = timeout.map(|timeout| libc::timespec {
            tv_sec: timeout.as_secs() as libc::time_t,
            tv_nsec: timeout.subsec_nanos() as libc::c_long,
        });
        let limit = limit.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        // SAFETY: the events lie in an array of EVENTS_MAX elements whose type is a transparent wrapper of
        // epoll_event; the time limit is null or points to a timespec that outlives the call.
        let count = unsafe {
            libc::epoll_pwait2(
                self.epoll.0.as_raw_fd(),
                self.events.as_mut_ptr().cast::<libc::epoll_event>(),
                EVENTS_MAX as libc::c_int,
                limit,
                std::ptr::null(),
            )
        };
        self.ready = usize::try_from(count).unwrap_or(0);
        if count < 0 {
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
        Ok(())
    }

    pub(super) fn ready_len(&self) -> usize {
        self.ready
    }

    pub(super) fn ready(&self, index: usize) -> Ready {
        Ready::from_token(self.events[index].data())
    }

    /// Whether the kernel reports an error or a hang-up of it: where nothing can be read then, nothing ever will.
    pub(super) fn failed(&self, index: usize) -> bool {
        self.events[index].events().intersects(EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP)
    }

    /// Takes the wake-up, so that the next wait sleeps again.
    pub(super) fn acknowledge(&self) {
        let _ = self.wake.read();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_round_trip() {
        for ready in [Ready::Wake, Ready::Port(PortId(0)), Ready::Port(PortId(u32::MAX)), Ready::Socket(0)] {
            assert_eq!(Ready::from_token(ready.token()), ready);
        }
    }

    #[test]
    fn a_hang_up_is_told_from_data() {
        let mut poller = Poller::new().unwrap();
        let (read, write) = std::io::pipe().unwrap();
        poller.add(&read, Ready::Socket(3)).unwrap();
        std::io::Write::write_all(&mut &write, b"x").unwrap();
        poller.wait(None).unwrap();
        assert_eq!((poller.ready(0), poller.failed(0)), (Ready::Socket(3), false));
        drop(write);
        poller.wait(None).unwrap();
        assert!(poller.failed(0));
    }

    #[test]
    fn a_wake_up_ends_the_wait() {
        let mut poller = Poller::new().unwrap();
        poller.wait(Some(Duration::ZERO)).unwrap();
        assert_eq!(poller.ready_len(), 0);
        poller.waker().wake();
        poller.wait(None).unwrap();
        assert_eq!(poller.ready(0), Ready::Wake);
        poller.acknowledge();
        poller.wait(Some(Duration::ZERO)).unwrap();
        assert_eq!(poller.ready_len(), 0);
    }
}
