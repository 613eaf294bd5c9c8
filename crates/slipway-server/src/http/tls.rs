//! TLS: certificates from files, or from a certificate authority that the server makes for itself.

use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};

use anyhow::{Context as _, Result, bail};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

/// Midnight (UTC) so many days from today. Certificates begin a day early, because clocks differ.
macro_rules! day {
    ($days:expr) => {{
        let date = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date();
        let date = date.saturating_add(jiff::Span::new().days($days));
        // rcgen's own time type cannot be named from here, so this is no function.
        rcgen::date_time_ymd(i32::from(date.year()), date.month().unsigned_abs(), date.day().unsigned_abs())
    }};
}

/// Where the certificate comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TlsSource {
    /// PEM files: the chain, server first, and its key.
    Files { cert: PathBuf, key: PathBuf },
    /// An authority of our own in this folder; the certificate is for these names and addresses.
    SelfMade { folder: PathBuf, addresses: Vec<IpAddr>, names: Vec<String> },
}

/// A TLS configuration that can be loaded anew while connections run.
#[derive(Clone)]
pub(crate) struct Tls {
    source: TlsSource,
    config: Arc<RwLock<Arc<ServerConfig>>>,
}

impl Tls {
    /// Reads or makes the certificate.
    pub(crate) fn open(source: TlsSource) -> Result<Self> {
        let config = Arc::new(RwLock::new(config_load(&source)?));
        Ok(Self { source, config })
    }

    /// Reads the files again. If they cannot be used, the certificate so far stays in use.
    pub(crate) fn reload(&self) -> Result<()> {
        let fresh = config_load(&self.source)?;
        *self.config.write().unwrap_or_else(std::sync::PoisonError::into_inner) = fresh;
        Ok(())
    }

    /// For one handshake.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.config.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone())
    }

    /// The file that clients must be given to trust us, for a self-made authority.
    pub(crate) fn authority(&self) -> Option<PathBuf> {
        match &self.source {
            TlsSource::Files { .. } => None,
            TlsSource::SelfMade { folder, .. } => Some(folder.join("ca.pem")),
        }
    }
}

fn config_load(source: &TlsSource) -> Result<Arc<ServerConfig>> {
    let (chain, key) = match source {
        TlsSource::Files { cert, key } => {
            let chain = CertificateDer::pem_file_iter(cert)
                .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                .with_context(|| format!("reading certificates from {}", cert.display()))?;
            if chain.is_empty() {
                bail!("reading certificates from {}: there are none in it", cert.display());
            }
            let key =
                PrivateKeyDer::from_pem_file(key).with_context(|| format!("reading the key {}", key.display()))?;
            (chain, key)
        }
        TlsSource::SelfMade { folder, addresses, names } => certificate_make(folder, addresses, names)?,
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("choosing TLS versions")?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .context("pairing certificate and key")?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// The authority is made once and stays; the server's certificate is made anew at each start and never touches the disk.
fn certificate_make(
    folder: &Path,
    addresses: &[IpAddr],
    names: &[String],
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let (authority_pem, authority_key) = (folder.join("ca.pem"), folder.join("ca.key"));
    if !authority_key.exists() {
        authority_make(folder).with_context(|| format!("making a certificate authority in {}", folder.display()))?;
    }
    let act = || format!("reading the certificate authority in {}", folder.display());
    let key = KeyPair::from_pem(&std::fs::read_to_string(&authority_key).with_context(act)?).with_context(act)?;
    let issuer = Issuer::new(authority_params(), key);
    let mut params = CertificateParams::new(names.to_vec()).context("naming the server in its certificate")?;
    params.subject_alt_names.extend(addresses.iter().map(|address| SanType::IpAddress(*address)));
    params.distinguished_name = name("Slipway server");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    params.not_before = day!(-1);
    params.not_after = day!(397);
    let server_key = KeyPair::generate().context("making the server's key")?;
    let certificate = params.signed_by(&server_key, &issuer).context("signing the server's certificate")?;
    let authority = CertificateDer::from_pem_file(&authority_pem).with_context(act)?;
    let key = PrivateKeyDer::try_from(server_key.serialize_der())
        .map_err(|why| anyhow::anyhow!("using the server's key: {why}"))?;
    Ok((vec![certificate.der().clone(), authority], key))
}

/// The same parameters each time, so that the issuer's name and key id in what is signed later fit the kept certificate.
fn authority_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = name("Slipway self-made authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = day!(-1);
    params.not_after = day!(3650);
    params
}

fn name(text: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, text);
    name
}

fn authority_make(folder: &Path) -> Result<()> {
    let key = KeyPair::generate().context("making its key")?;
    let certificate = authority_params().self_signed(&key).context("signing it")?;
    // The key is written last: while it is missing, the next start makes both anew.
    file_write(&folder.join("ca.pem"), certificate.pem().as_bytes(), 0o644)?;
    file_write(&folder.join("ca.key"), key.serialize_pem().as_bytes(), 0o600)
}

/// Writes a file whole or not at all, durable before it has its name, never readable by others for a moment.
pub(crate) fn file_write(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let act = || format!("writing {}", path.display());
    let folder = path.parent().unwrap_or(Path::new("."));
    let part = folder.join(format!(".{}.part", uuid::Uuid::new_v4()));
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&part).with_context(act)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all()).and_then(|()| std::fs::rename(&part, path));
    if written.is_err() {
        // The error that is reported is the one that matters; a left-over part is harmless.
        let _ = std::fs::remove_file(&part);
    }
    written.and_then(|()| std::fs::File::open(folder)?.sync_all()).with_context(act)
}

#[cfg(test)]
mod tests {
    use super::{Tls, TlsSource, file_write};
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_certificate_is_loaded_anew_or_stays() {
        let folder = tempfile::tempdir().unwrap();
        let own = TlsSource::SelfMade {
            folder: folder.path().to_owned(),
            addresses: vec!["127.0.0.1".parse().unwrap()],
            names: vec!["localhost".to_owned()],
        };
        let tls = Tls::open(own).unwrap();
        assert_eq!(tls.authority(), Some(folder.path().join("ca.pem")));
        tls.reload().unwrap();

        let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        file_write(&cert, made.cert.pem().as_bytes(), 0o644).unwrap();
        file_write(&key, made.signing_key.serialize_pem().as_bytes(), 0o600).unwrap();
        assert_eq!(std::fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
        let tls = Tls::open(TlsSource::Files { cert: cert.clone(), key }).unwrap();
        assert_eq!(tls.authority(), None);
        let before = std::sync::Arc::as_ptr(&tls.config.read().unwrap());
        std::fs::write(&cert, "no certificate").unwrap();
        assert!(tls.reload().is_err());
        assert_eq!(std::sync::Arc::as_ptr(&tls.config.read().unwrap()), before, "the certificate so far stays");
        assert!(Tls::open(TlsSource::Files { cert, key: folder.path().join("ca.key") }).is_err());
        let parts = std::fs::read_dir(folder.path())
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().ends_with(".part"));
        assert_eq!(parts.count(), 0);
    }
}
