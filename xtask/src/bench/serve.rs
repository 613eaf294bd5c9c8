//! One server and many clients that fetch what a flash fetches, beside nginx with the same files.

use super::Measure;
use super::contest::{Contender, contest, sample_of};
use super::own::agent;
use super::peers::remove;
use super::plot::{Plot, Series};
use super::proxy::{Asked, Proxy, Wire};
use super::report::{Found, Line, Row};
use super::sample::{Sample, median, peak_forget, so_far};
use super::stage::{Stage, calm, text};
use crate::demo::server::Server;
use crate::run::read;
use crate::tools::{command, tool, tools_need};
use anyhow::{Context, Result, bail, ensure};
use std::cell::RefCell;
use std::fmt::Write;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

pub(super) const MEASURE: Measure = Measure {
    name: "serve",
    brief: "1, 8 and 32 clients of one server, beside nginx",
    minutes: 2.0,
    about: "1, 8 and 32 clients at once ask for the ranges of packs that `slipway-agent flash` of v1 asks for, recorded and repeated by curl, so that \
            neither decoding nor a disk is in the way; beside nginx with `sendfile off` and the same files. CPU and memory are those of the server. \
            The clients share the cores with it.",
    tools: &[tool("curl", "curl")],
    needs: "nothing",
    run,
};

const CLIENTS: [usize; 3] = [1, 8, 32];
const OURS: &str = "slipway serve";
const NGINX: &str = "nginx, sendfile off";

fn run(stage: &Stage) -> Result<Found> {
    let program = stage.program();
    let mut found = Found::default();
    let mut own = stage.server_new("serve")?;
    read(&mut own.slipway(stage, &["push", text(&stage.data()?.v1)?, "me/os", "-q"])?)?;
    let pushed = calm(own.get()?)?;
    found.rows.push(Row::new("memory of the server before, push and digests", "MB", pushed.peak_mb));
    let asked = record(stage, own.get()?, "me/os:0")?;
    plain(stage, own.get()?, &asked, &mut found)?;
    // The same data and the same addresses, behind TLS.
    let server = own.again(&program, &["--tls-self-made"])?;
    let tls = vec![Contender::one("slipway serve, TLS", || load(stage, &server.url, server_pids(server)?, &asked, 8))];
    let lines = contest(stage.runs(), &["8 clients, TLS"], tls);
    if let Some(Ok(sample)) = lines.first().map(|line| line.result.as_ref()) {
        found.rows.push(Row::new("processor of the server for 100 MB, TLS", "ms", per_100_mb(sample)));
    }
    found.lines.extend(lines);
    Ok(found)
}

fn per_100_mb(sample: &Sample) -> f64 {
    sample.cpu * 1e3 / (sample.fetched_mb.unwrap_or(f64::NAN) / 100.0)
}

fn plain(stage: &Stage, server: &Server, asked: &[Asked], found: &mut Found) -> Result<()> {
    let nginx = Nginx::start(stage, server, asked);
    let shares = RefCell::new(Vec::new());
    let mut curves = [OURS, NGINX].map(|name| Series { name: name.to_owned(), points: Vec::new() });
    let mut costs = curves.clone();
    for clients in CLIENTS {
        let step = if clients == 1 { "1 client".to_owned() } else { format!("{clients} clients") };
        let contenders = vec![
            Contender::one(OURS, || {
                let sample = load_shares(stage, &server.url, server_pids(server)?, asked, clients, &shares)?;
                Ok(sample)
            }),
            Contender::one(NGINX, || match &nginx {
                Ok(nginx) => load(stage, &nginx.url, nginx.pids()?, &nginx.asked, clients),
                Err(why) => bail!("{why:#}"),
            }),
        ];
        let lines: Vec<Line> = contest(stage.runs(), &[&step], contenders);
        let ours = sample_of(&lines, &step, OURS).context("our own server gave no figure")?;
        let speed = |sample: Sample| sample.fetched_mb.unwrap_or(f64::NAN) / sample.wall;
        let row = Row::new(format!("G10 throughput, {step}"), "MB/s", speed(ours));
        found.rows.push(match sample_of(&lines, &step, NGINX).map(speed) {
            Some(theirs) => row.peer(NGINX, theirs).goal("≥ 0.7 ×", speed(ours) >= 0.7 * theirs),
            None => row,
        });
        let own = per_100_mb(&ours);
        let row = Row::new(format!("G10 processor of the server for 100 MB, {step}"), "ms", own);
        let row = match sample_of(&lines, &step, NGINX) {
            Some(sample) => row.peer(NGINX, per_100_mb(&sample)),
            None => row,
        };
        found.rows.push(row.most(25.0));
        let most = 64.0 * 1.048_576 + 0.262_144 * clients as f64;
        found.rows.push(Row::new(format!("G10 memory of the server, {step}"), "MB", ours.peak_mb).most(most));
        if clients > 1 {
            let share = median(shares.take());
            let row = Row::new(format!("G10 slowest client's rate over the median, {step}"), "×", share);
            found.rows.push(row.goal("≥ 0.5", share >= 0.5));
        }
        for (n, who) in [OURS, NGINX].iter().enumerate() {
            if let Some(sample) = sample_of(&lines, &step, who) {
                curves[n].points.push((clients as f64, speed(sample)));
                costs[n].points.push((clients as f64, per_100_mb(&sample)));
            }
        }
        found.lines.extend(lines);
    }
    for (name, y, series) in [
        ("clients-throughput", "MB/s, all clients together", curves),
        ("clients-processor", "ms of the server's processor for 100 MB", costs),
    ] {
        let title = format!("Serving 1, 8 and 32 clients: {y}");
        found.plots.push(Plot { name, title, x: "clients".into(), y: y.into(), series: series.into() });
    }
    Ok(())
}

