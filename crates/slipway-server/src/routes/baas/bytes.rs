//! The bytes: a form in, raw bytes out.

use axum::http::header::RANGE;
use bytes::{Bytes, BytesMut};
use serde::Deserialize;
use slipway_api::{Code, FileType, Problem, UploadFormat, UploadNew, VersionPick};
use slipway_format::{Format, Said, WRAP_HEAD_LEN, Wrap, wrap_detect};

use super::errors::{bad, not_yet, unknown};
use super::images::uuid;
use super::shapes::text;
use crate::http::answer::Answered;
use crate::http::ask::Ask;
use crate::http::encode::Coding;
use crate::http::multipart::{Multipart, Part};
use crate::http::repr::ReprCheck;
use crate::http::stream::{Inflow, body_channel, body_seat};
use crate::policy::Action;
use crate::routes::download::{Given, content_answer};
use crate::rules;
use crate::rules::image_facts::image_allowed;
use crate::rules::upload::FillChecks;
use crate::rules::version::{version_content, version_number_at};

/// The field that says whether a new version is made; also the header, with `X-BAAS-` before it.
const NEW_VERSION: &str = "newVersion";
const NEW_VERSION_HEADER: &str = "x-baas-newversion";
/// From here on a version's number is read as seconds since 1970: 2001-09-09.
const TIMES_FROM: u64 = 1_000_000_000;
/// Bytes of a field's value at most.
const FIELD_MAX: usize = 64;
/// Bytes of all parts behind the image's at most.
const REST_MAX: u64 = 1 << 20;

fn new_version_read(given: &str) -> Result<bool, Problem> {
    match given {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(unknown("X-BAAS-NewVersion", given, "true and false")),
    }
}

pub(super) async fn image_upload(ask: Ask) -> Answered {
    let id = uuid(&ask)?;
    let image = image_allowed(ask.core(), &ask.who, id, Action::ImageWrite).await?;
    let header = ask.header(NEW_VERSION_HEADER)?.map(new_version_read).transpose()?;
    ask.site.space_check()?;
    let content_type = ask.header("content-type")?.unwrap_or_default().to_owned();
    let Ask { site, who, body, .. } = ask;
    let mut form = Multipart::new(&content_type, body)?;
    let wish = fields_read(&mut form).await?;
    let new_version = match (header, wish) {
        (Some(header), Some(field)) if header != field => {
            return Err(bad("the header X-BAAS-NewVersion and the field newVersion say different things"));
        }
        (header, field) => header.or(field).unwrap_or(true),
    };
    let mut part = ImagePart { form, ahead: BytesMut::new(), received: 0, new_version };
    let said = match image.file_type {
        FileType::Raw => Said::RawIn(wrap_find(part.peek(WRAP_HEAD_LEN).await?, &image.compression)),
        FileType::Qcow2 => Said::Disk(Format::Qcow2),
    };
    let max = site.core.config.image_size_max;
    let new = UploadNew {
        image: id.to_string(),
        format: UploadFormat::Raw,
        parent: None,
        size: None,
        sector_size: None,
        message: String::new(),
        new: new_version,
        source_format: None,
        digest: None,
    };
    let checks = FillChecks { replace: !new_version, ..FillChecks::default() };
    let _seat = body_seat()?;
    let (pump, reader) = body_channel(ReprCheck::default());
    let filling = rules::upload::upload_fill(&site.core, &who, new, said, Box::new(reader), checks, pump.cut());
    let (filled, ()) = tokio::join!(filling, pump.run(part, max, None, &site));
    site.metrics.upload_ended(filled.is_ok());
    Ok(text(&format!("Successfully uploaded image: {}", filled?.version.number)))
}

/// Reads the fields before the image's part, and stands at its bytes then. The first part is the image whatever its name, but for a field
/// `newVersion`, which is told from a file by having no file name.
async fn fields_read(form: &mut Multipart) -> Result<Option<bool>, Problem> {
    let mut wish = None;
    loop {
        let part = form.part_next().await?.ok_or_else(|| bad("the form has no part with an image"))?;
        if !is_wish(&part) {
            return Ok(wish);
        }
        wish = Some(new_version_read(&form.text(FIELD_MAX).await?)?);
    }
}

fn is_wish(part: &Part) -> bool {
    part.file.is_none() && part.name.eq_ignore_ascii_case(NEW_VERSION)
}

/// Bytes are unpacked only if they begin like a stream of the kind that the image says its uploads have: a raw disk may begin like anything.
fn wrap_find(head: &[u8], compression: &str) -> Wrap {
    match (wrap_detect(head), compression) {
        (Wrap::Gzip, "gzip") => Wrap::Gzip,
        (Wrap::Zstd, "zstd") => Wrap::Zstd,
        (Wrap::None | Wrap::Gzip | Wrap::Xz | Wrap::Zstd, _) => Wrap::None,
    }
}

/// The part with the image. Its end is told only when all of the form has come, so that one that is cut off makes nothing.
struct ImagePart {
    form: Multipart,
    ahead: BytesMut,
    received: u64,
    new_version: bool,
}

impl ImagePart {
    /// The first bytes, `len` of them if there are so many.
    async fn peek(&mut self, len: usize) -> Result<&[u8], Problem> {
        while self.ahead.len() < len {
            match self.form.data_next().await? {
                Some(bytes) => self.ahead.extend_from_slice(&bytes),
                None => break,
            }
        }
        Ok(&self.ahead)
    }

