/// Raises this process's soft limit of open files to its hard one, and returns the limit then in force.
///
/// A center holds a file descriptor for each connection, and the soft limit is low for programs that can't take more.
///
/// # Errors
/// As the system says; the limit is then as it was.
pub fn raise_open_files() -> std::io::Result<u64> {
    rlimit::increase_nofile_limit(u64::MAX)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        let now = super::raise_open_files().unwrap();
        let (soft, hard) = rlimit::getrlimit(rlimit::Resource::NOFILE).unwrap();
        assert_eq!((now, soft), (hard, hard));
    }
}
