//! A network between guests and this machine: a network namespace of its own with a tap device for each guest in it, so that tests run
//! beside each other with the same addresses and nothing leaves. Needs root.

use crate::LabError;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// This machine, as the guest sees it.
const HOST_ADDRESS: &str = "10.99.0.1";
/// What seats can have as addresses behind this machine's.
const SEATS_MAX: u8 = 200;
/// How long a connection waits for the socket that it is meant for.
const PATIENCE: Duration = Duration::from_secs(3);

/// Several taps meet in a bridge; one needs none.
const SETUP: &str = "set -e
ip link set lo up
of=tap0
if [ @SEATS@ -gt 1 ]; then ip link add lab0 type bridge; of=lab0; fi
n=0
while [ $n -lt @SEATS@ ]; do
  ip tuntap add tap$n mode tap
  [ $of = tap0 ] || ip link set tap$n master $of
  ip link set tap$n up
  n=$((n + 1))
done
ip addr add @HOST@/24 dev $of
ip link set $of up
echo ready
read -r end || true";

/// A private network for guests. It lives as long as this value or a process in it.
#[derive(Debug)]
pub struct GuestNet {
    namespace: File,
    forwards: Mutex<Vec<Forward>>,
    seats: u8,
}

/// What has gone over a guest's place in a network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wire {
    /// Bytes that the guest got.
    pub to_guest: u64,
    /// Bytes that it sent.
    pub from_guest: u64,
}

/// A port of this machine in the private network that leads to a unix socket outside of it.
#[derive(Debug)]
struct Forward {
    listener: TcpListener,
    thread: Option<JoinHandle<()>>,
}

impl GuestNet {
    /// Makes a network for one guest.
    ///
    /// # Errors
    /// Without root, or where there is no `/dev/net/tun`.
    pub fn new() -> Result<Self, LabError> {
        Self::with_seats(1)
    }

    /// Makes a network for several guests, each in a seat of its own, counted from 0: [`GuestSpec::seat`](crate::GuestSpec).
    ///
    /// # Errors
    /// As [`GuestNet::new`]; and where the kernel has no bridges.
    pub fn with_seats(seats: u8) -> Result<Self, LabError> {
        let what = || format!("making a network namespace with {seats} tap devices");
        if !(1..=SEATS_MAX).contains(&seats) {
            return Err(LabError::Refused { what: what(), said: format!("a network has 1 to {SEATS_MAX}") });
        }
        let script = SETUP.replace("@SEATS@", &seats.to_string()).replace("@HOST@", HOST_ADDRESS);
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
            return Err(LabError::Refused { what: what(), said });
        }
        Ok(Self { namespace: namespace?, forwards: Mutex::default(), seats })
    }

    /// This machine's address in it, for servers that [`GuestNet::command`] starts and ports that [`GuestNet::forward`] opens.
    pub fn host_address(&self) -> &'static str {
        HOST_ADDRESS
    }

    /// The address of the guest in a seat.
    pub fn guest_address(&self, seat: u8) -> String {
        format!("10.99.0.{}", 2 + seat)
    }

    /// How many guests it has room for.
    pub fn seats(&self) -> u8 {
        self.seats
    }

    /// What has gone over a seat so far, frame headers included.
    ///
    /// # Errors
    /// When `ip` does not tell.
    pub fn wire(&self, seat: u8) -> Result<Wire, LabError> {
        let mut command = self.command(Path::new("ip"));
        let out =
            command.args(["-j", "-s", "link", "show", "dev", &format!("tap{seat}")]).stdin(Stdio::null()).output();
        let out = out.map_err(LabError::io("starting", "ip"))?;
        let links: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap_or_default();
        let bytes = |way: &str| links[0]["stats64"][way]["bytes"].as_u64();
        match (bytes("tx"), bytes("rx")) {
            (Some(to_guest), Some(from_guest)) => Ok(Wire { to_guest, from_guest }),
            _ => Err(LabError::Refused {
                what: format!("counting what went over tap{seat}"),
                said: String::from_utf8_lossy(&out.stderr).trim().to_owned(),
            }),
        }
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

    /// Makes a unix socket on this machine that leads to a TCP port of the guest in a seat, until the test's process ends.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn reach(&self, seat: u8, port: u16, socket: &Path) -> Result<(), LabError> {
        let guest = (self.guest_address(seat), port);
        let namespace = self.namespace.try_clone().map_err(LabError::io("keeping", "the network namespace"))?;
        let listener = UnixListener::bind(socket).map_err(LabError::io("making", socket.display().to_string()))?;
        let (tell, entered) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let _ = tell.send(move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)));
            while let Ok((unix, _)) = listener.accept() {
                // Who finds nobody there sees the connection closed.
                if let Ok(tcp) = TcpStream::connect(&guest) {
                    std::thread::spawn(move || join(tcp, unix));
                }
            }
        });
        let entered = entered.recv().map_err(std::io::Error::other).and_then(|entered| Ok(entered?));
        entered.map_err(LabError::io("entering", "the network namespace"))
    }

    /// What makes a guest's kernel use it. Without `gro` its driver drops the large frames that this machine's kernel hands a tap
    /// device, and all of TCP crawls on retries.
    pub(crate) fn kernel_word(&self, seat: u8) -> String {
        // Left to itself, it takes a random address, and two guests might take the same.
        format!("vec0:transport=tap,ifname=tap{seat},gro=1,mac=02:00:0a:63:00:{:02x}", 2 + seat)
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
    join(tcp, unix);
}

/// Hands on what either side says, and its end.
fn join(tcp: TcpStream, unix: UnixStream) {
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
