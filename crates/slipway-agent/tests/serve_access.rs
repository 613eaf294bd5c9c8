//! Who may do what over the node service: users of the machine, tokens, certificates; and what TLS is needed for.
#![allow(clippy::unwrap_used, reason = "a test")]

mod kit;

use kit::{Lab, exchange, inside};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use serde_json::json;
use slipway_node::access::{Role, TokenFile};
use std::path::Path;
use std::process::Command;

const POLICY: &str = r#"
certificate_role = "read"

[[peer]]
user = "4711"
role = "read"

[[peer]]
group = "4712"
role = "run"

[run]
mount = ["bind", "overlay"]
"#;

fn now_ms() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as i64
}

/// What curl gets as another user: status and body.
fn curl_as(uid: u32, gid: u32, args: &[&str]) -> (u16, String) {
    let ids = [format!("--reuid={uid}"), format!("--regid={gid}"), "--clear-groups".to_owned()];
    let mut command = Command::new("setpriv");
    curl(command.args(ids).arg("curl"), args)
}

fn curl(command: &mut Command, args: &[&str]) -> (u16, String) {
    let output = command.args(["-s", "-m", "20", "-w", "\n%{http_code}"]).args(args).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, status) = text.rsplit_once('\n').unwrap();
    (status.parse().unwrap(), body.to_owned())
}

#[test]
#[ignore = "needs root"]
fn root_users_do_what_the_policy_says() {
    if !inside("root_users_do_what_the_policy_says") {
        return;
    }
    let mut lab = Lab::empty();
    std::fs::write(lab.at("policy.toml"), POLICY).unwrap();
    let policy = lab.path("policy.toml");
    lab.start(&["--policy", &policy, "--socket-group", "4700"], &[]);
    // For the test every one of them may open the socket; what counts is who it is.
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(lab.socket(), std::fs::Permissions::from_mode(0o666)).unwrap();
    let socket = lab.path("sock");
    let ask = |uid, gid, method: &str, path: &str, body: &str| {
        let url = format!("http://node{path}");
        let mut args = vec!["--unix-socket", &socket, "-X", method, &url];
        if !body.is_empty() {
            args.extend(["-H", "Content-Type: application/json", "-d", body]);
        }
        curl_as(uid, gid, &args)
    };
    let mount = lab.post("mount", lab.bound()).made();
    let (root, own) =
        (lab.bound().to_string(), json!({"kind": "overlay", "overlay": {"lower": [{"id": mount["id"]}]}}));
    let delete = format!("/imageapi/v1/mount?id={}", mount["id"]);
    for (who, uid, gid) in [("nobody", 65534, 65534), ("reader", 4711, 1), ("runner", 1, 4712)] {
        let nobody = who == "nobody";
        let looks = ask(uid, gid, "GET", "/imageapi/v1/mount", "");
        assert_eq!(looks.0, if nobody { 403 } else { 200 }, "{who}: {}", looks.1);
        assert_eq!(ask(uid, gid, "GET", "/metrics", "").0, looks.0);
        assert_eq!(ask(uid, gid, "GET", "/livez", "").0, 200);
        for (method, path, body) in [
            ("POST", "/imageapi/v1/mount", root.as_str()),
            ("POST", "/imageapi/v1/mount", &own.to_string()),
            ("DELETE", &delete, ""),
            ("DELETE", &format!("{delete}&force=true"), ""),
        ] {
            let (status, said) = ask(uid, gid, method, path, body);
            assert_eq!(status, 403, "{who} {method} {path}: {said}");
            assert!(said.contains("\"code\":403") && said.contains("\"hint\""), "{said}");
        }
    }
    assert_eq!(lab.get("mount").ok().as_array().unwrap().len(), 1);
    // The policy is read again at SIGHUP; one that is no policy changes nothing.
    std::fs::write(lab.at("policy.toml"), "[[peer]]\nuser = \"65534\"\nrole = \"admin\"").unwrap();
    let hangup = || kit::tool("kill", &["-HUP", &lab.service.as_ref().unwrap().child.id().to_string()]);
    hangup();
    kit::until("nobody is an admin", || ask(65534, 65534, "DELETE", &delete, "").0 == 200);
    std::fs::write(lab.at("policy.toml"), "peers = 3").unwrap();
    hangup();
    kit::until("it says so", || lab.service.as_ref().unwrap().log().contains("the policy so far stays"));
    assert_eq!(ask(65534, 65534, "GET", "/imageapi/v1/mount", "").0, 200);
    assert_eq!(ask(4711, 1, "GET", "/imageapi/v1/mount", "").0, 403);
    // A container that does not say it is privileged for root over the socket alone.
    let container = json!({"command": "/bin/true", "mount": lab.bound()}).to_string();
    let (status, made) = ask(65534, 65534, "POST", "/imageapi/v1/container", &container);
    assert!(status == 201 && made.contains("\"privileged\":false"), "{made}");
    std::fs::remove_file(lab.at("policy.toml")).unwrap();
    lab.close();
}

