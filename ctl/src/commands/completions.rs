//! `completions`: a shell's completion script.

use crate::context::say;

#[derive(Debug, clap::Args)]
pub(crate) struct Completions {
    /// The shell.
    shell: clap_complete::Shell,
}

impl Completions {
    pub(crate) fn run(self) -> anyhow::Result<u8> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut crate::command(), "vnetctl", &mut script);
        say(&String::from_utf8(script)?)?;
        Ok(0)
    }
}
