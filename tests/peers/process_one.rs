//! A server that is process 1, as in a container. Needs root.

use std::{
    fs,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use jobmill::{
    client::{Client, WatchItem},
    proto::v1::{self, JobState, watch_event::Event},
};
use rustix::process::{Pid, Signal, kill_process};

/// Timeout of a test's waits, far longer than any machine needs.
const TEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Two commands. The first kills its guard and leaves processes of all kinds behind: itself, a child in its process
/// group, and a child that has left the group and holds nothing open. The second returns once none of them exists, not
/// even as a zombie.
const CONFIGURATION: &str = r#"
    [queues.default]
    consumers = 1

    [kinds.orphan]
    command = ["/bin/sh", "-c", """
        sleep 1000 &
        echo $! > child
        setsid sh -c 'echo $$ > escaped; until [ -e go ]; do sleep 0.01; done' < /dev/null > escaped.out 2>&1 3>&- 4>&- &
        until [ -s escaped ]; do sleep 0.01; done
        echo $$ > leader
        kill -KILL $PPID
        exec sleep 1000
    """]
    working_dir = "HOME"
    max_attempts = 1

    [kinds.look]
    command = ["/bin/sh", "-c", """
        touch go
        for name in child escaped leader; do
            while [ -e /proc/$(cat $name) ]; do sleep 0.01; done
        done
    """]
    working_dir = "HOME"
"#;

/// A server as process 1 of a namespace of its own.
struct Container {
    unshare: Child,
    port: PathBuf,
}

impl Container {
    fn start(home: &Path) -> Self {
        let configuration = home.join("jobmill.toml");
        fs::write(&configuration, CONFIGURATION.replace("HOME", home.to_str().unwrap())).unwrap();
        let port = home.join("port");
        let unshare = Command::new("unshare")
            .args(["--pid", "--fork", "--mount-proc", "--kill-child"])
            .arg(env!("CARGO_BIN_EXE_jobmill"))
            .args(["serve", "--listen", "127.0.0.1:0", "--log", "error"])
            .arg("--config")
            .arg(&configuration)
            .arg("--data-dir")
            .arg(home.join("data"))
            .arg("--port-file")
            .arg(&port)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Container { unshare, port }
    }

    /// Returns a client once the server listens.
    async fn client(&self) -> Client {
        let mut address = String::new();
        until(|| {
            address = fs::read_to_string(&self.port).unwrap_or_default();
            !address.is_empty()
        });
        Client::connect(address.trim()).await.unwrap()
    }

    /// Returns the pid of the namespace's first process, as seen from outside.
    fn first(&self) -> Pid {
        children(Pid::from_child(&self.unshare))[0]
    }

    fn exit_code(mut self) -> Option<i32> {
        let status = self.unshare.wait().unwrap();
        status.code().or(status.signal().map(|signal| 128 + signal))
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
    }
}

fn children(process: Pid) -> Vec<Pid> {
    let listed = fs::read_to_string(format!("/proc/{process}/task/{process}/children")).unwrap();
    listed.split_ascii_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect()
}

/// Polls until a condition holds.
fn until(mut what: impl FnMut() -> bool) {
    let pause = Duration::from_millis(1);
    let mut left = TEST_TIMEOUT;
    while !what() {
        std::thread::sleep(pause);
        left = left.checked_sub(pause).expect("it is so in time");
    }
}

/// Runs a job to its end.
async fn run(client: &Client, kind: &str) -> JobState {
    let job = v1::JobSpec { queue: "default".to_owned(), kind: kind.to_owned(), ..Default::default() };
    let id = client.submit(job).await.unwrap().id().to_owned();
    let mut watch = client.watch(v1::WatchStatusRequest { ids: vec![id], ..Default::default() });
    let ends = async {
        while let Some(item) = watch.next().await {
            if let WatchItem::Event { event: Event::Snapshot(job), .. }
            | WatchItem::Event { event: Event::Updated(v1::JobUpdated { job: Some(job), .. }), .. } =
                item.unwrap()
                && job.done
            {
                return job.state();
            }
        }
        panic!("the watch ended before its job");
    };
    tokio::time::timeout(TEST_TIMEOUT, ends).await.expect("the job ends in time")
}

#[tokio::test]
async fn nothing_is_left_of_a_command_whose_guard_was_killed_where_the_server_is_process_1() {
    let home = tempfile::tempdir().unwrap();
    let container = Container::start(home.path());
    let client = container.client().await;
    assert_eq!(run(&client, "orphan").await, JobState::Failed);
    assert_eq!(run(&client, "look").await, JobState::Succeeded);
}

#[tokio::test]
async fn a_server_that_is_process_1_drains_when_it_is_asked_to_and_its_exit_code_is_that_of_the_whole() {
    let home = tempfile::tempdir().unwrap();
    let container = Container::start(home.path());
    container.client().await;
    kill_process(container.first(), Signal::TERM).unwrap();
    assert_eq!(container.exit_code(), Some(0));

    // A file is in the place of the data folder.
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("data"), "").unwrap();
    assert_eq!(Container::start(home.path()).exit_code(), Some(1));

    // Kills the server with SIGKILL, as the kernel's OOM killer does.
    let home = tempfile::tempdir().unwrap();
    let container = Container::start(home.path());
    container.client().await;
    kill_process(children(container.first())[0], Signal::KILL).unwrap();
    assert_eq!(container.exit_code(), Some(137));
}
