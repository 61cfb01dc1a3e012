use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::News;

/// Messages of one topic that came together, each of them one checked JSON document; clones share their bytes.
///
/// They are handed over as one, so that whoever hands them over, and whoever takes them, needs no lock for each.
#[derive(Clone, Debug)]
pub(crate) struct Bundle {
    values: Arc<Values>,
    /// The messages that are left.
    left: Range<usize>,
}

/// The messages of a bundle, one behind the other.
#[derive(Debug)]
pub(crate) struct Values {
    topic: Arc<str>,
    text: Text,
    parts: Vec<Part>,
}

/// One message among others.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    /// Where it ends.
    pub(crate) end: usize,
    /// It is a string without escapes: the text is what stands between its quotes.
    pub(crate) is_plain: bool,
}

#[derive(Debug)]
enum Text {
    /// Known to be UTF-8, so that a text of it need not be looked at again.
    Checked(String),
    Bytes(Bytes),
}

impl Bundle {
    /// Messages that were copied together.
    pub(crate) fn copied(topic: Arc<str>, values: Vec<u8>, parts: Vec<Part>) -> Self {
        let text = String::from_utf8(values).map_or_else(|e| Text::Bytes(e.into_bytes().into()), Text::Checked);
        Self::new(topic, text, parts)
    }

    /// One message, which stays where it is.
    pub(crate) fn single(topic: Arc<str>, value: Bytes) -> Self {
        let part = Part { end: value.len(), is_plain: false };
        Self::new(topic, Text::Bytes(value), vec![part])
    }

    fn new(topic: Arc<str>, text: Text, parts: Vec<Part>) -> Self {
        let left = 0..parts.len();
        Self { values: Arc::new(Values { topic, text, parts }), left }
    }

    /// How many messages are left.
    pub(crate) fn len(&self) -> usize {
        self.left.len()
    }

    /// What they take, bookkeeping included.
    pub(crate) fn bytes(&self) -> usize {
        let values = self.values.end(self.left.end) - self.values.end(self.left.start);
        values + self.len() * size_of::<Part>() + size_of::<Self>() + size_of::<Values>()
    }

    /// The first `len` of them; the others are left.
    pub(crate) fn split_to(&mut self, len: usize) -> Self {
        let at = (self.left.start + len).min(self.left.end);
        let first = Self { left: self.left.start..at, ..self.clone() };
        self.left.start = at;
        first
    }
}

impl Values {
    pub(crate) fn topic(&self) -> &str {
        &self.topic
    }

    /// The bytes of one message.
    pub(crate) fn bytes(&self, value: Range<usize>) -> &[u8] {
        let all = match &self.text {
            Text::Checked(text) => text.as_bytes(),
            Text::Bytes(bytes) => bytes,
        };
        all.get(value).unwrap_or_default()
    }

    /// The same as a text, if that is known to be one.
    pub(crate) fn text(&self, value: Range<usize>) -> Option<&str> {
        match &self.text {
            Text::Checked(text) => text.get(value),
            Text::Bytes(_) => None,
        }
    }

    /// A copy of one message, alone.
    pub(crate) fn alone(&self, value: Range<usize>, is_plain: bool) -> Self {
        let text = match self.text(value.clone()) {
            Some(text) => Text::Checked(text.to_owned()),
            None => Text::Bytes(Bytes::copy_from_slice(self.bytes(value.clone()))),
        };
        Self { topic: Arc::clone(&self.topic), text, parts: vec![Part { end: value.len(), is_plain }] }
    }

    /// Where the messages before this one end.
    fn end(&self, index: usize) -> usize {
        index.checked_sub(1).and_then(|before| self.parts.get(before)).map_or(0, |part| part.end)
    }
}

impl Iterator for Bundle {
    type Item = News;

    fn next(&mut self) -> Option<News> {
        let index = self.left.next()?;
        let part = self.values.parts.get(index)?;
        let value = self.values.end(index)..part.end;
        Some(News::new(Arc::clone(&self.values), value, part.is_plain))
    }
}

/// A bundle of these JSON documents.
#[cfg(test)]
pub(crate) fn bundle_of(values: &[&str]) -> Bundle {
    let ends = values.iter().scan(0, |end, value| {
        *end += value.len();
        Some(*end)
    });
    let parts =
        ends.zip(values).map(|(end, value)| Part { end, is_plain: value.starts_with('"') && !value.contains('\\') });
    Bundle::copied("t".into(), values.concat().into(), parts.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle() -> Bundle {
        bundle_of(&["1", "\"two\"", "3"])
    }

    fn texts(bundle: Bundle) -> Vec<String> {
        bundle.map(|news| news.text().into_owned()).collect()
    }

    #[test]
    fn it_gives_each_message_in_order() {
        assert_eq!(texts(bundle()), ["1", "two", "3"]);
    }

    #[test]
    fn it_can_be_split_anywhere() {
        let own = size_of::<Bundle>() + size_of::<Values>();
        for at in 0..5 {
            let mut rest = bundle();
            let first = rest.split_to(at);
            assert_eq!((first.len(), rest.len()), (at.min(3), 3 - at.min(3)));
            assert_eq!(first.bytes() + rest.bytes() - own, bundle().bytes());
            assert_eq!([texts(first), texts(rest)].concat(), ["1", "two", "3"]);
        }
    }
}
