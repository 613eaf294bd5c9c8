//! A real S3 server over HTTP in this process, which can go away and come back.

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use tokio::net::TcpListener;

pub const BUCKET: &str = "slipway";
pub const KEY: &str = "TESTKEY";
pub const SECRET: &str = "TESTSECRET";

/// The server; dropped, it is gone with all its connections.
pub struct S3 {
    runtime: Option<tokio::runtime::Runtime>,
    /// Its address.
    pub endpoint: String,
    port: u16,
    folder: PathBuf,
    left: Arc<AtomicI64>,
}

impl S3 {
    /// Starts one over a folder.
    pub fn start(folder: &Path) -> Self {
        std::fs::create_dir_all(folder.join(BUCKET)).unwrap();
        let mut s3 = Self {
            runtime: None,
            endpoint: String::new(),
            port: 0,
            folder: folder.to_owned(),
            left: Arc::new(AtomicI64::new(i64::MAX)),
        };
        s3.come_back();
        s3
    }

    /// It goes away: no listener, every connection cut.
    pub fn go_away(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    /// It takes this many further connections' requests and then answers nothing any more.
    pub fn go_away_after(&self, requests: i64) {
        self.left.store(requests, Ordering::SeqCst);
    }

    /// It is there again, at the same address.
    pub fn come_back(&mut self) {
        self.go_away();
        self.left.store(i64::MAX, Ordering::SeqCst);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let address = format!("127.0.0.1:{}", self.port);
        let listener = runtime.block_on(async {
            for _ in 0..200 {
                match TcpListener::bind(&address).await {
                    Ok(listener) => return listener,
                    Err(_) => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
                }
            }
            panic!("{address} stays taken");
        });
        self.port = listener.local_addr().unwrap().port();
        self.endpoint = format!("http://127.0.0.1:{}", self.port);
        let mut builder = S3ServiceBuilder::new(s3s_fs::FileSystem::new(&self.folder).unwrap());
        builder.set_auth(SimpleAuth::from_single(KEY, SECRET));
        runtime.spawn(serve(listener, builder.build(), self.left.clone()));
        self.runtime = Some(runtime);
    }

    /// The value of `--blobs`.
    pub fn blobs(&self) -> String {
        format!("s3://{BUCKET}/blobs?endpoint={}&region=us-east-1&path_style=true", self.endpoint)
    }

    /// Objects in the bucket, multipart left-overs included.
    pub fn objects(&self) -> usize {
        fn count(folder: &Path) -> usize {
            let entries = std::fs::read_dir(folder).map(|dir| dir.flatten().collect::<Vec<_>>()).unwrap_or_default();
            entries.iter().map(|entry| if entry.path().is_dir() { count(&entry.path()) } else { 1 }).sum()
        }
        count(&self.folder.join(BUCKET))
    }
}

async fn serve(listener: TcpListener, service: S3Service, left: Arc<AtomicI64>) {
    loop {
        let Ok((socket, _)) = listener.accept().await else { return };
        let (service, left) = (service.clone(), left.clone());
        tokio::spawn(async move {
            let counted = hyper::service::service_fn(move |request| {
                let (service, left) = (service.clone(), left.clone());
                async move {
                    if left.fetch_sub(1, Ordering::SeqCst) <= 0 {
                        // An error of the service closes the connection without an answer.
                        return Err(std::io::Error::other("gone"));
                    }
                    hyper::service::Service::call(&service, request).await.map_err(|_| std::io::Error::other("failed"))
                }
            });
            let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), counted).await;
        });
    }
}
