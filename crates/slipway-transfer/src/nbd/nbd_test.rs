//! The server against a client that says what it wants, byte by byte, over a real socket.

mod kit;

use super::wire::ALLOCATION;
use super::{NbdEvent, NbdLimits, NbdServed, NbdSource};
use kit::{BLOCK, Bench, MIB, Memory, option, strings};
use std::io::Write;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

#[test]
fn options_get_their_answers() {
    let bench = Bench::of(100 * BLOCK + 77);
    let mut client = bench.greeted();
    assert_eq!(client.option(3, &[]), (2, strings(&["me/os:3"])));
    assert_eq!(client.answer(3), (2, strings(&["other"])));
    assert_eq!(client.answer(3), (1, Vec::new()));
    // INFO of all kinds, one of them unknown; the connection stays in the handshake.
    let wanted = [&strings(&["me/os"])[..], &[0, 4, 0, 1, 0, 2, 0, 3, 0, 99]].concat();
    assert_eq!(client.option(6, &wanted).0, 3);
    assert_eq!(client.answer(6), (3, [&[0, 1], &b"me/os:3"[..]].concat()));
    assert_eq!(client.answer(6), (3, [&[0, 2], &b"for tests"[..]].concat()));
    let sizes = [1_u32, 4096, 32 << 20].map(u32::to_be_bytes).concat();
    assert_eq!(client.answer(6), (3, [&[0, 3], &sizes[..]].concat()));
    assert_eq!(client.answer(6), (1, Vec::new()));
    // Contexts come after structured replies, and a wildcard lists but does not choose.
    let queries = |texts: &[&str]| {
        let mut data = strings(&["other"]);
        data.extend((texts.len() as u32).to_be_bytes());
        [data, strings(texts)].concat()
    };
    assert_eq!(client.option(9, &queries(&[])).0, 0x8000_0003);
    assert_eq!(client.option(8, &[]).0, 1);
    for (kind, texts, found) in [
        (9, &[][..], true),
        (9, &["base:"], true),
        (9, &["base:allocation", "x:y"], true),
        (9, &["x:y"], false),
        (10, &["base:"], false),
        (10, &["base:allocation"], true),
        (10, &[], false),
    ] {
        let mut answer = client.option(kind, &queries(texts));
        if found {
            assert_eq!(answer.0, 4, "{kind} {texts:?}");
            assert_eq!(&answer.1[4..], ALLOCATION.as_bytes());
            answer = client.answer(kind);
        }
        assert_eq!(answer, (1, Vec::new()), "{kind} {texts:?}");
    }
    // A context that was chosen for one export is none of another.
    assert_eq!(client.option(10, &queries(&["base:allocation"])).0, 4);
    assert_eq!(client.answer(10).0, 1);
    assert_eq!(client.option(7, &[0; 6]).0, 3);
    assert_eq!(client.answer(7).0, 1);
    client.request(7, 0, 5, 0, 4096);
    assert_eq!(client.read_reply(5, 0, 4096).unwrap_err().0, 22);
    let mut client = bench.greeted();
    assert_eq!(client.option(2, b"bye"), (1, Vec::new()));
    client.cut();
}

