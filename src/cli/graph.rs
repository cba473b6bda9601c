//! `jobmill graph`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

use super::{
    Global, connect, dependencies,
    exit::{Exit, Failure},
    json,
    text::{self, escape},
    ui::Ui,
};
use jobmill::proto::v1::{DependencyState, GetJobGraphRequest, GetJobGraphResponse, Job, JobDependency};

/// The arguments of `jobmill graph`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The job in the middle of the graph
    #[arg(value_name = "ID")]
    id: String,
    /// Form of the graph, unless --output is json
    #[arg(long = "as", value_enum, value_name = "FORM", default_value = "tree")]
    form: Form,
    /// Largest number of jobs
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(i32).range(1..=1_000))]
    max_jobs: i32,
}

/// The form of a graph.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum Form {
    /// A tree for people: each job below one of those that it depends on
    Tree,
    /// For Graphviz
    Dot,
    /// For Mermaid
    Mermaid,
}

pub(super) async fn run(args: Args, global: &Global, ui: &Ui) -> Result<Exit, Failure> {
    let client = connect(global).await?;
    let request = GetJobGraphRequest { id: args.id.clone(), max_jobs: args.max_jobs, ..Default::default() };
    let graph = client.get_job_graph(request).await?;
    if ui.is_json() {
        ui.print_json(&json::graph(&graph))?;
    } else {
        ui.print(&match args.form {
            Form::Tree => tree(&graph, &args.id),
            Form::Dot => dot(&graph),
            Form::Mermaid => mermaid(&graph),
        })?;
    }
    if graph.truncated && !ui.is_json() {
        ui.note("there are more jobs: ask for them with --max-jobs, or look at the graph of another one");
    }
    Ok(Exit::Ok)
}

/// Returns the edges: child, and dependency.
fn edges(graph: &GetJobGraphResponse) -> impl Iterator<Item = (&str, &JobDependency)> {
    graph.edges.iter().filter_map(|edge| Some((edge.child_id.as_str(), edge.dependency.as_ref()?)))
}

/// Returns the ids of all jobs, those of deleted parents included, in their order.
fn ids(graph: &GetJobGraphResponse) -> BTreeSet<&str> {
    let parents = edges(graph).flat_map(|(child, dependency)| [child, dependency.job_id.as_str()]);
    graph.jobs.iter().map(|job| job.id.as_str()).chain(parents).collect()
}

/// Describes an edge in a few words; none for a usual one that waits or is met.
fn label(dependency: &JobDependency) -> String {
    let mut words = Vec::new();
    match dependencies::condition(dependency.condition) {
        usual if usual == "succeeded" => {}
        condition => words.push(condition),
    }
    if dependency.optional_edge {
        words.push("optional".to_owned());
    }
    if !matches!(dependency.state(), DependencyState::Waiting | DependencyState::Met) {
        words.push(dependencies::state(dependency.state));
    }
    words.join(", ")
}

/// Returns what a job is, in a few words.
fn about(job: Option<&Job>) -> String {
    match job {
        Some(job) => format!("{} {}", escape(job.kind()), text::state(job.state)),
        None => "deleted".to_owned(),
    }
}

struct Tree<'a> {
    jobs: BTreeMap<&'a str, &'a Job>,
    children: BTreeMap<&'a str, Vec<(&'a str, &'a JobDependency)>>,
    shown: BTreeSet<&'a str>,
    middle: &'a str,
    page: String,
}

/// Formats the graph as a tree. A job with several parents is described below the first one.
fn tree(graph: &GetJobGraphResponse, middle: &str) -> String {
    let mut children: BTreeMap<&str, Vec<_>> = BTreeMap::new();
    for (child, dependency) in edges(graph) {
        children.entry(&dependency.job_id).or_default().push((child, dependency));
    }
    let has_parents: BTreeSet<&str> = edges(graph).map(|(child, _)| child).collect();
    let jobs = graph.jobs.iter().map(|job| (job.id.as_str(), job)).collect();
    let mut tree = Tree { jobs, children, shown: BTreeSet::new(), middle, page: String::new() };
    for root in ids(graph).into_iter().filter(|id| !has_parents.contains(id)) {
        tree.show(root);
    }
    tree.page
}

impl<'a> Tree<'a> {
    /// Adds the jobs below a root. The depth is that of the longest chain, which recursion would not bear.
    fn show(&mut self, root: &'a str) {
        // Each with the lines before it, and whether it is the last child of its parent; none for the root.
        let mut open = vec![(root, None::<&JobDependency>, String::new(), None::<bool>)];
        while let Some((id, dependency, before, is_last)) = open.pop() {
            let branch = is_last.map_or("", |is_last| if is_last { "└─ " } else { "├─ " });
            let here = if id == self.middle { "  <" } else { "" };
            let label = dependency.map(label).filter(|label| !label.is_empty());
            let label = label.map(|label| format!(" ({label})")).unwrap_or_default();
            let is_new = self.shown.insert(id);
            let about = if is_new { about(self.jobs.get(id).copied()) } else { "see above".to_owned() };
            // Writing to a string can't fail.
            let _ = writeln!(self.page, "{before}{branch}{} {about}{label}{here}", escape(id));
            if !is_new {
                continue;
            }
            let below = is_last.map_or("", |is_last| if is_last { "   " } else { "│  " });
            let children = self.children.get(id).map(Vec::as_slice).unwrap_or_default();
            for (place, (child, dependency)) in children.iter().enumerate().rev() {
                let is_last = place + 1 == children.len();
                open.push((child, Some(*dependency), format!("{before}{below}"), Some(is_last)));
            }
        }
    }
}