/// What a flash asks for, seen on its way.
pub(super) fn record(stage: &Stage, server: &Server, reference: &str) -> Result<Vec<Asked>> {
    let proxy = Proxy::start(&server.url, Wire::default())?;
    let target = stage.folder().join("recorded.img");
    let mut flash = server.client(&agent());
    flash.env("SLIPWAY_URL", proxy.url()).args(["flash", reference]).arg(&target).arg("--no-verify");
    read(&mut flash)?;
    remove(&target)?;
    let asked: Vec<_> = proxy.asked_take().into_iter().filter(|asked| asked.range.is_some()).collect();
    ensure!(!asked.is_empty(), "the flash asked for no ranges");
    Ok(asked)
}

fn server_pids(server: &Server) -> Result<Vec<u32>> {
    Ok(vec![server.pid().context("the server has ended")?])
}

fn load(stage: &Stage, url: &str, pids: Vec<u32>, asked: &[Asked], clients: usize) -> Result<Sample> {
    load_shares(stage, url, pids, asked, clients, &RefCell::default())
}

/// So many curls at once, each with all of the requests; few clients ask several times, so that there is something to measure.
fn load_shares(
    stage: &Stage,
    url: &str,
    pids: Vec<u32>,
    asked: &[Asked],
    clients: usize,
    shares: &RefCell<Vec<f64>>,
) -> Result<Sample> {
    let mut script = String::new();
    for (number, Asked { path, range }) in asked.iter().enumerate() {
        // "next" begins another transfer over the same connection.
        let next = if number == 0 { "" } else { "next\n" };
        let range = range.as_deref().unwrap_or("0-");
        writeln!(
            script,
            "{next}url = \"{url}{path}\"\nrange = {range}\noutput = /dev/null\ninsecure\nsilent\nshow-error\nfail"
        )?;
    }
    let file = stage.folder().join("curl.conf");
    std::fs::write(&file, script).context("writing what curl shall ask")?;
    let passes = (8 / clients).max(1);
    let bytes: u64 = asked.iter().filter_map(range_len).sum::<u64>() * (clients * passes) as u64;
    for pid in &pids {
        // The peak is that of this run.
        peak_forget(*pid)?;
    }
    let total = |pids: &[u32]| -> Result<(f64, f64)> {
        let each = pids.iter().map(|pid| so_far(*pid)).collect::<Result<Vec<_>>>()?;
        Ok((each.iter().map(|s| s.cpu).sum(), each.iter().map(|s| s.peak_mb).sum()))
    };
    let (before, _) = total(&pids)?;
    let begun = Instant::now();
    let running: Vec<_> = (0..clients)
        .map(|_| {
            let file = file.clone();
            thread::spawn(move || -> Result<f64> {
                let begun = Instant::now();
                for _ in 0..passes {
                    read(command("curl").arg("--config").arg(&file))?;
                }
                Ok(begun.elapsed().as_secs_f64())
            })
        })
        .collect();
    let mut seconds = Vec::new();
    for client in running {
        match client.join() {
            Ok(took) => seconds.push(took?),
            Err(_) => bail!("a client's thread panicked"),
        }
    }
    let wall = begun.elapsed().as_secs_f64();
    let (after, peak_mb) = total(&pids)?;
    let slowest = seconds.iter().copied().fold(0.0, f64::max);
    shares.borrow_mut().push(median(seconds) / slowest);
    Ok(Sample { wall, cpu: after - before, peak_mb, fetched_mb: Some(bytes as f64 / 1e6), ..Sample::default() })
}

