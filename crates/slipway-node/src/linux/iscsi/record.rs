//! What is wanted of a session and a unit, checked, and the lines of open-iscsi's record that say so.

use crate::refusal::DriverError;
use slipway_api::node::AttachIscsi;

/// The port that targets listen at.
const PORT: u16 = 3260;
/// Flat addressing, the largest form that a unit's number has within one level, ends here (SAM-5, 4.7.7).
const LUN_MAX: u64 = 16_383;
/// Names have at most so many bytes (RFC 3720, 3.2.6.1).
const NAME_MAX: usize = 223;
/// Half of what a record's line holds.
const SECRET_MAX: usize = 127;
/// How long the target may take to answer a login, in seconds.
pub(super) const LOGIN_TIMEOUT: u64 = 10;
/// And a logout.
const LOGOUT_TIMEOUT: u64 = 5;
/// How long requests wait for a connection that is lost, in seconds, unless the request says otherwise.
const DEAD_TIMEOUT: u64 = 30;

/// A request whose every field was looked at.
pub(super) struct Wanted {
    pub(super) initiator: String,
    pub(super) target: String,
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) lun: u64,
    pub(super) queue_depth: u64,
    /// What was asked for; without it, mq-deadline where the kernel has it.
    pub(super) scheduler: Option<String>,
    pub(super) read_only: bool,
    pub(super) dead_timeout: u64,
    commands: u64,
    chap: Option<Chap>,
}

/// Who we are, and who the target must be.
struct Chap {
    own: (String, String),
    theirs: Option<(String, String)>,
}

impl Wanted {
    /// Checks a request.
    pub(super) fn new(block: &AttachIscsi) -> Result<Self, DriverError> {
        let refuse = |text: String| Err(DriverError::request("check", text));
        for (field, name) in [("initiator", &block.initiator), ("target", &block.target)] {
            if !is_name(name) {
                return refuse(format!("iscsi.{field} '{name}' is no iSCSI name such as iqn.2026-01.org.example:disk"));
            }
        }
        let port = match u16::try_from(block.port) {
            Ok(0) => PORT,
            Ok(port) => port,
            Err(_) => return refuse(format!("iscsi.port {} is not between 1 and 65535", block.port)),
        };
        let within = |field: &str, value: u64, default: u64, min: u64, max: u64| match value {
            0 => Ok(default),
            _ if (min..=max).contains(&value) => Ok(value),
            _ => Err(DriverError::request("check", format!("iscsi.{field} {value} is not between {min} and {max}"))),
        };
        if block.lun > LUN_MAX {
            return refuse(format!("iscsi.lun {} is not between 0 and {LUN_MAX}", block.lun));
        }
        let named = block.scheduler.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
        if !named || block.scheduler.len() > 64 {
            return refuse("iscsi.scheduler is not the name of a scheduler, such as mq-deadline".into());
        }
        Ok(Self {
            initiator: block.initiator.clone(),
            target: block.target.clone(),
            host: block.host.clone(),
            port,
            lun: block.lun,
            queue_depth: within("queue_depth", block.queue_depth, 16, 1, 1024)?,
            scheduler: (!block.scheduler.is_empty()).then(|| block.scheduler.clone()),
            read_only: block.ro,
            commands: within("max_comands", block.max_commands, 128, 2, 2048)?,
            dead_timeout: within("dead_timeout", block.dead_timeout, DEAD_TIMEOUT, 1, 86_400)?,
            chap: chap(block)?,
        })
    }

    /// A number of everything that belongs to the session and is no secret: equal ones share a session.
    pub(super) fn session_key(&self) -> u64 {
        let (own, theirs) = match &self.chap {
            Some(chap) => (chap.own.0.as_str(), chap.theirs.as_ref().map_or("", |(name, _)| name.as_str())),
            None => ("", ""),
        };
        let text = format!(
            "{}\n{}\n{}\n{}\n{}\n{}\n{own}\n{theirs}",
            self.initiator, self.target, self.host, self.port, self.commands, self.dead_timeout
        );
        // FNV-1a: a name, not a secret.
        text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
    }

