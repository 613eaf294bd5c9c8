//! A server on a real socket, over an image in memory that fails and waits when it is told to, and a client that says what it wants.

use crate::nbd::wire::{ALLOCATION, Fields};
use crate::nbd::{NbdEvent, NbdExport, NbdExports, NbdLimits, NbdListener, NbdServed, NbdSocket, NbdSource, nbd_serve};
use crate::{Cancel, Stretch, TransferError};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

pub(super) const BLOCK: usize = 4096;
pub(super) const MIB: u64 = 1 << 20;

/// An image in memory that fails and waits where it is told to.
pub(super) struct Memory {
    pub(super) bytes: Vec<u8>,
    /// Reads that touch this byte fail.
    pub(super) bad: Option<u64>,
    /// Reads of this byte wait until the gate is open.
    pub(super) gated: Option<u64>,
    pub(super) open: Mutex<bool>,
    pub(super) opened: Condvar,
    pub(super) running: AtomicUsize,
    pub(super) most: AtomicUsize,
}

impl Memory {
    /// Every third run of blocks is a hole; the size is no multiple of a block.
    pub(super) fn new(len: usize) -> Self {
        let mut bytes = vec![0; len];
        for (number, block) in bytes.chunks_mut(BLOCK).enumerate() {
            if (number / 5) % 3 != 1 {
                block.iter_mut().enumerate().for_each(|(at, byte)| *byte = (number * 31 + at * 7) as u8 | 1);
            }
        }
        Self {
            bytes,
            bad: None,
            gated: None,
            open: Mutex::new(false),
            opened: Condvar::new(),
            running: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
        }
    }

    pub(super) fn gate_open(&self) {
        *self.open.lock().unwrap() = true;
        self.opened.notify_all();
    }
}

impl NbdSource for Memory {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), TransferError> {
        let now = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        let range = offset..offset + buf.len() as u64;
        if self.gated.is_some_and(|at| range.contains(&at)) {
            let open = self.open.lock().unwrap();
            drop(self.opened.wait_while(open, |open| !*open).unwrap());
        }
        self.running.fetch_sub(1, Ordering::SeqCst);
        if self.bad.is_some_and(|at| range.contains(&at)) {
            return Err(TransferError::io("reading", "memory", io::Error::other("it is bad there")));
        }
        buf.copy_from_slice(&self.bytes[offset as usize..][..buf.len()]);
        Ok(())
    }

    fn extents(&self, offset: u64, len: u64) -> Result<Vec<Stretch>, TransferError> {
        let (mut at, end) = (offset, offset + len);
        let mut found: Vec<Stretch> = Vec::new();
        while at < end {
            let number = at as usize / BLOCK;
            let next = ((number + 1) * BLOCK) as u64;
            let stretch = Stretch { offset: at, len: next.min(end) - at, hole: (number / 5) % 3 == 1 };
            match found.last_mut().filter(|last| last.hole == stretch.hole) {
                Some(last) => last.len += stretch.len,
                None => found.push(stretch),
            }
            at = next;
        }
        Ok(found)
    }
}

/// A running server.
pub(super) struct Bench {
    pub(super) path: PathBuf,
    pub(super) memory: Arc<Memory>,
    pub(super) stop: Cancel,
    pub(super) events: Arc<Mutex<Vec<NbdEvent>>>,
    pub(super) server: Option<std::thread::JoinHandle<NbdServed>>,
    pub(super) _folder: tempfile::TempDir,
}

