//! `multipart/form-data` (RFC 7578, RFC 2046 section 5.1) as it comes in: the bytes of a part are passed on piece by piece and nothing is
//! kept, and whatever a hostile form makes long has a limit. A form without its closing delimiter is cut off, never whole.

use bytes::{Bytes, BytesMut};
use memchr::memmem::Finder;
use slipway_api::{Code, Problem};

use super::inbound::Inbound;
use super::json::printable;

/// Characters of a boundary at most (RFC 2046).
const BOUNDARY_MAX: usize = 70;
/// Bytes of one part's headers at most.
const HEADERS_MAX: usize = 8 << 10;
/// Headers of one part at most.
const HEADER_LINES_MAX: usize = 16;
/// Parts of a form at most.
const PARTS_MAX: usize = 16;
/// Bytes before the first delimiter, or after the last one.
const AROUND_MAX: usize = 64 << 10;
/// Blanks behind a delimiter.
const PADDING_MAX: usize = 256;

/// What a part's headers say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) name: String,
    pub(crate) file: Option<String>,
}

/// Where the reading stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// Before the first delimiter.
    Start,
    /// In the bytes of a part.
    Data,
    /// Before a delimiter that was found.
    Delimiter,
    /// Behind the closing delimiter and the end of the body.
    End,
}

/// A form that is read part by part.
pub(crate) struct Multipart {
    body: Inbound,
    delimiter: Finder<'static>,
    buf: BytesMut,
    at: At,
    parts: usize,
}

fn bad(why: impl std::fmt::Display) -> Problem {
    Problem::new(Code::InvalidRequest, format!("reading the form: {why}"))
}

impl Multipart {
    /// `content_type` is the request's header.
    ///
    /// # Errors
    /// 415 for what is no form, 400 for a boundary that is none.
    pub(crate) fn new(content_type: &str, body: Inbound) -> Result<Self, Problem> {
        let boundary = boundary_read(content_type)?;
        let delimiter = Finder::new(format!("\r\n--{boundary}").as_bytes()).into_owned();
        // A form may begin with its delimiter, which then has no line before it.
        Ok(Self { body, delimiter, buf: BytesMut::from(&b"\r\n"[..]), at: At::Start, parts: 0 })
    }

    /// The length of the whole request, if it was announced.
    pub(crate) fn announced(&self) -> Option<u64> {
        self.body.announced()
    }

    /// Takes more of the body; false at its end.
    async fn fill(&mut self) -> Result<bool, Problem> {
        match self.body.next().await? {
            Some(bytes) => {
                self.buf.extend_from_slice(&bytes);
                Ok(true)
            }
            None => Ok(false),
        }
    }

    async fn fill_must(&mut self) -> Result<(), Problem> {
        match self.fill().await? {
            true => Ok(()),
            false => {
                Err(bad("it was cut off before its closing delimiter").hint("send it again; nothing of it was taken"))
            }
        }
    }

    /// The next part, after the rest of this one is dropped; none behind the last, when the body has ended too.
    pub(crate) async fn part_next(&mut self) -> Result<Option<Part>, Problem> {
        match self.at {
            At::Start => self.preamble_skip().await?,
            At::Data => while self.data_next().await?.is_some() {},
            At::Delimiter => {}
            At::End => return Ok(None),
        }
        let _ = self.buf.split_to(self.delimiter.needle().len());
        while self.buf.len() < 2 {
            self.fill_must().await?;
        }
        if self.buf.starts_with(b"--") {
            self.epilogue_skip().await?;
            return Ok(None);
        }
        self.parts += 1;
        if self.parts > PARTS_MAX {
            return Err(bad(format!("it has more than {PARTS_MAX} parts")));
        }
        let line = self.until(b"\r\n", PADDING_MAX, "the line of a delimiter").await?;
        if line.iter().any(|byte| !matches!(byte, b' ' | b'\t')) {
            return Err(bad("a delimiter is followed by other signs"));
        }
        // The line end before the headers is theirs, so that a part without headers ends the same way.
        let mut head = BytesMut::from(&b"\r\n"[..]);
        head.unsplit(self.buf.split());
        self.buf = head;
        let head = self.until(b"\r\n\r\n", HEADERS_MAX, "the headers of a part").await?;
        self.at = At::Data;
        headers_read(&head).map(Some)
    }

