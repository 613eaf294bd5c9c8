//! The way to a server: name, connection, certificate, clock, token.

use crate::context::client_new;
use crate::failure::{Failure, chain};
use crate::human::{count, time};
use crate::settings::{Ca, Settings};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use slipway_api::{ApiError, Client, Code, ServerSeen};
use slipway_server::doctor::{Certificate, Probe, certificate_read};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;

const LIMIT: Duration = Duration::from_secs(5);
/// Clocks that differ by more make tokens end at the wrong time, and certificates too.
const SKEW_SECONDS: i64 = 30;
/// A token that ends sooner may not outlive a long push.
const TOKEN_SOON: Duration = Duration::from_secs(2 * 3600);

/// Where a server is, as sockets want it.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    tls: bool,
    host: String,
    port: u16,
}

impl Place {
    fn read(url: &str) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        let tls = scheme.eq_ignore_ascii_case("https");
        let authority = rest.split(['/', '?', '#']).next()?;
        let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, rest)) => (host, rest.strip_prefix(':')),
            None => authority.rsplit_once(':').map_or((authority, None), |(host, port)| (host, Some(port))),
        };
        let port = match port {
            Some(port) => port.parse().ok()?,
            None if tls => 443,
            None => 80,
        };
        Some(Self { tls, host: host.to_owned(), port })
    }
}

pub(super) async fn network_examine(settings: &Settings) -> Vec<Probe> {
    let Ok(url) = settings.url() else { return Vec::new() };
    let Some(place) = Place::read(url) else { return Vec::new() };
    // What is wrong with the CA is in the report already.
    let Ok(ca) = settings.ca.value.as_ref().map(Ca::pem).transpose() else { return Vec::new() };
    let Ok(client) = client_new(url, None, ca.clone()) else { return Vec::new() };
    let mut report = Vec::new();
    let seen = client.server_seen().await;
    let chain = if place.tls { certificates(&place).await } else { Vec::new() };
    report.extend(certificate_said(&chain, url));
    match seen {
        Err(why) => {
            report.push(unreachable(&why, &place, &chain, url).await);
            return report;
        }
        Ok(seen) => {
            report.extend(server_said(&seen, url));
            if seen.version.is_none() {
                return report;
            }
        }
    }
    report.push(match client.server_ready().await {
        Ok(None) => Probe::ok("ready", "its database and blobs answer"),
        Ok(Some(but)) => Probe::warn(
            "ready",
            format!("its database and blobs answer, but it takes {but}"),
            "on the server: 'slipway doctor --server'; delete what is not needed, then 'slipway prune --now'",
        ),
        Err(why) => {
            Probe::fail("ready", self::chain(&why), "on the server: 'slipway doctor --server', and look at its log")
        }
    });
    report.push(token(settings, url, ca).await);
    report
}

fn server_said(seen: &ServerSeen, url: &str) -> Vec<Probe> {
    let Some(version) = &seen.version else {
        let next = "check the address, and the port: 'slipway config show --origin' says where it comes from";
        return vec![Probe::fail("server", format!("what answers at {url} is no Slipway server"), next)];
    };
    let mut report = vec![match version == slipway_api::VERSION {
        true => Probe::ok("server", format!("{url} answers; version {version}, as this program")),
        false => Probe::warn(
            "server",
            format!("{url} answers; its version is {version}, this program's is {}", slipway_api::VERSION),
            "install the same version on both sides when you can",
        ),
    }];
    if let Some(date) = seen.date {
        report.push(clock(date.as_second() - jiff::Timestamp::now().as_second()));
    }
    report
}

/// `ahead`: by how many seconds the server's clock is ahead of ours.
fn clock(ahead: i64) -> Probe {
    let which = if ahead > 0 { "behind" } else { "ahead of" };
    match ahead.abs() <= SKEW_SECONDS {
        true => Probe::ok("clock", "the same as the server's"),
        false => Probe::warn(
            "clock",
            format!(
                "this machine's clock is {} {which} the server's: tokens seem to end at another time than they do",
                count(ahead.unsigned_abs(), "second")
            ),
            "'timedatectl' on both machines shows which one is wrong; 'timedatectl set-ntp true' mends it",
        ),
    }
}

