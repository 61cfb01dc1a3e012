mod places;

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use indexmap::IndexMap;
use rustc_hash::FxBuildHasher;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::admission::Room;
use crate::asked::{Answers, Asked};
use crate::backlog::Backlogs;
use crate::context::Context;
use crate::gatekeeper::Gatekeeper;
use crate::handler::{Call, Invoke};
use crate::kept_answers::KeptAnswers;
use crate::kept_metrics::KeptMetrics;
use crate::method::Method;
use crate::method_error::MethodError;
use crate::shelf::Shelf;

/// The methods that a program serves, by name: it takes calls (REQ_RPC) and answers each of them once.
///
/// A method is a closure from its parameters to its result, both any type that serde knows. How it runs is said where it
/// is registered:
///
/// | registered with | runs | fit for |
/// | --- | --- | --- |
/// | [`method`](Self::method) | in place, on the connection's event loop | what takes microseconds and never waits |
/// | [`method_async`](Self::method_async) | as a task on that loop | what waits: timers, other services |
/// | [`method_blocking`](Self::method_blocking) | on a pool of threads | what blocks or computes for long |
///
/// Each has a twin that ends in `_with`, whose closure also gets a [`Context`]. Calls of one connection are begun in the
/// order in which they came, but for those that have to wait for their turn; async and blocking ones may end in any. A
/// connection over which a center passes on the calls of many is as many connections in this.
///
/// How many async and blocking calls run and wait at once is bounded, of each method ([`Method::concurrency`],
/// [`Method::queue`]) and in all ([`concurrency`](Self::concurrency), [`queue`](Self::queue)). A call that can't even wait
/// is refused at once with OVERLOADED, which names the limit; one whose caller's deadline passes while it waits is not run
/// and answered TIMEOUT, `executed` no. What runs or waits for a caller that has gone is dropped
/// ([`method_async`](Self::method_async) says when).
///
/// A clone is the same set of methods. A method that is added to a clone is not seen by the others.
///
/// ```
/// use callboard_common::{Handler, Recorder};
/// use callboard_server::{Method, MethodError, Router, Type};
///
/// #[derive(serde::Deserialize)]
/// struct Pair {
///     num1: i64,
///     num2: i64,
/// }
/// let divide = Method::new("divide").param("num1", Type::Integer).param("num2", Type::Integer);
/// let router = Router::new()
///     .method("add", |p: Pair| Ok(p.num1 + p.num2))
///     .method(divide, |p: Pair| p.num1.checked_div(p.num2).ok_or_else(|| MethodError::new(33, "can't divide by zero")))
///     .method_async("later", |ms: u64| async move {
///         tokio::time::sleep(std::time::Duration::from_millis(ms)).await;
///         Ok(ms)
///     })
///     .method_blocking("read", |path: String| Ok(std::fs::read_to_string(path)?));
/// assert_eq!(router.names(), ["add", "divide", "later", "read"]);
///
/// let conn = Recorder::new(1);
/// router.handle(&conn, conn.message(0, b"id", br#"{"method":"add","parameters":{"num1":1,"num2":2}}"#));
/// assert_eq!(conn.take()[0].text(), r#"{"rcode":0,"result":3}"#);
/// ```
#[derive(Clone)]
pub struct Router(pub(crate) Arc<Routes>);

#[derive(Clone)]
pub(crate) struct Routes {
    /// By a quick hash: peers choose the names that are looked for, but not those that are in it.
    pub(crate) methods: IndexMap<String, Route, FxBuildHasher>,
    limits: RouterLimits,
    /// Made with the first call: it knows all methods.
    keeper: OnceLock<Arc<Gatekeeper>>,
    /// What its methods call at their callers.
    pub(crate) asked: Arc<Asked>,
    /// What calls under keys were answered.
    shelf: Arc<Shelf>,
    /// What comes from many over one connection, and is to run in place.
    pub(crate) backlogs: Arc<Backlogs>,
}

#[derive(Clone)]
pub(crate) struct Route {
    pub(crate) method: Arc<Method>,
    pub(crate) invoke: Invoke,
}

