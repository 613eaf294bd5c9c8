//! A container's own output out of its log, where the service's lines stand between.

/// Lets through what is not a line `YYYY/MM/DD HH:MM:SS container(ID): …` of the service. What cannot be the beginning of such a
/// line is let through at once, so that a prompt without an end of line is seen.
#[derive(Debug)]
pub(crate) struct Sieve {
    pattern: Vec<u8>,
    held: Vec<u8>,
    line: Line,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    /// So far it looks like one of the service's.
    Open,
    Theirs,
    Service,
}

impl Sieve {
    /// For the log of the container with this number.
    pub(crate) fn new(id: u64) -> Self {
        // A 9 stands for any digit.
        let pattern = format!("9999/99/99 99:99:99 container({id}): ").into_bytes();
        Self { pattern, held: Vec::new(), line: Line::Open }
    }

    /// What of these bytes, and of those that were held back, is the container's.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(bytes.len());
        for &byte in bytes {
            match self.line {
                Line::Theirs => out.push(byte),
                Line::Service => {}
                Line::Open => self.open_feed(byte, &mut out),
            }
            if byte == b'\n' {
                self.line = Line::Open;
            }
        }
        out
    }

    /// What was held back when the log has ended.
    pub(crate) fn end(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held)
    }

    fn open_feed(&mut self, byte: u8, out: &mut Vec<u8>) {
        let wanted = self.pattern.get(self.held.len()).copied().unwrap_or_default();
        // Digits of the number itself are compared as they are.
        let fits = match wanted {
            b'9' if self.held.len() < 19 => byte.is_ascii_digit(),
            other => byte == other,
        };
        self.held.push(byte);
        if !fits {
            out.append(&mut self.held);
            self.line = Line::Theirs;
        } else if self.held.len() == self.pattern.len() {
            self.held.clear();
            self.line = Line::Service;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Sieve;

    #[test]
    fn only_the_lines_of_the_service_are_taken_out() {
        let log = b"2026/11/28 21:22:16 container(19): starting container\nhello\n\n2026 is not a line\n2026/11/28 21:22:16 container(18): theirs\n2026/11/28 21:22:17 container(19): process ended\nlast";
        let own = b"hello\n\n2026 is not a line\n2026/11/28 21:22:16 container(18): theirs\nlast";
        for size in 1..log.len() {
            let mut sieve = Sieve::new(19);
            let mut got: Vec<u8> = log.chunks(size).flat_map(|part| sieve.feed(part)).collect();
            got.extend(sieve.end());
            assert_eq!(got, own, "parts of {size}");
        }
        let mut sieve = Sieve::new(1);
        assert_eq!(sieve.feed(b"$ "), b"$ ");
        assert_eq!(sieve.feed(b"\n20"), b"\n");
        assert_eq!(sieve.end(), b"20");
    }
}
