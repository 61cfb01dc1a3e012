use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use callboard_common::PublishId;

use crate::News;
use crate::backlog::{Load, Portion};

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
    /// The number of the first one; those of the others follow.
    first: Number,
    /// What those are known by that may be repeated; empty if none may.
    ids: Vec<Option<PublishId>>,
}

/// The number of a message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Number {
    pub(crate) seq: u64,
    /// It is the center's, and not counted here.
    pub(crate) is_told: bool,
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
    pub(crate) fn copied(
        topic: Arc<str>,
        values: Vec<u8>,
        parts: Vec<Part>,
        first: Number,
        ids: Vec<Option<PublishId>>,
    ) -> Self {
        let text = String::from_utf8(values).map_or_else(|e| Text::Bytes(e.into_bytes().into()), Text::Checked);
        Self::new(Values { topic, text, parts, first, ids })
    }

    /// One message, which stays where it is.
    pub(crate) fn single(topic: Arc<str>, value: Bytes, first: Number, ids: Vec<Option<PublishId>>) -> Self {
        let parts = vec![Part { end: value.len(), is_plain: false }];
        Self::new(Values { topic, text: Text::Bytes(value), parts, first, ids })
    }

    fn new(values: Values) -> Self {
        let left = 0..values.parts.len();
        Self { values: Arc::new(values), left }
    }

    /// The number of the next message.
    #[inline]
    pub(crate) fn next_number(&self) -> Option<u64> {
        (!self.left.is_empty()).then(|| self.values.number(self.left.start).seq)
    }

    /// Whether some of them may have come before, from elsewhere.
    #[inline]
    pub(crate) fn may_repeat(&self) -> bool {
        !self.values.ids.is_empty()
    }

    /// How many messages are left.
    pub(crate) fn len(&self) -> usize {
        self.left.len()
    }

    /// What they take, bookkeeping included.
    pub(crate) fn bytes(&self) -> usize {
        let values = self.values.end(self.left.end) - self.values.end(self.left.start);
        let ids = if self.values.ids.is_empty() { 0 } else { self.len() * size_of::<Option<PublishId>>() };
        values + self.len() * size_of::<Part>() + ids + size_of::<Self>() + size_of::<Values>()
    }

    /// The first `len` of them; the others are left.
    pub(crate) fn split_to(&mut self, len: usize) -> Self {
        let at = (self.left.start + len).min(self.left.end);
        let first = Self { left: self.left.start..at, ..self.clone() };
        self.left.start = at;
        first
    }
}

impl Portion for Bundle {
    fn load(&self) -> Load {
        Load { messages: self.len(), bytes: if self.len() > 0 { self.bytes() } else { 0 } }
    }

    fn take_first(&mut self) -> Option<Self> {
        (self.len() > 0).then(|| self.split_to(1))
    }

    fn last(&self) -> u64 {
        self.values.number(self.left.end.saturating_sub(1)).seq
    }
}

impl Values {
    pub(crate) fn topic(&self) -> &str {
        &self.topic
    }

    /// The number of one message.
    #[inline]
    pub(crate) const fn number(&self, index: usize) -> Number {
        Number { seq: self.first.seq + index as u64, ..self.first }
    }

    /// What one message is known by if it may be repeated.
    #[inline]
    pub(crate) fn id(&self, index: usize) -> Option<PublishId> {
        self.ids.get(index).copied().flatten()
    }

    /// The bytes of one message.
    pub(crate) fn bytes(&self, index: usize) -> &[u8] {
        let all = match &self.text {
            Text::Checked(text) => text.as_bytes(),
            Text::Bytes(bytes) => bytes,
        };
        all.get(self.range(index)).unwrap_or_default()
    }

    /// The text between the quotes of a message that is known to be a string without escapes.
    #[inline]
    pub(crate) fn plain_text(&self, index: usize) -> Option<&str> {
        let (Text::Checked(text), part) = (&self.text, self.parts.get(index)?) else { return None };
        if part.is_plain { text.get(self.end(index) + 1..part.end.saturating_sub(1)) } else { None }
    }

    /// A copy of one message, alone.
    pub(crate) fn alone(&self, index: usize) -> Self {
        let value = self.range(index);
        let text = match &self.text {
            Text::Checked(text) => Text::Checked(text.get(value.clone()).unwrap_or_default().to_owned()),
            Text::Bytes(_) => Text::Bytes(Bytes::copy_from_slice(self.bytes(index))),
        };
        let is_plain = self.parts.get(index).is_some_and(|part| part.is_plain);
        let parts = vec![Part { end: value.len(), is_plain }];
        let ids = self.id(index).map(Some).into_iter().collect();
        Self { topic: Arc::clone(&self.topic), text, parts, first: self.number(index), ids }
    }

    fn range(&self, index: usize) -> Range<usize> {
        self.end(index)..self.end(index + 1)
    }

    /// Where the messages before this one end.
    #[inline]
    fn end(&self, index: usize) -> usize {
        index.checked_sub(1).and_then(|before| self.parts.get(before)).map_or(0, |part| part.end)
    }
}

impl Iterator for Bundle {
    type Item = News;

    #[inline]
    fn next(&mut self) -> Option<News> {
        let index = self.left.next()?;
        Some(News::new(Arc::clone(&self.values), index))
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
    Bundle::copied("t".into(), values.concat().into(), parts.collect(), Number { seq: 1, is_told: true }, Vec::new())
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
    fn it_gives_each_message_in_order_with_its_number() {
        let mut rest = bundle();
        rest.split_to(1);
        assert_eq!(rest.map(|news| news.seq()).collect::<Vec<_>>(), [Some(2), Some(3)]);
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
