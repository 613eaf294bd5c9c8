//! The two texts of an OVA (DSP0243 2.1): the OVF, of which only the disks and the files they lie in are read, and the manifest of digests.

use crate::DiskError;
use crate::container::Container;
use crate::names::name_show;
use sha1::Sha1;
use sha2::{Digest, Sha256, Sha512};

/// Why one of the texts is not taken.
#[derive(Debug)]
pub(super) enum Fault {
    Refused(String),
    Damaged(String),
}

impl Fault {
    pub(super) fn into_error(self, container: &Container) -> DiskError {
        match self {
            Fault::Refused(reason) => container.refused(reason),
            Fault::Damaged(reason) => container.damaged(reason),
        }
    }
}

fn refused<T>(reason: impl Into<String>) -> Result<T, Fault> {
    Err(Fault::Refused(reason.into()))
}

fn damaged<T>(reason: impl Into<String>) -> Result<T, Fault> {
    Err(Fault::Damaged(reason.into()))
}

/// An element's name and attributes, without their name spaces.
struct Tag {
    name: String,
    attributes: Vec<(String, String)>,
}

impl Tag {
    fn get(&self, key: &str) -> Option<&str> {
        self.attributes.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }
}

/// The file that the one disk of an OVF lies in.
#[derive(Debug, PartialEq)]
pub(super) struct Named {
    pub(super) href: String,
    /// Its bytes, where the OVF says them.
    pub(super) size: Option<u64>,
}

/// Finds the one disk that an OVF describes.
pub(super) fn disk_named(text: &str) -> Result<Named, Fault> {
    let tags = tags_read(text)?;
    let disks: Vec<_> = tags.iter().filter(|tag| tag.name == "Disk").collect();
    if disks.iter().any(|disk| disk.get("parentRef").is_some_and(|parent| !parent.is_empty())) {
        return refused("its OVF describes a disk that needs a parent disk");
    }
    // A disk without a file is empty and made by whoever runs the machine.
    let with_file: Vec<_> = disks.iter().filter_map(|disk| disk.get("fileRef")).collect();
    let wanted = match with_file[..] {
        [only] => only,
        [] => return refused("its OVF describes no disk that lies in a file"),
        _ => {
            let names: Vec<_> = with_file.iter().take(8).map(|name| name_show(name)).collect();
            return refused(format!(
                "its OVF describes {} disks ({}); unpack it and give one of them",
                with_file.len(),
                names.join(", ")
            ));
        }
    };
    let mut files = tags.iter().filter(|tag| tag.name == "File" && tag.get("id") == Some(wanted));
    let (Some(file), None) = (files.next(), files.next()) else {
        return damaged(format!("its OVF does not say once which file {} is", name_show(wanted)));
    };
    if file.get("chunkSize").is_some() {
        return refused("its OVF says that the disk is cut into several files");
    }
    // What is gzip is seen by its content; anything else could not be.
    match file.get("compression") {
        None | Some("" | "identity" | "gzip") => {}
        Some(other) => return refused(format!("its OVF says that the disk is compressed by {}", name_show(other))),
    }
    let href = file.get("href").unwrap_or_default();
    if href.is_empty() || href.contains(['/', '\\', ':']) && !href.starts_with("./") || href.contains("..") {
        return refused(format!("its OVF names another file by a path ({})", name_show(href)));
    }
    let size = match file.get("size") {
        None => None,
        Some(size) => match size.parse() {
            Ok(size) => Some(size),
            Err(_) => return damaged(format!("its OVF says that the disk's file has {} bytes", name_show(size))),
        },
    };
    Ok(Named { href: href.to_owned(), size })
}

/// The elements of an XML text, in order. Nothing it declares is obeyed: a document type is refused.
fn tags_read(text: &str) -> Result<Vec<Tag>, Fault> {
    let mut tags = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('<') {
        rest = &rest[at..];
        let skipped = [("<!--", "-->"), ("<![CDATA[", "]]>"), ("<?", "?>"), ("</", ">")]
            .into_iter()
            .find_map(|(begin, end)| rest.strip_prefix(begin).map(|inside| (inside, end)));
        if let Some((inside, end)) = skipped {
            let Some(end_at) = inside.find(end) else { return damaged("its OVF ends inside a tag") };
            rest = &inside[end_at + end.len()..];
            continue;
        }
        if rest.starts_with("<!") {
            return refused("its OVF declares a document type, which no OVF needs");
        }
        let (tag, after) = tag_read(&rest[1..])?;
        tags.push(tag);
        rest = after;
    }
    Ok(tags)
}

fn word_end(text: &str) -> usize {
    text.find(|c: char| c.is_whitespace() || matches!(c, '=' | '>' | '/' | '<' | '"' | '\'')).unwrap_or(text.len())
}

fn without_space(name: &str) -> String {
    name.rsplit(':').next().unwrap_or(name).to_owned()
}

