//! A server from its start to its end.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use slipway_store::{Blobs, Faults, S3Config, Store, StoreConfig};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::ServeOptions;
use crate::core::{Core, CoreConfig, QuotaLimits};
use crate::db::{Db, DbUrl, SqlFaults};
use crate::http::accept::{Door, connections_accept};
use crate::http::site::Site;
use crate::http::tls::{Tls, TlsSource};
use crate::http::watch::Patience;
use crate::metrics::Metrics;
use crate::rules;
use crate::workers::workers_start;

/// How often a running server looks whether its store was poisoned.
const POISON_EVERY: Duration = Duration::from_millis(250);
/// A poisoned server waits only this long for others: it can do nothing for them.
const POISON_STOP: Duration = Duration::from_secs(5);
/// A commit that is under way at the end of the stop is still waited for, but not for ever.
const WORKS_LIMIT: Duration = Duration::from_secs(300);

/// A worker's task that is not at a good place by then is begun again after the next start.
const WORKERS_LIMIT: Duration = Duration::from_secs(10);

/// Why a server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitReason {
    /// It was asked to.
    Asked,
    /// A flush to disk went wrong: what is on the disk is not known until the next start.
    Poisoned,
}

impl ExitReason {
    /// The exit code of `slipway serve`.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Asked => 0,
            Self::Poisoned => 70,
        }
    }
}

/// Waiting times that tests make shorter. Not settings: a server with others would be another product.
#[derive(Clone, Debug, Default)]
pub struct ServeTrial {
    /// For a request header.
    pub header: Option<Duration>,
    /// Between two pieces of a body.
    pub body: Option<Duration>,
    /// Faults of the store's operations.
    pub store_faults: Faults,
    /// Faults of the database's operations.
    pub sql_faults: SqlFaults,
}

/// A server that listens and has not begun to answer.
pub struct Server {
    core: Arc<Core>,
    site: Arc<Site>,
    listener: TcpListener,
    address: SocketAddr,
    tls: Option<Tls>,
    hangups: Signal,
    patience: Patience,
    stop_limit: Duration,
    connections_max: usize,
    stop: CancellationToken,
    works: TaskTracker,
}

/// Runs a server until `shutdown` is ready or its store is poisoned. Says on standard error when it is ready, and where.
pub async fn serve(options: ServeOptions, shutdown: impl Future<Output = ()>) -> Result<ExitReason> {
    let mut shutdown = std::pin::pin!(shutdown);
    let starting = async {
        let server = Server::start(&options, ServeTrial::default()).await?;
        server.greet(&options).await?;
        anyhow::Ok(server)
    };
    let server = tokio::select! {
        started = starting => started?,
        // Nothing was answered yet, and whatever was begun is tidied up by the next start.
        () = &mut shutdown => return Ok(ExitReason::Asked),
    };
    server.run(shutdown).await
}

