//! tcpdump in a namespace, into the scene's folder.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use crate::process::{self, Running};
use crate::wait::PATIENCE;

/// A running capture.
pub struct Capture {
    file: PathBuf,
    running: Running,
}

impl Capture {
    /// Starts one on an interface of a namespace (`any` for all) and returns when it listens.
    ///
    /// # Errors
    /// tcpdump does not start.
    pub fn start(namespace: &str, interface: &str, filter: &str, file: &Path) -> Result<Capture> {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", namespace, "tcpdump", "-i", interface, "-s", "0", "-U", "-n"])
            // As root it would change to a user who cannot write there.
            .args(["--immediate-mode", "-Z", "root", "-w"])
            .arg(file)
            .arg(filter);
        let mut running = Running::start(&mut command)?;
        running.wait_for("listening on", PATIENCE)?;
        Ok(Capture { file: file.to_owned(), running })
    }

    /// Ends it and gives what it took.
    ///
    /// # Errors
    /// tcpdump does not end.
    pub fn stop(self) -> Result<Captured> {
        self.running.stop(Signal::SIGINT, PATIENCE)?;
        Ok(Captured { file: self.file })
    }
}

/// A capture file.
pub struct Captured {
    file: PathBuf,
}

impl Captured {
    /// The packets that match a filter, one line each as tcpdump prints them.
    ///
    /// # Errors
    /// tcpdump cannot read the file, or refuses the filter.
    pub fn packets(&self, filter: &str) -> Result<Vec<String>> {
        // With -v a packet takes several lines: continuations are indented.
        let text = self.text(filter)?;
        Ok(text.lines().filter(|line| !line.starts_with(char::is_whitespace)).map(str::to_owned).collect())
    }

    /// What tcpdump prints of the packets that match a filter.
    ///
    /// # Errors
    /// tcpdump cannot read the file, or refuses the filter.
    pub fn text(&self, filter: &str) -> Result<String> {
        let mut command = Command::new("tcpdump");
        command.args(["-n", "-v", "-r"]).arg(&self.file).arg(filter);
        Ok(process::output(&mut command, Duration::from_secs(60))?.ok()?.stdout)
    }

    /// When each packet arrived, in seconds since 1970.
    ///
    /// # Errors
    /// tcpdump cannot read the file, or prints something else.
    pub fn times(&self) -> Result<Vec<f64>> {
        let mut command = Command::new("tcpdump");
        command.args(["-n", "-tt", "-r"]).arg(&self.file);
        let text = process::output(&mut command, Duration::from_secs(60))?.ok()?.stdout;
        text.lines()
            .map(|line| {
                let time = line.split(' ').next().unwrap_or_default();
                time.parse().with_context(|| format!("no time in {line:?}"))
            })
            .collect()
    }

    /// How many packets match a filter.
    ///
    /// # Errors
    /// As [`Captured::packets`].
    pub fn count(&self, filter: &str) -> Result<usize> {
        Ok(self.packets(filter)?.len())
    }

    /// The payloads of all UDP datagrams over IPv4 of a capture on an Ethernet device, in their order.
    ///
    /// # Errors
    /// The file cannot be read, or is of another link type.
    pub fn datagrams(&self) -> Result<Vec<Vec<u8>>> {
        let content = std::fs::read(&self.file).with_context(|| self.file.display().to_string())?;
        payloads(&content).with_context(|| format!("{} is no capture of Ethernet", self.file.display()))
    }

    /// Whether these bytes occur anywhere in it.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn contains(&self, bytes: &[u8]) -> Result<bool> {
        let content = std::fs::read(&self.file).with_context(|| self.file.display().to_string())?;
        Ok(content.windows(bytes.len()).any(|window| window == bytes))
    }
}

/// UDP payloads in a classic pcap file of Ethernet frames (link type 1), written on a machine of this byte order.
fn payloads(pcap: &[u8]) -> Option<Vec<Vec<u8>>> {
    const ETHERNET: usize = 14;
    const UDP: usize = 8;
    let word = |at: usize| Some(u32::from_ne_bytes(pcap.get(at..at + 4)?.try_into().ok()?));
    if word(20)? != 1 {
        return None;
    }
    let (mut payloads, mut at) = (Vec::new(), 24);
    while let Some(captured_bytes) = word(at + 8) {
        let frame = pcap.get(at + 16..at + 16 + captured_bytes as usize)?;
        at += 16 + captured_bytes as usize;
        let (Some([0x08, 0x00]), Some(version)) = (frame.get(12..14), frame.get(ETHERNET)) else { continue };
        let header = usize::from(version & 0x0f) * 4;
        if frame.get(ETHERNET + 9) == Some(&17) {
            payloads.extend(frame.get(ETHERNET + header + UDP..).map(<[u8]>::to_vec));
        }
    }
    Some(payloads)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_payloads_of_datagrams_alone() {
        let frame = |protocol: u8, payload: &[u8]| {
            let mut frame = vec![0; 12];
            frame.extend([0x08, 0x00, 0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol]);
            frame.extend([0; 10 + 8]);
            frame.extend(payload);
            frame
        };
        let mut pcap = vec![0; 20];
        pcap.extend(1_u32.to_ne_bytes());
        for frame in [frame(17, b"first"), frame(6, b"not udp"), frame(17, b"second")] {
            pcap.extend([0; 8]);
            pcap.extend((frame.len() as u32).to_ne_bytes());
            pcap.extend((frame.len() as u32).to_ne_bytes());
            pcap.extend(frame);
        }
        assert_eq!(payloads(&pcap), Some(vec![b"first".to_vec(), b"second".to_vec()]));
        pcap[20] = 113;
        assert_eq!(payloads(&pcap), None);
    }
}
