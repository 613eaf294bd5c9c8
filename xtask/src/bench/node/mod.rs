//! The node service: how long containers take to begin and to end, how many at once, what stays, what it costs; beside runc and unshare.

mod guests;
mod http;
mod service;

use super::Measure;
use super::report::{Found, Row};
use super::sample::{median, so_far};
use super::stage::{Stage, text};
use crate::run::{read, run as program_run};
use crate::tools::tool;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use service::Service;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

pub(super) const MEASURE: Measure = Measure {
    name: "node",
    brief: "containers of the node service, beside runc and crun; one image to several nodes",
    minutes: 11.0,
    about: "The node service: a container on loop + squashfs + overlay, on this kernel beside runc and unshare, and in a guest (user-mode Linux) with control groups of version 2 beside \
            crun, with the same files; and one image to several guests at once. runc and unshare find the files unpacked; what crun finds is said in each row. Needs root.",
    tools: &[
        tool("mksquashfs", "squashfs-tools"),
        tool("busybox", "busybox-static"),
        tool("runc", "runc"),
        tool("crun", "crun"),
        tool("unshare", "util-linux"),
        tool("setpriv", "util-linux"),
        tool("linux.uml", "user-mode-linux"),
        tool("modprobe", "kmod"),
        tool("ip", "iproute2"),
        tool("ceph-mon", "ceph-mon"),
        tool("ceph-osd", "ceph-osd"),
        tool("ceph", "ceph-common"),
    ],
    needs: "root, loop devices, overlay, bridges and taps, control groups",
    run: measure,
};

/// An init that ends as soon as it is asked to.
const COOPERATIVE: &str = "/bin/sh -c \"trap 'exit 0' TERM; while true; do sleep 1000 & wait; done\"";

struct Lab {
    folder: PathBuf,
    image: PathBuf,
    /// The same programs without data, for guests.
    small: PathBuf,
    bundle: PathBuf,
    quick: bool,
}

fn measure(stage: &Stage) -> Result<Found> {
    ensure!(rustix::process::geteuid().is_root(), "the node service needs root");
    let lab = Lab::new(stage)?;
    // Guests have sockets here, whose paths must be short.
    let temporary =
        tempfile::Builder::new().prefix("slipway-bench.").tempdir().context("making a folder for guests")?;
    everything(&lab, temporary.path())
}

fn everything(lab: &Lab, temporary: &Path) -> Result<Found> {
    let mut found = {
        let mut service = Service::start(&lab.folder)?;
        on_this_kernel(lab, &mut service)?
    };
    let mut failed = 0;
    match guests::beside(lab, temporary) {
        Ok(rows) => found.rows.extend(rows),
        Err(why) => {
            failed += 1;
            found.notes.push(format!("No figures beside crun: {why:#}"));
        }
    }
    match guests::several(lab, temporary) {
        Ok(table) => found.tables.push(table),
        Err(why) => {
            failed += 1;
            found.notes.push(format!("No figures of one image to several guests: {why:#}"));
        }
    }
    if failed > 0 {
        found.rows.push(Row::new("measures in guests that failed", "", f64::from(failed)).most(0.0));
    }
    Ok(found)
}

fn on_this_kernel(lab: &Lab, service: &mut Service) -> Result<Found> {
    let mut rows = vec![Row::new("service memory, idle", "MB", service.memory()?).most(16.0)];
    rows.extend(begin_and_end(lab, service)?);
    rows.extend(at_once(lab, service)?);
    rows.extend(cycles(lab, service)?);
    rows.extend(reading(lab, service)?);
    rows.extend(busy(lab, service)?);
    rows.extend(hundred(lab, service)?);
    service.clean_wait(Duration::from_secs(5));
    let left = service.left();
    rows.push(Row::new("left over at the end", "things", left.len() as f64).most(0.0));
    let notes = left.into_iter().map(|what| format!("left over: {what}")).collect();
    Ok(Found { rows, notes, ..Found::default() })
}

