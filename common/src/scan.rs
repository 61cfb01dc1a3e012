//! One strict pass over a JSON text (RFC 8259): syntax, escapes and depth are checked, nothing is built.
//!
//! `serde_json` skips a value that nobody asked for without looking at its depth, its escapes or its encoding; the wire
//! contract wants the whole document checked before anything in it counts.

/// How deep arrays and objects may nest, the outermost counted.
pub(crate) const MAX_DEPTH: usize = 128;

/// Where a text stops being JSON, in bytes from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Syntax {
    pub(crate) at: usize,
    pub(crate) what: &'static str,
}

/// A cursor over a text; each method moves past what it is named after.
#[derive(Debug)]
pub(crate) struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Scanner<'a> {
    /// `text` must be UTF-8; the cursor takes that as given.
    pub(crate) fn new(text: &'a [u8]) -> Self {
        Self { text, at: 0 }
    }

    #[inline]
    pub(crate) fn since(&self, start: usize) -> &'a [u8] {
        self.text.get(start..self.at).unwrap_or_default()
    }

    #[inline]
    pub(crate) fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    #[inline]
    pub(crate) fn space(&mut self) {
        if self.peek().is_some_and(|byte| byte > b' ') {
            return;
        }
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    /// White space, then this byte if it is next.
    #[inline]
    pub(crate) fn take(&mut self, byte: u8) -> bool {
        self.space();
        let next = self.peek() == Some(byte);
        self.at += usize::from(next);
        next
    }

    #[inline]
    pub(crate) fn expect(&mut self, byte: u8, what: &'static str) -> Result<(), Syntax> {
        if self.take(byte) { Ok(()) } else { Err(self.wrong(what)) }
    }

    /// White space, then nothing.
    pub(crate) fn end(&mut self) -> Result<(), Syntax> {
        self.space();
        if self.peek().is_none() { Ok(()) } else { Err(self.wrong("text after the document")) }
    }

    /// White space, then a string with its quotes; the span of those.
    pub(crate) fn key(&mut self) -> Result<&'a [u8], Syntax> {
        self.space();
        let start = self.at;
        if self.peek() != Some(b'"') {
            return Err(self.wrong("expected a member's name"));
        }
        self.string()?;
        let key = self.since(start);
        self.expect(b':', "expected ':'")?;
        Ok(key)
    }

    /// White space, then one whole value, `depth` arrays and objects deep already; the span of the value.
    ///
    /// It does not recurse: what is open stands in the bits of one word.
    pub(crate) fn value(&mut self, depth: usize) -> Result<&'a [u8], Syntax> {
        self.space();
        let start = self.at;
        let mut objects: u128 = 0; // a bit for each open container, set where it is an object
        let mut open = 0;
        loop {
            self.space();
            match self.peek() {
                Some(first @ (b'{' | b'[')) => {
                    self.at += 1;
                    open += 1;
                    if depth + open > MAX_DEPTH {
                        return Err(self.wrong("nested deeper than 128"));
                    }
                    let object = first == b'{';
                    objects = objects << 1 | u128::from(object);
                    let empty = self.take(if object { b'}' } else { b']' });
                    if empty {
                        open -= 1;
                        objects >>= 1;
                    } else {
                        if object {
                            self.key()?;
                        }
                        continue;
                    }
                }
                Some(b'"') => self.string()?,
                Some(b'-' | b'0'..=b'9') => self.number()?,
                Some(b't') => self.literal(b"true")?,
                Some(b'f') => self.literal(b"false")?,
                Some(b'n') => self.literal(b"null")?,
                _ => return Err(self.wrong("expected a value")),
            }
            loop {
                if open == 0 {
                    return Ok(self.since(start));
                }
                let object = objects & 1 == 1;
                if self.take(b',') {
                    if object {
                        self.key()?;
                    }
                    break;
                }
                self.expect(if object { b'}' } else { b']' }, "expected ',' or the end of a list or object")?;
                open -= 1;
                objects >>= 1;
            }
        }
    }

    fn string(&mut self) -> Result<(), Syntax> {
        self.at += 1;
        loop {
            self.at += plain_bytes(self.text.get(self.at..).unwrap_or_default());
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => self.escape()?,
                Some(_) => return Err(self.wrong("control character in a string")),
                None => return Err(self.wrong("a string has no end")),
            }
        }
    }

    fn escape(&mut self) -> Result<(), Syntax> {
        self.at += 1;
        match self.peek() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                self.at += 1;
                Ok(())
            }
            Some(b'u') => {
                let first = self.unicode()?;
                match first {
                    0xd800..=0xdbff => {
                        if self.text.get(self.at..self.at + 2) != Some(b"\\u") {
                            return Err(self.wrong("half a surrogate pair"));
                        }
                        self.at += 1;
                        match self.unicode()? {
                            0xdc00..=0xdfff => Ok(()),
                            _ => Err(self.wrong("half a surrogate pair")),
                        }
                    }
                    0xdc00..=0xdfff => Err(self.wrong("half a surrogate pair")),
                    _ => Ok(()),
                }
            }
            _ => Err(self.wrong("unknown escape")),
        }
    }

    /// `uXXXX`
    fn unicode(&mut self) -> Result<u16, Syntax> {
        self.at += 1;
        let digits = self.text.get(self.at..self.at + 4).filter(|d| d.iter().all(u8::is_ascii_hexdigit));
        let Some(digits) = digits else { return Err(self.wrong("\\u needs four hex digits")) };
        self.at += 4;
        let text = std::str::from_utf8(digits).unwrap_or_default();
        u16::from_str_radix(text, 16).map_err(|_| self.wrong("\\u needs four hex digits"))
    }

    fn number(&mut self) -> Result<(), Syntax> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), Syntax> {
        let start = self.at;
        while self.peek().is_some_and(|b| b.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at == start { Err(self.wrong("expected a digit")) } else { Ok(()) }
    }

    fn literal(&mut self, word: &'static [u8]) -> Result<(), Syntax> {
        if self.text.get(self.at..self.at + word.len()) == Some(word) {
            self.at += word.len();
            Ok(())
        } else {
            Err(self.wrong("expected a value"))
        }
    }

    fn wrong(&self, what: &'static str) -> Syntax {
        Syntax { at: self.at, what }
    }
}

