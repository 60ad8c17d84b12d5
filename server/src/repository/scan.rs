//! Folders: which models the repositories hold, which versions a model has, and whether its files changed.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Component, Path, PathBuf};
use std::time::UNIX_EPOCH;

use crate::error::LoadError;
use crate::instance::{describe, is_hub_directory};

use super::zero_config::Part;

/// Where a model lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Location {
    /// The model's directory. Of a Hugging Face directory that is itself a repository, that directory.
    pub(super) directory: PathBuf,
    /// The directory is its own only version.
    pub(super) is_hub: bool,
    /// Which of the models that the directory stands for.
    pub(super) part: Part,
}

/// Every model that the repositories hold, with each place where it lives.
#[derive(Debug, Default)]
pub(super) struct Catalog {
    pub(super) models: BTreeMap<String, Vec<Location>>,
    /// Repositories that could not be read, and why.
    pub(super) unreadable: Vec<(String, String)>,
}

/// Files of a Hugging Face directory.
const HUB_FILES: [&str; 4] = ["config.json", "model.safetensors", "modules.json", "pytorch_model.bin"];

const BROKEN_HUB: &str = "it holds files of a Hugging Face model, but not both a config.json that names a model type and \
     weights in model.safetensors; nor does it hold directories of models, as a repository does";

/// The directories without those that are named before, also under another path.
pub(super) fn distinct(roots: &[PathBuf]) -> Vec<PathBuf> {
    let mut seen = BTreeSet::new();
    let is_new = |root: &&PathBuf| {
        let is_new = seen.insert(root.canonicalize().unwrap_or_else(|_| root.to_path_buf()));
        if !is_new {
            tracing::warn!(repository = %root.display(), "the repository is given twice; once is enough");
        }
        is_new
    };
    roots.iter().filter(is_new).cloned().collect()
}

/// How directories are to be understood.
#[derive(Clone, Debug)]
pub(super) struct Reading {
    pub(super) roots: Vec<PathBuf>,
    pub(super) config_name: Option<String>,
    pub(super) auto_complete: bool,
}

impl Reading {
    /// Lists all models.
    pub(super) fn catalog(&self) -> Catalog {
        let mut catalog = Catalog::default();
        for root in &self.roots {
            if is_hub_directory(root) {
                match directory_name(root) {
                    Some(name) => self.list(&mut catalog, &name, root, true),
                    None => catalog.unreadable.push((root.display().to_string(), "the directory has no name".to_owned())),
                }
                continue;
            }
            match subdirectories(root) {
                Ok(_) if self.is_broken_hub(root) => catalog.unreadable.push((root.display().to_string(), BROKEN_HUB.to_owned())),
                Ok(directories) => {
                    for (name, directory) in directories {
                        self.list(&mut catalog, &name, &directory, false);
                    }
                }
                Err(error) => catalog.unreadable.push((root.display().to_string(), format!("cannot be read: {error}"))),
            }
        }
        catalog
    }

    fn list(&self, catalog: &mut Catalog, name: &str, directory: &Path, is_hub: bool) {
        let mut add = |name: String, part| {
            let location = Location { directory: directory.to_owned(), is_hub, part };
            catalog.models.entry(name).or_default().push(location);
        };
        add(name.to_owned(), Part::Whole);
        if self.is_split(directory, is_hub) {
            for part in [Part::Tokenizer, Part::Encoder] {
                add(part.name(name), part);
            }
        }
    }

    /// Every place where a model of this name lives. More than one is a mistake of the repositories' owner.
    pub(super) fn locate(&self, name: &str) -> Vec<Location> {
        if !is_plain_name(name) {
            return Vec::new();
        }
        let mut places = Vec::new();
        for root in &self.roots {
            let is_hub = is_hub_directory(root);
            let directory_of = |base: &str| {
                if is_hub {
                    (directory_name(root).as_deref() == Some(base)).then(|| root.clone())
                } else {
                    Some(root.join(base)).filter(|directory| directory.is_dir())
                }
            };
            if let Some(directory) = directory_of(name) {
                places.push(Location { directory, is_hub, part: Part::Whole });
            }
            for part in [Part::Tokenizer, Part::Encoder] {
                let base = part.base_of(name).filter(|base| is_plain_name(base));
                let directory = base.and_then(directory_of).filter(|directory| self.is_split(directory, is_hub));
                places.extend(directory.map(|directory| Location { directory, is_hub, part }));
            }
        }
        places
    }

    /// Whether a directory looks like a Hugging Face model of which files are missing. As a repository it would be
    /// one without models, which its owner did not mean.
    fn is_broken_hub(&self, root: &Path) -> bool {
        let has_files = HUB_FILES.iter().any(|file| root.join(file).is_file());
        let is_model = |directory: &PathBuf| self.config_file(directory).is_some() || !versions(directory).is_empty();
        has_files && !subdirectories(root).is_ok_and(|directories| directories.values().any(is_model))
    }

    /// Whether the directory is served with no configuration as an ensemble over a tokenizer and an encoder.
    fn is_split(&self, directory: &Path, is_hub: bool) -> bool {
        self.auto_complete
            && self.config_file(directory).is_none()
            && self.zero_config_directory(directory, is_hub).is_some_and(|files| {
                // What is wrong with broken files is said by the load of the whole.
                describe("", &files, &BTreeMap::new())
                    .is_ok_and(|described| described.is_some_and(|described| described.tokenizer.is_some()))
            })
    }