/// Why the server was not reached, step by step.
async fn unreachable(why: &ApiError, place: &Place, chain: &[Certificate], url: &str) -> Probe {
    let Place { host, port, .. } = place;
    let addresses = tokio::time::timeout(LIMIT, tokio::net::lookup_host((host.as_str(), *port))).await;
    let found = match addresses {
        Ok(Ok(found)) => found.count(),
        Ok(Err(_)) | Err(_) => 0,
    };
    if found == 0 {
        return Probe::fail(
            "name",
            format!("nobody knows an address of the host {host}"),
            format!("check the name with 'getent hosts {host}'"),
        );
    }
    let connected = tokio::time::timeout(LIMIT, TcpStream::connect((host.as_str(), *port))).await;
    let refused = match connected {
        Ok(Ok(_)) => None,
        Ok(Err(why)) => Some(crate::failure::reason(&why)),
        Err(_) => Some("no answer, as behind a firewall".to_owned()),
    };
    if let Some(refused) = refused {
        let next =
            format!("check that the server runs ('systemctl status slipway' there) and that port {port} is open");
        return Probe::fail("connection", format!("connecting to {host}, port {port}: {refused}"), next);
    }
    let said = self::chain(why);
    if place.tls && chain.is_empty() {
        return Probe::fail(
            "tls",
            format!("{host}, port {port} does not speak TLS: {said}"),
            format!("try http:// instead of https:// in {url}"),
        );
    }
    if said.contains("certificate") || said.contains("UnknownIssuer") {
        return Probe::fail("tls", format!("its certificate is not trusted: {said}"), trust_next(chain, place, url));
    }
    let failure = Failure::from(why.clone());
    Probe::fail("server", failure.what, failure.next.unwrap_or_default())
}

/// What makes a certificate trusted that is not.
fn trust_next(chain: &[Certificate], place: &Place, url: &str) -> String {
    let named = |leaf: &Certificate| leaf.names.iter().any(|name| name_fits(name, &place.host));
    match chain.first() {
        Some(leaf) if !named(leaf) && !leaf.names.is_empty() => {
            format!(
                "use one of the names it is for ({}), or start the server with '--tls-names {}'",
                leaf.names.join(", "),
                place.host
            )
        }
        Some(leaf) if leaf.issuer.contains("Slipway self-made authority") => {
            format!("copy tls/ca.pem from the server's data folder, then 'slipway login {url} --ca ca.pem'")
        }
        Some(_) | None => {
            format!("get the CA's certificate from whoever runs the server, then 'slipway login {url} --ca FILE'")
        }
    }
}

fn name_fits(name: &str, host: &str) -> bool {
    let wild = name
        .strip_prefix("*.")
        .is_some_and(|rest| host.split_once('.').is_some_and(|(_, below)| below.eq_ignore_ascii_case(rest)));
    wild || name.eq_ignore_ascii_case(host)
}

fn certificate_said(chain: &[Certificate], url: &str) -> Option<Probe> {
    let leaf = chain.first()?;
    let now = jiff::Timestamp::now().as_second();
    let renew =
        "on the server: 'slipway doctor --server' says what to do; a self-made certificate is made anew at each start";
    Some(match leaf.lasts(now) {
        Err(why) => Probe::fail("certificate", format!("the certificate of {url} {why}"), renew),
        Ok(lasts) if leaf.ends_soon(now) => {
            Probe::warn("certificate", format!("the certificate of {url} is good only {lasts}"), renew)
        }
        Ok(lasts) => {
            Probe::ok("certificate", format!("for {}, signed by '{}', {lasts}", leaf.names.join(", "), leaf.issuer))
        }
    })
}

