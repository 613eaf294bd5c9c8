//! `slipway doctor`: looks at everything that has to be right and says what to do about what is not.

use super::serve::Subject;
use crate::context::Context;
use crate::failure::{Failure, exit};
use crate::human::{clean, count};
use crate::output::{Output, Table};
use crate::style::Paint;
use slipway_server::doctor::{Probe, Verdict};

/// Look at settings, server, disk, clock, TLS, database, blobs; say what to do
#[derive(Debug, clap::Args)]
#[command(after_help = "\
As a client: settings, the way to the server, its certificate and clock, the token. With --server, or with any \
option of 'slipway serve' (--data, --config, --database, --blobs, --listen, --tls-cert …): what that server \
would find. It changes nothing and may run beside a running server. Exit code 1 if something does not work.

Examples:
  slipway doctor
  slipway doctor --server --config /etc/slipway/slipway.toml
  slipway doctor --data /srv/slipway -o json")]
pub(crate) struct Args {
    #[command(flatten)]
    subject: Subject,
    #[command(flatten)]
    output: Output,
}

pub(crate) async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    let report = match args.subject.server() {
        Some(flags) => crate::doctor::server_examine(flags).await,
        None => crate::doctor::client_examine(cx).await,
    };
    report_print(&report, &args.output, cx)
}

/// Prints what was seen; fails if something does not work.
pub(crate) fn report_print(report: &[Probe], output: &Output, cx: &Context) -> Result<(), Failure> {
    match output.for_programs() {
        true => output.list(report, |_| Table::new(&[]))?,
        false => crate::output::print(&text(report, cx.paint_out()))?,
    }
    let bad = report.iter().filter(|probe| probe.verdict == Verdict::Fail).count() as u64;
    match bad {
        0 => Ok(()),
        _ => Err(Failure::new(exit::FAILED, format!("{} of {} failed", count(bad, "check"), report.len()))
            .next("do what stands after 'next:' above, the first one first")),
    }
}

fn text(report: &[Probe], paint: Paint) -> String {
    let width = report.iter().map(|probe| probe.name.len()).max().unwrap_or(0);
    let mut out = String::new();
    for probe in report {
        let verdict = match probe.verdict {
            Verdict::Ok => paint.good("ok  "),
            Verdict::Warn => paint.warn("warn"),
            Verdict::Fail => paint.bad("fail"),
        };
        out.push_str(&format!("{verdict}  {:width$}  {}\n", probe.name, clean(&probe.what)));
        if let Some(next) = &probe.next {
            out.push_str(&format!("{:width$}  {} {}\n", "", paint.strong("next:"), clean(next), width = width + 6));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{Paint, Probe, text};

    #[test]
    fn what_to_do_stands_below() {
        let report = [Probe::ok("port", "free"), Probe::fail("database", "a\u{1b}b", "do it")];
        let shown = "ok    port      free\nfail  database  a\\u{1b}b\n                next: do it\n";
        assert_eq!(text(&report, Paint::NONE), shown);
    }
}
