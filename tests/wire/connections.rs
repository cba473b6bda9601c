//! Connections: their limit, the deadline for their first bytes, and the fate of the rest. Whatever strangers do,
//! connected clients are served.

use std::{process::Stdio, time::Duration};

use jobmill::{listen::RefusalReason, settings::LimitSettings};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

use crate::{
    frames::PREFACE,
    support::{Rig, job, memory, simple, soon},
};

async fn rig(change: impl FnOnce(&mut LimitSettings)) -> Rig {
    let mut settings = memory();
    change(&mut settings.limits);
    Rig::start(simple(settings)).await
}

async fn stranger(rig: &Rig) -> TcpStream {
    soon(TcpStream::connect(rig.address())).await.unwrap()
}

/// Returns once the server has closed the connection.
async fn closed(mut stranger: TcpStream) {
    // An end or a reset both mean that the connection is closed.
    let _ = soon(stranger.read_to_end(&mut Vec::new())).await;
}

/// Returns once the server's counts fulfil a condition.
async fn counted(rig: &Rig, count: impl Fn(&jobmill::listen::ListenStats) -> bool) {
    let stats = rig.connections();
    soon(async {
        while !count(&stats) {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_connection_that_sends_nothing_in_time_is_closed() {
    let rig = rig(|limits| limits.handshake_timeout = Duration::from_millis(100)).await;
    let silent = stranger(&rig).await;
    let mut slow = stranger(&rig).await;
    slow.write_all(&PREFACE[..10]).await.unwrap();
    closed(silent).await;
    closed(slow).await;
    counted(&rig, |stats| stats.refused_total(RefusalReason::TooSlow) == 2 && stats.open() == 1).await;
    // The connection that has spoken stays open, though the deadline for its first bytes is long over.
    rig.submit(job("echo")).await;
    rig.stop().await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_probe_that_connects_and_closes_is_counted_and_writes_no_line_above_debug() {
    const PROBES: usize = 20;
    let mut server = tokio::process::Command::new(env!("CARGO_BIN_EXE_jobmill"))
        .args([
            "serve",
            "--memory",
            "--listen",
            "127.0.0.1:0",
            "--metrics-listen",
            "127.0.0.1:0",
            "--log",
            "info",
        ])
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(server.stdout.take().unwrap()).lines();
    let mut line = async || soon(stdout.next_line()).await.unwrap().expect("a server that starts");
    let address = line().await.split(' ').nth(3).unwrap().to_owned();
    let metrics = line().await;
    let metrics = metrics.split('/').nth(2).unwrap().parse().unwrap();
    for n in 0..PROBES {
        let probe = soon(TcpStream::connect(&address)).await.unwrap();
        if n % 2 == 0 {
            // Closed with a reset, as load balancers do.
            probe.set_zero_linger().unwrap();
        }
    }
    let counted = async {
        while !crate::metrics::get(metrics, "/metrics")
            .await
            .body
            .contains(&format!("jobmill_connections_refused_total{{reason=\"left\"}} {PROBES}\n"))
        {}
    };
    soon(counted).await;
    kill_process(Pid::from_raw(server.id().unwrap() as i32).unwrap(), Signal::TERM).unwrap();
    let mut log = String::new();
    soon(server.stderr.take().unwrap().read_to_string(&mut log)).await.unwrap();
    assert!(log.contains("draining") && !log.contains("connection"), "{log}");
    soon(server.wait()).await.unwrap();
}

#[tokio::test]
async fn over_the_limit_connections_are_closed_and_those_before_are_served() {
    let rig = rig(|limits| limits.connections = 3).await;
    let mut guests = Vec::new();
    for _ in 0..2 {
        let guest = Rig::connect(&rig.address().to_string()).await;
        guest.total().await;
        guests.push(guest);
    }
    rig.total().await;
    counted(&rig, |stats| stats.open() == 3 && stats.pending() == 0).await;
    for _ in 0..100 {
        closed(stranger(&rig).await).await;
    }
    rig.submit(job("echo")).await;
    assert_eq!(rig.connections().refused_total(RefusalReason::TooMany), 100);
    assert_eq!(rig.connections().accepted_total(), 103);
    assert_eq!(rig.metric(r#"jobmill_connections_refused_total{reason="too_many"}"#).await, 100.0);
    assert_eq!(rig.metric("jobmill_connections_accepted_total").await, 103.0);
    // A connection that closes makes room for another one.
    guests.pop();
    counted(&rig, |stats| stats.open() == 2).await;
    assert_eq!(rig.metric("jobmill_connections").await, 2.0);
    Rig::connect(&rig.address().to_string()).await.submit(job("echo")).await;
    rig.stop().await;
}

#[tokio::test]
async fn a_flood_of_silent_connections_keeps_no_client_out() {
    let rig = rig(|limits| {
        limits.connections = 20;
        limits.handshakes = 10;
    })
    .await;
    let mut flood = Vec::new();
    for _ in 0..200 {
        flood.push(stranger(&rig).await);
    }
    counted(&rig, |stats| stats.accepted_total() == 201).await;
    let newcomer = Rig::connect(&rig.address().to_string()).await;
    newcomer.submit(job("echo")).await;
    rig.submit(job("echo")).await;
    counted(&rig, |stats| stats.refused_total(RefusalReason::GaveWay) >= 190).await;
    assert!(rig.connections().pending() <= 10);
    assert_eq!(rig.connections().refused_total(RefusalReason::TooMany), 0);
    // The oldest connection of the flood was closed.
    closed(flood.swap_remove(0)).await;
    rig.stop().await;
}

#[tokio::test]
async fn connections_without_an_admitted_call_make_room() {
    let rig = rig(|limits| limits.connections = 5).await;
    rig.total().await;
    // They complete the HTTP/2 handshake, and make no call.
    let mut flood = Vec::new();
    for n in 2..=5 {
        let mut idler = stranger(&rig).await;
        idler.write_all(&[PREFACE, &[0, 0, 0, 4, 0, 0, 0, 0, 0]].concat()).await.unwrap();
        counted(&rig, |stats| stats.open() == n && stats.pending() == 0).await;
        flood.push(idler);
    }
    let newcomer = Rig::connect(&rig.address().to_string()).await;
    newcomer.submit(job("echo")).await;
    // The oldest one was closed. A connection that has made a call stays, however long ago that was.
    closed(flood.remove(0)).await;
    for _ in 0..50 {
        let mut idler = stranger(&rig).await;
        idler.write_all(PREFACE).await.unwrap();
        flood.push(idler);
    }
    counted(&rig, |stats| stats.accepted_total() == 56).await;
    rig.submit(job("echo")).await;
    newcomer.submit(job("echo")).await;
    assert_eq!(rig.connections().refused_total(RefusalReason::TooMany), 0);
    rig.stop().await;
}

#[tokio::test]
async fn silent_connections_at_the_limit_make_room() {
    let rig = rig(|limits| limits.connections = 5).await;
    let mut flood = Vec::new();
    for _ in 0..50 {
        flood.push(stranger(&rig).await);
    }
    counted(&rig, |stats| stats.accepted_total() == 51).await;
    Rig::connect(&rig.address().to_string()).await.submit(job("echo")).await;
    rig.stop().await;
}

#[tokio::test]
async fn calls_over_a_connections_limit_wait_at_the_client() {
    let rig = rig(|limits| limits.streams_per_connection = 2).await;
    let ids = [rig.submit(job("echo")).await.id, rig.submit(job("echo")).await.id];
    let all =
        || jobmill::proto::v1::WatchStatusRequest { filter: Some(Default::default()), ..Default::default() };
    let watches = [rig.watch(all()).await, rig.watch(all()).await];
    let request = jobmill::proto::v1::GetJobRequest { id: ids[0].clone(), ..Default::default() };
    let mut jobs = rig.jobs.clone();
    let third = tokio::spawn(async move { jobs.get_job(request).await });
    // Another connection is served meanwhile.
    let other = Rig::connect(&rig.address().to_string()).await;
    other.get(&ids[1]).await;
    assert!(!third.is_finished());
    drop(watches);
    soon(third).await.unwrap().expect("served once there is room");
    rig.stop().await;
}

#[cfg(target_os = "linux")]
mod descriptors {
    use std::fs;

    use rustix::process::{Pid, Resource, Rlimit, prlimit};

    use super::*;
    use crate::support::Process;

    const CONFIGURATION: &str = "
        limits.handshake_timeout = '500ms'
        [kinds.true]
        command = ['true']
    ";

    fn descriptors(pid: Pid) -> u64 {
        fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero())).unwrap().count() as u64
    }

    /// Returns the CPU time of a process, in hundredths of a second.
    fn ticks(pid: Pid) -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap();
        let fields: Vec<_> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }

    #[tokio::test]
    async fn a_server_without_file_descriptors_rests_and_recovers() {
        let home = tempfile::tempdir().unwrap();
        let configuration = home.path().join("jobmill.toml");
        fs::write(&configuration, CONFIGURATION).unwrap();
        let mut process = Process::start(&configuration, &home.path().join("data"), &[]).await;
        let pid = process.pid();
        let rig = Rig::connect(&process.address).await;
        rig.submit(job("true")).await;
        let limit = descriptors(pid) + 10;
        let whole = rustix::process::getrlimit(Resource::Nofile);
        let before =
            prlimit(Some(pid), Resource::Nofile, Rlimit { current: Some(limit), maximum: whole.maximum })
                .unwrap();
        let mut flood = Vec::new();
        for _ in 0..50 {
            flood.push(soon(TcpStream::connect(&process.address)).await.unwrap());
        }
        soon(async {
            while descriptors(pid) < limit {
                tokio::task::yield_now().await;
            }
        })
        .await;
        let computed = ticks(pid);
        // Existing connections are served. The last one of the flood is accepted, and cut, only after those before it.
        assert_eq!(rig.total().await, 1);
        closed(flood.pop().unwrap()).await;
        // 50 connections, ten at a time, each for half a second: no descriptor was free for most of that time.
        let computed = ticks(pid) - computed;
        assert!(computed < 100, "computed {computed} hundredths of a second");
        prlimit(Some(pid), Resource::Nofile, before).unwrap();
        Rig::connect(&process.address).await.submit(job("true")).await;
        process.signal(rustix::process::Signal::TERM);
        soon(process.exit()).await;
    }
}
