//! Numbers for Prometheus, in its text form.

use crate::rules::room::Room;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

/// Upper ends of the latency buckets, in seconds.
const BUCKETS: [f64; 8] = [0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0, 600.0];

/// What one server counts. It is no global, so that two servers in one process do not add up.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    requests: Mutex<BTreeMap<(&'static str, u16), Timed>>,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    running: AtomicI64,
    uploads_done: AtomicU64,
    uploads_failed: AtomicU64,
    panics: AtomicU64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Timed {
    count: u64,
    seconds: f64,
    buckets: [u64; BUCKETS.len()],
}

/// What is asked of the database and the disk at the moment of the question.
#[derive(Debug, Default)]
pub(crate) struct Gauges {
    /// (kind, state, how many).
    pub(crate) tasks: Vec<(String, String, u64)>,
    /// (kind, state, how many, bytes).
    pub(crate) blobs: Vec<(String, String, u64, u64)>,
    pub(crate) uploads_open: u64,
    pub(crate) versions: u64,
    pub(crate) poisoned: bool,
    /// (kind, how many are open).
    pub(crate) findings: Vec<(String, u64)>,
    pub(crate) scrub: ScrubGauges,
    pub(crate) versions_in_trash: u64,
    pub(crate) room: Option<Room>,
    /// Refused by quota, refused for room, put into the trash by rules.
    pub(crate) tallies: [u64; 3],
}

/// Where the scrub stands.
#[derive(Debug, Default)]
pub(crate) struct ScrubGauges {
    /// Seconds since a pass came to its end; none if none did.
    pub(crate) age_seconds: Option<u64>,
    pub(crate) passes: u64,
    /// Blobs, bytes and findings of the pass under way.
    pub(crate) blobs: u64,
    pub(crate) bytes: u64,
    pub(crate) findings: u64,
    pub(crate) paused: bool,
}

impl Metrics {
    /// A request began.
    pub(crate) fn began(&self) {
        self.running.fetch_add(1, Ordering::Relaxed);
    }

    /// A request ended with its last byte.
    pub(crate) fn ended(&self, route: &'static str, status: u16, took: Duration, bytes_in: u64, bytes_out: u64) {
        self.running.fetch_sub(1, Ordering::Relaxed);
        self.bytes_in.fetch_add(bytes_in, Ordering::Relaxed);
        self.bytes_out.fetch_add(bytes_out, Ordering::Relaxed);
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let timed = requests.entry((route, status)).or_default();
        timed.count += 1;
        timed.seconds += took.as_secs_f64();
        for (bucket, end) in timed.buckets.iter_mut().zip(BUCKETS) {
            *bucket += u64::from(took.as_secs_f64() <= end);
        }
    }

