use std::fmt;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use callboard_common::{
    Connection, Decode, ErrorInfo, Handler, Json, Message, ResultCode, RpcRequest, refuse, refuse_body,
};
use callboard_net::{allow_blocking, spawn};
use indexmap::IndexMap;
use rustc_hash::FxBuildHasher;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use crate::answer::{Caller, Failure};
use crate::context::Context;
use crate::handler::{Call, Inline, Invoke, Job, contain, contain_task};
use crate::method::Method;
use crate::method_error::MethodError;
use crate::parameters::shorten;

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
/// order in which they came; async and blocking ones may end in any.
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
pub struct Router(Arc<Routes>);

#[derive(Clone)]
struct Routes {
    /// By a quick hash: peers choose the names that are looked for, but not those that are in it.
    methods: IndexMap<String, Route, FxBuildHasher>,
    blocking: Arc<Semaphore>,
}

#[derive(Clone)]
struct Route {
    method: Arc<Method>,
    invoke: Invoke,
}

impl Router {
    /// A router without methods, which answers every call with NOT_FOUND_SERVICE.
    pub fn new() -> Self {
        let blocking = Arc::new(Semaphore::new(DEFAULT_BLOCKING_THREADS));
        Self(Arc::new(Routes { methods: IndexMap::default(), blocking }))
    }

    /// Adds a method that is ready at once. It runs on the connection's event loop, which serves nobody else meanwhile.
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
    /// The closure itself runs in place. The future is not dropped when the caller goes away or its deadline passes.
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
    /// ([`blocking_threads`](Self::blocking_threads)) and counts as a request in flight until it is answered.
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
    /// a stack each; calls past the bound wait for their turn.
    ///
    /// # Panics
    /// `threads` is 0: no blocking method would ever run.
    #[must_use]
    #[track_caller]
    pub fn blocking_threads(mut self, threads: usize) -> Self {
        assert!(threads > 0, "blocking methods need a thread at least");
        Arc::make_mut(&mut self.0).blocking = Arc::new(Semaphore::new(threads.min(Semaphore::MAX_PERMITS)));
        self
    }

    /// The names of all methods, in the order in which they were added.
    pub fn names(&self) -> Vec<String> {
        self.0.methods.keys().cloned().collect()
    }

    /// The descriptions of all methods, in the order in which they were added.
    pub fn methods(&self) -> impl Iterator<Item = &Method> {
        self.0.methods.values().map(|route| &*route.method)
    }

    #[track_caller]
    fn add(mut self, method: Method, invoke: Invoke) -> Self {
        let name = method.name().to_owned();
        assert!(!self.0.methods.contains_key(&name), "method {name:?} is registered twice");
        let route = Route { method: Arc::new(method), invoke };
        Arc::make_mut(&mut self.0).methods.insert(name, route);
        self
    }

    fn route<C: Connection>(&self, conn: &C, message: &Message, request: &RpcRequest<'_>) {
        let Some(Route { method, invoke }) = self.0.methods.get(&*request.method) else {
            return refuse_unknown(conn, message, &request.method);
        };
        let context = || Context::new(conn, message.id(), method, request.meta);
        let v1 = conn.session().is_none();
        let call = Call { method, parameters: request.parameters, v1, context: &context };
        match invoke {
            Invoke::Inline(run) => run_inline(conn, message, &call, &**run),
            Invoke::Task(start) => run_later(conn, message, method, || start(&call), contain_task),
            Invoke::Blocking(start) => {
                let threads = Arc::clone(&self.0.blocking);
                run_later(conn, message, method, || start(&call), |job| run_blocking(job, threads));
            }
        }
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

impl<C: Connection> Handler<C> for Router {
    fn handle(&self, conn: &C, message: Message) {
        match RpcRequest::decode::<Json>(message.body()) {
            Ok(request) => self.route(conn, &message, &request),
            Err(why) => refuse_body(conn, &message, &why),
        }
    }
}

fn run_inline<C: Connection>(conn: &C, message: &Message, call: &Call<'_>, run: &Inline) {
    let caller = Caller::new(conn, message.id(), call.method, message.is_one_way());
    // Writing the result is contained as well: it runs code of the result's type.
    if let Err(failure) = contain(|| run(call, &|result| caller.answer(result))) {
        caller.fail(failure);
    }
}

/// Starts in place, so that what is wrong with the parameters is told at once; the rest is a task of its own, which keeps
/// the connection but not the frame.
fn run_later<C, T, Fut>(
    conn: &C,
    message: &Message,
    method: &Arc<Method>,
    start: impl FnOnce() -> Result<T, Failure>,
    run: impl FnOnce(T) -> Fut,
) where
    C: Connection,
    Fut: Future<Output = Result<BytesMut, Failure>> + Send + 'static,
{
    let Some(in_flight) = conn.begin_request() else { return refuse_overload(conn, message) };
    let one_way = message.is_one_way();
    let running = match contain(start) {
        Ok(work) => run(work),
        Err(failure) => return Caller::new(conn, message.id(), method, one_way).fail(failure),
    };
    let (conn, method, id) = (conn.clone(), Arc::clone(method), Bytes::copy_from_slice(message.id()));
    spawn(async move {
        let outcome = running.await;
        if let Some(frame) = Caller::new(&conn, &id, &method, one_way).encode(outcome) {
            // The peer may have gone meanwhile; then there is nobody to tell.
            let _ = conn.send(frame).await;
        }
        drop(in_flight);
    });
}

async fn run_blocking(job: Job, threads: Arc<Semaphore>) -> Result<BytesMut, Failure> {
    // The semaphore is never closed.
    let thread = threads.acquire_owned().await.ok();
    let run = move || {
        // A thread is taken until the job has ended, even if nobody waits for it any more.
        let _thread = thread;
        allow_blocking(|| contain(job))
    };
    spawn_blocking(run).await.unwrap_or_else(|stopped| Err(Failure::Panicked(stopped.to_string())))
}

fn refuse_unknown<C: Connection>(conn: &C, message: &Message, name: &str) {
    let error = ErrorInfo::not_executed(format!("no method {:?} here", shorten(name)));
    refuse(conn, message, ResultCode::NotFoundService, None, &error);
}

fn refuse_overload<C: Connection>(conn: &C, message: &Message) {
    let bound = conn.session().map_or(0, |session| usize::try_from(session.limits.in_flight).unwrap_or(usize::MAX));
    let text = "too many calls in flight on this connection: wait for answers before calling again";
    let error = ErrorInfo::not_executed(text).with_limit("in_flight", bound);
    refuse(conn, message, ResultCode::Overloaded, None, &error);
}

const DEFAULT_BLOCKING_THREADS: usize = 32;

#[cfg(test)]
mod tests;
