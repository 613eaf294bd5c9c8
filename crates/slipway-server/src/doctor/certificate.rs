//! Certificates: what is in them, whether the key fits, and how long they last.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use super::Probe;
use crate::config::ServeOptions;

/// Days before the end of a certificate from which on one should act.
const SOON_DAYS: i64 = 14;
const DAY: i64 = 86_400;

/// What a certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Whose it is.
    pub subject: String,
    /// Who signed it.
    pub issuer: String,
    /// The names and addresses it is for.
    pub names: Vec<String>,
    /// From when on, in seconds since 1970.
    pub not_before: i64,
    /// Until when, in seconds since 1970.
    pub not_after: i64,
}

impl Certificate {
    /// How long it is still good at this time, for a person; or why it is not.
    pub fn lasts(&self, now: i64) -> Result<String, String> {
        let day = |at: i64| {
            jiff::Timestamp::from_second(at).map_or_else(|_| "?".into(), |at| at.strftime("%Y-%m-%d").to_string())
        };
        match now {
            _ if now < self.not_before => Err(format!("begins only on {}", day(self.not_before))),
            _ if now >= self.not_after => Err(format!("ended on {}", day(self.not_after))),
            _ => Ok(format!("until {} ({} days)", day(self.not_after), (self.not_after - now) / DAY)),
        }
    }

    /// Whether it ends so soon that one should act.
    pub fn ends_soon(&self, now: i64) -> bool {
        self.not_after - now < SOON_DAYS * DAY
    }
}

/// Reads a certificate in DER.
pub fn certificate_read(der: &[u8]) -> Result<Certificate, String> {
    let (_, read) = X509Certificate::from_der(der).map_err(|why| format!("reading a certificate: {why}"))?;
    let names = match read.subject_alternative_name() {
        Ok(Some(names)) => names.value.general_names.iter().filter_map(name_shown).collect(),
        Ok(None) | Err(_) => Vec::new(),
    };
    Ok(Certificate {
        subject: read.subject().to_string(),
        issuer: read.issuer().to_string(),
        names,
        not_before: read.validity().not_before.timestamp(),
        not_after: read.validity().not_after.timestamp(),
    })
}

fn name_shown(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|ip| std::net::IpAddr::from(ip).to_string()),
            16 => <[u8; 16]>::try_from(*bytes).ok().map(|ip| std::net::IpAddr::from(ip).to_string()),
            _ => None,
        },
        // Other kinds of names name no server.
        _ => None,
    }
}

/// The files of TLS, or whether it should be used at all.
pub(super) fn tls_examine(options: &ServeOptions) -> Vec<Probe> {
    match (&options.tls_cert, &options.tls_key, options.tls_self_made) {
        (Some(cert), Some(key), _) => {
            let mut report = vec![key_rights(key)];
            report.extend(pair(cert, key));
            report
        }
        (_, _, true) => {
            let folder = options.data.join("tls");
            if !folder.join("ca.key").exists() {
                return vec![Probe::ok("tls", "the first start makes a CA and a certificate")];
            }
            vec![key_rights(&folder.join("ca.key")), authority(&folder)]
        }
        _ if options.listen.ip().is_loopback() => vec![Probe::ok("tls", "not used; only this machine can connect")],
        _ => vec![Probe::warn(
            "tls",
            format!(
                "not used, but {} can be reached from elsewhere: who listens on the way reads passwords and tokens",
                options.listen
            ),
            "add --tls-self-made, or --tls-cert and --tls-key, or put a proxy with TLS in front and listen on 127.0.0.1",
        )],
    }
}

fn key_rights(key: &Path) -> Probe {
    let shown = key.display();
    match std::fs::metadata(key) {
        Err(why) => Probe::fail(
            "tls-key",
            format!("looking at the key {shown}: {}", why),
            format!("check the path with 'ls -l {shown}', and run it as the server's user"),
        ),
        Ok(meta) if meta.mode() & 0o077 != 0 => Probe::warn(
            "tls-key",
            format!("the key {shown} can be read by others (mode {:o})", meta.mode() & 0o777),
            format!("'chmod 600 {shown}'; if somebody may have read it, have a new certificate made"),
        ),
        Ok(_) => Probe::ok("tls-key", format!("only its owner can read {shown}")),
    }
}

