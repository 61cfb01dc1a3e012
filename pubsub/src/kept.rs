use std::collections::BTreeMap;
use std::sync::Arc;

/// What all topics together keep of their messages, and which topic has been quiet for longest. Pure state.
///
/// Time is counted in publishes. A topic is filed under the time at which it began to keep something, and looked at
/// again only when the bound is reached: so a publish costs no more than a counter.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    bytes: usize,
    bound: usize,
    now: u64,
    filed: BTreeMap<u64, Arc<str>>,
    /// Topics that have given up what they kept.
    given_up: u64,
}

/// Where a topic is filed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Filed {
    under: Option<u64>,
    /// When it last kept something.
    used: u64,
}

impl Kept {
    pub(crate) fn new(bound: usize) -> Self {
        Self { bytes: 0, bound, now: 0, filed: BTreeMap::new(), given_up: 0 }
    }

    /// What is kept, in bytes.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// How often a topic has given up all that it kept.
    pub(crate) const fn given_up(&self) -> u64 {
        self.given_up
    }

    /// What a topic keeps has changed from so many bytes to so many.
    pub(crate) fn changed(&mut self, topic: &Arc<str>, filed: &mut Filed, before: usize, after: usize) {
        self.bytes = self.bytes.saturating_sub(before) + after;
        self.now += 1;
        filed.used = self.now;
        if after == 0 {
            self.take_out(filed);
        } else if filed.under.is_none() {
            self.file(topic, filed);
        }
    }

    /// Over the bound: the topic that was filed first.
    pub(crate) fn oldest(&self) -> Option<Arc<str>> {
        if self.bytes <= self.bound {
            return None;
        }
        self.filed.first_key_value().map(|(_, topic)| Arc::clone(topic))
    }

    /// Whether that one has been quiet for longest. If not, it is filed again.
    pub(crate) fn is_oldest(&mut self, topic: &Arc<str>, filed: &mut Filed) -> bool {
        if filed.under.is_some_and(|under| under >= filed.used) {
            self.given_up += 1;
            return true;
        }
        self.take_out(filed);
        self.file(topic, filed);
        false
    }

    fn file(&mut self, topic: &Arc<str>, filed: &mut Filed) {
        self.filed.insert(filed.used, Arc::clone(topic));
        filed.under = Some(filed.used);
    }

    fn take_out(&mut self, filed: &mut Filed) {
        if let Some(under) = filed.under.take() {
            self.filed.remove(&under);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives up until the bound is kept; who had to.
    fn give_up(kept: &mut Kept, topics: &mut [(Arc<str>, Filed, usize)]) -> Vec<String> {
        let mut gone = Vec::new();
        while let Some(name) = kept.oldest() {
            let (_, filed, bytes) = topics.iter_mut().find(|(topic, ..)| *topic == name).unwrap();
            if kept.is_oldest(&name, filed) {
                kept.changed(&name, filed, *bytes, 0);
                *bytes = 0;
                gone.push(name.to_string());
            }
        }
        gone
    }

    #[test]
    fn past_the_bound_those_give_up_that_were_quiet_for_longest() {
        let mut kept = Kept::new(30);
        let mut topics: Vec<_> = ["a", "b", "c", "d"].map(|name| (name.into(), Filed::default(), 0)).into();
        for (at, bytes) in [(0, 10), (1, 10), (2, 5), (0, 15)] {
            let (name, filed, before) = &mut topics[at];
            kept.changed(name, filed, *before, bytes);
            *before = bytes;
            assert_eq!(kept.oldest(), None);
        }
        let (name, filed, before) = &mut topics[3];
        kept.changed(name, filed, 0, 10);
        *before = 10;
        assert_eq!(give_up(&mut kept, &mut topics), ["b"]);
        assert_eq!((kept.bytes(), kept.given_up(), kept.filed.len()), (30, 1, 3));
        let (name, filed, _) = &mut topics[1];
        kept.changed(name, filed, 0, 21);
        topics[1].2 = 21;
        assert_eq!(give_up(&mut kept, &mut topics), ["c", "a", "d"]);
        assert_eq!((kept.bytes(), kept.filed.len()), (21, 1));
    }

    #[test]
    fn one_that_keeps_more_than_all_may_gives_it_up_itself() {
        let mut kept = Kept::new(30);
        let mut topics = [("a".into(), Filed::default(), 31)];
        let (name, filed, bytes) = &mut topics[0];
        kept.changed(name, filed, 0, *bytes);
        assert_eq!(give_up(&mut kept, &mut topics), ["a"]);
        assert_eq!((kept.bytes(), kept.filed.len()), (0, 0));
    }
}
