//! Secrets: tokens, passwords and one-time codes. How they are made, recognised, stored and compared.
//!
//! What is random enough (tokens, codes) is stored as its SHA-256; what people choose (passwords) as Argon2id. Nothing here can be printed.

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};
use rand::TryRng;
use sha2::{Digest as _, Sha256};
use slipway_api::{Code, Problem};
use std::fmt;
use std::sync::LazyLock;
use tokio::sync::Semaphore;

/// What every token begins with, so that scanners for leaked secrets can find it.
pub const TOKEN_PREFIX: &str = "slp_";
/// Base62 digits of the random part: 28 × log2(62) = 166 bits.
const TOKEN_RANDOM: usize = 28;
/// Base62 digits of the checksum: 62^6 > 2^32.
const TOKEN_CHECK: usize = 6;
/// Characters in a password at least.
pub const PASSWORD_MIN: usize = 10;
/// Characters in a password at most; the cost of hashing does not depend on it, the cost of receiving it does.
pub const PASSWORD_MAX: usize = 1024;
/// Letters and digits of a setup code that cannot be taken for another: no 0 and o, no 1, i and l, no u.
const CODE_ALPHABET: &[u8; 30] = b"23456789abcdefghjkmnpqrstvwxyz";
/// Characters of a setup code, shown in groups of four: 20 × log2(30) = 98 bits.
const CODE_LEN: usize = 20;
/// Digits before capitals before small letters, as in the order of bytes.
const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Argon2id as OWASP asks for at least: 19 MiB, two passes, one lane.
const ARGON_MEMORY_KIB: u32 = 19_456;
const ARGON_PASSES: u32 = 2;
/// Hashes at one time at most: 4 × 19 MiB is what a flood of sign-ins may cost in memory.
static HASHING: Semaphore = Semaphore::const_new(4);

/// A text that never prints.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes a secret in.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one place that must have it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

/// The SHA-256 of a token or code: what is stored and looked up. Looking up by hash needs no comparison in constant time: how far two
/// hashes agree says nothing about the secrets.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SecretHash([u8; 32]);

impl SecretHash {
    /// Of a secret as it was given out. Only for secrets with enough chance in them; passwords go through [`password_hash`].
    pub fn of(secret: &str) -> Self {
        Self(Sha256::digest(secret.as_bytes()).into())
    }

    /// Lower-case hex, as it stands in its column.
    pub fn to_hex(self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretHash(…)")
    }
}

/// `len` characters of `alphabet`, each equally likely.
fn random_text(alphabet: &[u8], len: usize) -> String {
    // Bytes beyond the largest multiple of the alphabet's length are thrown away, because the remainder would favour its beginning.
    let fair = 256 - 256 % alphabet.len();
    let mut text = String::with_capacity(len);
    let mut bytes = [0u8; 64];
    while text.len() < len {
        rand::rngs::SysRng.try_fill_bytes(&mut bytes).expect("the kernel's random source is there from early boot on");
        let digits = bytes.iter().map(|byte| usize::from(*byte)).filter(|byte| *byte < fair);
        text.extend(digits.map(|byte| char::from(alphabet[byte % alphabet.len()])).take(len - text.len()));
    }
    text
}

fn checksum(body: &str) -> String {
    let mut rest = crc32fast::hash(body.as_bytes()) as usize;
    let mut digits = [b'0'; TOKEN_CHECK];
    for digit in digits.iter_mut().rev() {
        *digit = BASE62[rest % 62];
        rest /= 62;
    }
    digits.iter().map(|digit| char::from(*digit)).collect()
}

/// A token that has the right shape and checksum. Whether anybody holds it is another question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenSecret(Secret);

impl TokenSecret {
    /// A new one.
    pub fn random() -> Self {
        let body = random_text(BASE62, TOKEN_RANDOM);
        let check = checksum(&body);
        Self(Secret::new(format!("{TOKEN_PREFIX}{body}{check}")))
    }

    /// Reads what a client sent; `None` for anything that was never given out, so that typos and noise cost no query.
    pub fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix(TOKEN_PREFIX)?;
        let fine = rest.len() == TOKEN_RANDOM + TOKEN_CHECK && rest.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let (body, check) = rest.split_at_checked(TOKEN_RANDOM).filter(|_| fine)?;
        (checksum(body) == check).then(|| Self(Secret::new(text)))
    }

    /// The text, to be shown once.
    pub fn reveal(&self) -> &str {
        self.0.reveal()
    }

    /// What is stored.
    pub fn hash(&self) -> SecretHash {
        SecretHash::of(self.reveal())
    }
}

/// The one-time code that makes a new server's first admin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetupCode(Secret);

