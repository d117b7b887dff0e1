//! `capture`: packets with their verdicts, as a pcapng file.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;

use anyhow::Context as _;

use crate::client::query;
use crate::context::Context;
use crate::failure::Failure;

/// Packets of a machine or a link, each with what became of it as its comment.
///
/// Every packet is seen where the lab's router takes or delivers it: super-packets are whole, as the machines' kernels
/// sent them. While a capture runs, the flows that it sees pass the daemon, and the kernel carries none of them.
#[derive(Debug, clap::Args)]
pub(crate) struct Capture {
    /// A VM, a NIC as VM/NIC, a peering as NETWORK/NETWORK, or a connection.
    #[arg(value_name = "VM|LINK")]
    target: String,
    /// The pcapng file; `-` is standard output, as for `wireshark -k -i -`.
    #[arg(short = 'w', long = "write", value_name = "FILE", default_value = "capture.pcapng")]
    write: PathBuf,
    /// End after so many packets.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// End after so many seconds.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    seconds: Option<u64>,
}

impl Capture {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<u8> {
        let to_stdout = self.write.as_os_str() == "-";
        if to_stdout && io::stdout().is_terminal() {
            return Err(Failure::usage("a capture is binary: pipe it into a program, or give it a file"));
        }
        let query = query([
            ("target", Some(self.target)),
            ("count", self.count.map(|count| count.to_string())),
            ("seconds", self.seconds.map(|seconds| seconds.to_string())),
        ]);
        let path = context.lab_path(&format!("/capture{query}")).await?;
        let mut file: Option<Box<dyn Write + Send>> = None;
        let mut written = 0;
        let pieces = context.client.pieces(&path, |piece| {
            // A refused capture leaves a former file as it is.
            let file = match &mut file {
                Some(file) => file,
                None if to_stdout => file.insert(Box::new(io::stdout())),
                None => {
                    let create = || format!("cannot write {}", self.write.display());
                    file.insert(Box::new(File::create(&self.write).with_context(create)?))
                }
            };
            file.write_all(piece).and_then(|()| file.flush()).context("cannot write the capture")?;
            written += piece.len();
            Ok(())
        });
        let outcome = tokio::select! {
            outcome = pieces => outcome,
            _ = tokio::signal::ctrl_c() => Ok(()),
        };
        match outcome {
            // The program that reads has seen enough.
            Err(error) if is_broken_pipe(&error) => Ok(0),
            Err(error) => Err(error),
            Ok(()) => {
                if !to_stdout {
                    crate::output::tell(format_args!("{written} bytes in {}", self.write.display()));
                }
                Ok(0)
            }
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
