//! Programs inside machines, on the client's own descriptors. The protocol is described in `vnet_api::exec`.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, Path, Request, State};
use axum::http::StatusCode;
use axum::http::header::{CONNECTION, UPGRADE};
use axum::response::{IntoResponse, Response};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto::upgrade::downcast;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use vnet_api::exec::{READY, UPGRADE as PROTOCOL};
use vnet_api::{ExecEvent, ExecInput, ExecRequest};

use super::App;
use super::backend::{Answer, Backend, ExecFailure, Execution};
use super::descriptors::receive_stdio;
use super::error::ApiError;
use super::extract::Json;

/// How long a client may take to send its descriptors.
const DESCRIPTORS_WITHIN: Duration = Duration::from_secs(10);
/// How long a program whose client is gone may take to end after SIGHUP.
const GRACE: Duration = Duration::from_secs(2);
/// Longest line from a client, in bytes.
const LINE_BYTES_MAX: usize = 4096;

pub(crate) async fn exec<B: Backend>(
    State(app): State<Arc<App<B>>>,
    Path((lab, vm)): Path<(String, String)>,
    mut request: Request,
) -> Answer<Response> {
    let wants = request.headers().get(UPGRADE).and_then(|value| value.to_str().ok());
    if !wants.is_some_and(|value| value.eq_ignore_ascii_case(PROTOCOL)) {
        return Err(ApiError::bad_request(format!(
            "Ask with 'Connection: Upgrade' and 'Upgrade: {PROTOCOL}'."
        )));
    }
    let upgrade = hyper::upgrade::on(&mut request);
    let Json(program) = Json::<ExecRequest>::from_request(request, &()).await?;
    app.backend.check_machine(&lab, &vm).await?;
    tokio::spawn(async move {
        if let Err(error) = session(&app, &lab, &vm, program, upgrade).await {
            tracing::debug!(%lab, %vm, %error, "an exec session broke off");
        }
    });
    let headers = [(CONNECTION, "Upgrade"), (UPGRADE, PROTOCOL)];
    Ok((StatusCode::SWITCHING_PROTOCOLS, headers, Body::empty()).into_response())
}

fn unix_stream(upgraded: Upgraded) -> anyhow::Result<UnixStream> {
    let parts = downcast::<TokioIo<UnixStream>>(upgraded)
        .map_err(|_| anyhow::anyhow!("descriptors pass over a Unix socket only"))?;
    anyhow::ensure!(parts.read_buf.is_empty(), "the client spoke before its turn");
    Ok(parts.io.into_inner())
}

async fn session<B: Backend>(
    app: &App<B>,
    lab: &str,
    vm: &str,
    program: ExecRequest,
    upgrade: OnUpgrade,
) -> anyhow::Result<()> {
    let mut stream = unix_stream(upgrade.await?)?;
    // HTTP's reader is gone only now: descriptors that came earlier would have been lost in it.
    stream.write_all(READY.as_bytes()).await?;
    let stdio = tokio::time::timeout(DESCRIPTORS_WITHIN, receive_stdio(&stream)).await??;
    match app.backend.exec(lab, vm, program, stdio).await {
        Err(ExecFailure { code, message }) => send(&mut stream, &ExecEvent::Failed { code, message }).await?,
        Ok(execution) => attend(stream, execution).await?,
    }
    Ok(())
}

async fn send<W: AsyncWriteExt + Unpin>(writer: &mut W, event: &ExecEvent) -> anyhow::Result<()> {
    let mut line = serde_json::to_vec(event)?;
    line.push(b'\n');
    Ok(writer.write_all(&line).await?)
}

/// Passes signals on until the program ends; ends it when the client goes.
async fn attend(stream: UnixStream, mut execution: Execution) -> anyhow::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let started = send(&mut writer, &ExecEvent::Started { pid: execution.pid }).await;
    let mut inputs = Inputs { reader: BufReader::new(reader), line: Vec::new() };
    let mut client_is_there = started.is_ok();
    while client_is_there {
        tokio::select! {
            code = &mut execution.exit => {
                let code = code.unwrap_or(125);
                return send(&mut writer, &ExecEvent::Exited { code }).await;
            }
            input = inputs.next() => match input {
                Some(ExecInput::Signal(signal)) => {
                    // Fails only if the program has just ended; the loop's next turn sees that.
                    let _ = execution.signals.send(signal).await;
                }
                None => client_is_there = false,
            },
        }
    }
    let _ = execution.signals.send(libc::SIGHUP).await;
    if tokio::time::timeout(GRACE, &mut execution.exit).await.is_err() {
        let _ = execution.signals.send(libc::SIGKILL).await;
        let _ = execution.exit.await;
    }
    Ok(())
}

struct Inputs<R> {
    reader: BufReader<R>,
    line: Vec<u8>,
}

impl<R: tokio::io::AsyncRead + Unpin> Inputs<R> {
    /// The next input; `None` at the end, or at a line that is none. Cancelling loses nothing: what was read of a
    /// line stays in `line`.
    async fn next(&mut self) -> Option<ExecInput> {
        loop {
            let available = self.reader.fill_buf().await.ok().filter(|bytes| !bytes.is_empty())?;
            let end = available.iter().position(|byte| *byte == b'\n');
            let taken = end.map_or(available.len(), |end| end + 1);
            self.line.extend_from_slice(&available[..taken]);
            self.reader.consume(taken);
            if self.line.len() > LINE_BYTES_MAX {
                return None;
            }
            if end.is_some() {
                let input = serde_json::from_slice(&self.line).ok();
                self.line.clear();
                return input;
            }
        }
    }
}