#[test]
fn broken_handshakes_get_an_error_or_an_end() {
    let bench = Bench::of(10 * BLOCK);
    let name = |text: &str| [&strings(&[text])[..], &[0, 0]].concat();
    // Answered with an error, and the handshake goes on.
    for (kind, data, wanted) in [
        (3, vec![1], 0x8000_0003),
        (8, vec![0; 9], 0x8000_0003),
        (5, vec![1], 0x8000_0003),
        (5, vec![], 0x8000_0001),
        (4, vec![], 0x8000_0001),
        (11, vec![], 0x8000_0001),
        (0, vec![], 0x8000_0001),
        (u32::MAX, vec![7; 65536], 0x8000_0001),
        (6, vec![], 0x8000_0003),
        (7, vec![0, 0, 0], 0x8000_0003),
        (7, name("nothing"), 0x8000_0006),
        (7, name("../../etc"), 0x8000_0006),
        (7, name("me/os\0"), 0x8000_0003),
        (7, name(&"x".repeat(5000)), 0x8000_0003),
        (7, [&name("other")[..], &[0]].concat(), 0x8000_0003),
        (7, [&strings(&["other"])[..], &[0xff, 0xff, 0, 1]].concat(), 0x8000_0003),
        (7, [&u32::MAX.to_be_bytes()[..], &[0, 0]].concat(), 0x8000_0003),
        (9, vec![0; 8], 0x8000_0003),
    ] {
        let mut client = bench.greeted();
        assert_eq!(client.option(kind, &data).0, wanted, "{kind} {data:?}");
        assert_eq!(client.option(8, &[]).0, 1, "after {kind}");
        for data in [vec![], vec![0, 0, 0, 9, 0], [&[0; 4][..], &u32::MAX.to_be_bytes()].concat()] {
            assert_eq!(client.option(10, &data).0, 0x8000_0003, "{data:?}");
        }
        assert_eq!(client.option(10, &[0, 0, 0, 1, b'x', 0, 0, 0, 0]).0, 0x8000_0006);
    }
    // Nothing sensible can follow: the end.
    let long = [b"IHAVEOPT", &9_u32.to_be_bytes()[..], &u32::MAX.to_be_bytes()].concat();
    for bytes in [
        b"GET / HTTP/1.1\r\n".to_vec(),
        option(1, b"nothing"),
        option(1, &[0xff, 0xfe]),
        long,
        option(8, &[]).repeat(65),
    ] {
        let mut client = bench.greeted();
        client.put(&bytes);
        client.cut();
    }
    // Flags that were not offered, and none at all: the oldest clients, which only know EXPORT_NAME.
    let mut client = bench.connect();
    client.take(18);
    client.put(&0x8000_0003_u32.to_be_bytes());
    client.cut();
    let mut client = bench.connect();
    client.take(18);
    client.put(&[0, 0, 0, 0]);
    client.put(&option(1, b"other"));
    let facts = client.take(10 + 124);
    assert_eq!((&facts[..8], &facts[10..]), (&4096_u64.to_be_bytes()[..], &[0; 124][..]));
    // Who leaves at any place is no trouble, and no event.
    for len in 0..16 {
        let mut client = bench.greeted();
        client.put(&option(7, &[0; 6])[..len]);
    }
    bench.fine();
    assert!(!bench.events.lock().unwrap().iter().any(|event| matches!(event, NbdEvent::Failed { .. })));
}

#[test]
fn every_byte_comes_once_and_right() {
    let bench = Bench::of((5 << 20) + 1234);
    let size = bench.memory.size();
    let (mut structured, mut plain) = (bench.ready(true), bench.ready(false));
    let mut state = 0x9e37_79b9_u64;
    for cookie in 0..400_u64 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let offset = (state >> 20) % size;
        let len = match cookie % 8 {
            0 => size - offset,
            1 => 1,
            2 => 0,
            _ => (state >> 8) % (200 << 10) % (size - offset + 1),
        } as u32;
        let want = &bench.memory.bytes[offset as usize..][..len as usize];
        let whole = if cookie % 3 == 0 && u64::from(len) <= MIB { 4 } else { 0 };
        structured.request(0, whole, cookie, offset, len);
        assert_eq!(structured.read_reply(cookie, offset, len).unwrap(), want, "{offset} {len}");
        plain.request(0, 0, cookie, offset, len);
        assert_eq!(plain.simple(), (0, cookie));
        assert_eq!(plain.take(len as usize), want, "{offset} {len}");
        // The extents of the same range, as far as they go, are those that the source knows.
        if len > 0 {
            let one = if cookie % 2 == 0 { 8 } else { 0 };
            structured.request(7, one, cookie, offset, len);
            let found = structured.status_reply(cookie);
            let mut known = bench.memory.extents(offset, len.into()).unwrap();
            known.truncate(if one == 0 { known.len() } else { 1 });
            let known: Vec<_> = known.iter().map(|part| (part.len as u32, if part.hole { 3 } else { 0 })).collect();
            assert_eq!(found, known, "{offset} {len}");
        }
    }
    for kind in [3, 5] {
        structured.request(kind, 0, 7, 0, if kind == 5 { 4 << 20 } else { 0 });
        assert_eq!(structured.read_reply(7, 0, 0), Ok(Vec::new()));
        plain.request(kind, 0, 7, 0, 0);
        assert_eq!(plain.simple(), (0, 7));
    }
    structured.request(2, 0, 0, 0, 0);
    structured.cut();
    drop((structured, plain));
    assert_eq!(bench.stop().connections, 2);
}

