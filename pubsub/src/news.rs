use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use callboard_common::{Codec, Json, PublishId, Raw, Shape};
use serde::de::DeserializeOwned;

use crate::SubscriptionError;
use crate::bundle::Values;
use crate::publication::compact_text;

/// A message of a topic, as it came. Clones share its bytes.
///
/// It shares them with others that came with it, too: while one of them is kept, however short, about 32 KiB may be, or
/// the buffer that a large one arrived in. To keep one for long, [`detach`](Self::detach) it.
#[derive(Clone)]
pub struct News {
    values: Arc<Values>,
    /// Which of them it is.
    index: usize,
}

impl News {
    #[inline]
    pub(crate) const fn new(values: Arc<Values>, index: usize) -> Self {
        Self { values, index }
    }

    /// The topic that it was published to.
    pub fn topic(&self) -> &str {
        self.values.topic()
    }

    /// Its number among all that was published to the topic since it was created: 1, 2, 3 and so on. `None` where the
    /// center gives no numbers.
    pub fn seq(&self) -> Option<u64> {
        let number = self.values.number(self.index);
        number.is_told.then_some(number.seq)
    }

    /// The same, counted here where the center gives none.
    pub(crate) fn number(&self) -> u64 {
        self.values.number(self.index).seq
    }

    /// What it is known by if its publisher may repeat it.
    #[inline]
    pub(crate) fn id(&self) -> Option<PublishId> {
        self.values.id(self.index)
    }

    /// The message for people: a string as it is, any other value as its JSON without white space.
    #[inline]
    pub fn text(&self) -> Cow<'_, str> {
        self.values.plain_text(self.index).map_or_else(|| self.other_text(), Cow::Borrowed)
    }

    /// The same for what is not a string without escapes.
    fn other_text(&self) -> Cow<'_, str> {
        let value = Raw::new(self.raw());
        Json::text(value).unwrap_or_else(|| Cow::Owned(compact_text(value)))
    }

    /// The message as a type. Towards v1 peers what is not a string travels as JSON text in a string; so a string that
    /// is not of the type, and whose text is, counts as that text.
    ///
    /// # Errors
    /// [`SubscriptionError::Decode`]: it is not of the type.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, SubscriptionError> {
        serde_json::from_slice(self.raw())
            .or_else(|why| self.json_in_string().ok_or(why))
            .map_err(|source| SubscriptionError::Decode { topic: self.topic().to_owned(), source })
    }

    /// The message as it stands on the wire: one JSON document in UTF-8, white space included.
    pub fn raw(&self) -> &[u8] {
        self.values.bytes(self.index)
    }

    /// The same message in bytes of its own, so that it no longer holds those that came with it.
    ///
    /// ```no_run
    /// # async fn run(client: &callboard_client::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// use callboard_pubsub::Subscription;
    /// let mut prices = Subscription::open(client, "prices").await?;
    /// let mut last = None;
    /// while let Some(news) = prices.next().await {
    ///     last = Some(news?.detach()); // until the next one comes, which may be long
    /// }
    /// # drop(last);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn detach(&self) -> Self {
        Self::new(Arc::new(self.values.alone(self.index)), 0)
    }

    fn json_in_string<T: DeserializeOwned>(&self) -> Option<T> {
        let value = Some(Raw::new(self.raw())).filter(|value| Json::shape(*value) == Shape::String)?;
        serde_json::from_str(&Json::text(value)?).ok()
    }
}

impl PartialEq for News {
    fn eq(&self, other: &Self) -> bool {
        self.topic() == other.topic() && self.raw() == other.raw()
    }
}

impl Eq for News {}

impl fmt::Debug for News {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("News")
            .field("topic", &self.topic())
            .field("value", &String::from_utf8_lossy(self.raw()))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use bytes::Bytes;

    use crate::bundle::{Bundle, Number, bundle_of};

    fn news(value: &'static str) -> News {
        bundle_of(&[value]).next().unwrap()
    }

    #[test]
    fn strings_read_as_they_are_and_other_values_as_compact_json() {
        let rows = [
            (r#""hello""#, "hello"),
            (r#""music\uff1a0 \"x\"""#, "music\u{ff1a}0 \"x\""),
            (r#"{ "a" : [1.50, "x y"] }"#, r#"{"a":[1.50,"x y"]}"#),
            ("null", "null"),
        ];
        for (value, text) in rows {
            assert_eq!(news(value).text(), text);
            assert_eq!(news(value).raw(), value.as_bytes());
        }
    }

    #[test]
    fn a_detached_message_is_the_same_and_holds_no_other() {
        let values = ["1", r#""two""#, r#""\u0033""#, r#"{"a":4}"#];
        let bundle: Vec<_> = bundle_of(&values).collect();
        let detached: Vec<_> = bundle.iter().map(News::detach).collect();
        for ((news, detached), value) in bundle.iter().zip(&detached).zip(values) {
            assert_eq!((detached, detached.text(), detached.seq()), (news, news.text(), news.seq()));
            assert_eq!(detached.raw(), value.as_bytes());
        }
        let held = bundle.first().map(|news| Arc::downgrade(&news.values)).unwrap();
        drop(bundle);
        assert_eq!(held.strong_count(), 0);
        let large = Bundle::single(
            "t".into(),
            Bytes::from(vec![b'1'; 100]).slice(10..20),
            Number { seq: 7, is_told: true },
            vec![],
        )
        .next()
        .unwrap();
        assert_eq!(large.detach(), large);
    }

    #[test]
    fn typed_reads_take_the_value_and_else_the_text_in_a_string() {
        let prices = || BTreeMap::from([("a".to_owned(), 1)]);
        assert_eq!(news(r#"{"a": 1}"#).json::<BTreeMap<String, i32>>().unwrap(), prices());
        assert_eq!(news(r#""{\"a\":1}""#).json::<BTreeMap<String, i32>>().unwrap(), prices());
        assert_eq!(news(r#""{\"a\":1}""#).json::<String>().unwrap(), r#"{"a":1}"#);
        assert_eq!(news(r#""5""#).json::<i32>().unwrap(), 5);
        let error = news(r#""five""#).json::<i32>().unwrap_err();
        assert_eq!(error.to_string(), "a message of topic \"t\" does not have the type that was asked for");
    }
}
