use super::{Export, block_size, name_check, nbd_info_reply, nbd_info_request, negotiate, starttls};
use std::io::{self, Cursor, Read, Write};

/// A server that has said all it will ever say, and what it was told.
struct Spoken {
    says: Cursor<Vec<u8>>,
    heard: Vec<u8>,
}

impl Read for Spoken {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.says.read(buffer)
    }
}

impl Write for Spoken {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.heard.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn greeting(flags: u16) -> Vec<u8> {
    [&b"NBDMAGICIHAVEOPT"[..], &flags.to_be_bytes()].concat()
}

fn reply(kind: u32, data: &[u8]) -> Vec<u8> {
    reply_to(7, kind, data)
}

fn reply_to(option: u32, kind: u32, data: &[u8]) -> Vec<u8> {
    let magic = 0x0003_e889_0455_65a9_u64;
    let head =
        [&magic.to_be_bytes()[..], &option.to_be_bytes(), &kind.to_be_bytes(), &(data.len() as u32).to_be_bytes()];
    [&head.concat(), data].concat()
}

fn export(size: u64, flags: u16) -> Vec<u8> {
    reply(3, &[&0_u16.to_be_bytes()[..], &size.to_be_bytes(), &flags.to_be_bytes()].concat())
}

fn blocks(min: u32, max: u32) -> Vec<u8> {
    let numbers = [min, 4096, max].map(u32::to_be_bytes).concat();
    reply(3, &[&3_u16.to_be_bytes()[..], &numbers].concat())
}

fn told(parts: &[Vec<u8>], name: &str) -> (Result<Export, (u16, String)>, Vec<u8>) {
    let mut stream = Spoken { says: Cursor::new(parts.concat()), heard: Vec::new() };
    let found = negotiate(&mut stream, name).map_err(|error| (error.status, error.error.text));
    (found, stream.heard)
}

#[test]
fn an_export_is_chosen() {
    let whole = Export { size: 1 << 20, flags: 3, block_min: 1, block_max: Some(32 << 20) };
    let (found, heard) = told(&[greeting(3), export(1 << 20, 3), blocks(1, 32 << 20), reply(1, &[])], "os");
    assert_eq!(found, Ok(whole));
    let wanted = [&[0, 0, 0, 3][..], b"IHAVEOPT", &[0, 0, 0, 7, 0, 0, 0, 10], &[0, 0, 0, 2], b"os", &[0, 1, 0, 3]];
    assert_eq!(heard, wanted.concat());
    // What it does not ask for may come too; block sizes may not.
    let named = reply(3, &[&[0, 1][..], b"os"].concat());
    let (found, _) = told(&[greeting(1), named, export(512, 1), reply(1, &[])], "");
    assert_eq!(found, Ok(Export { size: 512, flags: 1, block_min: 512, block_max: None }));
}

#[test]
fn tls_begins_or_nothing_does() {
    let asked = |parts: &[Vec<u8>]| {
        let mut stream = Spoken { says: Cursor::new(parts.concat()), heard: Vec::new() };
        let begun = starttls(&mut stream).map_err(|error| (error.status, error.error.text));
        (begun, stream.heard)
    };
    let wanted = [&[0, 0, 0, 3][..], b"IHAVEOPT", &[0, 0, 0, 5, 0, 0, 0, 0]].concat();
    assert_eq!(asked(&[greeting(3), reply_to(5, 1, &[])]), (Ok(true), wanted));
    assert_eq!(asked(&[greeting(1), reply_to(5, 1, &[])]).0, Ok(false));
    for (parts, status, words) in [
        (vec![greeting(3), reply_to(5, 0x8000_0001, &[])], 400, "has no TLS"),
        (vec![greeting(3), reply_to(5, 0x8000_0002, b"no")], 400, "has no TLS"),
        (vec![greeting(3), reply_to(5, 0x8000_0063, &[])], 500, "the wish for TLS with 0x80000063"),
        (vec![greeting(3), reply_to(7, 1, &[])], 500, "something else"),
        (vec![greeting(3)], 500, "ended the connection"),
    ] {
        let (status_said, text) = asked(&parts).0.unwrap_err();
        assert!(status_said == status && text.contains(words), "{words}: {status_said} {text}");
    }
    assert_eq!(nbd_info_request("os")[8..], [0, 0, 0, 6, 0, 0, 0, 8, 0, 0, 0, 2, b'o', b's', 0, 0]);
    let head = |kind| reply_to(6, kind, &[7; 3])[..20].try_into().unwrap();
    assert_eq!(nbd_info_reply(head(3)), Ok((3, false)));
    assert_eq!((nbd_info_reply(head(1)), nbd_info_reply(head(0x8000_0006))), (Ok((3, true)), Ok((3, true))));
    assert!(nbd_info_reply([0; 20]).is_err());
}

#[test]
fn an_old_server_is_asked_by_name() {
    let old = |zeroes: usize| [&(1_u64 << 30).to_be_bytes()[..], &3_u16.to_be_bytes(), &vec![0; zeroes]].concat();
    let wanted = Export { size: 1 << 30, flags: 3, block_min: 512, block_max: None };
    for (flags, zeroes) in [(1, 124), (3, 0)] {
        let (found, heard) = told(&[greeting(flags), reply(0x8000_0001, &[]), old(zeroes)], "a");
        assert_eq!(found, Ok(wanted));
        assert!(heard.ends_with(&[&b"IHAVEOPT"[..], &[0, 0, 0, 1, 0, 0, 0, 1, b'a']].concat()));
    }
    // A name that it does not have: it hangs up.
    let (found, _) = told(&[greeting(3), reply(0x8000_0001, &[])], "a");
    assert_eq!(found, Err((400, "the server hung up when asked for the export 'a'".into())));
}

#[test]
fn refusals_have_their_words() {
    for (kind, words, status, wanted) in [
        (6, &b"no export 'x'\n"[..], 400, "the server has not the export 'x': no export 'x'"),
        (6, b"", 400, "the server has not the export 'x'"),
        (2, b"not you", 400, "the server does not let this node have the export 'x': not you"),
        (5, b"", 400, "only with TLS"),
        (7, b"", 500, "shutting down"),
        (8, b"", 500, "heed its block size"),
        (99, b"\x1b[2Jodd\xff", 500, "with error 0x63: [2Jodd\u{fffd}"),
    ] {
        let (found, _) = told(&[greeting(3), reply(0x8000_0000 | kind, words)], "x");
        let (code, text) = found.unwrap_err();
        assert!(code == status && text.contains(wanted), "{code} {text}");
    }
}

#[test]
fn what_is_no_server_is_said() {
    let mut long = reply(3, &[]);
    long[16..20].copy_from_slice(&(1_u32 << 20).to_be_bytes());
    let endless = std::iter::repeat_n(reply(3, &[0, 9]), 100).collect::<Vec<_>>().concat();
    for (parts, wanted) in [
        (vec![], "ended the connection"),
        (vec![b"SSH-2.0-OpenSSH_9.2p1 Debian".to_vec()], "does not begin as an NBD server"),
        (vec![b"NBDMAGIC\x00\x00\x42\x02\x81\x86\x12\x53".to_vec()], "old style"),
        (vec![b"NBDMAGICNBDMAGIC".to_vec()], "no known style"),
        (vec![greeting(0)], "fixed newstyle"),
        (vec![greeting(3)], "ended the connection"),
        (vec![greeting(3), vec![7; 20]], "does not begin as one"),
        (vec![greeting(3), long], "too long"),
        (vec![greeting(3), reply(1, &[])], "without its size"),
        (vec![greeting(3), reply(3, &[0, 0, 1])], "short reply"),
        (vec![greeting(3), reply(3, &[0, 3, 1, 1, 1])], "short reply"),
        (vec![greeting(3), endless], "without end"),
    ] {
        let (status, text) = told(&parts, "x").0.unwrap_err();
        assert!(status == 500 && text.contains(wanted), "{wanted}: {status} {text}");
    }
}

#[test]
fn sizes_and_names_that_no_device_has() {
    let check = |size, block_min, flags| {
        let found = block_size(&Export { size, flags, block_min, block_max: None });
        found.map_err(|error| error.error.text)
    };
    for (size, min, block) in [(512, 1, 512), (512, 512, 512), (8192, 4096, 4096), (1 << 50, 1024, 1024)] {
        assert_eq!(check(size, min, 1), Ok(block));
    }
    for (size, min, flags, wanted) in [
        (0, 1, 1, "whole blocks"),
        (513, 1, 1, "whole blocks of 512"),
        (512, 4096, 1, "whole blocks of 4096"),
        (1 << 63, 1, 1, "whole blocks"),
        (1 << 20, 65536, 1, "at least 65536"),
        (1 << 20, 768, 1, "at least 768"),
        (512, 1, 0, "no flags"),
    ] {
        let text = check(size, min, flags).unwrap_err();
        assert!(text.contains(wanted), "{text}");
    }
    assert!(name_check(&"x".repeat(4096)).is_ok());
    assert!(name_check(&"x".repeat(4097)).is_err() && name_check("a\0").is_err());
}
