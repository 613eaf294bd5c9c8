//! The server's settings, and where each came from: a flag wins over `SLIPWAY_*`, that over the file, that over the default.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use slipway_api::Retention;

use crate::address::redacted;

/// Where a setting's value came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The command line.
    Flag,
    /// A variable of the environment.
    Env,
    /// The configuration file.
    File,
    /// Nobody set it.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Flag => "flag",
            Self::Env => "environment",
            Self::File => "file",
            Self::Default => "default",
        })
    }
}

/// One line of `config show`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// Its name in the file; `SLIPWAY_` and the name in capitals is its variable.
    pub name: &'static str,
    /// Its value as text; passwords are blacked out.
    pub value: String,
    /// Where the value came from.
    pub origin: Origin,
}

macro_rules! settings {
    ($($(#[$doc:meta])* $name:ident: $type:ty = $default:expr, $env:literal;)*) => {
        /// What a source says; what it does not say is absent. This is also the shape of the configuration file.
        #[derive(Clone, Debug, Default, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct ServeSettings {
            $($(#[$doc])* #[serde(skip_serializing_if = "Option::is_none")] pub $name: Option<$type>,)*
        }

        /// All settings of a server, decided.
        #[derive(Clone, Debug)]
        pub struct ServeOptions {
            $($(#[$doc])* pub $name: $type,)*
        }

        impl Default for ServeOptions {
            fn default() -> Self {
                Self { $($name: $default,)* }
            }
        }

        /// The names of the settings, as they are in the file.
        pub const SERVE_NAMES: &[&str] = &[$(stringify!($name),)*];

        /// The variables that are read.
        pub const SERVE_VARIABLES: &[&str] = &[$($env,)*];

        /// Decides each setting. `env` looks a variable up.
        pub fn serve_options_merge(
            flags: &ServeSettings,
            env: &dyn Fn(&str) -> Option<String>,
            file: &ServeSettings,
        ) -> Result<(ServeOptions, Vec<Setting>)> {
            let mut lines = Vec::new();
            let options = ServeOptions {
                $($name: {
                    let from_env = match env($env).filter(|text| !text.is_empty()) {
                        None => None,
                        Some(text) => Some(
                            <$type as FromText>::from_text(&text).with_context(|| format!("reading {}", $env))?,
                        ),
                    };
                    let (value, origin) = if let Some(value) = flags.$name.clone() {
                        (value, Origin::Flag)
                    } else if let Some(value) = from_env {
                        (value, Origin::Env)
                    } else if let Some(value) = file.$name.clone() {
                        (value, Origin::File)
                    } else {
                        ($default, Origin::Default)
                    };
                    lines.push(Setting { name: stringify!($name), value: redacted(&value.text()), origin });
                    value
                },)*
            };
            Ok((options, lines))
        }
    };
}

settings! {
    /// The folder that holds everything: database, blobs, keys. Made with mode 0700.
    data: PathBuf = PathBuf::from("/var/lib/slipway"), "SLIPWAY_DATA";
    /// Address and port to listen on.
    listen: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 8440)), "SLIPWAY_LISTEN";
    /// At the first start a token of the user `admin` is written here with mode 0600.
    admin_token_file: Option<PathBuf> = None, "SLIPWAY_ADMIN_TOKEN_FILE";
    /// The certificate chain in PEM, the server's own first.
    tls_cert: Option<PathBuf> = None, "SLIPWAY_TLS_CERT";
    /// The key of the certificate in PEM.
    tls_key: Option<PathBuf> = None, "SLIPWAY_TLS_KEY";
    /// Serve TLS with a certificate of an authority that the server makes for itself.
    tls_self_made: bool = false, "SLIPWAY_TLS_SELF_MADE";
    /// Further names and addresses in the self-made certificate, separated by commas.
    tls_names: String = String::new(), "SLIPWAY_TLS_NAMES";
    /// `sqlite:PATH` or `postgres://…`; a SQLite file in the data folder if not given.
    database: Option<String> = None, "SLIPWAY_DATABASE";
    /// `s3://BUCKET/PREFIX?endpoint=…`; a folder in the data folder if not given.
    blobs: Option<String> = None, "SLIPWAY_BLOBS";
    /// Bytes that must stay free on the data folder's disk; uploads are refused below that, so that deleting still works.
    min_free_bytes: u64 = 512 << 20, "SLIPWAY_MIN_FREE_BYTES";
    /// The same in percent of each disk; the larger of the two counts.
    min_free_percent: u64 = 2, "SLIPWAY_MIN_FREE_PERCENT";
    /// Bytes of a raw image at most.
    image_max_bytes: u64 = slipway_chunk::IMAGE_SIZE_MAX, "SLIPWAY_IMAGE_MAX_BYTES";
    /// Connections at one time; further ones wait.
    connections_max: usize = 1024, "SLIPWAY_CONNECTIONS_MAX";
    /// How long a stop waits for requests to end, in seconds.
    stop_seconds: u64 = 30, "SLIPWAY_STOP_SECONDS";
    /// How long what is in the trash can be restored, in hours.
    trash_hours: u64 = 7 * 24, "SLIPWAY_TRASH_HOURS";
    /// How long a blob that nothing refers to is kept, in hours; 13 at least, because capabilities live up to 12.
    grace_hours: u64 = 24, "SLIPWAY_GRACE_HOURS";
    /// Days from the end of one pass of the scrub, which reads all that is stored, to the next; 0 for only when asked.
    scrub_days: u64 = 7, "SLIPWAY_SCRUB_DAYS";
    /// Bytes that the scrub reads in a second at most; 0 for no limit.
    scrub_bytes_per_second: u64 = 32 << 20, "SLIPWAY_SCRUB_BYTES_PER_SECOND";
    /// Bytes of raw images that digests are computed of in a second at most; 0 for no limit.
    digest_bytes_per_second: u64 = 256 << 20, "SLIPWAY_DIGEST_BYTES_PER_SECOND";
    /// Which versions are kept of images whose owner set no rules, like `last=10,daily=14,monthly=12`; `all` keeps everything.
    retention: String = "all".to_owned(), "SLIPWAY_RETENTION";
    /// How often rules of retention are applied, in hours; 0: only when somebody asks.
    retention_hours: u64 = 24, "SLIPWAY_RETENTION_HOURS";
    /// Stored bytes that an account may keep; no limit if not given. This and the next are defaults: an admin sets others for an account.
    quota_stored_bytes: Option<u64> = None, "SLIPWAY_QUOTA_STORED_BYTES";
    /// The sum of the sizes of an account's versions.
    quota_logical_bytes: Option<u64> = None, "SLIPWAY_QUOTA_LOGICAL_BYTES";
    /// Images that an account may own.
    quota_images: Option<u64> = None, "SLIPWAY_QUOTA_IMAGES";
    /// Versions that an account's images may have, all together.
    quota_versions: Option<u64> = None, "SLIPWAY_QUOTA_VERSIONS";
    /// Uploads that an account may have open at one time.
    quota_uploads: u64 = 64, "SLIPWAY_QUOTA_UPLOADS";
    /// The zstd level for frames that the server cuts.
    compression_level: i32 = 3, "SLIPWAY_COMPRESSION_LEVEL";
}

/// Reads the configuration file. A name that is none of ours is refused, not ignored.
pub fn serve_settings_read(path: &Path) -> Result<ServeSettings> {
    let act = || format!("reading the configuration {}", path.display());
    let text = std::fs::read_to_string(path).with_context(act)?;
    if let Some(unknown) = toml::from_str::<toml::Table>(&text).ok().and_then(|table| name_unknown(&table)) {
        bail!("reading the configuration {}: {unknown}", path.display());
    }
    toml::from_str(&text).with_context(act)
}

/// The first name that is none of ours, and which of ours was probably meant.
fn name_unknown(table: &toml::Table) -> Option<String> {
    let name = table.keys().find(|name| !SERVE_NAMES.contains(&name.as_str()))?;
    let alike = |known: &&str| strsim::normalized_damerau_levenshtein(&name.replace('-', "_"), known);
    let near = SERVE_NAMES.iter().copied().max_by(|one, other| alike(one).total_cmp(&alike(other)));
    Some(match near.filter(|near| alike(near) >= 0.7) {
        Some(near) => format!("there is no setting '{name}'; did you mean '{near}'?"),
        None => format!("there is no setting '{name}'"),
    })
}

impl ServeOptions {
    /// Refuses what cannot go together.
    pub fn check(&self) -> Result<()> {
        match (&self.tls_cert, &self.tls_key, self.tls_self_made) {
            (Some(_), None, _) => bail!("tls_cert is given without tls_key"),
            (None, Some(_), _) => bail!("tls_key is given without tls_cert"),
            (Some(_), Some(_), true) => bail!("tls_self_made cannot go with tls_cert and tls_key"),
            _ => {}
        }
        if self.grace_hours < 13 {
            bail!(
                "grace_hours is {}; it must be at least 13, because capabilities live up to 12 hours",
                self.grace_hours
            );
        }
        if !(1..=19).contains(&self.compression_level) {
            bail!("compression_level is {}; it must be 1 to 19", self.compression_level);
        }
        if self.min_free_percent > 90 {
            bail!("min_free_percent is {}; it must be 0 to 90, or nothing could be uploaded", self.min_free_percent);
        }
        self.retention.parse::<Retention>().with_context(|| format!("reading retention '{}'", self.retention))?;
        if self.connections_max == 0 {
            bail!("connections_max is 0, so nobody could connect");
        }
        Ok(())
    }
}

/// A value that can be read from a variable and shown. `Option<T>` is a setting that may be absent.
trait FromText: Sized {
    fn from_text(text: &str) -> Result<Self>;
    fn text(&self) -> String;
}

macro_rules! from_text {
    ($($type:ty)*) => { $(impl FromText for $type {
        fn from_text(text: &str) -> Result<Self> {
            Ok(text.parse::<$type>()?)
        }
        fn text(&self) -> String {
            self.to_string()
        }
    })* };
}
from_text!(SocketAddr bool u64 usize i32 String);

impl FromText for PathBuf {
    fn from_text(text: &str) -> Result<Self> {
        Ok(Self::from(text))
    }
    fn text(&self) -> String {
        self.display().to_string()
    }
}

impl<T: FromText> FromText for Option<T> {
    fn from_text(text: &str) -> Result<Self> {
        T::from_text(text).map(Some)
    }
    fn text(&self) -> String {
        self.as_ref().map(T::text).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::{Origin, ServeOptions, ServeSettings, serve_options_merge};

    #[test]
    fn each_source_wins_over_the_next() {
        let file: ServeSettings = toml::from_str("data = \"/file\"\nmin_free_bytes = 1\nstop_seconds = 1\n").unwrap();
        let flags = ServeSettings { data: Some("/flag".into()), ..ServeSettings::default() };
        let env = |name: &str| match name {
            "SLIPWAY_DATA" => Some("/env".to_owned()),
            "SLIPWAY_MIN_FREE_BYTES" => Some("2".to_owned()),
            "SLIPWAY_DATABASE" => Some("postgres://me:secret@db/x?password=secret".to_owned()),
            "SLIPWAY_TLS_NAMES" => Some(String::new()),
            _ => None,
        };
        let (options, lines) = serve_options_merge(&flags, &env, &file).unwrap();
        assert_eq!(options.data.to_str(), Some("/flag"));
        assert_eq!((options.min_free_bytes, options.stop_seconds, options.connections_max), (2, 1, 1024));
        let line = |name: &str| lines.iter().find(|line| line.name == name).unwrap();
        for (name, value, origin) in [
            ("data", "/flag", Origin::Flag),
            ("min_free_bytes", "2", Origin::Env),
            ("stop_seconds", "1", Origin::File),
            ("tls_names", "", Origin::Default),
            ("database", "postgres://me:***@db/x?password=***", Origin::Env),
        ] {
            assert_eq!((line(name).value.as_str(), line(name).origin), (value, origin), "{name}");
        }
        let bad = |name: &str| (name == "SLIPWAY_STOP_SECONDS").then(|| "soon".to_owned());
        let error = serve_options_merge(&flags, &bad, &file).unwrap_err();
        assert!(format!("{error:#}").contains("SLIPWAY_STOP_SECONDS"));
    }

    #[test]
    fn unknown_and_contradictory_settings_are_refused() {
        assert!(toml::from_str::<ServeSettings>("colour = 1").unwrap_err().to_string().contains("colour"));
        for (text, said) in [
            ("colour = 1", Some("there is no setting 'colour'")),
            ("data = 'x'\nlistn = '127.0.0.1:1'", Some("there is no setting 'listn'; did you mean 'listen'?")),
            ("tls-key = 'x'", Some("there is no setting 'tls-key'; did you mean 'tls_key'?")),
            ("listen = '127.0.0.1:1'", None),
        ] {
            assert_eq!(super::name_unknown(&toml::from_str(text).unwrap()).as_deref(), said, "{text}");
        }
        assert!(ServeOptions::default().check().is_ok());
        let base = ServeOptions::default;
        for options in [
            ServeOptions { tls_cert: Some("a".into()), ..base() },
            ServeOptions { tls_key: Some("a".into()), ..base() },
            ServeOptions { tls_key: Some("a".into()), tls_cert: Some("a".into()), tls_self_made: true, ..base() },
            ServeOptions { grace_hours: 12, ..base() },
            ServeOptions { compression_level: 0, ..base() },
            ServeOptions { connections_max: 0, ..base() },
            ServeOptions { min_free_percent: 91, ..base() },
            ServeOptions { retention: "weekly".into(), ..base() },
            ServeOptions { retention: "last=0".into(), ..base() },
        ] {
            assert!(options.check().is_err(), "{options:?}");
        }
    }
}
