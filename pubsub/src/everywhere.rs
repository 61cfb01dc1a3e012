//! Topics at several centers.

use std::sync::{Arc, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use callboard_client::{CallError, Centers, Client, Line, WeakLine, ask_ahead, most_together, spawn};
use callboard_common::{Feature, Message, TopicOp, TopicOperation, TopicOptions, TopicRequest};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use crate::hub::{Hub, Wished, subject};
use crate::resume::AT_ONCE;
use crate::topics::check;

/// Makes a topic at all centers that are there, and at the others when they are. One that refuses while another one
/// does not is asked again in the background.
///
/// # Errors
/// No center made it; the error is that of the first in the list.
pub(crate) async fn create_at_all(centers: &Centers, topic: &str, retain: bool) -> Result<(), CallError> {
    let new: Vec<_> = centers.iter().filter(|center| Hub::of(center).wish(center, topic, retain)).collect();
    let topic: Arc<str> = topic.into();
    let created = ask_all(centers, |center| {
        let topic = Arc::clone(&topic);
        async move {
            create(&center, &topic, retain).await?;
            Hub::of(&center).wished().topics.told(&topic);
            Ok(())
        }
    });
    let created = created.await;
    if created.is_err() {
        // One that was created before is still to be there.
        for center in new {
            Hub::of(center).wished().topics.forget(&topic);
        }
    }
    for center in centers.iter().filter(|center| center.is_online()) {
        let hub = Hub::of(center);
        hub.wished().over.get_or_insert_with(|| center.line().downgrade());
        hub.settle_in_background();
    }
    created
}

/// Removes a topic at all centers that are there. Others are not told later: somebody may want it again by then.
///
/// # Errors
/// No center removed it; the error is that of the first in the list.
pub(crate) async fn remove_at_all(centers: &Centers, topic: &str) -> Result<(), CallError> {
    centers.iter().for_each(|center| Hub::of(center).wished().topics.forget(topic));
    let topic: Arc<str> = topic.into();
    let removed = ask_all(centers, |center| {
        let topic = Arc::clone(&topic);
        async move {
            let subject = subject(&topic);
            let answer = center.exchange(&subject, &<TopicRequest<'_>>::new(&*topic, TopicOp::Remove)).await?;
            check(&center, &subject, &answer).map(drop)
        }
    });
    removed.await
}

pub(crate) async fn create(center: &Client, topic: &str, retain: bool) -> Result<(), CallError> {
    // A center that does not count is told nothing beyond v1, and keeps nothing.
    let options = options(retain && center.knows(Feature::Seq));
    let subject = subject(topic);
    let body = TopicOperation { topic: topic.into(), op: TopicOp::Create, options };
    let answer = center.exchange(&subject, &body).await?;
    check(center, &subject, &answer).map(drop)
}

fn options(retain: bool) -> TopicOptions {
    TopicOptions { retain: retain.then_some(true), ..TopicOptions::default() }
}

/// Asks all centers that are there at the same time, where none is each in its time. It is done where one has done it; the
/// others are not waited for long then: one that stands still is to hold up nobody.
async fn ask_all<F>(centers: &Centers, ask: impl Fn(Client) -> F) -> Result<(), CallError>
where
    F: Future<Output = Result<(), CallError>> + Send,
{
    let _ = timeout(centers.timeout(), centers.wait_online()).await;
    let none_is_there = centers.online().is_none();
    let asked = centers.iter().filter(|center| none_is_there || center.is_online());
    let answers = most_together(asked.map(|center| ask(center.clone())), Result::is_ok).await;
    let is_done = answers.iter().flatten().any(Result::is_ok);
    let mut refused = answers.into_iter().flatten().filter_map(Result::err);
    if !is_done {
        return refused.next().map_or(Ok(()), Err);
    }
    for error in refused {
        tracing::warn!(%error, "a center does not do what others have done");
    }
    Ok(())
}

impl Hub {
    pub(crate) fn wished(&self) -> MutexGuard<'_, Wished> {
        self.wished.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The center is to have a topic, now or when it is there; whether that is new.
    fn wish(self: &Arc<Self>, center: &Client, topic: &str, retain: bool) -> bool {
        let (is_new, over) = {
            let mut wished = self.wished();
            // One that is being put in place may have been told of the others before.
            (wished.topics.wish(topic, retain), wished.over.as_ref().and_then(WeakLine::upgrade))
        };
        if let Some(line) = over.filter(|line| line.is_online() && !center.is_online()) {
            // The next connection is told if this one can't be.
            let _ = self.create_over(&line, topic, retain, || ());
        }
        is_new
    }

    /// Creates topics again at one of several centers that was started anew, and those of which it was not told.
    ///
    /// # Errors
    /// The connection is of no use.
    pub(crate) async fn create_again(self: &Arc<Self>, line: &Line) -> Result<(), CallError> {
        {
            let mut wished = self.wished();
            wished.over = Some(line.downgrade());
            if self.is_restarted(line.session().map(|session| &*session.instance)) {
                wished.topics.restarted();
            }
        }
        self.create_due(line).await?;
        self.settle_in_background();
        Ok(())
    }

    /// Creates the topics of which the center was not told, and waits for all answers.
    async fn create_due(self: &Arc<Self>, line: &Line) -> Result<(), CallError> {
        let due = self.wished().topics.due();
        ask_ahead(due, AT_ONCE, |(topic, retain)| {
            let (told, answered) = oneshot::channel();
            self.create_over(line, topic, *retain, move || {
                let _ = told.send(());
            })?;
            // One that is not wished for any more is not answered.
            Ok(Some(async { answered.await.or(Ok(())) }))
        })
        .await
    }

    /// Nothing happens where the topic is not wished for any more.
    fn create_over(
        self: &Arc<Self>,
        line: &Line,
        topic: &str,
        retain: bool,
        done: impl FnOnce() + Send + 'static,
    ) -> Result<(), CallError> {
        let counts = line.session().is_some_and(|session| session.features.has(Feature::Seq));
        let body = TopicOperation { topic: topic.into(), op: TopicOp::Create, options: options(retain && counts) };
        let (hub, name) = (Arc::clone(self), Arc::<str>::from(topic));
        // Until it is queued, so that nothing is created behind its removal.
        let wished = self.wished();
        if !wished.topics.has(topic) {
            return Ok(());
        }
        line.exchange_in_order(&subject(topic), &body, move |answer: Result<Message, CallError>| {
            if answer.is_ok_and(|answer| crate::topics::is_ok(&answer)) {
                hub.wished().topics.told(&name);
            }
            done();
        })
    }

    /// Sees to it that the center is asked again for what it has refused.
    fn settle_in_background(self: &Arc<Self>) {
        let begins = {
            let mut wished = self.wished();
            !wished.topics.due().is_empty() && !std::mem::replace(&mut wished.settles, true)
        };
        if begins {
            spawn(settle(Arc::downgrade(self)));
        }
    }

    /// Whether all is as it is wished; if so, nobody asks any more.
    fn is_settled(&self) -> bool {
        let mut wished = self.wished();
        wished.settles = !wished.topics.due().is_empty();
        !wished.settles
    }
}

/// Asks for the topics that were refused, again and again until there are all. It keeps neither the client nor, while
/// it waits, the connection.
async fn settle(hub: Weak<Hub>) {
    let mut pause = FIRST_PAUSE;
    loop {
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
        let Some(hub) = hub.upgrade() else { return };
        if hub.is_settled() {
            return;
        }
        let line = hub.wished().over.as_ref().and_then(WeakLine::upgrade);
        // Without a connection the next one asks for all.
        if let Some(line) = line.filter(Line::is_online)
            && let Err(error) = hub.create_due(&line).await
        {
            tracing::debug!(%error, "not all topics could be created yet");
        }
    }
}

/// How long to wait before a center that has refused is asked again.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
