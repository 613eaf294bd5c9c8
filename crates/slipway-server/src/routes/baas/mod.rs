//! The BAAS dialect: the routes of BAAS at the root, as its scripts know them, over the same rules as the native API. Its rows are in the
//! one route table; what differs in shape (spelling, plain text, redirects) is in here and nowhere else.

mod bytes;
mod errors;
mod fields;
mod images;
mod later;
mod shapes;
mod users;

use super::shape::{Param, Shape, json};
use super::table::{ADMIN, MODERATOR, OPEN, Route, USER, row};
pub(crate) use errors::{problem_plain, slash_redirect};
use shapes::{BaasImage, BaasUser};

const TEXT: Shape = Shape::Text("text/plain; charset=utf-8");
const JSON: Shape = Shape::Bytes("application/json");
const FORM: Shape = Shape::Bytes("multipart/form-data");
const DISK: Shape = Shape::Bytes("disk/raw");
const COMPRESS: &[Param] = &[("compress", "none, gzip or zstd, in place of Accept-Encoding", "string")];

/// Whether a path is the dialect's, also one that leads nowhere: then its error is plain text.
pub(crate) fn path_is(path: &str) -> bool {
    let first = path.strip_prefix('/').unwrap_or(path).split('/').next().unwrap_or_default();
    matches!(first, "user" | "users" | "image" | "machine" | "machines" | "log" | "static" | "v1")
}

/// All rows of the dialect.
pub(super) fn rows() -> Vec<Route> {
    let mut rows = user_rows();
    rows.extend(image_rows());
    rows.extend(byte_rows());
    rows.extend(later_rows());
    rows
}

fn user_rows() -> Vec<Route> {
    vec![
        row!(GET "/users", MODERATOR, baas_user_list, users::user_list, "All users")
            .gives(200, json::<Vec<BaasUser>>()),
        row!(POST "/user", ADMIN, baas_user_create, users::user_create, "Makes a user").body(JSON).gives(200, TEXT),
        row!(GET "/user/me", USER, baas_user_me, users::user_me, "Who the caller is").gives(200, json::<BaasUser>()),
        row!(GET "/user/{name}", USER, baas_user_get, users::user_get, "One user").gives(200, json::<BaasUser>()),
        row!(PUT "/user/{name}", USER, baas_user_change, users::user_change, "Changes a user")
            .body(JSON)
            .gives(200, json::<BaasUser>()),
        row!(DELETE "/user/{name}", USER, baas_user_delete, users::user_delete,
            "Deletes a user; their images go into the trash, or to the user named in `to`")
        .extra(&[("to", "Who gets the images", "string")])
        .gives(200, TEXT),
    ]
}

fn image_rows() -> Vec<Route> {
    vec![
        row!(GET "/user/{name}/images", USER, baas_image_list, images::image_list, "A user's images")
            .gives(200, json::<Vec<BaasImage>>()),
        row!(GET "/user/{name}/images/{image_name}", USER, baas_image_list_named, images::image_list_named,
            "A user's images of one name")
            .gives(200, json::<Vec<BaasImage>>()),
        row!(POST "/user/{name}/image", USER, baas_image_create, images::image_create, "Makes an image with an empty version 0")
            .body(JSON)
            .gives(201, json::<BaasImage>()),
        row!(POST "/image", USER, baas_image_create_own, images::image_create, "Makes an image with an empty version 0")
            .body(JSON)
            .gives(201, json::<BaasImage>()),
        row!(GET "/image/{uuid}", USER, baas_image_get, images::image_get, "One image").gives(200, json::<BaasImage>()),
        row!(PUT "/image/{uuid}", USER, baas_image_change, images::image_change, "Changes what is said of an image")
            .body(JSON)
            .gives(200, json::<BaasImage>()),
        row!(DELETE "/image/{uuid}", USER, baas_image_delete, images::image_delete, "Puts an image into the trash")
            .gives(200, TEXT),
    ]
}