impl Bench {
    pub(super) fn new(memory: Memory, limits: NbdLimits, once: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (path, memory, stop) = (folder.path().join("nbd"), Arc::new(memory), Cancel::new());
        let events = Arc::<Mutex<Vec<NbdEvent>>>::default();
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let export = |all: &[&str], source: Arc<Memory>| NbdExport {
            names: names(all),
            description: "for tests".into(),
            source,
        };
        let exports = NbdExports::new(vec![
            export(&["me/os:3", "me/os"], memory.clone()),
            export(&["other"], Arc::new(Memory::new(BLOCK))),
        ]);
        let (ready, is_ready) = std::sync::mpsc::channel();
        let server = {
            let (path, stop, events) = (path.clone(), stop.clone(), events.clone());
            std::thread::spawn(move || {
                let runtime =
                    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
                runtime.block_on(async move {
                    let listener = NbdListener::Unix(NbdSocket::bind(&path).unwrap());
                    ready.send(()).unwrap();
                    let tell = move |event| events.lock().unwrap().push(event);
                    nbd_serve(&listener, &exports, &limits, once, &stop, tell).await.unwrap()
                })
            })
        };
        is_ready.recv().unwrap();
        Self { path, memory, stop, events, server: Some(server), _folder: folder }
    }

    pub(super) fn of(len: usize) -> Self {
        Self::new(Memory::new(len), NbdLimits::default(), false)
    }