impl Server {
    /// Opens everything and binds the address.
    pub async fn start(options: &ServeOptions, trial: ServeTrial) -> Result<Self> {
        options.check()?;
        // Taken from the first moment on: untaken, a SIGHUP would end the process, and taken late it would be missed.
        let hangups = signal(SignalKind::hangup()).context("listening for SIGHUP")?;
        // Whoever was first has chosen the provider for the whole process; it is the same one everywhere.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        folder_make(&options.data)?;
        let database = match &options.database {
            Some(text) => text.parse::<DbUrl>()?,
            None => DbUrl::Sqlite(options.data.join("slipway.sqlite")),
        };
        let db = Db::open(&database, trial.sql_faults).await.context("opening the database")?;
        let store = store_open(options, trial.store_faults).await?;
        let core = Core::new(db, store, core_config(options, &database)?);
        core.recover().await.context("tidying up after the last stop")?;
        folder_make(&core.spool_dir())?;
        let capabilities = rules::capability_key::capability_key_get(&core).await?;
        let listener =
            TcpListener::bind(options.listen).await.with_context(|| format!("listening on {}", options.listen))?;
        let address = listener.local_addr().context("asking for the address that was bound")?;
        let tls = tls_open(options, address)?;
        let default = Patience::default();
        let patience = Patience {
            header: trial.header.unwrap_or(default.header),
            body: trial.body.unwrap_or(default.body),
            ..default
        };
        let (stop, works) = (CancellationToken::new(), TaskTracker::new());
        let site = Arc::new(Site {
            core: core.clone(),
            capabilities,
            metrics: Metrics::default(),
            body_idle: patience.body,
            works: works.clone(),
            stop: stop.clone(),
            manifests: Mutex::new(VecDeque::new()),
        });
        let stop_limit = Duration::from_secs(options.stop_seconds);
        let connections_max = options.connections_max;
        Ok(Self { core, site, listener, address, tls, hangups, patience, stop_limit, connections_max, stop, works })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What its rules work on.
    pub fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// The first admin's token or code, the authority to trust, and the line that scripts wait for.
    pub async fn greet(&self, options: &ServeOptions) -> Result<()> {
        match &options.admin_token_file {
            Some(path) => {
                if let Some(advice) = rules::bootstrap::admin_token_bootstrap(&self.core, path).await? {
                    eprintln!("slipway serve: {advice}");
                }
            }
            None => {
                if let Some(code) = rules::login::setup_code_make(&self.core).await? {
                    eprintln!(
                        "slipway serve: no admin yet; within an hour run: slipway login --setup, with the code {code}"
                    );
                }
            }
        }
        if let Some(authority) = self.tls.as_ref().and_then(Tls::authority) {
            eprintln!("slipway serve: clients trust it with SLIPWAY_CA={}", authority.display());
        }
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        eprintln!("slipway serve: ready on {scheme}://{}", self.address);
        Ok(())
    }

    /// Answers until `shutdown` is ready or the store is poisoned; then stops without losing what was begun.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<ExitReason> {
        let workers = workers_start(&self.core);
        let (connections, kill) = (TaskTracker::new(), CancellationToken::new());
        let door = Door {
            app: self.site.clone(),
            tls: self.tls.clone(),
            patience: self.patience,
            connections_max: self.connections_max,
            stop: self.stop.clone(),
            kill: kill.clone(),
            tracker: connections.clone(),
        };
        let accepting = tokio::spawn(connections_accept(self.listener, door));
        let reloading = tokio::spawn(certificates_reload(self.hangups, self.tls.clone(), self.stop.clone()));
        let reason = tokio::select! {
            () = shutdown => ExitReason::Asked,
            () = poison_wait(&self.core) => ExitReason::Poisoned,
        };
        let limit = match reason {
            ExitReason::Asked => self.stop_limit,
            ExitReason::Poisoned => self.stop_limit.min(POISON_STOP),
        };
        tracing::info!(?reason, "stopping");
        self.stop.cancel();
        let _ = accepting.await;
        connections.close();
        if tokio::time::timeout(limit, connections.wait()).await.is_err() {
            tracing::warn!(open = connections.len(), "ending connections that did not end by themselves");
        }
        kill.cancel();
        connections.wait().await;
        // Whoever still waits for bytes has lost its connection just now and ends; a commit that is under way is finished.
        self.works.close();
        if tokio::time::timeout(WORKS_LIMIT, self.works.wait()).await.is_err() {
            tracing::error!(
                open = self.works.len(),
                "some work did not end; what was answered with success is durable"
            );
        }
        workers.stop(WORKERS_LIMIT).await;
        reloading.abort();
        self.core.db.close().await;
        let poisoned = reason == ExitReason::Poisoned || self.core.store.is_poisoned();
        Ok(if poisoned { ExitReason::Poisoned } else { ExitReason::Asked })
    }
}

async fn poison_wait(core: &Core) {
    while !core.store.is_poisoned() {
        tokio::time::sleep(POISON_EVERY).await;
    }
    tracing::error!("a flush to disk went wrong; the store takes no more writes and the server stops");
}

/// SIGHUP loads the certificate anew; a server without one goes on as before.
async fn certificates_reload(mut hangups: Signal, tls: Option<Tls>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = hangups.recv() => match tls.as_ref().map(Tls::reload) {
                None => tracing::info!("nothing is loaded anew at SIGHUP without TLS"),
                Some(Ok(())) => tracing::info!("loaded the certificate anew"),
                Some(Err(error)) => {
                    tracing::error!(error = format!("{error:#}"), "loading the certificate anew; the old one stays");
                }
            },
        }
    }
}

fn core_config(options: &ServeOptions, database: &DbUrl) -> Result<CoreConfig> {
    let hours = |hours: u64| Duration::from_secs(hours.saturating_mul(3600));
    // Blobs may be a mount of their own below the data folder, and the database may lie anywhere.
    let mut reserve_folders = vec![options.data.clone()];
    if options.blobs.is_none() {
        reserve_folders.push(options.data.join("blobs"));
    }
    if let DbUrl::Sqlite(path) = database {
        reserve_folders.extend(path.parent().filter(|parent| !parent.as_os_str().is_empty()).map(Path::to_path_buf));
    }
    Ok(CoreConfig {
        trash_grace: hours(options.trash_hours),
        doom_grace: hours(options.grace_hours),
        staged_grace: hours(options.grace_hours),
        scrub_every: (options.scrub_days > 0).then(|| hours(options.scrub_days.saturating_mul(24))),
        scrub_rate: (options.scrub_bytes_per_second > 0).then_some(options.scrub_bytes_per_second),
        digest_rate: (options.digest_bytes_per_second > 0).then_some(options.digest_bytes_per_second),
        reserve_bytes: options.min_free_bytes,
        reserve_percent: options.min_free_percent,
        reserve_folders,
        retention: options.retention.parse()?,
        retention_every: Some(hours(options.retention_hours)).filter(|every| !every.is_zero()),
        quota: QuotaLimits {
            stored_bytes: options.quota_stored_bytes,
            logical_bytes: options.quota_logical_bytes,
            images: options.quota_images,
            versions: options.quota_versions,
            uploads: Some(options.quota_uploads),
        },
        image_size_max: options.image_max_bytes.min(slipway_chunk::IMAGE_SIZE_MAX),
        ..CoreConfig::new(&options.data)
    })
}