    /// The bytes before `end`, which is taken off too; `max` of them at most.
    async fn until(&mut self, end: &[u8], max: usize, what: &str) -> Result<Bytes, Problem> {
        let too_long = || bad(format!("{what} is longer than {max} bytes"));
        loop {
            if let Some(len) = memchr::memmem::find(&self.buf, end) {
                if len > max {
                    return Err(too_long());
                }
                let taken = self.buf.split_to(len).freeze();
                let _ = self.buf.split_to(end.len());
                return Ok(taken);
            }
            if self.buf.len() > max + end.len() {
                return Err(too_long());
            }
            self.fill_must().await?;
        }
    }

    async fn preamble_skip(&mut self) -> Result<(), Problem> {
        loop {
            if let Some(len) = self.delimiter.find(&self.buf) {
                let _ = self.buf.split_to(len);
                return Ok(());
            }
            if self.buf.len() > AROUND_MAX {
                return Err(bad(format!("its first {AROUND_MAX} bytes have no delimiter")));
            }
            self.fill_must().await?;
        }
    }

    async fn epilogue_skip(&mut self) -> Result<(), Problem> {
        let mut skipped = 0;
        loop {
            skipped += self.buf.len();
            self.buf.clear();
            if skipped > AROUND_MAX {
                return Err(bad(format!("more than {AROUND_MAX} bytes follow its closing delimiter")));
            }
            if !self.fill().await? {
                self.at = At::End;
                return Ok(());
            }
        }
    }

    /// The next bytes of this part; none at its end, where a delimiter stands.
    pub(crate) async fn data_next(&mut self) -> Result<Option<Bytes>, Problem> {
        if self.at != At::Data {
            return Ok(None);
        }
        loop {
            if let Some(len) = self.delimiter.find(&self.buf) {
                self.at = At::Delimiter;
                return Ok((len > 0).then(|| self.buf.split_to(len).freeze()));
            }
            // The end of what is here may be the beginning of a delimiter.
            let sure = self.buf.len().saturating_sub(self.delimiter.needle().len() - 1);
            if sure > 0 {
                return Ok(Some(self.buf.split_to(sure).freeze()));
            }
            self.fill_must().await?;
        }
    }

    /// This part as text of at most `max` bytes.
    pub(crate) async fn text(&mut self, max: usize) -> Result<String, Problem> {
        let mut all = Vec::new();
        while let Some(bytes) = self.data_next().await? {
            if all.len() + bytes.len() > max {
                return Err(bad(format!("a field has more than {max} bytes")));
            }
            all.extend_from_slice(&bytes);
        }
        String::from_utf8(all).map_err(|_| bad("a field is no text"))
    }
}

/// The boundary of a form's `Content-Type`.
fn boundary_read(content_type: &str) -> Result<String, Problem> {
    let (media, rest) = content_type.split_once(';').unwrap_or((content_type, ""));
    if !media.trim().eq_ignore_ascii_case("multipart/form-data") {
        let title =
            format!("the body's Content-Type is '{}'; multipart/form-data is expected", printable(content_type));
        return Err(Problem::new(Code::UnsupportedMedia, title)
            .field("content-type")
            .hint("curl -F file=@IMAGE sends a form"));
    }
    let boundary = params_read(rest).find(|(name, _)| name.eq_ignore_ascii_case("boundary")).map(|(_, value)| value);
    let boundary = boundary.ok_or_else(|| bad("its Content-Type names no boundary"))?;
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"'()+_,-./:=? ".contains(&byte);
    match (1..=BOUNDARY_MAX).contains(&boundary.len()) && boundary.bytes().all(allowed) && !boundary.ends_with(' ') {
        true => Ok(boundary),
        false => Err(bad(format!("its boundary is not of 1 to {BOUNDARY_MAX} of the signs that RFC 2046 allows"))),
    }
}

