use std::error::Error;
use std::fmt::Write;
use std::future::Future;
use std::iter;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use callboard_net::Address;

use crate::connect::{SUBJECT, connect_in_background, read_addresses};
use crate::{CallError, CallErrorKind, Client, ClientBuilder, Together, most_together};

/// One center or several: a [`Client`] of each, of which some may be without a connection for a while.
///
/// Centers do not know each other. So whoever is to be found, or to hear, whichever of them lives, turns to all of
/// them: providers register at each, subscribers subscribe at each, and topics are created and removed at each; what is
/// published goes to one. A client whose connection is lost makes it again by itself, and what was asked for over it is
/// asked for again.
///
/// Whatever takes a `Centers` takes a `&Client` too, which stands for a single one: nothing more is done then than
/// before.
///
/// ```no_run
/// # async fn run() -> Result<(), callboard_client::CallError> {
/// use callboard_client::Centers;
/// let centers = Centers::connect("a.example:7070, b.example:7070").await?;
/// let online = centers.iter().filter(|center| center.is_online()).count();
/// println!("{online} of {} are there", centers.len());
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Centers {
    first: Client,
    others: Vec<Client>,
}

impl Centers {
    /// Connects to each center of a list with commas between them, with the settings that a [`ClientBuilder`] has by
    /// default. Done when each has answered or failed, but half a second after the first answer at the latest; those
    /// that are not there then are tried in the background from then on. An address that stands twice counts once.
    ///
    /// # Errors
    /// An address is none, or no center could be reached in time: the error names each, and why.
    ///
    /// # Cancel safety
    /// Connections that are not wanted any more are closed.
    pub async fn connect(addresses: impl AsRef<str>) -> Result<Self, CallError> {
        Client::builder().connect_centers(addresses).await
    }

    /// These, each of them a client of another center.
    pub fn new(first: Client, others: impl IntoIterator<Item = Client>) -> Self {
        Self { first, others: others.into_iter().collect() }
    }

    /// The first of the list.
    pub const fn first(&self) -> &Client {
        &self.first
    }

    /// All, in the order of the list.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Client> + Clone {
        iter::once(&self.first).chain(&self.others)
    }

    /// How many there are, 1 at least.
    #[expect(clippy::len_without_is_empty, reason = "there is always one")]
    pub fn len(&self) -> usize {
        1 + self.others.len()
    }

    /// Whether there is only one.
    pub fn is_one(&self) -> bool {
        self.others.is_empty()
    }

    /// The first of the list that has a connection at the moment.
    pub fn online(&self) -> Option<&Client> {
        self.iter().find(|center| center.is_online())
    }

    /// Waits until one has a connection; gives the first that has.
    ///
    /// # Errors
    /// `Disconnected`: all have ended for good.
    ///
    /// # Cancel safety
    /// It only watches.
    pub async fn wait_online(&self) -> Result<&Client, CallError> {
        let mut waiting: Together<Waiting<'_>> = self.iter().map(|center| Box::pin(online(center)) as _).collect();
        let mut ended = None;
        loop {
            match waiting.next().await {
                Some(Ok(center)) => return Ok(center),
                Some(Err(error)) => ended = Some(error),
                None => return ended.map_or(Ok(&self.first), Err),
            }
        }
    }

    /// The same connections with another deadline for each request.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self::new(self.first.with_timeout(timeout), self.others.iter().map(|center| center.with_timeout(timeout)))
    }

    /// How long each request may take.
    pub fn timeout(&self) -> Duration {
        self.first.timeout()
    }

    /// Whether all have ended for good.
    pub fn is_closed(&self) -> bool {
        self.iter().all(Client::is_closed)
    }

    /// Waits until all have ended for good.
    ///
    /// # Cancel safety
    /// It only watches.
    pub async fn closed(&self) {
        for center in self.iter() {
            center.closed().await;
        }
    }

    /// Ends all connections for good.
    pub fn close(&self) {
        self.iter().for_each(Client::close);
    }
}

