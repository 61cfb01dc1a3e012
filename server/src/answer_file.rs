use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use redb::{Builder, Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition, TableHandle};
use uuid::Uuid;

use crate::answer_store::{AnswerStore, Change, Kept, StoreError, StoredCall};

/// Answers to calls under idempotency keys in a file, so that they outlast the program: an [`AnswerStore`].
///
/// The file is a [redb](https://docs.rs/redb) database, which only one program can have at a time, and which only its owner can
/// read where it is made here. Each write waits for the disk (`fsync`). How old an answer is, is told by the wall clock; it
/// counts when the file is opened. It takes more than the answers, some 2 MiB at least, and gives room back when it is opened.
///
/// Never copy or restore it: callers trust its name, and the copy would not know what the other one has executed since.
///
/// ```
/// use callboard_server::{AnswerFile, KeptAnswers, Router};
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("answers.redb");
/// let kept = KeptAnswers::default().stored_in(AnswerFile::open(path)?)?;
/// let router = Router::new().method("pay", |sum: u64| Ok(sum)).kept_answers(kept);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct AnswerFile {
    path: PathBuf,
    id: String,
    /// It is opened anew after it has failed: it takes nothing more then.
    database: Option<Database>,
    clock: fn() -> SystemTime,
}

impl AnswerFile {
    /// Opens the file, and makes it where there is none. All of it is read, to see that it is whole; this blocks.
    ///
    /// # Errors
    /// [`InUse`](StoreError::InUse), [`Unreadable`](StoreError::Unreadable), or what the system says.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        Self::open_with(path.as_ref(), SystemTime::now)
    }

    fn open_with(path: &Path, clock: fn() -> SystemTime) -> Result<Self, StoreError> {
        let make = || -> Result<_, Broken> {
            create(path)?;
            let mut database = database(path)?;
            let id = id(&database)?;
            if path.metadata()?.len() > LARGE {
                database.compact()?;
            }
            Ok((id, database))
        };
        let (id, database) = make().map_err(|why| why.at(path))?;
        Ok(Self { path: path.to_owned(), id, database: Some(database), clock })
    }

    fn try_load(&mut self) -> Result<Vec<StoredCall>, Broken> {
        let now = self.now();
        let reading = self.database()?.begin_read()?;
        let (calls, ends) = (reading.open_table(CALLS)?, reading.open_table(ENDS)?);
        let mut stored = Vec::new();
        for entry in calls.iter()? {
            let (number, call) = entry?;
            let (number, (method, key, params)) = (number.value(), call.value());
            let end = ends.get(number)?.map(|end| {
                let (at, kind, bytes, answer) = end.value();
                Ok::<_, Broken>((read(kind, bytes, answer)?, Duration::from_millis(now.saturating_sub(at))))
            });
            stored.push(StoredCall {
                number,
                method: method.to_owned(),
                key: key.to_owned(),
                params,
                end: end.transpose()?,
            });
        }
        Ok(stored)
    }

    fn try_write(&mut self, changes: &[Change]) -> Result<(), Broken> {
        let now = self.now();
        let writing = self.database()?.begin_write()?;
        {
            let (mut calls, mut ends) = (writing.open_table(CALLS)?, writing.open_table(ENDS)?);
            for change in changes {
                match change {
                    Change::Began { number, method, key, params } => {
                        calls.insert(number, (method.as_str(), key.as_str(), *params))?;
                    }
                    Change::Ended { number, kept } => {
                        let (kind, bytes, answer) = written(kept);
                        // Of one that had ended before, only the answer goes.
                        let at = ends.get(number)?.map_or(now, |end| end.value().0);
                        ends.insert(number, (at, kind, bytes, answer))?;
                    }
                    Change::Forgotten { number } => {
                        calls.remove(number)?;
                        ends.remove(number)?;
                    }
                }
            }
        }
        Ok(writing.commit()?)
    }

    fn database(&mut self) -> Result<&Database, Broken> {
        if self.database.is_none() {
            // What is there now may be another one, which knows other keys.
            let file = OpenOptions::new().read(true).open(&self.path)?;
            if file.metadata()?.len() == 0 {
                return Err(Broken::Other("it is empty now"));
            }
            let database = database(&self.path)?;
            if id(&database)? != self.id {
                return Err(Broken::Other("another one is there now"));
            }
            self.database = Some(database);
        }
        self.database.as_ref().ok_or(Broken::Other("it is closed"))
    }

    /// In ms since 1970.
    fn now(&self) -> u64 {
        let since = (self.clock)().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
}

impl AnswerStore for AnswerFile {
    fn id(&self) -> &str {
        &self.id
    }

    fn load(&mut self) -> Result<Vec<StoredCall>, StoreError> {
        self.try_load().map_err(|why| why.at(&self.path))
    }

    fn write(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        self.try_write(changes).map_err(|why| {
            self.database = None;
            why.at(&self.path)
        })
    }
}

