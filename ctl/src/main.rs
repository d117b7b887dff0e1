//! vnetctl: the command line of vnetd.

fn main() -> std::process::ExitCode {
    vnetctl::main(std::env::args_os())
}