#[test]
#[ignore = "needs root"]
fn root_tokens_open_tcp_for_their_role_and_time() {
    if !inside("root_tokens_open_tcp_for_their_role_and_time") {
        return;
    }
    let lab = Lab::with(&["--listen", "127.0.0.1:0"], &[]);
    let address = lab.service.as_ref().unwrap().addresses[0].clone();
    let tokens = TokenFile::new(&lab.at("state"));
    let reader = tokens.add("eye", Role::Read, 1, now_ms()).unwrap();
    let admin = tokens.add("hand", Role::Admin, 1, now_ms()).unwrap();
    let old = tokens.add("old", Role::Admin, 1, now_ms() - 2 * 24 * 3600 * 1000).unwrap();
    let body = lab.bound().to_string();
    let ask = |method: &str, token: &str| {
        let value = format!("Bearer {token}");
        let mut headers = vec![("Content-Type", "application/json")];
        if !token.is_empty() {
            headers.push(("Authorization", &value));
        }
        let body: &[u8] = if method == "POST" { body.as_bytes() } else { b"" };
        exchange(kit::connect(&address), method, "/imageapi/v1/mount", &headers, body)
    };
    for (token, looks, makes) in [
        ("", 401, 401),
        ("sln_0000", 401, 401),
        (old.reveal(), 401, 401),
        (reader.reveal(), 200, 403),
        (admin.reveal(), 200, 201),
    ] {
        assert_eq!((ask("GET", token).status, ask("POST", token).status), (looks, makes));
    }
    assert_eq!(ask("GET", "").header("www-authenticate"), Some("Bearer realm=\"slipway node\""));
    let basic = [("Authorization", "Basic eDp5")];
    assert_eq!(exchange(kit::connect(&address), "GET", "/metrics", &basic, b"").status, 401);
    // One that is taken back is refused at once; one that is shown over the socket counts there too, also for root.
    assert!(tokens.remove("hand").unwrap());
    assert_eq!(ask("GET", admin.reveal()).status, 401);
    let shown = format!("Bearer {}", reader.reveal());
    let json = ("Content-Type", "application/json");
    let over = lab.ask_raw("POST", "/imageapi/v1/mount", &[json, ("Authorization", &shown)], body.as_bytes());
    assert_eq!(over.status, 403);
    let log = lab.service.as_ref().unwrap().log();
    assert!(log.contains("token hand (admin)") && !log.contains("sln_"), "{log}");
    lab.close();
}

struct Pki {
    authority: Issuer<'static, KeyPair>,
}

impl Pki {
    fn new(folder: &Path, name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        std::fs::write(folder.join(format!("{name}.pem")), certificate.pem()).unwrap();
        Self { authority: Issuer::new(params, key) }
    }

    /// Files `NAME.pem` and `NAME.key`, and the certificate.
    fn issue(&self, folder: &Path, name: &str) -> Vec<u8> {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.signed_by(&key, &self.authority).unwrap();
        std::fs::write(folder.join(format!("{name}.pem")), certificate.pem()).unwrap();
        std::fs::write(folder.join(format!("{name}.key")), key.serialize_pem()).unwrap();
        certificate.der().to_vec()
    }
}

