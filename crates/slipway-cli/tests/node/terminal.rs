//! `exec -it` on a terminal that the test lends.

use super::house::signal_send;
use super::place::{Node, image};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

struct Terminal {
    master: File,
    slave: File,
    said: Arc<Mutex<String>>,
}

impl Terminal {
    fn new() -> Self {
        let master: OwnedFd = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
        let slave = OpenOptions::new().read(true).write(true).open(name).unwrap();
        let terminal = Self { master: File::from(master), slave, said: Arc::default() };
        terminal.resize(30, 100);
        let (mut from, said) = (terminal.master.try_clone().unwrap(), terminal.said.clone());
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(len @ 1..) = from.read(&mut buffer) {
                said.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..len]));
            }
        });
        terminal
    }

    fn resize(&self, rows: u16, columns: u16) {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.slave, size).unwrap();
    }

    fn spawn(&self, mut command: Command) -> Child {
        let side = || self.slave.try_clone().unwrap();
        command.env("TERM", "xterm").stdin(side()).stdout(side()).stderr(side());
        // Of a group of its own, so that the signals of this test are its alone.
        command.process_group(0).spawn().unwrap()
    }

    fn types(&self, keys: &str) {
        (&self.master).write_all(keys.as_bytes()).unwrap();
    }

    #[track_caller]
    fn sees(&self, words: &str) {
        let begun = Instant::now();
        while !self.said.lock().unwrap().contains(words) {
            assert!(
                begun.elapsed() < Duration::from_secs(20),
                "not seen: {words:?} in {:?}",
                self.said.lock().unwrap()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        self.said.lock().unwrap().clear();
    }

    /// Whether keys are shown and lines are edited, as shells leave it.
    fn is_cooked(&self) -> bool {
        tcgetattr(&self.slave).unwrap().local_modes.contains(LocalModes::ICANON | LocalModes::ECHO)
    }
}

#[test]
#[ignore = "needs root"]
fn root_exec_lends_its_terminal() {
    let node = Node::start();
    let image = image(&node.place, "root.sqfs");
    node.run(&["run", "-d", "--name", "web", &image, "/bin/sleep", "1000"]).expect(0);
    let terminal = Terminal::new();
    assert!(terminal.is_cooked());
    let mut child = terminal.spawn(node.command(&["exec", "-it", "web", "/bin/sh"]));
    terminal.sees("# ");
    assert!(!terminal.is_cooked(), "keys are not handed on one by one");
    terminal.types("tty; echo $TERM; stty size\r");
    terminal.sees("30 100");
    terminal.resize(40, 120);
    signal_send(child.id(), "WINCH");
    std::thread::sleep(Duration::from_millis(300));
    terminal.types("stty size\r");
    terminal.sees("40 120");
    // Ctrl-C is for the command in the container.
    terminal.types("sleep 100\r");
    std::thread::sleep(Duration::from_millis(300));
    terminal.types("\u{3}");
    terminal.types("echo still $((40+2))\r");
    terminal.sees("still 42");
    terminal.types("exit 5\r");
    assert_eq!(child.wait().unwrap().code(), Some(5));
    assert!(terminal.is_cooked(), "the terminal was left raw");

    // Whatever ends it, the terminal is as before: a signal, and a container that goes away under it.
    let mut child = terminal.spawn(node.command(&["exec", "-it", "web", "/bin/sh"]));
    terminal.sees("# ");
    signal_send(child.id(), "TERM");
    assert_eq!(child.wait().unwrap().code(), Some(143));
    assert!(terminal.is_cooked());
    let mut child = terminal.spawn(node.command(&["exec", "-it", "web", "/bin/sh"]));
    terminal.sees("# ");
    node.run(&["rm", "-f", "web"]).expect(0);
    assert_ne!(child.wait().unwrap().code(), Some(0));
    assert!(terminal.is_cooked());
    node.empty_wait();
}
