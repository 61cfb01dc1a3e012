use std::fmt;

/// What is done once some of what waits has been written.
pub(crate) struct Then(pub(crate) Box<dyn FnOnce() + Send>);

impl fmt::Debug for Then {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Then")
    }
}
