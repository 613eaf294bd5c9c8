//! How sizes, times and texts are shown to people.

use jiff::{Timestamp, tz::TimeZone};

/// `1.4 GiB`; three digits are enough to compare, the exact number is in `-o json`.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes} B"),
        // 1023.95 would be shown as 1024.0 of the smaller unit.
        _ if value >= 1023.95 && unit + 1 < UNITS.len() => format!("1.0 {}", UNITS[unit + 1]),
        _ if value >= 99.95 => format!("{value:.0} {}", UNITS[unit]),
        _ => format!("{value:.1} {}", UNITS[unit]),
    }
}

/// Seconds as `0.4 s`, `12 s`, `3 min 20 s`, `2 h 5 min`.
pub(crate) fn duration(time: std::time::Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", time.as_secs_f64()),
        10..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// A length of time as people type it: `90s`, `30m`, `24h`, `7d`; plain digits are seconds.
pub(crate) fn duration_read(text: &str) -> Result<u64, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor = match unit {
        "" | "s" => 1,
        "m" | "min" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err("write it like 90s, 30m, 24h or 7d".into()),
    };
    let number: u64 = number.parse().map_err(|_| "write it like 90s, 30m, 24h or 7d".to_owned())?;
    number.checked_mul(factor).ok_or_else(|| "that is too long".to_owned())
}

/// A number of bytes as people type it: `512M`, `10G`, `1.5T` is not one; plain digits are bytes.
pub(crate) fn size_read(text: &str) -> Result<u64, String> {
    let wrong = || "write it like 512M or 10G".to_owned();
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let power = match unit.strip_suffix("iB").unwrap_or(unit) {
        "" | "B" => 0,
        "K" | "k" => 1,
        "M" => 2,
        "G" => 3,
        "T" => 4,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(1 << (10 * power)).ok_or_else(|| "that is too large".to_owned())
}

/// Bytes in a time as `120 MiB/s`.
pub(crate) fn rate(bytes: u64, time: std::time::Duration) -> String {
    let seconds = time.as_secs_f64().max(0.001);
    format!("{}/s", size((bytes as f64 / seconds) as u64))
}

/// A time in the local time zone, to the minute.
pub(crate) fn time(at: Timestamp) -> String {
    at.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M").to_string()
}

/// A time that may not have come yet.
pub(crate) fn time_or_dash(at: Option<Timestamp>) -> String {
    at.map_or_else(|| "-".into(), time)
}

/// Text of others on one line: control characters, and characters that turn the direction of writing or are invisible, are shown
/// escaped, so that no title or path can steer the terminal or look like another.
pub(crate) fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match unshowable(c) {
            true => out.extend(c.escape_default()),
            false => out.push(c),
        }
    }
    out
}

fn unshowable(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{061c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}')
}

/// `clean`, cut to `width` characters with `…`.
pub(crate) fn short(text: &str, width: usize) -> String {
    let text = clean(text);
    match text.chars().count() > width {
        true => text.chars().take(width.saturating_sub(1)).chain(['…']).collect(),
        false => text,
    }
}

/// `1 version`, `2 versions`.
pub(crate) fn count(number: u64, noun: &str) -> String {
    match number {
        1 => format!("1 {noun}"),
        _ => format!("{number} {noun}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::size_read;
    use super::{clean, count, duration, duration_read, short, size};
    use std::time::Duration;

    #[test]
    fn sizes_are_short() {
        for (bytes, shown) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (100 << 10, "100 KiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            (6 << 30, "6.0 GiB"),
            (1 << 40, "1.0 TiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(size(bytes), shown, "{bytes}");
        }
    }

    #[test]
    fn times_are_read_and_shown() {
        for (text, seconds) in
            [("90", Ok(90)), ("90s", Ok(90)), ("30m", Ok(1800)), ("24h", Ok(86_400)), ("7d", Ok(604_800))]
        {
            assert_eq!(duration_read(text), seconds, "{text}");
        }
        for text in ["", "h", "1y", "-1h", "99999999999999999999d", "18446744073709551615d"] {
            assert!(duration_read(text).is_err(), "{text}");
        }
        for (millis, shown) in [(400, "0.4 s"), (12_300, "12 s"), (200_000, "3 min 20 s"), (7_500_000, "2 h 5 min")] {
            assert_eq!(duration(Duration::from_millis(millis)), shown);
        }
    }

    #[test]
    fn sizes_are_read() {
        for (text, bytes) in [
            ("0", Some(0)),
            ("4096", Some(4096)),
            ("64M", Some(64 << 20)),
            ("10GiB", Some(10 << 30)),
            ("2T", Some(2 << 40)),
            ("1.5G", None),
            ("G", None),
            ("5X", None),
            ("99999999999T", None),
            ("-1", None),
        ] {
            assert_eq!(size_read(text).ok(), bytes, "{text}");
        }
    }

    #[test]
    fn nothing_steers_the_terminal() {
        for text in ["\u{1b}[2J", "a\nb", "a\rb", "\u{202e}gpj.exe", "\u{9b}31m", "x\u{200b}y", "\u{2066}"] {
            let shown = clean(text);
            assert!(shown.chars().all(|c| !super::unshowable(c)), "{text:?} became {shown:?}");
            assert_ne!(shown, text);
        }
        assert_eq!(clean("Größe 日本 ok"), "Größe 日本 ok");
        assert_eq!(short("abcdef", 4), "abc…");
        assert_eq!(count(1, "version"), "1 version");
        assert_eq!(count(0, "version"), "0 versions");
    }
}