fn byte_rows() -> Vec<Route> {
    vec![
        row!(POST "/image/{uuid}", USER, baas_image_upload, bytes::image_upload,
            "Uploads the first part of a form as a new version, or with `X-BAAS-NewVersion: false` as the newest one's content")
            .body(FORM)
            .gives(200, TEXT),
        row!(GET "/image/{uuid}/latest", USER, baas_image_latest, bytes::image_latest, "The newest version's bytes")
            .extra(COMPRESS)
            .gives(200, DISK)
            .gives(206, DISK),
        row!(POST "/image/{uuid}/latest", USER, baas_image_latest_post, bytes::image_latest, "The newest version's bytes")
            .extra(COMPRESS)
            .gives(200, DISK)
            .gives(206, DISK),
        row!(GET "/image/{uuid}/{version}", USER, baas_image_version, bytes::image_version, "A version's bytes")
            .extra(COMPRESS)
            .gives(200, DISK)
            .gives(206, DISK),
        row!(POST "/image/{uuid}/docker", USER, baas_image_docker, bytes::image_docker, "Builds a version of a Dockerfile")
            .body(FORM)
            .gives(501, TEXT),
    ]
}

macro_rules! later {
    ($($method:ident $path:literal, $access:expr, $id:ident, $handler:path, $about:literal;)*) => {
        vec![$(row!($method $path, $access, $id, $handler, $about).gives(501, TEXT),)*]
    };
}

/// What comes with set-ups, machines, builds and sign-in by GitHub: who may call it hears what is missing.
fn later_rows() -> Vec<Route> {
    later! {
        GET "/user/login/github", OPEN, baas_login, later::login, "Signs in with GitHub";
        GET "/user/login/github/callback", OPEN, baas_login_callback, later::login, "Where GitHub leads back to";
        POST "/user/{name}/image_setup", USER, baas_setup_create, later::setup, "Makes an image set-up";
        GET "/user/{name}/image_setup", USER, baas_setup_list, later::setup, "A user's image set-ups";
        GET "/user/{name}/image_setups", USER, baas_setups, later::setup, "A user's image set-ups";
        GET "/user/{name}/image_setup/{uuid}", USER, baas_setup_get, later::setup, "One image set-up";
        PUT "/user/{name}/image_setup/{uuid}", USER, baas_setup_change, later::setup, "Renames an image set-up";
        DELETE "/user/{name}/image_setup/{uuid}", USER, baas_setup_delete, later::setup, "Deletes an image set-up";
        GET "/user/{name}/image_setup/{uuid}/images", USER, baas_setup_images, later::setup, "What an image set-up holds";
        POST "/user/{name}/image_setup/{uuid}/images", USER, baas_setup_add, later::setup, "Adds images to an image set-up";
        DELETE "/user/{name}/image_setup/{uuid}/images", USER, baas_setup_remove, later::setup, "Takes images out of an image set-up";
        GET "/user/{name}/image_setup/{uuid}/images/{image_name}", USER, baas_setup_image, later::setup, "One entry of an image set-up";
        GET "/machines", USER, baas_machine_list, later::machine, "All machines";
        GET "/machine/{mac}", USER, baas_machine_get, later::machine, "One machine";
        POST "/machine", ADMIN, baas_machine_create, later::machine, "Makes a machine";
        PUT "/machine", ADMIN, baas_machine_change, later::machine, "Changes or makes a machine";
        DELETE "/machine/{mac}", ADMIN, baas_machine_delete, later::machine, "Deletes a machine";
        GET "/machine/{mac}/image", MODERATOR, baas_machine_image, later::machine, "The bytes of a machine's own image";
        POST "/machine/{mac}/disk/{uuid}", MODERATOR, baas_machine_disk, later::machine, "Saves a machine's disk as a version";
        GET "/machine/{mac}/boot", MODERATOR, baas_boot_next, later::machine, "The next queued boot";
        POST "/machine/{mac}/boot", USER, baas_boot_queue, later::machine, "Queues a boot";
        GET "/v1/boot/{mac}", OPEN, baas_boot_script, later::machine, "What a machine boots over the network";
        POST "/log", USER, baas_log, later::machine, "A line for a machine's log";
        GET "/static/{file...}", OPEN, baas_static, later::machine, "Kernel and initramfs of the management OS";
    }
}
