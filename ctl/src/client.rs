//! HTTP over the daemon's Unix socket.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, UPGRADE};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use vnet_api::ErrorBody;
use vnet_api::exec::UPGRADE as EXEC_PROTOCOL;

/// A daemon, asked over one connection a request.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    socket: PathBuf,
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

/// A text as one segment of a path, or as a value in a query (RFC 3986, 2.1).
pub(crate) fn segment(text: &str) -> String {
    text.bytes()
        .map(|byte| if is_unreserved(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// A query string of those pairs that have a value.
pub(crate) fn query<'a>(pairs: impl IntoIterator<Item = (&'a str, Option<String>)>) -> String {
    let pairs: Vec<String> =
        pairs.into_iter().filter_map(|(name, value)| Some(format!("{name}={}", segment(&value?)))).collect();
    if pairs.is_empty() { String::new() } else { format!("?{}", pairs.join("&")) }
}

impl Client {
    pub(crate) fn new(socket: PathBuf) -> Client {
        Client { socket }
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Whether a daemon listens. A socket that may not be used counts: starting another daemon would not help.
    pub(crate) async fn is_served(&self) -> bool {
        match UnixStream::connect(&self.socket).await {
            Ok(_) => true,
            Err(error) => error.kind() == io::ErrorKind::PermissionDenied,
        }
    }

    async fn connect(&self) -> anyhow::Result<UnixStream> {
        UnixStream::connect(&self.socket).await.map_err(|error| {
            let path = self.socket.display();
            match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    anyhow!("no vnetd listens on {path}; 'vnetctl up FILE' starts one")
                }
                io::ErrorKind::PermissionDenied => {
                    anyhow!("{path} may not be used: join the group vnetd, or use sudo")
                }
                _ => anyhow!(error).context(format!("cannot reach vnetd on {path}")),
            }
        })
    }

    async fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
        upgrade: bool,
    ) -> anyhow::Result<Response<Incoming>> {
        let stream = self.connect().await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection.with_upgrades());
        let mut request = Request::builder().method(method).uri(path).header(HOST, "vnetd");
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        if upgrade {
            request = request.header(CONNECTION, "Upgrade").header(UPGRADE, EXEC_PROTOCOL);
        }
        let request = request.body(Full::<Bytes>::from(body.unwrap_or_default()))?;
        let response = sender.send_request(request).await.context("vnetd broke the connection off")?;
        if response.status().is_success() || response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(response);
        }
        let status = response.status();
        let bytes = response.into_body().collect().await?.to_bytes();
        match serde_json::from_slice::<ErrorBody>(&bytes) {
            Ok(body) => Err(anyhow::Error::new(body)),
            Err(_) => bail!("vnetd answers {status}"),
        }
    }

    async fn whole<T: DeserializeOwned>(response: Response<Incoming>) -> anyhow::Result<T> {
        let bytes = response.into_body().collect().await.context("vnetd broke the answer off")?.to_bytes();
        serde_json::from_slice(&bytes).context("vnetd answers what this vnetctl does not understand")
    }

    /// Asks for data.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        Client::whole(self.request(Method::GET, path, None, false).await?).await
    }

    /// Sends data and waits for the answer.
    pub(crate) async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> anyhow::Result<T> {
        let body = serde_json::to_vec(body)?;
        Client::whole(self.request(method, path, Some(body), false).await?).await
    }

    /// Sends data and hands each line of the answer to `event` as it comes.
    pub(crate) async fn stream<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
        mut event: impl FnMut(T) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut answer = self.request(method, path, body, false).await?.into_body();
        let mut text: Vec<u8> = Vec::new();
        while let Some(frame) = answer.frame().await {
            let Ok(data) = frame.context("vnetd broke the answer off")?.into_data() else { continue };
            text.extend_from_slice(&data);
            while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = text.drain(..=end).collect();
                event(
                    serde_json::from_slice(&line)
                        .context("vnetd answers what this vnetctl does not understand")?,
                )?;
            }
        }
        anyhow::ensure!(text.is_empty(), "vnetd broke the answer off");
        Ok(())
    }

    /// Hands the answer's body to `take`, piece by piece as it comes.
    pub(crate) async fn pieces(
        &self,
        path: &str,
        mut take: impl FnMut(&[u8]) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut answer = self.request(Method::GET, path, None, false).await?.into_body();
        while let Some(frame) = answer.frame().await {
            if let Ok(data) = frame.context("vnetd broke the answer off")?.into_data() {
                take(&data)?;
            }
        }
        Ok(())
    }

    /// Asks for an upgrade to the exec protocol; answers the connection and what the daemon said first.
    pub(crate) async fn upgrade(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> anyhow::Result<(UnixStream, Bytes)> {
        let body = serde_json::to_vec(body)?;
        let response = self.request(Method::POST, path, Some(body), true).await?;
        anyhow::ensure!(
            response.status() == StatusCode::SWITCHING_PROTOCOLS,
            "vnetd does not know '{EXEC_PROTOCOL}'"
        );
        let upgraded = hyper::upgrade::on(response).await?;
        let parts = upgraded
            .downcast::<TokioIo<UnixStream>>()
            .map_err(|_| anyhow!("the connection is no Unix socket"))?;
        Ok((parts.io.into_inner(), parts.read_buf))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_survive_the_query() {
        assert_eq!(segment("web/eth0"), "web%2Feth0");
        let pairs = [("from", Some("tag:a b".to_owned())), ("port", None), ("to", Some("::1".to_owned()))];
        assert_eq!(query(pairs), "?from=tag%3Aa%20b&to=%3A%3A1");
        assert_eq!(query([("port", None)]), "");
    }
}
