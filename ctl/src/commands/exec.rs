//! `exec`, `shell`: a program inside a machine, on this terminal's own descriptors.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};

use anyhow::{Context as _, anyhow};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Interest};
use tokio::net::UnixStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use vnet_api::exec::READY;
use vnet_api::{ExecEvent, ExecInput, ExecRequest};

use crate::client::segment;
use crate::context::Context;
use crate::failure::{EXEC_FAILED, Failure};
use crate::terminal::Terminal;

#[derive(Debug, clap::Args)]
pub(crate) struct Exec {
    /// The machine: a VM, an on-premises host, an internet host, or a site with an external VPN device.
    vm: String,
    /// The program and its arguments.
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Shell {
    /// The machine.
    vm: String,
}

impl Exec {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<u8> {
        run(context, &self.vm, self.command).await
    }
}

impl Shell {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<u8> {
        let shell = std::env::var("SHELL").ok().filter(|path| std::path::Path::new(path).is_file());
        run(context, &self.vm, vec![shell.unwrap_or_else(|| "/bin/sh".to_owned())]).await
    }
}

async fn run(context: &Context, vm: &str, command: Vec<String>) -> anyhow::Result<u8> {
    // A program on a terminal gets one of its own: it cannot be in the session that this terminal belongs to.
    let outcome = match Terminal::open() {
        Ok(terminal) => attend(context, vm, command, terminal).await,
        Err(error) => Err(error),
    };
    outcome.map_err(|error| Failure::with_code(EXEC_FAILED, error))
}

async fn attend(
    context: &Context,
    vm: &str,
    command: Vec<String>,
    terminal: Option<Terminal>,
) -> anyhow::Result<u8> {
    let request = ExecRequest {
        command,
        environment: environment(),
        directory: std::env::current_dir().ok().and_then(|path| path.into_os_string().into_string().ok()),
        terminal: terminal.is_some(),
    };
    let path = context.lab_path(&format!("/machines/{}/exec", segment(vm))).await?;
    let (stream, early) = context.client.upgrade(&path, &request).await?;
    let mut stream = BufReader::new(stream);
    let mut greeting = String::from_utf8(early.to_vec())?;
    if greeting.is_empty() {
        stream.read_line(&mut greeting).await?;
    }
    anyhow::ensure!(greeting == READY, "vnetd does not take the descriptors");
    let pumped = match terminal {
        Some(terminal) => {
            let slave = terminal.slave();
            send_descriptors(stream.get_ref(), [slave, slave, slave]).await?;
            Some(terminal.pump()?)
        }
        None => {
            let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
            send_descriptors(stream.get_ref(), [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()]).await?;
            None
        }
    };
    let end = wait(stream).await;
    if let Some(pumped) = pumped {
        pumped.finish();
    }
    match end? {
        ExecEvent::Failed { code, message } => {
            let code = u8::try_from(code).unwrap_or(EXEC_FAILED);
            Err(Failure::with_code(code, anyhow!("{message}")))
        }
        // As a shell's, an exit code has eight bits.
        ExecEvent::Exited { code } => Ok((code & 0xff) as u8),
        ExecEvent::Started { .. } => Err(anyhow!("vnetd starts a program twice")),
    }
}

/// This program's environment, but for what JSON cannot carry.
fn environment() -> BTreeMap<String, String> {
    let pairs = std::env::vars_os();
    pairs.filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))).collect()
}

async fn send_descriptors(stream: &UnixStream, descriptors: [BorrowedFd<'_>; 3]) -> anyhow::Result<()> {
    let send = || {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
            return Err(std::io::Error::other("there is no room for three descriptors"));
        }
        rustix::net::sendmsg(stream, &[IoSlice::new(b"\n")], &mut control, SendFlags::NOSIGNAL)?;
        Ok(())
    };
    stream.async_io(Interest::WRITABLE, send).await.context("the descriptors cannot be sent")
}

/// Passes signals on until the program has ended.
async fn wait(mut stream: BufReader<UnixStream>) -> anyhow::Result<ExecEvent> {
    let mut signals = forwarded_signals()?;
    let mut line = Vec::new();
    loop {
        tokio::select! {
            read = stream.read_until(b'\n', &mut line) => {
                anyhow::ensure!(read? > 0, "vnetd broke the connection off; the program ends with it");
                let event: ExecEvent = serde_json::from_slice(&line)?;
                line.clear();
                if !matches!(event, ExecEvent::Started { .. }) {
                    return Ok(event);
                }
            }
            Some(number) = signals.recv() => {
                let mut input = serde_json::to_vec(&ExecInput::Signal(number))?;
                input.push(b'\n');
                stream.get_mut().write_all(&input).await?;
            }
        }
    }
}

fn forwarded_signals() -> anyhow::Result<mpsc::Receiver<i32>> {
    let (sender, receiver) = mpsc::channel(8);
    let kinds = [
        SignalKind::hangup(),
        SignalKind::interrupt(),
        SignalKind::quit(),
        SignalKind::terminate(),
        SignalKind::user_defined1(),
        SignalKind::user_defined2(),
    ];
    for kind in kinds {
        let mut signal = signal(kind)?;
        let sender = sender.clone();
        tokio::spawn(async move {
            while signal.recv().await.is_some() {
                if sender.send(kind.as_raw_value()).await.is_err() {
                    return;
                }
            }
        });
    }
    Ok(receiver)
}