#[test]
fn a_long_list_of_extents_is_cut() {
    let bench = Bench::of(5 * 2500 * BLOCK);
    let mut client = bench.ready(true);
    client.request(7, 0, 1, 0, bench.memory.size() as u32);
    let first = client.status_reply(1);
    assert!(first.len() < 2048 && first.iter().map(|(len, _)| u64::from(*len)).sum::<u64>() == bench.memory.size());
    let bench = Bench::of(5 * 4000 * BLOCK);
    let mut client = bench.ready(true);
    client.request(7, 0, 1, 0, bench.memory.size() as u32);
    assert_eq!(client.status_reply(1).len(), 2048);
}

#[test]
fn refused_requests_leave_the_connection() {
    let bench = Bench::of(3 << 20);
    let size = bench.memory.size();
    let (mut structured, mut plain) = (bench.ready(true), bench.ready(false));
    for (kind, flags, offset, len, errno) in [
        (0, 0, size, 1, 22),
        (0, 0, u64::MAX, u32::MAX, 75),
        (0, 0, 0, (32 << 20) + 1, 75),
        (0, 0, 0, 4 << 20, 22),
        (0, 1, 0, 1, 22),
        (1, 0, 0, 5000, 1),
        (1, 1, u64::MAX, 1 << 20, 1),
        (4, 0, 0, u32::MAX, 1),
        (6, 0, 0, u32::MAX, 1),
        (7, 0, 0, u32::MAX, 22),
        (9, 0, 0, 0, 22),
        (u16::MAX, u16::MAX, 0, 0, 22),
    ] {
        for client in [&mut structured, &mut plain] {
            client.request(kind, flags, 3, offset, len);
            if kind == 1 {
                client.put(&vec![0xaa; len as usize]);
            }
        }
        assert_eq!(structured.read_reply(3, offset, 0).unwrap_err().0, errno, "{kind} {flags} {offset} {len}");
        assert_eq!(plain.simple(), (errno, 3), "{kind} {flags} {offset} {len}");
        structured.request(0, 0, 4, 1, 10);
        assert_eq!(structured.read_reply(4, 1, 10).unwrap(), bench.memory.bytes[1..11]);
        plain.request(0, 0, 4, 1, 10);
        assert_eq!((plain.simple(), plain.take(10)), ((0, 4), bench.memory.bytes[1..11].to_vec()));
    }
    structured.request(0, 4, 5, 0, (1 << 20) + 1);
    assert_eq!(structured.read_reply(5, 0, 0).unwrap_err().0, 75);
    // No request at all, and one that could only be stepped over by reading gigabytes.
    structured.put(&[0; 28]);
    structured.cut();
    plain.request(1, 0, 1, 0, u32::MAX);
    plain.cut();
    bench.fine();
}

