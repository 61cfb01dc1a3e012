use std::cell::Cell;

use super::Calls;

/// How a call comes by a place.
#[derive(Debug)]
pub(crate) enum Place<'a> {
    /// It takes one that is free.
    Free,
    /// It stood in line for it.
    Handed(Handed<'a>),
    /// It needs none.
    None,
}

/// A place that was waited for. Dropped unused, the next in line has it.
pub(crate) struct Handed<'a>(Option<&'a Calls>);

impl Calls {
    /// Waits for a place; `None` if the connection ends.
    pub(crate) async fn place(&self) -> Option<Handed<'_>> {
        let standing = self.stand_in_line();
        loop {
            self.line.acquire().await.ok()?.forget();
            // A permit may be that of one who went away meanwhile.
            if let Some(handed) = standing.take() {
                return Some(handed);
            }
        }
    }

    fn stand_in_line(&self) -> Standing<'_> {
        let mut state = self.state();
        state.in_line += 1;
        // One may have become free meanwhile.
        let calls_up = state.hand_out();
        drop(state);
        self.line.add_permits(calls_up);
        Standing { calls: self, served: Cell::new(false) }
    }
}

/// One who stands in line.
struct Standing<'a> {
    calls: &'a Calls,
    served: Cell<bool>,
}

impl<'a> Standing<'a> {
    /// The place, if one was handed to the line.
    fn take(&self) -> Option<Handed<'a>> {
        let mut state = self.calls.state();
        if state.handed == 0 {
            return None;
        }
        state.handed -= 1;
        state.in_line -= 1;
        self.served.set(true);
        Some(Handed(Some(self.calls)))
    }
}

impl Drop for Standing<'_> {
    fn drop(&mut self) {
        if self.served.get() {
            return;
        }
        let mut state = self.calls.state();
        state.in_line -= 1;
        if state.handed > state.in_line {
            state.handed -= 1;
            state.taken -= 1;
            drop(state);
            self.calls.line.forget_permits(1);
        }
    }
}

impl Handed<'_> {
    /// A call has the place now.
    pub(super) fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Handed<'_> {
    fn drop(&mut self) {
        if let Some(calls) = self.0 {
            let calls_up = calls.state().give_back(1);
            calls.line.add_permits(calls_up);
        }
    }
}

impl std::fmt::Debug for Handed<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Handed")
    }
}
