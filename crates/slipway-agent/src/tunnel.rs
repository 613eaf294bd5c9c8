//! The way of the kernel's NBD connections through TLS, which the kernel does not speak: each connection to the socket in the attachment's folder
//! becomes one to the server, whose certificate is checked before a byte of the disk passes. Nothing goes in the clear, and no less is tried.

use crate::failure::{Failure, clean};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{AlertDescription, CertificateError, ClientConfig, RootCertStore};
use slipway_node::{
    DriverError, ExportFiles, ExportReport, NBD_REPLY_HEAD, NbdStream, TunnelSecrets, TunnelSpec, TunnelWord,
    nbd_info_reply, nbd_info_request,
};
use slipway_transfer::Cancel;
use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixListener, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// From the server's consent to TLS to its first answer in it.
const HANDSHAKE: Duration = Duration::from_secs(6);
/// How long the last bytes may take when the kernel has hung up.
const FAREWELL: Duration = Duration::from_secs(5);
/// What is passed on at once; a kernel's request is hardly ever larger.
const PIECE: usize = 128 << 10;
/// Files with certificates and keys are smaller.
const SECRETS_MAX: u64 = 1 << 20;
/// The log lies in memory.
const LINES_MAX: u32 = 2000;
const STEP: &str = "nbd_tls";

/// What comes on standard input.
pub(crate) fn secrets_read() -> Result<TunnelSecrets, Failure> {
    let mut text = Vec::new();
    let read = io::stdin().lock().take(SECRETS_MAX).read_to_end(&mut text);
    let read = read.and_then(|_| Ok(serde_json::from_slice(&text)?));
    read.map_err(|why| Failure::new(1, format!("reading the certificates: {why}"), "attach it again"))
}

