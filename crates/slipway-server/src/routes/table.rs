//! The one table of routes: method, path, who may call it, operation id, shapes, handler. The router, the authentication, the OpenAPI
//! document and the test of every role against every route are made from it.

use std::pin::Pin;
use std::sync::LazyLock;

use axum::http::Method;
use slipway_api::wire::MEDIA;
use slipway_api::{
    Channel, ChannelSet, CheckRequest, Committed, DiffQuery, FindingQuery, FindingReport, FramesReceived, Image,
    ImageChange, ImageNew, ImageQuery, JournalEntry, KnownFinding, Login, Me, PageQuery, PasswordChange, PruneRequest,
    Quota, QuotaChange, RetentionPlan, RetentionRun, RetentionSet, RetentionShown, Role, Rollback, ScrubStatus,
    ServerFacts, Session, Setup, SharingChange, Task, Token, TokenMade, TokenNew, Upload, UploadNew, User, UserChange,
    UserNew, Version, VersionChange, VersionDiff,
};

use super::shape::{Param, Params, Shape, json, page, params};
use super::{
    baas, blobs, channels, content, diff, docs, download, facts, image_events, images, parts, people, sessions, spool,
    store, tasks, tokens, uploads, versions,
};
use crate::http::answer::Answered;
use crate::http::ask::Ask;

/// Who may call a route at all; the rules decide about the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Anybody; a token is not looked at.
    Open,
    /// Who has the pack's capability; a token is not looked at.
    Capability,
    /// Who connects from the machine itself, else a token that the rule accepts.
    Loopback,
    /// Who has at least this role.
    Role(Role),
}

/// What a handler gives back.
pub(crate) type Running = Pin<Box<dyn Future<Output = Answered> + Send>>;

/// A row.
pub(crate) struct Route {
    pub(crate) method: Method,
    pub(crate) path: &'static str,
    pub(crate) access: Access,
    /// The operation id: the noun and what happens to it, as in the rules and the client.
    pub(crate) id: &'static str,
    pub(crate) about: &'static str,
    pub(crate) query: Option<Params>,
    pub(crate) extra: &'static [Param],
    pub(crate) body: Shape,
    pub(crate) answers: Vec<(u16, Shape)>,
    pub(crate) run: fn(Ask) -> Running,
}

impl Route {
    pub(super) fn query<T: utoipa::IntoParams>(mut self) -> Self {
        self.query = Some(params::<T>());
        self
    }

    pub(super) fn extra(mut self, extra: &'static [Param]) -> Self {
        self.extra = extra;
        self
    }

    pub(super) fn body(mut self, body: Shape) -> Self {
        self.body = body;
        self
    }

    pub(super) fn gives(mut self, status: u16, shape: Shape) -> Self {
        self.answers.push((status, shape));
        self
    }
}

/// All rows, in the order of the document.
pub(crate) fn routes() -> &'static [Route] {
    static ROUTES: LazyLock<Vec<Route>> = LazyLock::new(|| {
        let mut all = Vec::new();
        all.extend(server_rows());
        all.extend(people_rows());
        all.extend(image_rows());
        all.extend(version_rows());
        all.extend(byte_rows());
        all.extend(upload_rows());
        all.extend(keep_rows());
        all.extend(care_rows());
        all.extend(baas::rows());
        all
    });
    &ROUTES
}

/// A row without shapes.
macro_rules! row {
    ($method:ident $path:literal, $access:expr, $id:ident, $handler:path, $about:literal) => {
        Route {
            method: axum::http::Method::$method,
            path: $path,
            access: $access,
            id: stringify!($id),
            about: $about,
            query: None,
            extra: &[],
            body: Shape::Nothing,
            answers: Vec::new(),
            run: |ask| Box::pin($handler(ask)),
        }
    };
}

pub(super) use row;

pub(super) const OPEN: Access = Access::Open;
pub(super) const USER: Access = Access::Role(Role::User);
pub(super) const MODERATOR: Access = Access::Role(Role::Moderator);
pub(super) const ADMIN: Access = Access::Role(Role::Admin);
const NOTHING: Shape = Shape::Nothing;
const BINARY: Shape = Shape::Bytes(MEDIA);
const RAW: Shape = Shape::Bytes("application/octet-stream");

