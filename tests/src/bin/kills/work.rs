//! What providers do.

use std::pin::Pin;
use std::sync::Arc;

use callboard_server::{Method, MethodError, Router};
use serde::de::IgnoredAny;
use tokio::sync::watch;

use crate::ledger::{Entry, Ledger};
use crate::plan::{MANY, Way};

/// A handler: it notes that it has begun, waits until calls may end, notes that it has done its work, and answers.
#[derive(Clone)]
pub(crate) struct Work {
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) let_go: watch::Receiver<bool>,
    /// How long its answers are.
    pub(crate) bytes: usize,
}

type Answer = Result<(String, String), MethodError>;

/// So many calls run at once, in this way.
pub(crate) fn router(work: Work, way: Way, concurrency: usize) -> Router {
    let method = Method::new(WORK).concurrency(concurrency);
    let router = Router::new().method(WARM, |(): ()| Ok(std::process::id()));
    match way {
        Way::Blocking => {
            router.blocking_threads(MANY).method_blocking(method, move |(call, _): (String, IgnoredAny)| {
                let began = work.begin(&call);
                tokio::runtime::Handle::current().block_on(work.clone().end(began, call))
            })
        }
        Way::MustFinish => router.method_async(method.must_finish(), in_a_task(work)),
        _ => router.method_async(method, in_a_task(work)),
    }
}

fn in_a_task(
    work: Work,
) -> impl Fn((String, IgnoredAny)) -> Pin<Box<dyn Future<Output = Answer> + Send>> + Send + Sync + 'static {
    move |(call, _)| {
        let began = work.begin(&call);
        Box::pin(work.clone().end(began, call))
    }
}

impl Work {
    fn begin(&self, call: &str) -> std::io::Result<()> {
        self.ledger.write(&Entry::Began(call.to_owned()))
    }

    async fn end(mut self, began: std::io::Result<()>, call: String) -> Answer {
        began?;
        self.let_go.wait_for(|go| *go).await?;
        self.ledger.write(&Entry::Ended(call.clone()))?;
        Ok((call, "x".repeat(self.bytes)))
    }
}

pub(crate) const WORK: &str = "work";
/// Answers with the process's number.
pub(crate) const WARM: &str = "warm";