/// Listens, and serves until the attachment goes.
pub(crate) async fn serve(
    files: &ExportFiles,
    spec: TunnelSpec,
    secrets: &TunnelSecrets,
    report: &mut File,
    stop: &Cancel,
) -> Result<(), Failure> {
    let tunnel = Arc::new(Tunnel::new(spec, secrets)?);
    let socket = files.socket();
    // One of an earlier process, which is gone.
    let _ = std::fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket)
        .map_err(|why| Failure::new(1, format!("listening on {}: {why}", socket.display()), "attach it again"))?;
    crate::export::report_say(&ExportReport::Listening, report)?;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return Ok(()),
        };
        match accepted {
            Ok((kernel, _)) => drop(tokio::spawn(tunnel.clone().pass(kernel))),
            Err(why) => {
                tunnel.note(&format!("taking a connection: {why}"));
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

struct Tunnel {
    spec: TunnelSpec,
    name: ServerName<'static>,
    connector: TlsConnector,
    lines: AtomicU32,
}

/// A connection of either kind.
trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}
type Server = TlsStream<Box<dyn Connection>>;

impl Tunnel {
    fn new(spec: TunnelSpec, secrets: &TunnelSecrets) -> Result<Self, Failure> {
        let wrong =
            |what: String| Failure::new(2, what, "'openssl x509 -in FILE -noout -text' shows what is in a file");
        let unread = |field: &str, name: &str, why: &dyn std::fmt::Display| {
            wrong(format!("nbd.tls.{field} '{name}' is of no use: {why}"))
        };
        let certificates = |field: &str, name: &str, pem: &str| {
            let read = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>();
            match read {
                Ok(list) if list.is_empty() => Err(unread(field, name, &"there is no certificate in it")),
                read => read.map_err(|why| unread(field, name, &why)),
            }
        };
        let mut roots = RootCertStore::empty();
        for authority in certificates("ca_ref", &spec.ca_ref, &secrets.ca)? {
            roots.add(authority).map_err(|why| unread("ca_ref", &spec.ca_ref, &why))?;
        }
        let builder = ClientConfig::builder().with_root_certificates(roots);
        let config = if spec.cert_ref.is_empty() {
            builder.with_no_client_auth()
        } else {
            let chain = certificates("cert_ref", &spec.cert_ref, &secrets.cert)?;
            let key = PrivateKeyDer::from_pem_slice(secrets.key.as_bytes());
            let key = key.map_err(|why| unread("key_ref", &spec.key_ref, &why))?;
            builder.with_client_auth_cert(chain, key).map_err(|why| unread("key_ref", &spec.key_ref, &why))?
        };
        let name = ServerName::try_from(spec.name.clone())
            .map_err(|_| wrong(format!("nbd.tls.name '{}' is no name that a certificate has", spec.name)))?;
        Ok(Self { spec, name, connector: TlsConnector::from(Arc::new(config)), lines: AtomicU32::new(0) })
    }

    /// One connection of the kernel, or of the service that makes it for the kernel.
    async fn pass(self: Arc<Self>, mut kernel: UnixStream) {
        let (word, server) = match self.open().await {
            Ok((no_zeroes, server)) => (TunnelWord::Open { no_zeroes }, Some(server)),
            Err(DriverError { status, mut error, .. }) => {
                self.note(&error.text);
                error.text = clean(&error.text);
                (TunnelWord::Failed { status, error }, None)
            }
        };
        let Ok(mut line) = serde_json::to_vec(&word) else { return };
        line.push(b'\n');
        let said = kernel.write_all(&line).await;
        if let (Ok(()), Some(server)) = (said, server)
            && let Err(why) = relay(kernel, server).await
        {
            self.note(&format!("a connection with the server ended: {why}"));
        }
    }

    /// Connects to the server, and proves it.
    async fn open(self: &Arc<Self>) -> Result<(bool, Server), DriverError> {
        let tunnel = self.clone();
        let dialed = tokio::task::spawn_blocking(move || tunnel.spec.nbd.starttls()).await;
        let (stream, no_zeroes) = dialed.map_err(|why| DriverError::other(STEP, why.to_string()))??;
        let stream = stream_async(stream).map_err(|why| DriverError::other(STEP, why.to_string()))?;
        let proven = tokio::time::timeout(HANDSHAKE, async {
            let mut server =
                self.connector.connect(self.name.clone(), stream).await.map_err(|why| self.refused(&why))?;
            self.answered(&mut server).await?;
            Ok(server)
        });
        let silent = |_| {
            DriverError::timed_out(STEP, format!("the server agreed to TLS and did not finish it in {HANDSHAKE:?}"))
        };
        let server = proven.await.map_err(silent).flatten().map_err(|error| self.spec.nbd.named(error))?;
        Ok((no_zeroes, server))
    }

    /// Waits for one answer, with which a server that wants another certificate of ours has said so.
    async fn answered(&self, server: &mut Server) -> Result<(), DriverError> {
        let io = |why: io::Error| match why.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => self.hung_up(),
            _ => self.refused(&why),
        };
        server.write_all(&nbd_info_request(self.spec.nbd.export())).await.map_err(io)?;
        server.flush().await.map_err(io)?;
        loop {
            let mut head = [0; NBD_REPLY_HEAD];
            server.read_exact(&mut head).await.map_err(io)?;
            let (len, last) = nbd_info_reply(head)?;
            server.read_exact(&mut vec![0; len as usize]).await.map_err(io)?;
            if last {
                return Ok(());
            }
        }
    }

    /// Some servers say by this, and nothing else, that they want another certificate.
    fn hung_up(&self) -> DriverError {
        let perhaps = match self.spec.cert_ref.as_str() {
            "" => "it wants a certificate of this node, in nbd.tls.cert_ref".to_owned(),
            name => format!("it does not take this node's certificate, nbd.tls.cert_ref '{name}'"),
        };
        DriverError::request(STEP, format!("the server hung up right after the handshake of TLS; perhaps {perhaps}"))
    }

    /// What an error in the handshake means.
    fn refused(&self, why: &io::Error) -> DriverError {
        let Some(tls) = why.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
            return DriverError::other(STEP, format!("the server ended the handshake of TLS: {why}"));
        };
        let TunnelSpec { ca_ref, cert_ref, name, .. } = &self.spec;
        match tls {
            rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
                let text = format!("the server's certificate is not of the CA in nbd.tls.ca_ref '{ca_ref}'");
                DriverError::request(STEP, text)
            }
            rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            ) => {
                let text = format!("the server's certificate is not for '{name}'; nbd.tls.name says what it is for");
                DriverError::request(STEP, text)
            }
            rustls::Error::InvalidCertificate(other) => {
                DriverError::request(STEP, format!("the server's certificate is not valid: {other}"))
            }
            rustls::Error::AlertReceived(alert) => {
                let wants = match (cert_ref.is_empty(), alert) {
                    (true, AlertDescription::CertificateRequired) => "; it wants one in nbd.tls.cert_ref".to_owned(),
                    (true, _) => "; perhaps it wants one in nbd.tls.cert_ref".to_owned(),
                    (false, _) => format!(", nbd.tls.cert_ref '{cert_ref}'"),
                };
                DriverError::request(
                    STEP,
                    format!("the server does not take this node's certificate ({alert:?}){wants}"),
                )
            }
            other => DriverError::other(STEP, format!("TLS with the server: {other}")),
        }
    }

    fn note(&self, text: &str) {
        if self.lines.fetch_add(1, Ordering::Relaxed) < LINES_MAX {
            eprintln!("{}", clean(text));
        }
    }
}