fn server_rows() -> Vec<Route> {
    vec![
        row!(GET "/api/v1", OPEN, server_facts, facts::server_facts, "What the server says of itself")
            .gives(200, json::<ServerFacts>()),
        row!(GET "/livez", OPEN, livez, facts::livez, "Whether the process runs").gives(200, Shape::Text("text/plain")),
        row!(GET "/readyz", OPEN, readyz, facts::readyz, "Whether database, blobs and disk are fit for work")
            .gives(200, Shape::Text("text/plain")),
        row!(GET "/metrics", Access::Loopback, metrics, facts::metrics, "Numbers for Prometheus")
            .gives(200, Shape::Text("text/plain; version=0.0.4")),
        row!(GET "/openapi.json", OPEN, openapi, docs::openapi, "This document")
            .gives(200, Shape::Bytes("application/json")),
        row!(GET "/docs", OPEN, docs, docs::docs_redirect, "Leads to the page of this document").gives(308, NOTHING),
        row!(GET "/docs/{file...}", OPEN, docs_file, docs::docs_file, "The page of this document, and its files")
            .gives(200, Shape::Text("text/html")),
    ]
}

fn people_rows() -> Vec<Route> {
    vec![
        row!(POST "/api/v1/login", OPEN, login, sessions::login, "Signs in with name and password")
            .body(json::<Login>())
            .gives(201, json::<Session>()),
        row!(POST "/api/v1/setup", OPEN, setup, sessions::setup, "Redeems the one-time code of a new server: makes its first admin")
            .body(json::<Setup>())
            .gives(201, json::<Session>()),
        row!(GET "/api/v1/me", USER, me, people::me, "Who the caller is").gives(200, json::<Me>()),
        row!(GET "/api/v1/users", MODERATOR, user_list, people::user_list, "All users")
            .query::<PageQuery>()
            .gives(200, page::<User>()),
        row!(POST "/api/v1/users", ADMIN, user_create, people::user_create, "Makes a user")
            .body(json::<UserNew>())
            .gives(201, json::<User>()),
        row!(GET "/api/v1/users/{name}", USER, user_get, people::user_get, "One user: oneself, or anybody for a moderator")
            .gives(200, json::<User>()),
        row!(PATCH "/api/v1/users/{name}", USER, user_change, people::user_change, "Changes a user")
            .body(json::<UserChange>())
            .gives(200, json::<User>()),
        row!(DELETE "/api/v1/users/{name}", ADMIN, user_delete, people::user_delete, "Deletes a user who owns no images")
            .gives(204, NOTHING),
        row!(PUT "/api/v1/users/{name}/password", USER, password_change, people::password_change, "Sets a password")
            .body(json::<PasswordChange>())
            .gives(204, NOTHING),
        row!(GET "/api/v1/tokens", USER, token_list, tokens::token_list, "The caller's tokens, or an owner's for an admin")
            .query::<PageQuery>()
            .gives(200, page::<Token>()),
        row!(POST "/api/v1/tokens", USER, token_make, tokens::token_make, "Makes a token; its secret is shown once")
            .body(json::<TokenNew>())
            .gives(201, json::<TokenMade>()),
        row!(DELETE "/api/v1/tokens/{id}", USER, token_revoke, tokens::token_revoke, "Revokes a token").gives(204, NOTHING),
    ]
}

/// Of a deletion.
const NOW: &[Param] = &[("now", "End it at once instead, in the trash or not: nothing brings it back", "boolean")];

fn image_rows() -> Vec<Route> {
    vec![
        row!(GET "/api/v1/images", USER, image_list, images::image_list, "The images that the caller may read")
            .query::<PageQuery>()
            .gives(200, page::<Image>()),
        row!(POST "/api/v1/images", USER, image_create, images::image_create, "Makes an image without versions")
            .body(json::<ImageNew>())
            .gives(201, json::<Image>()),
        row!(GET "/api/v1/images/{owner}/{slug}", USER, image_get, images::image_get,
            "One image with its newest versions; `versions_next` of the answer is the cursor of the next ones")
            .query::<ImageQuery>()
            .gives(200, json::<Image>()),
        row!(PATCH "/api/v1/images/{owner}/{slug}", USER, image_change, images::image_change, "Changes an image")
            .body(json::<ImageChange>())
            .gives(200, json::<Image>()),
        row!(GET "/api/v1/images/events", USER, image_events, image_events::image_events,
            "Server-sent events: one whenever an image that the caller may read, or a version of it, comes, changes or goes")
        .gives(200, Shape::Text("text/event-stream")),
        row!(DELETE "/api/v1/images/{owner}/{slug}", USER, image_trash, images::image_trash, "Puts an image into the trash, or ends it")
            .extra(NOW)
            .gives(204, NOTHING),
        row!(POST "/api/v1/images/{owner}/{slug}/restore", USER, image_restore, images::image_restore, "Takes an image out of the trash")
            .gives(200, json::<Image>()),
        row!(PUT "/api/v1/images/{owner}/{slug}/sharing", USER, sharing_change, images::sharing_change,
            "Changes who may read an image; 202 with a task when its content must be moved first")
            .body(json::<SharingChange>())
            .gives(200, json::<Image>())
            .gives(202, json::<Image>()),
        row!(GET "/api/v1/images/{owner}/{slug}/channels/{name}", USER, channel_get, channels::channel_get, "One channel")
            .gives(200, json::<Channel>()),
        row!(PUT "/api/v1/images/{owner}/{slug}/channels/{name}", USER, channel_set, channels::channel_set,
            "Makes a channel or moves it to another version")
            .body(json::<ChannelSet>())
            .gives(200, json::<Channel>()),
        row!(DELETE "/api/v1/images/{owner}/{slug}/channels/{name}", USER, channel_delete, channels::channel_delete,
            "Takes a channel away; the version stays")
            .gives(204, NOTHING),
    ]
}

