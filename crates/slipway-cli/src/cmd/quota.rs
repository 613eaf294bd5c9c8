//! `slipway quota`: what an account keeps and may keep.

use crate::context::Context;
use crate::failure::Failure;
use crate::human::size;
use crate::output::{Output, Table};
use slipway_api::{AccountName, Quota, QuotaChange, QuotaLimit, QuotaLine, QuotaWord};

/// Show what you keep and may keep
#[derive(Debug, clap::Args)]
#[command(after_help = "\
STORED counts the bytes that lie on the server for you, LOGICAL the sizes of your versions with their holes. \
What is in the trash counts until its time is over. 'slipway user quota' sets limits (admins).

Examples:
  slipway quota
  slipway quota jan -o json")]
pub(crate) struct Args {
    /// The account's name; yours if not given
    name: Option<String>,
    #[command(flatten)]
    output: Output,
}

/// Show or set what an account may keep (admins set)
#[derive(Debug, clap::Args)]
#[command(after_help = "\
A limit is a number with K, M, G, T (powers of 1024) or without, 'none' for no limit, or 'default' for what \
the server's settings say. A limit below what is kept deletes nothing; it only takes no more.

Examples:
  slipway user quota jan
  slipway user quota jan --stored 500G --logical 2T
  slipway user quota jan --versions none --images default")]
pub(crate) struct SetArgs {
    /// The account's name
    name: String,
    /// Bytes that lie on the server
    #[arg(long, value_name = "LIMIT", value_parser = limit_read)]
    stored: Option<QuotaLimit>,
    /// The sum of the versions' sizes
    #[arg(long, value_name = "LIMIT", value_parser = limit_read)]
    logical: Option<QuotaLimit>,
    /// Images
    #[arg(long, value_name = "LIMIT", value_parser = limit_read)]
    images: Option<QuotaLimit>,
    /// Versions of all images
    #[arg(long, value_name = "LIMIT", value_parser = limit_read)]
    versions: Option<QuotaLimit>,
    /// Uploads open at one time
    #[arg(long, value_name = "LIMIT", value_parser = limit_read)]
    uploads: Option<QuotaLimit>,
    #[command(flatten)]
    output: Output,
}

/// `500G`, `1.5T`, `none`, `default`.
fn limit_read(text: &str) -> Result<QuotaLimit, String> {
    let how = || "write it like 500G, 2T, 100, none or default".to_owned();
    match text {
        "default" => return Ok(QuotaLimit::Word(QuotaWord::Default)),
        "none" | "unlimited" => return Ok(QuotaLimit::Word(QuotaWord::Unlimited)),
        _ => {}
    }
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let shift = match unit.to_ascii_uppercase().trim_end_matches('B').trim_end_matches('I') {
        "" if unit.is_empty() => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        "P" => 50,
        _ => return Err(how()),
    };
    let (whole, rest) = number.split_once('.').unwrap_or((number, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty()
        || !digits(whole)
        || !digits(rest)
        || rest.len() > 3
        || (number.contains('.') && rest.is_empty())
    {
        return Err(how());
    }
    let too_large = |_| "that is too large".to_owned();
    let whole = whole.parse::<u64>().map_err(too_large)?;
    let thousandths = format!("{rest:0<3}").parse::<u64>().map_err(too_large)?;
    let unit = 1u64 << shift;
    // At most 999 thousandths of 2^50: that fits.
    let bytes = whole.checked_mul(unit).and_then(|bytes| bytes.checked_add(unit * thousandths / 1000));
    // The server counts up to 2^63.
    let bytes = bytes.filter(|bytes| i64::try_from(*bytes).is_ok()).ok_or_else(|| "that is too large".to_owned())?;
    Ok(QuotaLimit::Number(bytes))
}

pub(crate) async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    let name = args.name.as_deref().filter(|name| *name != "me").map(str::parse::<AccountName>).transpose()?;
    let quota = cx.client()?.quota_get(name.as_ref().map_or("me", AccountName::as_str)).await?;
    args.output.one(&quota, text)
}

pub(crate) async fn set(args: SetArgs, cx: &Context) -> Result<(), Failure> {
    let name = args.name.parse::<AccountName>()?;
    let change = QuotaChange {
        stored_bytes: args.stored,
        logical_bytes: args.logical,
        images: args.images,
        versions: args.versions,
        uploads: args.uploads,
    };
    let client = cx.client()?;
    let quota = match change == QuotaChange::default() {
        true => client.quota_get(name.as_str()).await?,
        false => client.quota_change(name.as_str(), &change).await?,
    };
    args.output.one(&quota, text)
}

fn text(quota: &Quota) -> String {
    let mut table = Table::new(&["WHAT", ">USED", ">LIMIT", ">USED %", "LIMIT FROM"]);
    let bytes = |number: u64| size(number);
    let plain = |number: u64| number.to_string();
    type Shown<'a> = &'a dyn Fn(u64) -> String;
    let rows: [(&str, QuotaLine, Shown<'_>); 5] = [
        ("stored", quota.stored_bytes, &bytes),
        ("logical", quota.logical_bytes, &bytes),
        ("images", quota.images, &plain),
        ("versions", quota.versions, &plain),
        ("open uploads", quota.uploads, &plain),
    ];
    for (what, line, shown) in rows {
        let percent = match line.limit {
            None => String::new(),
            Some(0) => "100".to_owned(),
            Some(limit) => (u128::from(line.used) * 100 / u128::from(limit)).to_string(),
        };
        let limit = line.limit.map_or_else(|| "none".to_owned(), shown);
        let from = if line.own { "the account" } else { "the server's default" };
        table.row(vec![what.into(), shown(line.used), limit, percent, from.into()]);
    }
    let mut out = table.render();
    if quota.versions_in_trash > 0 {
        let trash = crate::human::count(quota.versions_in_trash, "version");
        out.push_str(&format!("\n{trash} in the trash counted; they stop counting when their time there is over.\n"));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::limit_read;
    use slipway_api::{QuotaLimit, QuotaWord};

    #[test]
    fn limits_are_read() {
        for (text, number) in [
            ("0", 0),
            ("100", 100),
            ("500G", 500 << 30),
            ("500g", 500 << 30),
            ("1.5T", (1 << 40) + (1 << 39)),
            ("2TiB", 2 << 40),
            ("64MB", 64 << 20),
            ("1k", 1024),
        ] {
            assert_eq!(limit_read(text), Ok(QuotaLimit::Number(number)), "{text}");
        }
        assert_eq!(limit_read("none"), Ok(QuotaLimit::Word(QuotaWord::Unlimited)));
        assert_eq!(limit_read("default"), Ok(QuotaLimit::Word(QuotaWord::Default)));
        for text in
            ["", "G", "-1", "1.", ".5G", "1.2345G", "10 G", "5X", "1e3", "B", "i", "9000P", "99999999999999999999"]
        {
            assert!(limit_read(text).is_err(), "{text}");
        }
    }
}
