use std::panic::{AssertUnwindSafe, catch_unwind};

use callboard_common::{Connection, Event};

/// Runs code that is not ours: a panic in it is logged and counted, and harms nobody.
pub(crate) fn guarded<C: Connection>(conn: &C, what: &str, run: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(run)).is_err() {
        conn.count(Event::Panicked);
        tracing::error!(peer = %conn.peer(), "{what} panicked; the connection goes on");
    }
}