/// Reads a start tag, from behind its '<' to behind its '>'.
fn tag_read(text: &str) -> Result<(Tag, &str), Fault> {
    let (name, mut rest) = text.split_at(word_end(text));
    let mut tag = Tag { name: without_space(name), attributes: Vec::new() };
    loop {
        rest = rest.trim_start();
        if let Some(after) = rest.strip_prefix('>').or_else(|| rest.strip_prefix("/>")) {
            return Ok((tag, after));
        }
        let (key, after) = rest.split_at(word_end(rest));
        let value = after.trim_start().strip_prefix('=').map(str::trim_start);
        let quoted = value.and_then(|value| match value.chars().next() {
            Some(quote @ ('"' | '\'')) => value[1..].split_once(quote),
            _ => None,
        });
        let (Some((value, after)), false) = (quoted, key.is_empty()) else {
            return damaged(format!("its OVF has a tag that cannot be read: {}", name_show(&tag.name)));
        };
        let key = without_space(key);
        if tag.get(&key).is_some() {
            return damaged(format!("its OVF says {} twice in one tag", name_show(&key)));
        }
        tag.attributes.push((key, entities_replace(value)?));
        rest = after;
    }
}

fn entities_replace(value: &str) -> Result<String, Fault> {
    let mut plain = String::with_capacity(value.len());
    let mut rest = value;
    while let Some((before, after)) = rest.split_once('&') {
        plain.push_str(before);
        let Some((entity, after)) = after.split_once(';') else { return damaged("its OVF has an '&' without ';'") };
        let number = match entity.strip_prefix("#x") {
            Some(hex) => u32::from_str_radix(hex, 16).ok(),
            None => entity.strip_prefix('#').and_then(|number| number.parse().ok()),
        };
        let c = match entity {
            "amp" => Some('&'),
            "lt" => Some('<'),
            "gt" => Some('>'),
            "quot" => Some('"'),
            "apos" => Some('\''),
            _ => number.and_then(char::from_u32),
        };
        let Some(c) = c else { return damaged(format!("its OVF uses the unknown entity {}", name_show(entity))) };
        plain.push(c);
        rest = after;
    }
    plain.push_str(rest);
    Ok(plain)
}

/// A line of a manifest.
pub(super) struct Line {
    pub(super) name: String,
    method: Method,
    wanted: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
enum Method {
    Sha1,
    Sha256,
    Sha512,
}

impl Line {
    pub(super) fn method(&self) -> &'static str {
        match self.method {
            Method::Sha1 => "SHA1",
            Method::Sha256 => "SHA256",
            Method::Sha512 => "SHA512",
        }
    }

    pub(super) fn sum_begin(&self) -> Sum<'_> {
        let state = match self.method {
            Method::Sha1 => State::Sha1(Sha1::new()),
            Method::Sha256 => State::Sha256(Sha256::new()),
            Method::Sha512 => State::Sha512(Sha512::new()),
        };
        Sum { state, wanted: &self.wanted }
    }
}

enum State {
    Sha1(Sha1),
    Sha256(Sha256),
    Sha512(Sha512),
}

/// A digest on the way.
pub(super) struct Sum<'a> {
    state: State,
    wanted: &'a [u8],
}

impl Sum<'_> {
    pub(super) fn update(&mut self, bytes: &[u8]) {
        match &mut self.state {
            State::Sha1(sum) => sum.update(bytes),
            State::Sha256(sum) => sum.update(bytes),
            State::Sha512(sum) => sum.update(bytes),
        }
    }

    /// Whether it is the one in the manifest.
    pub(super) fn fits(self) -> bool {
        match self.state {
            State::Sha1(sum) => sum.finalize()[..] == *self.wanted,
            State::Sha256(sum) => sum.finalize()[..] == *self.wanted,
            State::Sha512(sum) => sum.finalize()[..] == *self.wanted,
        }
    }
}

/// Reads a manifest: lines of `SHA256(name)= digest`, also with SHA1 or SHA512 and with spaces around the parentheses.
pub(super) fn manifest_parse(text: &str) -> Result<Vec<Line>, Fault> {
    let mut lines: Vec<Line> = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let parts = line.split_once('(').and_then(|(method, rest)| Some((method.trim(), rest.rsplit_once(')')?)));
        let Some((method, (name, digest))) = parts else {
            return damaged(format!("its manifest has a line that cannot be read: {}", name_show(line)));
        };
        let (method, len) = match method.to_ascii_uppercase().as_str() {
            "SHA1" => (Method::Sha1, 20),
            "SHA256" => (Method::Sha256, 32),
            "SHA512" => (Method::Sha512, 64),
            _ => return refused(format!("its manifest uses the digest {}", name_show(method))),
        };
        let digest = digest.trim().strip_prefix('=').map(str::trim).and_then(hex_read);
        let Some(wanted) = digest.filter(|digest| digest.len() == len) else {
            return damaged(format!("its manifest has no digest for {}", name_show(name)));
        };
        if lines.iter().any(|line| line.name == name) {
            return damaged(format!("its manifest lists {} twice", name_show(name)));
        }
        lines.push(Line { name: name.to_owned(), method, wanted });
        // More lines than files would be compared with each other for long.
        if lines.len() > super::FILES_MAX {
            return refused(format!("its manifest has more than {} lines", super::FILES_MAX));
        }
    }
    Ok(lines)
}

