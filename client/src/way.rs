use std::sync::Arc;
use std::time::Duration;

use callboard_common::Executed;
use tokio::time::{sleep, timeout_at};

use crate::deadline::Deadline;
use crate::link::Link;
use crate::request::{Request, Stage, Subject};
use crate::shared::Shared;
use crate::{CallError, IdempotencyKey, Tries};

/// One request's way to the peer: over the connection of the moment, then over later ones, as long as it did not leave; a
/// call as its policy has it, too.
pub(crate) struct Way<'a> {
    shared: &'a Shared,
    subject: Subject<'a>,
    deadline: Deadline,
    /// That of the try which is being made.
    of_try: Deadline,
    link: Arc<Link>,
    over: Over,
    tries: Tries,
    key: Option<&'a IdempotencyKey>,
    /// Over which connection a call under a key may have been executed.
    doubted: Option<Arc<Link>>,
}

/// What the next try goes over.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Over {
    /// The connection of the moment, unless it is about to be left.
    ThisOne,
    /// Another than the last one.
    AnotherOne,
    /// Nothing: there is none, and none will come in time.
    Nothing,
}

impl<'a> Way<'a> {
    /// Of a call that is tried so, or of another request, which is made once.
    pub(crate) fn new(shared: &'a Shared, subject: Subject<'a>, deadline: Deadline, tries: Tries) -> Self {
        let (link, over) = (shared.link(), Over::ThisOne);
        Self { shared, subject, deadline, of_try: deadline, link, over, tries, key: None, doubted: None }
    }

    /// The same under a key, if there is one.
    pub(crate) fn under(self, key: Option<&'a IdempotencyKey>) -> Self {
        Self { key, ..self }
    }

    pub(crate) const fn key(&self) -> Option<&'a IdempotencyKey> {
        self.key
    }

    /// The request over the connection of the moment, or over another one after it was passed on.
    pub(crate) async fn next(&mut self) -> Result<Request<'_>, CallError> {
        let over = std::mem::replace(&mut self.over, Over::Nothing);
        if over != Over::ThisOne || (self.shared.reconnects() && self.link.is_leaving()) {
            self.link = self.next_link().await?;
        }
        if self.doubted.as_ref().is_some_and(|doubted| !knows_keys_of(&self.link, doubted)) {
            return Err(self.request().stranger());
        }
        if let Some(key) = self.key {
            self.request().permits(key)?;
        }
        self.over = Over::AnotherOne;
        self.of_try = self.deadline.of_try(self.tries.per_try());
        Ok(self.request())
    }

    /// A request that is made once has failed: whether it goes over another connection.
    pub(crate) fn goes_on_after(&self, error: &CallError) -> bool {
        self.shared.goes_on_after(&self.link, error)
    }

    /// A call has failed: waits until it may be tried again.
    pub(crate) async fn after(&mut self, error: CallError) -> Result<(), CallError> {
        if self.over == Over::Nothing {
            return Err(self.tries.told(error));
        }
        self.tries.note(error.executed());
        if self.tries.stays() && error.executed() == Executed::Unknown {
            self.doubted.get_or_insert_with(|| Arc::clone(&self.link));
        }
        let left = if self.shared.is_closed() { Duration::ZERO } else { self.deadline.left() };
        let has_others = self.goes_on_after(&error);
        match self.shared.retries.after(&mut self.tries, error, has_others, left)? {
            None => self.over = Over::AnotherOne,
            Some(pause) => {
                // It is rare, and calls are smaller without it.
                Box::pin(sleep(pause)).await;
                self.take_this_one();
            }
        }
        Ok(())
    }

    /// The same for a first try over this connection.
    pub(crate) async fn after_first(&mut self, link: Arc<Link>, error: CallError) -> Result<(), CallError> {
        self.link = link;
        self.after(error).await
    }

    /// The request over the connection that was last given.
    pub(crate) fn request(&self) -> Request<'_> {
        Request { link: &self.link, subject: self.subject, deadline: self.of_try }
    }

    /// The connection of the moment, if it takes requests; else the one after it is waited for.
    fn take_this_one(&mut self) {
        self.link = self.shared.link();
        let has_ended = self.link.conn.is_closed();
        self.over = if has_ended && self.shared.goes_on() { Over::AnotherOne } else { Over::ThisOne };
    }

    async fn next_link(&self) -> Result<Arc<Link>, CallError> {
        let whole = || Request { link: &self.link, subject: self.subject, deadline: self.deadline };
        let mut changes = self.shared.watch();
        loop {
            let link = self.shared.link();
            if !Arc::ptr_eq(&link, &self.link) {
                return Ok(link);
            }
            if self.shared.is_over() {
                return Err(whole().disconnected(Stage::Unsent));
            }
            // The sender lives as long as the client.
            let told = timeout_at(self.deadline.at(), changes.changed()).await;
            told.map_err(|_| whole().lost())?.unwrap_or_default();
        }
    }
}

fn knows_keys_of(link: &Arc<Link>, other: &Arc<Link>) -> bool {
    Arc::ptr_eq(link, other) || link.knows_keys_of(other)
}
