//! Dependencies on the command line: the option of `submit`, the fields of a stream's line, and their names.

use serde::Deserialize;

use super::text;
use jobmill::proto::v1::{
    Dependency, DependencyCondition, DependencyState, Job, JobDependency, dependency::On,
};

/// Parses `ID`, `ID:ended`, `ID:unsuccessful:optional` and the like.
pub(super) fn dependency(text: &str) -> Result<Dependency, String> {
    let mut words = text.split(':');
    let id = words.next().filter(|id| !id.is_empty()).ok_or("begins with the id of a job")?;
    let mut dependency = Dependency { on: Some(On::JobId(id.to_owned())), ..Dependency::default() };
    for word in words {
        match word {
            "optional" => dependency.optional_edge = true,
            "succeeded" => dependency.set_condition(DependencyCondition::Succeeded),
            "unsuccessful" => dependency.set_condition(DependencyCondition::Unsuccessful),
            "ended" => dependency.set_condition(DependencyCondition::Ended),
            _ => {
                return Err(
                    "after the id: succeeded, unsuccessful or ended, and optional, each after a colon"
                        .to_owned(),
                );
            }
        }
    }
    Ok(dependency)
}

/// A dependency of a stream's line. The condition has short forms, as in the option of this program.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, expecting = "an object")]
pub(super) struct DependencyFields {
    #[serde(alias = "job_id")]
    job_id: String,
    condition: Option<ConditionArg>,
    #[serde(alias = "optional_edge", default)]
    optional_edge: bool,
}

/// The condition of a dependency.
#[derive(Clone, Copy, Deserialize)]
enum ConditionArg {
    #[serde(rename = "DEPENDENCY_CONDITION_SUCCEEDED", alias = "succeeded")]
    Succeeded,
    #[serde(rename = "DEPENDENCY_CONDITION_UNSUCCESSFUL", alias = "unsuccessful")]
    Unsuccessful,
    #[serde(rename = "DEPENDENCY_CONDITION_ENDED", alias = "ended")]
    Ended,
}

impl DependencyFields {
    pub(super) fn into_wire(self) -> Dependency {
        let condition = match self.condition {
            None => DependencyCondition::Unspecified,
            Some(ConditionArg::Succeeded) => DependencyCondition::Succeeded,
            Some(ConditionArg::Unsuccessful) => DependencyCondition::Unsuccessful,
            Some(ConditionArg::Ended) => DependencyCondition::Ended,
        };
        Dependency {
            on: Some(On::JobId(self.job_id)),
            condition: condition.into(),
            optional_edge: self.optional_edge,
        }
    }
}

/// Returns a condition in a word.
pub(super) fn condition(number: i32) -> String {
    match DependencyCondition::try_from(number) {
        Ok(DependencyCondition::Unspecified | DependencyCondition::Succeeded) => "succeeded".to_owned(),
        Ok(DependencyCondition::Unsuccessful) => "unsuccessful".to_owned(),
        Ok(DependencyCondition::Ended) => "ended".to_owned(),
        Err(_) => format!("condition {number}"),
    }
}

/// Returns what became of a dependency, in words.
pub(super) fn state(number: i32) -> String {
    match DependencyState::try_from(number) {
        Ok(state) => {
            state.as_str_name().trim_start_matches("DEPENDENCY_STATE_").to_lowercase().replace('_', " ")
        }
        Err(_) => format!("state {number}"),
    }
}

/// Describes each dependency of a job, and what became of it.
pub(super) fn described(job: &Job) -> impl Iterator<Item = String> + '_ {
    job.dependencies.iter().map(|JobDependency { job_id, condition, optional_edge, state: of }| {
        let optional = if *optional_edge { ", optional" } else { "" };
        format!("{} ({}{optional}): {}", text::escape(job_id), self::condition(*condition), state(*of))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dependency_is_an_id_with_words_after_colons() {
        let on = |condition: DependencyCondition, optional_edge| Dependency {
            on: Some(On::JobId("06g3".to_owned())),
            condition: condition.into(),
            optional_edge,
        };
        for (text, expected) in [
            ("06g3", on(DependencyCondition::Unspecified, false)),
            ("06g3:succeeded", on(DependencyCondition::Succeeded, false)),
            ("06g3:ended", on(DependencyCondition::Ended, false)),
            ("06g3:unsuccessful:optional", on(DependencyCondition::Unsuccessful, true)),
            ("06g3:optional", on(DependencyCondition::Unspecified, true)),
        ] {
            assert_eq!(dependency(text), Ok(expected), "{text}");
        }
        for text in ["", ":ended", "06g3:failed", "06g3:"] {
            assert!(dependency(text).is_err(), "{text}");
        }
    }

    #[test]
    fn each_dependency_is_told_with_what_became_of_it() {
        let on = |job_id: &str, condition: DependencyCondition, state: DependencyState, optional_edge| {
            JobDependency {
                job_id: job_id.to_owned(),
                condition: condition.into(),
                optional_edge,
                state: state.into(),
            }
        };
        let job = Job {
            dependencies: vec![
                on("06g1", DependencyCondition::Succeeded, DependencyState::Met, false),
                on("06g2", DependencyCondition::Ended, DependencyState::FallenAway, true),
                on("06g3\u{1b}", DependencyCondition::Unsuccessful, DependencyState::Waiting, false),
                JobDependency { job_id: "06g4".to_owned(), condition: 77, optional_edge: false, state: 88 },
            ],
            ..Job::default()
        };
        insta::assert_snapshot!(described(&job).collect::<Vec<_>>().join("\n"), @r"
        06g1 (succeeded): met
        06g2 (ended, optional): fallen away
        06g3\x1b (unsuccessful): waiting
        06g4 (condition 77): state 88
        ");
    }
}
