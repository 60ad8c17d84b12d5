//! Read-only memory maps of files, as a safe type.

use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// A file mapped read-only into memory.
///
/// The map is private to this process, and its pages are read from the file when they are first touched,
/// so opening a file of many gigabytes costs nothing until its bytes are used.
///
/// **Promise asked of the operator:** the file is not shortened or rewritten in place while it is mapped. A file that is
/// replaced by renaming another one over it (as downloads and package managers do) is safe: the map keeps the old file.
/// Shortening a mapped file makes the next touch of a lost page a `SIGBUS`, which ends the process.
pub struct MappedFile {
    path: PathBuf,
    /// `None` for an empty file, which the operating system refuses to map.
    map: Option<memmap2::Mmap>,
}

impl MappedFile {
    /// Opens and maps `path`.
    ///
    /// # Errors
    /// Whatever opening or mapping the file gives, and [`io::ErrorKind::InvalidInput`] for anything that is not a
    /// regular file (a directory, a pipe, a device: their length is not the length of their content).
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref().to_path_buf();
        let file = File::open(&path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "only a regular file can be mapped"));
        }
        if metadata.len() == 0 {
            return Ok(MappedFile { path, map: None });
        }
        // SAFETY: the map is read-only and private (no writer through this process), and it lives exactly as long as the
        // `Mmap` that this type owns, so no slice of it can outlive it. The bytes are only ever seen as `&[u8]`, for
        // which every bit pattern is valid. That no other process changes the file underneath is the promise asked of
        // the operator in the documentation of the type; the same promise underlies every memory-mapped weight file.
        let map = unsafe { memmap2::MmapOptions::new().map(&file)? };
        Ok(MappedFile { path, map: Some(map) })
    }

    /// The content of the file.
    pub fn as_bytes(&self) -> &[u8] {
        self.map.as_deref().unwrap_or(&[])
    }

    /// The length of the file in bytes.
    pub fn len(&self) -> usize {
        self.as_bytes().len()
    }

    /// Whether the file has no bytes.
    pub fn is_empty(&self) -> bool {
        self.map.is_none()
    }

    /// The path that the file was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl AsRef<[u8]> for MappedFile {
    fn as_ref(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl fmt::Debug for MappedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MappedFile").field("path", &self.path).field("len", &self.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn the_bytes_are_those_of_the_file() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let content: Vec<u8> = (0..10_000u32).map(|i| (i % 251) as u8).collect();
        file.write_all(&content).unwrap();
        let mapped = MappedFile::open(file.path()).unwrap();
        assert_eq!(mapped.as_bytes(), content);
        assert_eq!(mapped.len(), content.len());
        assert_eq!(mapped.path(), file.path());
        assert!(!mapped.is_empty());
    }

    #[test]
    fn an_empty_file_is_an_empty_slice() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mapped = MappedFile::open(file.path()).unwrap();
        assert!(mapped.is_empty());
        assert_eq!(mapped.as_bytes(), b"");
    }

    #[test]
    fn a_map_outlives_the_removal_of_its_file() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"kept").unwrap();
        let mapped = MappedFile::open(file.path()).unwrap();
        drop(file);
        assert!(!mapped.path().exists());
        assert_eq!(mapped.as_bytes(), b"kept");
    }

    #[test]
    fn a_directory_and_a_missing_file_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        assert!(MappedFile::open(directory.path()).is_err());
        let missing = MappedFile::open(directory.path().join("none")).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }
}
