//! A question to an ONC RPC server (RFC 5531) over TCP, with a limit: whether it answers at all, before the kernel waits for it without one.

use crate::refusal::DriverError;
use rustix::io::Errno;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// The programs that are asked here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Program {
    /// Tells the ports of the others.
    PortMapper,
    /// Serves files.
    Nfs,
    /// Opens exports for version 3.
    Mount,
}

impl Program {
    fn number(self) -> u32 {
        match self {
            Self::PortMapper => 100_000,
            Self::Nfs => 100_003,
            Self::Mount => 100_005,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::PortMapper => "port mapper",
            Self::Nfs => "NFS",
            Self::Mount => "mount",
        }
    }
}

/// Where the port mapper is.
const PORT_MAPPER_PORT: u16 = 111;
const PORT_MAPPER_VERSION: u32 = 2;
/// `PMAPPROC_GETPORT` of RFC 1833.
const GETPORT: u32 = 3;
const TCP: u32 = 6;
/// The answers here are of some words; a longer one is from another program.
const ANSWER_MAX: usize = 1024;
/// Any number does on a connection that is asked one question.
const XID: u32 = 0x534c_4950;

/// Asks whether a program of this version is there, which has no effect.
pub(super) fn ping(to: SocketAddr, program: Program, version: u32, limit: Duration) -> Result<(), DriverError> {
    call(to, program, version, 0, &[], limit).map(drop)
}

/// The TCP port of a program on a host, by its port mapper.
pub(super) fn port(host: SocketAddr, program: Program, version: u32, limit: Duration) -> Result<u16, DriverError> {
    let mut to = host;
    to.set_port(PORT_MAPPER_PORT);
    let args = [program.number(), version, TCP, 0];
    let answer = call(to, Program::PortMapper, PORT_MAPPER_VERSION, GETPORT, &args, limit)?;
    match answer.first().map(|port| u16::try_from(*port)) {
        Some(Ok(port @ 1..)) => Ok(port),
        _ => Err(DriverError::other("rpc", format!("{} offers no {} version {version}", host.ip(), program.name()))),
    }
}

fn call(
    to: SocketAddr,
    program: Program,
    version: u32,
    procedure: u32,
    args: &[u32],
    limit: Duration,
) -> Result<Vec<u32>, DriverError> {
    let what = || format!("{} server {to}", program.name());
    let failed = |step: &'static str| {
        move |error: std::io::Error| match (error.kind(), Errno::from_io_error(&error)) {
            (std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut, _) => {
                DriverError::system(step, Errno::TIMEDOUT, format!("{}: no answer within {limit:?}", what()))
            }
            (_, Some(errno)) => DriverError::system(step, errno, what()),
            (_, None) => DriverError::other(step, format!("{}: it hung up", what())),
        }
    };
    let until = Instant::now() + limit;
    let mut stream = TcpStream::connect_timeout(&to, limit).map_err(failed("connect"))?;
    // XID, a call, RPC version 2, program, version, procedure, and twice no proof of who asks.
    let mut words = vec![XID, 0, 2, program.number(), version, procedure, 0, 0, 0, 0];
    words.extend_from_slice(args);
    let mut message = (0x8000_0000 | (words.len() as u32 * 4)).to_be_bytes().to_vec();
    message.extend(words.iter().flat_map(|word| word.to_be_bytes()));
    // What is left of the limit, for each of the few reads: a server that drips does not get far.
    let left = || Some(until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1)));
    stream.set_write_timeout(left()).map_err(failed("rpc"))?;
    stream.write_all(&message).map_err(failed("rpc"))?;
    let mut mark = [0; 4];
    stream.set_read_timeout(left()).map_err(failed("rpc"))?;
    stream.read_exact(&mut mark).map_err(failed("rpc"))?;
    let len = (u32::from_be_bytes(mark) & 0x7fff_ffff) as usize;
    let stranger = |why: &str| DriverError::other("rpc", format!("{}: {why}", what()));
    if len > ANSWER_MAX {
        return Err(stranger("what answers there is not RPC"));
    }
    let mut answer = vec![0; len];
    stream.set_read_timeout(left()).map_err(failed("rpc"))?;
    stream.read_exact(&mut answer).map_err(failed("rpc"))?;
    let words: Vec<u32> =
        answer.chunks_exact(4).map(|word| u32::from_be_bytes([word[0], word[1], word[2], word[3]])).collect();
    answer_read(&words).map_err(|why| stranger(&why))
}

/// The results in an answer that is a success.
fn answer_read(words: &[u32]) -> Result<Vec<u32>, String> {
    let [XID, 1, status, rest @ ..] = words else { return Err("what answers there is not RPC".into()) };
    if *status != 0 {
        return Err("it does not take calls that do not say who asks".into());
    }
    // A proof of who answers comes first; its bytes fill whole words.
    let [_, len, rest @ ..] = rest else { return Err("its answer is cut off".into()) };
    match rest.get((*len as usize).div_ceil(4)..) {
        Some([0, results @ ..]) => Ok(results.to_vec()),
        Some([1, ..]) => Err("it has no such program".into()),
        Some([2, low, high, ..]) if low == high => Err(format!("it has only version {low}")),
        Some([2, low, high, ..]) => Err(format!("it has only versions {low} to {high}")),
        _ => Err("it could not answer".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::{Program, XID, answer_read, ping};
    use std::io::Write;
    use std::net::TcpListener;
    use std::time::{Duration, Instant};

    #[test]
    fn answers_are_read() {
        assert_eq!(answer_read(&[XID, 1, 0, 0, 0, 0, 2049]), Ok(vec![2049]));
        assert_eq!(answer_read(&[XID, 1, 0, 1, 5, 9, 9, 0]), Ok(vec![]));
        for (words, why) in [
            (&[XID, 1, 0, 0, 0, 2, 4, 4][..], "only version 4"),
            (&[XID, 1, 0, 0, 0, 2, 3, 4], "versions 3 to 4"),
            (&[XID, 1, 0, 0, 0, 1], "no such program"),
            (&[XID, 1, 1, 0], "say who asks"),
            (&[XID, 1, 0, 0, u32::MAX, 0], "could not answer"),
            (&[7, 1, 0], "not RPC"),
            (&[], "not RPC"),
        ] {
            let said = answer_read(words).unwrap_err();
            assert!(said.contains(why), "{said}");
        }
    }

    #[test]
    fn who_does_not_answer_is_not_waited_for() {
        let limit = Duration::from_millis(300);
        // One that takes connections and says nothing, one that says something else, one that is not there.
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let begun = Instant::now();
        let error = ping(silent.local_addr().unwrap(), Program::Nfs, 4, limit).unwrap_err();
        assert_eq!((error.status, error.error.errno.as_deref()), (500, Some("ETIMEDOUT")));
        assert!(begun.elapsed() < Duration::from_secs(2));
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = other.local_addr().unwrap();
        let talker = std::thread::spawn(move || other.accept().unwrap().0.write_all(b"220 mail.test ready\r\n"));
        let error = ping(to, Program::Nfs, 4, limit).unwrap_err();
        assert!(error.error.text.contains("not RPC"), "{error}");
        talker.join().unwrap().unwrap();
        let error = ping(to, Program::Nfs, 4, limit).unwrap_err();
        assert_eq!(error.error.errno.as_deref(), Some("ECONNREFUSED"));
    }
}
