use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

use super::is_true;
use super::service::host_of;
use super::session::store_name;
use crate::{Codec, Host, Raw, Shape};

/// One provider in the answer to a discovery: `{"ip": string, "port": int}`, within a session also `"instance"`; one that
/// listens nowhere: `{"relay": true, "instance": string, "store"?: string}`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ListedHost {
    /// Where it listens.
    pub host: Host,
    /// Which run of a provider is there, if it said so.
    pub instance: Option<Arc<str>>,
    /// Where it keeps its answers to calls under keys beyond its own end, if it listens nowhere and said so.
    pub store: Option<Arc<str>>,
}

impl From<Host> for ListedHost {
    fn from(host: Host) -> Self {
        Self { host, instance: None, store: None }
    }
}

impl Serialize for ListedHost {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.host.is_relayed() {
            let mut relayed = serializer.serialize_struct("ListedHost", if self.store.is_some() { 3 } else { 2 })?;
            relayed.serialize_field("relay", &true)?;
            relayed.serialize_field("instance", self.instance.as_deref().unwrap_or_default())?;
            if let Some(store) = self.store.as_deref() {
                relayed.serialize_field("store", store)?;
            }
            return relayed.end();
        }
        let mut host = serializer.serialize_struct("ListedHost", if self.instance.is_some() { 3 } else { 2 })?;
        host.serialize_field("ip", &self.host.ip())?;
        host.serialize_field("port", &self.host.port())?;
        if let Some(instance) = self.instance.as_deref() {
            host.serialize_field("instance", instance)?;
        }
        host.end()
    }
}

/// The providers in the answer to a discovery, in the order in which they came.
///
/// What was received is read as it is gone through, since a host takes more bytes here than it may on the wire.
///
/// ```
/// use callboard_common::{Host, HostList, ListedHost};
/// let host: Host = "127.0.0.1:7071".parse()?;
/// let list: HostList = vec![ListedHost::from(host)].into();
/// assert_eq!(list.iter().next().map(|listed| listed.host.port()), Some(7071));
/// # Ok::<(), callboard_common::HostError>(())
/// ```
#[derive(Clone)]
pub struct HostList<'a>(Hosts<'a>);

#[derive(Clone)]
enum Hosts<'a> {
    Given(Cow<'a, [ListedHost]>),
    Received(Raw<'a>, fn(Raw<'_>) -> Iter<'_>),
}

type Iter<'a> = Box<dyn Iterator<Item = ListedHost> + 'a>;

impl<'a> HostList<'a> {
    /// `None` where it is no array. A host that nobody can reach is left out.
    pub(super) fn read<C: Codec>(list: Raw<'a>) -> Option<Self> {
        C::items(list).is_some().then_some(Self(Hosts::Received(list, read_hosts::<C>)))
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = ListedHost> + '_ {
        match &self.0 {
            Hosts::Given(hosts) => Box::new(hosts.iter().cloned()),
            Hosts::Received(list, read) => read(*list),
        }
    }
}

impl From<Vec<ListedHost>> for HostList<'_> {
    fn from(hosts: Vec<ListedHost>) -> Self {
        Self(Hosts::Given(Cow::Owned(hosts)))
    }
}

impl<'a> From<&'a [ListedHost]> for HostList<'a> {
    fn from(hosts: &'a [ListedHost]) -> Self {
        Self(Hosts::Given(Cow::Borrowed(hosts)))
    }
}

impl PartialEq for HostList<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl fmt::Debug for HostList<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl Serialize for HostList<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            Hosts::Given(hosts) => serializer.collect_seq(&**hosts),
            Hosts::Received(..) => serializer.collect_seq(self.iter()),
        }
    }
}

fn read_hosts<C: Codec>(list: Raw<'_>) -> Iter<'_> {
    Box::new(C::items(list).into_iter().flatten().filter_map(read_host::<C>))
}

fn read_host<C: Codec>(value: Raw<'_>) -> Option<ListedHost> {
    if C::shape(value) != Shape::Object {
        return None;
    }
    let [ip, port, instance, relay, store] =
        C::members(value.bytes(), ["ip", "port", "instance", "relay", "store"]).ok()?;
    let instance: Option<Arc<str>> = instance.and_then(C::text).map(Arc::from);
    let host = if ip.is_none() && is_true::<C>(relay) {
        Host::relayed(instance.as_deref()?)
    } else {
        host_of::<C>(ip, port).ok()?
    };
    let store = store.filter(|_| host.is_relayed()).and_then(store_name::<C>).map(Arc::from);
    Some(ListedHost { host, instance, store })
}