/// How much of all methods together may run, and wait.
#[derive(Clone, Copy, Debug)]
struct RouterLimits {
    blocking_threads: usize,
    concurrency: usize,
    queue: Room,
    queue_age: Duration,
}

impl Router {
    /// A router without methods, which answers every call with NOT_FOUND_SERVICE.
    pub fn new() -> Self {
        let limits = RouterLimits {
            blocking_threads: DEFAULT_BLOCKING_THREADS,
            concurrency: DEFAULT_CONCURRENCY,
            queue: Room { calls: DEFAULT_QUEUE, bytes: DEFAULT_QUEUE_BYTES },
            queue_age: DEFAULT_QUEUE_AGE,
        };
        let (keeper, asked) = (OnceLock::new(), Arc::default());
        let shelf = Arc::new(Shelf::new(KeptAnswers::default()));
        let backlogs = Arc::default();
        Self(Arc::new(Routes { methods: IndexMap::default(), limits, keeper, asked, shelf, backlogs }))
    }

    /// Adds a method that is ready at once. It runs on the connection's event loop, which serves nobody else meanwhile: what
    /// blocks the thread (a lock, a file, a sleep) is for [`method_blocking`](Self::method_blocking), and what can be awaited
    /// for [`method_async`](Self::method_async).
    ///
    /// # Panics
    /// A method of this name is there already.
    #[must_use]
    #[track_caller]
    pub fn method<P, R>(
        self,
        method: impl Into<Method>,
        handler: impl Fn(P) -> Result<R, MethodError> + Send + Sync + 'static,
    ) -> Self
    where
        P: DeserializeOwned,
        R: Serialize,
    {
        self.add(method.into(), Invoke::inline(move |_, parameters| handler(parameters)))
    }

    /// [`method`](Self::method) with a [`Context`].
    ///
    /// # Panics
    /// A method of this name is there already.
    #[must_use]
    #[track_caller]
    pub fn method_with<P, R>(
        self,
        method: impl Into<Method>,
        handler: impl Fn(Context, P) -> Result<R, MethodError> + Send + Sync + 'static,
    ) -> Self
    where
        P: DeserializeOwned,
        R: Serialize,
    {
        self.add(method.into(), Invoke::inline(move |call, parameters| handler((call.context)(), parameters)))
    }

    /// Adds a method that waits. Its future runs as a task of the connection's event loop and counts as a request in
    /// flight until it is answered; it must not block.
    ///
    /// The closure itself runs in place where the call need not wait for others. The future is dropped, at the point at
    /// which it waits, when its caller has gone, unless the method [must finish](Method::must_finish) or the call was a
    /// one-way call of a session. A caller has gone when it gave the call up (this version's callers do so when their
    /// deadline passes, too), when its connection has ended, and, where it has a session in which calls can be given up, when
    /// it sends no more.
    ///
    /// # Panics
    /// A method of this name is there already.
    #[must_use]
    #[track_caller]
    pub fn method_async<P, R, Fut>(
        self,
        method: impl Into<Method>,
        handler: impl Fn(P) -> Fut + Send + Sync + 'static,
    ) -> Self
    where
        P: DeserializeOwned,
        R: Serialize,
        Fut: Future<Output = Result<R, MethodError>> + Send + 'static,
    {
        self.add(method.into(), Invoke::task(move |_, parameters| handler(parameters)))
    }

    /// [`method_async`](Self::method_async) with a [`Context`].
    ///
    /// # Panics
    /// A method of this name is there already.
    #[must_use]
    #[track_caller]
    pub fn method_async_with<P, R, Fut>(
        self,
        method: impl Into<Method>,
        handler: impl Fn(Context, P) -> Fut + Send + Sync + 'static,
    ) -> Self
    where
        P: DeserializeOwned,
        R: Serialize,
        Fut: Future<Output = Result<R, MethodError>> + Send + 'static,
    {
        self.add(method.into(), Invoke::task(move |call, parameters| handler((call.context)(), parameters)))
    }

