use std::cell::Cell;

thread_local! {
    static MAY_BLOCK: Cell<bool> = const { Cell::new(false) };
}

/// Runs work that may block, on a thread that was made for it though it belongs to a runtime (as those of tokio's
/// `spawn_blocking` do). Blocking clients, which refuse to hold up a runtime, work in there.
pub fn allow_blocking<T>(work: impl FnOnce() -> T) -> T {
    with(true, work)
}

/// Runs work in which a thread drives a runtime, so that nothing in it may block though the thread itself might.
pub fn refuse_blocking<T>(work: impl FnOnce() -> T) -> T {
    with(false, work)
}

fn with<T>(may_block: bool, work: impl FnOnce() -> T) -> T {
    /// Sets it back also where the work panics.
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            MAY_BLOCK.set(self.0);
        }
    }
    let _restore = Restore(MAY_BLOCK.replace(may_block));
    work()
}

/// Whether the current thread may block: it belongs to no runtime, or is within [`allow_blocking`].
pub fn may_block() -> bool {
    MAY_BLOCK.get() || tokio::runtime::Handle::try_current().is_err()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_runtime_s_thread_may_block_only_where_it_is_said() {
        assert!(!may_block());
        assert!(allow_blocking(may_block));
        assert!(!allow_blocking(|| refuse_blocking(may_block)));
        assert!(!may_block());
        assert!(std::thread::spawn(may_block).join().unwrap());
    }
}
