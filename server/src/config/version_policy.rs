//! `version_policy`: which versions of a model are served.

use std::num::NonZeroUsize;

use proto::inference::{ModelVersionPolicy, model_version_policy as wire};

use crate::error::ConfigProblem;

/// Which of the available versions are loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VersionPolicy {
    /// The newest ones.
    Latest(NonZeroUsize),
    /// Every one.
    All,
    /// These, where they exist.
    Specific(Vec<u64>),
}

impl VersionPolicy {
    /// Parses the field; unset means the latest version.
    pub(super) fn parse(model: &str, policy: Option<&ModelVersionPolicy>) -> Result<Self, ConfigProblem> {
        let out_of_range = |field: &str, expected, got: String| ConfigProblem::OutOfRange {
            model: model.to_owned(),
            field: format!("version_policy.{field}"),
            expected,
            got,
        };
        match policy.and_then(|policy| policy.policy_choice.as_ref()) {
            None => Ok(Self::Latest(NonZeroUsize::MIN)),
            Some(wire::PolicyChoice::All(_)) => Ok(Self::All),
            Some(wire::PolicyChoice::Latest(latest)) => {
                // An unset num_versions reads as 0 and means one, the documented default.
                let versions = usize::try_from(latest.num_versions).unwrap_or(usize::MAX);
                Ok(Self::Latest(NonZeroUsize::new(versions).unwrap_or(NonZeroUsize::MIN)))
            }
            Some(wire::PolicyChoice::Specific(specific)) => specific
                .versions
                .iter()
                .map(|version| {
                    u64::try_from(*version)
                        .ok()
                        .filter(|version| *version > 0)
                        .ok_or_else(|| out_of_range("specific.versions", "an integer > 0", version.to_string()))
                })
                .collect::<Result<_, _>>()
                .map(Self::Specific),
        }
    }

    /// The versions to load of those that are there, ascending. A listed version that is missing is left out.
    pub fn choose(&self, available: &[u64]) -> Vec<u64> {
        let mut versions = available.to_vec();
        versions.sort_unstable();
        versions.dedup();
        match self {
            Self::All => versions,
            Self::Latest(count) => {
                let skipped = versions.len().saturating_sub(count.get());
                versions.split_off(skipped)
            }
            Self::Specific(listed) => {
                versions.retain(|version| listed.contains(version));
                versions
            }
        }
    }

    /// The policy as the protocol writes it.
    pub(super) fn to_wire(&self) -> ModelVersionPolicy {
        let choice = match self {
            Self::All => wire::PolicyChoice::All(wire::All {}),
            Self::Latest(count) => {
                wire::PolicyChoice::Latest(wire::Latest { num_versions: u32::try_from(count.get()).unwrap_or(u32::MAX) })
            }
            Self::Specific(versions) => wire::PolicyChoice::Specific(wire::Specific {
                versions: versions.iter().map(|version| i64::try_from(*version).unwrap_or(i64::MAX)).collect(),
            }),
        };
        ModelVersionPolicy { policy_choice: Some(choice) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chooses_the_newest_or_the_listed() {
        let two = VersionPolicy::Latest(NonZeroUsize::new(2).unwrap());
        assert_eq!(two.choose(&[3, 1, 10]), [3, 10]);
        assert_eq!(VersionPolicy::All.choose(&[3, 1]), [1, 3]);
        assert_eq!(VersionPolicy::Specific(vec![1, 7]).choose(&[3, 1]), [1]);
        assert!(VersionPolicy::Specific(vec![7]).choose(&[3, 1]).is_empty());
    }
}