impl Lab {
    /// A root file system of busybox: as a squashfs for us, as a directory for the others.
    fn new(stage: &Stage) -> Result<Self> {
        let folder = stage.folder().join("node");
        let bundle = folder.join("bundle");
        let root = bundle.join("rootfs");
        for name in ["bin", "dev", "proc", "sys", "tmp", "run", "etc"] {
            fs::create_dir_all(root.join(name))?;
        }
        fs::copy("/bin/busybox", root.join("bin/busybox"))?;
        for name in ["sh", "true", "sleep", "dd", "cat"] {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(name))?;
        }
        let small = folder.join("small.squashfs");
        read(Command::new("mksquashfs").arg(&root).arg(&small).args(["-quiet", "-no-progress"]))?;
        // Something to read, which compresses as programs do.
        let mut data = Vec::new();
        let busybox = fs::read("/bin/busybox")?;
        while data.len() < if stage.quick { 32 << 20 } else { 128 << 20 } {
            data.extend_from_slice(&busybox);
        }
        fs::write(root.join("data"), data)?;
        let image = folder.join("image.squashfs");
        read(Command::new("mksquashfs").arg(&root).arg(&image).args(["-quiet", "-no-progress"]))?;
        fs::write(bundle.join("config.json"), runc_config().to_string())?;
        Ok(Self { folder, image, small, bundle, quick: stage.quick })
    }

    fn times(&self, full: usize) -> usize {
        if self.quick { full.div_ceil(10) } else { full }
    }

    /// A container on an overlay on a squashfs on a loop device.
    fn container(&self, name: &str, command: &str) -> Value {
        let attach = json!({"kind": "loopback", "loopback": {"path": self.image, "base": "root", "ro": true}});
        let lower = json!({"kind": "attach", "attach": {"fs_type": "squashfs", "attach": attach}});
        let root = json!({"kind": "overlay", "overlay": {"lower": [lower]}});
        json!({"name": name, "command": command, "state": "running", "mount": root})
    }
}

/// What `runc spec` gives, reduced to what our container has too.
fn runc_config() -> Value {
    let mount = |kind: &str, to: &str| json!({"destination": to, "type": kind, "source": kind});
    json!({
        "ociVersion": "1.0.2",
        "process": {"user": {"uid": 0, "gid": 0}, "args": ["/bin/true"], "env": ["PATH=/bin"], "cwd": "/"},
        "root": {"path": "rootfs"},
        "mounts": [mount("proc", "/proc"), mount("tmpfs", "/dev"), mount("devpts", "/dev/pts"), mount("tmpfs", "/dev/shm"), mount("mqueue", "/dev/mqueue")],
        "linux": {"namespaces": [{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}]},
    })
}

fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

fn timed_quiet(command: &mut Command) -> Result<f64> {
    let begun = Instant::now();
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status()?;
    ensure!(status.success(), "{:?}: {status}", command.get_program());
    Ok(ms(begun))
}

/// Until the init is executed; then stop, deletion and a clean kernel.
fn begin_and_end(lab: &Lab, service: &Service) -> Result<Vec<Row>> {
    let (mut begins, mut ends, mut runcs, mut floors) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for n in 0..lab.times(200) {
        let container = lab.container("one", COOPERATIVE);
        let begun = Instant::now();
        let made = service.ok("POST", "/container", Some(&container))?;
        begins.push(ms(begun));
        ensure!(made["state"] == "running", "{made}");
        // The first process of a namespace hears only signals that it handles: the shell needs a moment to say that it does.
        std::thread::sleep(Duration::from_millis(100));
        let begun = Instant::now();
        service.ok("PATCH", "/container?name=one&state=exited", None)?;
        while service.ok("GET", "/container?name=one", None)?[0]["state"] == "stopping" {
            std::thread::sleep(Duration::from_micros(500));
        }
        service.ok("DELETE", "/container?name=one", None)?;
        while !service.left().is_empty() {
            ensure!(begun.elapsed() < Duration::from_secs(20), "left after a deletion: {:?}", service.left());
            std::thread::sleep(Duration::from_micros(500));
        }
        ends.push(ms(begun));
        let mut runc = Command::new("runc");
        runcs.push(timed_quiet(runc.args(["run", "--bundle"]).arg(&lab.bundle).arg(format!("slipway-bench-{n}")))?);
        let mut floor = Command::new("unshare");
        floors.push(timed_quiet(
            floor.args(["-m", "-p", "-i", "-u", "-f", "chroot"]).arg(lab.bundle.join("rootfs")).arg("/bin/true"),
        )?);
    }
    let floor = median(floors);
    let end = median(ends);
    Ok(vec![
        Row::new("POST of a nested container until its init was executed", "ms", median(begins)).times(
            "runc run",
            Some(median(runcs)),
            1.0,
        ),
        Row::new("stop and DELETE until the kernel is clean", "ms", end)
            .peer("unshare, chroot, true", floor)
            .goal("≤ 25 ms, ≤ 3 × + 20 ms", end <= 25.0 && end <= 3.0 * floor + 20.0),
    ])
}