impl SetupCode {
    /// A new one: five groups of four.
    pub fn random() -> Self {
        Self(Secret::new(random_text(CODE_ALPHABET, CODE_LEN)))
    }

    /// Reads what a person typed: capitals, spaces and hyphens do not matter. `None` if it cannot be one.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > 4 * CODE_LEN {
            return None;
        }
        let plain: String = text.chars().filter(|c| !matches!(c, '-' | ' ')).map(|c| c.to_ascii_lowercase()).collect();
        let fine = plain.len() == CODE_LEN && plain.bytes().all(|byte| CODE_ALPHABET.contains(&byte));
        fine.then(|| Self(Secret::new(plain)))
    }

    /// The text for people: `xxxx-xxxx-xxxx-xxxx-xxxx`.
    pub fn reveal(&self) -> String {
        let plain = self.0.reveal();
        (0..CODE_LEN / 4).map(|group| &plain[4 * group..4 * group + 4]).collect::<Vec<_>>().join("-")
    }

    /// What is stored.
    pub fn hash(&self) -> SecretHash {
        SecretHash::of(self.0.reveal())
    }
}

/// A password of an allowed length. Anything else about it is its owner's choice.
#[derive(Clone, Debug)]
pub struct Password(Secret);

impl Password {
    /// Checks the length in characters. `field` names the member of the request.
    pub fn new(text: &str, field: &str) -> Result<Self, Problem> {
        let len = text.chars().count();
        if (PASSWORD_MIN..=PASSWORD_MAX).contains(&len) {
            return Ok(Self(Secret::new(text)));
        }
        let title = format!("the password has {len} characters; {PASSWORD_MIN} to {PASSWORD_MAX} are allowed");
        Err(Problem::new(Code::InvalidRequest, title).field(field))
    }
}

fn argon() -> Argon2<'static> {
    let params = Params::new(ARGON_MEMORY_KIB, ARGON_PASSES, 1, None).expect("the parameters are OWASP's minimum");
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

/// What an unknown user's password is compared with, so that it takes as long as a known one's.
static NOBODY: LazyLock<String> = LazyLock::new(|| {
    let hash = argon().hash_password_with_salt(b"nobody has this password", &[0x5b; 16]);
    hash.expect("a salt of 16 bytes is allowed").to_string()
});

fn hashing_fault(what: &str) -> Problem {
    Problem::new(Code::Internal, format!("{what} a password: the hashing was interrupted"))
}

/// Hashes a password for its column, on a thread of its own.
pub async fn password_hash(password: &Password) -> Result<String, Problem> {
    let password = password.0.clone();
    let _permit = HASHING.acquire().await.map_err(|_| hashing_fault("storing"))?;
    let mut salt = [0u8; 16];
    rand::rngs::SysRng.try_fill_bytes(&mut salt).map_err(|_| hashing_fault("storing"))?;
    let task = tokio::task::spawn_blocking(move || {
        argon().hash_password_with_salt(password.reveal().as_bytes(), &salt).map(|hash| hash.to_string())
    });
    task.await.ok().and_then(Result::ok).ok_or_else(|| hashing_fault("storing"))
}

/// Whether `given` is the password that `stored` was made from. Without a stored hash the same work is done and the answer is no.
pub async fn password_matches(given: &str, stored: Option<&str>) -> Result<bool, Problem> {
    if given.chars().count() > PASSWORD_MAX {
        return Ok(false);
    }
    let given = Secret::new(given);
    let known = stored.is_some();
    let stored = stored.map(str::to_owned);
    let _permit = HASHING.acquire().await.map_err(|_| hashing_fault("checking"))?;
    let task = tokio::task::spawn_blocking(move || {
        let stored = stored.as_deref().unwrap_or_else(|| NOBODY.as_str());
        let parsed = PasswordHash::new(stored).ok()?;
        Some(argon().verify_password(given.reveal().as_bytes(), &parsed).is_ok())
    });
    match task.await {
        Ok(Some(same)) => Ok(same && known),
        Ok(None) | Err(_) => Err(hashing_fault("checking")),
    }
}

