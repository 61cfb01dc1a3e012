use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use callboard_client::{Address, CallError, CallErrorKind, Centers, Client, OwnTask, Together, most_together};
use callboard_common::{Missed, ResultCode};
use tokio::time::{Instant, sleep, timeout};

use crate::backlog::{Bounds, End};
use crate::part::{Part, Wish};
use crate::repeats::Repeats;
use crate::{Event, Topics};

/// A subscription at several centers: one [`Part`] at each that has taken it, and a task for each that has not yet.
pub(crate) struct Several {
    wanted: Wanted,
    centers: Centers,
    /// One for each center, in the same order.
    parts: Vec<Option<Part>>,
    opening: Together<OwnTask<(usize, Option<Part>)>>,
    /// The part that is read until it has nothing, and how many of its messages were read in a row.
    current: usize,
    in_a_row: usize,
    turn_began: Instant,
    /// The topic was removed somewhere; what was published before is still heard everywhere.
    removed: bool,
}

/// What is asked of each center.
#[derive(Clone)]
struct Wanted {
    topic: Arc<str>,
    bounds: Bounds,
    retain: Option<bool>,
}

impl Several {
    /// Subscribes at all centers that are there. Those that fail while another one does not are asked again in the
    /// background, as are those that are away.
    pub(crate) async fn open(centers: &Centers, wish: Wish<'_>) -> Result<Self, CallError> {
        let wanted = Wanted { topic: wish.topic.into(), bounds: wish.bounds, retain: wish.retain };
        // If none is there in time, subscribing says so.
        let _ = timeout(centers.timeout(), centers.wait_online()).await;
        let none_is_there = centers.online().is_none();
        let asked = centers.iter().enumerate().filter(|(_, center)| none_is_there || center.is_online());
        let asking = asked.map(async |(index, center)| (index, wanted.open_at(center).await));
        let answers = most_together(asking, |(_, answer)| answer.is_ok()).await;
        let mut this = Self {
            wanted,
            centers: centers.clone(),
            parts: centers.iter().map(|_| None).collect(),
            opening: Together::default(),
            current: 0,
            in_a_row: 0,
            turn_began: Instant::now(),
            removed: false,
        };
        let mut refused = Vec::new();
        for (index, answer) in answers.into_iter().flatten() {
            match answer {
                Ok(part) => this.put(index, part),
                Err(error) => refused.push((index, error)),
            }
        }
        if this.parts.iter().all(Option::is_none) {
            return Err(first_of(refused));
        }
        for (index, error) in refused {
            // One that was started anew, or was away when the topic was created.
            if error.code() != Some(ResultCode::NotFoundTopic) {
                tracing::warn!(center = %error.peer(), %error, "not subscribed at this center yet; it is asked again");
            }
            if !matches!(error.kind(), CallErrorKind::Timeout) {
                this.open_in_time(index).await;
            }
        }
        let missing: Vec<_> =
            (0..).zip(&this.parts).filter(|(_, part)| part.is_none()).map(|(index, _)| index).collect();
        for index in missing {
            this.open_later(index);
        }
        Ok(this)
    }

    pub(crate) fn topic(&self) -> &str {
        &self.wanted.topic
    }

    pub(crate) fn heard_at(&self) -> Address {
        self.center(self.current).unwrap_or_else(|| self.centers.first()).address()
    }