#[test]
#[ignore = "needs root"]
fn root_certificates_open_tcp_for_their_role() {
    if !inside("root_certificates_open_tcp_for_their_role") {
        return;
    }
    let mut lab = Lab::empty();
    let folder = lab.at("pki");
    std::fs::create_dir(&folder).unwrap();
    let (ours, theirs) = (Pki::new(&folder, "ca"), Pki::new(&folder, "other-ca"));
    ours.issue(&folder, "node");
    let admin = ours.issue(&folder, "admin");
    ours.issue(&folder, "plain");
    theirs.issue(&folder, "stranger");
    std::fs::write(folder.join("admin.der"), &admin).unwrap();
    let print = kit::tool("sha256sum", &[&folder.join("admin.der").display().to_string()]);
    let print = print.split(' ').next().unwrap();
    let policy = format!("certificate_role = \"read\"\n[certificates]\n\"sha256:{print}\" = \"admin\"\n");
    std::fs::write(folder.join("policy.toml"), policy).unwrap();
    let at = |name: &str| folder.join(name).display().to_string();
    let (cert, key, ca, policy) = (at("node.pem"), at("node.key"), at("ca.pem"), at("policy.toml"));
    let tls = ["--tls-cert", &cert, "--tls-key", &key];
    let words = [&tls[..], &["--tls-client-ca", &ca, "--policy", &policy, "--listen", "127.0.0.1:0"]].concat();
    lab.start(&words, &[]);
    let port = lab.service.as_ref().unwrap().addresses[0].strip_prefix("https://127.0.0.1:").unwrap().to_owned();
    let url = format!("https://localhost:{port}/imageapi/v1/mount");
    let body = lab.bound().to_string();
    let ask = |who: Option<&str>, more: &[&str]| {
        let mut command = Command::new("curl");
        command.args(["--cacert", &at("ca.pem")]);
        if let Some(who) = who {
            command.args(["--cert", &at(&format!("{who}.pem")), "--key", &at(&format!("{who}.key"))]);
        }
        curl(&mut command, &[more, &[url.as_str()]].concat()).0
    };
    let make = ["-H", "Content-Type: application/json", "-d", body.as_str()];
    assert_eq!((ask(Some("plain"), &[]), ask(Some("plain"), &make)), (200, 403));
    assert_eq!((ask(Some("admin"), &[]), ask(Some("admin"), &make)), (200, 201));
    // Not even a header of these is read.
    assert_eq!((ask(Some("stranger"), &[]), ask(None, &[])), (0, 0));
    lab.service.take().unwrap().stop();

    // Without a client CA it is tokens, over TLS on any address.
    lab.start(&[&tls[..], &["--listen", "127.0.0.1:0"]].concat(), &[]);
    let port = lab.service.as_ref().unwrap().addresses[0].strip_prefix("https://127.0.0.1:").unwrap().to_owned();
    let url = format!("https://localhost:{port}/imageapi/v1/mount");
    let token = TokenFile::new(&lab.at("state")).add("t", Role::Read, 1, now_ms()).unwrap();
    let header = format!("Authorization: Bearer {}", token.reveal());
    let ask = |args: &[&str]| {
        curl(Command::new("curl").args(["--cacert", &at("ca.pem")]), &[args, &[url.as_str()]].concat()).0
    };
    assert_eq!((ask(&[]), ask(&["-H", &header])), (401, 200));
    std::fs::remove_dir_all(&folder).unwrap();
    lab.close();
}

#[test]
#[ignore = "needs root"]
fn root_what_would_be_open_to_the_network_is_refused() {
    if !inside("root_what_would_be_open_to_the_network_is_refused") {
        return;
    }
    let lab = Lab::empty();
    let (policy, key) = (lab.path("policy.toml"), lab.path("key.pem"));
    let refused = |args: &[&str], exit: i32, word: &str| {
        let (code, said) = lab.command(args, &[]).refused();
        assert!(code == exit && said.contains(word) && said.contains("next: "), "{args:?}: {code} {said}");
    };
    refused(&["--listen", "0.0.0.0:0"], 2, "without TLS would show tokens to the network");
    refused(&["--tls-cert", &key], 2, "TLS needs both");
    refused(&["--policy", &policy], 3, "policy.toml");
    std::fs::write(&policy, "peers = 1").unwrap();
    refused(&["--policy", &policy], 2, "peers");
    std::fs::write(&policy, "").unwrap();
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(&policy, std::fs::Permissions::from_mode(0o666)).unwrap();
    refused(&["--policy", &policy], 4, "may be written by others than root");
    std::fs::write(&key, "no key").unwrap();
    refused(&["--tls-cert", &key, "--tls-key", &key, "--listen", "127.0.0.1:0"], 2, "reading certificates from");
    for file in [&policy, &key] {
        std::fs::remove_file(file).unwrap();
    }
    lab.forget();
}