    /// The Hugging Face directory behind a model that has no configuration.
    pub(super) fn zero_config_directory(&self, directory: &Path, is_hub: bool) -> Option<PathBuf> {
        if is_hub {
            return Some(directory.to_owned());
        }
        let newest = versions(directory).into_values().next_back()?;
        is_hub_directory(&newest).then_some(newest)
    }

    /// The model's configuration file: the named one where there is one, else `config.pbtxt`.
    pub(super) fn config_file(&self, directory: &Path) -> Option<PathBuf> {
        let named = self.config_name.as_ref().map(|name| directory.join("configs").join(format!("{name}.pbtxt")));
        named.into_iter().chain([directory.join("config.pbtxt")]).find(|path| path.is_file())
    }
}

/// Whether this is one path component that names something below its parent.
fn is_plain_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    matches!((components.next(), components.next()), (Some(Component::Normal(only)), None) if only == name)
}

/// The name of a directory, also where it is written as `.` or through a link.
pub(super) fn directory_name(directory: &Path) -> Option<String> {
    let written = directory.file_name().map(|name| name.to_string_lossy().into_owned());
    written.or_else(|| directory.canonicalize().ok()?.file_name().map(|name| name.to_string_lossy().into_owned()))
}

/// Directories directly below, by name; links are followed and hidden ones left out.
fn subdirectories(directory: &Path) -> Result<BTreeMap<String, PathBuf>, std::io::Error> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let path = entry.path();
        let Ok(name) = entry.file_name().into_string() else {
            tracing::warn!(path = %path.display(), "a name that is not UTF-8 is ignored");
            continue;
        };
        if !name.starts_with('.') && path.is_dir() {
            found.insert(name, path);
        }
    }
    Ok(found)
}

/// The version directories of a model.
pub(super) fn versions(directory: &Path) -> BTreeMap<u64, PathBuf> {
    let directories = subdirectories(directory).unwrap_or_default();
    let mut versions = BTreeMap::new();
    for (name, path) in directories {
        match parse_version(&name) {
            Some(version) => {
                versions.insert(version, path);
            }
            // A name that looks like a number was meant to be a version; folders such as `warmup` were not.
            None if name.parse::<i128>().is_ok() => {
                tracing::warn!(path = %path.display(), "ignored: a version is an integer > 0 without leading zeros");
            }
            None => tracing::debug!(path = %path.display(), "not a version directory"),
        }
    }
    versions
}

fn parse_version(name: &str) -> Option<u64> {
    let is_decimal = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit()) && !name.starts_with('0');
    // The protocol carries versions as signed numbers.
    if is_decimal { name.parse::<i64>().ok().and_then(|version| u64::try_from(version).ok()) } else { None }
}

/// What a model's files look like from outside: two equal ones mean that nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fingerprint(u64);

impl Fingerprint {
    /// Of a model that has no files of its own.
    pub(super) const NONE: Fingerprint = Fingerprint(0);

    /// Over path, size and time of change of everything below a directory.
    ///
    /// # Errors
    /// The directory itself cannot be read.
    pub(super) fn of(model: &str, directory: &Path) -> Result<Self, LoadError> {
        let unreadable = |error: std::io::Error| LoadError::Io {
            model: model.to_owned(),
            path: "the model's directory".to_owned(),
            reason: error.to_string(),
        };
        std::fs::read_dir(directory).map_err(unreadable)?;
        let mut hasher = DefaultHasher::new();
        let mut visited = BTreeSet::new();
        let mut pending = vec![directory.to_owned()];
        while let Some(directory) = pending.pop() {
            // A link may lead back up; each real directory counts once.
            if !directory.canonicalize().is_ok_and(|real| visited.insert(real)) {
                continue;
            }
            let Ok(entries) = std::fs::read_dir(&directory) else {
                continue;
            };
            let paths: BTreeSet<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
            for path in paths {
                path.hash(&mut hasher);
                let Ok(about) = std::fs::metadata(&path) else {
                    continue;
                };
                if about.is_dir() {
                    pending.push(path);
                } else {
                    let changed = about.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
                    (about.len(), changed).hash(&mut hasher);
                }
            }
        }
        Ok(Self(hasher.finish()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_positive_decimals_without_leading_zeros() {
        assert_eq!(parse_version("1"), Some(1));
        assert_eq!(parse_version("9223372036854775807"), Some(i64::MAX.unsigned_abs()));
        for name in ["", "0", "01", "-1", "+1", "1a", "1_Pooling", "9223372036854775808", "١"] {
            assert_eq!(parse_version(name), None, "{name}");
        }
    }

    #[test]
    fn names_stay_inside_their_root() {
        for name in ["a", "...", "a..b", "a b"] {
            assert!(is_plain_name(name), "{name}");
        }
        for name in ["", ".", "..", "a/b", "/a", "a/", "./a"] {
            assert!(!is_plain_name(name), "{name}");
        }
    }

    #[test]
    fn a_fingerprint_sees_files_and_empty_directories_and_survives_loops() {
        let root = tempfile::tempdir().unwrap();
        let of = || Fingerprint::of("m", root.path()).unwrap();
        let empty = of();
        std::fs::create_dir(root.path().join("1")).unwrap();
        let with_version = of();
        assert_ne!(empty, with_version);
        std::fs::write(root.path().join("1/a"), "x").unwrap();
        let with_file = of();
        assert_ne!(with_version, with_file);
        assert_eq!(with_file, of());
        std::fs::write(root.path().join("1/a"), "xy").unwrap();
        assert_ne!(with_file, of());
        std::os::unix::fs::symlink(root.path(), root.path().join("1/loop")).unwrap();
        assert_eq!(of(), of());
        assert!(Fingerprint::of("m", &root.path().join("missing")).is_err());
    }
}