    /// What comes next, at whichever center: of one as long as it has something, up to a bound, so that the messages of
    /// a publisher that has moved on come behind those that it had published before.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, repeats: &mut Repeats) -> Poll<Result<Event, End>> {
        if let Some(event) = self.poll_opening(cx) {
            return Poll::Ready(Ok(event));
        }
        if self.turn_is_over() {
            self.begin_turn((self.current + 1) % self.parts.len());
        }
        let (before, after) = (0..self.current, self.current..self.parts.len());
        for index in after.chain(before) {
            let Some(part) = self.parts.get_mut(index).and_then(Option::as_mut) else { continue };
            match part.poll(cx, repeats) {
                Poll::Ready(Ok(event)) => {
                    self.turn_to(index);
                    self.in_a_row += 1;
                    return Poll::Ready(Ok(event));
                }
                Poll::Ready(Err(end)) => {
                    self.turn_to(index);
                    if let Some(told) = self.ended(index, end) {
                        return Poll::Ready(told);
                    }
                }
                Poll::Pending => {}
            }
        }
        // A center may have taken it meanwhile, and the next one that does is to wake this task.
        if let Some(event) = self.poll_opening(cx) {
            return Poll::Ready(Ok(event));
        }
        if !self.is_over() {
            return Poll::Pending;
        }
        Poll::Ready(Err(if self.removed { End::TopicRemoved } else { End::Disconnected }))
    }

    /// Leaves all centers, and asks no more.
    pub(crate) fn leave(&mut self) {
        self.opening = Together::default();
        self.parts.fill_with(|| None);
    }

    fn turn_to(&mut self, index: usize) {
        if self.current != index {
            self.begin_turn(index);
        }
    }

    fn begin_turn(&mut self, index: usize) {
        (self.current, self.in_a_row, self.turn_began) = (index, 0, Instant::now());
    }

    fn turn_is_over(&self) -> bool {
        self.in_a_row >= IN_A_ROW || self.in_a_row > 0 && self.turn_began.elapsed() >= TURN
    }

    /// A center that has taken the subscription later than others.
    fn poll_opening(&mut self, cx: &mut Context<'_>) -> Option<Event> {
        while let Poll::Ready(Some(opened)) = self.opening.poll_next(cx) {
            let Some((index, Some(part))) = opened else { continue };
            self.put(index, part);
            self.turn_to(index);
            // Though its topic may be empty: a center that was started anew knows nothing of what was published before.
            return Some(Event::Resumed { missed: Missed::Unknown });
        }
        None
    }

    /// A part has ended; gives what is to be told of that.
    fn ended(&mut self, index: usize, end: End) -> Option<Result<Event, End>> {
        let ended = self.parts.get_mut(index).and_then(Option::take);
        let is_told = ended.is_none_or(|part| part.is_lost());
        match end {
            End::TooSlow(_) => return Some(Err(end)),
            End::TopicRemoved => self.remove(),
            End::Refused { .. } if !self.removed => self.open_later(index),
            End::Refused { .. } => {}
            End::Disconnected if is_told => {}
            End::Disconnected => return (self.removed || !self.is_over()).then_some(Ok(Event::Disconnected)),
        }
        None
    }

    fn is_over(&self) -> bool {
        self.opening.is_empty() && self.parts.iter().all(Option::is_none)
    }

    /// The topic was removed at a center: elsewhere comes what was published before, and that is all.
    fn remove(&mut self) {
        if !mem::replace(&mut self.removed, true) {
            self.opening = Together::default();
            self.parts.iter_mut().flatten().for_each(Part::end_behind_what_comes);
        }
    }

    fn center(&self, index: usize) -> Option<&Client> {
        self.centers.iter().nth(index)
    }

    fn put(&mut self, index: usize, part: Part) {
        if let Some(place) = self.parts.get_mut(index) {
            *place = Some(part);
        }
    }

    /// Creates the topic at a center and subscribes; one attempt.
    async fn open_in_time(&mut self, index: usize) {
        let Some(center) = self.center(index).filter(|center| center.is_online()).cloned() else { return };
        if let Ok(Ok(part)) = timeout(PATIENCE, self.wanted.create_at(&center)).await {
            self.put(index, part);
        }
    }

    /// The same until it has come about.
    fn open_later(&mut self, index: usize) {
        let Some(center) = self.center(index).cloned() else { return };
        let wanted = self.wanted.clone();
        self.opening.push(OwnTask::spawn(async move { (index, wanted.open_in_the_end(center).await) }));
    }
}

impl Wanted {
    async fn open_at(&self, center: &Client) -> Result<Part, CallError> {
        Part::open(center, Wish { topic: &self.topic, bounds: self.bounds, retain: self.retain }).await
    }

    async fn create_at(&self, center: &Client) -> Result<Part, CallError> {
        Topics::new(center).create(&self.topic).await?;
        self.open_at(center).await
    }

    /// `None` if the center's client was closed.
    async fn open_in_the_end(&self, center: Client) -> Option<Part> {
        let mut pause = FIRST_PAUSE;
        loop {
            center.online().await.ok()?;
            match self.create_at(&center).await {
                Ok(opened) => return Some(opened),
                Err(error) => tracing::debug!(%error, "not subscribed at this center yet; trying again in {pause:?}"),
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// The error of the first center in the list; that the topic is not there only if nobody says more.
fn first_of(refused: Vec<(usize, CallError)>) -> CallError {
    let mut errors: Vec<_> = refused.into_iter().map(|(_, error)| error).collect();
    errors.sort_by_key(|error| error.code() == Some(ResultCode::NotFoundTopic));
    let what = "none of the centers was asked";
    let none = || CallError::new(CallErrorKind::Unavailable, "nobody", "subscription", what);
    errors.into_iter().next().unwrap_or_else(none)
}

/// After so many events of one center the others have their turn.
const IN_A_ROW: usize = 1 << 10;
/// And after so long: a center cuts off who takes nothing for half a second.
const TURN: Duration = Duration::from_millis(50);
/// How long a center may take to create a topic before others that have it are heard.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long to wait before a center that has refused is asked again.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
