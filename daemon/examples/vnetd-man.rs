//! Writes the man pages of vnetd into the folder that the argument names.

fn main() -> std::io::Result<()> {
    let folder = std::env::args_os().nth(1).unwrap_or_else(|| "man".into());
    std::fs::create_dir_all(&folder)?;
    clap_mangen::generate_to(<vnetd::arguments::Args as clap::CommandFactory>::command(), folder)
}
