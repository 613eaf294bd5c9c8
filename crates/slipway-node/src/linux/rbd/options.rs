//! What the kernel is told of a map: one line of addresses, options and names, each checked, since a space or a comma would begin another.

use crate::linux::address;
use crate::refusal::DriverError;
use slipway_api::node::{AttachRbd, RbdOptions};
use std::time::Duration;

/// The port of monitors that speak the first version of their protocol, which every kernel knows.
const PORT: u16 = 6789;
/// A line in sysfs is at most one page.
const LINE_MAX: usize = 4095;
/// Monitors that are asked; a cluster has five.
const MONITORS_MAX: usize = 32;

/// The line for `add`, with the key in the kernel's keyring as `key`.
pub(super) fn line(block: &AttachRbd, key: &str, patience: Duration) -> Result<String, DriverError> {
    let options = block.options.clone().unwrap_or_default();
    let snapshot = snapshot(block);
    for (field, text, needed) in [
        ("pool", block.pool.as_str(), true),
        ("image", block.image.as_str(), true),
        ("snapshot", snapshot, true),
        ("options.name", options.name.as_str(), true),
        ("options.secret", options.secret.as_str(), true),
        ("options.namespace", options.namespace.as_str(), false),
        ("options.fsid", options.fsid.as_str(), false),
        ("options.ip", options.ip.as_str(), false),
    ] {
        word_check(field, text, needed)?;
    }
    if options.name.starts_with("client.") {
        return refuse("rbd.options.name is the user without 'client.'");
    }
    if !options.fsid.is_empty() && !is_uuid(&options.fsid) {
        return refuse("rbd.options.fsid is no UUID");
    }
    let mut words = vec![format!("name={}", options.name), format!("key={key}")];
    client_words(&options, patience, &mut words)?;
    device_words(&options, snapshot != "-", &mut words)?;
    let line = format!("{} {} {} {} {snapshot}", monitors(block)?, words.join(","), block.pool, block.image);
    match line.len() > LINE_MAX {
        true => refuse("rbd: addresses, options and names together have more than 4095 bytes"),
        false => Ok(line),
    }
}

/// The snapshot, `-` for the image itself.
pub(super) fn snapshot(block: &AttachRbd) -> &str {
    if block.snapshot.is_empty() { "-" } else { &block.snapshot }
}

fn refuse<T>(text: impl Into<String>) -> Result<T, DriverError> {
    Err(DriverError::request("check", text))
}

fn word_check(field: &str, text: &str, needed: bool) -> Result<(), DriverError> {
    if text.is_empty() && needed {
        return refuse(format!("rbd.{field} is missing"));
    }
    match text.chars().find(|letter| letter.is_whitespace() || letter.is_control() || *letter == ',') {
        Some(_) if field == "options.secret" => {
            refuse("rbd.options.secret is no Ceph key: it has a space, a comma or a control character")
        }
        Some(letter) => refuse(format!("rbd.{field} has {letter:?} in it, which the kernel does not take")),
        None if text.len() > 255 => refuse(format!("rbd.{field} has more than 255 bytes")),
        None => Ok(()),
    }
}

