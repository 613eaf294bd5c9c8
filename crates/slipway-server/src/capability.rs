//! Capabilities: the right to read one pack of one space, as an HMAC over both and an expiry.
//!
//! The expiry is rounded to a multiple of six hours, so that all readers of a space get the same address and a plain
//! HTTP cache serves them all. A capability never reaches beyond its space, and lives between 6 and 12 hours.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use slipway_api::{Code, Problem};
use slipway_chunk::PackId;
use slipway_store::SpaceId;

/// The step to which expiries are rounded, in seconds.
const STEP: u64 = 6 * 60 * 60;
/// Keeps a MAC made here from meaning anything elsewhere.
const CONTEXT: &[u8] = b"slipway capability 1\0";

/// The key that makes and checks capabilities. It does not print.
#[derive(Clone)]
pub(crate) struct CapabilityKey([u8; 32]);

impl std::fmt::Debug for CapabilityKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CapabilityKey(..)")
    }
}

impl CapabilityKey {
    /// A key of these bytes.
    pub(crate) fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    fn mac(&self, space: &SpaceId, pack: &PackId, expiry: u64) -> Hmac<Sha256> {
        let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(&self.0).expect("HMAC takes a key of any length");
        mac.update(CONTEXT);
        // The space's alphabet has no NUL and the other two have fixed lengths, so no two triples give the same text.
        mac.update(space.as_str().as_bytes());
        mac.update(b"\0");
        mac.update(pack.as_bytes());
        mac.update(&expiry.to_le_bytes());
        mac
    }

    /// The path and query at which this pack may be read until the expiry that `now` (seconds since 1970) leads to.
    pub(crate) fn address(&self, space: &SpaceId, pack: &PackId, now: u64) -> String {
        let expiry = expiry(now);
        let mac = URL_SAFE_NO_PAD.encode(self.mac(space, pack, expiry).finalize().into_bytes());
        format!("/api/v1/blobs/{space}/{pack}?e={expiry}&c={mac}")
    }

    /// Whether `mac` (base64url) gives the right to read this pack at `now`.
    pub(crate) fn check(
        &self,
        space: &SpaceId,
        pack: &PackId,
        expiry: u64,
        mac: &str,
        now: u64,
    ) -> Result<(), Problem> {
        let refused = |why: &str| {
            Problem::new(Code::Forbidden, format!("the capability for pack {pack} {why}")).hint("ask for a new layout")
        };
        let bytes = URL_SAFE_NO_PAD.decode(mac).map_err(|_| refused("cannot be read"))?;
        // Compared in constant time, and before the expiry: who has no right learns nothing.
        self.mac(space, pack, expiry).verify_slice(&bytes).map_err(|_| refused("is not valid"))?;
        match expiry > now {
            true => Ok(()),
            false => Err(refused("has expired")),
        }
    }
}

fn expiry(now: u64) -> u64 {
    (now / STEP + 2) * STEP
}

#[cfg(test)]
mod tests {
    use super::{CapabilityKey, PackId, STEP, SpaceId, expiry};

    fn parts(address: &str) -> (u64, String) {
        let (_, query) = address.split_once("?e=").unwrap();
        let (expiry, mac) = query.split_once("&c=").unwrap();
        (expiry.parse().unwrap(), mac.to_owned())
    }

    #[test]
    fn a_capability_reads_one_pack_of_one_space_until_it_expires() {
        let key = CapabilityKey::from_bytes([7; 32]);
        let (mine, other) = (SpaceId::new("u-1").unwrap(), SpaceId::new("u-2").unwrap());
        let (pack, another) = (PackId::from_bytes([1; 16]), PackId::from_bytes([2; 16]));
        let now = 1_700_000_000;
        let (end, mac) = parts(&key.address(&mine, &pack, now));
        let check = |space, pack, end, mac: &str, now| key.check(space, pack, end, mac, now).is_ok();
        assert!(check(&mine, &pack, end, &mac, now));
        assert!(check(&mine, &pack, end, &mac, end - 1));
        assert!(!check(&mine, &pack, end, &mac, end));
        assert!(!check(&other, &pack, end, &mac, now));
        assert!(!check(&mine, &another, end, &mac, now));
        assert!(!check(&mine, &pack, end + STEP, &mac, now));
        assert!(!check(&mine, &pack, end, &mac[1..], now));
        assert!(!check(&mine, &pack, end, "", now));
        assert!(!check(&mine, &pack, end, "+/", now));
        assert!(CapabilityKey::from_bytes([8; 32]).check(&mine, &pack, end, &mac, now).is_err());
        assert!(!format!("{key:?}").contains('7'));
    }

    #[test]
    fn it_lives_between_six_and_twelve_hours_and_is_the_same_for_all() {
        for now in [0, 1, STEP - 1, STEP, 1_700_000_000] {
            let left = expiry(now) - now;
            assert!((STEP + 1..=2 * STEP).contains(&left), "{now}: {left}");
        }
        assert_eq!(expiry(STEP), expiry(2 * STEP - 1));
    }
}