    /// The passwords, ours and the target's, as the kernel shows those of a session to root; empty without.
    pub(super) fn passwords(&self) -> (&str, &str) {
        match &self.chap {
            Some(chap) => (&chap.own.1, chap.theirs.as_ref().map_or("", |(_, password)| password)),
            None => ("", ""),
        }
    }

    /// What the record of a node must say.
    pub(super) fn settings(&self) -> Vec<(&'static str, String)> {
        let mut lines = vec![
            ("node.startup", "manual".to_owned()),
            ("node.session.scan", "manual".to_owned()),
            ("node.session.initial_login_retry_max", "1".to_owned()),
            ("node.session.cmds_max", self.commands.to_string()),
            ("node.session.queue_depth", self.queue_depth.to_string()),
            ("node.session.timeo.replacement_timeout", self.dead_timeout.to_string()),
            ("node.conn[0].timeo.login_timeout", LOGIN_TIMEOUT.to_string()),
            ("node.conn[0].timeo.logout_timeout", LOGOUT_TIMEOUT.to_string()),
            ("node.conn[0].timeo.noop_out_interval", "5".to_owned()),
            ("node.conn[0].timeo.noop_out_timeout", "5".to_owned()),
        ];
        if let Some(chap) = &self.chap {
            lines.push(("node.session.auth.authmethod", "CHAP".to_owned()));
            lines.push(("node.session.auth.username", chap.own.0.clone()));
            lines.push(("node.session.auth.password", chap.own.1.clone()));
            if let Some((name, password)) = &chap.theirs {
                lines.push(("node.session.auth.username_in", name.clone()));
                lines.push(("node.session.auth.password_in", password.clone()));
            }
        }
        lines
    }
}

/// RFC 3720, 3.2.6; in lower case as stringprep would make it, or as it was given.
fn is_name(name: &str) -> bool {
    let typed = ["iqn.", "eui.", "naa."].iter().any(|kind| name.len() > kind.len() && name.starts_with(kind));
    typed && name.len() <= NAME_MAX && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".:-_".contains(&byte))
}

fn chap(block: &AttachIscsi) -> Result<Option<Chap>, DriverError> {
    let pair = |name: &str, password: &str, suffix: &str| {
        for (field, text) in [("username", name), ("password", password)] {
            // A record is lines of `name = value`, whose spaces at either end are not kept.
            if text.len() > SECRET_MAX || text.trim() != text || text.chars().any(char::is_control) {
                let text = format!(
                    "iscsi.{field}{suffix} has more than {SECRET_MAX} bytes, a space at an end, or a control character"
                );
                return Err(DriverError::request("check", text));
            }
        }
        match (name.is_empty(), password.is_empty()) {
            (true, true) => Ok(None),
            (false, false) => Ok(Some((name.to_owned(), password.to_owned()))),
            _ => {
                let text =
                    format!("iscsi.username{suffix} and iscsi.password{suffix} are given together or not at all");
                Err(DriverError::request("check", text))
            }
        }
    };
    let own = pair(&block.username, &block.password, "")?;
    let theirs = pair(&block.username_in, &block.password_in, "_in")?;
    match (own, theirs) {
        (Some(own), theirs) => Ok(Some(Chap { own, theirs })),
        (None, None) => Ok(None),
        (None, Some(_)) => {
            let text = "iscsi.username_in needs iscsi.username: a target proves itself only to who has proved himself";
            Err(DriverError::request("check", text))
        }
    }
}

/// The record with these settings in place of what it says of them.
pub(super) fn record_edit(record: &str, settings: &[(&str, String)]) -> String {
    const END: &str = "# END RECORD";
    let is_set = |line: &str| settings.iter().any(|(name, _)| line.split(" = ").next() == Some(*name));
    let mut edited: String =
        record.lines().filter(|line| *line != END && !is_set(line)).map(|line| format!("{line}\n")).collect();
    for (name, value) in settings {
        edited.push_str(&format!("{name} = {value}\n"));
    }
    edited.push_str(END);
    edited.push('\n');
    edited
}

#[cfg(test)]
mod tests {
    use super::{Wanted, record_edit};
    use slipway_api::node::AttachIscsi;