fn version_rows() -> Vec<Route> {
    vec![
        row!(GET "/api/v1/images/{owner}/{slug}/versions", USER, version_list, versions::version_list, "An image's versions, newest first")
            .query::<PageQuery>()
            .gives(200, page::<Version>()),
        row!(GET "/api/v1/images/{owner}/{slug}/versions/{version}", USER, version_get, versions::version_get,
            "One version: by number, channel, or latest")
            .gives(200, json::<Version>()),
        row!(PATCH "/api/v1/images/{owner}/{slug}/versions/{version}", USER, version_change, versions::version_change,
            "Changes a version's message or protection")
            .body(json::<VersionChange>())
            .gives(200, json::<Version>()),
        row!(DELETE "/api/v1/images/{owner}/{slug}/versions/{version}", USER, version_trash, versions::version_trash,
            "Puts a version into the trash, or ends it")
            .extra(NOW)
            .gives(204, NOTHING),
        row!(POST "/api/v1/images/{owner}/{slug}/versions/{version}/restore", USER, version_restore, versions::version_restore,
            "Takes a version out of the trash, or puts a content that another took the place of back under its number")
            .extra(&[("content", "A replaced content's id, as the journal names it, or previous for the last one", "string")])
            .gives(200, json::<Version>()),
        row!(POST "/api/v1/images/{owner}/{slug}/versions/{version}/findings", USER, finding_report, versions::finding_report,
            "Tells that a chunk was not what its id says; the pack is checked")
            .body(json::<FindingReport>())
            .gives(202, json::<Task>()),
        row!(POST "/api/v1/images/{owner}/{slug}/versions/{version}/verify", USER, version_verify, versions::version_verify,
            "Reads every byte of a version from where it is stored; the task's result is a VerifyResult")
            .gives(202, json::<Task>()),
        row!(GET "/api/v1/images/{owner}/{slug}/versions/{version}/diff", USER, version_diff, diff::version_diff,
            "What differs between this version and an older one, of this image or another: parts and bytes")
            .query::<DiffQuery>()
            .gives(200, json::<VersionDiff>()),
        row!(POST "/api/v1/images/{owner}/{slug}/versions/{version}/digest", USER, version_digest, versions::version_digest,
            "Computes BLAKE3 and SHA-256 of a version, however large it is")
            .gives(202, json::<Task>()),
    ]
}

fn byte_rows() -> Vec<Route> {
    const PUT: &[Param] = &[
        ("message", "What to say of the version", "string"),
        ("new", "Make a version even if nothing differs from the newest one", "boolean"),
        ("parent", "The version it was made from; the newest if not given", "integer"),
        ("sector_size", "512 (if not given) or 4096", "integer"),
        ("format", "auto (if not given), raw, qcow2, vmdk, vhd, vhdx, vdi, zip, tar, gzip, xz or zstd", "string"),
        ("root", "The root that the raw image must have", "string"),
        ("digest", "The BLAKE3 that the raw image must have", "string"),
    ];
    const GET: &[Param] = &[("format", "raw (if not given) or qcow2", "string")];
    const CAPABILITY: &[Param] = &[
        ("e", "The capability's expiry in seconds since 1970; or the header Slipway-Capability: EXPIRY.MAC", "integer"),
        ("c", "The capability's MAC", "string"),
    ];
    vec![
        row!(GET "/api/v1/images/{owner}/{slug}/versions/{version}/content", USER, version_content, download::version_content,
            "The bytes of a version, verified by the server; Range, ETag, HEAD, compressed on request")
            .extra(GET)
            .gives(200, RAW)
            .gives(206, RAW),
        row!(PUT "/api/v1/images/{owner}/{slug}/content", USER, content_put, content::content_put,
            "Makes a version of the body in one call: a disk image of any format that is read, compressed or not, by content")
            .extra(PUT)
            .body(RAW)
            .gives(201, json::<Committed>())
            .gives(200, json::<Committed>()),
        row!(GET "/api/v1/images/{owner}/{slug}/versions/{version}/manifest", USER, version_manifest, parts::version_manifest,
            "The manifest, as encoded")
            .gives(200, BINARY),
        row!(GET "/api/v1/images/{owner}/{slug}/versions/{version}/segments/{index}", USER, version_segment, parts::version_segment,
            "A segment, as encoded")
            .gives(200, BINARY),
        row!(GET "/api/v1/images/{owner}/{slug}/versions/{version}/layouts/{index}", USER, version_layout, parts::version_layout,
            "Where a segment's chunks lie now, with the capabilities to read them")
            .gives(200, BINARY),
        row!(GET "/api/v1/blobs/{space}/{pack}", Access::Capability, blob_range, blobs::blob_range,
            "Bytes of a pack as stored, by capability; to be verified by who reads them")
            .extra(CAPABILITY)
            .gives(200, RAW)
            .gives(206, RAW),
    ]
}