/// Quotes a text for Graphviz and Mermaid, neither of which knows an escape that both understand.
fn quoted(text: &str) -> String {
    format!("\"{}\"", escape(text).replace(['"', '\\'], "'"))
}

/// Formats the graph for Graphviz.
fn dot(graph: &GetJobGraphResponse) -> String {
    let jobs: BTreeMap<&str, &Job> = graph.jobs.iter().map(|job| (job.id.as_str(), job)).collect();
    let mut page = "digraph jobs {\n  rankdir=LR;\n  node [shape=box];\n".to_owned();
    // Writing to a string can't fail.
    for id in ids(graph) {
        let label = format!("{id} {}", about(jobs.get(id).copied()));
        let _ = writeln!(page, "  {} [label={}];", quoted(id), quoted(&label));
    }
    for (child, dependency) in edges(graph) {
        let style = if dependency.optional_edge { ", style=dashed" } else { "" };
        let (parent, label) = (quoted(&dependency.job_id), quoted(&label(dependency)));
        let _ = writeln!(page, "  {parent} -> {} [label={label}{style}];", quoted(child));
    }
    page + "}\n"
}

/// Formats the graph for Mermaid.
fn mermaid(graph: &GetJobGraphResponse) -> String {
    let jobs: BTreeMap<&str, &Job> = graph.jobs.iter().map(|job| (job.id.as_str(), job)).collect();
    let names: BTreeMap<&str, usize> =
        ids(graph).into_iter().enumerate().map(|(name, id)| (id, name)).collect();
    let mut page = "flowchart LR\n".to_owned();
    // Writing to a string can't fail.
    for (id, name) in &names {
        let label = format!("{id} {}", about(jobs.get(id).copied()));
        let _ = writeln!(page, "  j{name}[{}]", quoted(&label));
    }
    for (child, dependency) in edges(graph) {
        let (Some(parent), Some(child)) = (names.get(dependency.job_id.as_str()), names.get(child)) else {
            continue;
        };
        let arrow = if dependency.optional_edge { "-.->" } else { "-->" };
        let label = label(dependency);
        let label = if label.is_empty() { String::new() } else { format!("|{}|", quoted(&label)) };
        let _ = writeln!(page, "  j{parent} {arrow}{label} j{child}");
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use jobmill::proto::v1::{DependencyCondition, JobEdge, JobSpec, JobState};

    fn graph() -> GetJobGraphResponse {
        let job = |id: &str, state: JobState| Job {
            id: id.to_owned(),
            state: state.into(),
            spec: Some(JobSpec { kind: "st\"ep".to_owned(), ..JobSpec::default() }),
            ..Job::default()
        };
        let edge = |child: &str,
                    parent: &str,
                    condition: DependencyCondition,
                    optional_edge,
                    state: DependencyState| JobEdge {
            child_id: child.to_owned(),
            dependency: Some(JobDependency {
                job_id: parent.to_owned(),
                condition: condition.into(),
                optional_edge,
                state: state.into(),
            }),
        };
        use DependencyCondition::{Ended, Succeeded, Unsuccessful};
        GetJobGraphResponse {
            jobs: vec![
                job("06g1", JobState::Succeeded),
                job("06g2", JobState::Running),
                job("06g3", JobState::Blocked),
                job("06g4", JobState::Cancelled),
            ],
            edges: vec![
                edge("06g2", "06g0", Ended, false, DependencyState::Met),
                edge("06g2", "06g1", Succeeded, false, DependencyState::Met),
                edge("06g3", "06g1", Succeeded, true, DependencyState::FallenAway),
                edge("06g3", "06g2", Succeeded, false, DependencyState::Waiting),
                edge("06g4", "06g1", Unsuccessful, false, DependencyState::Impossible),
            ],
            truncated: false,
        }
    }

    #[test]
    fn a_tree_has_each_job_below_one_of_its_parents() {
        insta::assert_snapshot!(tree(&graph(), "06g3"), @r#"
        06g0 deleted
        └─ 06g2 st"ep RUNNING (ended)
           └─ 06g3 st"ep BLOCKED  <
        06g1 st"ep SUCCEEDED
        ├─ 06g2 see above
        ├─ 06g3 see above (optional, fallen away)  <
        └─ 06g4 st"ep CANCELLED (unsuccessful, impossible)
        "#);
    }

    #[test]
    fn graphviz_and_mermaid_get_what_they_read() {
        insta::assert_snapshot!(dot(&graph()), @r#"
        digraph jobs {
          rankdir=LR;
          node [shape=box];
          "06g0" [label="06g0 deleted"];
          "06g1" [label="06g1 st'ep SUCCEEDED"];
          "06g2" [label="06g2 st'ep RUNNING"];
          "06g3" [label="06g3 st'ep BLOCKED"];
          "06g4" [label="06g4 st'ep CANCELLED"];
          "06g0" -> "06g2" [label="ended"];
          "06g1" -> "06g2" [label=""];
          "06g1" -> "06g3" [label="optional, fallen away", style=dashed];
          "06g2" -> "06g3" [label=""];
          "06g1" -> "06g4" [label="unsuccessful, impossible"];
        }
        "#);
        insta::assert_snapshot!(mermaid(&graph()), @r#"
        flowchart LR
          j0["06g0 deleted"]
          j1["06g1 st'ep SUCCEEDED"]
          j2["06g2 st'ep RUNNING"]
          j3["06g3 st'ep BLOCKED"]
          j4["06g4 st'ep CANCELLED"]
          j0 -->|"ended"| j2
          j1 --> j2
          j1 -.->|"optional, fallen away"| j3
          j2 --> j3
          j1 -->|"unsuccessful, impossible"| j4
        "#);
    }
}