/// How many bytes pass before a quote, a backslash or a control character.
pub(crate) fn plain_bytes(text: &[u8]) -> usize {
    let mut passed = 0;
    for block in text.as_chunks::<BLOCK_BYTES>().0 {
        // Without a branch a byte, so that the compiler looks at many at once.
        let ends = block
            .iter()
            .fold(0, |ends, byte| ends | u8::from(*byte == b'"') | u8::from(*byte == b'\\') | u8::from(*byte < 0x20));
        if ends != 0 {
            break;
        }
        passed += BLOCK_BYTES;
    }
    passed + plain_bytes_by_word(text.get(passed..).unwrap_or_default())
}

/// Whether nothing but ASCII is there, and neither quote, backslash nor control character.
pub(crate) fn is_plain_ascii(text: &[u8]) -> bool {
    let is_other =
        |byte: u8| u8::from(byte == b'"') | u8::from(byte == b'\\') | u8::from(byte.wrapping_sub(0x20) > 0x5f);
    let all = |bytes: &[u8]| bytes.iter().fold(0, |found, byte| found | is_other(*byte)) == 0;
    let (blocks, rest) = text.as_chunks::<BLOCK_BYTES>();
    blocks.iter().all(|block| all(block)) && all(rest)
}

const BLOCK_BYTES: usize = 64;

fn plain_bytes_by_word(text: &[u8]) -> usize {
    let (words, rest) = text.as_chunks::<8>();
    let mut passed = 0;
    for word in words {
        let found = special(u64::from_le_bytes(*word));
        if found != 0 {
            return passed + (found.trailing_zeros() / 8) as usize;
        }
        passed += 8;
    }
    passed + rest.iter().take_while(|b| !matches!(b, b'"' | b'\\' | 0..=0x1f)).count()
}

/// Bit 7 of each byte that ends a plain run. The lowest one set is exact; a higher one may be a borrow's ghost.
/// Source of the trick: Sean Eron Anderson, "Bit Twiddling Hacks", "Determine if a word has a byte less than n".
pub(crate) const fn special(word: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let quote = word ^ (ONES * b'"' as u64);
    let backslash = word ^ (ONES * b'\\' as u64);
    let is_quote = quote.wrapping_sub(ONES) & !quote;
    let is_backslash = backslash.wrapping_sub(ONES) & !backslash;
    let is_control = word.wrapping_sub(ONES * 0x20) & !word;
    (is_quote | is_backslash | is_control) & HIGH
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(text: &[u8]) -> Result<(), Syntax> {
        let mut scanner = Scanner::new(text);
        scanner.value(0)?;
        scanner.end()
    }

    #[test]
    fn a_table_of_good_and_bad_texts() {
        let deep = |n: usize| ["[".repeat(n), "]".repeat(n)].concat();
        let good = [
            "0",
            "-0",
            "1e9",
            "1E+9",
            "-1.5e-3",
            "123456789012345678901234567890",
            "1e999",
            "true",
            "null",
            " [ ] ",
            "{}",
            "[1,2]",
            "{\"a\":1 , \"b\" : [{}]}",
            "\"\\u00e9\\ud83d\\ude00\"",
            "\"\u{e9}\"",
            "\t\r\n 1",
            &deep(128),
        ];
        for text in good {
            assert_eq!(check(text.as_bytes()), Ok(()), "{text}");
        }
        let bad = [
            "",
            " ",
            "01",
            "+1",
            ".5",
            "1.",
            "1e",
            "- 1",
            "tru",
            "nul",
            "True",
            "[1,]",
            "[,1]",
            "{\"a\"}",
            "{\"a\":}",
            "{a:1}",
            "{\"a\":1,}",
            "[1",
            "{\"a\":1",
            "\"",
            "\"\\x\"",
            "\"\\u12\"",
            "\"\\ud800\"",
            "\"\\ud800\\u0041\"",
            "\"\\udc00\"",
            "\"\n\"",
            "\"\0\"",
            "1 2",
            "[1}",
            "{\"a\":1]",
            "'a'",
            "NaN",
            "/**/1",
            "\u{feff}1",
            &deep(129),
        ];
        for text in bad {
            assert!(check(text.as_bytes()).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn agrees_with_serde_json(text in "[\\[\\]{}\",:\\\\u0-9ae.+ \\-\u{1}-\u{20}tfn\u{e9}]{0,24}") {
            // IgnoredAny keeps no numbers and no strings, so nothing but syntax can fail; surrogates we refuse and it
            // passes
            let theirs = serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok();
            if check(text.as_bytes()).is_ok() { prop_assert!(theirs, "{text}"); }
            else if theirs { prop_assert!(text.contains("\\u"), "{text}"); }
        }

        #[test]
        fn plain_runs_end_where_a_plain_loop_ends_them(text in proptest::collection::vec(any::<u8>(), 0..64), plain in 0..200_usize) {
            let text = [vec![b'x'; plain], text].concat();
            let slow = text.iter().take_while(|b| !matches!(b, b'"' | b'\\' | 0..=0x1f)).count();
            prop_assert_eq!(plain_bytes(&text), slow);
        }
    }
}
