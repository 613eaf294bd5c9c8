//! Every route: its method, path, name, who may ask, and what answers. Nothing else is served.

use super::answer::Answered;
use super::ask::Ask;
use super::site::Site;
use super::{containers, docs, events, exec, health, logs, metrics, objects};
use axum::http::Method;
use slipway_api::node::{Attach, Container, Mount};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

type Answering = Pin<Box<dyn Future<Output = Answered> + Send>>;

/// Who may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Needs {
    /// Anybody who can connect: what says nothing of the node's objects.
    Nothing,
    /// Somebody whom the policy knows.
    Caller,
}

/// What answers.
pub(crate) enum Handle {
    /// Without knowing who asks.
    Open(fn(Arc<Site>) -> Answering),
    /// Knowing who asks.
    Known(fn(Ask) -> Answering),
}

/// A route.
pub(crate) struct Route {
    pub(crate) method: Method,
    pub(crate) path: &'static str,
    /// For metrics and logs.
    pub(crate) name: &'static str,
    pub(crate) needs: Needs,
    pub(crate) handle: Handle,
}

macro_rules! open {
    ($method:ident, $path:literal, $name:literal, $handler:path) => {
        Route {
            method: Method::$method,
            path: $path,
            name: $name,
            needs: Needs::Nothing,
            handle: Handle::Open(|site| Box::pin($handler(site))),
        }
    };
}

macro_rules! known {
    ($method:ident, $path:literal, $name:literal, $handler:path) => {
        Route {
            method: Method::$method,
            path: $path,
            name: $name,
            needs: Needs::Caller,
            handle: Handle::Known(|ask| Box::pin($handler(ask))),
        }
    };
}

pub(crate) static ROUTES: &[Route] = &[
    known!(GET, "/imageapi/v1/attach", "attach_list", objects::list::<Attach>),
    known!(POST, "/imageapi/v1/attach", "attach_create", objects::create::<Attach>),
    known!(DELETE, "/imageapi/v1/attach", "attach_delete", objects::delete::<Attach>),
    known!(GET, "/imageapi/v1/mount", "mount_list", objects::list::<Mount>),
    known!(POST, "/imageapi/v1/mount", "mount_create", objects::create::<Mount>),
    known!(DELETE, "/imageapi/v1/mount", "mount_delete", objects::delete::<Mount>),
    known!(GET, "/imageapi/v1/container", "container_list", containers::list),
    known!(POST, "/imageapi/v1/container", "container_create", objects::create::<Container>),
    known!(PATCH, "/imageapi/v1/container", "container_set", containers::set),
    known!(DELETE, "/imageapi/v1/container", "container_delete", containers::delete),
    known!(GET, "/imageapi/v1/container/logs", "container_logs", logs::read),
    known!(POST, "/imageapi/v1/container/exec", "container_exec", exec::run),
    known!(GET, "/imageapi/v1/events", "events", events::follow),
    known!(GET, "/metrics", "metrics", metrics::show),
    open!(GET, "/imageapi/v1/docs", "docs", docs::page),
    open!(GET, "/imageapi/v1/docs/page.js", "docs_script", docs::script),
    open!(GET, "/imageapi/v1/docs/page.css", "docs_style", docs::style),
    open!(GET, "/swagger.json", "swagger", docs::swagger),
    open!(GET, "/livez", "livez", health::livez),
    open!(GET, "/readyz", "readyz", health::readyz),
    open!(GET, "/version", "version", health::version),
];

/// The route of a request.
pub(crate) fn route_find(method: &Method, path: &str) -> Option<&'static Route> {
    ROUTES.iter().find(|route| route.path == path && route.method == *method)
}

/// The methods that a path has.
pub(crate) fn allow_of(path: &str) -> Vec<&'static str> {
    ROUTES.iter().filter(|route| route.path == path).map(|route| route.method.as_str()).collect()
}