fn upload_rows() -> Vec<Route> {
    const KIND: &[Param] = &[("kind", "chunks (if not given) or segments", "string")];
    vec![
        row!(POST "/api/v1/uploads", USER, upload_create, uploads::upload_create, "Begins an upload")
            .body(json::<UploadNew>())
            .gives(201, json::<Upload>()),
        row!(GET "/api/v1/uploads/{id}", USER, upload_get, uploads::upload_get, "Where an upload stands; HEAD gives Upload-Offset")
            .gives(200, json::<Upload>()),
        row!(PATCH "/api/v1/uploads/{id}", USER, upload_append, spool::upload_append,
            "Appends bytes at Upload-Offset; the offset that is answered is durable")
            .body(RAW)
            .gives(204, NOTHING),
        row!(DELETE "/api/v1/uploads/{id}", USER, upload_delete, uploads::upload_delete, "Gives an upload up").gives(204, NOTHING),
        row!(POST "/api/v1/uploads/{id}/missing", USER, upload_missing, uploads::upload_missing,
            "Which of these chunks or segments the server lacks: ids in, one bit for each out")
            .extra(KIND)
            .body(BINARY)
            .gives(200, BINARY),
        row!(PUT "/api/v1/uploads/{id}/frames", USER, upload_frames, uploads::upload_frames,
            "Takes whole frames, one after the other; durable when answered")
            .body(BINARY)
            .gives(200, json::<FramesReceived>()),
        row!(PUT "/api/v1/uploads/{id}/segments", USER, upload_segments, uploads::upload_segments,
            "Takes segments, each behind its length; durable when answered")
            .body(BINARY)
            .gives(204, NOTHING),
        row!(POST "/api/v1/uploads/{id}/commit", USER, upload_commit, uploads::upload_commit,
            "Makes the version; the same upload gives the same answer for ever. 202 while it takes long: commit again to ask")
            .body(BINARY)
            .gives(201, json::<Committed>())
            .gives(200, json::<Committed>())
            .gives(202, json::<Task>()),
    ]
}

/// What is kept of an image, and how much an account may keep.
fn keep_rows() -> Vec<Route> {
    const RULES: &[Param] =
        &[("rules", "These rules instead of those in force, like last=3,daily=7; `all` keeps everything", "string")];
    vec![
        row!(POST "/api/v1/images/{owner}/{slug}/rollback", USER, image_rollback, images::image_rollback,
            "Makes a new version with the content of an old one; 200 when the newest has it already")
        .body(json::<Rollback>())
        .gives(201, json::<Committed>())
        .gives(200, json::<Committed>()),
        row!(GET "/api/v1/images/{owner}/{slug}/retention", USER, retention_get, images::retention_get,
            "Which rules of retention are in force for an image, and whose they are")
        .gives(200, json::<RetentionShown>()),
        row!(PUT "/api/v1/images/{owner}/{slug}/retention", USER, retention_set, images::retention_set,
            "Sets an image's own rules, or takes them off")
        .body(json::<RetentionSet>())
        .gives(200, json::<RetentionShown>()),
        row!(GET "/api/v1/images/{owner}/{slug}/retention/preview", USER, retention_preview, images::retention_preview,
            "Which versions would go by the rules, why the others stay, and how many bytes that would free")
        .extra(RULES)
        .gives(200, json::<RetentionPlan>()),
        row!(POST "/api/v1/images/{owner}/{slug}/retention/run", USER, retention_run, images::retention_run,
            "Puts the versions that the rules do not keep into the trash")
        .body(json::<RetentionRun>())
        .gives(200, json::<RetentionPlan>()),
        row!(GET "/api/v1/users/{name}/retention", USER, account_retention_get, people::account_retention_get,
            "The rules for an account's images that have none of their own")
        .gives(200, json::<RetentionShown>()),
        row!(PUT "/api/v1/users/{name}/retention", USER, account_retention_set, people::account_retention_set,
            "Sets the rules for an account's images that have none of their own, or takes them off")
        .body(json::<RetentionSet>())
        .gives(200, json::<RetentionShown>()),
        row!(GET "/api/v1/users/{name}/quota", USER, quota_get, people::quota_get,
            "What an account keeps and may keep: oneself, or anybody for a moderator")
        .gives(200, json::<Quota>()),
        row!(PATCH "/api/v1/users/{name}/quota", ADMIN, quota_change, people::quota_change,
            "Changes what an account may keep")
        .body(json::<QuotaChange>())
        .gives(200, json::<Quota>()),
    ]
}