/// `; name=value; name="quoted"`: what is neither is left out.
fn params_read(text: &str) -> impl Iterator<Item = (String, String)> {
    let mut rest = text;
    std::iter::from_fn(move || {
        rest = rest.trim_start_matches([';', ' ', '\t']);
        let (name, after) = rest.split_once('=')?;
        let (value, after) = match after.strip_prefix('"') {
            None => {
                let end = after.find(';').unwrap_or(after.len());
                (after[..end].trim().to_owned(), &after[end..])
            }
            Some(quoted) => {
                let (mut value, mut signs) = (String::new(), quoted.char_indices());
                let end = loop {
                    match signs.next() {
                        None => break quoted.len(),
                        Some((at, '"')) => break at + 1,
                        Some((_, '\\')) => value.extend(signs.next().map(|(_, sign)| sign)),
                        Some((_, sign)) => value.push(sign),
                    }
                };
                (value, &quoted[end..])
            }
        };
        rest = after;
        Some((name.trim().to_owned(), value))
    })
}

/// Reads the headers of a part; each begins with its line's end, as [`Multipart::part_next`] cuts them.
fn headers_read(head: &[u8]) -> Result<Part, Problem> {
    let text = std::str::from_utf8(head).map_err(|_| bad("the headers of a part are no text"))?;
    let mut part = Part::default();
    for (count, line) in text.split("\r\n").filter(|line| !line.is_empty()).enumerate() {
        if count >= HEADER_LINES_MAX {
            return Err(bad(format!("a part has more than {HEADER_LINES_MAX} headers")));
        }
        let (name, value) = line.split_once(':').ok_or_else(|| bad("a part has a header without a colon"))?;
        if name.eq_ignore_ascii_case("content-disposition") {
            for (name, value) in params_read(value.split_once(';').map_or("", |(_, rest)| rest)) {
                match name.as_str() {
                    "name" => part.name = value,
                    "filename" | "filename*" => part.file = Some(value),
                    _ => {}
                }
            }
        }
        // What is coded would be taken for the image's own bytes.
        let plain = ["binary", "8bit", "7bit"].iter().any(|plain| value.trim().eq_ignore_ascii_case(plain));
        if name.eq_ignore_ascii_case("content-transfer-encoding") && !plain {
            return Err(bad(format!("the transfer encoding '{}' of a part is not read", printable(value.trim())))
                .hint("send the bytes as they are"));
        }
    }
    Ok(part)
}

#[cfg(test)]
mod tests {
    use super::{Multipart, Part, boundary_read, params_read};
    use crate::http::inbound::Inbound;
    use axum::body::Body;
    use bytes::Bytes;
    use futures_util::stream;
    use std::time::Duration;

    fn form(body: &[u8], piece: usize) -> Multipart {
        let pieces: Vec<Result<Bytes, std::io::Error>> =
            body.chunks(piece.max(1)).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        let body = Inbound::new(Body::from_stream(stream::iter(pieces)), Duration::from_secs(5), Default::default());
        Multipart::new("multipart/form-data; boundary=XX", body).unwrap()
    }

    async fn read(body: &[u8], piece: usize) -> Result<Vec<(Part, Vec<u8>)>, String> {
        let (mut form, mut parts) = (form(body, piece), Vec::new());
        while let Some(part) = form.part_next().await.map_err(|p| p.title)? {
            let mut all = Vec::new();
            while let Some(bytes) = form.data_next().await.map_err(|p| p.title)? {
                all.extend_from_slice(&bytes);
            }
            parts.push((part, all));
        }
        Ok(parts)
    }

    fn part(name: &str, file: Option<&str>) -> Part {
        Part { name: name.to_owned(), file: file.map(str::to_owned) }
    }

