#[cfg(target_os = "linux")]
use std::thread::Builder;
use std::thread::JoinHandle;

/// Raises this process's soft limit of open files to its hard one, and returns the limit then in force.
///
/// A center holds a file descriptor for each connection, and the soft limit is low for programs that can't take more.
///
/// # Errors
/// As the system says; the limit is then as it was.
pub fn raise_open_files() -> std::io::Result<u64> {
    rlimit::increase_nofile_limit(u64::MAX)
}

/// Makes room for so many in the table of this process's open files, as far as it may have them. On Linux a table that
/// several threads share keeps all of them waiting that need it larger each time that it doubles, for 10 ms and more: it is
/// to do so now, not when a thousand connect at once. ("[expand_fdtable]" waits for what `synchronize_rcu` waits for.) Nobody
/// waits for this: it is done by a thread of its own.
///
/// [expand_fdtable]: https://github.com/torvalds/linux/blob/master/fs/file.c
#[cfg(target_os = "linux")]
pub(crate) fn make_room_for_files(files: usize) -> Option<JoinHandle<()>> {
    // Where there is no thread for it, it is as it would be without.
    Builder::new().name("callboard-files".to_owned()).spawn(move || grow_table(files)).ok()
}

#[cfg(target_os = "linux")]
fn grow_table(files: usize) {
    let Ok((soft, _)) = rlimit::getrlimit(rlimit::Resource::NOFILE) else { return };
    // A file that takes the last number, and is closed at once. Where that can't be, it is as it would be without.
    if let Ok(any) = std::fs::File::open("/") {
        drop(rustix::io::fcntl_dupfd_cloexec(&any, last_of(files, soft)));
    }
}

/// The number of the last one, where so many are permitted.
#[cfg(target_os = "linux")]
fn last_of(files: usize, permitted: u64) -> i32 {
    i32::try_from(permitted.min(files as u64).saturating_sub(1)).unwrap_or(i32::MAX)
}

/// Elsewhere nobody waits for that.
#[cfg(not(target_os = "linux"))]
pub(crate) fn make_room_for_files(_: usize) -> Option<JoinHandle<()>> {
    None
}

#[cfg(test)]
mod tests {
    /// What the table has room for: `FDSize` in the status of the process.
    #[cfg(target_os = "linux")]
    #[test]
    fn the_table_of_files_grows_at_once() {
        let room = || -> usize {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let size = status.lines().find_map(|line| line.strip_prefix("FDSize:")).unwrap();
            size.trim().parse().unwrap()
        };
        super::raise_open_files().unwrap();
        super::make_room_for_files(3000).unwrap().join().unwrap();
        assert!(room() >= 3000, "{}", room());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_last_file_is_one_that_is_permitted() {
        for (files, permitted, expected) in
            [(3000, 20_000, 2999), (20_000, 3000, 2999), (0, 3000, 0), (3000, 0, 0), (usize::MAX, u64::MAX, i32::MAX)]
        {
            assert_eq!(super::last_of(files, permitted), expected, "{files} {permitted}");
        }
    }

    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        let now = super::raise_open_files().unwrap();
        let (soft, hard) = rlimit::getrlimit(rlimit::Resource::NOFILE).unwrap();
        assert_eq!((now, soft), (hard, hard));
    }
}
