//! Numbers for Prometheus, in its text form.

use super::answer::{Answered, blocking, typed};
use super::ask::Ask;
use axum::http::StatusCode;
use slipway_node::Counts;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Upper ends of the latency buckets, in seconds.
const BUCKETS: [f64; 8] = [0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0];

/// What a service counts of its requests.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    requests: Mutex<BTreeMap<(&'static str, u16), Timed>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Timed {
    count: u64,
    seconds: f64,
    buckets: [u64; BUCKETS.len()],
}

/// This process, as the kernel sees it.
#[derive(Clone, Copy, Debug, Default)]
struct Process {
    resident_bytes: u64,
    threads: u64,
    open_files: u64,
}

pub(crate) async fn show(ask: Ask) -> Answered {
    let site = ask.site;
    let text = blocking(move || Ok(site.metrics.text(&site.host.counts(), process_look()))).await?;
    Ok(typed(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text))
}

fn process_look() -> Process {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    Process {
        resident_bytes: field("VmRSS:").unwrap_or_default() << 10,
        threads: field("Threads:").unwrap_or_default(),
        open_files: std::fs::read_dir("/proc/self/fd").map_or(0, |files| files.count() as u64),
    }
}

impl Metrics {
    /// A request was answered.
    pub(crate) fn request_ended(&self, route: &'static str, status: u16, took: Duration) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let timed = requests.entry((route, status)).or_default();
        timed.count += 1;
        timed.seconds += took.as_secs_f64();
        for (bucket, end) in timed.buckets.iter_mut().zip(BUCKETS) {
            *bucket += u64::from(took.as_secs_f64() <= end);
        }
    }

    fn text(&self, counts: &Counts, process: Process) -> String {
        let mut out = Lines(String::new());
        out.head("slipway_node_objects", "gauge", "Objects by type, kind, and health or state.");
        for ((object, kind, state), count) in &counts.objects {
            out.line("slipway_node_objects", &[("type", object), ("kind", kind), ("state", state)], count);
        }
        for (name, kind, help, value) in [
            ("kernel_calls_pending", "gauge", "Calls of the kernel that have not come back.", counts.calls_pending),
            ("retries_waiting", "gauge", "Removals that are to be tried again.", counts.retries_waiting),
            ("retries_total", "counter", "Removals that were put off.", counts.retries),
            ("container_starts_total", "counter", "Containers that were started.", counts.starts),
            ("container_start_failures_total", "counter", "Containers that did not start.", counts.start_failures),
            ("container_exits_total", "counter", "Ends of containers.", counts.exits),
            ("container_restarts_total", "counter", "Containers started again by themselves.", counts.restarts),
            ("container_ooms_total", "counter", "Processes killed for want of memory.", counts.ooms),
        ] {
            out.one(&format!("slipway_node_{name}"), kind, help, value);
        }
        self.requests_text(&mut out);
        out.one("process_resident_memory_bytes", "gauge", "Memory of the service.", process.resident_bytes);
        out.one("process_open_fds", "gauge", "Open files of the service.", process.open_files);
        out.one("process_threads", "gauge", "Threads of the service.", process.threads);
        out.0
    }

    fn requests_text(&self, out: &mut Lines) {
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let name = "slipway_node_requests_total";
        out.head(name, "counter", "Requests by route and status.");
        for ((route, status), timed) in requests.iter() {
            out.line(name, &[("route", route), ("status", &status.to_string())], timed.count);
        }
        let mut by_route: BTreeMap<&str, Timed> = BTreeMap::new();
        for ((route, _), timed) in requests.iter() {
            let sum = by_route.entry(route).or_default();
            sum.count += timed.count;
            sum.seconds += timed.seconds;
            sum.buckets.iter_mut().zip(timed.buckets).for_each(|(all, one)| *all += one);
        }
        let name = "slipway_node_request_seconds";
        out.head(name, "histogram", "Seconds from a request's header to the beginning of its answer.");
        for (route, timed) in by_route {
            for (end, count) in BUCKETS.iter().zip(timed.buckets) {
                out.line(&format!("{name}_bucket"), &[("route", route), ("le", &end.to_string())], count);
            }
            out.line(&format!("{name}_bucket"), &[("route", route), ("le", "+Inf")], timed.count);
            out.line(&format!("{name}_sum"), &[("route", route)], timed.seconds);
            out.line(&format!("{name}_count"), &[("route", route)], timed.count);
        }
    }
}

struct Lines(String);

impl Lines {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// Label values are words of our own, which need no escapes.
    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}=\"{value}\"")).collect();
        let _ = match labels.is_empty() {
            true => writeln!(self.0, "{name} {value}"),
            false => writeln!(self.0, "{name}{{{}}} {value}", labels.join(",")),
        };
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: impl std::fmt::Display) {
        self.head(name, kind, help);
        self.line(name, &[], value);
    }
}

#[cfg(test)]
mod tests {
    use super::{Counts, Metrics, process_look};
    use std::time::Duration;

    #[test]
    fn what_is_counted_is_shown() {
        let metrics = Metrics::default();
        metrics.request_ended("mount_list", 200, Duration::from_millis(3));
        metrics.request_ended("mount_list", 404, Duration::from_millis(30));
        let mut counts = Counts { ooms: 2, ..Counts::default() };
        counts.objects.insert(("attach", "loopback", "ready".into()), 5);
        let text = metrics.text(&counts, process_look());
        for line in [
            "slipway_node_objects{type=\"attach\",kind=\"loopback\",state=\"ready\"} 5",
            "slipway_node_requests_total{route=\"mount_list\",status=\"404\"} 1",
            "slipway_node_request_seconds_bucket{route=\"mount_list\",le=\"0.005\"} 1",
            "slipway_node_request_seconds_bucket{route=\"mount_list\",le=\"+Inf\"} 2",
            "slipway_node_request_seconds_count{route=\"mount_list\"} 2",
            "slipway_node_container_ooms_total 2",
            "slipway_node_kernel_calls_pending 0",
        ] {
            assert!(text.lines().any(|got| got == line), "{line} in\n{text}");
        }
        let memory = text.lines().find_map(|line| line.strip_prefix("process_resident_memory_bytes ")).unwrap();
        assert!(memory.parse::<u64>().unwrap() > 1 << 20);
    }
}
