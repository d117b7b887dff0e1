//! Programs that users start inside machines, and what the machines' own programs have printed.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use vnet_api::{ExecRequest, LogReport};

use super::lab::{Lab, Machine};
use crate::api::{Answer, ApiError, ExecFailure, Execution};
use crate::host::exec::{self, EXIT_OWN_FAILURE, ExecSpec, Launcher};

/// Signals that may wait for their delivery.
const SIGNALS_MAX: usize = 16;
/// Bytes of a machine's log that are shown: its end.
const LOG_BYTES_MAX: u64 = 4 << 20;

fn machine(lab: &Lab, name: &str) -> Answer<Machine> {
    let view = lab.view();
    let found = view.machines.get(name).cloned();
    found.ok_or_else(|| ApiError::not_among("machine", name, view.machines.keys()))
}

/// Whether programs can enter `name`.
pub(super) fn check(lab: &Lab, name: &str) -> Answer<()> {
    machine(lab, name).map(|_| ())
}

/// The end of what a machine's `run:` commands printed.
pub(super) fn logs(lab: &Lab, name: &str) -> Answer<LogReport> {
    use std::io::{Read, Seek, SeekFrom};
    let path = machine(lab, name)?.log;
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = std::fs::File::open(&path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_BYTES_MAX)))?;
        let mut text = Vec::new();
        file.take(LOG_BYTES_MAX).read_to_end(&mut text)?;
        Ok(text)
    };
    let bytes = match read() {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(ApiError::internal(format!("cannot read {}: {error}", path.display()))),
    };
    Ok(LogReport { vm: name.to_owned(), text: String::from_utf8_lossy(&bytes).into_owned() })
}

/// Starts a program, says so by `started`, and stays until it has ended.
pub(super) fn execute(
    lab: &Arc<Lab>,
    name: &str,
    request: ExecRequest,
    stdio: [OwnedFd; 3],
    started: oneshot::Sender<Result<Execution, ExecFailure>>,
) {
    let launched = machine(lab, name)
        .map_err(|error| ExecFailure { code: EXIT_OWN_FAILURE, message: error.to_string() })
        .and_then(|machine| {
            let gone =
                || ExecFailure { code: EXIT_OWN_FAILURE, message: "The lab is being taken down.".into() };
            lab.while_open(|| launch(&machine, name, request, stdio)).unwrap_or_else(|| Err(gone()))
        });
    let mut child = match launched {
        Ok(child) => child,
        Err(failure) => {
            let _ = started.send(Err(failure));
            return;
        }
    };
    let pid = child.pid();
    let (signals, mut wanted) = mpsc::channel(SIGNALS_MAX);
    let (ended, exit) = oneshot::channel();
    if started.send(Ok(Execution { pid, signals, exit })).is_err() {
        // The client is gone before its program ran: nobody would see what it does.
        let _ = child.signal_group(libc::SIGHUP);
    }
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // The sender is dropped when the client goes or the program has ended.
            while let Some(signal) = wanted.blocking_recv() {
                if let Err(error) = exec::signal_group(pid, signal) {
                    tracing::debug!(pid, signal, %error, "a signal was not delivered");
                }
            }
        });
        let code = child.wait().unwrap_or_else(|error| {
            tracing::error!(pid, %error, "a program's end was not seen");
            EXIT_OWN_FAILURE
        });
        let _ = ended.send(code);
    });
}

fn launch(
    machine: &Machine,
    name: &str,
    request: ExecRequest,
    stdio: [OwnedFd; 3],
) -> Result<exec::Child, ExecFailure> {
    let mut env = request.environment;
    env.insert("HOSTNAME".to_owned(), name.to_owned());
    let backing = machine
        .backing
        .backing()
        .map_err(|error| ExecFailure { code: EXIT_OWN_FAILURE, message: error.to_string() })?;
    let spec = ExecSpec {
        ns: &machine.ns,
        backing: &backing,
        hostname: name,
        argv: request.command,
        env,
        cwd: request.directory.map(PathBuf::from),
        user: None,
        stdio,
        terminal: request.terminal,
    };
    Launcher::default().spawn(spec).map_err(|error| ExecFailure { code: error.code, message: error.message })
}
