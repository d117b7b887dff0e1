//! Compiles the kernel's half of the offload, where there is a clang that can.
//!
//! Without one the daemon is built all the same, knows that it lacks the program, and forwards everything itself.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

const SOURCE: &str = "bpf/offload.bpf.c";

fn main() {
    println!("cargo::rustc-check-cfg=cfg(offload_program)");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={SOURCE}");
    println!("cargo::rerun-if-env-changed=CLANG");
    println!("cargo::rerun-if-env-changed=PATH");
    let Some(clang) = find_clang() else {
        println!("cargo::warning=no clang: vnetd is built without its kernel offload");
        return;
    };
    println!("cargo::rerun-if-changed={}", clang.display());
    // Cargo sets OUT_DIR for every build script.
    let object = PathBuf::from(env::var_os("OUT_DIR").expect("OUT_DIR is set")).join("offload.bpf.o");
    match compile(&clang, &object) {
        Ok(()) => println!("cargo::rustc-cfg=offload_program"),
        Err(why) => {
            println!("cargo::warning={} cannot compile {SOURCE}: {why}", clang.display());
            println!("cargo::warning=vnetd is built without its kernel offload");
        }
    }
}

/// The compiler that CLANG names, or the first one on the path. Where there is none, the folders of the path are watched, so
/// that it is used as soon as it is installed.
fn find_clang() -> Option<PathBuf> {
    if let Some(named) = env::var_os("CLANG") {
        return Some(PathBuf::from(named));
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = env::split_paths(&path).filter(|folder| folder.is_dir()).collect();
    let found = folders.iter().map(|folder| folder.join("clang")).find(|program| program.is_file());
    if found.is_none() {
        let system = |folder: &&PathBuf| folder.starts_with("/usr") || folder.starts_with("/bin");
        for folder in folders.iter().filter(system) {
            println!("cargo::rerun-if-changed={}", folder.display());
        }
    }
    found
}

fn compile(clang: &Path, object: &Path) -> Result<(), String> {
    let big = env::var("CARGO_CFG_TARGET_ENDIAN").is_ok_and(|endian| endian == "big");
    let machine = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    let mut command = Command::new(clang);
    command.args([
        "-O2",
        "-g",
        "-mcpu=v3",
        "-Wall",
        "-Werror",
        "-target",
        if big { "bpfeb" } else { "bpfel" },
    ]);
    // Debian keeps the kernel's <asm/types.h> in a folder of the architecture, which the target bpf does not look into.
    command.arg("-idirafter").arg(format!("/usr/include/{machine}-linux-gnu"));
    command.args(["-c", SOURCE, "-o"]).arg(object);
    // Where the sources lie is nobody's business: the same source gives the same program.
    let folder = env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    command.arg(format!("-ffile-prefix-map={folder}=."));
    let output = command.output().map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(said.lines().find(|line| line.contains("error")).unwrap_or("it gave no reason").to_owned())
}