#[test]
fn a_failing_source_is_an_error_and_never_a_byte() {
    let mut memory = Memory::new(6 << 20);
    memory.bad = Some(3 * MIB + 1);
    let bench = Bench::new(memory, NbdLimits::default(), false);
    let (mut structured, mut plain) = (bench.ready(true), bench.ready(false));
    for (offset, len) in [(3 * MIB, 4096), (0, 6 << 20), (3 * MIB + 1, 1)] {
        structured.request(0, 0, 1, offset, len);
        let (errno, words) = structured.read_reply(1, offset, len).unwrap_err();
        assert_eq!(errno, 5);
        assert!(words.contains("reading memory") && words.contains("it is bad there"), "{words}");
        structured.request(0, 0, 2, 0, 4096);
        assert_eq!(structured.read_reply(2, 0, 4096).unwrap(), bench.memory.bytes[..4096]);
    }
    structured.request(5, 0, 1, 0, 6 << 20);
    assert_eq!(structured.read_reply(1, 0, 0).unwrap_err().0, 5);
    plain.request(0, 0, 1, 3 * MIB, 4096);
    assert_eq!(plain.simple(), (5, 1));
    // In the middle of a long simple reply there is no place for an error: what was sent is right, and then comes the end.
    plain.request(0, 0, 1, 0, 6 << 20);
    assert_eq!(plain.simple(), (0, 1));
    assert_eq!(plain.cut(), bench.memory.bytes[..3 << 20]);
    let failed = bench.events.lock().unwrap().iter().filter(|event| matches!(event, NbdEvent::Failed { .. })).count();
    assert_eq!(failed, 6);
}

#[test]
fn replies_overtake_each_other_and_work_is_bounded() {
    let mut memory = Memory::new(8 << 20);
    memory.gated = Some(0);
    let bench = Bench::new(memory, NbdLimits::default(), false);
    let mut client = bench.ready(true);
    client.request(0, 0, 1, 0, 512);
    client.request(0, 0, 2, 8192, 512);
    assert_eq!(client.read_reply(2, 8192, 512).unwrap(), bench.memory.bytes[8192..8704]);
    // A hundred that wait: no more than agreed are worked on, the rest lies in the socket.
    for cookie in 10..110 {
        client.request(0, 0, cookie, 0, 64 << 10);
    }
    std::thread::sleep(Duration::from_millis(300));
    let most = bench.memory.most.load(Ordering::SeqCst);
    assert!((8..=16).contains(&most), "{most} at once");
    // Another client does not wait for them.
    let mut other = bench.ready(true);
    other.request(0, 0, 1, 4 << 20, 512);
    assert_eq!(other.read_reply(1, 4 << 20, 512).unwrap(), bench.memory.bytes[4 << 20..][..512]);
    bench.memory.gate_open();
    let mut seen = std::collections::BTreeSet::new();
    while seen.len() < 101 {
        let (flags, _, cookie, _) = client.chunk();
        if flags == 1 {
            assert!(seen.insert(cookie));
        }
    }
    assert_eq!(seen, (10..110).chain([1]).collect());
}

#[test]
fn strangers_have_limits() {
    let limits = NbdLimits {
        connections: 3,
        handshake: Duration::from_millis(300),
        stall: Duration::from_millis(300),
        ..NbdLimits::default()
    };
    let bench = Bench::new(Memory::new(8 << 20), limits, false);
    // A handshake that does not come to its end, one byte now and then.
    let mut slow = bench.connect();
    let begun = Instant::now();
    while slow.0.write_all(&[0]).is_ok() && begun.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(begun.elapsed() < Duration::from_secs(5));
    // A request that does not come to its end.
    let mut half = bench.ready(true);
    half.put(&0x2560_9513_u32.to_be_bytes());
    half.cut();
    // One that writes what it cannot, and not all of it.
    let mut half = bench.ready(true);
    half.request(1, 0, 1, 0, 4096);
    half.put(&[0; 100]);
    half.cut();
    // One that asks and asks and takes nothing; others are served meanwhile.
    let mut deaf = bench.ready(true);
    deaf.0.set_write_timeout(Some(Duration::from_millis(100))).unwrap();
    let head = [&0x2560_9513_u32.to_be_bytes()[..], &[0; 4], &[0; 16], &(4_u32 << 20).to_be_bytes()].concat();
    while deaf.0.write_all(&head).is_ok() {}
    bench.fine();
    std::thread::sleep(Duration::from_millis(600));
    deaf.cut();
    // Silence between requests is no offence.
    let mut calm = bench.ready(true);
    std::thread::sleep(Duration::from_millis(700));
    calm.request(0, 0, 1, 0, 10);
    assert_eq!(calm.read_reply(1, 0, 10).unwrap(), bench.memory.bytes[..10]);
    // One connection more than there may be.
    let (_second, _third) = (bench.ready(false), bench.ready(false));
    bench.connect().cut();
    let refused = bench.events.lock().unwrap().iter().filter(|event| matches!(event, NbdEvent::Refused { .. })).count();
    assert_eq!(refused, 1);
    drop(calm);
    std::thread::sleep(Duration::from_millis(100));
    bench.fine();
}