    fn block(json: &str) -> AttachIscsi {
        let mut value: serde_json::Value = serde_json::from_str(
            r#"{"initiator":"iqn.2026-01.test:node","target":"iqn.2026-01.test:disk","host":"san"}"#,
        )
        .unwrap();
        let more: serde_json::Value = serde_json::from_str(json).unwrap();
        value.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_record_keeps_its_other_lines() {
        let record = "# BEGIN RECORD 2.1.8\nnode.name = iqn.x\nnode.session.scan = auto\nnode.session.scanner = x\n# END RECORD\n";
        let edited = record_edit(record, &[("node.session.scan", "manual".into()), ("node.new", "1".into())]);
        assert_eq!(
            edited,
            "# BEGIN RECORD 2.1.8\nnode.name = iqn.x\nnode.session.scanner = x\nnode.session.scan = manual\nnode.new = 1\n# END RECORD\n"
        );
    }

    #[test]
    fn defaults_are_those_of_the_contract() {
        let wanted = Wanted::new(&block("{}")).unwrap();
        assert_eq!((wanted.port, wanted.lun, wanted.queue_depth, wanted.scheduler.as_deref()), (3260, 0, 16, None));
        let settings = wanted.settings();
        for line in [
            ("node.startup", "manual"),
            ("node.session.scan", "manual"),
            ("node.session.cmds_max", "128"),
            ("node.session.queue_depth", "16"),
            ("node.session.timeo.replacement_timeout", "30"),
        ] {
            assert!(settings.iter().any(|(name, value)| (*name, value.as_str()) == line), "{line:?}");
        }
        assert!(!settings.iter().any(|(name, _)| name.contains("auth")));
        let both = Wanted::new(&block(
            r#"{"max_commands":64,"username":"u","password":"p #x=y","username_in":"t","password_in":"q"}"#,
        ))
        .unwrap();
        assert!(both.settings().contains(&("node.session.auth.password", "p #x=y".into())));
        assert!(both.settings().contains(&("node.session.auth.password_in", "q".into())));
        assert!(both.settings().contains(&("node.session.cmds_max", "64".into())));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (json, field) in [
            (r#"{"initiator":"node"}"#, "iscsi.initiator"),
            (r#"{"target":"iqn."}"#, "iscsi.target"),
            (r#"{"target":"iqn.x/../y"}"#, "iscsi.target"),
            (r#"{"target":"iqn.x\ny"}"#, "iscsi.target"),
            (r#"{"port":70000}"#, "iscsi.port"),
            (r#"{"lun":16384}"#, "iscsi.lun"),
            (r#"{"max_comands":1}"#, "iscsi.max_comands"),
            (r#"{"queue_depth":1025}"#, "iscsi.queue_depth"),
            (r#"{"dead_timeout":100000}"#, "iscsi.dead_timeout"),
            (r#"{"scheduler":"../x"}"#, "iscsi.scheduler"),
            (r#"{"username":"u"}"#, "iscsi.username"),
            (r#"{"username":"u","password":"p\nq"}"#, "iscsi.password"),
            (r#"{"username":"u","password":" p"}"#, "iscsi.password"),
            (r#"{"username_in":"u","password_in":"p"}"#, "iscsi.username_in"),
        ] {
            let Err(error) = Wanted::new(&block(json)) else { panic!("{json}") };
            assert!(error.status == 400 && error.error.text.contains(field), "{json}: {error}");
            assert!(!error.error.text.contains("p\nq"), "a secret in {error}");
        }
    }

    #[test]
    fn passwords_are_no_part_of_a_sessions_key() {
        let key = |json: &str| Wanted::new(&block(json)).unwrap().session_key();
        assert_eq!(key(r#"{"lun":1,"queue_depth":4}"#), key("{}"));
        assert_eq!(key(r#"{"username":"u","password":"a"}"#), key(r#"{"username":"u","password":"b"}"#));
        assert_ne!(key(r#"{"username":"u","password":"a"}"#), key("{}"));
        assert_ne!(key(r#"{"port":3261}"#), key("{}"));
    }
}
