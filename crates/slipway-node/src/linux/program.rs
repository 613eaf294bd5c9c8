//! Programs of this machine, run by argument vectors and never longer than they may.

use crate::refusal::DriverError;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Where a program of the system's may lie; the environment's idea of it is not asked.
const FOLDERS: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];
/// As much of what a program says as is read.
const SAID_MAX: u64 = 64 << 10;
const LOOK: Duration = Duration::from_millis(5);

/// What a program came to.
#[derive(Debug)]
pub(super) struct Said {
    /// Its exit code; -1 when a signal ended it.
    pub(super) code: i32,
    /// What it said, errors last.
    pub(super) text: String,
}

impl Said {
    /// What it said in one line, or its exit code if it said nothing.
    pub(super) fn line(&self) -> String {
        let lines: Vec<&str> = self.text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        match lines.is_empty() {
            true => format!("exit code {}", self.code),
            false => lines.join("; ").chars().take(500).collect(),
        }
    }
}

/// Finds a program, or says which package has it.
pub(super) fn find(name: &str, package: &str) -> Result<PathBuf, DriverError> {
    let found = FOLDERS.iter().map(|folder| Path::new(folder).join(name)).find(|path| path.is_file());
    found.ok_or_else(|| {
        let text = format!("{name} is not installed in {}; install the package {package}", FOLDERS.join(", "));
        DriverError::other(name, text)
    })
}

/// Runs a program to its end. One that is still at it at `until` is killed.
pub(super) fn run(program: &Path, args: &[&str], until: Instant) -> Result<Said, DriverError> {
    let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let failed = |error: std::io::Error| DriverError::other(&name, format!("starting {}: {error}", program.display()));
    let mut child = Command::new(program)
        .args(args)
        .env_clear()
        .env("PATH", FOLDERS.join(":"))
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let said = (listen(child.stdout.take()), listen_errors(child.stderr.take()));
    let code = wait(&mut child, until);
    let Some(code) = code else {
        // A killed program's pipes end with it, unless it left a child with them: nobody waits for those.
        return Err(DriverError::timed_out(&name, format!("{name} {} took too long and was ended", args.join(" "))));
    };
    let mut text = said.0.join().unwrap_or_default();
    text.push_str(&said.1.join().unwrap_or_default());
    Ok(Said { code, text })
}

fn wait(child: &mut Child, until: Instant) -> Option<i32> {
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status.code().unwrap_or(-1));
        }
        if Instant::now() >= until {
            // That it has just ended is as good.
            let _ = child.kill();
            let _ = child.wait();
            return None;
        }
        std::thread::sleep(LOOK);
    }
}

fn listen(from: Option<ChildStdout>) -> JoinHandle<String> {
    std::thread::spawn(move || from.map(read).unwrap_or_default())
}

fn listen_errors(from: Option<ChildStderr>) -> JoinHandle<String> {
    std::thread::spawn(move || from.map(read).unwrap_or_default())
}

fn read(mut from: impl Read) -> String {
    let mut bytes = Vec::new();
    // What was read before an error is still of use; the rest is read so that the writer is not held up.
    let _ = from.by_ref().take(SAID_MAX).read_to_end(&mut bytes);
    let _ = std::io::copy(&mut from, &mut std::io::sink());
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Loads a kernel module if `there`, a path that it makes, does not exist.
pub(super) fn module_need(module: &str, there: &Path, until: Instant) -> Result<(), DriverError> {
    if there.exists() {
        return Ok(());
    }
    let said = run(&find("modprobe", "kmod")?, &["-q", module], until)?;
    if there.exists() {
        return Ok(());
    }
    let version = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    Err(DriverError::other(
        "modprobe",
        format!(
            "the kernel {} has no module {module}, or does not load it ({}); install the kernel's modules package",
            version.trim(),
            said.line()
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::{find, run};
    use std::time::{Duration, Instant};

    #[test]
    fn what_is_missing_is_named_with_its_package() {
        let error = find("no-such-program", "some-package").unwrap_err();
        assert!(error.to_string().contains("install the package some-package"), "{error}");
    }

    #[test]
    fn a_program_that_takes_too_long_is_ended() {
        let begun = Instant::now();
        let error = run(&find("sleep", "coreutils").unwrap(), &["60"], begun + Duration::from_millis(50)).unwrap_err();
        assert_eq!(error.error.errno.as_deref(), Some("ETIMEDOUT"));
        assert!(begun.elapsed() < Duration::from_secs(10));
        let said = run(&find("ls", "coreutils").unwrap(), &["/nonexistent"], begun + Duration::from_secs(60)).unwrap();
        assert!(said.code != 0 && said.line().contains("/nonexistent"), "{said:?}");
    }
}
