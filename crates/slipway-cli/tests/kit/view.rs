//! `slipway disk-view` as a process; unmounted when dropped, whatever happened.

use super::client::Client;
use super::{text, tool};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

pub struct View {
    pub at: PathBuf,
    log: PathBuf,
    child: Child,
}

impl View {
    /// Mounts one and waits until it says that it is there.
    pub fn start(client: &Client, at: &Path, more: &[&str]) -> Self {
        // One that a killed view left behind cannot even be looked at.
        let _ = std::fs::create_dir_all(at);
        let log = at.with_extension("view.log");
        let mut words = vec!["disk-view", text(at), "-o", "jsonl"];
        words.extend(more);
        let mut child = client
            .command(&words)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let view = Self { at: at.to_owned(), log, child };
        assert!(line.contains("mountpoint"), "the view did not start: {line}{}", view.log());
        view
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The file of a version.
    pub fn file(&self, image_id: &str, number: u64) -> PathBuf {
        self.at.join(image_id).join(format!("{number}.img"))
    }

    /// SIGTERM; gives how it ended.
    pub fn stop(mut self) -> ExitStatus {
        self.end().expect("the view ends within 15 s")
    }

    /// kill -9: the mount is left behind dead.
    pub fn kill(mut self) -> PathBuf {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let at = self.at.clone();
        std::mem::forget(self);
        at
    }

    fn end(&mut self) -> Option<ExitStatus> {
        if let Some(pid) = Pid::from_raw(self.child.id().cast_signed()) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(15) {
            if let Some(status) = self.child.try_wait().unwrap() {
                return Some(status);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        None
    }
}

impl Drop for View {
    fn drop(&mut self) {
        if self.end().is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        let _ = Command::new(tool("umount")).arg("-l").arg(&self.at).stderr(Stdio::null()).status();
        if std::thread::panicking() {
            eprintln!("--- what the view at {} said\n{}", self.at.display(), self.log());
        }
    }
}
