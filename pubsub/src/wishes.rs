use std::collections::BTreeMap;
use std::sync::Arc;

/// Which topics this program has created at several centers, and which of them one of these has not been told, or has
/// forgotten since. Pure state.
#[derive(Debug, Default)]
pub(crate) struct Wishes(BTreeMap<Arc<str>, Wished>);

#[derive(Clone, Copy, Debug)]
struct Wished {
    retain: bool,
    told: bool,
}

/// So many topics are created again at a center that comes back: as many as a center has at most by default.
const MAX_TOPICS: usize = 100_000;

impl Wishes {
    /// The center is to have this topic; whether that is new. Past the bound it is not remembered.
    pub(crate) fn wish(&mut self, topic: &str, retain: bool) -> bool {
        if let Some(wished) = self.0.get_mut(topic) {
            // As at a center, retaining is only ever turned on.
            *wished = Wished { retain: wished.retain || retain, told: false };
            return false;
        }
        if self.0.len() >= MAX_TOPICS {
            tracing::warn!(topic, "too many topics to create them all again at a center that comes back");
            return false;
        }
        self.0.insert(topic.into(), Wished { retain, told: false });
        true
    }

    /// The center has it.
    pub(crate) fn told(&mut self, topic: &str) {
        if let Some(wished) = self.0.get_mut(topic) {
            wished.told = true;
        }
    }

    /// Whether the center is to have it.
    pub(crate) fn has(&self, topic: &str) -> bool {
        self.0.contains_key(topic)
    }

    /// It is nothing that is to be told any more.
    pub(crate) fn forget(&mut self, topic: &str) {
        self.0.remove(topic);
    }

    /// The center was started anew: it has been told nothing.
    pub(crate) fn restarted(&mut self) {
        self.0.values_mut().for_each(|wished| wished.told = false);
    }

    /// What it is to be told, in the order of the names, and whether the topic is to retain its last message.
    pub(crate) fn due(&self) -> Vec<(Arc<str>, bool)> {
        let due = self.0.iter().filter(|(_, wished)| !wished.told);
        due.map(|(topic, wished)| (Arc::clone(topic), wished.retain)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(wishes: &Wishes) -> Vec<(String, bool)> {
        wishes.due().into_iter().map(|(topic, retain)| (topic.to_string(), retain)).collect()
    }

    #[test]
    fn what_is_not_told_is_due_and_after_a_restart_all_is() {
        let mut wishes = Wishes::default();
        for (topic, retain) in [("b", false), ("a", true), ("c", false)] {
            assert!(wishes.wish(topic, retain));
        }
        wishes.told("a");
        wishes.forget("c");
        assert_eq!(due(&wishes), [("b".to_owned(), false)]);
        wishes.told("b");
        wishes.restarted();
        assert_eq!(due(&wishes), [("a".to_owned(), true), ("b".to_owned(), false)]);
        wishes.told("a");
        assert!(!wishes.wish("a", false));
        assert_eq!(due(&wishes)[0], ("a".to_owned(), true), "it goes on to retain");
    }
}
