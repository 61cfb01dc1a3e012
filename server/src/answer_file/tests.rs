use std::fs;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;

use tempfile::TempDir;

use super::*;

fn began(number: u64) -> Change {
    Change::Began { number, method: "pay".into(), key: format!("key {number}"), params: u128::MAX - u128::from(number) }
}

fn ended(number: u64, kept: Kept) -> Change {
    Change::Ended { number, kept }
}

fn answer(bytes: usize) -> Kept {
    Kept::Answer(Bytes::from(vec![b'x'; bytes]))
}

fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("answers.redb");
    (folder, path)
}

/// With what stands in it, and how it is called.
fn opened(path: &Path) -> (AnswerFile, Vec<StoredCall>) {
    let mut file = AnswerFile::open(path).unwrap();
    let calls = file.load().unwrap();
    (file, calls)
}

#[test]
fn what_is_written_is_there_when_it_is_opened_again() {
    let (_folder, path) = folder();
    let (mut file, calls) = opened(&path);
    assert_eq!(calls, []);
    let id = file.id().to_owned();
    assert_eq!(Uuid::parse_str(&id).unwrap().get_version_num(), 4);
    file.write(&[began(1), began(2), began(3), began(4), ended(2, answer(3)), ended(3, Kept::TooLarge(7))]).unwrap();
    file.write(&[ended(4, Kept::CutOff), Change::Forgotten { number: 9 }]).unwrap();
    drop(file);
    for _ in 0..2 {
        let (file, calls) = opened(&path);
        assert_eq!(file.id(), id);
        let kept: Vec<_> = calls.iter().map(|call| call.end.as_ref().map(|(kept, _)| kept.clone())).collect();
        assert_eq!(kept, [None, Some(answer(3)), Some(Kept::TooLarge(7)), Some(Kept::CutOff)]);
        for (call, number) in calls.iter().zip(1..) {
            let Change::Began { method, key, params, .. } = began(number) else { unreachable!() };
            assert_eq!((call.number, &call.method, &call.key, call.params), (number, &method, &key, params));
        }
    }
    let (mut file, _) = opened(&path);
    file.write(&(1..=4).map(|number| Change::Forgotten { number }).collect::<Vec<_>>()).unwrap();
    assert_eq!(file.load().unwrap(), []);
    assert_ne!(AnswerFile::open(path.with_extension("other")).unwrap().id(), id);
}

#[test]
fn ages_are_told_by_the_wall_clock_and_never_less_than_nothing() {
    static NOW: AtomicU64 = AtomicU64::new(1_000);
    let (_folder, path) = folder();
    let open = || AnswerFile::open_with(&path, || UNIX_EPOCH + Duration::from_secs(NOW.load(SeqCst))).unwrap();
    open().write(&[began(1), ended(1, Kept::CutOff)]).unwrap();
    for (now, age) in [(1_000, 0), (1_007, 7), (3, 0)] {
        NOW.store(now, SeqCst);
        assert_eq!(open().load().unwrap()[0].end, Some((Kept::CutOff, Duration::from_secs(age))));
    }
}

#[test]
fn one_program_has_it_at_a_time() {
    let (_folder, path) = folder();
    let (file, _) = opened(&path);
    let error = AnswerFile::open(&path).unwrap_err();
    assert!(matches!(error, StoreError::InUse { .. }), "{error}");
    let expected =
        format!("the answers in {} are in use by another provider: each needs a store of its own", path.display());
    assert_eq!(error.to_string(), expected);
    drop(file);
    opened(&path);
}

/// Who is killed while the file is made leaves it as another one would see it.
#[test]
fn a_new_file_is_whole_as_soon_as_it_has_its_name() {
    for _ in 0..10 {
        let (folder, path) = folder();
        let made = std::thread::spawn({
            let path = path.clone();
            move || AnswerFile::open(path).map(drop)
        });
        let seen = loop {
            match fs::read(&path) {
                Ok(bytes) => break bytes,
                Err(why) => assert!(why.kind() == ErrorKind::NotFound && !made.is_finished() || path.exists(), "{why}"),
            }
        };
        assert!(seen.starts_with(b"redb"), "of {} bytes", seen.len());
        made.join().unwrap().unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");
    }
}

#[test]
fn what_can_not_be_made_is_told_as_the_system_says_it() {
    let (folder, _) = folder();
    for path in [folder.path().join("none").join("answers"), folder.path().to_owned()] {
        let error = AnswerFile::open(&path).unwrap_err();
        let StoreError::Io { place, source } = &error else { panic!("{error}") };
        assert_eq!(*place, path.display().to_string());
        assert!(!source.to_string().is_empty());
    }
}

#[test]
fn another_file_is_no_store() {
    let (folder, path) = folder();
    fs::write(&path, b"[listen]\n".repeat(1_000)).unwrap();
    let other = folder.path().join("other");
    let writing = Database::create(&other).unwrap().begin_write().unwrap();
    writing.open_table(TableDefinition::<u64, u64>::new("theirs")).unwrap().insert(1, 2).unwrap();
    writing.commit().unwrap();
    let newer = folder.path().join("newer");
    opened(&newer);
    let writing = Database::create(&newer).unwrap().begin_write().unwrap();
    writing.open_table(ABOUT).unwrap().insert(FORMAT_KEY, "2").unwrap();
    writing.commit().unwrap();
    let text = fs::read(&path).unwrap();
    for (path, says) in [(path.clone(), ""), (other, "another program's"), (newer, "format of another version")] {
        let error = AnswerFile::open(&path).unwrap_err();
        assert!(matches!(error, StoreError::Unreadable { .. }), "{error:?}");
        let text = error.to_string();
        assert!(
            text.contains(says) && text.contains("move it away") && text.contains(&*path.to_string_lossy()),
            "{text}"
        );
    }
    assert_eq!(fs::read(&path).unwrap(), text, "it is left as it is");
}

