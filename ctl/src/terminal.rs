//! A terminal for the program inside, held against the user's own.

use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc;
use std::time::Duration;

use nix::pty::{OpenptyResult, openpty};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use tokio::signal::unix::{SignalKind, signal};

/// How long output that the program left behind may take to arrive.
const DRAIN_WITHIN: Duration = Duration::from_secs(2);

/// A pseudo-terminal of the user's terminal's size and modes.
pub(crate) struct Terminal {
    master: OwnedFd,
    slave: OwnedFd,
    modes: Termios,
}

impl Terminal {
    /// One, if standard input and output both are a terminal; else the program gets the descriptors as they are.
    pub(crate) fn open() -> anyhow::Result<Option<Terminal>> {
        let (stdin, stdout) = (io::stdin(), io::stdout());
        if !stdin.is_terminal() || !stdout.is_terminal() {
            return Ok(None);
        }
        let modes = tcgetattr(stdin.as_fd())?;
        let OpenptyResult { master, slave } = openpty(None, Some(&modes))?;
        copy_size(master.as_fd());
        Ok(Some(Terminal { master, slave, modes }))
    }

    /// The program's end.
    pub(crate) fn slave(&self) -> BorrowedFd<'_> {
        self.slave.as_fd()
    }

    /// Sets the user's terminal raw and carries bytes both ways, and changes of its size.
    pub(crate) fn pump(self) -> anyhow::Result<Pump> {
        let Terminal { master, slave, modes } = self;
        // Once ours is closed, the program's end is the last one, and reading ends with the program.
        drop(slave);
        let guard = RawMode::enter(modes)?;
        let mut resized = signal(SignalKind::window_change())?;
        let sized = master.try_clone()?;
        tokio::spawn(async move {
            while resized.recv().await.is_some() {
                copy_size(sized.as_fd());
            }
        });
        let mut keyboard = std::fs::File::from(master.try_clone()?);
        std::thread::spawn(move || {
            let _ = copy(&mut io::stdin().lock(), &mut keyboard);
        });
        let mut screen = std::fs::File::from(master);
        let (done, drained) = mpsc::channel();
        std::thread::spawn(move || {
            let _ = copy(&mut screen, &mut io::stdout().lock());
            let _ = done.send(());
        });
        Ok(Pump { drained, _guard: guard })
    }
}

/// Bytes on their way; the user's terminal is raw.
pub(crate) struct Pump {
    drained: mpsc::Receiver<()>,
    _guard: RawMode,
}

impl Pump {
    /// Waits for the program's last output, and gives the user the terminal back.
    pub(crate) fn finish(self) {
        let _ = self.drained.recv_timeout(DRAIN_WITHIN);
    }
}

fn copy_size(master: BorrowedFd<'_>) {
    if let Ok(size) = rustix::termios::tcgetwinsize(io::stdout()) {
        // A terminal without a size keeps the default one.
        let _ = rustix::termios::tcsetwinsize(master, size);
    }
}

/// Unlike `io::copy`, shows each piece at once.
fn copy(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => {
                to.write_all(&buffer[..length])?;
                to.flush()?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // A pseudo-terminal whose other end is closed says so by EIO.
            Err(error) => return Err(error),
        }
    }
}

struct RawMode {
    before: Termios,
}

impl RawMode {
    fn enter(before: Termios) -> anyhow::Result<RawMode> {
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(io::stdin().as_fd(), SetArg::TCSADRAIN, &raw)?;
        Ok(RawMode { before })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin().as_fd(), SetArg::TCSADRAIN, &self.before);
    }
}
