//! The raw digest is BLAKE3 of the image, however it is fed.

use proptest::collection::vec;
use proptest::prelude::*;
use slipway_chunk::{Digest, RawDigest};

fn check(parts: &[(bool, usize)]) {
    let mut digest = RawDigest::new();
    let mut image = Vec::new();
    for (n, &(zero, len)) in parts.iter().enumerate() {
        let begin = image.len();
        image.resize(begin + len, if zero { 0 } else { n as u8 + 1 });
        if zero {
            digest.zeros(len as u64);
        } else {
            digest.data(&image[begin..]);
        }
    }
    assert_eq!(digest.len(), image.len() as u64);
    assert_eq!(digest.is_empty(), image.is_empty());
    assert_eq!(digest.finish(), Digest::of(&image), "{parts:?}");
}

#[test]
fn borders() {
    check(&[]);
    for len in [0, 1, 1023, 1024, 1025, 65_535, 65_536, 65_537, 1 << 20] {
        check(&[(true, len)]);
        check(&[(false, len)]);
        check(&[(false, 1), (true, len)]);
        check(&[(true, len), (false, len), (true, 1), (true, len)]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_mix_of_data_and_zeros(parts in vec((any::<bool>(), 0..200_000_usize), 0..8)) {
        check(&parts);
    }
}
