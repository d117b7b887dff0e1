//! The listeners: the API's Unix socket, and the metrics' TCP port.

use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use axum::Router;
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::{Gid, Group, chown};
use tokio::net::{TcpListener, UnixListener};
use vnet_api::{RUNTIME_SOCKET, SYSTEM_SOCKET};

/// The group that may use the socket, if the host has it.
const SOCKET_GROUP: &str = "vnetd";

/// The socket's path where nothing else is said: the system's for root, else below `XDG_RUNTIME_DIR`.
pub fn default_socket() -> PathBuf {
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(directory) if !nix::unistd::geteuid().is_root() => Path::new(&directory).join(RUNTIME_SOCKET),
        _ => PathBuf::from(SYSTEM_SOCKET),
    }
}

/// The API's socket, held by one daemon at a time.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
    /// Locked as long as this daemon lives, and by the kernel's hand no longer.
    _lock: Flock<File>,
}

impl Socket {
    /// Opens the socket with mode 0660 for the group `vnetd`, if there is one. A socket that a killed daemon left
    /// is replaced.
    ///
    /// # Errors
    /// Another daemon that listens there, or the file system's refusal.
    pub fn open(path: &Path) -> anyhow::Result<Socket> {
        let directory =
            path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
        let lock_path = path.with_extension("lock");
        let file = OpenOptions::new().create(true).write(true).truncate(false).mode(0o600).open(&lock_path);
        let file = file.with_context(|| format!("cannot open {}", lock_path.display()))?;
        let Ok(lock) = Flock::lock(file, FlockArg::LockExclusiveNonblock) else {
            bail!("another vnetd listens on {}", path.display());
        };
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot replace {}", path.display()));
            }
            _ => {}
        }
        let listener = bind_private(path).with_context(|| format!("cannot listen on {}", path.display()))?;
        Ok(Socket { listener, path: path.to_owned(), _lock: lock })
    }

    /// Serves until `stop` is done, then lets running requests end.
    ///
    /// # Errors
    /// The listener's own.
    pub async fn serve(
        self,
        router: Router,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<()> {
        let Socket { listener, path, _lock } = self;
        let served = axum::serve(listener, router).with_graceful_shutdown(stop).await;
        let _ = std::fs::remove_file(path);
        served
    }
}

/// Nobody can connect before the mode and the group are right: the socket is made under another name.
fn bind_private(path: &Path) -> io::Result<UnixListener> {
    let new = path.with_extension("new");
    let _ = std::fs::remove_file(&new);
    let listener = UnixListener::bind(&new)?;
    if let Some(group) = Group::from_name(SOCKET_GROUP).ok().flatten() {
        give_to_group(&new, group.gid);
    }
    std::fs::set_permissions(&new, Permissions::from_mode(0o660))?;
    std::fs::rename(&new, path)?;
    Ok(listener)
}

fn give_to_group(path: &Path, group: Gid) {
    if let Err(error) = chown(path, None, Some(group)) {
        tracing::warn!(%error, "the socket cannot be given to the group {SOCKET_GROUP}");
    }
}

/// Serves the metrics on TCP. A port that is taken is said and forgone: the socket has them too.
///
/// Answers the address that it listens on.
pub async fn serve_metrics(
    address: SocketAddr,
    router: Router,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Option<SocketAddr> {
    let listener = match TcpListener::bind(address).await {
        Ok(listener) => listener,
        Err(error) => {
            tracing::warn!(%address, %error, "metrics are not served there; the API's socket has them too");
            return None;
        }
    };
    let bound = listener.local_addr().ok();
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(stop).await {
            tracing::warn!(%error, "metrics are no longer served");
        }
    });
    bound
}