fn is_uuid(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    parts.iter().map(|part| part.len()).eq([8, 4, 4, 4, 12])
        && parts.iter().all(|part| part.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// All addresses of all monitors, as the kernel reads them.
fn monitors(block: &AttachRbd) -> Result<String, DriverError> {
    if block.monitors.is_empty() || block.monitors.len() > MONITORS_MAX {
        return refuse(format!("rbd.monitors names {} addresses: 1 to {MONITORS_MAX}", block.monitors.len()));
    }
    let mut addresses = Vec::new();
    for monitor in &block.monitors {
        addresses.extend(address::resolve_with_port("rbd.monitors", monitor, PORT)?.iter().map(ToString::to_string));
    }
    addresses.dedup();
    Ok(addresses.join(","))
}

/// Adds each word that is asked for; both of a pair are a contradiction.
fn pair(words: &mut Vec<String>, one: (&str, bool), other: (&str, bool)) -> Result<(), DriverError> {
    if one.1 && other.1 {
        return refuse(format!("rbd.options.{} and {} contradict each other", one.0, other.0));
    }
    words.extend([one, other].iter().filter(|(_, wanted)| *wanted).map(|(word, _)| (*word).to_owned()));
    Ok(())
}

/// Options of the connection with the cluster. The kernel has the contract's `ceph_requires_signatures` as `cephx_require_signatures`.
fn client_words(options: &RbdOptions, patience: Duration, words: &mut Vec<String>) -> Result<(), DriverError> {
    pair(words, ("share", options.share), ("noshare", options.noshare))?;
    pair(words, ("crc", options.crc), ("nocrc", options.nocrc))?;
    pair(
        words,
        ("cephx_require_signatures", options.ceph_requires_signatures),
        ("nocephx_require_signatures", options.noceph_requires_signatures),
    )?;
    pair(
        words,
        ("cephx_sign_messages", options.cephx_sign_messages),
        ("nocephx_sign_messages", options.nocephx_sign_messages),
    )?;
    pair(words, ("tcp_nodelay", options.tcp_nodelay), ("notcp_nodelay", options.notcp_nodelay))?;
    // Monitors that do not answer must be given up before the call is.
    let most = patience.as_secs().max(1);
    let timeout = if options.mount_timeout == 0 { most } else { options.mount_timeout.min(most) };
    words.push(format!("mount_timeout={timeout}"));
    for (name, value) in [("osdkeepalive", options.osdkeepalive), ("osd_idle_ttl", options.osd_idle_ttl)] {
        number(words, name, value, 86_400)?;
    }
    for (name, value) in [("fsid", &options.fsid), ("ip", &options.ip)] {
        if !value.is_empty() {
            words.push(format!("{name}={value}"));
        }
    }
    if options.abort_on_full {
        words.push("abort_on_full".into());
    }
    Ok(())
}

/// Options of the device.
fn device_words(options: &RbdOptions, is_snapshot: bool, words: &mut Vec<String>) -> Result<(), DriverError> {
    if is_snapshot && options.rw {
        return refuse("rbd.options.rw: a snapshot can only be read");
    }
    // A snapshot is read-only whatever is asked for; said so, its lock is not taken.
    pair(words, ("ro", options.ro || is_snapshot), ("rw", options.rw))?;
    for (name, wanted) in
        [("lock_on_read", options.lock_on_read), ("exclusive", options.exclusive), ("notrim", options.notrim)]
    {
        if wanted {
            words.push(name.into());
        }
    }
    number(words, "queue_depth", options.queue_depth, 10_000)?;
    number(words, "lock_timeout", options.lock_timeout, 86_400)?;
    if options.alloc_size != 0 {
        if !options.alloc_size.is_power_of_two() || !(512..=1 << 30).contains(&options.alloc_size) {
            return refuse("rbd.options.alloc_size is no power of two between 512 and 1 GiB");
        }
        words.push(format!("alloc_size={}", options.alloc_size));
    }
    if !options.namespace.is_empty() {
        words.push(format!("_pool_ns={}", options.namespace));
    }
    Ok(())
}

fn number(words: &mut Vec<String>, name: &str, value: u64, most: u64) -> Result<(), DriverError> {
    if value > most {
        return refuse(format!("rbd.options.{name} {value} is more than {most}"));
    }
    if value != 0 {
        words.push(format!("{name}={value}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::line;
    use slipway_api::node::AttachRbd;
    use std::time::Duration;

    fn check(json: &str) -> Result<String, crate::refusal::DriverError> {
        let mut value: serde_json::Value = serde_json::from_str(
            r#"{"monitors":["10.0.0.1"],"pool":"p","image":"i","options":{"name":"lab","secret":"c2VjcmV0"}}"#,
        )
        .unwrap();
        let more: serde_json::Value = serde_json::from_str(json).unwrap();
        for (key, new) in more.as_object().unwrap() {
            match (key.as_str(), new) {
                ("options", serde_json::Value::Object(options)) => {
                    value["options"].as_object_mut().unwrap().extend(options.clone());
                }
                _ => value[key] = new.clone(),
            }
        }
        let block: AttachRbd = serde_json::from_value(value).unwrap();
        line(&block, "slipway-0-1", Duration::from_secs(25))
    }

    #[test]
    fn lines_are_what_the_kernel_reads() {
        const HEAD: &str = "10.0.0.1:6789 name=lab,key=slipway-0-1,";
        for (json, wanted) in [
            ("{}", "mount_timeout=25 p i -"),
            (r#"{"snapshot":"-"}"#, "mount_timeout=25 p i -"),
            (r#"{"snapshot":"s"}"#, "mount_timeout=25,ro p i s"),
            (r#"{"options":{"mount_timeout":5,"ro":true}}"#, "mount_timeout=5,ro p i -"),
            (r#"{"options":{"mount_timeout":500,"rw":true,"force":true}}"#, "mount_timeout=25,rw p i -"),
            (
                r#"{"options":{"share":true,"nocrc":true,"noceph_requires_signatures":true,"nocephx_sign_messages":true,"notcp_nodelay":true}}"#,
                "share,nocrc,nocephx_require_signatures,nocephx_sign_messages,notcp_nodelay,mount_timeout=25 p i -",
            ),
            (
                r#"{"options":{"noshare":true,"crc":true,"ceph_requires_signatures":true,"cephx_sign_messages":true,"tcp_nodelay":true}}"#,
                "noshare,crc,cephx_require_signatures,cephx_sign_messages,tcp_nodelay,mount_timeout=25 p i -",
            ),
            (
                r#"{"options":{"osdkeepalive":6,"osd_idle_ttl":7,"fsid":"01234567-89ab-cdef-0123-456789abcdef","ip":"10.0.0.9","abort_on_full":true}}"#,
                "mount_timeout=25,osdkeepalive=6,osd_idle_ttl=7,fsid=01234567-89ab-cdef-0123-456789abcdef,ip=10.0.0.9,abort_on_full p i -",
            ),
            (
                r#"{"options":{"lock_on_read":true,"exclusive":true,"notrim":true,"queue_depth":64,"lock_timeout":9,"alloc_size":65536,"namespace":"n"}}"#,
                "mount_timeout=25,lock_on_read,exclusive,notrim,queue_depth=64,lock_timeout=9,alloc_size=65536,_pool_ns=n p i -",
            ),
        ] {
            assert_eq!(check(json).unwrap(), format!("{HEAD}{wanted}"), "{json}");
        }
        let many = check(r#"{"monitors":["10.0.0.1:7000","[fd00::1]","fd00::2","10.0.0.4"]}"#).unwrap();
        assert!(many.starts_with("10.0.0.1:7000,[fd00::1]:6789,[fd00::2]:6789,10.0.0.4:6789 name="), "{many}");
    }

    #[test]
    fn what_is_wrong_is_named_and_no_secret_said() {
        for (json, field) in [
            (r#"{"monitors":[]}"#, "rbd.monitors"),
            (r#"{"monitors":["10.0.0.1 name=admin"]}"#, "10.0.0.1 name=admin"),
            (r#"{"pool":""}"#, "rbd.pool"),
            (r#"{"pool":"a b"}"#, "rbd.pool"),
            (r#"{"image":"a,b"}"#, "rbd.image"),
            (r#"{"snapshot":"a\nb"}"#, "rbd.snapshot"),
            (r#"{"options":null}"#, "rbd.options.name"),
            (r#"{"options":{"name":"a,secret=b"}}"#, "rbd.options.name"),
            (r#"{"options":{"name":"client.lab"}}"#, "without 'client.'"),
            (r#"{"options":{"secret":""}}"#, "rbd.options.secret"),
            (r#"{"options":{"secret":"hidden hidden"}}"#, "rbd.options.secret"),
            (r#"{"options":{"namespace":"a,b"}}"#, "rbd.options.namespace"),
            (r#"{"options":{"fsid":"x"}}"#, "rbd.options.fsid"),
            (r#"{"options":{"ip":"1,2"}}"#, "rbd.options.ip"),
            (r#"{"options":{"ro":true,"rw":true}}"#, "ro and rw"),
            (r#"{"options":{"crc":true,"nocrc":true}}"#, "crc and nocrc"),
            (r#"{"options":{"share":true,"noshare":true}}"#, "share and noshare"),
            (r#"{"snapshot":"s","options":{"rw":true}}"#, "rbd.options.rw"),
            (r#"{"options":{"alloc_size":1000}}"#, "alloc_size"),
            (r#"{"options":{"queue_depth":100000}}"#, "queue_depth"),
        ] {
            let error = check(json).unwrap_err();
            assert!(error.status == 400 && error.error.text.contains(field), "{json}: {error}");
            assert!(!error.error.text.contains("hidden"), "{error}");
        }
    }
}
