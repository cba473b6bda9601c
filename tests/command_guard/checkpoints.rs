//! Checkpoints of a running command.

use jobmill::{execute::DetachedReport, job::Output};

use crate::{Running, script};

fn checkpoint(number: i64, state: &[u8], commit_now: bool) -> DetachedReport {
    DetachedReport::Checkpoint { number, state: Output::new(state.to_vec()), commit_now }
}

impl Running {
    /// Returns the remaining reports once the command has ended.
    async fn rest(mut self) -> (Vec<DetachedReport>, crate::Outcome) {
        let mut reports = Vec::new();
        while let Some(report) = self.reports.recv().await {
            reports.push(report);
        }
        (reports, self.task.await.unwrap())
    }
}

async fn all(text: &str) -> (Vec<DetachedReport>, crate::Outcome) {
    Running::start(script(text), None).rest().await
}

#[tokio::test]
async fn each_line_is_a_checkpoint_that_is_kept_or_to_be_written_now() {
    let text = r#"
        echo 'keep page 1' >&$JOBMILL_CHECKPOINT_FD
        printf 'commit page %d\n' 2 >&5
        printf 'keep \n' >&5
        printf 'keep \000\377 a\tb\r\n' >&5
    "#;
    let expected = [
        checkpoint(1, b"page 1", false),
        checkpoint(2, b"page 2", true),
        checkpoint(3, b"", false),
        checkpoint(4, b"\0\xff a\tb", false),
    ];
    assert_eq!(all(text).await.0, expected);
}

#[tokio::test]
async fn a_script_waits_until_its_checkpoint_is_on_disk() {
    let text = r#"
        for page in 1 2 3; do
            echo "commit page $page" >&$JOBMILL_CHECKPOINT_FD
            read -r answer <&$JOBMILL_CHECKPOINT_ANSWER_FD
            echo "$answer"
        done
    "#;
    let (reports, outcome) = all(text).await;
    assert_eq!(reports.len(), 3);
    assert_eq!(outcome.unwrap().bytes, "committed 1\ncommitted 2\ncommitted 3\n");
}

#[tokio::test]
async fn a_line_without_its_newline_is_no_checkpoint() {
    let (reports, _) = all("printf 'keep whole\nkeep a part' >&5").await;
    assert_eq!(reports, [checkpoint(1, b"whole", false)]);
    // The same where the command is killed while it writes.
    let mut running = Running::start(script("printf 'keep whole\ncommit a part' >&5; kill -9 $$"), None);
    assert_eq!(running.report().await, checkpoint(1, b"whole", false));
    let (reports, outcome) = running.rest().await;
    assert_eq!((reports, outcome.unwrap_err().failure().exit_code), (vec![], Some(128 + 9)));
}

#[tokio::test]
async fn a_state_may_have_256_kib_and_no_more() {
    let text = r#"
        state() { head -c $1 /dev/zero | tr '\0' x; }
        { printf 'commit '; state 262144; echo; } >&5; read -r answer <&6; echo "$answer"
        { printf 'commit '; state 262145; echo; } >&5; read -r answer <&6; echo "$answer"
        { printf 'keep '; state 9000000; echo; } >&5
        echo 'commit small' >&5; read -r answer <&6; echo "$answer"
    "#;
    let (reports, outcome) = all(text).await;
    let told: Vec<_> = reports
        .iter()
        .map(|report| match report {
            DetachedReport::Checkpoint { number, state, .. } => format!("{number}: {}", state.bytes.len()),
            DetachedReport::OutputLine(line) => String::from_utf8_lossy(line).into_owned(),
            DetachedReport::Progress(progress) => panic!("{progress:?}"),
        })
        .collect();
    let refused =
        "the state has 262145 bytes; at most 262144 are kept: store it elsewhere, and keep a reference";
    assert_eq!(told, ["1: 262144".to_owned(), format!("jobmill: checkpoint: {refused}"), "2: 5".to_owned()]);
    let answers = format!("committed 1\nrefused {refused}\ncommitted 2\n");
    assert_eq!(outcome.unwrap().bytes, answers);
}

