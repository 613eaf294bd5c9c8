//! The guest itself: both kinds of root, commands, failures, and that nothing of it stays.

#![allow(clippy::unwrap_used, reason = "a test")]

use slipway_lab::{Guest, GuestFile, GuestNet, GuestSpec, LabError, Root, Share};
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

fn alive(pid: u32) -> bool {
    // A process that nobody has waited for yet has an empty command line.
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

#[test]
fn a_guest_on_this_machines_files() {
    let shared = tempfile::tempdir().unwrap();
    std::fs::write(shared.path().join("in"), "from here").unwrap();
    let mut spec = GuestSpec::new(Root::Host).with_modules(&["squashfs", "ext4"]);
    spec.shares.push(Share { host: shared.path().into(), guest: "/srv/lab".into(), writable: true });
    spec.shares.push(Share { host: shared.path().into(), guest: "/srv/ro".into(), writable: false });
    let begun = Instant::now();
    let guest = Guest::boot(&spec).unwrap();
    println!("ready after {} ms", begun.elapsed().as_millis());
    let pid = guest.pid();
    // The root is an overlay of its own: writing works and does not reach this machine.
    assert_eq!(guest.ok("stat -f -c %T /; echo changed > /etc/hostname; cat /etc/hostname"), "overlayfs\nchanged\n");
    assert_ne!(std::fs::read_to_string("/etc/hostname").unwrap_or_default(), "changed\n");
    assert!(guest.ok("cat /proc/modules").contains("squashfs "));
    assert_eq!(guest.ok("cat /srv/lab/in; echo from there > /srv/lab/out"), "from here");
    assert_eq!(std::fs::read_to_string(shared.path().join("out")).unwrap(), "from there\n");
    assert_ne!(guest.run("echo no > /srv/ro/out").unwrap().code, 0);
    // Exit codes, both outputs, more than a pipe holds, no line feed at the end.
    let said = guest.run("printf one; echo two >&2; exit 7").unwrap();
    assert_eq!((said.code, said.stdout.as_str(), said.stderr.as_str()), (7, "one", "two\n"));
    assert_eq!(guest.ok("head -c 300000 /dev/zero | tr '\\0' x").len(), 300_000);
    // Two at once, and one that takes too long.
    let slow = guest.begin("sleep 1; echo slow").unwrap();
    assert_eq!(guest.ok("echo quick"), "quick\n");
    assert!(slow.runs());
    assert_eq!(slow.finish(Duration::from_secs(30)).unwrap().stdout, "slow\n");
    let hung = guest.begin("echo begun; exec sleep 1000").unwrap().finish(Duration::from_millis(500)).unwrap_err();
    assert!(matches!(&hung, LabError::TimedOut { .. }), "{hung}");
    assert!(guest.stop().unwrap().success());
    assert!(!alive(pid));
}

#[test]
fn a_guest_on_an_initramfs() {
    let note = GuestFile { path: "/etc/deep/note".into(), mode: 0o640, bytes: b"a file\n".to_vec() };
    let mut spec = GuestSpec::new(Root::Initramfs(vec![note])).with_modules(&["overlay", "dm-flakey"]);
    spec.memory_mib = 128;
    let guest = Guest::boot(&spec.with_setup("echo set up > /etc/setup")).unwrap();
    assert_eq!(guest.ok("cat /etc/deep/note /etc/setup; stat -c %a /etc/deep/note"), "a file\nset up\n640\n");
    assert!(guest.ok("cat /proc/modules").contains("dm_flakey "));
    // The root is the kernel's own, which cannot be moved away: what this kind of guest is for.
    assert!(guest.ok("cat /proc/mounts").starts_with("rootfs / rootfs"));
    assert_ne!(
        guest.run("mkdir -p /new/old; mount -t tmpfs t /new; mkdir /new/old; pivot_root /new /new/old").unwrap().code,
        0
    );
    let pid = guest.pid();
    guest.kill();
    assert!(!alive(pid));
}

#[test]
fn what_does_not_boot_says_why() {
    let spec = GuestSpec::new(Root::Initramfs(Vec::new()));
    let why = Guest::boot(&spec.clone().with_setup("echo the reason; false")).err().unwrap();
    assert!(matches!(&why, LabError::Ended { console, .. } if console.contains("the reason")), "{why}");
    let why = Guest::boot(&spec.clone().with_modules(&["no-such-module"])).err().unwrap();
    assert!(why.to_string().contains("no-such-module"), "{why}");
    let mut slow = spec.with_setup("sleep 1000");
    slow.boot_limit = Duration::from_secs(6);
    let why = Guest::boot(&slow).err().unwrap();
    assert!(matches!(&why, LabError::TimedOut { .. }), "{why}");
}

#[test]
fn a_panic_of_the_kernel_is_told() {
    let guest = Guest::boot(&GuestSpec::new(Root::Initramfs(Vec::new()))).unwrap();
    let why = guest.run("echo c > /proc/sysrq-trigger").unwrap_err();
    assert!(matches!(&why, LabError::Ended { console, .. } if console.contains("Kernel panic")), "{why}");
}

#[test]
#[ignore = "needs root"]
fn root_guest_reaches_a_socket_of_this_machine() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("echo");
    let net = Arc::new(GuestNet::new().unwrap());
    let port = net.forward(&socket).unwrap();
    let guest = Guest::boot(&GuestSpec::new(Root::Initramfs(Vec::new())).with_net(&net)).unwrap();
    let host = net.host_address();
    let ask = format!("head -c 2000000 /dev/zero | nc -w 5 {host} {port} | md5sum");
    // Nobody listens: the connection ends, and is empty.
    let empty = guest.ok(&ask);
    let listener = UnixListener::bind(&socket).unwrap();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut bytes = vec![0; 2_000_000];
        stream.read_exact(&mut bytes).unwrap();
        stream.write_all(&bytes).unwrap();
    });
    let full = guest.ok(&ask);
    server.join().unwrap();
    assert_ne!(empty, full);
    assert_eq!(full, guest.ok("head -c 2000000 /dev/zero | md5sum"));
    // A server of this machine in the guest's network, and another network beside it with the same addresses.
    let other = GuestNet::new().unwrap();
    for net in [&*net, &other] {
        let out = net.command("ip".as_ref()).args(["-o", "addr", "show", "tap0"]).output().unwrap();
        assert!(String::from_utf8_lossy(&out.stdout).contains("10.99.0.1/24"), "{out:?}");
    }
    assert!(guest.ok("ping -c 1 -w 5 10.99.0.1").contains("1 packets received"));
}