/// Makes a folder that only we can enter, whatever the umask; one that is there is closed to others.
fn folder_make(path: &Path) -> Result<()> {
    let act = || format!("making the folder {}", path.display());
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).with_context(act)?;
    let metadata = std::fs::metadata(path).with_context(act)?;
    if metadata.permissions().mode() & 0o077 != 0 {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))
            .with_context(|| format!("closing the folder {} to others", path.display()))?;
    }
    Ok(())
}

async fn store_open(options: &ServeOptions, faults: Faults) -> Result<Arc<Store>> {
    let remote = options.blobs.as_deref().map(s3_read).transpose()?;
    let folder = options.data.join("blobs");
    let config = StoreConfig {
        level: options.compression_level,
        workers: std::thread::available_parallelism().map_or(2, usize::from),
        index_cache: remote.is_some().then(|| options.data.join("footers")),
        ..StoreConfig::default()
    };
    let runtime = tokio::runtime::Handle::current();
    let opening = tokio::task::spawn_blocking(move || -> Result<Arc<Store>> {
        let blobs = match remote {
            Some(remote) => Blobs::s3(remote, runtime, faults.clone()).context("opening the bucket")?,
            None => {
                folder_make(&folder)?;
                Blobs::local(&folder, faults.clone()).context("opening the blobs")?
            }
        };
        Ok(Store::open(blobs, config, faults)?)
    });
    opening.await.context("opening the store")?
}

/// Reads `s3://BUCKET/PREFIX?endpoint=URL&region=NAME`. Keys come from the environment, as for every S3 program.
pub(crate) fn s3_read(text: &str) -> Result<S3Config> {
    let Some(rest) = text.strip_prefix("s3://") else {
        bail!("blobs is '{text}'; it must be of the form s3://BUCKET/PREFIX?endpoint=URL");
    };
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (bucket, prefix) = path.split_once('/').unwrap_or((path, ""));
    if bucket.is_empty() {
        bail!("blobs is '{text}'; it names no bucket");
    }
    let mut config = S3Config {
        bucket: bucket.to_owned(),
        prefix: prefix.trim_end_matches('/').to_owned(),
        region: "us-east-1".to_owned(),
        endpoint: None,
        allow_http: false,
        path_style: false,
        access_key_id: None,
        secret_access_key: None,
    };
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        match name.as_ref() {
            "endpoint" => {
                config.allow_http = value.starts_with("http://");
                // Servers with an address of their own (Ceph, MinIO, Garage) take the bucket in the path.
                config.path_style = true;
                config.endpoint = Some(value.into_owned());
            }
            "region" => config.region = value.into_owned(),
            "path_style" => config.path_style = value == "true",
            other => bail!("blobs has the parameter '{other}'; known are endpoint, region and path_style"),
        }
    }
    Ok(config)
}

fn tls_open(options: &ServeOptions, address: SocketAddr) -> Result<Option<Tls>> {
    let source = match (&options.tls_cert, &options.tls_key, options.tls_self_made) {
        (Some(cert), Some(key), _) => TlsSource::Files { cert: cert.clone(), key: key.clone() },
        (_, _, true) => {
            let folder = options.data.join("tls");
            folder_make(&folder)?;
            let mut addresses = vec![IpAddr::from([127, 0, 0, 1]), IpAddr::from(std::net::Ipv6Addr::LOCALHOST)];
            let mut names = vec!["localhost".to_owned()];
            if !address.ip().is_unspecified() && !addresses.contains(&address.ip()) {
                addresses.push(address.ip());
            }
            let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
            let further = options.tls_names.split(',').map(str::trim).map(str::to_owned);
            for name in std::iter::once(host).chain(further).filter(|name| !name.is_empty()) {
                match name.parse::<IpAddr>() {
                    Ok(address) => addresses.push(address),
                    Err(_) => names.push(name),
                }
            }
            TlsSource::SelfMade { folder, addresses, names }
        }
        _ => return Ok(None),
    };
    Tls::open(source).map(Some)
}

#[cfg(test)]
mod tests {
    use super::{PermissionsExt, folder_make, s3_read};

    #[test]
    fn buckets_are_read_or_refused() {
        let config = s3_read("s3://images/slipway/?endpoint=http%3A%2F%2Fs3.local%3A9000&region=eu").unwrap();
        assert_eq!(
            (config.bucket.as_str(), config.prefix.as_str(), config.region.as_str()),
            ("images", "slipway", "eu")
        );
        assert_eq!(
            (config.endpoint.as_deref(), config.allow_http, config.path_style),
            (Some("http://s3.local:9000"), true, true)
        );
        assert!(!s3_read("s3://images").unwrap().path_style);
        for bad in ["images", "s3://", "s3:///x", "s3://images?colour=1"] {
            assert!(s3_read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn folders_are_closed_to_others() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b");
        folder_make(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        folder_make(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    }
}