fn hex_read(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    let value = |digit: u8| char::from(digit).to_digit(16);
    digits.len().is_multiple_of(2).then_some(())?;
    digits.chunks_exact(2).map(|pair| Some((value(pair[0])? << 4 | value(pair[1])?) as u8)).collect()
}

#[cfg(test)]
mod tests {
    use super::{Fault, Named, disk_named, manifest_parse};

    fn ovf(files: &str, disks: &str) -> String {
        format!(
            "<?xml version=\"1.0\"?>\n<!-- <Disk fileRef='no'/> --><Envelope xmlns:ovf=\"http://x\"><References>{files}</References>\
             <DiskSection><Info>a > b</Info>{disks}</DiskSection></Envelope>"
        )
    }

    #[test]
    fn the_disk_is_found() {
        let named = |href: &str, size| Named { href: href.into(), size };
        for (files, disks, wanted) in [
            (
                "<File ovf:id='f' ovf:href='a.vmdk' ovf:size='12'/>",
                "<Disk ovf:fileRef='f'/>",
                named("a.vmdk", Some(12)),
            ),
            (
                "<ovf:File href = \"a&amp;b.vmdk\"\n id=\"f\" ></ovf:File>",
                "<ovf:Disk fileRef=\"f\" capacity='1'/>",
                named("a&b.vmdk", None),
            ),
            (
                "<File id='f' href='a'/><File id='g' href='b.iso'/>",
                "<Disk fileRef='f'/><Disk capacity='8'/>",
                named("a", None),
            ),
            ("<File id='f' href='&#x61;&#98;' compression='gzip'/>", "<Disk fileRef='f'/>", named("ab", None)),
        ] {
            assert_eq!(disk_named(&ovf(files, disks)).unwrap(), wanted);
        }
    }

    #[test]
    fn what_is_not_clear_is_refused() {
        let file = "<File id='f' href='a.vmdk'/>";
        let disk = "<Disk fileRef='f'/>";
        for (files, disks, word) in [
            (file, "", "no disk"),
            (file, "<Disk fileRef='f'/><Disk fileRef='g'/>", "2 disks ('f', 'g')"),
            (file, "<Disk fileRef='f' parentRef='p'/>", "parent"),
            (file, "<Disk fileRef='x'/>", "does not say once"),
            ("<File id='f' href='a'/><File id='f' href='b'/>", disk, "does not say once"),
            ("<File id='f' href='a' chunkSize='7'/>", disk, "several files"),
            ("<File id='f' href='a' compression='rot13'/>", disk, "rot13"),
            ("<File id='f' href='/etc/shadow'/>", disk, "path"),
            ("<File id='f' href='http://x/a'/>", disk, "path"),
            ("<File id='f' href='./../a'/>", disk, "path"),
            ("<File id='f'/>", disk, "path"),
            ("<File id='f' href='a' size='many'/>", disk, "bytes"),
            ("<File id='f' id='g' href='a'/>", disk, "twice"),
            ("<File id='f' href='&x;'/>", disk, "entity"),
            ("<File id='f' href=a/>", disk, "cannot be read"),
            ("<!DOCTYPE x [<!ENTITY x SYSTEM 'file:///etc/passwd'>]>", disk, "document type"),
            ("<!-- ", disk, "inside a tag"),
        ] {
            let (Fault::Refused(why) | Fault::Damaged(why)) = disk_named(&ovf(files, disks)).unwrap_err();
            assert!(why.contains(word), "{files} {disks}: {why}");
        }
    }

    #[test]
    fn manifests() {
        let digest = "0".repeat(40);
        let lines = manifest_parse(&format!("SHA1(a b.ovf)= {digest}\r\n\nsha256 (x(1).vmdk) = {}\n", "AB".repeat(32)))
            .unwrap();
        assert_eq!(lines.iter().map(|line| line.name.as_str()).collect::<Vec<_>>(), ["a b.ovf", "x(1).vmdk"]);
        assert_eq!(lines[1].wanted, [0xab; 32]);
        for (text, word) in [
            ("nothing".to_owned(), "cannot be read"),
            ("MD5(a)= 00".into(), "MD5"),
            ("SHA1(a)= 00".into(), "no digest"),
            (format!("SHA1(a)= {digest}\nSHA1(a)= {digest}"), "twice"),
        ] {
            let Err(Fault::Refused(why) | Fault::Damaged(why)) = manifest_parse(&text) else { panic!("{text}") };
            assert!(why.contains(word), "{why}");
        }
    }
}
