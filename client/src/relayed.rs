use std::fmt;

use callboard_common::Raw;

/// Which provider a center is to pass calls on to, in the form that the wire has.
pub(crate) struct Relayed {
    instance: Box<[u8]>,
    store: Option<Store>,
}

struct Store {
    name: Box<str>,
    json: Box<[u8]>,
}

impl Relayed {
    pub(crate) fn new(instance: &str, store: Option<&str>) -> Self {
        let store = store.map(|name| Store { name: name.into(), json: json(name) });
        Self { instance: json(instance), store }
    }

    pub(crate) fn instance(&self) -> Raw<'_> {
        Raw::new(&self.instance)
    }

    /// Where it keeps its answers to calls under keys.
    pub(crate) fn store(&self) -> Option<Raw<'_>> {
        self.store.as_ref().map(|store| Raw::new(&store.json))
    }

    pub(crate) fn store_name(&self) -> Option<&str> {
        self.store.as_ref().map(|store| &*store.name)
    }
}

fn json(text: &str) -> Box<[u8]> {
    serde_json::to_vec(text).unwrap_or_default().into()
}

impl fmt::Debug for Relayed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.instance))
    }
}