/// A certificate chain and the key that must belong to its first certificate.
fn pair(cert: &Path, key: &Path) -> Vec<Probe> {
    let shown = cert.display();
    let pem = "a PEM file begins with '-----BEGIN'; the server's own certificate comes first, then who signed it";
    let chain = CertificateDer::pem_file_iter(cert).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = match chain {
        Err(why) => return vec![Probe::fail("tls", format!("reading certificates from {shown}: {why}"), pem)],
        Ok(chain) if chain.is_empty() => return vec![Probe::fail("tls", format!("{shown} holds no certificate"), pem)],
        Ok(chain) => chain,
    };
    let mut report = Vec::new();
    let mut read = Vec::new();
    for der in &chain {
        match certificate_read(der) {
            Ok(certificate) => read.push(certificate),
            Err(why) => return vec![Probe::fail("tls", format!("{shown}: {why}"), pem)],
        }
    }
    let now = jiff::Timestamp::now().as_second();
    let renew = "have it renewed, then 'pkill -HUP -x slipway' loads it without a restart";
    report.extend(read.iter().map(|certificate| lifetime(certificate, now, renew)));
    if let Some(pair) = read.windows(2).find(|pair| pair[0].issuer != pair[1].subject) {
        report.push(Probe::fail(
            "tls-chain",
            format!(
                "in {shown} '{}' was signed by '{}', but next comes '{}'",
                pair[0].subject, pair[0].issuer, pair[1].subject
            ),
            "put the certificates in order: the server's own, then who signed it, and so on",
        ));
    }
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let key_shown = key.display();
    let fits = PrivateKeyDer::from_pem_file(key).map_err(|why| format!("reading the key {key_shown}: {why}")).and_then(
        |der| {
            CertifiedKey::from_der(chain, der, &provider)
                .map_err(|why| format!("the key {key_shown} does not belong to {shown}: {why}"))
        },
    );
    report.push(match fits {
        Ok(_) => Probe::ok("tls-pair", format!("{key_shown} belongs to {shown}")),
        Err(why) => Probe::fail("tls-pair", why, "name the key that the certificate was made for with --tls-key"),
    });
    report
}

fn authority(folder: &Path) -> Probe {
    let path = folder.join("ca.pem");
    let shown = path.display();
    let again =
        format!("remove {} and start the server: it makes a new CA, which all clients must be given", folder.display());
    let read =
        CertificateDer::from_pem_file(&path).map_err(|why| why.to_string()).and_then(|der| certificate_read(&der));
    match read {
        Ok(certificate) => lifetime(&certificate, jiff::Timestamp::now().as_second(), &again),
        Err(why) => Probe::fail("tls", format!("reading the server's own CA {shown}: {why}"), again),
    }
}

fn lifetime(certificate: &Certificate, now: i64, renew: &str) -> Probe {
    let names = match certificate.names.is_empty() {
        true => String::new(),
        false => format!(" for {}", certificate.names.join(", ")),
    };
    match certificate.lasts(now) {
        Err(why) => Probe::fail("tls", format!("the certificate '{}' {why}", certificate.subject), renew),
        Ok(lasts) if certificate.ends_soon(now) => {
            Probe::warn("tls", format!("the certificate '{}'{names} is good only {lasts}", certificate.subject), renew)
        }
        Ok(lasts) => Probe::ok("tls", format!("'{}'{names}, {lasts}", certificate.subject)),
    }
}

#[cfg(test)]
mod tests {
    use super::{DAY, certificate_read, lifetime};
    use crate::doctor::Verdict;
    use rcgen::{CertificateParams, KeyPair};

    #[test]
    fn certificates_are_read_and_end() {
        let mut params = CertificateParams::new(vec!["slip.lab".to_owned(), "10.0.0.5".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(2026, 3, 1);
        let made = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let read = certificate_read(made.der()).unwrap();
        assert_eq!(read.names, ["slip.lab", "10.0.0.5"]);
        assert_eq!(read.subject, read.issuer);
        assert_eq!(read.not_after - read.not_before, 59 * DAY);
        for (days, verdict, said) in [
            (-1, Verdict::Fail, "begins only on 2026-01-01"),
            (1, Verdict::Ok, "until 2026-03-01 (58 days)"),
            (45, Verdict::Ok, "(14 days)"),
            (46, Verdict::Warn, "good only until 2026-03-01 (13 days)"),
            (59, Verdict::Fail, "ended on 2026-03-01"),
        ] {
            let probe = lifetime(&read, read.not_before + days * DAY, "renew it");
            assert!(probe.verdict == verdict && probe.what.contains(said), "{days}: {probe:?}");
            assert_eq!(probe.next.is_some(), verdict != Verdict::Ok);
        }
        assert!(certificate_read(b"no certificate").is_err());
    }
}