    /// Adds a method that blocks. It runs on one of a bounded number of threads
    /// ([`blocking_threads`](Self::blocking_threads)) and counts as a request in flight until it is answered. Where its
    /// caller has gone, it is not begun; once it runs it goes on.
    ///
    /// # Panics
    /// A method of this name is there already.
    #[must_use]
    #[track_caller]
    pub fn method_blocking<P, R>(
        self,
        method: impl Into<Method>,
        handler: impl Fn(P) -> Result<R, MethodError> + Send + Sync + 'static,
    ) -> Self
    where
        P: DeserializeOwned + Send + 'static,
        R: Serialize,
    {
        let handler = Arc::new(handler);
        let start = move |_: &Call<'_>, parameters| {
            let handler = Arc::clone(&handler);
            move || handler(parameters)
        };
        self.add(method.into(), Invoke::blocking(start))
    }

    /// [`method_blocking`](Self::method_blocking) with a [`Context`].
    ///
    /// # Panics
    /// A method of this name is there already.
    #[must_use]
    #[track_caller]
    pub fn method_blocking_with<P, R>(
        self,
        method: impl Into<Method>,
        handler: impl Fn(Context, P) -> Result<R, MethodError> + Send + Sync + 'static,
    ) -> Self
    where
        P: DeserializeOwned + Send + 'static,
        R: Serialize,
    {
        let handler = Arc::new(handler);
        let start = move |call: &Call<'_>, parameters| {
            let (handler, context) = (Arc::clone(&handler), (call.context)());
            move || handler(context, parameters)
        };
        self.add(method.into(), Invoke::blocking(start))
    }

    /// How many blocking methods run at once, in threads. Default 32. More serve more blocked calls at a time and take
    /// a stack each; calls past the bound wait for their turn. Of several blocking methods each gets half of them at most,
    /// unless its own [`concurrency`](Method::concurrency) says otherwise: a slow one must not take the places of all.
    ///
    /// # Panics
    /// `threads` is 0: no blocking method would ever run.
    #[must_use]
    #[track_caller]
    pub fn blocking_threads(self, threads: usize) -> Self {
        assert!(threads > 0, "blocking methods need a thread at least");
        self.limited(|limits| limits.blocking_threads = threads)
    }

    /// How many calls of all async and blocking methods run at once. Default 16,384. More let more of them share what the
    /// program has; calls past the bound wait for their turn. Of several such methods each gets half of it at most, unless
    /// its own [`concurrency`](Method::concurrency) says otherwise. Inline methods run one after the other on each event
    /// loop, so they need no bound.
    ///
    /// ```
    /// use std::time::Duration;
    /// use callboard_server::{Method, Router};
    /// let router = Router::new()
    ///     .concurrency(1_000)
    ///     .queue(2_000)
    ///     .queue_age(Duration::from_secs(2))
    ///     .method_async(Method::new("search").concurrency(100).queue(200), |text: String| async move { Ok(text) });
    /// ```
    ///
    /// # Panics
    /// `calls` is 0.
    #[must_use]
    #[track_caller]
    pub fn concurrency(self, calls: usize) -> Self {
        assert!(calls > 0, "a call needs a place at least");
        self.limited(|limits| limits.concurrency = calls)
    }

    /// How many calls may wait for their turn, of all methods together. Default 16,384; with 0 none waits. The connections that
    /// wait for one method take turns. Past the bound a call is refused with OVERLOADED, executed no: the newest of the
    /// connection that waits with most, for one that would wait with less, else the one that comes. More outlast longer bursts, and keep callers waiting for longer. A
    /// method's own bound is [`Method::queue`].
    #[must_use]
    pub fn queue(self, calls: usize) -> Self {
        self.limited(|limits| limits.queue.calls = calls)
    }

    /// How many bytes the calls that wait may take, of all methods together. Default 64 MiB. Of several methods each gets
    /// half of it at most. Further calls are refused as past [`queue`](Self::queue); one that is larger never waits. The
    /// calls that wait for another one under their [idempotency key](KeptAnswers) may take as much again, those of one
    /// connection no more than all leave free.
    #[must_use]
    pub fn queue_bytes(self, bytes: usize) -> Self {
        self.limited(|limits| limits.queue.bytes = bytes)
    }

    /// How long a call waits for its turn at most. Default 10 s. After that it is refused with OVERLOADED, and where its
    /// caller's deadline comes first, with TIMEOUT; it was not executed. A shorter age tells callers sooner to go elsewhere.
    #[must_use]
    pub fn queue_age(self, age: Duration) -> Self {
        self.limited(|limits| limits.queue_age = age)
    }

    /// How many answers to calls with an idempotency key are remembered, and for how long; see [`KeptAnswers`].
    ///
    /// A call under a key runs at most once while that is remembered, in a task of its own whatever its method is, and goes on
    /// to its end once it has begun, though its caller has gone. What was refused before it began is not remembered, and of
    /// those that wait for it the next one runs. One that was cut off, since the program was about to end, is not run again:
    /// a repeat is answered INTERNAL_ERROR, executed unknown.
    #[must_use]
    pub fn kept_answers(mut self, kept: KeptAnswers) -> Self {
        Arc::make_mut(&mut self.0).shelf = Arc::new(Shelf::new(kept));
        self
    }

    /// What was counted of calls under idempotency keys so far, and what is remembered of them.
    pub fn kept_metrics(&self) -> KeptMetrics {
        self.0.shelf.metrics()
    }

    /// The names of all methods, in the order in which they were added.
    pub fn names(&self) -> Vec<String> {
        self.0.methods.keys().cloned().collect()
    }

    /// The descriptions of all methods, in the order in which they were added.
    pub fn methods(&self) -> impl Iterator<Item = &Method> {
        self.0.methods.values().map(|route| &*route.method)
    }

    /// Takes the answers of callers to what methods call [at them](crate::Context::caller). A
    /// [`Server`](crate::Server) has it by itself.
    pub fn answers(&self) -> Answers {
        Answers(Arc::clone(&self.0.asked))
    }

    #[track_caller]
    fn add(mut self, method: Method, invoke: Invoke) -> Self {
        let name = method.name().to_owned();
        assert!(!self.0.methods.contains_key(&name), "method {name:?} is registered twice");
        let (route, routes) = (Route { method: Arc::new(method), invoke }, Arc::make_mut(&mut self.0));
        routes.methods.insert(name, route);
        routes.keeper = OnceLock::new();
        self
    }

    fn limited(mut self, change: impl FnOnce(&mut RouterLimits)) -> Self {
        let routes = Arc::make_mut(&mut self.0);
        change(&mut routes.limits);
        routes.keeper = OnceLock::new();
        self
    }
}