fn stream_async(stream: NbdStream) -> io::Result<Box<dyn Connection>> {
    Ok(match stream {
        NbdStream::Tcp(stream) => {
            stream.set_nonblocking(true)?;
            Box::new(TcpStream::from_std(stream)?)
        }
        NbdStream::Unix(stream) => {
            stream.set_nonblocking(true)?;
            Box::new(UnixStream::from_std(stream)?)
        }
    })
}

/// Until either end has hung up: a half of a connection is of no use to the kernel.
async fn relay(kernel: UnixStream, server: Server) -> io::Result<()> {
    let (mut from_kernel, mut to_kernel) = kernel.into_split();
    let (mut from_server, mut to_server) = tokio::io::split(server);
    tokio::select! {
        up = copy(&mut from_kernel, &mut to_server) => {
            // Its last word is that it disconnects, which the server should hear.
            let _ = tokio::time::timeout(FAREWELL, to_server.shutdown()).await;
            up
        }
        down = copy(&mut from_server, &mut to_kernel) => down,
    }
}

async fn copy(from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    let mut buffer = vec![0; PIECE];
    loop {
        let len = from.read(&mut buffer).await?;
        if len == 0 {
            return Ok(());
        }
        to.write_all(&buffer[..len]).await?;
        to.flush().await?;
    }
}

#[cfg(test)]
mod tests {
    use super::Tunnel;
    use slipway_node::{TunnelSecrets, TunnelSpec};

    #[test]
    fn files_that_hold_something_else_are_named() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let issued = rcgen::generate_simple_self_signed(vec!["disks.example".to_owned()]).unwrap();
        let (good, key) = (issued.cert.pem(), issued.signing_key.serialize_pem());
        let other = rcgen::generate_simple_self_signed(vec!["x".to_owned()]).unwrap().signing_key.serialize_pem();
        let nbd = serde_json::json!({"at": {"tcp": {"host": "disks.example", "port": 1}}, "export": ""});
        let made = |ca: &str, own: Option<(&str, &str)>, name: &str| {
            let file = |word: &str| if own.is_some() { word.to_owned() } else { String::new() };
            let spec = TunnelSpec {
                nbd: serde_json::from_value(nbd.clone()).unwrap(),
                ca_ref: "the-ca".into(),
                cert_ref: file("the-cert"),
                key_ref: file("the-key"),
                name: name.into(),
            };
            let (cert, key) = own.unwrap_or_default();
            let secrets = TunnelSecrets { ca: ca.into(), cert: cert.into(), key: key.into() };
            Tunnel::new(spec, &secrets).map(drop).map_err(|failure| {
                assert_eq!(failure.exit, 2);
                failure.what
            })
        };
        assert_eq!(made(&good, None, "disks.example"), Ok(()));
        assert_eq!(made(&good, Some((&good, &key)), "10.0.0.1"), Ok(()));
        for (ca, own, name, wanted) in [
            ("", None, "a", "nbd.tls.ca_ref 'the-ca'"),
            ("no certificate", None, "a", "there is no certificate"),
            (&key, None, "a", "there is no certificate"),
            (&good, Some((&*key, &*key)), "a", "nbd.tls.cert_ref 'the-cert'"),
            (&good, Some((&*good, &*good)), "a", "nbd.tls.key_ref 'the-key'"),
            (&good, Some((&*good, &*other)), "a", "nbd.tls.key_ref 'the-key'"),
            (&good, None, "a b", "nbd.tls.name 'a b'"),
        ] {
            let said = made(ca, own, name).unwrap_err();
            assert!(said.contains(wanted) && !said.contains("PRIVATE"), "{wanted}: {said}");
        }
    }
}
