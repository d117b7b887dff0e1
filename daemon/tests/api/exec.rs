//! The exec protocol: descriptors, exit codes, signals.

use std::io::{IoSlice, Read, Write};
use std::os::fd::AsRawFd;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use crate::{Daemon, file};

struct Session {
    stream: BufReader<UnixStream>,
    output: std::io::PipeReader,
    input: Option<std::io::PipeWriter>,
}

impl Session {
    async fn open(daemon: &Daemon, command: Value) -> Session {
        let stream = UnixStream::connect(&daemon.socket).await.expect("the daemon listens");
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("HTTP/1.1");
        tokio::spawn(connection.with_upgrades());
        let request = Request::builder()
            .method(Method::POST)
            .uri("/v1/labs/hub/machines/web/exec")
            .header("host", "vnetd")
            .header("connection", "Upgrade")
            .header("upgrade", "vnetd-exec")
            .body(Full::<Bytes>::from(command.to_string()))
            .expect("a request");
        let response = sender.send_request(request).await.expect("an answer");
        assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
        let upgraded = hyper::upgrade::on(response).await.expect("an upgrade");
        let parts = upgraded.downcast::<TokioIo<UnixStream>>().expect("a Unix socket");
        let ready_early = parts.read_buf;
        let mut stream = BufReader::new(parts.io.into_inner());
        if ready_early.is_empty() {
            let mut line = String::new();
            stream.read_line(&mut line).await.expect("the daemon speaks first");
            assert_eq!(line, "ready\n");
        } else {
            assert_eq!(&ready_early[..], b"ready\n");
        }
        let (stdin, input) = std::io::pipe().expect("a pipe");
        let (output, stdout) = std::io::pipe().expect("a pipe");
        let descriptors = [stdin.as_raw_fd(), stdout.as_raw_fd(), stdout.as_raw_fd()];
        let socket = stream.get_ref();
        sendmsg::<()>(
            socket.as_raw_fd(),
            &[IoSlice::new(b"\n")],
            &[ControlMessage::ScmRights(&descriptors)],
            MsgFlags::empty(),
            None,
        )
        .expect("descriptors are sent");
        Session { stream, output, input: Some(input) }
    }

    async fn event(&mut self) -> Value {
        let mut line = String::new();
        let read = tokio::time::timeout(Duration::from_secs(10), self.stream.read_line(&mut line));
        read.await.expect("an event within ten seconds").expect("the daemon speaks");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error} in {line:?}"))
    }
}

async fn daemon() -> Daemon {
    let daemon = Daemon::start();
    daemon.lines(Method::PUT, "/v1/labs/hub", file("name: hub")).await;
    daemon
}

#[tokio::test]
async fn a_program_reads_and_writes_the_clients_descriptors() {
    let daemon = daemon().await;
    let command = json!({ "command": ["/bin/sh", "-c", "read line; echo \"$line $NAME\"; exit 7"],
                          "environment": { "NAME": "there" } });
    let mut session = Session::open(&daemon, command).await;
    session.input.take().expect("open").write_all(b"hello\n").expect("the program reads");
    assert!(session.event().await["started"]["pid"].as_u64().is_some_and(|pid| pid > 1));
    assert_eq!(session.event().await, json!({ "exited": { "code": 7 } }));
    let mut output = String::new();
    session.output.read_to_string(&mut output).expect("the program has closed its output");
    assert_eq!(output, "hello there\n");
}

#[tokio::test]
async fn a_signal_is_passed_on() {
    let daemon = daemon().await;
    let mut session = Session::open(&daemon, json!({ "command": ["/bin/sleep", "60"] })).await;
    session.event().await;
    session.stream.get_mut().write_all(b"{\"signal\":15}\n").await.expect("the daemon listens");
    assert_eq!(session.event().await, json!({ "exited": { "code": 128 + 15 } }));
}

#[tokio::test]
async fn a_program_ends_with_its_client() {
    let daemon = daemon().await;
    let mut session = Session::open(&daemon, json!({ "command": ["/bin/sleep", "60"] })).await;
    let pid = session.event().await["started"]["pid"].as_i64().expect("a process id");
    drop(session);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
    let process = nix::unistd::Pid::from_raw(pid as i32);
    while nix::sys::signal::kill(process, None).is_ok() {
        assert!(tokio::time::Instant::now() < deadline, "the program outlives its client");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn what_cannot_be_started_says_why() {
    let daemon = daemon().await;
    let mut session = Session::open(&daemon, json!({ "command": ["/no/such/program"] })).await;
    let event = session.event().await;
    assert_eq!(event["failed"]["code"], 127, "{event}");
    let (status, error) = {
        let path = "/v1/labs/hub/machines/nobody/exec";
        daemon.json(Method::POST, path, Some(json!({ "command": [] }))).await
    };
    assert_eq!(status, StatusCode::BAD_REQUEST, "{error}: no upgrade was asked for");
}