impl Routes {
    pub(crate) const fn shelf(&self) -> &Arc<Shelf> {
        &self.shelf
    }

    /// So many bytes of calls may wait.
    pub(crate) const fn queue_bytes(&self) -> usize {
        self.limits.queue.bytes
    }

    /// For so long a call waits at most.
    pub(crate) const fn queue_age(&self) -> Duration {
        self.limits.queue_age
    }

    /// Lets calls in. It knows a method by its place among all.
    pub(crate) fn keeper(&self) -> &Arc<Gatekeeper> {
        self.keeper.get_or_init(|| {
            let rooms = self.methods.values().map(|route| (Arc::clone(&route.method), self.room_of(route)));
            Gatekeeper::new(self.gates(), self.limits.queue, rooms, self.limits.queue_age)
        })
    }

    /// The same, unless no call has come yet.
    pub(crate) fn known_keeper(&self) -> Option<&Arc<Gatekeeper>> {
        self.keeper.get()
    }
}

impl Default for Router {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Router").field(&self.0.methods.keys()).finish()
    }
}

const DEFAULT_BLOCKING_THREADS: usize = 32;
const DEFAULT_CONCURRENCY: usize = 16 << 10;
const DEFAULT_QUEUE: usize = 16 << 10;
const DEFAULT_QUEUE_BYTES: usize = 64 << 20;
const DEFAULT_QUEUE_AGE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests;