#[test]
fn it_ends_when_it_should() {
    // Once: the first client that chose an export ends it; who only looked does not.
    let mut bench = Bench::new(Memory::new(4096), NbdLimits::default(), true);
    drop(bench.connect());
    let mut looking = bench.greeted();
    assert_eq!(looking.option(2, &[]).0, 1);
    drop(looking);
    let (mut first, second) = (bench.ready(true), bench.ready(true));
    first.request(0, 0, 1, 0, 4096);
    first.read_reply(1, 0, 4096).unwrap();
    drop(first);
    std::thread::sleep(Duration::from_millis(100));
    assert!(!bench.server.as_ref().unwrap().is_finished());
    drop(second);
    assert_eq!(bench.server.take().unwrap().join().unwrap(), NbdServed { connections: 2, bytes: 4096 });
    assert!(!bench.path.exists());
    // Asked to stop: what is under way gets its answer, silent clients get the end.
    let mut memory = Memory::new(1 << 20);
    memory.gated = Some(0);
    let bench = Bench::new(memory, NbdLimits::default(), false);
    let (mut busy, mut silent, mut choosing) = (bench.ready(true), bench.ready(true), bench.greeted());
    busy.request(0, 0, 1, 0, 10);
    std::thread::sleep(Duration::from_millis(100));
    bench.stop.cancel();
    silent.cut();
    choosing.cut();
    bench.memory.gate_open();
    assert_eq!(busy.read_reply(1, 0, 10).unwrap(), bench.memory.bytes[..10]);
    busy.cut();
    assert_eq!(bench.stop().connections, 2);
}

/// What a whole, good conversation sends.
fn conversation() -> Vec<u8> {
    let mut query = strings(&["me/os", ALLOCATION]);
    query.splice(9..9, 1_u32.to_be_bytes());
    let go = [&strings(&["me/os"])[..], &[0, 1, 0, 3]].concat();
    let mut all =
        [&3_u32.to_be_bytes()[..], &option(3, &[]), &option(8, &[]), &option(10, &query), &option(7, &go)].concat();
    for (kind, flags, offset, len) in [
        (0, 0, 0, 9000),
        (7, 0, 0, 1 << 20),
        (0, 4, 5, 4096),
        (5, 0, 0, 4096),
        (3, 0, 0, 0),
        (1, 0, 0, 8),
        (2, 0, 0, 0),
    ] {
        let head = [&0x2560_9513_u32.to_be_bytes()[..], &u16::to_be_bytes(flags), &u16::to_be_bytes(kind)].concat();
        all.extend([&head[..], &1_u64.to_be_bytes(), &u64::to_be_bytes(offset), &u32::to_be_bytes(len)].concat());
        all.extend(vec![0xee; if kind == 1 { 8 } else { 0 }]);
    }
    all
}

#[test]
fn changed_conversations_come_to_an_end() {
    let bench = Bench::of(2 << 20);
    let good = conversation();
    let mut state = 0x51_ed27_u64;
    let mut below = |end: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % end
    };
    for round in 0..600 {
        let mut bytes = good.clone();
        if round > 0 {
            for _ in 0..=below(3) {
                let at = below(bytes.len());
                bytes[at] = [0, 0xff, bytes[at] ^ (1 << below(8)), below(256) as u8][below(4)];
            }
            if below(4) == 0 {
                bytes.truncate(below(bytes.len()));
            }
        }
        let mut client = bench.connect();
        // The server may have cut the line before all of it was sent.
        let _ = client.0.write_all(&bytes);
        let _ = client.0.shutdown(std::net::Shutdown::Write);
        client.cut();
    }
    bench.fine();
    let opened = bench.events.lock().unwrap().iter().filter(|event| matches!(event, NbdEvent::Opened { .. })).count();
    assert!(opened > 50, "only {opened} came as far as an export");
}