    /// Reads what follows. A wish that comes too late must at least not be another one.
    async fn rest(&mut self) -> Result<(), Problem> {
        let mut left = REST_MAX;
        while let Some(part) = self.form.part_next().await? {
            if is_wish(&part) && new_version_read(&self.form.text(FIELD_MAX).await?)? != self.new_version {
                return Err(bad("the field newVersion comes after the image")
                    .hint("put it before the file, or send the header X-BAAS-NewVersion"));
            }
            while let Some(bytes) = self.form.data_next().await? {
                left = left.checked_sub(bytes.len() as u64).ok_or_else(|| {
                    let title = format!("more than {REST_MAX} bytes follow the image's part");
                    Problem::new(Code::TooLarge, title).hint("the first part is the image; send no more than that")
                })?;
            }
        }
        Ok(())
    }
}

impl Inflow for ImagePart {
    /// Of the part nothing is announced; the request is a little longer, which is near enough to refuse what is far too long.
    fn announced(&self) -> Option<u64> {
        self.form.announced().map(|len| len.saturating_sub(REST_MAX))
    }

    fn received(&self) -> u64 {
        self.received
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Problem> {
        let bytes = match self.ahead.is_empty() {
            false => Some(self.ahead.split().freeze()),
            true => self.form.data_next().await?,
        };
        match bytes {
            Some(bytes) => {
                self.received += bytes.len() as u64;
                Ok(Some(bytes))
            }
            None => {
                self.rest().await?;
                Ok(None)
            }
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct BytesQuery {
    compress: Option<String>,
}

pub(super) async fn image_latest(ask: Ask) -> Answered {
    image_bytes(ask, VersionPick::Latest).await
}

pub(super) async fn image_version(ask: Ask) -> Answered {
    let given = ask.param("version");
    // What is no number is no version; a number beyond all counting is one that does not exist.
    let number = given.bytes().all(|byte| byte.is_ascii_digit()).then(|| given.parse::<u64>().ok()).flatten();
    match number.filter(|number| i64::try_from(*number).is_ok()) {
        // No image has so many versions: as BAAS's comments have it, this is a time.
        Some(seconds) if seconds >= TIMES_FROM => {
            let id = uuid(&ask)?;
            let number = version_number_at(&ask.site.core, &ask.who, id, seconds).await?;
            image_bytes(ask, VersionPick::Number(number)).await
        }
        Some(number) => image_bytes(ask, VersionPick::Number(number)).await,
        None => {
            let id = uuid(&ask)?;
            image_allowed(&ask.site.core, &ask.who, id, Action::ImageOversee).await?;
            Err(Problem::new(Code::NotFound, "Cannot download the image").hint("a version is a number, or latest"))
        }
    }
}

async fn image_bytes(ask: Ask, pick: VersionPick) -> Answered {
    let id = uuid(&ask)?;
    let query: BytesQuery = ask.query()?;
    let coding = match query.compress.as_deref() {
        None => Coding::wanted(ask.headers()),
        // A range is of the raw bytes.
        Some(_) if ask.headers().contains_key(RANGE) => Coding::Identity,
        Some("" | "none") => Coding::Identity,
        Some("gzip") => Coding::Gzip,
        Some("zstd") => Coding::Zstd,
        Some(other) => return Err(unknown("compress", other, "none, gzip and zstd")),
    };
    let Ask { site, who, head, .. } = ask;
    let content = version_content(&site.core, &who, id, &pick).await?;
    let disposition = format!("attachment; filename={id}-{}.img", content.version.number);
    let (qcow2, media) = match content.file_type {
        FileType::Raw => (false, "disk/raw"),
        FileType::Qcow2 => (true, "disk/qcow2"),
    };
    content_answer(&site, &head, &content, Given { coding, media, disposition, qcow2 }).await
}

/// Who may write the image may build it.
pub(super) async fn image_docker(ask: Ask) -> Answered {
    image_allowed(ask.core(), &ask.who, uuid(&ask)?, Action::ImageWrite).await?;
    Err(not_yet(
        "building an image of a Dockerfile is not served yet",
        "it comes with builds; upload the finished disk until then: POST /image/UUID",
    ))
}

#[cfg(test)]
mod tests {
    use super::{Wrap, new_version_read, wrap_find};

    #[test]
    fn bytes_are_unpacked_only_when_both_say_so() {
        let (gzip, zstd) = ([0x1f, 0x8b, 8, 0, 0, 0], [0x28, 0xb5, 0x2f, 0xfd, 0, 0]);
        for (head, compression, wrap) in [
            (&gzip[..], "gzip", Wrap::Gzip),
            (&zstd[..], "zstd", Wrap::Zstd),
            (&gzip[..], "zstd", Wrap::None),
            (&zstd[..], "gzip", Wrap::None),
            (&gzip[..], "none", Wrap::None),
            (b"\xfd7zXZ\0", "zstd", Wrap::None),
            (b"", "zstd", Wrap::None),
        ] {
            assert_eq!(wrap_find(head, compression), wrap, "{head:x?} {compression}");
        }
    }

    #[test]
    fn a_wish_is_true_or_false() {
        assert_eq!(new_version_read("true").ok(), Some(true));
        assert_eq!(new_version_read("false").ok(), Some(false));
        for other in ["", "True", "1", "false "] {
            assert_eq!(new_version_read(other).unwrap_err().status, 400, "{other:?}");
        }
    }
}
