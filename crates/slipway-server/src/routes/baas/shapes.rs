//! What BAAS's clients read: its spelling, its words.

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{Response, StatusCode};
use serde::Serialize;
use slipway_api::{FileSystem, FileType, ImageType, Problem, Role, Transfer, User};

use super::errors::{PLAIN, unknown};
use crate::db::word_of;
use crate::http::answer::{self, Answered, header_set};
use crate::http::json::json_write;
use crate::rules::image_facts::ImageFacts;

/// A user.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct BaasUser {
    /// The account's name.
    username: String,
    /// The person's.
    name: String,
    email: String,
    /// user, moderator or admin.
    role: String,
}

impl BaasUser {
    pub(super) fn of(user: User) -> Self {
        Self {
            username: user.name.into(),
            name: user.full_name,
            email: user.email.unwrap_or_default(),
            role: word_of(&user.role),
        }
    }
}

/// A version of an image.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct BaasVersion {
    version: u64,
    #[serde(rename = "ImageModelUUID")]
    image_model_uuid: String,
    /// Seconds since 1970.
    created_at: i64,
}

/// An image.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct BaasImage {
    /// Free text; several images may have one name.
    name: String,
    /// Oldest first.
    versions: Vec<BaasVersion>,
    #[serde(rename = "UUID")]
    uuid: String,
    /// Who owns it.
    username: String,
    /// none, gzip or zstd.
    disk_compression_strategy: String,
    /// raw or qcow2.
    image_file_type: String,
    /// base, boot, system, user, temporal, init or machine.
    #[serde(rename = "Type")]
    image_type: String,
    /// CRC-32 of the raw content, for images without versions and machine images; else empty.
    checksum: String,
    filesystem: String,
    /// The target disk.
    location: String,
    /// http or nbd.
    disk_transfer_strategy: String,
    /// UUIDs of the images it belongs with.
    associated: Vec<String>,
    /// Of a machine image: the machine, and its size in MiB.
    #[serde(rename = "MachineMAC", skip_serializing_if = "Option::is_none")]
    machine_mac: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
}

impl BaasImage {
    pub(super) fn of(facts: ImageFacts) -> Self {
        let ImageFacts { row, versions, checksum, size, associated } = facts;
        let uuid = row.id.to_string();
        let machine = row.image_type == ImageType::Machine;
        Self {
            name: row.title,
            versions: versions
                .into_iter()
                .map(|(version, at)| BaasVersion {
                    version,
                    image_model_uuid: uuid.clone(),
                    created_at: at.div_euclid(1000),
                })
                .collect(),
            uuid,
            username: row.owner.name,
            disk_compression_strategy: row.compression,
            image_file_type: word_of(&row.file_type),
            image_type: word_of(&row.image_type),
            checksum,
            filesystem: row.file_system.as_ref().map(word_of).unwrap_or_default(),
            location: row.target_location.unwrap_or_default(),
            disk_transfer_strategy: word_of(&row.transfer),
            associated,
            // No machine can claim it yet.
            machine_mac: machine.then(String::new),
            size: machine.then_some(size.div_ceil(1 << 20)),
        }
    }
}

/// One JSON object or array, and a newline.
pub(super) fn json<T: Serialize>(status: StatusCode, value: &T) -> Answered {
    let mut body = json_write(value)?;
    body.push(b'\n');
    let mut answer = answer::response(status, Body::from(body));
    header_set(&mut answer, CONTENT_TYPE, "application/json");
    header_set(&mut answer, CACHE_CONTROL, "private, no-cache");
    Ok(answer)
}

/// 200 with a text and a newline.
pub(super) fn text(text: &str) -> Response<Body> {
    let mut answer = answer::response(StatusCode::OK, Body::from(format!("{text}\n")));
    header_set(&mut answer, CONTENT_TYPE, PLAIN);
    answer
}

/// One of our words, in any case.
macro_rules! word_read {
    ($name:ident, $type:ty, $key:literal, $known:literal) => {
        pub(super) fn $name(given: &str) -> Result<$type, Problem> {
            serde_json::from_value(serde_json::Value::String(given.to_lowercase()))
                .map_err(|_| unknown($key, given, $known))
        }
    };
}

word_read!(role_read, Role, "Role", "user, moderator and admin");
word_read!(type_read, ImageType, "Type", "base, boot, system, user, temporal, init and machine");
word_read!(file_type_read, FileType, "ImageFileType", "raw and qcow2");
word_read!(transfer_read, Transfer, "DiskTransferStrategy", "http and nbd");
word_read!(
    file_system_read,
    FileSystem,
    "Filesystem",
    "fat32, ext4, raw and, for what an upload holds, xfs, btrfs, squashfs, erofs, swap and disk"
);

/// `none`, `gzip` or `zstd`.
pub(super) fn compression_read(given: &str) -> Result<String, Problem> {
    let word = given.to_lowercase();
    match word.as_str() {
        "none" | "gzip" | "zstd" => Ok(word),
        _ => Err(unknown("DiskCompressionStrategy", given, "none, gzip and zstd")),
    }
}