fn range_len(asked: &Asked) -> Option<u64> {
    let (from, to) = asked.range.as_deref()?.split_once('-')?;
    Some(to.parse::<u64>().ok()? + 1 - from.parse::<u64>().ok()?)
}

/// An nginx of its own, without anything of the system's configuration.
struct Nginx {
    process: Child,
    url: String,
    asked: Vec<Asked>,
}

impl Nginx {
    fn start(stage: &Stage, server: &Server, asked: &[Asked]) -> Result<Self> {
        let missing = crate::tools::find("nginx").is_none();
        tools_need(&[tool("nginx", "nginx-light")])?;
        if missing && crate::tools::find("systemctl").is_some() {
            // Debian starts what it installs.
            let _ = command("systemctl").args(["disable", "--now", "nginx"]).stderr(Stdio::null()).status();
        }
        let folder = stage.folder().join("nginx");
        std::fs::create_dir_all(folder.join("files")).context("making a folder")?;
        let mut own = Vec::new();
        for one in asked {
            let name =
                one.path.split('?').next().and_then(|path| path.rsplit('/').next()).context("a pack has a name")?;
            let file = folder.join("files").join(name);
            if !file.exists() {
                // The server's own file has another name; its bytes are these.
                read(
                    command("curl").args(["-sS", "--fail", "-o"]).arg(&file).arg(format!("{}{}", server.url, one.path)),
                )?;
            }
            own.push(Asked { path: format!("/{name}"), range: one.range.clone() });
        }
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .and_then(|free| free.local_addr())
            .context("finding a port")?
            .port();
        let config = folder.join("nginx.conf");
        let (at, user) = (folder.display(), if crate::run::is_root() { "user root;\n" } else { "" });
        std::fs::write(
            &config,
            format!(
                "{user}daemon off;\nworker_processes auto;\npid {at}/pid;\nerror_log {at}/error.log;\nevents {{ worker_connections 256; }}\n\
                 http {{ access_log off; sendfile off; keepalive_requests 1000000; output_buffers 2 512k;\n\
                 client_body_temp_path {at}/b; proxy_temp_path {at}/p; fastcgi_temp_path {at}/f; uwsgi_temp_path {at}/u; scgi_temp_path {at}/s;\n\
                 server {{ listen 127.0.0.1:{port}; root {at}/files; }} }}\n"
            ),
        )
        .context("writing nginx.conf")?;
        let mut start = command("nginx");
        start.arg("-e").arg(folder.join("error.log")).arg("-c").arg(&config).stdin(Stdio::null()).stderr(Stdio::null());
        let mut nginx = Self {
            process: start.spawn().context("starting nginx")?,
            url: format!("http://127.0.0.1:{port}"),
            asked: own,
        };
        for _ in 0..100 {
            if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Ok(nginx);
            }
            if let Some(status) = nginx.process.try_wait().context("looking at nginx")? {
                let why = std::fs::read_to_string(folder.join("error.log")).unwrap_or_default();
                bail!("nginx ended with {status}: {}", why.trim());
            }
            thread::sleep(Duration::from_millis(50));
        }
        bail!("nginx does not listen")
    }

    /// The master and its workers.
    fn pids(&self) -> Result<Vec<u32>> {
        let master = self.process.id();
        let listed = std::fs::read_to_string(format!("/proc/{master}/task/{master}/children"))
            .context("listing nginx's workers")?;
        Ok(std::iter::once(master).chain(listed.split_whitespace().filter_map(|pid| pid.parse().ok())).collect())
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        if let Some(pid) = rustix::process::Pid::from_raw(self.process.id().cast_signed()) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.process.wait();
    }
}