/// Runs `count` requests at once and gives what they answered.
fn together(count: usize, request: impl Fn(usize) -> Result<Value> + Sync) -> Vec<Result<Value>> {
    std::thread::scope(|scope| {
        let request = &request;
        let all: Vec<_> = (0..count).map(|n| scope.spawn(move || request(n))).collect();
        all.into_iter().map(|one| one.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a thread panicked")))).collect()
    })
}

fn at_once(lab: &Lab, service: &Service) -> Result<Vec<Row>> {
    let attach = json!({"kind": "loopback", "loopback": {"path": lab.image, "base": "root", "ro": true}});
    let begun = Instant::now();
    let loops = together(50, |_| service.ok("POST", "/attach", Some(&attach)));
    let loops_ms = ms(begun);
    let begun = Instant::now();
    let containers =
        together(20, |n| service.ok("POST", "/container", Some(&lab.container(&format!("c{n}"), COOPERATIVE))));
    let containers_ms = ms(begun);
    let dead = containers.iter().flatten().filter(|made| made["state"] != "running").count();
    let failures = |all: &[Result<Value>]| all.iter().filter(|one| one.is_err()).count() as f64;
    let rows = vec![
        Row::new("50 loop devices attached at once: failures", "", failures(&loops)).most(0.0),
        Row::new("50 loop devices attached at once", "ms", loops_ms),
        Row::new("20 nested containers at once: failures", "", failures(&containers) + dead as f64).most(0.0),
        Row::new("20 nested containers at once", "ms", containers_ms),
    ];
    for made in loops.iter().flatten() {
        service.ok("DELETE", &format!("/attach?id={}", made["id"]), None)?;
    }
    together(20, |n| service.ok("DELETE", &format!("/container?name=c{n}&force=true"), None))
        .into_iter()
        .collect::<Result<Vec<_>>>()?;
    Ok(rows)
}

fn cycles(lab: &Lab, service: &Service) -> Result<Vec<Row>> {
    // Killed without patience, since it has no time to say that it hears signals.
    let mut container = lab.container("cycle", COOPERATIVE);
    container["stop_timeout"] = json!(0);
    let cycle = || -> Result<()> {
        service.ok("POST", "/container", Some(&container))?;
        service.ok("DELETE", "/container?name=cycle&force=true", None).map(drop)
    };
    // What is made once, such as threads, is made before.
    for _ in 0..20 {
        cycle()?;
    }
    let (memory, descriptors) = (service.memory()?, service.descriptors());
    let count = lab.times(2000);
    for _ in 0..count {
        cycle()?;
    }
    std::thread::sleep(Duration::from_secs(3));
    let left = service.left().len() + service.descriptors().saturating_sub(descriptors);
    Ok(vec![
        Row::new(format!("{count} times create, run, delete: things left"), "", left as f64).most(0.0),
        Row::new(format!("{count} times create, run, delete: growth of the service"), "MB", service.memory()? - memory)
            .most(4.0),
    ])
}

/// Unmounted when it is dropped.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// Through overlay and image, beside the image mounted alone.
fn reading(lab: &Lab, service: &Service) -> Result<Vec<Row>> {
    let made = service.ok("POST", "/mount", Some(&lab.container("", "")["mount"]))?;
    let ours = PathBuf::from(made["mountpoint"].as_str().context("a mount without a mountpoint")?).join("data");
    let at = lab.folder.join("plain");
    fs::create_dir_all(&at)?;
    program_run(Command::new("mount").args(["-t", "squashfs", "-o", "ro,loop"]).arg(&lab.image).arg(&at))?;
    let mounted = Mounted(at.clone());
    let plain = at.join("data");
    let mib = fs::metadata(&plain)?.len() as f64 / f64::from(1 << 20);
    let rate = |path: &Path| -> Result<f64> {
        fs::write("/proc/sys/vm/drop_caches", "3").context("dropping caches")?;
        let mut dd = Command::new("dd");
        let took = timed_quiet(dd.arg(format!("if={}", text(path)?)).args(["of=/dev/null", "bs=1M"]))?;
        Ok(mib / (took / 1e3))
    };
    let (mut through, mut alone) = (Vec::new(), Vec::new());
    for _ in 0..lab.times(30).max(5) {
        through.push(rate(&ours)?);
        alone.push(rate(&plain)?);
    }
    drop(mounted);
    service.ok("DELETE", &format!("/mount?id={}", made["id"]), None)?;
    let (through, alone) = (median(through), median(alone));
    Ok(vec![
        Row::new("sequential read through overlay and image", "MiB/s", through)
            .peer("the image mounted alone", alone)
            .goal("≥ 0.95 ×", through >= 0.95 * alone),
    ])
}

/// A mount that somebody keeps busy when its container goes.
fn busy(lab: &Lab, service: &Service) -> Result<Vec<Row>> {
    let made = service.ok("POST", "/container", Some(&lab.container("busy", COOPERATIVE)))?;
    let at = made["mount"]["mountpoint"].as_str().context("a container without a mountpoint")?;
    // Ends with us, however that is.
    let mut holder = Command::new("setpriv").args(["--pdeathsig", "KILL", "sleep", "1000"]).current_dir(at).spawn()?;
    let seconds = if lab.quick { 10.0 } else { 60.0 };
    let (lines, cpu) = (service.log().lines().count(), so_far(service.pid())?.cpu);
    service.ok("DELETE", "/container?name=busy&force=true", None)?;
    std::thread::sleep(Duration::from_secs_f64(seconds));
    let (lines, cpu) = (service.log().lines().count() - lines, so_far(service.pid())?.cpu - cpu);
    holder.kill()?;
    holder.wait()?;
    service.clean_wait(Duration::from_secs(40));
    let what = format!("a mount busy for {seconds:.0} s");
    Ok(vec![
        Row::new(format!("{what}: processor"), "%", cpu / seconds * 100.0).goal("< 1 %", cpu / seconds < 0.01),
        Row::new(format!("{what}: lines in the log"), "", lines as f64).most(12.0),
        Row::new(format!("{what}: left 40 s after it was let go"), "", service.left().len() as f64).most(0.0),
    ])
}

/// A hundred containers, and the service killed over them.
fn hundred(lab: &Lab, service: &mut Service) -> Result<Vec<Row>> {
    for n in 0..100 {
        // Every second one ends while no service runs, each with a code of its own.
        let command = if n % 2 == 0 {
            COOPERATIVE.to_owned()
        } else {
            format!("/bin/sh -c \"trap 'exit {n}' TERM; while true; do sleep 1000 & wait; done\"")
        };
        let made = service.ok("POST", "/container", Some(&lab.container(&format!("h{n}"), &command)))?;
        ensure!(made["state"] == "running", "{made}");
    }
    let memory = service.memory()?;
    let shims = service.shims();
    let all = service.ok("GET", "/container", None)?;
    let all = all.as_array().context("no list of containers")?;
    for one in all.iter().filter(|one| name_number(one).is_some_and(|n| n % 2 == 1)) {
        let pid = one["pid"].as_i64().and_then(|pid| rustix::process::Pid::from_raw(i32::try_from(pid).ok()?));
        rustix::process::kill_process(pid.context("a container without a pid")?, rustix::process::Signal::TERM)?;
    }
    let ready = service.kill_and_start()?;
    std::thread::sleep(Duration::from_secs(1));
    let after = service.ok("GET", "/container", None)?;
    let right = after.as_array().into_iter().flatten().filter(|one| match name_number(one) {
        Some(n) if n % 2 == 1 => one["exit"]["code"] == n,
        Some(_) => one["state"] == "running",
        None => false,
    });
    let lost = 100 - right.count();
    let service = &*service;
    together(100, |n| service.ok("DELETE", &format!("/container?name=h{n}&force=true"), None))
        .into_iter()
        .collect::<Result<Vec<_>>>()?;
    Ok(vec![
        Row::new("service memory with 100 containers", "MB", memory).most(32.0),
        Row::new("private memory of a shim", "MB", median(shims)).most(2.0),
        Row::new("kill -9 of the service with 100 containers until ready again", "s", ready).most(0.5),
        Row::new("containers and exit codes lost by it", "", lost as f64).most(0.0),
    ])
}

fn name_number(container: &Value) -> Option<u64> {
    container["name"].as_str()?.strip_prefix('h')?.parse().ok()
}
