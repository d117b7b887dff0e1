//! Starting a daemon where none runs.

use std::fs::OpenOptions;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use tokio::time::Instant;

use crate::client::Client;

/// How long a daemon may take until it listens: it adopts labs before.
const READY_WITHIN: Duration = Duration::from_secs(30);
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(20);
/// How much of its log is shown when it does not start.
const LOG_BYTES_SHOWN: u64 = 2000;

/// The daemon beside this program, else the one in PATH.
pub(crate) fn program() -> PathBuf {
    let beside = std::env::current_exe().ok().and_then(|own| Some(own.parent()?.join("vnetd")));
    beside.filter(|path| path.is_file()).unwrap_or_else(|| PathBuf::from("vnetd"))
}

/// Starts a daemon that ends with its last lab, unless one listens already.
pub(crate) async fn ensure(client: &Client) -> anyhow::Result<()> {
    if client.is_served().await {
        return Ok(());
    }
    let socket = client.socket();
    let log = socket.with_extension("log");
    let mut child = spawn(socket, &log)?;
    let deadline = Instant::now() + READY_WITHIN;
    while !client.is_served().await {
        if let Some(status) = child.try_wait()? {
            bail!("vnetd did not start ({status}):\n{}", tail(&log));
        }
        if Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            bail!("vnetd does not listen after {} s:\n{}", READY_WITHIN.as_secs(), tail(&log));
        }
        tokio::time::sleep(LOOK_AGAIN_AFTER).await;
    }
    Ok(())
}

fn spawn(socket: &Path, log: &Path) -> anyhow::Result<Child> {
    if let Some(directory) = socket.parent() {
        std::fs::create_dir_all(directory).map_err(|error| not_allowed(error, "make", directory))?;
    }
    let file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(log);
    let file = file.map_err(|error| not_allowed(error, "write", log))?;
    let program = program();
    Command::new(&program)
        .arg("--socket")
        .arg(socket)
        .arg("--exit-with-last-lab")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(file)
        // A group of its own: the terminal's Ctrl-C is for vnetctl alone.
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot start {}", program.display()))
}

/// What could not be done, and where it is a matter of rights, who may.
fn not_allowed(error: io::Error, action: &str, path: &Path) -> anyhow::Error {
    let forbidden = error.kind() == io::ErrorKind::PermissionDenied;
    let hint =
        if forbidden { "; labs need root: use sudo, or --socket with a daemon that root runs" } else { "" };
    anyhow!("no daemon runs, and none can be started: cannot {action} {}: {error}{hint}", path.display())
}

fn tail(log: &Path) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = std::fs::File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_BYTES_SHOWN)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned())
    };
    read().ok().filter(|text| !text.is_empty()).unwrap_or_else(|| "it left no log".to_owned())
}