fn care_rows() -> Vec<Route> {
    const JOURNAL: &[Param] = &[
        ("after", "Only entries with a greater number", "integer"),
        ("limit", "Entries at most, 1 to 1000; 100 if not given", "integer"),
    ];
    vec![
        row!(GET "/api/v1/tasks", USER, task_list, tasks::task_list, "Tasks that the caller may see, newest first")
            .query::<PageQuery>()
            .gives(200, page::<Task>()),
        row!(GET "/api/v1/tasks/{id}", USER, task_get, tasks::task_get, "One task").gives(200, json::<Task>()),
        row!(POST "/api/v1/tasks/{id}/cancel", USER, task_cancel, tasks::task_cancel, "Asks a task to stop")
            .gives(200, json::<Task>()),
        row!(GET "/api/v1/tasks/{id}/events", USER, task_events, tasks::task_events,
            "A task's states as server-sent events, to its end; Last-Event-ID is honoured")
        .gives(200, Shape::Text("text/event-stream")),
        row!(POST "/api/v1/prune", ADMIN, prune, store::prune, "Frees what nothing refers to, or plans it")
            .body(json::<PruneRequest>())
            .gives(202, json::<Task>()),
        row!(POST "/api/v1/check", ADMIN, check, store::check, "Reads and verifies what is stored")
            .body(json::<CheckRequest>())
            .gives(202, json::<Task>()),
        row!(GET "/api/v1/findings", USER, finding_list, store::finding_list,
            "What is known to be wrong: all of it for an admin, else what hurts a version that the caller may read; newest first")
            .query::<FindingQuery>()
            .gives(200, page::<KnownFinding>()),
        row!(GET "/api/v1/scrub", ADMIN, scrub_get, store::scrub_get, "Where the scrub stands")
            .gives(200, json::<ScrubStatus>()),
        row!(POST "/api/v1/scrub/start", ADMIN, scrub_start, store::scrub_start,
            "Begins a pass of the scrub, or lets a paused one go on")
            .gives(202, json::<ScrubStatus>()),
        row!(POST "/api/v1/scrub/pause", ADMIN, scrub_pause, store::scrub_pause, "Pauses the scrub; where it is stays known")
            .gives(200, json::<ScrubStatus>()),
        row!(GET "/api/v1/journal", ADMIN, journal_list, store::journal_list, "Every change, in commit order")
            .extra(JOURNAL)
            .gives(200, page::<JournalEntry>()),
    ]
}

#[cfg(test)]
mod tests {
    use super::{Access, routes};
    use crate::http::path::path_params;
    use std::collections::BTreeSet;

    #[test]
    fn ids_are_unique_and_rows_are_complete() {
        let ids: BTreeSet<&str> = routes().iter().map(|route| route.id).collect();
        assert_eq!(ids.len(), routes().len());
        for route in routes() {
            assert!(!route.answers.is_empty(), "{} says nothing of its answers", route.id);
            assert!(!route.about.is_empty() && !route.about.ends_with('.'), "{}", route.id);
            for name in path_params(route.path) {
                let known = [
                    "owner",
                    "slug",
                    "version",
                    "index",
                    "id",
                    "name",
                    "space",
                    "pack",
                    "file",
                    "uuid",
                    "image_name",
                    "mac",
                ];
                assert!(known.contains(&name), "{} has a part {name} that no handler reads", route.id);
            }
            // Everything that changes something needs a user, but for the two ways to become one.
            let changes = route.method != "GET" && !matches!(route.id, "login" | "setup");
            assert!(!changes || matches!(route.access, Access::Role(_)), "{} is open", route.id);
        }
    }
}
