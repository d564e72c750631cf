//! Which file a path named when it was opened, and whether it still does: a file that was deleted, moved away or replaced
//! can be written to, but nobody reads it any more.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Kind, Result};

/// An open file's path, and what the file system calls the file.
pub(super) struct Place {
    path: PathBuf,
    device_and_inode: (u64, u64),
}

impl Place {
    /// The file at `path`, which has just been opened.
    ///
    /// # Errors
    /// Transient where it cannot be looked at.
    pub(super) fn of(path: &Path) -> Result<Self> {
        let device_and_inode = look(path).map_err(|error| unseen(path, error))?;
        Ok(Place { path: path.to_owned(), device_and_inode })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes sure that the path still names this file.
    ///
    /// # Errors
    /// [`Kind::Replaced`] where it names none, or another one; transient where it cannot be looked at.
    pub(super) fn check(&self) -> Result<()> {
        let what = match look(&self.path) {
            Ok(found) if found == self.device_and_inode => return Ok(()),
            Ok(_) => "another file stands in its place",
            Err(error) if error.kind() == io::ErrorKind::NotFound => "the file is gone",
            Err(error) => return Err(unseen(&self.path, error)),
        };
        Err(Error::new(Kind::Replaced, format!("{what}; the replica is opened again and filled")))
    }
}

fn look(path: &Path) -> io::Result<(u64, u64)> {
    let found = std::fs::metadata(path)?;
    Ok((found.dev(), found.ino()))
}

fn unseen(path: &Path, error: io::Error) -> Error {
    Error::transient(format!("looking at {}", path.display())).because(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_deleted_moved_or_replaced_is_not_there_any_more() {
        let directory = tempfile::tempdir().unwrap();
        let [path, other] = ["eu.db", "other.db"].map(|name| directory.path().join(name));
        let put = |path: &Path| std::fs::write(path, "rows").unwrap();
        put(&path);
        let place = Place::of(&path).unwrap();
        put(&path);
        place.check().unwrap();
        put(&other);
        // The inode of the first one is in use as long as it has a name.
        std::fs::rename(&path, directory.path().join("away.db")).unwrap();
        let gone = place.check().unwrap_err();
        assert_eq!((gone.kind(), gone.chain().contains("is gone")), (Kind::Replaced, true));
        std::fs::rename(&other, &path).unwrap();
        let replaced = place.check().unwrap_err();
        assert_eq!((replaced.kind(), replaced.chain().contains("another file")), (Kind::Replaced, true));
        // What cannot be looked at may be there.
        let below = Place { path: path.join("below"), ..place };
        assert_eq!(below.check().unwrap_err().kind(), Kind::Transient);
    }
}