/// Why the file can't be used.
enum Broken {
    Database(Box<redb::Error>),
    Other(&'static str),
}

impl Broken {
    fn at(self, path: &Path) -> StoreError {
        let place = path.display().to_string();
        let why = match self {
            Self::Database(why) => *why,
            Self::Other(why) => return StoreError::Unreadable { place, why: why.to_owned() },
        };
        match why {
            redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch => StoreError::InUse { place },
            redb::Error::Io(source) if !matches!(source.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof) => {
                StoreError::Io { place, source }
            }
            why @ (redb::Error::PreviousIo | redb::Error::LockPoisoned(_) | redb::Error::ValueTooLarge(_)) => {
                StoreError::Failed { place, why: why.to_string() }
            }
            why => StoreError::Unreadable { place, why: why.to_string() },
        }
    }
}

impl<E: Into<redb::Error>> From<E> for Broken {
    fn from(why: E) -> Self {
        Self::Database(Box::new(why.into()))
    }
}

fn database(path: &Path) -> Result<Database, Broken> {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
    Ok(builder.create(path)?)
}

/// A new one, which only its owner can read, where there is none. It gets its name when it is whole: who is killed before
/// that leaves nothing that would be refused.
fn create(path: &Path) -> Result<(), Broken> {
    if path.try_exists()? {
        return Ok(());
    }
    let new = Unnamed::beside(path);
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(&new.0)?;
    id(&database(&new.0)?)?;
    new.name(path)?;
    if cfg!(unix) {
        // It has to be there after a loss of power, too.
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or_else(|| Path::new(".")))?.sync_all()?;
    }
    Ok(())
}

/// A file that is being made, under a name that no other one has. It goes with this value.
struct Unnamed(PathBuf);

impl Unnamed {
    fn beside(path: &Path) -> Self {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.new", Uuid::new_v4()));
        Self(path.with_file_name(name))
    }

    fn name(&self, path: &Path) -> io::Result<()> {
        // Unlike a rename, a link never takes the place of a file that another program has just made.
        match fs::hard_link(&self.0, path) {
            Err(why) if why.kind() == ErrorKind::AlreadyExists => Ok(()),
            // Not all file systems have links.
            Err(_) => self.name_alone(path),
            Ok(()) => Ok(()),
        }
    }

    /// The same by a rename, of programs that begin at the same moment one after the other.
    fn name_alone(&self, path: &Path) -> io::Result<()> {
        let lock = Self::lock_of(path);
        let locked = OpenOptions::new().write(true).create(true).truncate(false).open(&lock)?;
        // It is let go when the file is closed, by the end of the program, too.
        locked.lock()?;
        if !path.try_exists()? {
            fs::rename(&self.0, path)?;
        }
        // From now on nobody needs it: who waits for it, or makes it anew, finds the file.
        let _ = fs::remove_file(lock);
        Ok(())
    }

    fn lock_of(path: &Path) -> PathBuf {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".lock");
        path.with_file_name(name)
    }
}

impl Drop for Unnamed {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0); // perhaps it was never made, or was renamed
    }
}

/// The file's name, which it gets when it is new.
fn id(database: &Database) -> Result<String, Broken> {
    let writing = database.begin_write()?;
    let id = {
        let others =
            writing.list_tables()?.any(|table| ![ABOUT.name(), CALLS.name(), ENDS.name()].contains(&table.name()));
        if others {
            return Err(Broken::Other("it is another program's"));
        }
        let mut about = writing.open_table(ABOUT)?;
        let known =
            |name| -> Result<Option<String>, Broken> { Ok(about.get(name)?.map(|text| text.value().to_owned())) };
        let (format, id) = (known(FORMAT_KEY)?, known(ID_KEY)?);
        let (calls, _) = (writing.open_table(CALLS)?, writing.open_table(ENDS)?);
        match (format.as_deref(), id) {
            (Some(FORMAT), Some(id)) => id,
            (None, None) if calls.is_empty()? => {
                let id = Uuid::new_v4().to_string();
                about.insert(FORMAT_KEY, FORMAT)?;
                about.insert(ID_KEY, id.as_str())?;
                id
            }
            (Some(FORMAT) | None, _) => return Err(Broken::Other("it has no name")),
            (Some(_), _) => return Err(Broken::Other("it is in the format of another version")),
        }
    };
    writing.commit()?;
    Ok(id)
}

fn written(kept: &Kept) -> (u8, u64, &[u8]) {
    match kept {
        Kept::Answer(answer) => (ANSWER, 0, answer),
        Kept::TooLarge(bytes) => (TOO_LARGE, u64::try_from(*bytes).unwrap_or(u64::MAX), &[]),
        Kept::CutOff => (CUT_OFF, 0, &[]),
    }
}

fn read(kind: u8, bytes: u64, answer: &[u8]) -> Result<Kept, Broken> {
    match kind {
        ANSWER => Ok(Kept::Answer(Bytes::copy_from_slice(answer))),
        TOO_LARGE => Ok(Kept::TooLarge(usize::try_from(bytes).unwrap_or(usize::MAX))),
        CUT_OFF => Ok(Kept::CutOff),
        _ => Err(Broken::Other("it holds an answer of an unknown kind")),
    }
}

/// `format` and `id`.
const ABOUT: TableDefinition<'_, &str, &str> = TableDefinition::new("callboard_about");
/// What has begun, by number: method, key, what stands for the parameters.
const CALLS: TableDefinition<'_, u64, (&str, &str, u128)> = TableDefinition::new("callboard_calls");
/// What has ended, by number: when in ms since 1970, how, the length of an answer that is not kept, the answer.
const ENDS: TableDefinition<'_, u64, (u64, u8, u64, &[u8])> = TableDefinition::new("callboard_ends");
const FORMAT_KEY: &str = "format";
const FORMAT: &str = "1";
const ID_KEY: &str = "id";
const ANSWER: u8 = 0;
const TOO_LARGE: u8 = 1;
const CUT_OFF: u8 = 2;
/// What is written is hardly ever read.
const CACHE_BYTES: usize = 4 << 20;
/// A file of more bytes gives back what it does not need when it is opened.
const LARGE: u64 = 64 << 20;

#[cfg(test)]
mod tests;
