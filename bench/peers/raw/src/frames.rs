//! Frames: four bytes of length, then so many bytes.
use anyhow::{Result, bail};

const HEADER: usize = 4;
const LONGEST: usize = 16 << 20;

/// Bytes that were read and are not yet taken as frames.
pub struct Inbox {
    bytes: Vec<u8>,
    have: usize,
}

impl Inbox {
    pub fn new(room: usize) -> Self {
        Self { bytes: vec![0; room], have: 0 }
    }

    /// Where the next read goes; to be followed by [`Inbox::filled`].
    pub fn room(&mut self) -> &mut [u8] {
        self.bytes.get_mut(self.have..).unwrap_or_default()
    }

    pub fn filled(&mut self, read: usize) {
        self.have += read;
    }

    /// Calls `each` for every complete frame, its header included; returns the bytes that they cover.
    pub fn frames(&self, mut each: impl FnMut(&[u8]) -> Result<()>) -> Result<usize> {
        let mut rest = self.front(self.have);
        while let Some((frame, behind)) = split(rest)? {
            each(frame)?;
            rest = behind;
        }
        Ok(self.have - rest.len())
    }

    pub fn front(&self, len: usize) -> &[u8] {
        self.bytes.get(..len).unwrap_or_default()
    }

    /// Forgets bytes at the front.
    pub fn take(&mut self, len: usize) {
        self.bytes.copy_within(len..self.have, 0);
        self.have -= len;
    }
}

/// What a frame carries.
pub fn body(frame: &[u8]) -> &[u8] {
    frame.get(HEADER..).unwrap_or_default()
}

/// Appends a frame whose body `write` appends.
pub fn put(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>) -> Result<()>) -> Result<()> {
    let at = out.len();
    out.extend_from_slice(&[0; HEADER]);
    write(out)?;
    let len = u32::try_from(out.len() - at - HEADER)?;
    if let Some(header) = out.get_mut(at..at + HEADER) {
        header.copy_from_slice(&len.to_be_bytes());
    }
    Ok(())
}

/// The first complete frame and what is behind it.
fn split(bytes: &[u8]) -> Result<Option<(&[u8], &[u8])>> {
    let Some(header) = bytes.first_chunk::<HEADER>() else { return Ok(None) };
    let len = u32::from_be_bytes(*header) as usize;
    if len > LONGEST {
        bail!("frame too long");
    }
    Ok(bytes.split_at_checked(HEADER + len))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(texts: &[&str]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for text in texts {
            let write = |out: &mut Vec<u8>| {
                out.extend_from_slice(text.as_bytes());
                Ok(())
            };
            put(&mut bytes, write).unwrap();
        }
        bytes
    }

    #[test]
    fn frames_are_found_wherever_the_bytes_are_split() {
        let bytes = framed(&["one", "", "three"]);
        for at in 0..=bytes.len() {
            let (mut inbox, mut bodies) = (Inbox::new(64), Vec::new());
            for part in [&bytes[..at], &bytes[at..]] {
                inbox.room()[..part.len()].copy_from_slice(part);
                inbox.filled(part.len());
                let mut each = |frame: &[u8]| {
                    bodies.push(body(frame).to_vec());
                    Ok(())
                };
                let taken = inbox.frames(&mut each).unwrap();
                inbox.take(taken);
            }
            assert_eq!(bodies, [&b"one"[..], b"", b"three"], "{at}");
        }
    }
}
