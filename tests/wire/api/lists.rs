//! Pagination of ListQueues.

use jobmill::proto::v1;
use tonic::{Code, Status};

use crate::support::{Rig, refusal, soon};

async fn page(rig: &Rig, page_size: i32, page_token: &str) -> Result<v1::ListQueuesResponse, Status> {
    let request =
        v1::ListQueuesRequest { page_size, page_token: page_token.to_owned(), ..Default::default() };
    soon(rig.queues.clone().list_queues(request)).await.map(tonic::Response::into_inner)
}

fn names(page: &v1::ListQueuesResponse) -> Vec<String> {
    page.queues.iter().map(|queue| queue.name.clone()).collect()
}

async fn create(rig: &Rig, name: &str) {
    let settings = Some(v1::QueueSettings { consumers: Some(0), ..Default::default() });
    let request = v1::CreateQueueRequest { name: name.to_owned(), settings, ..Default::default() };
    soon(rig.queues.clone().create_queue(request)).await.unwrap();
}

/// Starts a server with `count` queues in all; returns it with their names in order.
async fn with_queues(count: usize) -> (Rig, Vec<String>) {
    let rig = Rig::simple().await;
    let mut all = vec!["default".to_owned()];
    for n in 1..count {
        // The names are created out of order, and some of them sort before `default`.
        let name = format!("{}{n}", ["z", "a", "m"][n % 3]);
        create(&rig, &name).await;
        all.push(name);
    }
    all.sort_unstable();
    (rig, all)
}

#[tokio::test]
async fn queues_come_by_name_in_pages_without_gaps() {
    let (rig, all) = with_queues(7).await;
    for page_size in [1, 2, 3, 6, 7, 8] {
        let (mut found, mut token) = (Vec::new(), String::new());
        loop {
            let page = page(&rig, page_size, &token).await.unwrap();
            assert!(page.queues.len() <= page_size as usize);
            found.extend(names(&page));
            token = page.next_page_token;
            if token.is_empty() {
                break;
            }
        }
        assert_eq!(found, all, "pages of {page_size}");
    }
    rig.stop().await;
}

#[tokio::test]
async fn a_page_has_100_queues_unless_another_number_is_asked_for_and_1000_at_most() {
    let (rig, all) = with_queues(103).await;
    let first = page(&rig, 0, "").await.unwrap();
    assert_eq!(names(&first), all[..100]);
    // The next page may have another size.
    let second = page(&rig, 2, &first.next_page_token).await.unwrap();
    assert_eq!(names(&second), all[100..102]);
    let third = page(&rig, 0, &second.next_page_token).await.unwrap();
    assert_eq!((names(&third), third.next_page_token.as_str()), (all[102..].to_vec(), ""));
    for n in all.len()..1_000 {
        create(&rig, &format!("more-{n}")).await;
    }
    let whole = page(&rig, i32::MAX, "").await.unwrap();
    assert_eq!((whole.queues.len(), whole.next_page_token.as_str()), (1_000, ""));
    rig.stop().await;
}

#[tokio::test]
async fn what_is_made_or_deleted_between_pages_hides_nothing_else() {
    let (rig, all) = with_queues(4).await;
    let first = page(&rig, 2, "").await.unwrap();
    assert_eq!(names(&first), all[..2]);
    // Deletes a queue that was listed already and sorts before the next page.
    let request = v1::DeleteQueueRequest { name: all[0].clone(), ..Default::default() };
    soon(rig.queues.clone().delete_queue(request)).await.unwrap();
    create(&rig, "0-first").await;
    create(&rig, "zz-last").await;
    let rest = page(&rig, 0, &first.next_page_token).await.unwrap();
    assert_eq!(names(&rest), [all[2].as_str(), all[3].as_str(), "zz-last"]);
    rig.stop().await;
}

#[tokio::test]
async fn invalid_page_sizes_and_tokens_are_refused() {
    let (rig, _) = with_queues(3).await;
    let token = page(&rig, 1, "").await.unwrap().next_page_token;
    let job_token = {
        rig.submit_batch(vec![crate::support::job("echo"); 2]).await;
        let request = v1::ListJobsRequest { page_size: 1, ..Default::default() };
        soon(rig.jobs.clone().list_jobs(request)).await.unwrap().into_inner().next_page_token
    };
    for (what, size, token, field) in [
        ("a negative size", -1, "", "page_size"),
        ("garbage", 1, "garbage", "page_token"),
        ("no text of a token", 1, "\u{202e}\0", "page_token"),
        ("cut short", 1, &token[..token.len() - 1], "page_token"),
        ("a token of jobs", 1, &job_token, "page_token"),
    ] {
        let refused = refusal(&page(&rig, size, token).await.unwrap_err());
        assert_eq!((refused.code, refused.fields), (Code::InvalidArgument, vec![field.to_owned()]), "{what}");
    }
    rig.stop().await;
}