impl From<Client> for Centers {
    fn from(center: Client) -> Self {
        Self { first: center, others: Vec::new() }
    }
}

impl From<&Client> for Centers {
    fn from(center: &Client) -> Self {
        center.clone().into()
    }
}

impl From<&Arc<Client>> for Centers {
    fn from(center: &Arc<Client>) -> Self {
        (**center).clone().into()
    }
}

impl From<&Self> for Centers {
    fn from(centers: &Self) -> Self {
        centers.clone()
    }
}

type Waiting<'a> = Pin<Box<dyn Future<Output = Result<&'a Client, CallError>> + Send + 'a>>;
type Outcome = Result<Client, CallError>;

async fn online(center: &Client) -> Result<&Client, CallError> {
    center.online().await.map(|()| center)
}

pub(crate) async fn connect(settings: ClientBuilder, addresses: &str) -> Result<Centers, CallError> {
    let addresses = read_addresses(addresses)?;
    if let [one] = &addresses[..] {
        return settings.connect(one.to_string()).await.map(Into::into);
    }
    let settings: Vec<_> = (0..).zip(&addresses).map(|(place, _)| settings_of(&settings, place)).collect();
    let outcomes = first_attempts(&settings, &addresses).await;
    if outcomes.iter().all(|outcome| matches!(outcome, Some(Err(_)))) {
        return Err(nobody_answered(&addresses, &outcomes));
    }
    let each = outcomes.into_iter().zip(settings).zip(&addresses);
    let mut centers = each.map(|((outcome, settings), address)| match outcome {
        Some(Ok(center)) => Ok(center),
        failed => {
            let why = failed.and_then(Result::err).map_or_else(|| NO_ANSWER.to_owned(), |error| root_cause(&error));
            tracing::warn!(center = %address, why, "a center does not answer; it is tried again in the background");
            connect_in_background(settings, &address.to_string())
        }
    });
    // A list that was read has one at least.
    let first = centers.next().transpose()?.ok_or_else(|| nobody_answered(&addresses, &[]))?;
    let others = centers.collect::<Result<Vec<_>, _>>()?;
    Ok(Centers { first, others })
}

/// Pauses that are drawn from a seed must not be the same for all.
fn settings_of(settings: &ClientBuilder, place: u64) -> ClientBuilder {
    ClientBuilder { seed: settings.seed.map(|seed| seed.wrapping_add(place)), ..settings.clone() }
}

/// Tries each once, all at the same time, until some while after the first has answered; what is not decided by then is
/// given up.
async fn first_attempts(settings: &[ClientBuilder], addresses: &[Address]) -> Vec<Option<Outcome>> {
    let attempts =
        settings.iter().zip(addresses).map(|(settings, address)| settings.clone().connect(address.to_string()));
    most_together(attempts, Result::is_ok).await
}

fn nobody_answered(addresses: &[Address], outcomes: &[Option<Outcome>]) -> CallError {
    let mut what = String::from("no center could be reached: ");
    for (index, (address, outcome)) in addresses.iter().zip(outcomes).enumerate() {
        let comma = if index == 0 { "" } else { ", " };
        let why = match outcome {
            Some(Err(error)) => root_cause(error),
            _ => NO_ANSWER.to_owned(),
        };
        let _ = write!(what, "{comma}{address} ({why})");
    }
    let list: Vec<_> = addresses.iter().map(Address::to_string).collect();
    CallError::new(CallErrorKind::Connect, list.join(","), SUBJECT, what)
        .with_advice("check the addresses and that one of the centers runs")
}

/// What lies at the bottom of an error, in words.
fn root_cause(error: &CallError) -> String {
    let mut root: &dyn Error = error;
    while let Some(cause) = root.source() {
        root = cause;
    }
    root.to_string()
}

const NO_ANSWER: &str = "it did not answer in time";
