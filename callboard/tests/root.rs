//! What the types at the root take and give can be named from the root.

use std::future::Future;
use std::time::Duration;

use callboard::*;

/// A method that is called once to see that its types are these.
fn gives<A, R>(_: impl Fn(A) -> R) {}

fn gives_later<A, F: Future<Output = R>, R>(_: impl Fn(A) -> F) {}

#[test]
fn what_clients_and_callers_take_and_give_is_at_the_root() {
    gives::<(), ClientBuilder>(|()| Client::builder().session(SessionMode::Try).limits(Limits::default()));
    gives::<&Client, Option<Session>>(Client::session);
    gives::<&Session, (Features, SessionLimits)>(|session| (session.features, session.limits));
    gives::<Features, bool>(|features| features.has(Feature::Withdraw));
    gives::<&Client, Address>(Client::address);
    gives::<&str, Result<Address, AddressError>>(str::parse);
    gives::<&Limits, Result<(), LimitsError>>(Limits::check);
    gives::<&CallError, (&CallErrorKind, Executed, Option<ResultCode>)>(|e| (e.kind(), e.executed(), e.code()));
    gives::<(&Client, Option<ErrorInfo>), CallError>(|(client, info)| client.refused("", ResultCode::Ok, info));
    gives::<(&Client, BodyError), CallError>(|(client, why)| client.unreadable("", why));
    gives_later::<Client, _, Result<Call<()>, CallError>>(|client| async move { client.start("", &()).await });
    gives_later::<&str, _, Result<Centers, CallError>>(Centers::connect);
    gives::<(), Result<blocking::Client, CallError>>(|()| Client::builder().connect_blocking(""));
    assert_eq!(blocking::allow(|| 1), 1);
    gives::<(), CallerBuilder>(|()| {
        Caller::builder().cache(CacheLimits::default()).balancer(RoundRobin::default()).timeout(Duration::ZERO)
    });
    gives::<&Client, Discovery>(Discovery::new);
    gives::<&Discovery, Notices>(Discovery::notices);
    gives::<Notice, Host>(|notice| notice.host);
    gives::<&str, Result<Host, HostError>>(str::parse);
}

/// What a layer of one's own over a client is made of.
struct Layer;

impl Inbox for Layer {
    fn message(&self, _: &Conn, message: Message) {
        gives::<&Message, MessageType>(Message::kind);
        drop(message);
    }

    fn closed(&self) {}
}

#[expect(dead_code, reason = "compiled, not run")]
async fn exchange(client: &Client, body: &(impl Encode + Sync)) -> Result<Message, CallError> {
    client.topic_inbox(|| Layer);
    client.exchange("", body).await
}

#[test]
fn what_topics_take_and_give_is_at_the_root() {
    gives::<&Client, SubscriptionBuilder<'_>>(|client| Subscription::builder(client, ""));
    gives::<Subscription, TypedSubscription<u8>>(Subscription::typed);
    gives::<SubscriptionBuilder<'_>, SubscriptionBuilder<'_>>(|builder| builder.policy(SlowPolicy::Latest));
    gives_later::<Subscription, _, Option<Result<Event, SubscriptionError>>>(
        |mut s| async move { s.next_event().await },
    );
    gives::<Event, Option<Missed>>(|event| match event {
        Event::Resumed { missed } => Some(missed),
        _ => None,
    });
    gives_later::<Subscription, _, Option<Result<News, SubscriptionError>>>(|mut s| async move { s.next().await });
    gives_later::<Client, _, Result<SubscriptionGuard, CallError>>(|client| async move {
        subscribe_with(&client, "", |_: Result<News, SubscriptionError>| ()).await
    });
    gives::<&Client, Topics>(Topics::new);
}

#[test]
fn what_providers_and_servers_take_and_give_is_at_the_root() {
    gives_later::<(Provider, Place), _, Result<Provider, ProviderError>>(|(provider, place)| async move {
        provider.announce([""], place).await
    });
    gives::<ProviderError, Option<PlaceError>>(|error| match error {
        ProviderError::Place { source, .. } => Some(source),
        _ => None,
    });
    gives_later::<ServerBuilder, _, Result<Server, StartError>>(ServerBuilder::start);
    gives::<StartError, Option<ListenError>>(|error| match error {
        StartError::Listen(why) => Some(why),
        _ => None,
    });
    gives::<&Server, (MetricsSnapshot, KeptMetrics)>(|server| (server.metrics(), server.kept_metrics()));
    gives_later::<Server, _, Stopped>(Server::shutdown);
    gives::<Left, Result<Stopped, Signal>>(|left| left.calls);
    gives::<&Method, (&[Parameter], Type)>(|method| (method.parameters(), method.return_type()));
    gives::<(Type, Shape), bool>(|(wanted, found)| wanted.accepts(found));
    gives::<(), Router>(|()| Router::new().method_with("", |_: Context, (): ()| Err::<(), _>(MethodError::new(1, ""))));
}

#[test]
fn what_centers_take_and_give_is_at_the_root() {
    gives_later::<CenterBuilder, _, Result<Center, CenterError>>(CenterBuilder::start);
    gives::<CenterBuilder, CenterBuilder>(|builder| {
        builder.registry_limits(RegistryLimits::default()).topic_limits(TopicLimits::default())
    });
    gives::<&Center, (TableSize, MetricsSnapshot)>(|center| (center.registry_size(), center.metrics()));
    gives::<&str, Result<Config, ConfigError>>(Config::from_toml);
    gives::<(), Option<&'static Setting>>(|()| Config::settings().next());
}