    pub(super) fn connect(&self) -> Client {
        let stream = UnixStream::connect(&self.path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Client(stream)
    }

    /// A client past the greeting.
    pub(super) fn greeted(&self) -> Client {
        let mut client = self.connect();
        assert_eq!(client.take(18), [&b"NBDMAGICIHAVEOPT"[..], &[0, 3]].concat());
        client.put(&3_u32.to_be_bytes());
        client
    }

    /// A client that may send requests.
    pub(super) fn ready(&self, structured: bool) -> Client {
        let mut client = self.greeted();
        if structured {
            assert_eq!(client.option(8, &[]), (1, Vec::new()));
            let mut query = strings(&["", ALLOCATION]);
            query.splice(4..4, 1_u32.to_be_bytes());
            assert_eq!(client.option(10, &query), (4, [&[0, 0, 0, 1], ALLOCATION.as_bytes()].concat()));
            assert_eq!(client.answer(10), (1, Vec::new()));
        }
        client.put(&option(7, &[0, 0, 0, 0, 0, 0]));
        let (kind, facts) = client.answer(7);
        assert_eq!((kind, facts.len(), &facts[..2]), (3, 12, &[0, 0][..]));
        assert_eq!(facts[2..10], self.memory.size().to_be_bytes());
        let flags = u16::from_be_bytes([facts[10], facts[11]]);
        assert_eq!(flags, if structured { 0b101_1000_0111 } else { 0b101_0000_0111 });
        assert_eq!(client.answer(7), (1, Vec::new()));
        client
    }

    pub(super) fn stop(mut self) -> NbdServed {
        self.stop.cancel();
        self.server.take().unwrap().join().unwrap()
    }

    /// The server is as it was: a new client gets right bytes.
    #[track_caller]
    pub(super) fn fine(&self) {
        let mut client = self.ready(true);
        client.request(0, 0, 1, 100, 9000);
        assert_eq!(client.read_reply(1, 100, 9000).unwrap(), self.memory.bytes[100..9100]);
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.stop.cancel();
        self.memory.gate_open();
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
    }
}

/// Strings with their lengths in front.
pub(super) fn strings(texts: &[&str]) -> Vec<u8> {
    texts.iter().flat_map(|text| [&(text.len() as u32).to_be_bytes(), text.as_bytes()].concat()).collect()
}

pub(super) fn option(kind: u32, data: &[u8]) -> Vec<u8> {
    [b"IHAVEOPT", &kind.to_be_bytes()[..], &(data.len() as u32).to_be_bytes(), data].concat()
}

pub(super) struct Client(pub(super) UnixStream);

impl Client {
    pub(super) fn put(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    #[track_caller]
    pub(super) fn take(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.0.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// The server ends the connection; gives what it said before.
    #[track_caller]
    pub(super) fn cut(&mut self) -> Vec<u8> {
        let mut said = Vec::new();
        match self.0.read_to_end(&mut said) {
            Err(why) if why.kind() != io::ErrorKind::ConnectionReset => panic!("it is not cut: {why}"),
            _ => said,
        }
    }

    pub(super) fn option(&mut self, kind: u32, data: &[u8]) -> (u32, Vec<u8>) {
        self.put(&option(kind, data));
        self.answer(kind)
    }

    #[track_caller]
    pub(super) fn answer(&mut self, kind: u32) -> (u32, Vec<u8>) {
        let head = self.take(20);
        assert_eq!(head[..8], 0x0003_e889_0455_65a9_u64.to_be_bytes());
        assert_eq!(head[8..12], kind.to_be_bytes());
        let mut fields = Fields(&head[12..]);
        let (answer, len) = (fields.u32().unwrap(), fields.u32().unwrap());
        (answer, self.take(len as usize))
    }

    pub(super) fn request(&mut self, kind: u16, flags: u16, cookie: u64, offset: u64, len: u32) {
        let head = [&0x2560_9513_u32.to_be_bytes()[..], &flags.to_be_bytes(), &kind.to_be_bytes()].concat();
        self.put(&[&head[..], &cookie.to_be_bytes(), &offset.to_be_bytes(), &len.to_be_bytes()].concat());
    }

    /// A chunk: flags, kind, cookie, payload.
    #[track_caller]
    pub(super) fn chunk(&mut self) -> (u16, u16, u64, Vec<u8>) {
        let head = self.take(20);
        let mut fields = Fields(&head);
        assert_eq!(fields.u32(), Some(0x668e_33ef));
        let (flags, kind) = (fields.u16().unwrap(), fields.u16().unwrap());
        let (cookie, len) = (fields.u64().unwrap(), fields.u32().unwrap());
        (flags, kind, cookie, self.take(len as usize))
    }

    /// Puts a structured reply together; an error is its number and its words. Every byte must come exactly once.
    #[track_caller]
    pub(super) fn read_reply(&mut self, cookie: u64, offset: u64, len: u32) -> Result<Vec<u8>, (u32, String)> {
        let mut bytes: Vec<Option<u8>> = vec![None; len as usize];
        loop {
            let (flags, kind, of, payload) = self.chunk();
            assert_eq!(of, cookie);
            let mut fields = Fields(&payload);
            match kind {
                0 => assert!(payload.is_empty()),
                1 | 2 => {
                    let at = (fields.u64().unwrap() - offset) as usize;
                    let data = if kind == 1 { fields.0.to_vec() } else { vec![0; fields.u32().unwrap() as usize] };
                    assert!(!data.is_empty());
                    for (slot, byte) in bytes[at..at + data.len()].iter_mut().zip(data) {
                        assert_eq!(slot.replace(byte), None);
                    }
                }
                0x8001 => {
                    let errno = fields.u32().unwrap();
                    let said = fields.u16().unwrap();
                    assert_eq!((usize::from(said), flags), (fields.0.len(), 1));
                    return Err((errno, String::from_utf8(fields.0.to_vec()).unwrap()));
                }
                _ => panic!("chunk of kind {kind}"),
            }
            if flags == 1 {
                return Ok(bytes.into_iter().map(|byte| byte.expect("a byte did not come")).collect());
            }
        }
    }

    /// The head of a simple reply.
    #[track_caller]
    pub(super) fn simple(&mut self) -> (u32, u64) {
        let head = self.take(16);
        let mut fields = Fields(&head);
        assert_eq!(fields.u32(), Some(0x6744_6698));
        (fields.u32().unwrap(), fields.u64().unwrap())
    }

    /// The extents that BLOCK_STATUS tells: length and flags.
    #[track_caller]
    pub(super) fn status_reply(&mut self, cookie: u64) -> Vec<(u32, u32)> {
        let (flags, kind, of, payload) = self.chunk();
        assert_eq!((flags, kind, of), (1, 5, cookie));
        let mut fields = Fields(&payload);
        assert_eq!(fields.u32(), Some(1));
        std::iter::from_fn(|| Some((fields.u32()?, fields.u32()?))).collect()
    }
}
