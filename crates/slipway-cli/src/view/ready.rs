//! Telling whoever started this program that it is ready.

use crate::failure::Failure;
use std::io::Write;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;

/// Tells systemd, if it waits (`NOTIFY_SOCKET`), and writes a line to the descriptor `fd`, if one was named.
///
/// # Errors
/// When the descriptor cannot be written to; nobody would ever know then.
pub(crate) fn ready_tell(fd: Option<u32>) -> Result<(), Failure> {
    if let Some(name) = std::env::var_os("NOTIFY_SOCKET")
        && let Err(why) = notify(name.as_encoded_bytes())
    {
        tracing::warn!(%why, "telling systemd that the view is ready");
    }
    let Some(fd) = fd else { return Ok(()) };
    // By this name, because a number alone proves nothing of who owns it.
    let path = format!("/proc/self/fd/{fd}");
    let written = std::fs::OpenOptions::new().write(true).open(&path).and_then(|mut out| out.write_all(b"READY=1\n"));
    written.map_err(|why| Failure::io("writing to descriptor", Path::new(&path), &why))
}

fn notify(name: &[u8]) -> std::io::Result<()> {
    let address = match name.split_first() {
        Some((b'@', rest)) => SocketAddr::from_abstract_name(rest)?,
        _ => SocketAddr::from_pathname(String::from_utf8_lossy(name).as_ref())?,
    };
    UnixDatagram::unbound()?.send_to_addr(b"READY=1", &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::notify;
    use std::os::unix::net::UnixDatagram;

    #[test]
    fn who_waits_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let waiting = UnixDatagram::bind(&path).unwrap();
        notify(path.as_os_str().as_encoded_bytes()).unwrap();
        let mut said = [0; 32];
        let len = waiting.recv(&mut said).unwrap();
        assert_eq!(&said[..len], b"READY=1");
        assert!(notify(b"/nowhere/at/all").is_err());
    }
}
