use bytes::{BufMut, BytesMut};

use crate::scan::{plain_bytes, special};

/// Appends a text with its quotes.
#[inline]
pub(crate) fn write_text(text: &str, out: &mut BytesMut) {
    if !write_short(text.as_bytes(), out) {
        write_long(text, out);
    }
}

/// Appends the name of a member with what comes before it and the colon behind it.
#[inline]
pub(crate) fn write_name(before: u8, name: &str, out: &mut BytesMut) {
    let mut whole = [b'"'; SHORT_BYTES + 4];
    if let Some(whole) = whole.get_mut(..name.len() + 4)
        && let [first, quoted @ .., colon] = &mut *whole
        && fill_plain(quoted, name.as_bytes())
    {
        (*first, *colon) = (before, b':');
        return out.put_slice(whole);
    }
    out.put_u8(before);
    write_long(name, out);
    out.put_u8(b':');
}

/// The same for what is mostly a name: put together on the stack, it is appended at once. Not done where it is long or
/// has escapes.
#[inline]
fn write_short(text: &[u8], out: &mut BytesMut) -> bool {
    let mut quoted = [b'"'; SHORT_BYTES + 2];
    let Some(quoted) = quoted.get_mut(..text.len() + 2) else { return false };
    let plain = fill_plain(quoted, text);
    if plain {
        out.put_slice(quoted);
    }
    plain
}

/// Puts a short text behind the first quote; whether it needs no escapes.
#[inline]
fn fill_plain(quoted: &mut [u8], text: &[u8]) -> bool {
    let Some(to) = quoted.get_mut(1..=text.len()) else { return false };
    // Its first and its last word, which may overlap: one or two looks in place of one at each byte.
    if let Some(specials) = copy_ends::<8>(to, text).or_else(|| copy_ends::<4>(to, text)) {
        return specials == 0;
    }
    let mut plain = true;
    for (to, &byte) in to.iter_mut().zip(text) {
        *to = byte;
        plain &= !matches!(byte, 0..0x20 | b'"' | b'\\');
    }
    plain
}

/// Copies the first `N` bytes and the last, which are all that there are of up to twice as many, and finds those that need
/// escapes; `None` where there are fewer than `N`.
#[inline]
fn copy_ends<const N: usize>(to: &mut [u8], text: &[u8]) -> Option<u64> {
    const { assert!(N <= 8 && SHORT_BYTES <= 16) };
    let (first, last) = (text.first_chunk::<N>()?, text.last_chunk::<N>()?);
    *to.first_chunk_mut()? = *first;
    *to.last_chunk_mut()? = *last;
    let word = |bytes: &[u8; N]| {
        // What is not looked at needs none.
        let mut word = [b' '; 8];
        word.iter_mut().zip(bytes).for_each(|(to, byte)| *to = *byte);
        u64::from_le_bytes(word)
    };
    Some(special(word(first)) | special(word(last)))
}

fn write_long(text: &str, out: &mut BytesMut) {
    // Room for what mostly follows too: growing by little would copy the text.
    out.reserve(text.len() + TAIL_BYTES);
    out.put_u8(b'"');
    let mut rest = text.as_bytes();
    let mut next = Next::Clean;
    while !rest.is_empty() {
        let (piece, behind) = rest.split_at_checked(next.bytes()).unwrap_or((rest, &[]));
        if let Next::Dense = next {
            let any = write_escaped(piece, out);
            next = if any { Next::Dense } else { Next::Clean };
            rest = behind;
            continue;
        }
        let plain = write_plain(piece, out);
        rest = rest.get(plain..).unwrap_or_default();
        next = match rest.split_first() {
            _ if plain == piece.len() => Next::Clean,
            Some((special, behind)) if plain >= FAR_BYTES => {
                rest = behind;
                write_escaped(&[*special], out);
                Next::Mixed
            }
            _ => Next::Dense,
        };
    }
    out.put_u8(b'"');
}

/// How the next piece of a text is written, by what the last one was like.
#[derive(Clone, Copy)]
enum Next {
    /// Copied, and the copy looked at.
    Clean,
    /// The same; less of it, since a copy behind an escape is in vain.
    Mixed,
    /// Byte by byte.
    Dense,
}

impl Next {
    const fn bytes(self) -> usize {
        match self {
            Self::Clean => 256,
            Self::Mixed => 64,
            Self::Dense => DENSE_BYTES,
        }
    }
}

/// Appends what comes before the first byte that needs an escape; how much that is.
fn write_plain(piece: &[u8], out: &mut BytesMut) -> usize {
    let start = out.len();
    out.put_slice(piece);
    // The copy is looked at, since a long text itself comes from afar.
    let plain = plain_bytes(out.get(start..).unwrap_or_default());
    out.truncate(start + plain);
    plain
}

/// Appends up to `DENSE_BYTES` byte by byte; whether any needed an escape.
fn write_escaped(piece: &[u8], out: &mut BytesMut) -> bool {
    let mut written = [0; LONGEST_ESCAPE * DENSE_BYTES];
    let mut free = written.iter_mut();
    let mut any = false;
    for &byte in piece {
        if matches!(byte, 0..0x20 | b'"' | b'\\') {
            any = true;
            let (escape, len) = escape(byte);
            free.by_ref().zip(&escape[..]).take(len).for_each(|(to, byte)| *to = *byte);
        } else if let Some(to) = free.next() {
            *to = byte;
        }
    }
    let unused = free.len();
    out.put_slice(written.get(..LONGEST_ESCAPE * DENSE_BYTES - unused).unwrap_or_default());
    any
}

/// The bytes of an escape, and how many they are.
fn escape(byte: u8) -> ([u8; LONGEST_ESCAPE], usize) {
    let letter = match byte {
        b'"' | b'\\' => byte,
        0x8 => b'b',
        0xc => b'f',
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        _ => {
            let [high, low] =
                [byte >> 4, byte & 0xf].map(|half| char::from_digit(half.into(), 16).unwrap_or('0') as u8);
            return ([b'\\', b'u', b'0', b'0', high, low], LONGEST_ESCAPE);
        }
    };
    ([b'\\', letter, 0, 0, 0, 0], 2)
}

const SHORT_BYTES: usize = 14;
/// What ends a body behind its last text, and then some.
const TAIL_BYTES: usize = 64;
/// Escapes that are so far apart are written one by one.
const FAR_BYTES: usize = 16;
const DENSE_BYTES: usize = 32;
const LONGEST_ESCAPE: usize = 6;