    /// An upload became a version, or did not.
    pub(crate) fn upload_ended(&self, fine: bool) {
        let counter = if fine { &self.uploads_done } else { &self.uploads_failed };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// A handler panicked.
    pub(crate) fn panicked(&self) {
        self.panics.fetch_add(1, Ordering::Relaxed);
    }

    /// The exposition.
    pub(crate) fn text(&self, gauges: &Gauges) -> String {
        let mut out = Lines(String::new());
        self.requests_text(&mut out);
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        out.one("slipway_requests_running", "gauge", "Requests in work.", self.running.load(Ordering::Relaxed));
        out.one("slipway_received_bytes_total", "counter", "Bytes of request bodies.", load(&self.bytes_in));
        out.one("slipway_sent_bytes_total", "counter", "Bytes of answer bodies.", load(&self.bytes_out));
        out.one("slipway_panics_total", "counter", "Handlers that panicked.", load(&self.panics));
        out.head("slipway_uploads_total", "counter", "Uploads that were committed, or failed at it.");
        out.line("slipway_uploads_total", &[("outcome", "committed")], load(&self.uploads_done));
        out.line("slipway_uploads_total", &[("outcome", "failed")], load(&self.uploads_failed));
        out.one("slipway_uploads_open", "gauge", "Uploads that take bytes.", gauges.uploads_open);
        out.one("slipway_versions", "gauge", "Versions, trash included.", gauges.versions);
        out.one("slipway_versions_in_trash", "gauge", "Of them, those in the trash.", gauges.versions_in_trash);
        let [quota, room, trashed] = gauges.tallies;
        out.head(
            "slipway_refused_total",
            "counter",
            "Uploads and images that were refused, by what there was too little of.",
        );
        out.line("slipway_refused_total", &[("for", "quota")], quota);
        out.line("slipway_refused_total", &[("for", "room")], room);
        let name = "slipway_retention_trashed_total";
        out.one(name, "counter", "Versions that rules of retention put into the trash.", trashed);
        out.head("slipway_tasks", "gauge", "Tasks by kind and state.");
        for (kind, state, count) in &gauges.tasks {
            out.line("slipway_tasks", &[("kind", kind), ("state", state)], *count);
        }
        out.head("slipway_blobs", "gauge", "Blobs by kind and state.");
        for (kind, state, count, _) in &gauges.blobs {
            out.line("slipway_blobs", &[("kind", kind), ("state", state)], *count);
        }
        out.head("slipway_blob_bytes", "gauge", "Bytes of blobs by kind and state.");
        for (kind, state, _, bytes) in &gauges.blobs {
            out.line("slipway_blob_bytes", &[("kind", kind), ("state", state)], *bytes);
        }
        out.one("slipway_store_poisoned", "gauge", "1 after a flush to disk went wrong.", u8::from(gauges.poisoned));
        if let Some(room) = gauges.room {
            out.one("slipway_free_bytes", "gauge", "Bytes free on the disk that is nearest to its reserve.", room.free);
            out.one("slipway_reserve_bytes", "gauge", "Bytes of that disk that are kept for deleting.", room.reserve);
            let name = "slipway_uploads_refused";
            out.one(name, "gauge", "1 while uploads are refused to keep that free.", u8::from(!room.is_enough()));
        }
        out.head("slipway_findings_open", "gauge", "What is known to be wrong with what is stored, by kind.");
        for kind in ["damaged", "missing", "mismatch", "unknown"] {
            let count = gauges.findings.iter().find(|(found, _)| found == kind).map_or(0, |(_, count)| *count);
            out.line("slipway_findings_open", &[("kind", kind)], count);
        }
        let scrub = &gauges.scrub;
        if let Some(age) = scrub.age_seconds {
            let help = "Seconds since everything that is stored was last read and held against its digests.";
            out.one("slipway_scrub_age_seconds", "gauge", help, age);
        }
        out.one("slipway_scrub_passes_total", "counter", "Passes of the scrub that ended.", scrub.passes);
        out.one("slipway_scrub_pass_blobs", "gauge", "Blobs read by the pass under way.", scrub.blobs);
        out.one("slipway_scrub_pass_bytes", "gauge", "Bytes read by the pass under way.", scrub.bytes);
        out.one("slipway_scrub_pass_findings", "gauge", "Findings of the pass under way.", scrub.findings);
        out.one("slipway_scrub_paused", "gauge", "1 while the scrub is paused.", u8::from(scrub.paused));
        out.0
    }

    fn requests_text(&self, out: &mut Lines) {
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        out.head("slipway_requests_total", "counter", "Requests by operation and status.");
        for ((route, status), timed) in requests.iter() {
            out.line("slipway_requests_total", &[("operation", route), ("status", &status.to_string())], timed.count);
        }
        let mut by_route: BTreeMap<&str, Timed> = BTreeMap::new();
        for ((route, _), timed) in requests.iter() {
            let sum = by_route.entry(route).or_default();
            sum.count += timed.count;
            sum.seconds += timed.seconds;
            sum.buckets.iter_mut().zip(timed.buckets).for_each(|(all, one)| *all += one);
        }
        let name = "slipway_request_seconds";
        out.head(name, "histogram", "Seconds from a request's header to the last byte of its answer.");
        for (route, timed) in by_route {
            for (end, count) in BUCKETS.iter().zip(timed.buckets) {
                out.line(&format!("{name}_bucket"), &[("operation", route), ("le", &end.to_string())], count);
            }
            out.line(&format!("{name}_bucket"), &[("operation", route), ("le", "+Inf")], timed.count);
            out.line(&format!("{name}_sum"), &[("operation", route)], timed.seconds);
            out.line(&format!("{name}_count"), &[("operation", route)], timed.count);
        }
    }
}

struct Lines(String);

impl Lines {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// Label values are our own words: operation ids, kinds and states, which need no escapes.
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
    use super::{Duration, Gauges, Metrics, Room, ScrubGauges};

    #[test]
    fn what_is_counted_is_shown() {
        let metrics = Metrics::default();
        metrics.began();
        metrics.ended("image_get", 200, Duration::from_millis(30), 5, 7);
        metrics.began();
        metrics.upload_ended(true);
        let gauges = Gauges {
            poisoned: true,
            tasks: vec![("prune".into(), "done".into(), 3)],
            findings: vec![("damaged".into(), 2)],
            scrub: ScrubGauges { age_seconds: Some(60), ..ScrubGauges::default() },
            room: Some(Room { free: 9, reserve: 10 }),
            tallies: [2, 3, 4],
            ..Gauges::default()
        };
        let text = metrics.text(&gauges);
        for line in [
            "slipway_requests_total{operation=\"image_get\",status=\"200\"} 1",
            "slipway_request_seconds_bucket{operation=\"image_get\",le=\"0.02\"} 0",
            "slipway_request_seconds_bucket{operation=\"image_get\",le=\"0.1\"} 1",
            "slipway_request_seconds_count{operation=\"image_get\"} 1",
            "slipway_requests_running 1",
            "slipway_received_bytes_total 5",
            "slipway_sent_bytes_total 7",
            "slipway_uploads_total{outcome=\"committed\"} 1",
            "slipway_tasks{kind=\"prune\",state=\"done\"} 3",
            "slipway_store_poisoned 1",
            "slipway_findings_open{kind=\"damaged\"} 2",
            "slipway_findings_open{kind=\"missing\"} 0",
            "slipway_scrub_age_seconds 60",
            "slipway_refused_total{for=\"quota\"} 2",
            "slipway_retention_trashed_total 4",
            "slipway_reserve_bytes 10",
            "slipway_uploads_refused 1",
        ] {
            assert!(text.lines().any(|got| got == line), "{line} in\n{text}");
        }
        assert!(!metrics.text(&Gauges::default()).contains("slipway_free_bytes"));
    }
}