#[tokio::test]
async fn a_line_of_another_form_is_told_once_and_ignored() {
    let (reports, outcome) = all("for i in 1 2 3; do echo 'page 21' >&5; done; echo 'keep 4' >&5").await;
    let told = b"jobmill: checkpoint: a line begins with neither `keep ` nor `commit ` and is ignored";
    assert_eq!(reports, [DetachedReport::OutputLine(told.to_vec()), checkpoint(1, b"4", false)]);
    outcome.unwrap();
}

#[tokio::test]
async fn the_earlier_state_is_read_to_its_end_or_not_at_all() {
    // Larger than a pipe holds, and not text.
    let state: Vec<u8> = (0..256 << 10).map(|byte| byte as u8).collect();
    let copy = r#"cat <&$JOBMILL_EARLIER_CHECKPOINT_FD"#;
    for (text, expected) in
        [(copy, &state[..]), ("echo unread", b"unread\n"), ("exec 7<&-; echo closed", b"closed\n")]
    {
        let earlier = Some(Output::new(state.clone()));
        let outcome = Running::start_after(earlier, script(text), None).outcome().await;
        assert_eq!(outcome.unwrap().bytes, expected);
    }
    let none = all("echo ${JOBMILL_EARLIER_CHECKPOINT_FD-none}; cat <&7 2> /dev/null || echo closed").await;
    assert_eq!(none.1.unwrap().bytes, "none\nclosed\n");
    let empty = Running::start_after(Some(Output::default()), script(copy), None).outcome().await;
    assert_eq!(empty.unwrap().bytes, "");
}

#[tokio::test]
async fn a_command_without_checkpoints_may_close_all_descriptors() {
    let (reports, outcome) = all("exec 3>&- 4>&- 5>&- 6<&- 7<&-; echo done").await;
    assert_eq!((reports, outcome.unwrap().bytes), (vec![], "done\n".into()));
}

#[tokio::test]
async fn answers_that_are_not_read_do_not_stop_the_command() {
    let mut running = Running::start(script("yes 'commit x' | head -n 30000 >&5; echo done"), None);
    let mut last = 0;
    while let Some(report) = running.reports.recv().await {
        let DetachedReport::Checkpoint { number, .. } = report else { panic!("{report:?}") };
        assert_eq!(number, last + 1);
        last = number;
    }
    assert_eq!(last, 30_000);
    assert_eq!(running.outcome().await.unwrap().bytes, "done\n");
}

#[tokio::test]
async fn a_flood_of_progress_does_not_keep_checkpoints_out() {
    let text = "yes 0.5 >&3 & for i in 1 2 3; do echo commit $i >&5; read -r answer <&6; done; echo $answer";
    let mut running = Running::start(script(text), None);
    let mut numbers = Vec::new();
    while numbers.len() < 3 {
        match running.report().await {
            DetachedReport::Checkpoint { number, .. } => numbers.push(number),
            DetachedReport::Progress(_) => {}
            DetachedReport::OutputLine(line) => panic!("{line:?}"),
        }
    }
    // The command's first process ends, and its children with it.
    let (_, outcome) = running.rest().await;
    assert_eq!(outcome.unwrap().bytes, "committed 3\n");
}

#[tokio::test]
async fn only_the_commands_own_descriptors_are_open_in_it() {
    let text = "ls /proc/self/fd | sort -n | tr '\\n' ' '";
    if !cfg!(target_os = "linux") {
        return;
    }
    // One more is the folder that `ls` reads.
    let outcome = Running::start_after(Some(Output::new("x")), script(text), None).outcome().await;
    let open = String::from_utf8(outcome.unwrap().bytes.to_vec()).unwrap();
    assert_eq!(open, "0 1 2 3 4 5 6 7 ", "4 is the folder: there is no lock here");
}
