//! What a load request puts in place of a model's files: a configuration, or all files in a folder of their own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use tempfile::TempDir;

use crate::error::ControlError;

use super::scan::Fingerprint;

/// An override that is in force.
#[derive(Clone, Debug)]
pub(super) struct Overlay {
    /// Which one of all.
    pub(super) number: u64,
    /// The configuration as JSON.
    pub(super) config: Arc<str>,
    /// The files; without any, those on disk count.
    pub(super) files: Option<Arc<TempDir>>,
    /// The files on disk when it was made: when they change, the override of a configuration ends.
    pub(super) disk: Fingerprint,
}

/// Writes overriding files to a folder of their own, which is removed when the last holder drops it.
///
/// # Errors
/// [`ControlError::NotFound`] for a path that leads out of the folder or does not fit the others.
pub(super) fn write_files(model: &str, files: &BTreeMap<String, Bytes>) -> Result<Arc<TempDir>, ControlError> {
    let refused = |reason: String| ControlError::NotFound { model: model.to_owned(), reason: Some(reason) };
    let folder = tempfile::Builder::new()
        .prefix("alcedo-model-")
        .tempdir()
        .map_err(|error| refused(format!("unable to make a folder for the overriding files: {error}")))?;
    for (file, contents) in files {
        let relative = plain_path(file).ok_or_else(|| {
            refused(format!(
                "the path of 'file:{file}' must stay below the model's directory, such as 'file:1/model.safetensors'"
            ))
        })?;
        let path = folder.path().join(relative);
        let written = path.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| std::fs::write(&path, contents));
        written.map_err(|error| refused(format!("unable to write 'file:{file}': {error}")))?;
    }
    Ok(Arc::new(folder))
}

/// The path, if every component of it names something below the one before.
fn plain_path(file: &str) -> Option<PathBuf> {
    let is_plain =
        |component: &str| !component.is_empty() && component != "." && component != ".." && !component.contains(['\\', '\0']);
    file.split('/').all(is_plain).then(|| Path::new(file).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(files: &[&str]) -> Result<Arc<TempDir>, ControlError> {
        write_files("m", &files.iter().map(|file| ((*file).to_owned(), Bytes::from_static(b"x"))).collect())
    }

    #[test]
    fn files_land_in_their_folder_and_go_with_it() {
        let folder = write(&["1/a/b.bin", "2/c"]).unwrap();
        let path = folder.path().to_owned();
        assert_eq!(std::fs::read(path.join("1/a/b.bin")).unwrap(), b"x");
        drop(folder);
        assert!(!path.exists());
    }

    #[test]
    fn paths_that_lead_out_are_refused() {
        for file in ["", "/etc/x", "../x", "1/../../x", "1//x", "1/", "./x", "1\\..\\x", "1/\0"] {
            let error = write(&[file]).unwrap_err().to_string();
            assert!(error.starts_with("failed to load 'm', failed to poll from model repository"), "{file}: {error}");
        }
        assert!(write(&["1", "1/x"]).is_err(), "a file cannot be a folder too");
    }
}
