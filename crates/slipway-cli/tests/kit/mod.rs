//! What the tests of the whole share: real servers, real commands, images made from a seed, and an oracle that lives outside of both.

#![allow(dead_code, unreachable_pub, reason = "each test program uses its own part of the kit")]

pub mod base;
pub mod client;
pub mod database;
pub mod image;
pub mod loops;
pub mod noise;
pub mod oracle;
pub mod proxy;
pub mod s3;
pub mod samples;
pub mod server;
pub mod view;
pub mod writes;

use std::path::{Path, PathBuf};

/// All of it is wanted, not only a sample.
pub fn all() -> bool {
    std::env::var_os("SLIPWAY_TEST_ALL").is_some_and(|text| !text.is_empty() && text != "0")
}

/// The seed of this run: the one that `SLIPWAY_TEST_SEED` names, else one of the clock. It is printed, so that a failure can be run again.
pub fn seed(test: &str) -> u64 {
    let named = std::env::var("SLIPWAY_TEST_SEED").ok().and_then(|text| text.parse().ok());
    let seed = named.unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("the clock is past 1970");
        now.as_nanos() as u64 % 1_000_000_007
    });
    println!("{test}: SLIPWAY_TEST_SEED={seed}");
    seed
}

/// A program that may live where only an administrator's PATH looks.
pub fn tool(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|folder| folder.join(name))
        .find(|file| file.exists())
        .unwrap_or_else(|| panic!("{name} is not installed; 'cargo xtask test' names its package"))
}

/// Runs a program of the system that must succeed, and gives what it printed.
pub fn tool_run<S: AsRef<std::ffi::OsStr>>(name: &str, args: &[S]) -> String {
    let out = std::process::Command::new(tool(name)).args(args).stdin(std::process::Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    let args: Vec<_> = args.iter().map(|arg| arg.as_ref().to_string_lossy().into_owned()).collect();
    assert!(
        out.status.success(),
        "{name} {}: {}\n{said}{}",
        args.join(" "),
        out.status,
        String::from_utf8_lossy(&out.stderr)
    );
    said
}

/// Copies a folder with everything in it; files stay sparse.
pub fn folder_copy(from: &Path, to: &Path) {
    tool_run("cp", &["-a".as_ref(), "--sparse=always".as_ref(), "-T".as_ref(), from.as_os_str(), to.as_os_str()]);
}

/// The path as text; all paths of the tests are.
pub fn text(path: &Path) -> &str {
    path.to_str().expect("the paths of tests are UTF-8")
}