async fn token(settings: &Settings, url: &str, ca: Option<Vec<u8>>) -> Probe {
    let secret = match settings.token() {
        Ok(secret) => secret.to_owned(),
        Err(failure) => return Probe::fail("token", failure.what, failure.next.unwrap_or_default()),
    };
    let asked = match client_new(url, Some(secret), ca) {
        Ok(client) => me(&client).await,
        Err(failure) => Err(failure),
    };
    let me = match asked {
        Ok(me) => me,
        Err(failure) => {
            let from = format!("{} (the token comes from: {})", failure.what, settings.token.origin);
            let login = format!("{}, or set SLIPWAY_TOKEN", settings.login_hint());
            let next =
                if failure.exit == crate::failure::exit::AUTH { login } else { failure.next.unwrap_or_default() };
            return Probe::fail("token", from, next);
        }
    };
    let scopes: Vec<String> = me.scopes.iter().map(crate::words::text).collect();
    let may = if scopes.is_empty() { "everything that the role may".to_owned() } else { scopes.join(" ") };
    let what =
        format!("{} ({}), may: {may}; until {}", me.user.name, crate::words::text(&me.user.role), time(me.expires_at));
    let left = me.expires_at.duration_since(jiff::Timestamp::now());
    match left.as_secs() < i64::try_from(TOKEN_SOON.as_secs()).unwrap_or(i64::MAX) {
        true => {
            Probe::warn("token", format!("it ends soon: {what}"), format!("{} makes a new one", settings.login_hint()))
        }
        false => Probe::ok("token", what),
    }
}

async fn me(client: &Client) -> Result<slipway_api::Me, Failure> {
    client.me().await.map_err(|why| match why.code() {
        Some(Code::ClientTooOld) | Some(_) | None => Failure::from(why),
    })
}

/// Looks at the certificates of a server whoever signed them. Nothing is sent and nothing is believed.
async fn certificates(place: &Place) -> Vec<Certificate> {
    let Ok(name) = ServerName::try_from(place.host.clone()) else { return Vec::new() };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let Ok(builder) = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()
    else {
        return Vec::new();
    };
    let config =
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Onlooker(provider))).with_no_client_auth();
    let looking = async {
        let stream = TcpStream::connect((place.host.as_str(), place.port)).await?;
        tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await
    };
    let Ok(Ok(stream)) = tokio::time::timeout(LIMIT, looking).await else { return Vec::new() };
    let (_, session) = stream.get_ref();
    session.peer_certificates().unwrap_or_default().iter().filter_map(|der| certificate_read(der).ok()).collect()
}

/// Accepts every certificate, because it is only looked at: no secret goes over such a connection.
#[derive(Debug)]
struct Onlooker(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for Onlooker {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::{Place, clock, name_fits};
    use slipway_server::doctor::Verdict;

    #[test]
    fn addresses_are_taken_apart() {
        for (url, tls, host, port) in [
            ("http://slip.lab", false, "slip.lab", 80),
            ("https://slip.lab/base/", true, "slip.lab", 443),
            ("https://127.0.0.1:8440", true, "127.0.0.1", 8440),
            ("http://[::1]:8440/x", false, "::1", 8440),
            ("http://[::1]", false, "::1", 80),
        ] {
            assert_eq!(Place::read(url), Some(Place { tls, host: host.into(), port }), "{url}");
        }
        assert_eq!(Place::read("http://a:b"), None);
    }

    #[test]
    fn clocks_and_names_are_compared() {
        for (ahead, verdict, said) in [
            (0, Verdict::Ok, "same"),
            (-30, Verdict::Ok, "same"),
            (120, Verdict::Warn, "120 seconds behind"),
            (-3600, Verdict::Warn, "3600 seconds ahead"),
        ] {
            let probe = clock(ahead);
            assert!(probe.verdict == verdict && probe.what.contains(said), "{ahead}: {probe:?}");
        }
        for (name, host, fits) in
            [("a.lab", "A.lab", true), ("*.lab", "a.lab", true), ("*.lab", "a.b.lab", false), ("*.lab", "lab", false)]
        {
            assert_eq!(name_fits(name, host), fits, "{name} {host}");
        }
    }
}
