//! Typed closures as the router keeps them: what they take and return is known only in here.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as Polling, Poll};

use bytes::BytesMut;
use callboard_common::Raw;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::answer::{Failure, ResultForm, WriteResult};
use crate::context::Context;
use crate::method::Method;
use crate::method_error::MethodError;
use crate::parameters;

/// One call on its way to its handler.
#[derive(Clone, Copy)]
pub(crate) struct Call<'a> {
    pub(crate) method: &'a Method,
    pub(crate) parameters: Raw<'a>,
    pub(crate) v1: bool,
    /// Made only for the handlers that ask for it.
    pub(crate) context: &'a dyn Fn() -> Context,
}

/// How a method runs.
#[derive(Clone)]
pub(crate) enum Invoke {
    /// In place.
    Inline(Arc<Inline>),
    /// As a task.
    Task(Arc<Start<Task>>),
    /// On a thread that may block.
    Blocking(Arc<Start<Job>>),
}

/// Runs a call and hands on its result.
pub(crate) type Inline = dyn Fn(&Call<'_>, &Reply<'_>) -> Result<(), Failure> + Send + Sync;

/// Where an inline call's result goes, not yet written.
pub(crate) type Reply<'a> = dyn Fn(&WriteResult<'_>) -> Result<(), Failure> + 'a;

/// Makes of a call what will run it, which owns all that it needs.
pub(crate) type Start<T> = dyn Fn(&Call<'_>) -> Result<T, Failure> + Send + Sync;

/// Runs a call that may wait; yields the answer's body.
pub(crate) type Task = Pin<Box<dyn Future<Output = Result<BytesMut, Failure>> + Send>>;

/// Runs a call that may block; returns the answer's body.
pub(crate) type Job = Box<dyn FnOnce() -> Result<BytesMut, Failure> + Send>;

impl Invoke {
    pub(crate) fn inline<P, R>(handler: impl Fn(&Call<'_>, P) -> Result<R, MethodError> + Send + Sync + 'static) -> Self
    where
        P: DeserializeOwned,
        R: Serialize,
    {
        Self::Inline(Arc::new(move |call, reply| {
            let (result, form) = (handler(call, call.read()?).map_err(Failure::Method)?, call.result_form());
            form.check(&result)?;
            reply(&|out| form.write(&result, out))
        }))
    }

    pub(crate) fn task<P, R, Fut>(start: impl Fn(&Call<'_>, P) -> Fut + Send + Sync + 'static) -> Self
    where
        P: DeserializeOwned,
        R: Serialize,
        Fut: Future<Output = Result<R, MethodError>> + Send + 'static,
    {
        Self::Task(Arc::new(move |call| {
            let (running, form) = (start(call, call.read()?), call.result_form());
            Ok(Box::pin(async move { form.written(&running.await.map_err(Failure::Method)?) }))
        }))
    }

    pub(crate) fn blocking<P, R, Run>(start: impl Fn(&Call<'_>, P) -> Run + Send + Sync + 'static) -> Self
    where
        P: DeserializeOwned,
        R: Serialize,
        Run: FnOnce() -> Result<R, MethodError> + Send + 'static,
    {
        Self::Blocking(Arc::new(move |call| {
            let (run, form) = (start(call, call.read()?), call.result_form());
            Ok(Box::new(move || form.written(&run().map_err(Failure::Method)?)))
        }))
    }
}

impl Call<'_> {
    fn read<P: DeserializeOwned>(&self) -> Result<P, Failure> {
        parameters::read(self.method, self.parameters).map_err(Failure::Parameters)
    }

    fn result_form(&self) -> ResultForm {
        ResultForm { returns: self.method.return_type(), v1: self.v1 }
    }
}

/// A panic of the method's own code is that one call's failure.
pub(crate) fn contain<T>(run: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| Err(Failure::Panicked(panic_text(&*panic))))
}

/// The same for each poll of a task.
pub(crate) struct Contained(Option<Task>);

impl Contained {
    pub(crate) const fn new(task: Task) -> Self {
        Self(Some(task))
    }
}

impl Future for Contained {
    type Output = Result<BytesMut, Failure>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Polling<'_>) -> Poll<Self::Output> {
        let Some(task) = &mut self.0 else { return Poll::Pending };
        let outcome = match contain(|| Ok(task.as_mut().poll(cx))) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(outcome)) => outcome,
            Err(failure) => Err(failure),
        };
        let task = self.0.take();
        // What it holds may panic when it is dropped.
        let dropped = contain(|| {
            drop(task);
            Ok(())
        });
        Poll::Ready(dropped.and(outcome))
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("(no text)").to_owned()
}