    #[tokio::test]
    async fn parts_come_out_however_the_body_is_cut() {
        let tricky = b"\r\n--X\r\n-\r\n--Y\r\n--XZ\0".as_slice();
        let mut body =
            b"preamble\r\n--XX \t\r\nContent-Disposition: form-data; name=\"newVersion\"\r\n\r\nfalse\r\n--XX\r\n\
            content-disposition: form-data; NAME=x; name=\"a\\\"b\"; filename=\"d.img\"\r\nContent-Type: a/b\r\n\r\n"
                .to_vec();
        body.extend_from_slice(tricky);
        body.extend_from_slice(b"\r\n--XX\r\n\r\n\r\n--XX--\r\nepilogue");
        let wanted = vec![
            (part("newVersion", None), b"false".to_vec()),
            (part("a\"b", Some("d.img")), tricky.to_vec()),
            (part("", None), Vec::new()),
        ];
        for piece in [1, 2, 3, 5, 7, 64, 100_000] {
            assert_eq!(read(&body, piece).await.unwrap(), wanted, "{piece}");
        }
        // Every cut before the closing delimiter is an error, and never a shorter form.
        let closing = body.len() - "\r\nepilogue".len();
        for len in 0..closing {
            let cut = read(&body[..len], 9).await.unwrap_err();
            assert!(cut.contains("cut off"), "{len}: {cut}");
        }
        assert!(read(&body[..closing], 9).await.is_ok());
    }

    #[tokio::test]
    async fn what_is_too_much_is_refused() {
        let head = "--XX\r\nContent-Disposition: form-data; name=a\r\n";
        for (body, why) in [
            ("x".repeat(70_000), "no delimiter"),
            (format!("{head}{}", "a: b\r\n".repeat(20)) + "\r\nx\r\n--XX--", "more than 16 headers"),
            (format!("{head}a: {}\r\n\r\nx\r\n--XX--", "b".repeat(9000)), "longer than 8192"),
            (format!("{head}a: {}", "b".repeat(90_000)), "longer than 8192"),
            (format!("{head}no colon\r\n\r\nx\r\n--XX--"), "without a colon"),
            (format!("--XX{}\r\n\r\n\r\n--XX--", " ".repeat(300)), "longer than 256"),
            ("--XXnot\r\n\r\n\r\n--XX--".to_owned(), "other signs"),
            (format!("{head}Content-Transfer-Encoding: base64\r\n\r\neA==\r\n--XX--"), "transfer encoding"),
            (format!("{}--XX--", format!("{head}\r\nx\r\n").repeat(17)), "more than 16 parts"),
            (format!("{head}\r\nx\r\n--XX--{}", "e".repeat(70_000)), "follow its closing"),
        ] {
            for piece in [1000, 100_000] {
                let refused = read(body.as_bytes(), piece).await.unwrap_err();
                assert!(refused.contains(why), "{why}: {refused}");
            }
        }
    }

    #[tokio::test]
    async fn fields_are_short() {
        let body = format!("--XX\r\n\r\n{}\r\n--XX--", "a".repeat(17));
        let mut long = form(body.as_bytes(), 4);
        long.part_next().await.unwrap();
        assert!(long.text(16).await.unwrap_err().title.contains("more than 16 bytes"));
    }

    #[test]
    fn boundaries_are_read_or_refused() {
        let long = "b".repeat(71);
        for (text, expected) in [
            ("multipart/form-data; boundary=abc", Ok("abc")),
            ("Multipart/Form-Data;charset=x; BOUNDARY=\"a b\"", Ok("a b")),
            ("multipart/form-data; boundary=\"a;b\"", Err(400)),
            ("multipart/form-data", Err(400)),
            ("multipart/form-data; boundary=", Err(400)),
            ("multipart/form-data; boundary=\"a \"", Err(400)),
            ("multipart/form-data; boundary=a\rb", Err(400)),
            (&*format!("multipart/form-data; boundary={long}"), Err(400)),
            ("multipart/mixed; boundary=abc", Err(415)),
            ("application/octet-stream", Err(415)),
            ("", Err(415)),
        ] {
            assert_eq!(boundary_read(text).map_err(|p| p.status), expected.map(str::to_owned), "{text}");
        }
        let read = |text| params_read(text).collect::<Vec<_>>();
        assert_eq!(read("; a=1; b=\"x;\\\"y\" ;c"), [("a".into(), "1".into()), ("b".into(), "x;\"y".into())]);
        assert_eq!(read("a=\"open"), [("a".to_owned(), "open".to_owned())]);
    }
}