#[cfg(test)]
mod tests {
    use super::{
        BASE62, Password, Secret, SecretHash, SetupCode, TOKEN_PREFIX, TokenSecret, checksum, password_hash,
        password_matches,
    };
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};
    use std::collections::HashSet;

    #[test]
    fn tokens_are_recognised_and_typos_are_not() {
        let mut seen = HashSet::new();
        for _ in 0..200 {
            let token = TokenSecret::random();
            let text = token.reveal().to_owned();
            assert_eq!(TokenSecret::parse(&text).as_ref(), Some(&token));
            assert_eq!(text.len(), 4 + 28 + 6);
            assert!(seen.insert(text.clone()));
            // Each single wrong character is found by the checksum.
            for at in TOKEN_PREFIX.len()..text.len() {
                let mut typo = text.clone().into_bytes();
                typo[at] = if typo[at] == b'x' { b'y' } else { b'x' };
                assert_eq!(TokenSecret::parse(std::str::from_utf8(&typo).unwrap()), None);
            }
            // So is a pair of neighbours that were swapped.
            for at in TOKEN_PREFIX.len()..text.len() - 1 {
                let mut typo = text.clone().into_bytes();
                typo.swap(at, at + 1);
                let typo = String::from_utf8(typo).unwrap();
                assert!(typo == text || TokenSecret::parse(&typo).is_none());
            }
        }
        let text = TokenSecret::random().reveal().to_owned();
        for bad in [
            "",
            "slp_",
            "SLP_",
            &text[4..],
            &format!("{text}0"),
            &text[..37],
            &format!(" {text}"),
            &format!("{text}\n"),
        ] {
            assert_eq!(TokenSecret::parse(bad), None, "{bad:?}");
        }
        // The checksum is a fixed part of the format: leading zeros are kept.
        assert_eq!(checksum("0".repeat(28).as_str()).len(), 6);
        assert_eq!(BASE62.iter().collect::<HashSet<_>>().len(), 62);
    }

    #[test]
    fn a_known_token_keeps_its_checksum_and_hash() {
        let body = "0123456789ABCDEFGHIJKLMNOPQR";
        // Computed with zlib's crc32: the checksum is part of what is given out and must not change.
        assert_eq!(checksum(body), "3UI7Uu");
        assert!(TokenSecret::parse(&format!("slp_{body}{}", checksum(body))).is_some());
        // SHA-256 of "abc", FIPS 180-2 appendix B.1.
        let abc = SecretHash::of("abc");
        assert_eq!(abc.to_hex(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn secrets_do_not_print() {
        let token = TokenSecret::random();
        let code = SetupCode::random();
        let password = Password::new("correct horse battery", "password").unwrap();
        let shown = format!("{token:?} {code:?} {password:?} {:?} {:?}", Secret::new("hush"), token.hash());
        for hidden in [token.reveal(), &code.reveal(), "correct horse", "hush", &token.hash().to_hex()] {
            assert!(!shown.contains(hidden), "{shown}");
        }
    }

    #[test]
    fn setup_codes_forgive_how_they_are_typed() {
        let code = SetupCode::random();
        let shown = code.reveal();
        assert_eq!(shown.len(), 24);
        for typed in [shown.clone(), shown.to_uppercase(), shown.replace('-', ""), shown.replace('-', " ")] {
            assert_eq!(SetupCode::parse(&typed), Some(code.clone()), "{typed:?}");
        }
        for bad in
            ["", "abcd", &shown[1..], &format!("{shown}2"), &shown.replace(|c: char| c != '-', "0"), &"-".repeat(4000)]
        {
            assert_eq!(SetupCode::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn passwords_have_an_allowed_length() {
        for (text, fine) in [
            (String::new(), false),
            ("a".repeat(9), false),
            ("a".repeat(10), true),
            ("é".repeat(9), false),
            ("é".repeat(10), true),
            ("a".repeat(1024), true),
            ("é".repeat(1024), true),
            ("a".repeat(1025), false),
        ] {
            assert_eq!(Password::new(&text, "password").is_ok(), fine, "{} characters", text.chars().count());
        }
        assert_eq!(Password::new("short", "new").unwrap_err().field.as_deref(), Some("new"));
    }

    #[tokio::test]
    async fn passwords_match_only_themselves() {
        let stored = password_hash(&Password::new("correct horse", "password").unwrap()).await.unwrap();
        assert!(stored.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{stored}");
        let again = password_hash(&Password::new("correct horse", "password").unwrap()).await.unwrap();
        assert_ne!(stored, again, "the salt is new each time");
        for (given, hash, same) in [
            ("correct horse", Some(stored.as_str()), true),
            ("correct horsf", Some(&stored), false),
            ("", Some(&stored), false),
            ("correct horse", Some(&again), true),
            ("nobody has this password", None, false),
            (&"a".repeat(2000), Some(&stored), false),
        ] {
            assert_eq!(password_matches(given, hash).await.unwrap(), same, "{given:?}");
        }
        assert!(password_matches("x", Some("not a hash")).await.is_err());
    }

    proptest! {
        #[test]
        fn no_text_is_taken_for_a_token(text in any::<String>(), tail in "[0-9A-Za-z]{34}") {
            prop_assert!(TokenSecret::parse(&text).is_none());
            let (body, check) = tail.split_at(28);
            prop_assert_eq!(TokenSecret::parse(&format!("slp_{tail}")).is_some(), checksum(body) == check);
            let _ = SetupCode::parse(&text);
        }
    }
}
