//! How many may be at it at one time, and trees from servers with certificates of a CA of one's own.
#![allow(clippy::unwrap_used, reason = "a test")]

mod kit;

use kit::{Lab, inside, until};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::json;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

/// As many as the service allows, of each kind.
const MOST: usize = 64;

/// Sends a request, and reads the head of its answer.
fn begin(lab: &Lab, head: &str, body: &str) -> (u16, UnixStream) {
    let mut stream = UnixStream::connect(lab.socket()).unwrap();
    stream.set_read_timeout(Some(kit::LONG)).unwrap();
    let json = format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
    let about = if body.is_empty() { "" } else { &json };
    write!(stream, "{head} HTTP/1.1\r\nHost: x\r\n{about}").unwrap();
    if !body.is_empty() {
        write!(stream, "Connection: Upgrade\r\nUpgrade: slipway-exec\r\n").unwrap();
    }
    write!(stream, "\r\n{body}").unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    (kit::head_read(&mut reader).0, stream)
}

#[test]
#[ignore = "needs root"]
fn root_no_more_than_so_many_at_one_time() {
    if !inside("root_no_more_than_so_many_at_one_time") {
        return;
    }
    let lab = Lab::new();
    let command = "/bin/sh -c 'trap \"exit 0\" TERM; while :; do sleep 0.05; done'";
    let body = json!({"name": "c", "mount": lab.bound(), "command": command, "state": "running", "stop_timeout": 1});
    lab.post("container", body).made();
    let exec = json!({"command": ["/bin/sleep", "71300"]}).to_string();
    let events = ("GET /imageapi/v1/events", "", 200, "64 clients follow events or logs");
    let logs = ("GET /imageapi/v1/container/logs?name=c&follow=true", "", 200, "64 clients follow events or logs");
    let commands = ("POST /imageapi/v1/container/exec?name=c", exec.as_str(), 101, "64 commands run");
    for (kinds, last) in [(vec![events, logs], events), (vec![commands], commands)] {
        let mut at_it = Vec::new();
        for n in 0..MOST {
            let (head, body, status, _) = kinds[n % kinds.len()];
            let (said, stream) = begin(&lab, head, body);
            assert_eq!(said, status, "{head} {n}");
            at_it.push(stream);
        }
        let (head, body, status, why) = last;
        let (method, path) = head.split_once(" /imageapi/v1/").unwrap();
        let full = || lab.api(method, path, serde_json::from_str(body).ok().as_ref());
        let refused = full();
        assert_eq!(refused.status, 503, "{}", refused.text());
        assert!(refused.text().contains(why) && refused.text().contains("hint"), "{}", refused.text());
        // Whoever looks is not kept from looking; whoever was there stays there; a place that is free is taken.
        assert_eq!(lab.one("container?name=c")["state"], "running");
        assert!(at_it.iter().all(|stream| {
            stream.set_nonblocking(true).unwrap();
            let peeked = (&mut &*stream as &mut dyn std::io::Read).read(&mut [0; 4096]);
            peeked.map_or(true, |len| len > 0)
        }));
        at_it.pop();
        until("there is a place again", || begin(&lab, head, body).0 == status);
        drop(at_it);
    }
    lab.api("PATCH", "container?name=c&state=exited", None).ok();
    until("it has exited", || lab.one("container?name=c")["state"] == "exited");
    lab.close();
}

/// Gives these bytes over TLS, with a certificate for `localhost`; gives the PEM of its CA, and its address.
fn serve(bytes: Vec<u8>) -> (String, String) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let ca = params.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().unwrap();
    let own = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from(own.der().to_vec())],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (config, bytes) = (config.clone(), bytes.clone());
            std::thread::spawn(move || {
                let tls = StreamOwned::new(ServerConnection::new(config).unwrap(), stream);
                let mut reader = BufReader::new(tls);
                let mut line = String::new();
                while reader.read_line(&mut line)? > 2 {
                    line.clear();
                }
                let tls = reader.get_mut();
                write!(tls, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", bytes.len())?;
                tls.write_all(&bytes)?;
                tls.conn.send_close_notify();
                tls.flush()
            });
        }
    });
    (ca, address)
}

#[test]
#[ignore = "needs root"]
fn root_a_tree_comes_over_tls() {
    if !inside("root_a_tree_comes_over_tls") {
        return;
    }
    let mut lab = Lab::empty();
    std::fs::create_dir(lab.at("tree")).unwrap();
    std::fs::write(lab.at("tree/file"), "over TLS\n").unwrap();
    kit::tool("tar", &["-C", &lab.path("tree"), "-cf", &lab.path("tree.tar"), "."]);
    let (ca, address) = serve(std::fs::read(lab.at("tree.tar")).unwrap());
    let other = serve(Vec::new()).0;
    std::fs::write(lab.at("ca.pem"), ca).unwrap();
    std::fs::write(lab.at("other.pem"), other).unwrap();
    let wanted = json!({"kind": "uri", "uri": {"uri": format!("{address}/tree.tar"), "format": "tar"}});
    // The CAs of the service's environment, as everywhere on the machine.
    let path = lab.path("ca.pem");
    lab.start(&[], &[("SSL_CERT_FILE", &path)]);
    let mount = lab.post("mount", wanted.clone()).made();
    let file = format!("{}/file", mount["mountpoint"].as_str().unwrap());
    // It is in the mount namespace of this test.
    assert_eq!(std::fs::read_to_string(file).unwrap(), "over TLS\n");
    lab.api("DELETE", &format!("mount?id={}", mount["id"]), None).ok();
    // Another name than the certificate's, and then another CA.
    let by_number = wanted.to_string().replace("localhost", "127.0.0.1");
    let refused = lab.post("mount", serde_json::from_str(&by_number).unwrap());
    assert!(refused.status == 500 && refused.text().contains("certificate"), "{}", refused.text());
    lab.service.take().unwrap().stop();
    let path = lab.path("other.pem");
    lab.start(&[], &[("SSL_CERT_FILE", &path)]);
    let refused = lab.post("mount", wanted);
    assert_eq!(refused.status, 500);
    assert!(refused.text().contains("\"download\"") && refused.text().contains("certificate"), "{}", refused.text());
    assert_eq!(lab.get("mount").ok(), json!([]));
    lab.close();
}
