//! A network between a guest and this machine: a network namespace of its own with a tap device in it, so that tests run beside each
//! other with the same addresses and nothing leaves. Needs root.

use crate::LabError;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// This machine, as the guest sees it.
const HOST_ADDRESS: &str = "10.99.0.1";
/// The guest.
pub(crate) const GUEST_ADDRESS: &str = "10.99.0.2";
const TAP: &str = "tap0";
/// How long a connection waits for the socket that it is meant for.
const PATIENCE: Duration = Duration::from_secs(3);

const SETUP: &str = "set -e
ip link set lo up
ip tuntap add @TAP@ mode tap
ip addr add @HOST@/24 dev @TAP@
ip link set @TAP@ up
echo ready
read -r end || true";

/// A private network for one guest. It lives as long as this value or a process in it.
#[derive(Debug)]
pub struct GuestNet {
    namespace: File,
    forwards: Mutex<Vec<Forward>>,
}

/// A port of this machine in the private network that leads to a unix socket outside of it.
#[derive(Debug)]
struct Forward {
    listener: TcpListener,
    thread: Option<JoinHandle<()>>,
}

impl GuestNet {
    /// Makes a network.
    ///
    /// # Errors
    /// Without root, or where there is no `/dev/net/tun`.
    pub fn new() -> Result<Self, LabError> {
        let script = SETUP.replace("@TAP@", TAP).replace("@HOST@", HOST_ADDRESS);
        let mut child = Command::new("unshare")
            .args(["--net", "sh", "-c", &script])
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(LabError::io("starting", "unshare"))?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            let _ = BufReader::new(stdout).read_line(&mut line);
        }
        // An open file keeps the namespace when the process that made it ends, which it does when its stdin is closed.
        let path = format!("/proc/{}/ns/net", child.id());
        let namespace = File::open(&path).map_err(LabError::io("opening", path));
        drop(child.stdin.take());
        let out = child.wait_with_output().map_err(LabError::io("waiting for", "unshare"))?;
        if line.trim() != "ready" {
            let said = String::from_utf8_lossy(&out.stderr).trim().to_owned();
            return Err(LabError::Refused { what: "making a network namespace with a tap device".into(), said });
        }
        Ok(Self { namespace: namespace?, forwards: Mutex::default() })
    }

    /// This machine's address in it, for servers that [`GuestNet::command`] starts and ports that [`GuestNet::forward`] opens.
    pub fn host_address(&self) -> &'static str {
        HOST_ADDRESS
    }

    /// The guest's address in it.
    pub fn guest_address(&self) -> &'static str {
        GUEST_ADDRESS
    }

    /// A program that runs on this machine but in this network.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        let namespace = format!("--net=/proc/{}/fd/{}", std::process::id(), self.namespace.as_raw_fd());
        command.arg(namespace).arg("--").arg(program);
        command
    }

    /// Opens a TCP port on this machine's address in it, and joins each connection with one to a unix socket, which may come and go: a
    /// connection waits three seconds for it.
    /// Gives the port.
    ///
    /// # Errors
    /// When there is no room for another port.
    pub fn forward(&self, socket: &Path) -> Result<u16, LabError> {
        let namespace = self.namespace.try_clone().map_err(LabError::io("keeping", "the network namespace"))?;
        // A socket belongs to the network of the thread that makes it, for ever: one thread is enough to go there and come to an end.
        let bound = std::thread::spawn(move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            TcpListener::bind((HOST_ADDRESS, 0))
        });
        let listener = bound
            .join()
            .unwrap_or_else(|_| Err(std::io::Error::other("the thread ended in a panic")))
            .map_err(LabError::io("listening on", HOST_ADDRESS))?;
        let port = listener.local_addr().map_err(LabError::io("asking for", "the port"))?.port();
        let (accepting, socket) = (listener.try_clone(), socket.to_owned());
        let accepting = accepting.map_err(LabError::io("listening on", HOST_ADDRESS))?;
        let thread = Some(std::thread::spawn(move || forward_run(&accepting, &socket)));
        self.forwards.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(Forward { listener, thread });
        Ok(port)
    }

    /// What makes a guest's kernel use it. Without `gro` its driver drops the large frames that this machine's kernel hands a tap
    /// device, and all of TCP crawls on retries.
    pub(crate) fn kernel_word(&self) -> String {
        format!("vec0:transport=tap,ifname={TAP},gro=1")
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        // A listening socket that is shut down wakes who waits for connections on it.
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn forward_run(listener: &TcpListener, socket: &Path) {
    while let Ok((tcp, _)) = listener.accept() {
        let socket = socket.to_owned();
        std::thread::spawn(move || forward_join(tcp, &socket));
    }
}

/// A server that is just being started again is waited for; then the guest sees its connection closed.
fn forward_join(tcp: TcpStream, socket: &Path) {
    let until = Instant::now() + PATIENCE;
    let unix = loop {
        match UnixStream::connect(socket) {
            Ok(unix) => break unix,
            Err(_) if Instant::now() < until => std::thread::sleep(Duration::from_millis(20)),
            Err(_) => return,
        }
    };
    let _ = tcp.set_nodelay(true);
    if let (Ok(tcp2), Ok(unix2)) = (tcp.try_clone(), unix.try_clone()) {
        std::thread::spawn(move || pump(tcp, unix, |unix| unix.shutdown(Shutdown::Write)));
        pump(unix2, tcp2, |tcp: &TcpStream| tcp.shutdown(Shutdown::Write));
    }
}

fn pump<R: Read, W: Write>(mut from: R, mut to: W, end: impl FnOnce(&W) -> std::io::Result<()>) {
    let _ = std::io::copy(&mut from, &mut to);
    let _ = end(&to);
}
