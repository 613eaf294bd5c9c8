use crate::error::FormatError;

/// Reads an encoding from front to back; nothing is allocated here.
pub(crate) struct Cursor<'a> {
    what: &'static str,
    bytes: &'a [u8],
}

impl<'a> Cursor<'a> {
    /// Checks magic bytes and version, and stands behind them.
    pub(crate) fn open(what: &'static str, magic: &[u8; 4], version: u8, bytes: &'a [u8]) -> Result<Self, FormatError> {
        let mut cursor = Self { what, bytes };
        if cursor.take::<4>()? != *magic {
            return Err(FormatError::BadMagic { what });
        }
        match cursor.u8()? {
            found if found == version => Ok(cursor),
            found => Err(FormatError::UnknownVersion { what, version: found }),
        }
    }

    /// Over bytes that begin with neither magic nor version.
    pub(crate) fn bare(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { what, bytes }
    }

    pub(crate) fn slice(&mut self, len: usize) -> Result<&'a [u8], FormatError> {
        let (head, rest) = self.bytes.split_at_checked(len).ok_or(FormatError::Truncated { what: self.what })?;
        self.bytes = rest;
        Ok(head)
    }

    pub(crate) fn take<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        let (head, rest) = self.bytes.split_first_chunk::<N>().ok_or(FormatError::Truncated { what: self.what })?;
        self.bytes = rest;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, FormatError> {
        self.take().map(u8::from_le_bytes)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, FormatError> {
        self.take().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, FormatError> {
        self.take().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, FormatError> {
        self.take().map(u64::from_le_bytes)
    }

    /// Reserved bytes are zero; another value belongs to a later version.
    pub(crate) fn reserved<const N: usize>(&mut self) -> Result<(), FormatError> {
        if self.take::<N>()? == [0; N] {
            Ok(())
        } else {
            Err(FormatError::NotCanonical { what: self.what, rule: "reserved bytes must be zero" })
        }
    }

    /// Reads a count, and proves that so many records of at least `each` bytes can follow before
    /// anybody reserves memory for them.
    pub(crate) fn count(&mut self, of: &'static str, max: usize, each: usize) -> Result<usize, FormatError> {
        let count = self.u32()? as usize;
        if count > max {
            return Err(FormatError::TooLarge { what: of, value: count as u64, max: max as u64 });
        }
        self.expect(count * each)?;
        Ok(count)
    }

    /// Proves that at least `len` bytes follow.
    pub(crate) fn expect(&self, len: usize) -> Result<(), FormatError> {
        if len > self.bytes.len() {
            return Err(FormatError::Truncated { what: self.what });
        }
        Ok(())
    }

    /// Refuses bytes behind the encoding: two byte strings must not mean the same.
    pub(crate) fn end(self) -> Result<(), FormatError> {
        match self.bytes.len() {
            0 => Ok(()),
            extra => Err(FormatError::Trailing { what: self.what, extra }),
        }
    }
}