/// Wherever it is damaged, that is told, or does not matter: nothing is missing, and nothing panics.
#[test]
fn a_damaged_file_is_told_or_whole() {
    let (folder, path) = folder();
    let (mut file, _) = opened(&path);
    let changes: Vec<_> = (1..=200).flat_map(|number| [began(number), ended(number, answer(1_000))]).collect();
    file.write(&changes).unwrap();
    let expected = file.load().unwrap().len();
    drop(file);
    let (whole, damaged) = (fs::read(&path).unwrap(), folder.path().join("damaged"));
    let (mut told, mut sound) = (0, 0);
    let mut look = |bytes: &[u8], what: &str| {
        fs::write(&damaged, bytes).unwrap();
        match AnswerFile::open(&damaged).and_then(|mut file| file.load()) {
            Ok(calls) => {
                assert_eq!(calls.len(), expected, "{what}");
                sound += 1;
            }
            Err(StoreError::Unreadable { .. }) => told += 1,
            Err(other) => panic!("{what}: {other:?}"),
        }
    };
    let mut chance = Chance(7);
    for _ in 0..150 {
        let mut bytes = whole.clone();
        let near = if chance.below(4) == 0 { 4_096 } else { bytes.len() };
        let at = chance.below(near);
        bytes[at] ^= 1 << chance.below(8);
        look(&bytes, &format!("a bit at {at}"));
    }
    for _ in 0..50 {
        let length = 1 + chance.below(whole.len() - 1);
        look(&whole[..length], &format!("{length} bytes"));
    }
    assert!(told >= 20 && sound >= 20, "{told} {sound}");
}

/// Numbers that are the same each time.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % bound
    }
}

#[test]
fn it_does_not_grow_with_what_is_forgotten() {
    let (_folder, path) = folder();
    let (mut file, _) = opened(&path);
    let mut number = 0;
    let mut write = |file: &mut AnswerFile, batches: usize| {
        for _ in 0..batches {
            let (mut first, mut second) = (Vec::new(), Vec::new());
            for _ in 0..20 {
                number += 1;
                first.push(began(number));
                second.push(ended(number, answer(5_000)));
                if number > 200 {
                    second.push(Change::Forgotten { number: number - 200 });
                }
            }
            file.write(&first).unwrap();
            file.write(&second).unwrap();
        }
    };
    write(&mut file, 20);
    let early = fs::metadata(&path).unwrap().len();
    write(&mut file, 200);
    let late = fs::metadata(&path).unwrap().len();
    // A megabyte of answers lies in it, and twenty have gone through it.
    assert!(late <= early.max(4 << 20), "{early} {late}");
    assert_eq!(file.load().unwrap().len(), 200);
}

#[cfg(unix)]
#[test]
fn only_its_owner_can_read_it() {
    use std::os::unix::fs::PermissionsExt;
    let (_folder, path) = folder();
    opened(&path);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn after_a_failure_it_is_opened_again_if_it_is_still_the_same() {
    let (folder, path) = folder();
    let (mut file, _) = opened(&path);
    let fail = |file: &mut AnswerFile| file.database = None;
    fail(&mut file);
    file.write(&[began(1)]).unwrap();
    fail(&mut file);
    let aside = folder.path().join("aside");
    fs::rename(&path, &aside).unwrap();
    let error = file.write(&[began(2)]).unwrap_err();
    assert!(matches!(&error, StoreError::Io { source, .. } if source.kind() == ErrorKind::NotFound), "{error}");
    assert!(!path.exists(), "none is made in its place");
    fs::write(&path, "").unwrap();
    let error = file.write(&[began(2)]).unwrap_err();
    assert!(error.to_string().contains("it is empty now"), "{error}");
    fs::remove_file(&path).unwrap();
    opened(&path);
    let error = file.write(&[began(2)]).unwrap_err();
    assert!(error.to_string().contains("another one is there now"), "{error}");
    fs::rename(&aside, &path).unwrap();
    file.write(&[began(2)]).unwrap();
    assert_eq!(file.load().unwrap().len(), 2);
}

/// As on a file system without links.
#[test]
fn of_two_that_are_made_at_the_same_moment_without_links_the_first_stays() {
    let (folder, path) = folder();
    let (first, second) = (Unnamed::beside(&path), Unnamed::beside(&path));
    fs::write(&first.0, "first").unwrap();
    fs::write(&second.0, "second").unwrap();
    let lock = Unnamed::lock_of(&path);
    let locked = File::create(&lock).unwrap();
    locked.lock().unwrap();
    std::thread::scope(|threads| {
        let naming = threads.spawn(|| second.name_alone(&path));
        // Another program is at it, and has looked already. Who does not wait for it has the time to do harm.
        let until = std::time::Instant::now() + Duration::from_millis(200);
        while !naming.is_finished() && std::time::Instant::now() < until {
            std::thread::yield_now();
        }
        fs::hard_link(&first.0, &path).unwrap();
        drop(locked);
        naming.join().unwrap().unwrap();
    });
    assert_eq!(fs::read(&path).unwrap(), b"first");
    fs::remove_file(&path).unwrap();
    second.name_alone(&path).unwrap();
    drop((first, second));
    assert_eq!(fs::read(&path).unwrap(), b"second");
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["answers.redb"], "nothing else is left");
}
