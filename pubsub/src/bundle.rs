use std::sync::Arc;

use bytes::Bytes;

use crate::News;

/// Messages of one topic that came together, each of them one checked JSON document; clones share their bytes.
///
/// They are handed over as one, so that whoever hands them over, and whoever takes them, needs no lock for each.
#[derive(Clone, Debug)]
pub(crate) struct Bundle {
    topic: Arc<str>,
    /// One behind the other.
    values: Bytes,
    /// Where each ends.
    ends: Arc<[usize]>,
    /// The messages that are left.
    left: std::ops::Range<usize>,
}

impl Bundle {
    /// `ends` says where in `values` each message ends.
    pub(crate) fn new(topic: Arc<str>, values: Bytes, ends: &[usize]) -> Self {
        Self { topic, values, ends: ends.into(), left: 0..ends.len() }
    }

    /// How many messages are left.
    pub(crate) fn len(&self) -> usize {
        self.left.len()
    }

    /// What they take, bookkeeping included.
    pub(crate) fn bytes(&self) -> usize {
        self.end(self.left.end) - self.end(self.left.start) + self.len() * size_of::<usize>() + size_of::<Self>()
    }

    /// The first `len` of them; the others are left.
    pub(crate) fn split_to(&mut self, len: usize) -> Self {
        let at = (self.left.start + len).min(self.left.end);
        let first = Self { left: self.left.start..at, ..self.clone() };
        self.left.start = at;
        first
    }

    /// Where the messages before this one end.
    fn end(&self, index: usize) -> usize {
        index.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0)
    }
}

impl Iterator for Bundle {
    type Item = News;

    fn next(&mut self) -> Option<News> {
        let index = self.left.next()?;
        let value = self.values.slice(self.end(index)..self.end(index + 1));
        Some(News::new(Arc::clone(&self.topic), value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle() -> Bundle {
        Bundle::new("t".into(), Bytes::from_static(b"1\"two\"3"), &[1, 6, 7])
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
        for at in 0..5 {
            let mut rest = bundle();
            let first = rest.split_to(at);
            assert_eq!((first.len(), rest.len()), (at.min(3), 3 - at.min(3)));
            assert_eq!(first.bytes() + rest.bytes() - size_of::<Bundle>(), bundle().bytes());
            assert_eq!([texts(first), texts(rest)].concat(), ["1", "two", "3"]);
        }
    }
}
